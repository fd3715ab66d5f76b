/* SPDX-License-Identifier: Apache-2.0 */
/* The last step of an allowed packet: to an endpoint of this node, to another node, or to the host's stack. */
#ifndef DELIVER_H
#define DELIVER_H

#include "drop.h"
#include "endpoints.h"
#include "geneve.h"
#include "runtime.h"
#include "tunnel.h"

/* One hop less; false when none is left. IPv4's checksum follows (RFC 1624). */
static __always_inline bool take_hop4(struct iphdr *ip)
{
	__u32 check;

	if (ip->ttl <= 1)
		return false;
	ip->ttl--;
	check = ip->check + bpf_htons(0x0100);
	ip->check = check + (check >= 0xffff);
	return true;
}

static __always_inline bool take_hop6(struct ipv6hdr *ip)
{
	if (ip->hop_limit <= 1)
		return false;
	ip->hop_limit--;
	return true;
}

/* What leaves a container for elsewhere; the stack routes it. */
static __always_inline int deliver_to_stack(struct __sk_buff *skb)
{
	count(REASON_FORWARDED, DIRECTION_EGRESS, skb->len);
	return TC_ACT_OK;
}

/*
 * Straight into the other container, past the host's stack. With no hop left the stack gets it instead: it answers with
 * the ICMP error, which comes back to the sender as related to its flow.
 */
static __always_inline int deliver_local(struct __sk_buff *skb, struct packet *p, const struct endpoint *to, __u32 slot,
					 const __u32 directions, bool v6)
{
	struct ethhdr *eth = packet_start(skb);
	void *ip = eth + 1;

	if (ip + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > packet_end(skb))
		return drop(skb, p, DROP_INVALID_PACKET);
	if (unlikely(!(v6 ? take_hop6(ip) : take_hop4(ip))))
		return deliver_to_stack(skb);
	memcpy(eth->h_dest, to->mac, ETH_ALEN);
	memcpy(eth->h_source, to->node_mac, ETH_ALEN);
	count(REASON_FORWARDED, directions, skb->len);
	return bpf_redirect_peer(ifindex_of_slot(slot), 0);
}

/* Where the length of a TCP header is told, in the upper four bits in units of 4. */
#define TCP_LENGTH_AT 12

/* What a packet that will be cut into segments has of IP in each: the headers and the segment. */
static __always_inline __u32 segment_length(struct __sk_buff *skb, const struct packet *p)
{
	__u8 length = 0;

	if (p->protocol != IPPROTO_TCP)
		return p->transport - ETH_HLEN + 8 + skb->gso_size;
	bpf_skb_load_bytes(skb, p->transport + TCP_LENGTH_AT, &length, sizeof(length));
	return p->transport - ETH_HLEN + (length >> 4) * 4 + skb->gso_size;
}

/*
 * To another node's pod where no tunnel leads there, or an answer of a service: by the host's routes, but past its stack.
 * Whatever they have no plain answer for is the stack's: no hop left, too large, no route. But not what has the host's own
 * address already, which the stack would take from nobody.
 */
__noinline int deliver_direct(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_redir_neigh next_hop = {};
	struct bpf_fib_lookup lookup = {};
	void *ip;
	bool v6;
	long found;

	if (!p)
		return TC_ACT_SHOT;
	v6 = is_ipv6(p);
	lookup.l4_protocol = p->protocol;
	lookup.tot_len = skb->gso_size ? segment_length(skb, p) : skb->len - ETH_HLEN;
	lookup.ifindex = skb->ifindex;
	if (v6) {
		lookup.family = ADDRESS_FAMILY_IPV6;
		memcpy(lookup.ipv6_src, &p->source, sizeof(lookup.ipv6_src));
		memcpy(lookup.ipv6_dst, &p->destination, sizeof(lookup.ipv6_dst));
	} else {
		lookup.family = ADDRESS_FAMILY_IPV4;
		lookup.ipv4_src = p->source.v4;
		lookup.ipv4_dst = p->destination.v4;
	}
	found = bpf_fib_lookup(skb, &lookup, sizeof(lookup), 0);
	if (unlikely(found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)) {
		if (!p->as_host)
			return deliver_to_stack(skb);
		return drop(skb, p, found == BPF_FIB_LKUP_RET_FRAG_NEEDED ? DROP_TOO_LONG : DROP_NO_FIB);
	}
	ip = packet_start(skb) + ETH_HLEN;
	if (ip + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > packet_end(skb))
		return drop(skb, p, DROP_INVALID_PACKET);
	if (unlikely(!(v6 ? take_hop6(ip) : take_hop4(ip))))
		return p->as_host ? drop(skb, p, DROP_TTL_EXCEEDED) : deliver_to_stack(skb);
	next_hop.nh_family = lookup.family;
	if (lookup.family == ADDRESS_FAMILY_IPV4)
		next_hop.ipv4_nh = lookup.ipv4_dst;
	else
		memcpy(next_hop.ipv6_nh, lookup.ipv6_dst, sizeof(next_hop.ipv6_nh));
	count(REASON_FORWARDED, DIRECTION_EGRESS, skb->len);
	/* Not by the hardware address that was found: who sends by it keeps the neighbour's entry alive, and asks anew. */
	return bpf_redirect_neigh(lookup.ifindex, &next_hop, sizeof(next_hop), 0);
}

/* Whether the packet, or a segment of it, is longer than the largest that the tunnel takes. */
static __always_inline bool is_longer_than_tunnel(struct __sk_buff *skb, const struct packet *p)
{
	const struct runtime *run = runtime();
	const __u32 mtu = run ? run->tunnel_mtu : 0;

	if (!mtu || skb->len <= ETH_HLEN + mtu)
		return false;
	return !skb->gso_size || segment_length(skb, p) > mtu;
}

/*
 * Whether the tunnel takes no packet as large. Pieces of datagrams go on as they are, in outer pieces where the underlay
 * makes some: the stack might wait for all pieces of a datagram, and the last one is never too large.
 */
static __always_inline bool exceeds_tunnel(struct __sk_buff *skb, const struct packet *p)
{
	return !p->fragment && is_longer_than_tunnel(skb, p);
}

/*
 * Into the tunnel, to the node that the destination is behind; the sender's identity goes with it. One hop less, as
 * between two containers here. What is too large for the tunnel goes to the stack, as what has no hop left: its route to
 * that prefix leads into the same device, so it answers with the ICMP error, or cuts the packet up.
 */
__noinline int deliver_to_node(struct __sk_buff *skb, struct packet *p)
{
	const struct vtep *vtep;
	void *ip;
	bool v6;

	if (!p)
		return TC_ACT_SHOT;
	v6 = is_ipv6(p);
	/* What may be cut and is no container's goes in one piece, in outer pieces: nobody else could cut it. */
	if (unlikely(!p->as_host && exceeds_tunnel(skb, p)))
		return deliver_to_stack(skb);
	ip = packet_start(skb) + ETH_HLEN;
	if (ip + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > packet_end(skb))
		return drop(skb, p, DROP_INVALID_PACKET);
	if (unlikely(!(v6 ? take_hop6(ip) : take_hop4(ip))))
		return p->as_host ? drop(skb, p, DROP_TTL_EXCEEDED) : deliver_to_stack(skb);
	if (geneve == GENEVE_PROGRAMS)
		return geneve_send(skb, p);
	vtep = tunnel_find(&p->destination, p->family);
	if (!vtep)
		return drop(skb, p, DROP_UNROUTABLE);
	if (unlikely(tunnel_address(skb, vtep, p->source_identity)))
		return drop(skb, p, DROP_WRITE_ERROR);
	count(REASON_FORWARDED, DIRECTION_EGRESS, skb->len);
	return bpf_redirect(tunnel_ifindex(), 0);
}

#endif

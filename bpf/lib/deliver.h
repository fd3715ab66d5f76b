/* SPDX-License-Identifier: Apache-2.0 */
/* The last step of an allowed packet: to an endpoint of this node, to another node, or to the host's stack. */
#ifndef DELIVER_H
#define DELIVER_H

#include "drop.h"
#include "endpoints.h"
#include "geneve.h"
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

/*
 * Into the tunnel, to the node that the destination is behind; the sender's identity goes with it. One hop less, as
 * between two containers here.
 */
__noinline int deliver_to_node(struct __sk_buff *skb, struct packet *p)
{
	const struct vtep *vtep;
	void *ip;
	bool v6;

	if (!p)
		return TC_ACT_SHOT;
	v6 = is_ipv6(p);
	ip = packet_start(skb) + ETH_HLEN;
	if (ip + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > packet_end(skb))
		return drop(skb, p, DROP_INVALID_PACKET);
	if (unlikely(!(v6 ? take_hop6(ip) : take_hop4(ip))))
		return deliver_to_stack(skb);
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

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Geneve (RFC 8926) where the kernel has no device for it: these programs write the outer headers and take them off.
 *
 *     Ethernet | IPv4 or IPv6 | UDP | Geneve | options | Ethernet | IP ...
 *
 * Owns the format of the outer headers and the way to the next hop. Who is believed is tunnel.h's; what becomes of a
 * packet that was taken out is overlay.h's.
 */
#ifndef GENEVE_H
#define GENEVE_H

#include "drop.h"
#include "ipcache.h"
#include "parse.h"
#include "runtime.h"
#include "tunnel.h"

#include <linux/udp.h>

#define ADDRESS_FAMILY_IPV4 2 /* AF_INET */
#define ADDRESS_FAMILY_IPV6 10 /* AF_INET6 */
#define LOOPBACK_IFINDEX 1

/* Of kernel 6.3, newer than some headers that this is compiled with. */
#define ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7)
#define ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)

#define IPV4_DONT_FRAGMENT 0x4000
#define ECN_MASK 3
#define ECN_CONGESTED 3

#define GENEVE_VERSION_MASK 0xc0
#define GENEVE_OPTIONS_MASK 0x3f /* their length in units of 4 bytes */
#define GENEVE_CONTROL 0x80 /* no packet of anybody's is in it */
#define GENEVE_CRITICAL 0x40 /* some option must be understood; none is */
#define GENEVE_ETHERNET 0x6558

/* Beside the reasons to drop: no packet of this node's tunnel. */
#define NOT_TUNNELLED (-1)

/* Marks a packet that was taken out of Geneve and goes to the host's stack by the tunnel device. "ci" in ASCII. */
#define MARK_OPENED 0x6369

struct geneve_header {
	__u8 options; /* version, length of the options */
	__u8 flags;
	__be16 protocol;
	__be32 identifier; /* the network's, in the upper 24 bits */
};

/* What stands between the outer IP header and the inner one. */
struct geneve_wrapping {
	struct udphdr udp;
	struct geneve_header header;
	struct ethhdr ethernet;
};
#define GENEVE_WRAPPING (offsetof(struct geneve_wrapping, ethernet) + ETH_HLEN)

struct geneve_outer4 {
	struct iphdr ip;
	struct geneve_wrapping wrapping;
};

struct geneve_outer6 {
	struct ipv6hdr ip;
	struct geneve_wrapping wrapping;
};

/* A frame that was found to be one of the tunnel. */
struct geneve_found {
	struct ipcache_key from;
	__u16 at; /* of the Geneve header */
	__u8 congested; /* bool: a router on the way said so */
	__u8 piece; /* bool: the datagram is in pieces */
};

static __always_inline __u8 ecn_of(const void *ip, bool v6)
{
	const __u8 *bytes = ip;

	return (v6 ? bytes[1] >> 4 : bytes[1]) & ECN_MASK;
}

static __always_inline __u16 checksum4(const void *ip)
{
	const __u16 *words = ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < (int)(sizeof(struct iphdr) / sizeof(*words)); i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

/* The sender's port differs by flow: routers and receive queues spread by it. `length`: of the UDP datagram. */
static __always_inline void geneve_wrap(struct geneve_wrapping *w, const struct packet *p, __u32 hash, __u32 length)
{
	w->udp.source = bpf_htons(0xc000 | (hash & 0x3fff));
	w->udp.dest = bpf_htons(geneve_port);
	w->udp.len = bpf_htons(length);
	w->header.protocol = bpf_htons(GENEVE_ETHERNET);
	w->header.identifier = bpf_htonl(p->source_identity << 8);
}

/*
 * Makes room behind the Ethernet header, which stays in front and becomes the outer one. The kernel is told that this is
 * a UDP tunnel so that it can cut large packets later; of the inner layer 2 only the Ethernet header counts for that. A
 * packet that is a tunnel's already (a container may have one of its own) can only be carried if nothing is to be cut.
 * Unless it was taken out of ours just now: then the kernel still has it as one, with the inner headers where they are.
 */
static __always_inline bool geneve_room(struct __sk_buff *skb, const struct packet *p, __u32 bytes, const bool outer6)
{
	const bool inner6 = is_ipv6(p);
	const __u64 tunnel = BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH |
			     BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) |
			     (outer6 ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);

	if (likely(!bpf_skb_adjust_room(skb, bytes, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO | tunnel)))
		return true;
	if (p->point != POINT_FROM_OVERLAY && (skb->gso_size || outer6 != inner6))
		return false;
	if (outer6 == inner6)
		return !bpf_skb_adjust_room(skb, bytes, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO);
	/* Only what takes headers away may change the family: some more are put there, to be taken away again. */
	return !bpf_skb_adjust_room(skb, bytes + sizeof(struct ipv6hdr), BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO) &&
	       !bpf_skb_adjust_room(skb, -(__s32)sizeof(struct ipv6hdr), BPF_ADJ_ROOM_MAC,
				    BPF_F_ADJ_ROOM_FIXED_GSO | (outer6 ? ADJ_ROOM_DECAP_L3_IPV6 : ADJ_ROOM_DECAP_L3_IPV4));
}

/* Writes the outer headers over IPv4. 0, or the reason to drop. */
static __always_inline __u32 geneve_write4(struct __sk_buff *skb, const struct packet *p, const struct ethhdr *inner,
					   __u8 ecn, __be32 source, __be32 to)
{
	const __u32 room = sizeof(struct iphdr) + GENEVE_WRAPPING;
	const __u32 total = room + skb->len - ETH_HLEN;
	const __u32 hash = bpf_get_hash_recalc(skb);
	struct geneve_outer4 outer = {
		.ip = { .version = 4, .ihl = 5, .tos = ecn, .ttl = TUNNEL_HOPS, .protocol = IPPROTO_UDP, .saddr = source, .daddr = to },
		.wrapping.ethernet = *inner,
	};

	outer.ip.tot_len = bpf_htons(total);
	outer.ip.frag_off = bpf_htons(IPV4_DONT_FRAGMENT);
	outer.ip.check = checksum4(&outer.ip);
	geneve_wrap(&outer.wrapping, p, hash, total - sizeof(struct iphdr));
	if (!geneve_room(skb, p, room, false))
		return DROP_WRITE_ERROR;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &outer, room, 0) ? DROP_WRITE_ERROR : 0;
}

/* The same over IPv6. A UDP checksum of 0 is as good as in RFC 6935: what is inside has its own. */
static __always_inline __u32 geneve_write6(struct __sk_buff *skb, const struct packet *p, const struct ethhdr *inner,
					   __u8 ecn, const void *source, const void *to)
{
	const __u32 room = sizeof(struct ipv6hdr) + GENEVE_WRAPPING;
	const __u32 length = GENEVE_WRAPPING + skb->len - ETH_HLEN;
	const __u32 hash = bpf_get_hash_recalc(skb);
	struct geneve_outer6 outer = {
		.ip = { .version = 6, .nexthdr = IPPROTO_UDP, .hop_limit = TUNNEL_HOPS },
		.wrapping.ethernet = *inner,
	};

	outer.ip.flow_lbl[0] = ecn << 4;
	outer.ip.payload_len = bpf_htons(length);
	memcpy(&outer.ip.saddr, source, sizeof(outer.ip.saddr));
	memcpy(&outer.ip.daddr, to, sizeof(outer.ip.daddr));
	geneve_wrap(&outer.wrapping, p, hash, length);
	if (!geneve_room(skb, p, room, true))
		return DROP_WRITE_ERROR;
	return bpf_skb_store_bytes(skb, ETH_HLEN, &outer, room, 0) ? DROP_WRITE_ERROR : 0;
}

/*
 * Writes the outer headers of a packet to the node that its destination is behind, as p->source_identity. 0, or the
 * reason to drop.
 */
__noinline int geneve_write(struct __sk_buff *skb, struct packet *p)
{
	const struct runtime *run = runtime();
	struct ethhdr *frame = packet_start(skb);
	const struct vtep *to;
	struct ethhdr inner;
	__u32 reason;
	__be16 type;
	__u8 ecn;

	if (!p || !run || (void *)(frame + 1) + sizeof(struct iphdr) > packet_end(skb))
		return DROP_INVALID_PACKET;
	to = tunnel_find(&p->destination, p->family);
	if (!to)
		return DROP_UNROUTABLE;
	inner = *frame;
	ecn = ecn_of(frame + 1, is_ipv6(p));
	if (to->family == FAMILY_IPV6) {
		type = bpf_htons(ETH_P_IPV6);
		reason = geneve_write6(skb, p, &inner, ecn, run->tunnel6, to->address);
	} else {
		type = bpf_htons(ETH_P_IP);
		reason = geneve_write4(skb, p, &inner, ecn, run->tunnel4, *(const __be32 *)to->address);
	}
	if (!reason && type != inner.h_proto &&
	    bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &type, sizeof(type), 0))
		return DROP_WRITE_ERROR;
	return reason;
}

/* What the host's routes are asked about a written packet; false when it has no outer header or no source. */
static __always_inline bool geneve_question(struct __sk_buff *skb, struct bpf_fib_lookup *lookup)
{
	const struct ethhdr *frame = packet_start(skb);
	const struct ipv6hdr *ip6 = (const void *)(frame + 1);
	const struct iphdr *ip4 = (const void *)(frame + 1);

	/* The header of IPv4 with what is behind it is longer than that of IPv6. */
	if ((const void *)(ip6 + 1) > packet_end(skb))
		return false;
	lookup->l4_protocol = IPPROTO_UDP;
	lookup->dport = bpf_htons(geneve_port);
	/* A large packet is cut later. */
	lookup->tot_len = skb->gso_size ? 0 : skb->len - ETH_HLEN;
	/* As for packets of the host's own. */
	lookup->ifindex = LOOPBACK_IFINDEX;
	if (frame->h_proto == bpf_htons(ETH_P_IPV6)) {
		lookup->family = ADDRESS_FAMILY_IPV6;
		memcpy(lookup->ipv6_src, &ip6->saddr, sizeof(lookup->ipv6_src));
		memcpy(lookup->ipv6_dst, &ip6->daddr, sizeof(lookup->ipv6_dst));
		return lookup->ipv6_src[0] | lookup->ipv6_src[1] | lookup->ipv6_src[2] | lookup->ipv6_src[3];
	}
	lookup->family = ADDRESS_FAMILY_IPV4;
	lookup->ipv4_src = ip4->saddr;
	lookup->ipv4_dst = ip4->daddr;
	return lookup->ipv4_src;
}

/* Sends a written packet to the next hop. */
__noinline int geneve_forward(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_redir_neigh next_hop = {};
	struct bpf_fib_lookup lookup = {};
	__u32 outer;

	if (!p)
		return TC_ACT_SHOT;
	if (!geneve_question(skb, &lookup))
		return drop(skb, p, DROP_NO_FIB);
	outer = GENEVE_WRAPPING + (lookup.family == ADDRESS_FAMILY_IPV6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	switch (bpf_fib_lookup(skb, &lookup, sizeof(lookup), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH: /* it is asked for who has the address */
		break;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return drop(skb, p, DROP_TOO_LONG);
	default:
		return drop(skb, p, DROP_NO_FIB);
	}
	next_hop.nh_family = lookup.family;
	if (lookup.family == ADDRESS_FAMILY_IPV4)
		next_hop.ipv4_nh = lookup.ipv4_dst;
	else
		memcpy(next_hop.ipv6_nh, lookup.ipv6_dst, sizeof(next_hop.ipv6_nh));
	count(REASON_FORWARDED, DIRECTION_EGRESS, skb->len - outer);
	return bpf_redirect_neigh(lookup.ifindex, &next_hop, sizeof(next_hop), 0);
}

/* Into Geneve and on to the node that the destination is behind, as p->source_identity. */
static __always_inline int geneve_send(struct __sk_buff *skb, struct packet *p)
{
	__u32 reason = geneve_write(skb, p);

	return unlikely(reason) ? drop(skb, p, reason) : geneve_forward(skb, p);
}

/* The UDP header of a frame on the underlay, if there is one right behind an IP header of the usual length. */
static __always_inline const struct udphdr *geneve_udp(const struct __sk_buff *skb, const bool v6)
{
	const void *ip = packet_start(skb) + ETH_HLEN;
	const struct udphdr *udp = ip + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));

	if ((const void *)(udp + 1) > packet_end(skb))
		return NULL;
	if (v6)
		return ((const struct ipv6hdr *)ip)->nexthdr == IPPROTO_UDP ? udp : NULL;
	/* Behind the header of a later piece there is payload. */
	if (*(const __u8 *)ip != 0x45 || (((const struct iphdr *)ip)->frag_off & bpf_htons(IPV4_OFFSET)))
		return NULL;
	return ((const struct iphdr *)ip)->protocol == IPPROTO_UDP ? udp : NULL;
}

/* Whether a frame speaks to the tunnel's port, perhaps another node's. Everything else is none of our business. */
static __always_inline bool geneve_calls(struct __sk_buff *skb, const bool v6)
{
	const __u32 need = ETH_HLEN + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + UDP_HEADER;
	const struct udphdr *udp;

	if (unlikely(packet_start(skb) + need > packet_end(skb)) && (skb->len < need || bpf_skb_pull_data(skb, need)))
		return false;
	udp = geneve_udp(skb, v6);
	return unlikely(udp && udp->dest == bpf_htons(geneve_port));
}

/* Reads the outer headers of such a frame; false when it is to another node. */
static __always_inline bool geneve_find(struct __sk_buff *skb, struct geneve_found *found, const bool v6)
{
	const void *ip = packet_start(skb) + ETH_HLEN;
	union address to = {};

	if (ip + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) > packet_end(skb))
		return false;
	found->congested = ecn_of(ip, v6) == ECN_CONGESTED;
	found->at = ETH_HLEN + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + UDP_HEADER;
	if (v6) {
		const struct ipv6hdr *ip6 = ip;

		found->from.family = FAMILY_IPV6;
		memcpy(found->from.address, &ip6->saddr, sizeof(found->from.address));
		memcpy(&to, &ip6->daddr, sizeof(to));
	} else {
		const struct iphdr *ip4 = ip;

		found->from.family = FAMILY_IPV4;
		memcpy(found->from.address, &ip4->saddr, sizeof(ip4->saddr));
		found->piece = !!(ip4->frag_off & bpf_htons(IPV4_MORE_FRAGMENTS));
		to.v4 = ip4->daddr;
	}
	return ipcache_find(&to, found->from.family).identity == IDENTITY_HOST;
}

/* A router's mark of congestion goes in, where the ends of the flow heed such marks (RFC 6040). 0, or why to drop. */
static __always_inline __u32 geneve_congest(struct __sk_buff *skb, const bool v6)
{
	__u8 *bytes = packet_start(skb) + ETH_HLEN;
	struct iphdr *ip = (void *)bytes;
	__u32 sum;
	__u8 ecn;

	if ((void *)(ip + 1) > packet_end(skb))
		return DROP_INVALID_PACKET;
	ecn = ecn_of(bytes, v6);
	if (!ecn)
		return DROP_INVALID_PACKET;
	if (v6) {
		bytes[1] |= ECN_CONGESTED << 4;
	} else {
		/* RFC 1624: what the sum loses, the header won. */
		sum = ip->check + (__u16)~bpf_htons(ECN_CONGESTED - ecn);
		ip->tos |= ECN_CONGESTED;
		ip->check = sum + (sum >> 16);
	}
	return 0;
}

/* Cuts the outer headers away behind the Ethernet header, and gives that the inner type. 0, or the reason to drop. */
static __always_inline __u32 geneve_cut(struct __sk_buff *skb, __u32 bytes, __be16 type, const bool outer6)
{
	const bool inner6 = type == bpf_htons(ETH_P_IPV6);
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	/* Kernels before 6.3 cannot change the family. */
	if (inner6 != outer6)
		flags |= inner6 ? ADJ_ROOM_DECAP_L3_IPV6 : ADJ_ROOM_DECAP_L3_IPV4;
	if (bpf_skb_adjust_room(skb, -(__s32)bytes, BPF_ADJ_ROOM_MAC, flags))
		return DROP_WRITE_ERROR;
	if (inner6 != outer6 && bpf_skb_store_bytes(skb, offsetof(struct ethhdr, h_proto), &type, sizeof(type), 0))
		return DROP_WRITE_ERROR;
	return 0;
}

/*
 * Takes a packet out of a frame that speaks to the tunnel's port: its sender must be known, its header one that is
 * understood. Options that need not be understood are passed over. 0, the reason to drop, or NOT_TUNNELLED;
 * p->source_identity is told when it is taken out, and p->family. Out of line: what it finds takes no stack afterwards.
 */
__noinline int geneve_open(struct __sk_buff *skb, struct packet *p)
{
	struct geneve_found found = {};
	struct geneve_header header;
	__u32 inner, reason;
	__be16 type;
	bool v6;

	if (!p)
		return DROP_INVALID_PACKET;
	if (skb->protocol == bpf_htons(ETH_P_IP) ? !geneve_find(skb, &found, false) : !geneve_find(skb, &found, true))
		return NOT_TUNNELLED;
	if (found.piece)
		return DROP_FRAGMENTED;
	if (bpf_skb_load_bytes(skb, found.at, &header, sizeof(header)))
		return DROP_INVALID_PACKET;
	reason = tunnel_believe(p, &found.from, bpf_ntohl(header.identifier) >> 8);
	if (reason)
		return reason;
	if ((header.options & GENEVE_VERSION_MASK) || (header.flags & (GENEVE_CONTROL | GENEVE_CRITICAL)) ||
	    header.protocol != bpf_htons(GENEVE_ETHERNET))
		return DROP_TUNNEL_KEY;
	inner = found.at + sizeof(header) + (header.options & GENEVE_OPTIONS_MASK) * 4;
	if (bpf_skb_load_bytes(skb, inner + offsetof(struct ethhdr, h_proto), &type, sizeof(type)))
		return DROP_INVALID_PACKET;
	if (type != bpf_htons(ETH_P_IP) && type != bpf_htons(ETH_P_IPV6))
		return DROP_UNSUPPORTED_L3;
	v6 = type == bpf_htons(ETH_P_IPV6);
	reason = geneve_cut(skb, inner, type, found.from.family == FAMILY_IPV6);
	if (!reason && found.congested)
		reason = v6 ? geneve_congest(skb, true) : geneve_congest(skb, false);
	p->family = v6 ? FAMILY_IPV6 : FAMILY_IPV4;
	return reason;
}

/* To the host's stack as if a tunnel device had taken it out: it comes in on ours. */
static __always_inline int geneve_to_stack(struct __sk_buff *skb)
{
	skb->mark = MARK_OPENED;
	return bpf_redirect(tunnel_ifindex(), BPF_F_INGRESS);
}

/* Whether a packet on the tunnel device is one that geneve_to_stack has sent there. */
static __always_inline bool geneve_has_opened(struct __sk_buff *skb)
{
	if (skb->mark != MARK_OPENED)
		return false;
	skb->mark = 0;
	return true;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells the sender of a packet at once that nobody serves what it asks for: TCP by a reset, everything else by an ICMP
 * error ("port unreachable"). And answers a ping to the address of a service. The packet itself is made into the answer
 * and goes back by the device that it came from.
 */
#ifndef REFUSE_H
#define REFUSE_H

#include "drop.h"
#include "geneve.h"
#include "nat.h"
#include "scratch.h"

#define REFUSAL_HOPS 64
/* Of the refused packet: what every system quotes at least, the largest IPv4 header and 8 bytes, or IPv6 with some room. */
#define REFUSAL_QUOTE 68
#define ICMP_PORT_UNREACHABLE 3
#define ICMP_FRAG_NEEDED 4
#define ICMPV6_PACKET_TOO_BIG 2
#define ICMPV6_DEST_UNREACH 1
#define ICMPV6_PORT_UNREACHABLE 4

#define TCP_PLAIN 0x50 /* a header of 20 bytes */

struct refusal_tcp {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledged;
	__u8 length;
	__u8 flags;
	__be16 window;
	__u16 check;
	__be16 urgent;
};

struct refusal_icmp {
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 mtu; /* RFC 1191, RFC 4443; else 0 */
	__u8 quote[REFUSAL_QUOTE];
};

struct refusal4 {
	struct ethhdr eth;
	struct iphdr ip;
	union {
		struct refusal_tcp tcp;
		struct refusal_icmp icmp;
	};
} __attribute__((packed));

struct refusal6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	union {
		struct refusal_tcp tcp;
		struct refusal_icmp icmp;
	};
} __attribute__((packed));

_Static_assert(sizeof(struct refusal6) <= SCRATCH_FRAME && sizeof(struct refusal4) <= SCRATCH_FRAME, "scratch.h has room");

/* Whence and whither an answer goes, and how long it is behind the Ethernet header. */
static __always_inline void refusal_header(__u8 *frame, const struct packet *p, const struct ethhdr *eth, __u8 protocol,
					   __u32 length)
{
	struct refusal4 *four = (void *)frame;
	struct refusal6 *six = (void *)frame;

	memcpy(four->eth.h_dest, eth->h_source, ETH_ALEN);
	memcpy(four->eth.h_source, eth->h_dest, ETH_ALEN);
	four->eth.h_proto = eth->h_proto;
	if (is_ipv6(p)) {
		six->ip.version = 6;
		six->ip.payload_len = bpf_htons(length);
		six->ip.nexthdr = protocol;
		six->ip.hop_limit = REFUSAL_HOPS;
		memcpy(&six->ip.saddr, &p->destination, sizeof(six->ip.saddr));
		memcpy(&six->ip.daddr, &p->source, sizeof(six->ip.daddr));
	} else {
		four->ip.version = 4;
		four->ip.ihl = 5;
		four->ip.tot_len = bpf_htons(sizeof(four->ip) + length);
		four->ip.frag_off = bpf_htons(IPV4_DONT_FRAGMENT);
		four->ip.ttl = REFUSAL_HOPS;
		four->ip.protocol = protocol;
		four->ip.saddr = p->destination.v4;
		four->ip.daddr = p->source.v4;
		four->ip.check = checksum4(frame + sizeof(four->eth));
	}
}

/* The sum of the addresses, protocol and length that checksums cover. */
static __always_inline __u32 refusal_pseudo(const struct packet *p, __u8 protocol, __u32 length)
{
	__u32 sum = bpf_csum_diff(NULL, 0, (const __be32 *)&p->source, sizeof(p->source), 0);

	sum = bpf_csum_diff(NULL, 0, (const __be32 *)&p->destination, sizeof(p->destination), sum);
	return sum_fold((__u64)sum + bpf_htons(protocol) + bpf_htons(length));
}

/*
 * Makes the frame the packet. What programs have taken out of a tunnel the kernel gives no other end: it grows in front, and
 * if it is to be shorter there is padding behind the answer, of zeros, which change no checksum; as much as there is room.
 */
static __always_inline bool refusal_place(struct __sk_buff *skb, const __u8 *frame, __u32 length)
{
	__u64 size = length;

	if (skb->len != length && bpf_skb_change_tail(skb, length, 0)) {
		if (skb->len < length && bpf_skb_adjust_room(skb, length - skb->len, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
			return false;
		size = skb->len;
	}
	/* Each bound by itself, of the value that is used: Linux 6.1 sees no others. */
	asm volatile("" : "+r"(size));
	if (size < ETH_HLEN)
		return false;
	asm volatile("" : "+r"(size));
	if (size > SCRATCH_FRAME)
		return false;
	return !bpf_skb_store_bytes(skb, 0, frame, size, 0);
}

/* Whether the packet was made an answer. */
__noinline int refuse_tcp(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *room = scratch();
	struct refusal_tcp asked, tcp = {};
	struct ethhdr eth;
	__u32 end, at, pseudo, sum, length;

	if (!p || !room || bpf_skb_load_bytes(skb, p->transport, &asked, sizeof(asked)) || (asked.flags & TCP_RST) ||
	    bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return false;
	tcp.source = asked.destination;
	tcp.destination = asked.source;
	tcp.length = TCP_PLAIN;
	tcp.flags = TCP_RST;
	/* RFC 9293, 3.10.7.1 */
	if (asked.flags & TCP_ACK) {
		tcp.sequence = asked.acknowledged;
	} else {
		end = packet_length(skb, p);
		at = p->transport + (asked.length >> 4) * 4;
		length = end > at ? end - at : 0;
		length += !!(asked.flags & TCP_SYN) + !!(asked.flags & TCP_FIN);
		tcp.acknowledged = bpf_htonl(bpf_ntohl(asked.sequence) + length);
		tcp.flags |= TCP_ACK;
	}
	pseudo = refusal_pseudo(p, IPPROTO_TCP, sizeof(tcp));
	sum = bpf_csum_diff(NULL, 0, (const __be32 *)&tcp, sizeof(tcp), 0);
	/*
	 * If the kernel is yet to write the packet's checksum it will write that of the answer too, and wants the sum of the
	 * addresses there meanwhile; the helper then does nothing. Else it makes it the whole one.
	 */
	tcp.check = pseudo;
	memset(room->frame, 0, sizeof(room->frame));
	refusal_header(room->frame, p, &eth, IPPROTO_TCP, sizeof(tcp));
	if (is_ipv6(p)) {
		length = sizeof(eth) + sizeof(struct ipv6hdr) + sizeof(tcp);
		memcpy(&((struct refusal6 *)room->frame)->tcp, &tcp, sizeof(tcp));
	} else {
		length = sizeof(eth) + sizeof(struct iphdr) + sizeof(tcp);
		memcpy(&((struct refusal4 *)room->frame)->tcp, &tcp, sizeof(tcp));
	}
	if (!refusal_place(skb, room->frame, length))
		return false;
	sum = sum_fold((__u64)sum + 2 * pseudo);
	return !bpf_l4_csum_replace(skb, length - sizeof(tcp) + TCP_CHECKSUM_AT, 0, sum, 0);
}

/* Likewise. `mtu`: the packet is longer than that; 0: nobody takes it. */
__noinline int refuse_icmp(struct __sk_buff *skb, struct packet *p, __u32 mtu)
{
	const bool v6 = p && is_ipv6(p);
	const __u32 ip = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct scratch *room = scratch();
	struct refusal_icmp *icmp;
	struct ethhdr eth;
	__u64 quote;
	__u32 sum;

	if (!p || !room || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return false;
	quote = packet_length(skb, p);
	if (quote > skb->len)
		quote = skb->len;
	quote -= ETH_HLEN;
	if (quote > REFUSAL_QUOTE)
		quote = REFUSAL_QUOTE;
	memset(room->frame, 0, sizeof(room->frame));
	/* Linux 6.1 forgets the bounds of a copy that was made before they were known: this is the one that is used. */
	asm volatile("" : "+r"(quote));
	if (quote < sizeof(struct iphdr) || quote > REFUSAL_QUOTE)
		return false;
	icmp = v6 ? &((struct refusal6 *)room->frame)->icmp : &((struct refusal4 *)room->frame)->icmp;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, icmp->quote, quote))
		return false;
	icmp->type = !v6 ? ICMP_DEST_UNREACH : mtu ? ICMPV6_PACKET_TOO_BIG : ICMPV6_DEST_UNREACH;
	icmp->code = v6 ? (mtu ? 0 : ICMPV6_PORT_UNREACHABLE) : mtu ? ICMP_FRAG_NEEDED : ICMP_PORT_UNREACHABLE;
	icmp->mtu = bpf_htonl(mtu);
	sum = v6 ? refusal_pseudo(p, IPPROTO_ICMPV6, ICMP_HEADER + quote) : 0;
	icmp->check = ~sum_fold(bpf_csum_diff(NULL, 0, (const __be32 *)icmp, sizeof(*icmp), sum));
	refusal_header(room->frame, p, &eth, v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP, ICMP_HEADER + quote);
	return refusal_place(skb, room->frame, ETH_HLEN + ip + ICMP_HEADER + quote);
}

/* Back to where the packet came from: into the container, or out by the device. */
static __always_inline int refuse_return(struct __sk_buff *skb, const struct packet *p)
{
	if (p->point != POINT_FROM_ENDPOINT)
		return bpf_redirect(skb->ifindex, 0);
	/* What was sent to all is answered to one. */
	if (bpf_skb_change_type(skb, 0 /* PACKET_HOST */))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(skb->ifindex, 0);
}

/* A drop whose sender is told. */
__noinline int refuse(struct __sk_buff *skb, struct packet *p, __u32 reason)
{
	int action, answered;

	if (!p)
		return TC_ACT_SHOT;
	action = drop(skb, p, reason);
	if (p->later_fragment)
		return action;
	answered = p->protocol == IPPROTO_TCP ? refuse_tcp(skb, p) : refuse_icmp(skb, p, 0);
	return answered ? refuse_return(skb, p) : action;
}

/* A drop of what is longer than the way on takes; its sender is told. */
static __always_inline int refuse_long(struct __sk_buff *skb, struct packet *p, __u32 mtu)
{
	const int action = drop(skb, p, DROP_TOO_LONG);

	return refuse_icmp(skb, p, mtu) ? refuse_return(skb, p) : action;
}

/* Turns an echo request into its reply. */
__noinline int answer_echo(struct __sk_buff *skb, struct packet *p)
{
	const __u32 addresses = ETH_HLEN + (p && is_ipv6(p) ? offsetof(struct ipv6hdr, saddr) : offsetof(struct iphdr, saddr));
	const __u32 size = p && is_ipv6(p) ? sizeof(struct in6_addr) : sizeof(__be32);
	struct ethhdr eth;
	__be16 from, to;

	if (!p)
		return TC_ACT_SHOT;
	/* Its other pieces would not come along. */
	if (p->fragment)
		return drop(skb, p, DROP_NO_SERVICE);
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return drop(skb, p, DROP_INVALID_PACKET);
	from = bpf_htons(is_ipv6(p) ? ICMPV6_ECHO_REQUEST << 8 : ICMP_ECHO << 8);
	to = bpf_htons(is_ipv6(p) ? ICMPV6_ECHO_REPLY << 8 : ICMP_ECHOREPLY << 8);
	/* Addresses that change places change no sum. */
	if (bpf_skb_store_bytes(skb, 0, eth.h_source, ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_ALEN, eth.h_dest, ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, addresses, &p->destination, size, 0) ||
	    bpf_skb_store_bytes(skb, addresses + size, &p->source, size, 0) ||
	    bpf_l4_csum_replace(skb, p->transport + offsetof(struct refusal_icmp, check), from, to, sizeof(to)) ||
	    bpf_skb_store_bytes(skb, p->transport, &to, 1, 0))
		return drop(skb, p, DROP_WRITE_ERROR);
	count(REASON_FORWARDED, DIRECTION_INGRESS, skb->len);
	return refuse_return(skb, p);
}

#endif

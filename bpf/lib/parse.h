/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From bytes to struct packet. `parse` reads plain TCP and UDP in place; everything else (options, extension headers,
 * fragments, ICMP, SCTP, packets quoted in ICMP errors) goes through `parse_at`, which copies what it reads.
 *
 *     frame:  Ethernet | IPv4 [options]          | transport ...
 *             Ethernet | IPv6 [extension headers] | transport ...
 */
#ifndef PARSE_H
#define PARSE_H

#include "fragments.h"

#define TCP_HEADER 20
#define UDP_HEADER 8
#define SCTP_HEADER 12
#define ICMP_HEADER 8
#define TCP_FLAGS_AT 13

#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_OFFSET 0x1fff

/* How many extension headers are walked: each kind may stand once (RFC 8200, 4.1), destination options twice. */
#define EXTENSION_HEADERS 7
#define NEXT_HOP_BY_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_AUTHENTICATION 51
#define NEXT_NONE 59
#define NEXT_DESTINATION 60
#define NEXT_MOBILITY 135

/*
 * Makes the headers that are read in place linear (Ethernet, IP, TCP); true unless that failed. A short packet is linear
 * as far as it goes. Not a byte more than needed: pulling one of the payload copies the packet.
 */
static __always_inline bool linear(struct __sk_buff *skb, const bool v6)
{
	const __u32 need = ETH_HLEN + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + TCP_HEADER;

	if (likely(packet_start(skb) + need <= packet_end(skb)))
		return true;
	if (skb->data_end - skb->data >= skb->len)
		return true;
	return !bpf_skb_pull_data(skb, skb->len < need ? skb->len : need);
}

static __always_inline __u8 kind_of_icmp4(__u8 type)
{
	switch (type) {
	case ICMP_ECHO:
	case ICMP_ECHOREPLY:
		return KIND_FLOW;
	case ICMP_DEST_UNREACH:
	case ICMP_TIME_EXCEEDED:
	case ICMP_PARAMETERPROB:
		return KIND_ICMP_ERROR;
	default:
		return KIND_ICMP_OTHER;
	}
}

/* Which ones must stay on a link: RFC 4890, 4.3.3 and 4.4.3, and the redirect, which would move routes. */
static __always_inline __u8 kind_of_icmp6(__u8 type)
{
	switch (type) {
	case ICMPV6_ECHO_REQUEST:
	case ICMPV6_ECHO_REPLY:
		return KIND_FLOW;
	case 1 ... 4:
		return KIND_ICMP_ERROR;
	case 130 ... 137:
	case 141 ... 143:
	case 148:
	case 149:
	case 151 ... 153:
		return KIND_LINK;
	default:
		return KIND_ICMP_OTHER;
	}
}

/* What ICMP stands for once its type is known; also told from a remembered first fragment. */
static __always_inline __u8 kind_of(const struct packet *p)
{
	__u8 type = bpf_ntohs(p->destination_port);

	if (p->protocol == IPPROTO_ICMP)
		return kind_of_icmp4(type);
	if (p->protocol == IPPROTO_ICMPV6)
		return kind_of_icmp6(type);
	return KIND_FLOW;
}

static __always_inline __u32 transport_header_length(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return TCP_HEADER;
	case IPPROTO_UDP:
		return UDP_HEADER;
	case IPPROTO_SCTP:
		return SCTP_HEADER;
	default:
		return ICMP_HEADER;
	}
}

/*
 * The transport header at p->transport. A quoted packet may end after 8 bytes (RFC 792), which hold ports and
 * identifiers but no TCP flags.
 */
static __always_inline __u32 parse_transport(struct __sk_buff *skb, struct packet *p, bool quoted)
{
	__u8 header[ICMP_HEADER];
	__u32 need;

	switch (p->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		break;
	case IPPROTO_ICMP:
		if (is_ipv6(p))
			return DROP_CT_UNKNOWN_PROTOCOL;
		break;
	case IPPROTO_ICMPV6:
		if (!is_ipv6(p))
			return DROP_CT_UNKNOWN_PROTOCOL;
		break;
	default:
		return DROP_CT_UNKNOWN_PROTOCOL;
	}
	need = quoted ? ICMP_HEADER : transport_header_length(p->protocol);
	if (p->transport + need > skb->len || bpf_skb_load_bytes(skb, p->transport, header, sizeof(header)))
		return DROP_CT_INVALID_HEADER;
	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6) {
		p->destination_port = bpf_htons(header[0]);
		p->kind = kind_of(p);
		if (p->kind == KIND_FLOW)
			p->source_port = *(__be16 *)(header + 4);
		return 0;
	}
	p->source_port = *(__be16 *)header;
	p->destination_port = *(__be16 *)(header + 2);
	if (p->protocol == IPPROTO_TCP && !quoted &&
	    bpf_skb_load_bytes(skb, p->transport + TCP_FLAGS_AT, &p->tcp_flags, 1))
		return DROP_CT_INVALID_HEADER;
	return 0;
}

/* What comes after the network header of a datagram or of a piece of one. */
static __always_inline __u32 parse_payload(struct __sk_buff *skb, struct packet *p, const struct fragment *f, bool quoted)
{
	__u32 reason;

	p->fragment = is_fragment(f);
	if (f->offset) {
		/* A quoted later fragment says nothing of its flow. */
		if (quoted)
			return DROP_UNKNOWN_CT_STATE;
		/* 8 bytes in, it would write over the flags of a TCP header that has been judged (RFC 3128). */
		if (p->protocol == IPPROTO_TCP && f->offset * 8 < TCP_HEADER)
			return DROP_INVALID_PACKET;
		if (!fragment_recall(p, f->id))
			return DROP_FRAGMENT_NOT_FOUND;
		p->kind = kind_of(p);
		return 0;
	}
	reason = parse_transport(skb, p, quoted);
	/* An ICMP error in pieces is nothing that a host sends: its later pieces find nothing and go. */
	if (!reason && is_fragment(f) && !quoted && p->kind != KIND_ICMP_ERROR)
		fragment_remember(p, f->id);
	return reason;
}

static __always_inline __u32 parse_ipv4_at(struct __sk_buff *skb, struct packet *p, __u32 at, bool quoted)
{
	struct fragment f = {};
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return DROP_INVALID_PACKET;
	if (at + ip.ihl * 4 > skb->len)
		return DROP_INVALID_PACKET;
	p->source.v4 = ip.saddr;
	p->destination.v4 = ip.daddr;
	p->protocol = ip.protocol;
	p->transport = at + ip.ihl * 4;
	f.id = ip.id;
	f.offset = bpf_ntohs(ip.frag_off) & IPV4_OFFSET;
	f.more = !!(ip.frag_off & bpf_htons(IPV4_MORE_FRAGMENTS));
	return parse_payload(skb, p, &f, quoted);
}

struct extension {
	__u8 next;
	__u8 length; /* beyond the first 8 bytes, in units of 8; AH: beyond the first 8, in units of 4 */
	__be16 fragment; /* of a fragment header: offset << 3 | more */
	__be32 id; /* of a fragment header */
};

/* Walks to the transport header; sets p->protocol, p->transport. */
static __always_inline __u32 parse_extensions(struct __sk_buff *skb, struct packet *p, struct fragment *f)
{
	/* Unrolled: Linux 6.1 takes a loop that is entered in its middle for an endless one. */
#pragma unroll
	for (int i = 0; i <= EXTENSION_HEADERS; i++) {
		struct extension e;

		switch (p->protocol) {
		case NEXT_HOP_BY_HOP:
		case NEXT_ROUTING:
		case NEXT_FRAGMENT:
		case NEXT_AUTHENTICATION:
		case NEXT_DESTINATION:
		case NEXT_MOBILITY:
			break;
		case NEXT_NONE:
			return DROP_INVALID_EXTENSION;
		default:
			return 0;
		}
		if (i == EXTENSION_HEADERS || bpf_skb_load_bytes(skb, p->transport, &e, sizeof(e)))
			return DROP_INVALID_EXTENSION;
		if (p->protocol == NEXT_FRAGMENT) {
			f->id = e.id;
			f->offset = bpf_ntohs(e.fragment) >> 3;
			f->more = bpf_ntohs(e.fragment) & 1;
			p->transport += 8;
		} else if (p->protocol == NEXT_AUTHENTICATION) {
			p->transport += (e.length + 2) * 4;
		} else {
			p->transport += (e.length + 1) * 8;
		}
		p->protocol = e.next;
		/* Behind the header of a later fragment stands payload, not headers. */
		if (f->offset)
			return 0;
	}
	return DROP_INVALID_EXTENSION;
}

static __always_inline __u32 parse_ipv6_at(struct __sk_buff *skb, struct packet *p, __u32 at, bool quoted)
{
	struct fragment f = {};
	struct ipv6hdr ip;
	__u32 reason;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 6)
		return DROP_INVALID_PACKET;
	memcpy(&p->source, &ip.saddr, sizeof(p->source));
	memcpy(&p->destination, &ip.daddr, sizeof(p->destination));
	p->protocol = ip.nexthdr;
	p->transport = at + sizeof(ip);
	reason = parse_extensions(skb, p, &f);
	if (reason)
		return reason;
	return parse_payload(skb, p, &f, quoted);
}

/* The packet of p->family whose network header is at `at`: 0, or the reason to drop. */
__noinline int parse_at(struct __sk_buff *skb, struct packet *p, __u32 at)
{
	if (!p)
		return DROP_INVALID_PACKET;
	return is_ipv6(p) ? parse_ipv6_at(skb, p, at, false) : parse_ipv4_at(skb, p, at, false);
}

/* The same for a packet that an ICMP error quotes. */
__noinline int parse_quoted(struct __sk_buff *skb, struct packet *p, __u32 at)
{
	if (!p)
		return DROP_INVALID_PACKET;
	return is_ipv6(p) ? parse_ipv6_at(skb, p, at, true) : parse_ipv4_at(skb, p, at, true);
}

/* TCP or UDP at a known offset, in place; -1: not that simple. */
static __always_inline int parse_in_place(struct packet *p, void *transport, void *end)
{
	__be16 *ports = transport;

	if (p->protocol == IPPROTO_TCP && transport + TCP_HEADER <= end)
		p->tcp_flags = *((__u8 *)transport + TCP_FLAGS_AT);
	else if (p->protocol != IPPROTO_UDP || transport + UDP_HEADER > end)
		return -1;
	p->source_port = ports[0];
	p->destination_port = ports[1];
	return 0;
}

static __always_inline int parse4(struct __sk_buff *skb, struct packet *p)
{
	void *end = packet_end(skb);
	struct iphdr *ip = packet_start(skb) + ETH_HLEN;

	p->family = FAMILY_IPV4;
	p->transport = ETH_HLEN + sizeof(*ip);
	if (likely((void *)(ip + 1) <= end && *(__u8 *)ip == 0x45 &&
		   !(ip->frag_off & bpf_htons(IPV4_MORE_FRAGMENTS | IPV4_OFFSET)))) {
		p->source.v4 = ip->saddr;
		p->destination.v4 = ip->daddr;
		p->protocol = ip->protocol;
		if (likely(!parse_in_place(p, ip + 1, end)))
			return 0;
	}
	return parse_at(skb, p, ETH_HLEN);
}

static __always_inline int parse6(struct __sk_buff *skb, struct packet *p)
{
	void *end = packet_end(skb);
	struct ipv6hdr *ip = packet_start(skb) + ETH_HLEN;

	p->family = FAMILY_IPV6;
	p->transport = ETH_HLEN + sizeof(*ip);
	if (likely((void *)(ip + 1) <= end && (*(__u8 *)ip & 0xf0) == 0x60)) {
		memcpy(&p->source, &ip->saddr, sizeof(p->source));
		memcpy(&p->destination, &ip->daddr, sizeof(p->destination));
		p->protocol = ip->nexthdr;
		if (likely(!parse_in_place(p, ip + 1, end)))
			return 0;
	}
	return parse_at(skb, p, ETH_HLEN);
}

/* The protocol of a frame in network order, or 0 when there is no whole Ethernet header. */
static __always_inline __be16 ethertype(const struct __sk_buff *skb)
{
	struct ethhdr *eth = packet_start(skb);

	return (void *)(eth + 1) <= packet_end(skb) ? eth->h_proto : 0;
}

#endif

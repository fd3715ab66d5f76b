/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Another address and port for one end of a packet: in its headers, in the checksums that cover them, and in what is
 * known of it. Owns the arithmetic; who gets which address is serve.h's.
 *
 * A checksum that the kernel has yet to write (CHECKSUM_PARTIAL) covers only addresses so far. Programs do not see which
 * it is, the helper does: so all but IPv4's own checksum goes through it.
 */
#ifndef NAT_H
#define NAT_H

#include "parse.h"

#define TCP_CHECKSUM_AT 16
#define UDP_CHECKSUM_AT 6
#define SCTP_CHECKSUM_AT 8

/* CRC32c, the polynomial backwards as the register is shifted (RFC 9260, appendix A). */
#define CRC_POLYNOMIAL 0x82f63b78

static __always_inline __u16 sum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* RFC 1624: the checksum of a header in which one address became another. */
static __always_inline __u16 sum_change4(__u16 check, __be32 from, __be32 to)
{
	return ~sum_fold((__u64)(__u16)~check + (__u32)~from + to);
}

/* Where the packet ends by its IP header; 0: it has none. Behind that there may be padding. */
static __always_inline __u32 packet_length(struct __sk_buff *skb, const struct packet *p)
{
	const struct iphdr *ip4 = packet_start(skb) + ETH_HLEN;
	const struct ipv6hdr *ip6 = (const void *)ip4;

	if ((const void *)(ip4 + 1) > packet_end(skb))
		return 0;
	return ETH_HLEN + (is_ipv6(p) ? sizeof(*ip6) + bpf_ntohs(ip6->payload_len) : bpf_ntohs(ip4->tot_len));
}

/* x^8 to the powers 2^n modulo the polynomial: what 2^n bytes of zeros do to the register. */
static const __u32 crc_zeros[16] = {
	0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c, 0x18b8ea18, 0x510ac59a, 0xb82be955, 0xb8fdb1e7,
	0x88e56f72, 0x74c360a4, 0xe4172b16, 0x0d65762a, 0x35d73a62, 0x28461564, 0xbf455269, 0xe2ea32dc,
};

/* The lowest bit, in a way that nobody makes a branch of: each would double what is verified. */
static __always_inline __u32 crc_bit(__u32 bits)
{
	bits &= 1;
	asm volatile("" : "+r"(bits));
	return bits;
}

static __always_inline __u32 crc_step(__u32 crc)
{
	return crc >> 1 ^ CRC_POLYNOMIAL * crc_bit(crc);
}

/*
 * What a difference in two bytes makes of the checksum of a message that goes on for `behind` bytes: a CRC is linear, so
 * it is that of the difference followed by so many zeros.
 */
__noinline int crc_change(__u32 difference, __u32 behind)
{
	__u32 crc = difference & 0xffff;

	for (int i = 0; i < 16; i++)
		crc = crc_step(crc);
	for (int i = 0; i < 16; i++) {
		const __u32 taken = crc_bit(behind >> i);
		__u32 factor = crc_zeros[i], times = 0, shifted = crc;

		for (int bit = 0; bit < 32; bit++) {
			times ^= shifted * crc_bit(factor >> 31);
			factor <<= 1;
			shifted = crc_step(shifted);
		}
		crc = times * taken + crc * (1 - taken);
	}
	return crc;
}

/* A checksum of 0 is one that is yet to be written: the kernel and network devices leave that for the last moment. */
static __always_inline __u32 nat_sctp(struct __sk_buff *skb, const struct packet *p, __u16 difference, bool source)
{
	const __u32 at = p->transport + SCTP_CHECKSUM_AT, end = packet_length(skb, p);
	__u32 sum, behind = end - p->transport - (source ? 2 : 4);

	/* The checksum is the whole message's, of which only the first piece is here. */
	if (p->fragment)
		return DROP_FRAGMENTED;
	if (end < p->transport + SCTP_HEADER || bpf_skb_load_bytes(skb, at, &sum, sizeof(sum)))
		return DROP_CT_INVALID_HEADER;
	if (!sum)
		return 0;
	sum ^= crc_change(difference, behind);
	return bpf_skb_store_bytes(skb, at, &sum, sizeof(sum), 0) ? DROP_WRITE_ERROR : 0;
}

static __always_inline __u32 nat_port(struct __sk_buff *skb, const struct packet *p, __be16 port, __u32 at, __u64 flags,
				      bool source)
{
	const __be16 from = source ? p->source_port : p->destination_port;
	__u32 reason = 0;
	__be16 to = port;

	if (p->later_fragment || from == port)
		return 0;
	if (at)
		reason = bpf_l4_csum_replace(skb, at, from, port, flags | sizeof(port)) ? DROP_WRITE_ERROR : 0;
	else
		reason = nat_sctp(skb, p, from ^ port, source);
	if (reason)
		return reason;
	return bpf_skb_store_bytes(skb, p->transport + (source ? 0 : 2), &to, sizeof(to), 0) ? DROP_WRITE_ERROR : 0;
}

static __always_inline __u32 nat_address4(struct __sk_buff *skb, const struct packet *p, __be32 to, __u32 at, __u64 flags,
					  bool source)
{
	const __be32 from = source ? p->source.v4 : p->destination.v4;
	struct iphdr *ip = packet_start(skb) + ETH_HLEN;

	if ((void *)(ip + 1) > packet_end(skb))
		return DROP_INVALID_PACKET;
	ip->check = sum_change4(ip->check, from, to);
	if (source)
		ip->saddr = to;
	else
		ip->daddr = to;
	if (at && bpf_l4_csum_replace(skb, at, from, to, flags | BPF_F_PSEUDO_HDR | sizeof(to)))
		return DROP_WRITE_ERROR;
	return 0;
}

static __always_inline __u32 nat_address6(struct __sk_buff *skb, const struct packet *p, const union address *to, __u32 at,
					  __u64 flags, bool source)
{
	const union address *from = source ? &p->source : &p->destination;
	struct ipv6hdr *ip = packet_start(skb) + ETH_HLEN;
	__u32 difference;

	if ((void *)(ip + 1) > packet_end(skb))
		return DROP_INVALID_PACKET;
	memcpy(source ? &ip->saddr : &ip->daddr, to, sizeof(*to));
	if (!at)
		return 0;
	difference = bpf_csum_diff((const __be32 *)from, sizeof(*from), (const __be32 *)to, sizeof(*to), 0);
	if (bpf_l4_csum_replace(skb, at, 0, difference, flags | BPF_F_PSEUDO_HDR))
		return DROP_WRITE_ERROR;
	/*
	 * The helper takes for granted that a checksum of the network header changes as well, which IPv6 has not: a sum of
	 * the whole packet, where the device gave one (CHECKSUM_COMPLETE), is wrong by that now.
	 */
	bpf_csum_update(skb, difference);
	return 0;
}

/* 0, or the reason to drop. */
__noinline int nat(struct __sk_buff *skb, struct packet *p, const struct nat_end *to, bool source)
{
	const bool udp = p && p->protocol == IPPROTO_UDP;
	const __u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 at = 0, reason;
	__be16 port;

	if (!p || !to)
		return DROP_INVALID_PACKET;
	port = to->port;
	if (!p->later_fragment && p->protocol != IPPROTO_SCTP)
		at = p->transport + (udp ? UDP_CHECKSUM_AT : TCP_CHECKSUM_AT);
	reason = is_ipv6(p) ? nat_address6(skb, p, &to->address, at, flags, source) :
			      nat_address4(skb, p, to->address.v4, at, flags, source);
	if (reason)
		return reason;
	reason = nat_port(skb, p, port, at, flags, source);
	if (reason)
		return reason;
	if (source) {
		p->source = to->address;
		p->source_port = port;
	} else {
		p->destination = to->address;
		p->destination_port = port;
	}
	return 0;
}

#endif

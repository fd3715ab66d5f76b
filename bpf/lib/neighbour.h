/* SPDX-License-Identifier: Apache-2.0 */
/* IPv6 neighbour discovery of containers (RFC 4861): ARP's twin, see arp.h. */
#ifndef NEIGHBOUR_H
#define NEIGHBOUR_H

#include "arp.h"
#include "parse.h"

#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_TARGET_MAC 2
#define ND_HOPS 255 /* anything less has crossed a router, which a neighbour has not */
#define ND_ANSWERED 0xe0000000 /* router, solicited, override */

/* What comes behind the Ethernet header, as it stands in an advertisement. */
struct nd_message {
	__u8 type;
	__u8 code;
	__be16 check;
	__be32 flags;
	union address target;
};

struct nd_answer {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct nd_message nd;
	__u8 option;
	__u8 option_length; /* in units of 8 bytes */
	__u8 mac[ETH_ALEN];
} __attribute__((packed));

#define ND_PAYLOAD (sizeof(struct nd_answer) - sizeof(struct ethhdr) - sizeof(struct ipv6hdr))

static __always_inline bool is_link_local(const union address *address)
{
	return address->bytes[0] == 0xfe && (address->bytes[1] & 0xc0) == 0x80;
}

static __always_inline bool is_unspecified(const union address *address)
{
	return !(address->half[0] | address->half[1]);
}

/* The Internet checksum over the pseudo header and the payload; both lie one after the other in the frame. */
static __always_inline __be16 nd_checksum(const struct nd_answer *a)
{
	const __u8 *bytes = (const __u8 *)a + offsetof(struct nd_answer, ip.saddr);
	__u32 sum = bpf_htons(ND_PAYLOAD) + bpf_htons(IPPROTO_ICMPV6);

	for (__u32 i = 0; i < 2 * sizeof(union address) + ND_PAYLOAD; i += 2)
		sum += bytes[i] | (__u32)bytes[i + 1] << 8;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Answers a solicitation: whatever the target is, it is reached through the host's side of the veth. */
static __always_inline int nd_answer(struct __sk_buff *skb, struct packet *p, const struct endpoint *ep,
				     const union address *target)
{
	struct nd_answer a = {};

	memcpy(a.eth.h_dest, ep->mac, ETH_ALEN);
	memcpy(a.eth.h_source, ep->node_mac, ETH_ALEN);
	a.eth.h_proto = bpf_htons(ETH_P_IPV6);
	a.ip.version = 6;
	a.ip.payload_len = bpf_htons(ND_PAYLOAD);
	a.ip.nexthdr = IPPROTO_ICMPV6;
	a.ip.hop_limit = ND_HOPS;
	memcpy(&a.ip.saddr, target, sizeof(*target));
	memcpy(&a.ip.daddr, &p->source, sizeof(p->source));
	a.nd.type = ND_ADVERTISEMENT;
	a.nd.flags = bpf_htonl(ND_ANSWERED);
	memcpy(&a.nd.target, target, sizeof(*target));
	a.option = ND_TARGET_MAC;
	a.option_length = 1;
	memcpy(a.mac, ep->node_mac, ETH_ALEN);
	a.nd.check = nd_checksum(&a);
	return send_back(skb, p, &a, sizeof(a));
}

static __always_inline __u8 hop_limit(struct __sk_buff *skb)
{
	__u8 hops = 0;

	bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, hop_limit), &hops, sizeof(hops));
	return hops;
}

/*
 * ICMPv6 of the link. Solicitations are answered. Duplicate address detection (source ::), and advertisements of the
 * endpoint's own address go to the host's stack, which has no use for them unless the address is its own. Everything
 * else (router solicitations, multicast membership, redirects) is forbidden.
 */
__noinline int neighbour_from_container(struct __sk_buff *skb, struct packet *p)
{
	const struct endpoint *ep;
	struct nd_message nd;
	bool own;

	if (!p)
		return TC_ACT_SHOT;
	ep = endpoint_at(p->source_slot);
	if (!ep)
		return drop(skb, p, DROP_UNKNOWN_SENDER);
	own = endpoint_has6(ep, &p->source);
	if (!own && !is_link_local(&p->source) && !is_unspecified(&p->source))
		return drop(skb, p, DROP_INVALID_SOURCE);
	if (p->later_fragment || hop_limit(skb) != ND_HOPS)
		return drop(skb, p, DROP_FORBIDDEN_ICMP6);
	if (p->destination_port != bpf_htons(ND_SOLICITATION) && p->destination_port != bpf_htons(ND_ADVERTISEMENT))
		return drop(skb, p, DROP_FORBIDDEN_ICMP6);
	if (bpf_skb_load_bytes(skb, p->transport, &nd, sizeof(nd)))
		return drop(skb, p, DROP_CT_INVALID_HEADER);
	if (nd.code)
		return drop(skb, p, DROP_FORBIDDEN_ICMP6);
	if (nd.type == ND_SOLICITATION && !is_unspecified(&p->source) && !endpoint_has6(ep, &nd.target) &&
	    !same_address(&p->source, &nd.target))
		return nd_answer(skb, p, ep, &nd.target);
	if (nd.type == ND_ADVERTISEMENT && !endpoint_has6(ep, &nd.target) &&
	    !(is_link_local(&nd.target) && same_address(&p->source, &nd.target)))
		return drop(skb, p, DROP_INVALID_SOURCE);
	return deliver_to_stack(skb);
}

#endif

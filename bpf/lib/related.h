/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ICMP errors: let in when the packet that they quote belongs to a living flow whose verdict still stands, refused
 * otherwise. The quoted packet went the other way: its source is whom the error is for.
 *
 * Who asked for a service knows its frontend alone: to him an error quotes what he sent, and what he quotes is what he got.
 */
#ifndef RELATED_H
#define RELATED_H

#include "conntrack.h"
#include "endpoints.h"
#include "events.h"
#include "parse.h"
#include "runtime.h"
#include "scratch.h"
#include "serve.h"

/* Whether one end of the entry is as it was when the flow was allowed. */
static __always_inline bool related_end_stands(const struct ct_entry *entry, __u32 side, const union address *address,
					       bool v6)
{
	const __u32 slot = entry->slot[side & 1];
	const struct endpoint *ep;

	if (!slot)
		return entry->ipcache_generation == ipcache_generation();
	ep = endpoint_at(slot);
	return ep && ep->policy == entry->stamp[side & 1] && endpoint_has(ep, address, v6);
}

#define ICMP_CHECKSUM_AT 2

/* Gives the error itself another address. The sum of what differs in its checksum then. */
static __always_inline __u64 related_outer(struct __sk_buff *skb, struct packet *p, const union address *to, bool source)
{
	union address *outer = source ? &p->source : &p->destination;
	struct iphdr *ip4 = packet_start(skb) + ETH_HLEN;
	struct ipv6hdr *ip6 = (void *)ip4;
	__u64 difference = 0;

	if (is_ipv6(p)) {
		if ((void *)(ip6 + 1) > packet_end(skb))
			return 0;
		memcpy(source ? &ip6->saddr : &ip6->daddr, to, sizeof(*to));
		difference = (__u32)bpf_csum_diff((const __be32 *)outer, sizeof(*outer), (const __be32 *)to, sizeof(*to), 0);
	} else {
		if ((void *)(ip4 + 1) > packet_end(skb))
			return 0;
		ip4->check = sum_change4(ip4->check, outer->v4, to->v4);
		if (source)
			ip4->saddr = to->v4;
		else
			ip4->daddr = to->v4;
	}
	*outer = *to;
	return difference;
}

/* Which end of the quoted packet is changed, and whether the error itself has that address then whatever it had. */
#define RELATED_DESTINATION 0
#define RELATED_SOURCE 1
#define RELATED_ALWAYS 2

/*
 * Gives one end of the quoted packet another address and port, and the error itself where it has that address. 0, or the
 * reason to drop. The quoted transport checksum stays: nobody checks it, of most it is not even there.
 */
static __noinline __u32 related_nat(struct __sk_buff *skb, struct packet *p, const struct nat_end *from,
				    const struct nat_end *to, __u32 which)
{
	const bool source = which & RELATED_SOURCE;
	const struct scratch *room = scratch();
	__u32 ip = p->transport + ICMP_HEADER, address, size;
	__u64 difference = (__u16)~from->port + to->port;
	__u16 check;

	if (!room)
		return DROP_INVALID_PACKET;
	/* The quoted packet's source is whom the error is for. */
	if ((which & RELATED_ALWAYS) || same_address(source ? &p->destination : &p->source, &from->address))
		difference += related_outer(skb, p, &to->address, !source);
	if (is_ipv6(p)) {
		address = ip + (source ? offsetof(struct ipv6hdr, saddr) : offsetof(struct ipv6hdr, daddr));
		size = sizeof(struct in6_addr);
		difference += (__u32)bpf_csum_diff((const __be32 *)&from->address, sizeof(from->address),
						   (const __be32 *)&to->address, sizeof(to->address), 0);
	} else {
		address = ip + (source ? offsetof(struct iphdr, saddr) : offsetof(struct iphdr, daddr));
		size = sizeof(__be32);
		/* With its own checksum the quoted header's sum stays what it was. */
		if (bpf_skb_load_bytes(skb, ip + offsetof(struct iphdr, check), &check, sizeof(check)))
			return DROP_INVALID_PACKET;
		check = sum_change4(check, from->address.v4, to->address.v4);
		if (bpf_skb_store_bytes(skb, ip + offsetof(struct iphdr, check), &check, sizeof(check), 0))
			return DROP_WRITE_ERROR;
	}
	if (bpf_skb_store_bytes(skb, address, &to->address, size, 0) ||
	    bpf_skb_store_bytes(skb, room->other.transport + (source ? 0 : 2), &to->port, sizeof(to->port), 0))
		return DROP_WRITE_ERROR;
	return bpf_l4_csum_replace(skb, p->transport + ICMP_CHECKSUM_AT, 0, sum_fold(difference), 0) ? DROP_WRITE_ERROR : 0;
}

/*
 * What its asker says about an answer of a service is about the backend. Sets in `asked` what the quoted packet says, in
 * `is` what it is about. False: the backend is gone.
 */
static __always_inline bool related_backend(struct packet *quoted, const struct ct_entry *entry, struct nat_end *asked,
					    struct nat_end *is)
{
	const struct lb_backend *backend = lb_backend(entry->stamp[0]);

	if (!backend)
		return false;
	asked->address = quoted->source;
	asked->port = quoted->source_port;
	is->port = backend->port;
	memcpy(&is->address, backend->address, sizeof(is->address));
	quoted->source = is->address;
	quoted->source_port = is->port;
	return true;
}

/* What is said to the asker about a packet to the backend is about the service. */
static __always_inline bool related_frontend(const struct packet *quoted, const struct ct_entry *entry,
					     struct nat_end *asked, struct nat_end *is)
{
	const struct lb_reverse *reverse = lb_reverse(entry->service);

	if (!reverse)
		return false;
	is->address = quoted->destination;
	is->port = quoted->destination_port;
	asked->port = reverse->port;
	memcpy(&asked->address, reverse->address, sizeof(asked->address));
	return true;
}

/*
 * 0, or the reason to drop. The end that is here must be the one it claims to be: from a container, the receiver of the
 * quoted packet; to a container, its sender. Sets the destination in `p` as the flow has it.
 */
__noinline int related(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *room = scratch();
	struct packet *quoted;
	union ct_key key;
	const struct endpoint *to;
	struct ct_entry *entry;
	__u32 side, other, reason;
	bool v6, about_answer;

	if (!p || !room)
		return DROP_INVALID_PACKET;
	p->ct_state = CT_RELATED;
	if (p->later_fragment)
		return DROP_FRAGMENT_NOT_FOUND;
	quoted = &room->other;
	memset(quoted, 0, sizeof(*quoted));
	quoted->family = p->family;
	reason = parse_quoted(skb, quoted, p->transport + ICMP_HEADER);
	if (reason)
		return reason;
	v6 = is_ipv6(p);
	if (quoted->kind != KIND_FLOW || !same_address(&quoted->source, &p->destination) || is_self(&p->destination, v6))
		return DROP_UNKNOWN_CT_STATE;
	if (p->point == POINT_FROM_ENDPOINT && !same_address(&quoted->destination, &p->source))
		return DROP_UNKNOWN_CT_STATE;
	side = ct_key_of(quoted, &key, v6) & 1;
	entry = ct_find(&key, v6);
	about_answer = entry && (entry->flags & CT_SERVICE);
	if (about_answer) {
		if (ct_opener(entry) == side || !related_backend(quoted, entry, &room->asked, &room->is))
			return DROP_UNKNOWN_CT_STATE;
		side = ct_key_of(quoted, &key, v6) & 1;
		entry = ct_find(&key, v6);
	}
	other = side ^ 1;
	if (!entry || (entry->flags & CT_SERVICE) || ct_expired(entry, quoted->protocol, now_jiffies()))
		return DROP_UNKNOWN_CT_STATE;
	if (!related_end_stands(entry, side, &quoted->source, v6) ||
	    !related_end_stands(entry, other, &quoted->destination, v6))
		return DROP_UNKNOWN_CT_STATE;
	if (p->point == POINT_FROM_ENDPOINT) {
		if (entry->slot[other] != p->source_slot)
			return DROP_UNKNOWN_CT_STATE;
		p->destination_slot = entry->slot[side];
		p->tunnel = !!(entry->flags & CT_TUNNEL);
		to = endpoint_at(p->destination_slot);
		p->destination_identity = to ? to->identity : entry->stamp[side & 1];
	} else if (!p->destination_slot && about_answer) {
		/* From outside, to the address that was asked for: only now is known whose that is. */
		p->destination_slot = entry->slot[side & 1];
	} else if (entry->slot[side & 1] != p->destination_slot) {
		return DROP_UNKNOWN_CT_STATE;
	}
	if (monitor_level() >= MONITOR_ALL)
		emit(skb, p, EVENT_TRACE, 0);
	if (about_answer)
		return related_nat(skb, p, &room->asked, &room->is, RELATED_SOURCE);
	if (!entry->service || ct_opener(entry) != side)
		return 0;
	return related_frontend(quoted, entry, &room->asked, &room->is) ? related_nat(skb, p, &room->is, &room->asked, RELATED_DESTINATION) : DROP_NO_SERVICE;
}

#endif

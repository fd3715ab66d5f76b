/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IP packets that the host's stack sends to a container: from the host itself, from the world, and from containers of
 * this node whose packets the host turned round (a hairpin). Ingress policy of that one endpoint.
 */
#ifndef ENTER_H
#define ENTER_H

#include "drop.h"
#include "ipcache.h"
#include "judge.h"
#include "related.h"
#include "serve.h"
#include "tunnel.h"

/* Generated on this machine: it came in on no device. */
static __always_inline bool is_from_host(const struct __sk_buff *skb)
{
	return skb->ingress_ifindex == 0;
}

static __noinline int enter_report(struct __sk_buff *skb, struct packet *p, const struct ct_entry *entry, __u32 side)
{
	p->ct_state = ct_opener(entry) == side ? CT_ESTABLISHED : CT_REPLY;
	p->source_identity = entry->stamp[side & 1];
	return emit(skb, p, EVENT_TRACE, 0);
}

/*
 * Whether the packet's origin is the one that the entry was made for. Someone outside who takes the host's address must
 * not ride the host's flows; a reply may come from the host in place of the world (it may proxy), never the reverse.
 */
static __always_inline bool enter_origin_stands(const struct __sk_buff *skb, const struct ct_entry *entry, __u32 side)
{
	if (entry->stamp[side & 1] == IDENTITY_HOST)
		return is_from_host(skb);
	return !is_from_host(skb) || ct_opener(entry) != side;
}

/* True when a living entry of today vouches for the packet, which is accounted then. */
static __always_inline bool enter_established(struct __sk_buff *skb, struct packet *p, const struct endpoint *ep,
					      const bool v6)
{
	struct ct_entry *entry;
	union ct_key key;
	__u32 side, other, now;

	side = ct_key_of(p, &key, v6) & 1;
	other = side ^ 1;
	entry = ct_find(&key, v6);
	if (!entry)
		return false;
	now = now_jiffies();
	if (unlikely(entry->service)) {
		if (ct_opener(entry) == side)
			return false;
		p->service = entry->service;
	}
	if (entry->slot[other] != p->destination_slot || entry->stamp[other] != ep->policy)
		return false;
	if (entry->slot[side] || (entry->flags & (CT_HAIRPIN | CT_TUNNEL)) || entry->ipcache_generation != ipcache_generation())
		return false;
	if (!enter_origin_stands(skb, entry, side))
		return false;
	if (ct_expired(entry, p->protocol, now) || ((p->tcp_flags & TCP_SYN) && ct_reopens(entry, p, side)))
		return false;
	if (unlikely(trace_wanted(ct_touch(entry, p, side, skb->len, now))))
		enter_report(skb, p, entry, side);
	return true;
}

/*
 * Who the source is. 0, or the reason to drop: an address of an endpoint here comes through that endpoint's device or
 * is a lie. What comes through an endpoint's device is that endpoint's, whatever address the host has given it. The
 * host's own address from outside is a lie too, but one for the stack to judge: here it is the world's. Of pods on other
 * nodes nothing comes but through the tunnel. `flags`: of the endpoint that it is for. Out of line: its stack is free again
 * when the flow is judged.
 */
static __noinline __u32 enter_source(struct __sk_buff *skb, struct packet *p, __u32 flags)
{
	const __u32 slot = slot_of_ifindex(skb->ingress_ifindex);
	const struct endpoint *from;
	const struct vtep *vtep;
	struct ipcache_entry found;

	p->ipcache_generation = ipcache_generation();
	if (is_from_host(skb)) {
		p->source_identity = IDENTITY_HOST;
		return 0;
	}
	found = ipcache_find(&p->source, p->family);
	p->source_identity = found.identity == IDENTITY_HOST ? world_of(p->family) : found.identity;
	if (found.slot || slot) {
		from = endpoint_at(slot);
		p->source_slot = slot ?: found.slot;
		if (!from || (found.slot && found.slot != slot))
			return DROP_INVALID_SOURCE;
		p->source_identity = from->identity;
		p->hairpin = 1;
	}
	if (!p->hairpin && skb->ingress_ifindex != tunnel_ifindex()) {
		vtep = tunnel_find(&p->source, p->family);
		if (vtep && !tunnel_is_node(&p->source, p->family))
			return DROP_INVALID_SOURCE;
	}
	return (flags & ENDPOINT_INTERNAL) && is_outside(p->source_identity) ? DROP_UNROUTABLE : 0;
}

/* What a service answers comes from its frontend. 0, or the reason to drop. */
static __always_inline __u32 enter_answer(struct __sk_buff *skb, struct packet *p)
{
	return unlikely(p->service) && p->kind == KIND_FLOW ? serve_answer(skb, p) : 0;
}

static __noinline int enter_slowly(struct __sk_buff *skb, struct packet *p)
{
	const struct endpoint *ep = endpoint_at(p->destination_slot);
	__u32 reason;

	if (!ep)
		return drop(skb, p, DROP_NO_ENDPOINT);
	reason = enter_source(skb, p, ep->flags);
	if (reason)
		return drop(skb, p, reason);
	p->destination_policy = READ_ONCE(ep->policy);
	p->destination_identity = policy_subject(p->destination_policy);
	if (!p->destination_identity)
		return drop(skb, p, DROP_NO_POLICY);
	reason = p->kind == KIND_ICMP_ERROR ? related(skb, p) : judge_flow(skb, p);
	if (!reason)
		reason = enter_answer(skb, p);
	if (reason)
		return drop(skb, p, reason);
	count(REASON_FORWARDED, DIRECTION_INGRESS, skb->len);
	return TC_ACT_OK;
}

static __always_inline int enter(struct __sk_buff *skb, struct packet *p, const struct endpoint *ep, const bool v6)
{
	int reason = !linear(skb, v6) ? DROP_INVALID_PACKET : v6 ? parse6(skb, p) : parse4(skb, p);

	if (unlikely(reason))
		return drop(skb, p, reason);
	if (v6 && unlikely(p->kind == KIND_LINK)) {
		/* The host keeps its link; nobody else is on it. */
		if (!is_from_host(skb))
			return drop(skb, p, DROP_FORBIDDEN_ICMP6);
		count(REASON_FORWARDED, DIRECTION_INGRESS, skb->len);
		return TC_ACT_OK;
	}
	if (likely(p->kind == KIND_FLOW) && likely(enter_established(skb, p, ep, v6))) {
		reason = enter_answer(skb, p);
		if (unlikely(reason))
			return drop(skb, p, reason);
		count(REASON_FORWARDED, DIRECTION_INGRESS, skb->len);
		return TC_ACT_OK;
	}
	return enter_slowly(skb, p);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What comes in from other nodes' pods without a tunnel: packets of flows that are known go straight into the container,
 * past the host's stack. All else is the stack's, and is judged where it enters the container (enter.h).
 */
#ifndef NATIVE_H
#define NATIVE_H

#include "enter.h"
#include "leave.h"

/*
 * The packet is as the container gets it: nobody has translated, so answers may pass the stack by too. The entry is
 * replaced whole, as whenever something rests on it.
 */
static __noinline void native_learn(const union ct_key *key, const struct ct_entry *entry, bool v6)
{
	struct scratch *room = scratch();

	if (!room || !key || !entry)
		return;
	room->entry = *entry;
	room->entry.flags |= CT_DIRECT;
	ct_store(key, &room->entry, v6);
}

static __always_inline int native_established(struct __sk_buff *skb, struct packet *p, const bool v6)
{
	const struct endpoint *to;
	struct ct_entry *entry;
	union ct_key key;
	__u32 side, other, slot, now;

	side = ct_key_of(p, &key, v6) & 1;
	other = side ^ 1;
	entry = ct_find(&key, v6);
	if (!entry || (entry->flags & (CT_SERVICE | CT_HAIRPIN | CT_TUNNEL)))
		return NOT_ESTABLISHED;
	now = now_jiffies();
	if (unlikely(entry->service)) {
		if (ct_opener(entry) == side)
			return NOT_ESTABLISHED;
		p->service = entry->service;
	}
	if (entry->slot[side] || !is_pod(entry->stamp[side]) || entry->ipcache_generation != ipcache_generation())
		return NOT_ESTABLISHED;
	slot = entry->slot[other];
	to = bpf_map_lookup_elem(&cilium_lxc, &slot);
	if (!slot || !to || to->policy != entry->stamp[other] || !endpoint_has(to, &p->destination, v6))
		return NOT_ESTABLISHED;
	if (ct_expired(entry, p->protocol, now) || ((p->tcp_flags & TCP_SYN) && ct_reopens(entry, p, side)))
		return NOT_ESTABLISHED;
	if (unlikely(trace_wanted(ct_touch(entry, p, side, skb->len, now)))) {
		p->destination_slot = slot;
		p->destination_identity = to->identity;
		enter_report(skb, p, entry, side);
	}
	if (unlikely(!(entry->flags & CT_DIRECT)))
		native_learn(&key, entry, v6);
	if (enter_answer(skb, p))
		return drop(skb, p, DROP_WRITE_ERROR);
	return deliver_local(skb, p, to, slot, DIRECTION_INGRESS, v6);
}

/* On other people's devices: what is no packet of ours, or a strange one, goes on as if this were not here. */
static __always_inline int native_in(struct __sk_buff *skb, struct packet *p, const bool v6)
{
	int action;

	if (!linear(skb, v6) || (v6 ? parse6(skb, p) : parse4(skb, p)) || p->kind != KIND_FLOW)
		return TC_ACT_UNSPEC;
	action = native_established(skb, p, v6);
	return action == NOT_ESTABLISHED ? TC_ACT_UNSPEC : action;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What comes in on devices that are not ours, past any tunnel: packets to services, and without a tunnel those of flows
 * with other nodes' pods. They go straight into the container, past the host's stack, or on to another node
 * (nodeport.h). All else is the stack's, and is judged where it enters a container (enter.h).
 *
 * What a container answers as a service leaves past the stack too (deliver.h), which would not take the host's own address
 * for a sender's.
 */
#ifndef UPLINK_H
#define UPLINK_H

#include "enter.h"
#include "leave.h"
#include "nodeport.h"

/*
 * The packet is as the container gets it: nobody has translated, so answers may pass the stack by too. The entry is
 * replaced whole, as whenever something rests on it.
 */
static __noinline void uplink_learn(const union ct_key *key, const struct ct_entry *entry, bool v6)
{
	struct scratch *room = scratch();

	if (!room || !key || !entry)
		return;
	room->entry = *entry;
	room->entry.flags |= CT_DIRECT;
	ct_store(key, &room->entry, v6);
}

/* NOT_ESTABLISHED also for what is none of ours. A packet to a service may have been translated then. */
static __always_inline int uplink_established(struct __sk_buff *skb, struct packet *p, const bool v6)
{
	const struct endpoint *to;
	struct ct_entry *entry;
	union ct_key key;
	__u32 side, other, slot, now, reason;
	bool answer = false;

	side = ct_key_of(p, &key, v6) & 1;
	entry = ct_find(&key, v6);
	if (!entry)
		return NOT_ESTABLISHED;
	if (unlikely(entry->flags & CT_SNAT))
		return nodeport_established(skb, p, entry);
	now = now_jiffies();
	if (entry->flags & CT_SERVICE) {
		entry = serve_again(skb, p, entry->stamp[0], entry->service);
		if (!entry)
			/* The packet is as it was: the backend is gone, and so is the frontend, or the flow. */
			return p->backend && p->service ? drop(skb, p, DROP_WRITE_ERROR) : NOT_ESTABLISHED;
		side = ct_key_of(p, &key, v6) & 1;
	}
	other = side ^ 1;
	if (entry->service != p->service) {
		answer = ct_opener(entry) != side;
		if (!answer)
			return NOT_ESTABLISHED;
		p->service = entry->service;
	}
	if ((answer || !p->service) && (!native_routing || !is_pod(entry->stamp[side])))
		return NOT_ESTABLISHED;
	if (entry->slot[side] || (entry->flags & (CT_HAIRPIN | CT_TUNNEL)) ||
	    entry->ipcache_generation != ipcache_generation())
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
		uplink_learn(&key, entry, v6);
	if (unlikely(answer)) {
		reason = serve_answer(skb, p);
		if (reason)
			return drop(skb, p, reason);
	}
	return deliver_local(skb, p, to, slot, DIRECTION_INGRESS, v6);
}

/* Who the ends of a packet to a service are. 0, or the reason to drop; without a slot its backend is not here. */
static __always_inline __u32 uplink_ends(struct __sk_buff *skb, struct packet *p)
{
	struct ipcache_entry found = ipcache_find(&p->destination, p->family);
	const struct endpoint *to = endpoint_at(found.slot);
	__u32 reason;

	/* Nobody calls from outside by his own address. */
	if (p->self)
		return DROP_INVALID_SOURCE;
	p->destination_identity = found.identity;
	if (!found.slot)
		return found.identity == IDENTITY_HOST ? DROP_NO_ENDPOINT : enter_source(skb, p, 0);
	if (!to || !endpoint_has(to, &p->destination, is_ipv6(p)))
		return DROP_NO_ENDPOINT;
	p->destination_slot = found.slot;
	reason = enter_source(skb, p, to->flags);
	if (reason)
		return reason;
	p->destination_policy = READ_ONCE(to->policy);
	p->destination_identity = policy_subject(p->destination_policy);
	return p->destination_identity ? 0 : DROP_NO_POLICY;
}

/* A new flow to a service, or one that is to be judged again; all else is the stack's. */
static __noinline int uplink_slowly(struct __sk_buff *skb, struct packet *p)
{
	const struct endpoint *to;
	int served = SERVED, action;
	__u32 reason;

	if (!p->service) {
		if (!may_open(p))
			return TC_ACT_UNSPEC;
		served = serve(skb, p, LB_EXTERNAL);
	}
	if (served == DROP_NO_SERVICE)
		return refuse(skb, p, served);
	if (served != SERVED)
		return served > 0 ? drop(skb, p, served) : TC_ACT_UNSPEC;
	p->direct = 1;
	reason = uplink_ends(skb, p);
	if (!reason && !p->destination_slot) {
		action = nodeport_open(skb, p);
		return action == NODEPORT_FORWARD ? nodeport_forward(skb, p) : action;
	}
	if (!reason)
		reason = judge_flow(skb, p);
	if (!reason && p->backend)
		reason = serve_remember(p);
	if (reason)
		return drop(skb, p, reason);
	p->direction = DIRECTION_INGRESS;
	to = endpoint_at(p->destination_slot);
	if (!to)
		return drop(skb, p, DROP_NO_ENDPOINT);
	return is_ipv6(p) ? deliver_local(skb, p, to, p->destination_slot, DIRECTION_INGRESS, true) :
			    deliver_local(skb, p, to, p->destination_slot, DIRECTION_INGRESS, false);
}

/* An error about what was answered as a port of the host; all else is the stack's. */
static __noinline int uplink_error(struct __sk_buff *skb, struct packet *p)
{
	const int action = nodeport_error(skb, p);
	const struct endpoint *to;
	__u32 reason;

	if (action == NODEPORT_FORWARD)
		return nodeport_forward(skb, p);
	if (action != NOT_ESTABLISHED)
		return action;
	reason = related(skb, p);
	if (reason)
		return reason == DROP_WRITE_ERROR ? drop(skb, p, reason) : TC_ACT_UNSPEC;
	to = endpoint_at(p->destination_slot);
	if (!to)
		return drop(skb, p, DROP_NO_ENDPOINT);
	return is_ipv6(p) ? deliver_local(skb, p, to, p->destination_slot, DIRECTION_INGRESS, true) :
			    deliver_local(skb, p, to, p->destination_slot, DIRECTION_INGRESS, false);
}

/* On other people's devices: what is no packet of ours, or a strange one, goes on as if this were not here. */
static __always_inline int uplink_in(struct __sk_buff *skb, struct packet *p, const bool v6)
{
	int action;

	if (!linear(skb, v6) || (v6 ? parse6(skb, p) : parse4(skb, p)))
		return TC_ACT_UNSPEC;
	if (p->kind == KIND_ICMP_ERROR)
		return uplink_error(skb, p);
	if (p->kind != KIND_FLOW)
		return TC_ACT_UNSPEC;
	action = uplink_established(skb, p, v6);
	return action == NOT_ESTABLISHED ? uplink_slowly(skb, p) : action;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IP packets that leave a container. An established flow takes one conntrack look-up and array reads; all else goes to
 * leave_slowly. A destination on this node is judged here for both ends.
 */
#ifndef LEAVE_H
#define LEAVE_H

#include "deliver.h"
#include "ipcache.h"
#include "judge.h"
#include "neighbour.h"
#include "refuse.h"
#include "related.h"
#include "serve.h"

#define NOT_ESTABLISHED (-100)

/* A trace of an established flow; out of line, for it is rare. */
static __noinline int leave_report(struct __sk_buff *skb, struct packet *p, const struct ct_entry *entry, __u32 side)
{
	const __u32 other = side ^ 1;
	const struct endpoint *to = endpoint_at(entry->slot[other & 1]);

	p->ct_state = ct_opener(entry) == side ? CT_ESTABLISHED : CT_REPLY;
	p->destination_slot = entry->slot[other & 1];
	p->destination_identity = to ? to->identity : entry->stamp[other & 1];
	p->direction = to ? DIRECTION_EGRESS | DIRECTION_INGRESS : DIRECTION_EGRESS;
	p->point = to					    ? POINT_TO_ENDPOINT :
		   entry->flags & CT_TUNNEL		    ? POINT_TO_OVERLAY :
		   p->destination_identity == IDENTITY_HOST ? POINT_TO_HOST :
							      POINT_TO_STACK;
	return emit(skb, p, EVENT_TRACE, 0);
}

/* Nobody is behind a service entry: either its backend is gone, or the packet is spoilt. */
static __noinline int leave_unserved(struct __sk_buff *skb, struct packet *p)
{
	return p->service ? drop(skb, p, DROP_WRITE_ERROR) : refuse(skb, p, DROP_NO_SERVICE);
}

/* What goes to another node with an address of this one's is the host's there, as who asked for it was judged. */
static __always_inline void answer_as_host(struct packet *p)
{
	p->as_host = 1;
	p->source_identity = IDENTITY_HOST;
}

/*
 * A living entry whose stamps are those of today: the verdict stands. NOT_ESTABLISHED when anything differs. A service
 * entry leads to the flow's own. `v6` is known when this is compiled, each family has its own copy.
 */
static __always_inline int leave_established(struct __sk_buff *skb, struct packet *p, const struct endpoint *ep,
					     const bool v6)
{
	const struct endpoint *to = NULL;
	struct ct_entry *entry;
	union ct_key key;
	__u32 side, other, slot, now, reason;
	bool tunnel, direct, answer = false;

	side = ct_key_of(p, &key, v6) & 1;
	entry = ct_find(&key, v6);
	if (!entry)
		return NOT_ESTABLISHED;
	now = now_jiffies();
	if (unlikely(entry->flags & CT_SERVICE)) {
		entry = serve_again(skb, p, entry->stamp[0], entry->service);
		if (!entry)
			return p->backend ? leave_unserved(skb, p) : NOT_ESTABLISHED;
		side = ct_side(p, v6) & 1;
	}
	other = side ^ 1;
	if (unlikely(entry->service != p->service)) {
		answer = ct_opener(entry) != side;
		if (!answer)
			return NOT_ESTABLISHED;
		p->service = entry->service;
	}
	if (entry->slot[side] != p->source_slot || entry->stamp[side] != ep->policy)
		return NOT_ESTABLISHED;
	slot = entry->slot[other];
	tunnel = entry->flags & CT_TUNNEL;
	direct = entry->flags & CT_DIRECT;
	if (slot) {
		to = bpf_map_lookup_elem(&cilium_lxc, &slot);
		if (!to || to->policy != entry->stamp[other] || !endpoint_has(to, &p->destination, v6))
			return NOT_ESTABLISHED;
	} else if (entry->ipcache_generation != ipcache_generation()) {
		return NOT_ESTABLISHED;
	}
	if (ct_expired(entry, p->protocol, now) || ((p->tcp_flags & TCP_SYN) && ct_reopens(entry, p, side)))
		return NOT_ESTABLISHED;
	if (unlikely(trace_wanted(ct_touch(entry, p, side, skb->len, now))))
		leave_report(skb, p, entry, side);
	if (unlikely(answer)) {
		reason = serve_answer(skb, p);
		p->direction = DIRECTION_EGRESS; /* a trace has said otherwise */
		if (reason)
			return drop(skb, p, reason);
		answer_as_host(p);
	}
	if (likely(to))
		return deliver_local(skb, p, to, slot, DIRECTION_EGRESS | DIRECTION_INGRESS, v6);
	if (direct)
		return deliver_direct(skb, p);
	return tunnel ? deliver_to_node(skb, p) : deliver_to_stack(skb);
}

/* Who the destination is. 0, or the reason to drop. Out of line: its stack is free again when the flow is judged. */
static __noinline __u32 leave_destination(struct packet *p, const struct endpoint *ep)
{
	struct ipcache_entry found;
	const struct endpoint *to;
	const struct vtep *vtep;

	p->tunnel = p->direct = p->unheard = p->node = 0;
	if (p->self || is_self(&p->destination, is_ipv6(p))) {
		p->self = 1;
		p->destination_slot = p->source_slot;
		p->destination_policy = p->source_policy;
		p->destination_identity = p->source_identity;
		return 0;
	}
	/* Before the look-up: a change in between makes the stamp old, never too new. */
	p->ipcache_generation = ipcache_generation();
	found = ipcache_find(&p->destination, p->family);
	p->destination_identity = found.identity;
	if (!found.slot) {
		p->point = POINT_FROM_ENDPOINT;
		p->direct = native_routing && is_pod(found.identity);
		vtep = found.identity == IDENTITY_HOST ? NULL : tunnel_find(&p->destination, p->family);
		if (vtep) {
			p->node = vtep->node;
			/* Only a flow that came from there can tell who that is. */
			p->unheard = is_outside(found.identity) && !tunnel_is_node(&p->destination, p->family);
			p->tunnel = !is_outside(found.identity);
			if (p->unheard)
				return 0;
		}
		return (ep->flags & ENDPOINT_INTERNAL) && is_outside(found.identity) ? DROP_UNROUTABLE : 0;
	}
	to = endpoint_at(found.slot);
	if (!to || !endpoint_has(to, &p->destination, is_ipv6(p)))
		return DROP_UNROUTABLE;
	p->destination_slot = found.slot;
	p->destination_policy = READ_ONCE(to->policy);
	p->destination_identity = policy_subject(p->destination_policy);
	return p->destination_identity ? 0 : DROP_NO_POLICY;
}

/*
 * Whether what is asked for may be a service's frontend: a flow's destination that is nobody's here nor another node's
 * pod. All others are spared the look-up.
 */
static __always_inline bool leave_may_be_served(const struct packet *p)
{
	return p->kind == KIND_FLOW && !p->service && !p->self && !p->destination_slot &&
	       (p->destination_identity < IDENTITY_FIRST_CLUSTER || is_outside(p->destination_identity));
}

/*
 * Who the destination is, once services have been asked. 0, or the reason to drop; SERVED_ECHO; with `told` the sender is
 * to be told of the drop.
 */
static __always_inline int leave_towards(struct __sk_buff *skb, struct packet *p, const struct endpoint *ep, bool *told)
{
	int reason = leave_destination(p, ep), served;

	if (!leave_may_be_served(p))
		return reason;
	served = serve(skb, p, LB_INTERNAL);
	if (!served)
		return reason;
	if (served == SERVED)
		return leave_destination(p, ep);
	*told = true;
	return served;
}

/* Sends an allowed packet on; `slot` 0: to another node or to the host's stack. */
static __always_inline int leave_forward(struct __sk_buff *skb, struct packet *p, __u32 slot)
{
	const struct endpoint *to = endpoint_at(slot);
	const bool answer = p->service && p->ct_state == CT_REPLY;
	__u32 reason = answer ? serve_answer(skb, p) : 0;

	p->direction = DIRECTION_EGRESS; /* should it be dropped yet, that is this end's doing */
	if (reason)
		return drop(skb, p, reason);
	if (answer)
		answer_as_host(p);
	if (!slot && p->direct && !p->hairpin)
		return deliver_direct(skb, p);
	if (!slot)
		return p->tunnel ? deliver_to_node(skb, p) : deliver_to_stack(skb);
	if (!to)
		return drop(skb, p, DROP_UNROUTABLE);
	return is_ipv6(p) ? deliver_local(skb, p, to, slot, DIRECTION_EGRESS | DIRECTION_INGRESS, true) :
			    deliver_local(skb, p, to, slot, DIRECTION_EGRESS | DIRECTION_INGRESS, false);
}

/* Everything but an established flow. The source has been checked. */
static __noinline int leave_slowly(struct __sk_buff *skb, struct packet *p)
{
	const struct endpoint *ep = endpoint_at(p->source_slot);
	bool told = false;
	int reason;

	if (!ep)
		return drop(skb, p, DROP_UNKNOWN_SENDER);
	if (p->kind == KIND_ICMP_ERROR) {
		reason = related(skb, p);
		return reason ? drop(skb, p, reason) : leave_forward(skb, p, p->destination_slot);
	}
	p->source_policy = READ_ONCE(ep->policy);
	p->source_identity = policy_subject(p->source_policy);
	if (!p->source_identity)
		return drop(skb, p, DROP_NO_POLICY);
	reason = leave_towards(skb, p, ep, &told);
	if (unlikely(told))
		return reason == SERVED_ECHO ? answer_echo(skb, p) : refuse(skb, p, reason);
	if (!reason)
		reason = judge_flow(skb, p);
	if (!reason && unlikely(p->backend))
		reason = serve_remember(p);
	if (reason)
		return drop(skb, p, reason);
	return leave_forward(skb, p, p->destination_policy ? p->destination_slot : 0);
}

/* Nobody speaks to the nodes' tunnels but the nodes. */
static __always_inline bool is_encapsulated(const struct packet *p)
{
	const __u32 port = bpf_ntohs(p->destination_port);

	return p->protocol == IPPROTO_UDP && port && (port == vxlan_port || port == geneve_port);
}

static __always_inline int leave(struct __sk_buff *skb, struct packet *p, const struct endpoint *ep, const bool v6)
{
	int reason = !linear(skb, v6) ? DROP_INVALID_PACKET : v6 ? parse6(skb, p) : parse4(skb, p);
	int action;

	if (unlikely(reason))
		return drop(skb, p, reason);
	if (v6 && unlikely(p->kind == KIND_LINK))
		return neighbour_from_container(skb, p);
	if (unlikely(!endpoint_has(ep, &p->source, v6)))
		return drop(skb, p, DROP_INVALID_SOURCE);
	if (unlikely(is_encapsulated(p)))
		return drop(skb, p, DROP_ENCAPSULATION);
	if (likely(p->kind == KIND_FLOW)) {
		action = leave_established(skb, p, ep, v6);
		if (likely(action != NOT_ESTABLISHED))
			return action;
	}
	return leave_slowly(skb, p);
}

#endif

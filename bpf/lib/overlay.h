/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IP packets on the tunnel device. Out of the tunnel: who sent them is told by the outer header; the ingress policy of an
 * endpoint here is judged by that, or the host's stack gets what is for the host. Into the tunnel: what the stack has
 * routed to other nodes' pods.
 */
#ifndef OVERLAY_H
#define OVERLAY_H

#include "enter.h"
#include "leave.h"
#include "nodeport.h"

#define PACKET_HOST 0

/*
 * A living entry whose stamps are those of today and whose other end is whom the outer header names, behind the node that
 * it names.
 */
static __always_inline int overlay_established(struct __sk_buff *skb, struct packet *p, const bool v6)
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
	if (unlikely(entry->flags & CT_SERVICE)) {
		entry = serve_again(skb, p, entry->stamp[0], entry->service);
		if (!entry)
			return p->backend && p->service ? drop(skb, p, DROP_WRITE_ERROR) : NOT_ESTABLISHED;
		side = ct_side(p, v6) & 1;
	}
	other = side ^ 1;
	if (!(entry->flags & CT_TUNNEL))
		return NOT_ESTABLISHED;
	if (unlikely(entry->service != p->service)) {
		answer = ct_opener(entry) != side;
		if (!answer)
			return NOT_ESTABLISHED;
		p->service = entry->service;
	}
	if (entry->slot[side] || entry->stamp[side] != p->source_identity || entry->node != p->node ||
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
	if (unlikely(answer)) {
		reason = serve_answer(skb, p);
		if (reason)
			return drop(skb, p, reason);
	}
	return deliver_local(skb, p, to, slot, DIRECTION_INGRESS, v6);
}

/*
 * 0, or the reason to drop.
 *
 * The source is behind the node that sent the packet, and has the identity that the tunnel says: nobody need have heard of
 * its address. But policies here must be complete about the identity, and it must be one of the node's cluster.
 */
static __always_inline __u32 overlay_source(struct packet *p)
{
	struct ipcache_entry found;
	const struct vtep *behind;

	p->ipcache_generation = ipcache_generation();
	found = ipcache_find(&p->source, p->family);
	if (found.slot || found.identity == IDENTITY_HOST) {
		p->source_slot = found.slot;
		return DROP_INVALID_SOURCE;
	}
	behind = tunnel_find(&p->source, p->family);
	if (!behind || behind->node != p->node)
		return DROP_INVALID_SOURCE;
	if (!tunnel_may_give(behind, p->source_identity) || !identity_is_judged(p->source_identity))
		return DROP_INVALID_IDENTITY;
	/* For the world a node speaks under its own address alone. */
	if (is_outside(p->source_identity) && found.identity != IDENTITY_REMOTE_NODE)
		return DROP_INVALID_IDENTITY;
	return 0;
}

/* 0, or the reason to drop; without a slot it is for the host, or once it was `served` for another node's pod. */
static __always_inline __u32 overlay_destination(struct packet *p, bool served)
{
	const struct ipcache_entry found = ipcache_find(&p->destination, p->family);
	const struct endpoint *to;

	p->destination_identity = found.identity;
	if (!found.slot)
		return (found.identity == IDENTITY_HOST) != served ? 0 : DROP_NO_ENDPOINT;
	to = endpoint_at(found.slot);
	if (!to || !endpoint_has(to, &p->destination, is_ipv6(p)))
		return DROP_NO_ENDPOINT;
	p->destination_slot = found.slot;
	if ((to->flags & ENDPOINT_INTERNAL) && is_outside(p->source_identity))
		return DROP_UNROUTABLE;
	p->destination_policy = READ_ONCE(to->policy);
	p->destination_identity = policy_subject(p->destination_policy);
	return p->destination_identity ? 0 : DROP_NO_POLICY;
}

/*
 * Who the ends are, once services have been asked about what is for the host: a port of it may be a container's, here or
 * elsewhere. 0, or the reason to drop.
 */
static __always_inline __u32 overlay_towards(struct __sk_buff *skb, struct packet *p)
{
	__u32 reason = overlay_source(p);
	int served;

	if (!reason)
		reason = overlay_destination(p, false);
	if (reason || p->destination_slot || p->service || !may_open(p))
		return reason;
	served = serve(skb, p, LB_EXTERNAL);
	if (served == SERVED)
		return overlay_destination(p, true);
	return served > 0 ? served : 0;
}

/* Who asked through the tunnel is told through it that there is nobody. */
static __noinline int overlay_refuse(struct __sk_buff *skb, struct packet *p)
{
	const int action = drop(skb, p, DROP_NO_SERVICE);
	const union address asker = p->source;

	if (p->later_fragment || !(p->protocol == IPPROTO_TCP ? refuse_tcp(skb, p) : refuse_icmp(skb, p, 0)))
		return action;
	p->source = p->destination;
	p->destination = asker;
	p->source_identity = IDENTITY_HOST;
	p->tunnel = 1;
	return nodeport_forward(skb, p);
}

static __noinline int overlay_slowly(struct __sk_buff *skb, struct packet *p)
{
	__u32 reason = overlay_towards(skb, p);
	const struct endpoint *to;
	int action;

	if (reason == DROP_NO_SERVICE)
		return overlay_refuse(skb, p);
	if (reason)
		return drop(skb, p, reason);
	p->tunnel = 1;
	if (!p->destination_slot) {
		action = NOT_ESTABLISHED;
		if (p->backend)
			action = nodeport_open(skb, p);
		else if (p->kind == KIND_ICMP_ERROR)
			action = nodeport_error(skb, p);
		if (action == NODEPORT_FORWARD)
			return nodeport_forward(skb, p);
		if (action != NOT_ESTABLISHED)
			return action;
		count(REASON_FORWARDED, DIRECTION_INGRESS, skb->len);
		return TC_ACT_OK;
	}
	reason = p->kind == KIND_ICMP_ERROR ? related(skb, p) : judge_flow(skb, p);
	if (!reason && unlikely(p->service) && p->ct_state == CT_REPLY)
		reason = serve_answer(skb, p);
	if (!reason && unlikely(p->backend))
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

static __always_inline int overlay_in(struct __sk_buff *skb, struct packet *p, const bool v6)
{
	int reason = !linear(skb, v6) ? DROP_INVALID_PACKET : v6 ? parse6(skb, p) : parse4(skb, p);
	int action;

	if (unlikely(reason))
		return drop(skb, p, reason);
	if (v6 && unlikely(p->kind == KIND_LINK))
		return drop(skb, p, DROP_FORBIDDEN_ICMP6);
	/* The inner hardware address is nobody's; stacks take only what is theirs. */
	bpf_skb_change_type(skb, PACKET_HOST);
	if (likely(p->kind == KIND_FLOW)) {
		action = overlay_established(skb, p, v6);
		if (likely(action != NOT_ESTABLISHED))
			return action;
	}
	return overlay_slowly(skb, p);
}

/* What came in the programs' own Geneve: the same, but that the stack gets its part by the tunnel device. */
static __always_inline int overlay_carried(struct __sk_buff *skb, struct packet *p, const bool v6)
{
	int action = overlay_in(skb, p, v6);

	return action == TC_ACT_OK ? geneve_to_stack(skb) : action;
}

/* What comes in on the tunnel device of the programs' own Geneve: overlay_carried has sent it, or nobody. */
static __always_inline int overlay_opened(struct __sk_buff *skb, struct packet *p)
{
	if (!geneve_has_opened(skb))
		return drop(skb, p, DROP_UNKNOWN_SENDER);
	/* The inner hardware address is nobody's; stacks take only what is theirs. */
	bpf_skb_change_type(skb, PACKET_HOST);
	return TC_ACT_OK;
}

/*
 * Whose the packet is that the stack routes into the tunnel: the host's own, a container's answer that the host translated
 * and gives as its own, a container's under its own address. 0: for anybody else this node does not speak.
 */
static __always_inline __u32 overlay_speaker(const struct __sk_buff *skb, struct packet *p)
{
	const struct endpoint *from;

	if (is_from_host(skb))
		return IDENTITY_HOST;
	p->source_slot = slot_of_ifindex(skb->ingress_ifindex);
	from = endpoint_at(p->source_slot);
	if (!from)
		return 0;
	if (endpoint_has(from, &p->source, is_ipv6(p)))
		return from->identity;
	return ipcache_find(&p->source, p->family).identity == IDENTITY_HOST ? IDENTITY_HOST : 0;
}

static __always_inline int overlay_out(struct __sk_buff *skb, struct packet *p, const bool v6)
{
	const struct vtep *vtep;
	int reason = !linear(skb, v6) ? DROP_INVALID_PACKET : v6 ? parse6(skb, p) : parse4(skb, p);

	if (unlikely(reason))
		return drop(skb, p, reason);
	if (v6 && p->kind == KIND_LINK)
		return drop(skb, p, DROP_FORBIDDEN_ICMP6);
	p->source_identity = overlay_speaker(skb, p);
	if (!p->source_identity)
		return drop(skb, p, DROP_INVALID_SOURCE);
	if (geneve == GENEVE_PROGRAMS)
		return geneve_send(skb, p);
	vtep = tunnel_find(&p->destination, p->family);
	if (!vtep)
		return drop(skb, p, DROP_UNROUTABLE);
	if (tunnel_address(skb, vtep, p->source_identity))
		return drop(skb, p, DROP_WRITE_ERROR);
	count(REASON_FORWARDED, DIRECTION_EGRESS, skb->len);
	return TC_ACT_OK;
}

#endif

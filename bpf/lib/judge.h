/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The slow side of both programs: packets that no living, current conntrack entry vouches for. Asks the policies of the
 * ends that are here, in the direction in which the flow was opened, and keeps conntrack accordingly. So a policy that
 * went away cuts both directions of a flow with the next packet.
 *
 * Owns the order of these steps; who the ends are is told in struct packet (leave.h, enter.h).
 */
#ifndef JUDGE_H
#define JUDGE_H

#include "conntrack.h"
#include "endpoints.h"
#include "events.h"
#include "identities.h"
#include "ipcache.h"
#include "policy.h"
#include "runtime.h"
#include "scratch.h"

/* Replies and other ICMP never open a flow: they are judged each by itself. */
static __always_inline bool opens_flow(const struct packet *p)
{
	return p->kind == KIND_FLOW && (!is_icmp(p) || is_echo_request(p));
}

/* The port that policies speak about: the opened one; of ICMP the type that opened. */
static __always_inline __u16 policy_port(const struct packet *p, bool forward)
{
	if (is_icmp(p) && !forward)
		return p->protocol == IPPROTO_ICMP ? ICMP_ECHO : ICMPV6_ECHO_REQUEST;
	return bpf_ntohs(forward ? p->destination_port : p->source_port);
}

/*
 * Asks the opener's egress and the target's ingress policy. 0, or the reason to drop; p->direction then tells which end
 * of the packet in hand refused: egress its source, ingress its destination.
 */
static __always_inline __u32 judge(struct packet *p, bool forward, __u32 bytes)
{
	const __u32 opener = forward ? p->source_identity : p->destination_identity;
	const __u32 target = forward ? p->destination_identity : p->source_identity;
	const __u32 opener_policy = forward ? p->source_policy : p->destination_policy;
	const __u32 target_policy = forward ? p->destination_policy : p->source_policy;
	struct policy_question q = { .bytes = bytes, .port = policy_port(p, forward), .protocol = p->protocol };
	__u32 reason = 0;

	if (opener_policy) {
		q.policy = opener_policy;
		q.peer = target;
		q.direction = POLICY_EGRESS;
		reason = policy_verdict(&q);
		p->matched = q.matched;
		if (reason) {
			p->direction = forward ? DIRECTION_EGRESS : DIRECTION_INGRESS;
			return reason;
		}
	}
	if (target_policy) {
		q.policy = target_policy;
		q.peer = opener;
		q.direction = POLICY_INGRESS;
		reason = policy_verdict(&q);
		p->matched = q.matched;
		if (reason)
			p->direction = forward ? DIRECTION_INGRESS : DIRECTION_EGRESS;
	}
	return reason;
}

/*
 * Writes into `entry` what the verdict on a packet of `side` rests on, and accounts the packet; true when it has earned a
 * trace. `side` is a constant to the compiler: an offset into the stack that is not one the verifier may refuse.
 */
static __always_inline bool renew(struct ct_entry *entry, const struct packet *p, const __u32 side, bool fresh,
				  __u32 bytes, __u32 now)
{
	const __u32 other = side ^ 1;

	if (fresh) {
		entry->flags = side ? CT_OPENED_BY_B : 0;
		entry->reported[side] = now >> REPORT_SHIFT;
		entry->reported[other] = (now >> REPORT_SHIFT) - report_ticks(); /* the first reply is worth a trace */
	}
	entry->slot[side] = p->source_policy ? p->source_slot : 0;
	entry->stamp[side] = p->source_policy ?: p->source_identity;
	entry->slot[other] = p->destination_policy ? p->destination_slot : 0;
	entry->stamp[other] = p->destination_policy ?: p->destination_identity;
	entry->ipcache_generation = p->ipcache_generation;
	entry->node = p->node;
	entry->flags = (entry->flags & ~(CT_HAIRPIN | CT_TUNNEL | CT_DIRECT | CT_SNAT)) | (p->hairpin ? CT_HAIRPIN : 0) |
		       (p->tunnel ? CT_TUNNEL : 0) | (p->direct && !p->hairpin ? CT_DIRECT : 0);
	return ct_touch(entry, p, side, bytes, now);
}

/* Directions of an allowed packet: egress when its source is judged here, ingress when its destination is. */
static __always_inline __u8 directions(const struct packet *p)
{
	return (p->source_policy ? DIRECTION_EGRESS : 0) | (p->destination_policy ? DIRECTION_INGRESS : 0);
}

static __always_inline void report_judged(struct __sk_buff *skb, const struct packet *p, bool fresh, bool due)
{
	const __u32 level = monitor_level();

	if (fresh && level >= MONITOR_VERDICTS)
		emit(skb, p, EVENT_VERDICT, 0);
	else if (level >= MONITOR_ALL || (due && level == MONITOR_MEDIUM))
		emit(skb, p, EVENT_TRACE, 0);
}

/*
 * A reply to what may have come through the tunnel. Then its opener is whom the tunnel said, as long as that can be
 * judged: here need not be known who has the address, nor does it matter.
 */
static __always_inline void answer_node(struct packet *p, const struct ct_entry *entry, __u32 side)
{
	const __u32 other = (side ^ 1) & 1;

	p->tunnel = !!(entry->flags & CT_TUNNEL);
	if (!p->tunnel || !p->node || p->destination_slot || entry->slot[other] ||
	    !identity_is_judged(entry->stamp[other]))
		return;
	p->destination_identity = entry->stamp[other];
	p->unheard = 0;
}

/*
 * A flow that is known goes on as it did: only its opener's own packets say anew which way. It leaves as it came, and who
 * has become somebody else than a pod is the stack's.
 */
static __always_inline void go_on(struct packet *p, const struct ct_entry *entry, bool forward)
{
	const bool leaves = p->point == POINT_FROM_ENDPOINT;

	if (leaves && forward)
		return;
	p->direct = (entry->flags & CT_DIRECT) &&
		    (entry->service || is_pod(leaves ? p->destination_identity : p->source_identity));
}

/* A packet that is no part of a flow and makes none. */
static __always_inline int judge_alone(struct __sk_buff *skb, struct packet *p)
{
	__u32 reason = p->unheard || p->self ? DROP_UNROUTABLE : judge(p, true, skb->len);

	if (reason)
		return reason;
	p->direction = directions(p);
	report_judged(skb, p, false, false);
	return 0;
}

/*
 * Judges the packet and brings conntrack up to date: 0, or the reason to drop.
 *
 * An entry is always replaced whole, never stamped in place: an LRU map may meanwhile have given its memory to another
 * flow, and a verdict must not end up there.
 */
__noinline int judge_flow(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *room = scratch();
	struct ct_entry *next;
	union ct_key key;
	struct ct_entry *entry;
	bool v6, fresh, forward, due;
	__u32 side, now, reason;

	if (!p || !room)
		return DROP_INVALID_PACKET;
	if (p->kind != KIND_FLOW)
		return judge_alone(skb, p);
	next = &room->entry;
	v6 = is_ipv6(p);
	now = now_jiffies();
	side = ct_key_of(p, &key, v6) & 1;
	entry = ct_find(&key, v6);
	/* A service's entry is for nobody if nobody serves any more. */
	if (entry && ((entry->flags & CT_SERVICE) || ct_expired(entry, p->protocol, now)))
		entry = NULL;
	if (!entry && !opens_flow(p))
		return judge_alone(skb, p);

	fresh = !entry || ct_reopens(entry, p, side);
	forward = fresh || ct_opener(entry) == side;
	if (!fresh) {
		p->ct_state = forward ? CT_ESTABLISHED : CT_REPLY;
		/* Replies go back the way the flow came: the host translated addresses, and must do so again. */
		if (!forward && (entry->flags & CT_HAIRPIN) && p->point == POINT_FROM_ENDPOINT) {
			p->hairpin = 1;
			p->destination_policy = 0;
		}
		/* The opener asked for an address, and its policy was asked about that, not about who stands behind it. */
		if (!forward && p->hairpin && p->point == POINT_TO_ENDPOINT)
			p->source_identity = ipcache_find(&p->source, p->family).identity;
		/* What the host translated must come by the host again; what came through the tunnel goes back through it. */
		if (!forward && p->point == POINT_FROM_ENDPOINT)
			answer_node(p, entry, side);
		go_on(p, entry, forward);
		if (!forward)
			p->service = entry->service;
		*next = *entry;
	} else {
		memset(next, 0, sizeof(*next));
	}
	next->service = p->service;
	/*
	 * Nobody is sent a packet who has no identity yet, or whose address nobody has. Everybody may call himself, but only a
	 * service does that for him.
	 */
	if (p->unheard || (p->self && !p->service))
		reason = DROP_UNROUTABLE;
	else
		reason = p->self ? 0 : judge(p, forward, skb->len);
	/*
	 * The entry of a refused flow stays: its stamps are not those of today, so every further packet of both directions
	 * comes here, and is judged in the direction in which the flow was opened. Without the entry the next packet of the
	 * called end would open a flow of its own, and the refused end's packets would pass as replies to it.
	 */
	if (reason)
		return reason;
	due = side ? renew(next, p, 1, fresh, skb->len, now) : renew(next, p, 0, fresh, skb->len, now);
	reason = ct_store(&key, next, v6);
	if (reason)
		return reason;
	p->direction = directions(p);
	report_judged(skb, p, fresh, due);
	return 0;
}

#endif

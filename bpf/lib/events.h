/* SPDX-License-Identifier: Apache-2.0 */
/* Records for user space in one ring buffer. Owns their making; when one is due is the callers' business. */
#ifndef EVENTS_H
#define EVENTS_H

#include "metrics.h"
#include "packet.h"

#define EVENTS_BYTES (4 << 20)

struct {
	FIELD(type, BPF_MAP_TYPE_RINGBUF);
	FIELD(max_entries, EVENTS_BYTES);
	FIELD(pinning, PIN_BY_NAME);
} cilium_events SEC(".maps");

/*
 * Never called and never loaded. A record is in no map's type, so without a function that takes one the object's type
 * information would not describe it, and nobody could compare it with its Rust twin.
 */
__noinline int event_described(const struct event *event)
{
	return event ? event->kind : 0;
}

static __always_inline void event_fill(struct event *event, struct __sk_buff *skb, const struct packet *p, __u32 kind,
				       __u32 reason)
{
	const bool icmp = p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6;

	event->timestamp = bpf_ktime_get_ns();
	event->kind = kind;
	event->reason = reason;
	event->point = p->point;
	event->direction = p->direction;
	event->ct_state = p->ct_state;
	event->matched = p->matched;
	event->family = p->family;
	event->protocol = p->protocol;
	event->source_identity = p->source_identity;
	event->destination_identity = p->destination_identity;
	event->source_slot = p->source_slot;
	event->destination_slot = p->destination_slot;
	event->source_port = icmp ? 0 : bpf_ntohs(p->source_port);
	event->destination_port = bpf_ntohs(p->destination_port);
	event->ifindex = skb->ifindex;
	event->length = skb->len;
	event->cpu = bpf_get_smp_processor_id();
	event->pad = 0;
}

/*
 * Writes one event. Readers poll (no wake-up: it would cost each new flow an interrupt); a full ring is counted, and
 * never stops the packet.
 */
__noinline int emit(struct __sk_buff *skb, const struct packet *p, __u32 kind, __u32 reason)
{
	struct event *event;
	__u32 captured = skb->len;

	if (!p)
		return 0;
	event = bpf_ringbuf_reserve(&cilium_events, sizeof(*event), 0);
	if (!event) {
		count(REASON_EVENT_LOST, p->direction, skb->len);
		return 0;
	}
	event_fill(event, skb, p, kind, reason);
	if (captured > EVENT_CAPTURE)
		captured = EVENT_CAPTURE;
	/* The verifier refuses a load of nothing, and Linux 6.1 does not learn from a comparison with 0 that it is none. */
	if (captured < 2 || bpf_skb_load_bytes(skb, 0, event->packet, captured))
		captured = 0;
	event->captured = captured;
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ICMP errors: let in when the packet that they quote belongs to a living flow whose verdict still stands, refused
 * otherwise. The quoted packet went the other way: its source is whom the error is for.
 */
#ifndef RELATED_H
#define RELATED_H

#include "conntrack.h"
#include "endpoints.h"
#include "events.h"
#include "parse.h"
#include "runtime.h"

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

/*
 * 0, or the reason to drop. The end that is here must be the one it claims to be: from a container, the receiver of the
 * quoted packet; to a container, its sender. Sets the destination in `p` as the flow has it.
 */
__noinline int related(struct __sk_buff *skb, struct packet *p)
{
	struct packet quoted = {};
	union ct_key key;
	const struct endpoint *to;
	struct ct_entry *entry;
	__u32 side, other, reason;
	bool v6;

	if (!p)
		return DROP_INVALID_PACKET;
	p->ct_state = CT_RELATED;
	if (p->later_fragment)
		return DROP_FRAGMENT_NOT_FOUND;
	quoted.family = p->family;
	reason = parse_quoted(skb, &quoted, p->transport + ICMP_HEADER);
	if (reason)
		return reason;
	if (quoted.kind != KIND_FLOW || !same_address(&quoted.source, &p->destination))
		return DROP_UNKNOWN_CT_STATE;
	if (p->point == POINT_FROM_ENDPOINT && !same_address(&quoted.destination, &p->source))
		return DROP_UNKNOWN_CT_STATE;
	v6 = is_ipv6(p);
	side = ct_key_of(&quoted, &key, v6) & 1;
	other = side ^ 1;
	entry = ct_find(&key, v6);
	if (!entry || ct_expired(entry, quoted.protocol, now_jiffies()))
		return DROP_UNKNOWN_CT_STATE;
	if (!related_end_stands(entry, side, &quoted.source, v6) ||
	    !related_end_stands(entry, other, &quoted.destination, v6))
		return DROP_UNKNOWN_CT_STATE;
	if (p->point == POINT_FROM_ENDPOINT) {
		if (entry->slot[other] != p->source_slot)
			return DROP_UNKNOWN_CT_STATE;
		p->destination_slot = entry->slot[side];
		p->tunnel = !!(entry->flags & CT_TUNNEL);
		to = endpoint_at(p->destination_slot);
		p->destination_identity = to ? to->identity : entry->stamp[side & 1];
	} else if (entry->slot[side & 1] != p->destination_slot) {
		return DROP_UNKNOWN_CT_STATE;
	}
	if (monitor_level() >= MONITOR_ALL)
		emit(skb, p, EVENT_TRACE, 0);
	return 0;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The only way to drop a packet: counted and reported, never silent. */
#ifndef DROP_H
#define DROP_H

#include <linux/pkt_cls.h>

#include "events.h"

__noinline int drop(struct __sk_buff *skb, struct packet *p, __u32 reason)
{
	if (!p)
		return TC_ACT_SHOT;
	count(reason, p->direction, skb->len);
	emit(skb, p, EVENT_DROP, reason);
	return TC_ACT_SHOT;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verdicts: the best key of the peer's identity and the best key of any identity; the larger precedence wins, on a tie
 * deny, then the longer match. Nothing found: refused.
 */
#ifndef POLICY_H
#define POLICY_H

#include "packet.h"

#define POLICY_ENTRIES 131072

MAP(cilium_policies, BPF_MAP_TYPE_ARRAY, __u32, struct policy_header, POLICY_SLOTS, BPF_F_RDONLY_PROG);
MAP(cilium_policy, BPF_MAP_TYPE_HASH, struct policy_key, struct policy_entry, POLICY_ENTRIES, BPF_F_NO_PREALLOC);

/* What is asked, and in `matched` how it was answered. */
struct policy_question {
	__u32 policy;
	__u32 peer;
	__u32 bytes;
	__u16 port; /* host order */
	__u8 protocol;
	__u8 direction; /* POLICY_INGRESS, POLICY_EGRESS */
	__u8 matched; /* enum policy_match */
	__u8 pad[3];
};

#define POLICY_PORT_CLASSES ((1u << POLICY_CLASS_ANY_PROTOCOL) - 1)

/* The highest bit of a number below 1 << 32, without a branch, which the verifier would follow both ways each time. */
static __always_inline __u32 highest_bit(__u32 x)
{
	static const __u8 position[32] = { 0, 9,  1,  10, 13, 21, 2,  29, 11, 14, 16, 18, 22, 25, 3, 30,
					   8, 12, 20, 28, 15, 17, 24, 7,  19, 27, 23, 6,  26, 5,  4, 31 };

	x |= x >> 1;
	x |= x >> 2;
	x |= x >> 4;
	x |= x >> 8;
	x |= x >> 16;
	return position[(x * 0x07c4acddu) >> 27];
}

/*
 * The most specific entry of one identity: classes by falling number of port bits, any protocol last; only those that
 * occur are probed. `class` is the one that hit.
 */
static __noinline struct policy_entry *policy_best(const struct policy_question *q, __u32 identity, __u32 classes,
						   __u32 *class)
{
	struct policy_key key = { .policy = q->policy, .identity = identity, .protocol = q->protocol };
	const __u8 egress = q->direction == POLICY_EGRESS ? POLICY_KEY_EGRESS : 0;
	__u32 left = classes & POLICY_PORT_CLASSES;
	struct policy_entry *entry;

	for (int i = 0; i < POLICY_CLASSES && left; i++) {
		__u32 n = highest_bit(left) & 31;

		left &= ~(1u << n);
		key.port = q->port & (0xffff0000u >> (n & 31));
		key.class_direction = n | egress;
		entry = bpf_map_lookup_elem(&cilium_policy, &key);
		if (entry) {
			*class = n;
			return entry;
		}
	}
	if (!(classes & (1u << POLICY_CLASS_ANY_PROTOCOL)))
		return NULL;
	key.port = 0;
	key.protocol = 0;
	key.class_direction = POLICY_CLASS_ANY_PROTOCOL | egress;
	*class = POLICY_CLASS_ANY_PROTOCOL;
	return bpf_map_lookup_elem(&cilium_policy, &key);
}

static __always_inline __u8 policy_match_of(__u32 class, bool any_peer)
{
	if (class == POLICY_CLASS_ANY_PROTOCOL)
		return any_peer ? MATCH_ALL : MATCH_L3_ONLY;
	if (class == 0)
		return any_peer ? MATCH_PROTO_ONLY : MATCH_L3_PROTO;
	return any_peer ? MATCH_L4_ONLY : MATCH_L3_L4;
}

/* Precedence first, then deny, then the longer match; any protocol is the shortest. */
static __always_inline __u32 policy_weight(const struct policy_entry *entry, __u32 class)
{
	__u32 length = class == POLICY_CLASS_ANY_PROTOCOL ? 0 : class + 1;

	return (__u32)entry->precedence << 16 | (entry->flags & POLICY_DENY) << 8 | length;
}

/* The header of a policy, or NULL when it is not in the kernel. */
static __always_inline const struct policy_header *policy_header(__u32 policy)
{
	__u32 index = policy % POLICY_SLOTS;
	const struct policy_header *header = bpf_map_lookup_elem(&cilium_policies, &index);

	return header && policy && header->id == policy ? header : NULL;
}

/*
 * Whose policy it is; 0 when it is not in the kernel. An endpoint's `policy` and `identity` change one after the other:
 * who takes both from the policy never judges one identity and stamps the verdict as that of another.
 */
static __always_inline __u32 policy_subject(__u32 policy)
{
	const struct policy_header *header = policy_header(policy);

	return header ? header->identity : 0;
}

/* 0 when allowed, else the reason to drop. */
__noinline int policy_verdict(struct policy_question *q)
{
	struct policy_entry *entry, *any;
	const struct policy_header *header;
	__u32 class = 0, any_class = 0, whose;

	if (!q)
		return DROP_NO_POLICY;
	q->matched = MATCH_NONE;
	header = policy_header(q->policy);
	if (!header)
		return DROP_NO_POLICY;
	whose = q->direction & 1;
	entry = q->peer ? policy_best(q, q->peer, header->classes[whose][POLICY_PEER], &class) : NULL;
	any = header->classes[whose][POLICY_ANY_PEER] ?
		      policy_best(q, 0, header->classes[whose][POLICY_ANY_PEER], &any_class) :
		      NULL;
	if (entry)
		q->matched = policy_match_of(class, false);
	if (any && (!entry || policy_weight(any, any_class) > policy_weight(entry, class))) {
		entry = any;
		q->matched = policy_match_of(any_class, true);
	}
	if (!entry)
		return DROP_POLICY_DENIED;
	__sync_fetch_and_add(&entry->packets, 1);
	__sync_fetch_and_add(&entry->bytes, q->bytes);
	if (entry->flags & POLICY_DENY)
		return DROP_POLICY_DENY;
	return entry->proxy_port ? DROP_NO_PROXY : 0;
}

#endif

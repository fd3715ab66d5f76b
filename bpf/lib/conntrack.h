/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flows that were allowed: one entry for both directions. Owns keys, lifetimes and bookkeeping; whether a flow may be
 * is policy.h's, and what the stamps of an entry are compared with is the programs'.
 */
#ifndef CONNTRACK_H
#define CONNTRACK_H

#include "config.h"
#include "packet.h"

/* Cilium's size of its TCP table. */
#define CT_ENTRIES 524288

MAP(cilium_ct4_global, BPF_MAP_TYPE_LRU_HASH, struct ct4_key, struct ct_entry, CT_ENTRIES, 0);
MAP(cilium_ct6_global, BPF_MAP_TYPE_LRU_HASH, struct ct6_key, struct ct_entry, CT_ENTRIES, 0);

union ct_key {
	struct ct4_key v4;
	struct ct6_key v6;
};

static __always_inline bool is_echo_request(const struct packet *p)
{
	return p->destination_port == bpf_htons(p->protocol == IPPROTO_ICMP ? ICMP_ECHO : ICMPV6_ECHO_REQUEST);
}

static __always_inline bool is_icmp(const struct packet *p)
{
	return p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6;
}

/* 1 when the sender is side b. */
static __always_inline __u32 ct_side4(const struct packet *p, __be16 source_port, __be16 destination_port)
{
	return ((__u64)p->source.v4 << 16 | source_port) > ((__u64)p->destination.v4 << 16 | destination_port);
}

static __always_inline __u32 ct_side6(const struct packet *p, __be16 source_port, __be16 destination_port)
{
	if (p->source.half[0] != p->destination.half[0])
		return p->source.half[0] > p->destination.half[0];
	if (p->source.half[1] != p->destination.half[1])
		return p->source.half[1] > p->destination.half[1];
	return source_port > destination_port;
}

/* The sender's side of a flow that is no ICMP. */
static __always_inline __u32 ct_side(const struct packet *p, bool v6)
{
	return v6 ? ct_side6(p, p->source_port, p->destination_port) : ct_side4(p, p->source_port, p->destination_port);
}

/* Writes the key of the packet's flow and returns the sender's side of it. */
static __always_inline __u32 ct_key_of(const struct packet *p, union ct_key *key, bool v6)
{
	__be16 source_port = p->source_port, destination_port = p->destination_port;
	__u8 asker = CT_ASKER_NONE;
	__u32 side;

	if (unlikely(is_icmp(p)))
		destination_port = source_port;
	side = v6 ? ct_side6(p, source_port, destination_port) : ct_side4(p, source_port, destination_port);
	if (unlikely(is_icmp(p)))
		asker = (is_echo_request(p) ? side : !side) ? CT_ASKER_B : CT_ASKER_A;
	if (v6) {
		memcpy(key->v6.a, side ? &p->destination : &p->source, 16);
		memcpy(key->v6.b, side ? &p->source : &p->destination, 16);
		key->v6.pa = side ? destination_port : source_port;
		key->v6.pb = side ? source_port : destination_port;
		key->v6.protocol = p->protocol;
		key->v6.asker = asker;
		key->v6.pad[0] = key->v6.pad[1] = 0;
	} else {
		key->v4.a = side ? p->destination.v4 : p->source.v4;
		key->v4.b = side ? p->source.v4 : p->destination.v4;
		key->v4.pa = side ? destination_port : source_port;
		key->v4.pb = side ? source_port : destination_port;
		key->v4.protocol = p->protocol;
		key->v4.asker = asker;
		key->v4.pad[0] = key->v4.pad[1] = 0;
	}
	return side;
}

static __always_inline struct ct_entry *ct_find(const union ct_key *key, bool v6)
{
	return v6 ? bpf_map_lookup_elem(&cilium_ct6_global, &key->v6) : bpf_map_lookup_elem(&cilium_ct4_global, &key->v4);
}

/* 0, or the reason to drop: a flow that cannot be remembered must not be let through, its replies would be refused. */
static __always_inline __u32 ct_store(const union ct_key *key, const struct ct_entry *entry, bool v6)
{
	long err = v6 ? bpf_map_update_elem(&cilium_ct6_global, &key->v6, entry, BPF_ANY) :
			bpf_map_update_elem(&cilium_ct4_global, &key->v4, entry, BPF_ANY);

	return err ? DROP_CT_INSERT_FAILED : 0;
}

static __always_inline __u32 ct_opener(const struct ct_entry *entry)
{
	return entry->flags & CT_OPENED_BY_B;
}

/* An RST from either side, or a FIN from both. */
static __always_inline bool ct_closing(const struct ct_entry *entry)
{
	__u8 a = entry->tcp_flags[0], b = entry->tcp_flags[1];

	return ((a | b) & TCP_RST) || (a & b & TCP_FIN);
}

static __always_inline __u32 ct_lifetime(const struct ct_entry *entry, __u8 protocol)
{
	if (protocol != IPPROTO_TCP)
		return ct_timeout_any;
	if (ct_closing(entry))
		return ct_timeout_closing;
	/* Both have spoken: a flood of one-sided segments leaves only short-lived entries. */
	return entry->tcp_flags[0] && entry->tcp_flags[1] ? ct_timeout_tcp : ct_timeout_tcp_syn;
}

/* Signed: another CPU may have seen a later jiffy than this one. */
static __always_inline bool ct_expired(const struct ct_entry *entry, __u8 protocol, __u32 now)
{
	__s32 idle = now - entry->seen;

	return idle > (__s32)ct_timeout_closing && idle > (__s32)ct_lifetime(entry, protocol);
}

/* A SYN that is no part of the flow as it stands: against its direction, or after its end. */
static __always_inline bool ct_reopens(const struct ct_entry *entry, const struct packet *p, __u32 side)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && (ct_opener(entry) != side || ct_closing(entry));
}

/* The most: half of what `reported` can tell, so that a time just past is not taken for one to come. */
#define REPORT_TICKS_MOST 0x80

/* report_interval in units of `reported`. */
static __always_inline __u8 report_ticks(void)
{
	const __u32 ticks = report_interval >> REPORT_SHIFT;

	return ticks < REPORT_TICKS_MOST ? ticks : REPORT_TICKS_MOST;
}

/*
 * Accounts a packet of `side`. True when its flow has earned a trace: a SYN, FIN or RST not seen in that direction, or
 * report_interval passed.
 */
static __always_inline bool ct_touch(struct ct_entry *entry, const struct packet *p, __u32 side, __u32 bytes, __u32 now)
{
	__u8 fresh = p->tcp_flags & ~entry->tcp_flags[side];
	__u8 ticks = now >> REPORT_SHIFT;
	bool due = (__u8)(ticks - entry->reported[side]) >= report_ticks();

	/* Lines that many CPUs share are written only when they change. */
	if (entry->seen != now)
		entry->seen = now;
	__sync_fetch_and_add(&entry->packets[side], 1);
	__sync_fetch_and_add(&entry->bytes[side], bytes);
	if (unlikely(fresh)) {
		entry->tcp_flags[side] |= fresh;
		if (fresh & (TCP_SYN | TCP_FIN | TCP_RST))
			due = true;
	}
	if (unlikely(due))
		entry->reported[side] = ticks;
	return due;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Who has an address: identity, and slot when it is an endpoint of this node. */
#ifndef IPCACHE_H
#define IPCACHE_H

#include "packet.h"

/* Sizes are Cilium's. Only user space writes; entries are allocated as they come. */
#define IPCACHE_ENTRIES 512000

MAP(cilium_ipcache, BPF_MAP_TYPE_HASH, struct ipcache_key, struct ipcache_entry, IPCACHE_ENTRIES,
    BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
MAP(cilium_ipcache_lpm, BPF_MAP_TYPE_LPM_TRIE, struct ipcache_lpm_key, struct ipcache_entry, IPCACHE_ENTRIES,
    BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);

static __always_inline __u32 world_of(__u8 family)
{
	return family == FAMILY_IPV4 ? IDENTITY_WORLD_IPV4 : IDENTITY_WORLD_IPV6;
}

/* Whole addresses first: a hash costs the same however many there are, a trie does not. Unknown: the world. */
static __always_inline struct ipcache_entry ipcache_find(const union address *address, __u8 family)
{
	const struct ipcache_entry world = { .identity = world_of(family) };
	struct ipcache_lpm_key key = { .prefix = IPCACHE_LPM_FAMILY_BITS + 128, .key.family = family };
	const struct ipcache_entry *found;

	memcpy(key.key.address, address, sizeof(*address));
	found = bpf_map_lookup_elem(&cilium_ipcache, &key.key);
	if (found)
		return *found;
	if (family == FAMILY_IPV4)
		key.prefix = IPCACHE_LPM_FAMILY_BITS + 32;
	found = bpf_map_lookup_elem(&cilium_ipcache_lpm, &key);
	return found ? *found : world;
}

/* Identities that pods have, of this node or others. */
static __always_inline bool is_pod(__u32 identity)
{
	return (identity >= IDENTITY_FIRST_CLUSTER && identity < IDENTITY_FIRST_LOCAL) || identity == IDENTITY_HEALTH ||
	       identity == IDENTITY_INIT;
}

/* Identities that an internal network has no traffic with. */
static __always_inline bool is_outside(__u32 identity)
{
	return identity == IDENTITY_WORLD_IPV4 || identity == IDENTITY_WORLD_IPV6 || identity >= IDENTITY_FIRST_LOCAL;
}

#endif

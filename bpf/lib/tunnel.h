/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Other nodes: which pods are behind which of them, from whom tunnelled packets are believed, and what the outer header
 * says. One device for all peers takes the outer addresses from each packet's tunnel key; its network identifier is the
 * sender's identity.
 */
#ifndef TUNNEL_H
#define TUNNEL_H

#include "endpoints.h"
#include "packet.h"

#define TUNNEL_ENTRIES 65536

MAP(cilium_tunnel_map, BPF_MAP_TYPE_LPM_TRIE, struct ipcache_lpm_key, struct vtep, TUNNEL_ENTRIES,
    BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
MAP(cilium_node_map, BPF_MAP_TYPE_HASH, struct ipcache_key, __u32, TUNNEL_ENTRIES,
    BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);

/* Of the outer header. */
#define TUNNEL_HOPS 64
/* What kernels before 6.0 know of struct bpf_tunnel_key. */
#define TUNNEL_KEY_SIZE offsetof(struct bpf_tunnel_key, local_ipv4)

/* In bpf_tunnel_key.tunnel_flags, where the kernel is asked for them (6.0): Geneve's two flags. */
#define TUNNEL_CONTROL 0x0200
#define TUNNEL_CRITICAL 0x0400

static __always_inline __u32 tunnel_ifindex(void)
{
	return ifindex_of_slot(0);
}

/* The node that an address is behind, or NULL. */
static __always_inline const struct vtep *tunnel_find(const union address *address, __u8 family)
{
	struct ipcache_lpm_key key = { .key.family = family };

	key.prefix = IPCACHE_LPM_FAMILY_BITS + (family == FAMILY_IPV4 ? 32 : 128);
	memcpy(key.key.address, address, sizeof(*address));
	return bpf_map_lookup_elem(&cilium_tunnel_map, &key);
}

/* Whether the address is another node's own one. */
static __always_inline bool tunnel_is_node(const union address *address, __u8 family)
{
	struct ipcache_key node = { .family = family };

	memcpy(node.address, address, sizeof(*address));
	return bpf_map_lookup_elem(&cilium_node_map, &node);
}

/* Whether the node that was found for an address may give what is behind it this identity. */
static __always_inline bool tunnel_may_give(const struct vtep *vtep, __u32 identity)
{
	const __u32 cluster = identity >> IDENTITY_CLUSTER_SHIFT;

	return identity < IDENTITY_FIRST_CLUSTER || !vtep->strict || cluster == vtep->clusters[0] ||
	       cluster == vtep->clusters[1];
}

/* Writes where the packet goes and whose it is into its tunnel key; 0 unless that failed. */
static __always_inline long tunnel_address(struct __sk_buff *skb, const struct vtep *vtep, __u32 identity)
{
	struct bpf_tunnel_key key = { .tunnel_id = identity, .tunnel_ttl = TUNNEL_HOPS };
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	if (vtep->family == FAMILY_IPV6) {
		memcpy(key.remote_ipv6, vtep->address, sizeof(key.remote_ipv6));
		flags |= BPF_F_TUNINFO_IPV6;
	} else {
		memcpy(&key.remote_ipv4, vtep->address, sizeof(key.remote_ipv4));
		key.remote_ipv4 = bpf_ntohl(key.remote_ipv4);
	}
	return bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, flags);
}

/* What another node's endpoint is here; 0: no such identity is another node's to claim. */
static __always_inline __u32 tunnel_identity(__u32 claimed)
{
	if (likely(claimed >= IDENTITY_FIRST_CLUSTER))
		return claimed < IDENTITY_FIRST_LOCAL ? claimed : 0;
	switch (claimed) {
	case IDENTITY_HOST:
	case IDENTITY_REMOTE_NODE:
		return IDENTITY_REMOTE_NODE;
	case IDENTITY_HEALTH:
	case IDENTITY_INIT:
	/* For whom a node sends on what was asked of it (nodeport.h); not of pods: overlay.h. */
	case IDENTITY_WORLD_IPV4:
	case IDENTITY_WORLD_IPV6:
		return claimed;
	default:
		return 0;
	}
}

/* The sending node must be known, and the identity one that it may claim; 0, or why to drop. */
static __always_inline __u32 tunnel_believe(struct packet *p, const struct ipcache_key *node, __u32 claimed)
{
	const __u32 *number = bpf_map_lookup_elem(&cilium_node_map, node);

	if (!number)
		return DROP_UNKNOWN_SENDER;
	p->node = *number;
	p->source_identity = tunnel_identity(claimed);
	return p->source_identity ? 0 : DROP_INVALID_IDENTITY;
}

/* Reads who sends what out of the tunnel key; 0, or why to drop. */
static __always_inline __u32 tunnel_sender(struct __sk_buff *skb, struct packet *p)
{
	const __u64 flags = geneve == GENEVE_DEVICE ? BPF_F_TUNINFO_FLAGS : 0;
	/* As much of the structure as is asked for. */
	__u32 room[TUNNEL_KEY_SIZE / sizeof(__u32)] = {};
	struct bpf_tunnel_key *key = (void *)room;
	struct ipcache_key node = {};

	if (!bpf_skb_get_tunnel_key(skb, key, TUNNEL_KEY_SIZE, flags)) {
		node.family = FAMILY_IPV4;
		key->remote_ipv4 = bpf_htonl(key->remote_ipv4);
		memcpy(node.address, &key->remote_ipv4, sizeof(key->remote_ipv4));
	} else if (!bpf_skb_get_tunnel_key(skb, key, TUNNEL_KEY_SIZE, flags | BPF_F_TUNINFO_IPV6)) {
		node.family = FAMILY_IPV6;
		memcpy(node.address, key->remote_ipv6, sizeof(key->remote_ipv6));
	} else {
		return DROP_UNKNOWN_SENDER;
	}
	if (geneve == GENEVE_DEVICE && (key->tunnel_flags & bpf_htons(TUNNEL_CRITICAL | TUNNEL_CONTROL)))
		return DROP_TUNNEL_KEY;
	return tunnel_believe(p, &node, key->tunnel_id);
}

/* Whether the packet has been told where to go. */
static __always_inline bool tunnel_is_addressed(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};

	return !bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, 0) ||
	       !bpf_skb_get_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, BPF_F_TUNINFO_IPV6);
}

#endif

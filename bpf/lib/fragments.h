/* SPDX-License-Identifier: Apache-2.0 */
/* Ports of datagrams in pieces: the first fragment has them, the later ones are told here. */
#ifndef FRAGMENTS_H
#define FRAGMENTS_H

#include "config.h"
#include "packet.h"

#define FRAGMENT_ENTRIES 8192

MAP(cilium_ipv4_frag_datagrams, BPF_MAP_TYPE_LRU_HASH, struct frag4_key, struct frag_entry, FRAGMENT_ENTRIES, 0);
MAP(cilium_ipv6_frag_datagrams, BPF_MAP_TYPE_LRU_HASH, struct frag6_key, struct frag_entry, FRAGMENT_ENTRIES, 0);

/* A place in a datagram: which one, and which piece. */
struct fragment {
	__be32 id;
	__u16 offset; /* in units of 8 bytes */
	__u8 more; /* bool: not the last one */
	__u8 pad;
};

static __always_inline bool is_fragment(const struct fragment *f)
{
	return f->offset || f->more;
}

static __always_inline struct frag4_key frag4_key(const struct packet *p, __be32 id)
{
	return (struct frag4_key){
		.source = p->source.v4, .destination = p->destination.v4, .id = id, .protocol = p->protocol
	};
}

static __always_inline struct frag6_key frag6_key(const struct packet *p, __be32 id)
{
	struct frag6_key key = { .id = id, .protocol = p->protocol };

	memcpy(key.source, &p->source, sizeof(key.source));
	memcpy(key.destination, &p->destination, sizeof(key.destination));
	return key;
}

/* After the transport header of a first fragment has been read. A full table evicts, so nothing can fail for long. */
static __always_inline void fragment_remember(const struct packet *p, __be32 id)
{
	struct frag_entry entry = {
		.source_port = p->source_port, .destination_port = p->destination_port, .seen = now_jiffies()
	};

	if (is_ipv6(p)) {
		struct frag6_key key = frag6_key(p, id);

		bpf_map_update_elem(&cilium_ipv6_frag_datagrams, &key, &entry, BPF_ANY);
	} else {
		struct frag4_key key = frag4_key(p, id);

		bpf_map_update_elem(&cilium_ipv4_frag_datagrams, &key, &entry, BPF_ANY);
	}
}

/* Sets the ports of a later fragment; false when its first one is not known (any more). */
static __always_inline bool fragment_recall(struct packet *p, __be32 id)
{
	struct frag_entry *entry;

	if (is_ipv6(p)) {
		struct frag6_key key = frag6_key(p, id);

		entry = bpf_map_lookup_elem(&cilium_ipv6_frag_datagrams, &key);
	} else {
		struct frag4_key key = frag4_key(p, id);

		entry = bpf_map_lookup_elem(&cilium_ipv4_frag_datagrams, &key);
	}
	/* An identifier comes round again: what is too old belonged to another datagram. */
	if (!entry || (__s32)(now_jiffies() - entry->seen) > (__s32)frag_timeout)
		return false;
	p->source_port = entry->source_port;
	p->destination_port = entry->destination_port;
	p->later_fragment = 1;
	return true;
}

#endif

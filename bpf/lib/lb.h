/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services: what is asked for, and who answers a new flow. Owns the tables of both and the choice; what is done with the
 * answer (a socket's address, a packet's headers, what a flow remembers) is the programs'. For programs of every kind.
 *
 *     struct lb_question q = { .from = LB_EXTERNAL, .client.client = ... };
 *
 *     if (lb_find(&key, &q)) {                              it is a service
 *             if (!lb_may_ask(&q, v6)) ...                  but not for this one
 *             q.hash = lb_hash(&q, source_port);
 *             backend = lb_backend(lb_choose(&q));          NULL: nobody; refuse at once
 *     }
 */
#ifndef LB_H
#define LB_H

#include "kernel.h"

/* Unless the loader says otherwise. */
#define LB_AFFINITY_ENTRIES 65536
#define LB_MEMBERS 524288
#define LB_SOURCE_ENTRIES 65536

MAP(cilium_lb_services, BPF_MAP_TYPE_HASH, struct lb_key, struct lb_service, LB_SERVICES,
    BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
MAP(cilium_lb_places, BPF_MAP_TYPE_ARRAY, __u32, struct lb_row, LB_PLACE_ROWS, BPF_F_RDONLY_PROG);
MAP(cilium_lb_backends, BPF_MAP_TYPE_ARRAY, __u32, struct lb_backend, LB_BACKENDS, BPF_F_RDONLY_PROG);
MAP(cilium_lb_reverse, BPF_MAP_TYPE_ARRAY, __u32, struct lb_reverse, LB_SERVICES, BPF_F_RDONLY_PROG);
MAP(cilium_lb_affinity, BPF_MAP_TYPE_LRU_HASH, struct lb_client, struct lb_affinity, LB_AFFINITY_ENTRIES, 0);
MAP(cilium_lb_affinity_match, BPF_MAP_TYPE_HASH, struct lb_member, __u32, LB_MEMBERS,
    BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
MAP(cilium_lb_source_range, BPF_MAP_TYPE_LPM_TRIE, struct lb_source, __u32, LB_SOURCE_ENTRIES,
    BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);

/* Who asks whom. */
struct lb_question {
	struct lb_service service; /* set by lb_find */
	struct lb_client client; /* who; `service` in it is set by lb_find */
	__u32 from; /* LB_INTERNAL, LB_EXTERNAL */
	__u32 hash; /* of the flow: where in the table it falls */
};

/* Whether the address and port are a service's; tells what it is. */
static __always_inline bool lb_find(const struct lb_key *key, struct lb_question *q)
{
	const struct lb_service *service = bpf_map_lookup_elem(&cilium_lb_services, key);

	if (!service)
		return false;
	/* Whole and at once: an element that is replaced may hold another service soon. */
	q->service = *service;
	q->client.service = q->service.number;
	return true;
}

/* The backend of a number, or NULL when it is gone. */
static __always_inline const struct lb_backend *lb_backend(__u32 number)
{
	__u32 index = number % LB_BACKENDS;
	const struct lb_backend *backend = bpf_map_lookup_elem(&cilium_lb_backends, &index);

	return backend && number && backend->number == number && backend->family ? backend : NULL;
}

/* What was asked for, by the service's number; NULL when it is gone. */
static __always_inline const struct lb_reverse *lb_reverse(__u32 number)
{
	__u32 index = number % LB_SERVICES;
	const struct lb_reverse *reverse = bpf_map_lookup_elem(&cilium_lb_reverse, &index);

	return reverse && number && reverse->number == number && reverse->family ? reverse : NULL;
}

/* Whether the service is for who asks. Not for sockets: there a loopback one is for the host, and all else for everybody. */
static __always_inline bool lb_may_ask(const struct lb_question *q, bool v6)
{
	struct lb_source source = { .service = q->service.number };

	if (q->service.flags & LB_LOOPBACK)
		return false;
	if (q->from == LB_INTERNAL)
		return true;
	if (q->service.kind == LB_CLUSTER_IP)
		return false;
	if (!(q->service.flags & LB_SOURCE_RANGES))
		return true;
	source.prefix = LB_SOURCE_SERVICE_BITS + (v6 ? 128 : 32);
	memcpy(source.address, q->client.client, sizeof(source.address));
	return bpf_map_lookup_elem(&cilium_lb_source_range, &source);
}

/*
 * Where in its service's table a flow of packets falls: by Maglev the same on every node, for the same client if it is to
 * stay where it was, else anywhere.
 */
static __always_inline __u32 lb_hash(const struct lb_question *q, __be16 source_port)
{
	__u64 half[2], hash;

	if (!(q->service.flags & LB_MAGLEV << (q->from == LB_EXTERNAL ? LB_EXTERNAL : LB_INTERNAL)))
		return bpf_get_prandom_u32();
	memcpy(half, q->client.client, sizeof(half));
	hash = (half[0] ^ 0x9e3779b97f4a7c15ULL) * 0xff51afd7ed558ccdULL;
	hash ^= hash >> 32;
	hash = (hash + half[1]) * 0xc4ceb9fe1a85ec53ULL;
	hash ^= hash >> 32;
	hash = (hash + (q->service.affinity ? 0 : source_port)) * 0x94d049bb133111ebULL;
	hash ^= hash >> 29;
	hash *= 0xbf58476d1ce4e5b9ULL;
	return hash >> 32;
}

/* Number of the backend that served the client before and still may; 0: none. */
static __always_inline __u32 lb_remembered(const struct lb_question *q, const struct lb_client *client, __u32 now)
{
	const struct lb_affinity *affinity = bpf_map_lookup_elem(&cilium_lb_affinity, client);
	struct lb_member member = { .service = q->service.number };

	if (!affinity || (__s32)(now - affinity->seen) > (__s32)q->service.affinity)
		return 0;
	member.backend = affinity->backend;
	return bpf_map_lookup_elem(&cilium_lb_affinity_match, &member) ? member.backend : 0;
}

/* Number of the backend that a new flow goes to; 0: there is nobody. */
__noinline int lb_choose(struct lb_question *q)
{
	struct lb_affinity affinity = {};
	const struct lb_row *row;
	__u32 places, place, index;
	struct lb_client client;

	if (!q)
		return 0;
	/* Linux 6.1 takes no key out of what a function was given. */
	client = q->client;
	places = q->from == LB_EXTERNAL ? q->service.places[LB_EXTERNAL] : q->service.places[LB_INTERNAL];
	if (!places)
		return 0;
	if (q->service.affinity) {
		affinity.seen = (__u32)bpf_jiffies64();
		affinity.backend = lb_remembered(q, &client, affinity.seen);
	}
	if (!affinity.backend) {
		place = q->from == LB_EXTERNAL ? q->service.first[LB_EXTERNAL] : q->service.first[LB_INTERNAL];
		place += (__u64)q->hash * places >> 32;
		index = place / LB_ROW;
		row = bpf_map_lookup_elem(&cilium_lb_places, &index);
		if (!row)
			return 0;
		affinity.backend = row->backend[place % LB_ROW];
	}
	if (q->service.affinity && affinity.backend)
		bpf_map_update_elem(&cilium_lb_affinity, &client, &affinity, BPF_ANY);
	return affinity.backend;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel offers to programs: helpers by number, map declarations, byte order, packet bounds.
 *
 * Only helpers of kernel 5.10 and later, no kfuncs: the object must load where it was not built.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include "../abi.h"

#define SEC(name) __attribute__((section(name), used))
#undef __always_inline /* <linux/stddef.h> has a weaker one */
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define memcpy __builtin_memcpy
#define memset __builtin_memset

#define HELPER(type, name, ...) static type (*const bpf_##name)(__VA_ARGS__) __attribute__((unused)) = (void *)BPF_FUNC_##name

HELPER(void *, map_lookup_elem, void *map, const void *key);
HELPER(long, map_update_elem, void *map, const void *key, const void *value, __u64 flags);
HELPER(long, map_delete_elem, void *map, const void *key);
HELPER(__u64, ktime_get_ns, void);
HELPER(__u32, get_prandom_u32, void);
HELPER(__u64, jiffies64, void);
HELPER(__u64, get_socket_cookie, void *context);
HELPER(__u64, get_netns_cookie, void *context);
HELPER(int, set_retval, int error);
HELPER(__u32, get_smp_processor_id, void);
HELPER(long, skb_load_bytes, const void *skb, __u32 offset, void *to, __u32 length);
HELPER(long, skb_store_bytes, struct __sk_buff *skb, __u32 offset, const void *from, __u32 length, __u64 flags);
HELPER(long, skb_pull_data, struct __sk_buff *skb, __u32 length);
HELPER(long, skb_change_tail, struct __sk_buff *skb, __u32 length, __u64 flags);
HELPER(long, skb_change_type, struct __sk_buff *skb, __u32 type);
HELPER(long, skb_get_tunnel_key, struct __sk_buff *skb, struct bpf_tunnel_key *key, __u32 size, __u64 flags);
HELPER(long, skb_set_tunnel_key, struct __sk_buff *skb, const struct bpf_tunnel_key *key, __u32 size, __u64 flags);
HELPER(long, skb_adjust_room, struct __sk_buff *skb, __s32 difference, __u32 mode, __u64 flags);
HELPER(__u32, get_hash_recalc, struct __sk_buff *skb);
HELPER(long, l4_csum_replace, struct __sk_buff *skb, __u32 offset, __u64 from, __u64 to, __u64 flags);
HELPER(__s64, csum_diff, const __be32 *from, __u32 from_size, const __be32 *to, __u32 to_size, __u32 seed);
HELPER(__s64, csum_update, struct __sk_buff *skb, __u32 sum);
HELPER(long, fib_lookup, void *context, struct bpf_fib_lookup *lookup, int size, __u32 flags);
HELPER(long, redirect, __u32 ifindex, __u64 flags);
HELPER(long, redirect_peer, __u32 ifindex, __u64 flags);
HELPER(long, redirect_neigh, __u32 ifindex, struct bpf_redir_neigh *next_hop, int size, __u64 flags);
HELPER(void *, ringbuf_reserve, void *ringbuf, __u64 size, __u64 flags);
HELPER(void, ringbuf_submit, void *record, __u64 flags);

/* Declares the pinned map `name`; `flags` are BPF_F_*. The pinning number is libbpf's LIBBPF_PIN_BY_NAME. */
#define PIN_BY_NAME 1
#define FIELD(name, value) int(*name)[value]
#define MAP(name, kind, key_type, value_type, entries, flags)                                                          \
	struct {                                                                                                           \
		FIELD(type, kind);                                                                                             \
		key_type *key;                                                                                                 \
		value_type *value;                                                                                             \
		FIELD(max_entries, entries);                                                                                   \
		FIELD(map_flags, flags);                                                                                       \
		FIELD(pinning, PIN_BY_NAME);                                                                                   \
	} name SEC(".maps")

#define bpf_ntohs(x) __builtin_bswap16(x)
#define bpf_htons(x) __builtin_bswap16(x)
#define bpf_ntohl(x) __builtin_bswap32(x)
#define bpf_htonl(x) __builtin_bswap32(x)
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "these programs are written for little-endian machines");

/* One load, here and not elsewhere, whatever the compiler would rather do. */
#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))

/* Bounds of the linear part of a packet; the verifier wants them read anew after each helper that may move it. */
static __always_inline void *packet_start(const struct __sk_buff *skb)
{
	return (void *)(long)skb->data;
}

static __always_inline void *packet_end(const struct __sk_buff *skb)
{
	return (void *)(long)skb->data_end;
}

#endif

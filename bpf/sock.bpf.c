/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The programs on the host's cgroup: a socket that is given a service's address talks to a backend, and goes on believing
 * that it talks to the service. No packet needs to be changed. All processes of the node pass here, containers' or not.
 *
 *     connect, sendmsg          the service's address becomes a backend's, or the call is refused at once
 *     recvmsg, getpeername      a backend's address becomes the service's again
 *     bind                      a port of this host that is a service's is refused
 *     close                     what the socket asked for is forgotten
 *
 * An IPv6 socket may name IPv4 addresses (::ffff:a.b.c.d): they are those of IPv4. The kernel has no such hooks for SCTP.
 */
#include "lib/lb.h"

#include <linux/in.h>

#define REVERSE_ENTRIES 262144

/* <errno.h> wants a C library. */
#define EADDRINUSE 98
#define ECONNREFUSED 111

/* Cookie of the network namespace that is the host's; 0: not known, and none has this one. */
volatile const __u64 host_netns = 0;
/* Whether programs can say with which error a call fails (Linux 5.18); else it is EPERM. */
volatile const __u32 tells_error = 0;

MAP(cilium_lb_reverse_sk, BPF_MAP_TYPE_LRU_HASH, struct lb_peer, struct lb_asked, REVERSE_ENTRIES, 0);

#define GO_ON 1

static __always_inline int refuse(int error)
{
	if (tells_error)
		bpf_set_retval(-error);
	return 0;
}

static __always_inline bool is_host(void *context)
{
	return bpf_get_netns_cookie(context) == host_netns;
}

/* An address as key; IPv4 in the clothes of IPv6 is IPv4. */
static __always_inline void undress(struct lb_key *key, const __u32 ip6[4])
{
	if (!ip6[0] && !ip6[1] && ip6[2] == bpf_htonl(0xffff)) {
		key->family = FAMILY_IPV4;
		memcpy(key->address, &ip6[3], 4);
	} else {
		key->family = FAMILY_IPV6;
		memcpy(key->address, ip6, 16);
	}
}

static __always_inline void read_address(const struct bpf_sock_addr *context, struct lb_key *key, bool v6)
{
	if (v6) {
		__u32 ip6[4] = { context->user_ip6[0], context->user_ip6[1], context->user_ip6[2], context->user_ip6[3] };

		undress(key, ip6);
	} else {
		__u32 ip = context->user_ip4;

		key->family = FAMILY_IPV4;
		memcpy(key->address, &ip, 4);
	}
	key->port = context->user_port;
	key->protocol = context->protocol;
}

/* In the clothes of the socket's family. */
static __always_inline void write_address(struct bpf_sock_addr *context, const __u8 address[16], __be16 port, __u8 family,
					  bool v6)
{
	__u32 words[4];

	memcpy(words, address, sizeof(words));
	if (!v6) {
		context->user_ip4 = words[0];
	} else {
		bool mapped = family == FAMILY_IPV4;

		context->user_ip6[0] = mapped ? 0 : words[0];
		context->user_ip6[1] = mapped ? 0 : words[1];
		context->user_ip6[2] = mapped ? bpf_htonl(0xffff) : words[2];
		context->user_ip6[3] = mapped ? words[0] : words[3];
	}
	context->user_port = port;
}

static __always_inline bool is_unspecified(const struct lb_key *key)
{
	__u64 half[2];

	memcpy(half, key->address, sizeof(half));
	return !half[0] && !half[1];
}

static __always_inline void become_loopback(struct lb_key *key)
{
	if (key->family == FAMILY_IPV4) {
		key->address[0] = 127;
		key->address[3] = 1;
	} else {
		key->address[15] = 1;
	}
}

/* A datagram socket keeps to its backend as long as the service's backends stay the same. */
static __always_inline __u32 socket_hash(__u64 cookie)
{
	__u64 hash = (cookie ^ 0x9e3779b97f4a7c15ULL) * 0xff51afd7ed558ccdULL;

	hash ^= hash >> 32;
	hash *= 0xc4ceb9fe1a85ec53ULL;
	return hash >> 32;
}

static __always_inline void peer_of(struct lb_peer *peer, __u64 cookie, const __u8 address[16], __be16 port, __u8 family)
{
	peer->cookie = cookie;
	memcpy(peer->address, address, sizeof(peer->address));
	peer->port = port;
	peer->family = family;
}

/* Notes what the socket asked for, by whom it got instead. */
static __always_inline void remember(const struct lb_peer *peer, const struct lb_key *key, __u32 service)
{
	const struct lb_asked *held = bpf_map_lookup_elem(&cilium_lb_reverse_sk, peer);
	struct lb_asked asked = { .port = key->port, .family = key->family, .service = service };

	/* For datagrams this comes with each of them: to look is cheaper than to write. */
	if (held && held->service == service)
		return;
	memcpy(asked.address, key->address, sizeof(asked.address));
	bpf_map_update_elem(&cilium_lb_reverse_sk, peer, &asked, BPF_ANY);
}

static __always_inline int serve(struct bpf_sock_addr *context, bool v6)
{
	struct lb_key key __attribute__((aligned(8))) = {};
	const struct lb_backend *backend;
	struct lb_question q = {};
	struct lb_peer peer = {};
	__u64 cookie, netns;

	if (context->protocol != IPPROTO_TCP && context->protocol != IPPROTO_UDP)
		return GO_ON;
	read_address(context, &key, v6);
	if (unlikely(is_unspecified(&key))) {
		if (!is_host(context))
			return GO_ON;
		become_loopback(&key);
	}
	if (likely(!lb_find(&key, &q)))
		return GO_ON;
	netns = bpf_get_netns_cookie(context);
	if ((q.service.flags & LB_LOOPBACK) && netns != host_netns)
		return GO_ON;
	memcpy(q.client.client, &netns, sizeof(netns));
	q.client.by_cookie = 1;
	q.from = LB_INTERNAL;
	cookie = bpf_get_socket_cookie(context);
	q.hash = key.protocol == IPPROTO_UDP ? socket_hash(cookie) : bpf_get_prandom_u32();
	backend = lb_backend(lb_choose(&q));
	if (!backend || backend->family != key.family)
		return refuse(ECONNREFUSED);
	peer_of(&peer, cookie, backend->address, backend->port, backend->family);
	remember(&peer, &key, q.service.number);
	write_address(context, peer.address, peer.port, peer.family, v6);
	return GO_ON;
}

static __always_inline int tell(struct bpf_sock_addr *context, bool v6)
{
	struct lb_key key __attribute__((aligned(8))) = {};
	const struct lb_asked *asked;
	struct lb_peer peer = {};

	read_address(context, &key, v6);
	peer_of(&peer, bpf_get_socket_cookie(context), key.address, key.port, key.family);
	asked = bpf_map_lookup_elem(&cilium_lb_reverse_sk, &peer);
	if (likely(!asked))
		return GO_ON;
	if (!lb_reverse(asked->service))
		bpf_map_delete_elem(&cilium_lb_reverse_sk, &peer);
	else
		write_address(context, asked->address, asked->port, asked->family, v6);
	return GO_ON;
}

/* Addresses of the cluster's own are none of this host's ports. */
static __always_inline bool is_taken(const struct lb_key *key)
{
	const struct lb_service *service = bpf_map_lookup_elem(&cilium_lb_services, key);

	return service && service->kind != LB_CLUSTER_IP;
}

static __always_inline int bound(struct bpf_sock *context, bool v6)
{
	struct lb_key key __attribute__((aligned(8))) = {};

	if (!is_host(context))
		return GO_ON;
	if (v6) {
		__u32 ip6[4] = { context->src_ip6[0], context->src_ip6[1], context->src_ip6[2], context->src_ip6[3] };

		undress(&key, ip6);
	} else {
		__u32 ip = context->src_ip4;

		key.family = FAMILY_IPV4;
		memcpy(key.address, &ip, 4);
	}
	key.port = bpf_htons(context->src_port);
	key.protocol = context->protocol;
	if (is_taken(&key))
		return refuse(EADDRINUSE);
	/* Such a socket hears IPv4 too, unless it was told not to, which is not told here. */
	if (key.family == FAMILY_IPV6 && is_unspecified(&key)) {
		key.family = FAMILY_IPV4;
		if (is_taken(&key))
			return refuse(EADDRINUSE);
	}
	return GO_ON;
}

SEC("cgroup/connect4") int sock_connect4(struct bpf_sock_addr *context)
{
	return serve(context, false);
}

SEC("cgroup/connect6") int sock_connect6(struct bpf_sock_addr *context)
{
	return serve(context, true);
}

SEC("cgroup/sendmsg4") int sock_sendmsg4(struct bpf_sock_addr *context)
{
	return serve(context, false);
}

SEC("cgroup/sendmsg6") int sock_sendmsg6(struct bpf_sock_addr *context)
{
	return serve(context, true);
}

SEC("cgroup/recvmsg4") int sock_recvmsg4(struct bpf_sock_addr *context)
{
	return tell(context, false);
}

SEC("cgroup/recvmsg6") int sock_recvmsg6(struct bpf_sock_addr *context)
{
	return tell(context, true);
}

SEC("cgroup/getpeername4") int sock_getpeername4(struct bpf_sock_addr *context)
{
	return tell(context, false);
}

SEC("cgroup/getpeername6") int sock_getpeername6(struct bpf_sock_addr *context)
{
	return tell(context, true);
}

SEC("cgroup/post_bind4") int sock_post_bind4(struct bpf_sock *context)
{
	return bound(context, false);
}

SEC("cgroup/post_bind6") int sock_post_bind6(struct bpf_sock *context)
{
	return bound(context, true);
}

SEC("cgroup/sock_release") int sock_release(struct bpf_sock *context)
{
	struct lb_key key __attribute__((aligned(8))) = {};
	struct lb_peer peer = {};
	__be16 port = context->dst_port;

	if (!port)
		return GO_ON;
	if (context->family == 10 /* AF_INET6 */) {
		__u32 ip6[4] = { context->dst_ip6[0], context->dst_ip6[1], context->dst_ip6[2], context->dst_ip6[3] };

		undress(&key, ip6);
	} else {
		__u32 ip = context->dst_ip4;

		key.family = FAMILY_IPV4;
		memcpy(key.address, &ip, 4);
	}
	peer_of(&peer, bpf_get_socket_cookie(context), key.address, port, key.family);
	bpf_map_delete_elem(&cilium_lb_reverse_sk, &peer);
	return GO_ON;
}

char LICENSE[] SEC("license") = "GPL";

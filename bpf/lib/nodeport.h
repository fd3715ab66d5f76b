/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is asked for from outside and served elsewhere: this node sends it on under its own address and a port that is one
 * client's, so that the answers come back here.
 *
 *     under (client, frontend)      the service entry: which backend it was, and which port
 *     under (this node, backend)    the flow
 *     cilium_snat_external          for whom the port is
 *
 * Owns ports and both ways of such flows, and the ICMP errors about them. Which backend it is and what came before is
 * serve.h's. Policy is the backend's node's: it is told who asks as far as an identity of the cluster says it, else that it
 * is the world.
 */
#ifndef NODEPORT_H
#define NODEPORT_H

#include "enter.h"
#include "leave.h"

#define SNAT_ENTRIES 262144
/* So many ports are looked at before there is none. */
#define SNAT_TRIES 32

/* A result beside NOT_ESTABLISHED and actions: the packet is to be sent by nodeport_forward. */
#define NODEPORT_FORWARD (-101)

MAP(cilium_snat_external, BPF_MAP_TYPE_LRU_HASH, struct snat_key, struct snat_entry, SNAT_ENTRIES, 0);

/* This node's address of a family as other nodes know it; all 0: there is none. */
static __always_inline union address nodeport_address(bool v6)
{
	const struct runtime *run = runtime();
	union address own = {};

	if (!run)
		return own;
	if (v6)
		memcpy(&own, run->node6, sizeof(own));
	else
		own.v4 = run->node4;
	return own;
}

static __always_inline bool is_address(const union address *address)
{
	return address->half[0] || address->half[1];
}

/* Where it stands for whom one of this node's ports is. `flow`: to the backend. */
static __always_inline struct snat_key *snat_key_of(struct scratch *room, const struct packet *flow, __be16 port)
{
	struct snat_key *key = &room->snat;

	memset(key, 0, sizeof(*key));
	memcpy(key->backend, &flow->destination, sizeof(key->backend));
	key->backend_port = flow->destination_port;
	key->port = port;
	key->protocol = flow->protocol;
	key->family = flow->family;
	return key;
}

static __always_inline void snat_claim(struct snat_entry *whose, const struct packet *p, __u32 now)
{
	memset(whose, 0, sizeof(*whose));
	whose->claim = (__u64)now << 32 | bpf_get_prandom_u32();
	memcpy(whose->client, &p->source, sizeof(whose->client));
	whose->client_port = p->source_port;
}

static __always_inline bool snat_is_of(const struct snat_entry *held, const union address *client, __be16 port)
{
	union address address;

	memcpy(&address, held->client, sizeof(address));
	return same_address(&address, client) && held->client_port == port;
}

/*
 * A port for the client of a packet to a backend, in network order; 0: there is none. One is free when nobody's flow rests
 * on it. Who takes over another one's must be the only one to: two processors may look at it at once. The flow without its
 * port is in scratch.
 */
__noinline int snat_port(struct packet *p)
{
	struct scratch *room = scratch();
	const __u32 first = snat_port_first, ports = snat_port_last - snat_port_first + 1, now = now_jiffies();
	struct snat_entry *held;
	struct ct_entry *alive;
	struct snat_key *key;
	__u64 claim;
	__u32 port;
	bool v6;

	if (!p || !room)
		return 0;
	v6 = is_ipv6(p);
	snat_claim(&room->whose, p, now);
	for (int i = 0; i < SNAT_TRIES; i++) {
		port = bpf_ntohs(p->source_port);
		if (i || port < first || port - first >= ports)
			port = first + ((__u64)bpf_get_prandom_u32() * ports >> 32);
		port = bpf_htons(port);
		key = snat_key_of(room, p, port);
		held = bpf_map_lookup_elem(&cilium_snat_external, key);
		if (!held) {
			if (!bpf_map_update_elem(&cilium_snat_external, key, &room->whose, BPF_NOEXIST))
				return port;
			continue;
		}
		if (snat_is_of(held, &p->source, p->source_port))
			return port;
		claim = READ_ONCE(held->claim);
		if ((__s32)(now - (__u32)(claim >> 32)) <= (__s32)ct_timeout_closing)
			continue;
		room->other.source_port = port;
		ct_key_of(&room->other, &room->flow, v6);
		alive = ct_find(&room->flow, v6);
		if (alive && !ct_expired(alive, p->protocol, now))
			continue;
		if (__sync_val_compare_and_swap(&held->claim, claim, room->whose.claim) == claim &&
		    !bpf_map_update_elem(&cilium_snat_external, key, &room->whose, BPF_ANY))
			return port;
	}
	return 0;
}

/*
 * Whether no packet as large gets to the backend. By IPv4 a device of the kernel's brings pieces, and what may be cut, in
 * outer pieces; nobody cuts what goes by IPv6, or what programs put into a tunnel.
 */
static __always_inline bool nodeport_exceeds(struct __sk_buff *skb, const struct packet *p, const union address *backend)
{
	const struct iphdr *ip = packet_start(skb) + ETH_HLEN;
	const struct vtep *vtep;

	if (native_routing || likely(!is_longer_than_tunnel(skb, p)))
		return false;
	vtep = tunnel_find(backend, p->family);
	if (!vtep)
		return false;
	if (geneve == GENEVE_PROGRAMS || vtep->family == FAMILY_IPV6)
		return true;
	if (p->fragment)
		return false;
	return is_ipv6(p) || (void *)(ip + 1) > packet_end(skb) || (ip->frag_off & bpf_htons(IPV4_DONT_FRAGMENT));
}

static __always_inline int nodeport_too_long(struct __sk_buff *skb, struct packet *p)
{
	const struct runtime *run = runtime();

	/* Through the tunnel it came, so it was not as long. */
	if (!run || p->later_fragment || p->point == POINT_FROM_OVERLAY)
		return drop(skb, p, DROP_TOO_LONG);
	return refuse_long(skb, p, run->tunnel_mtu);
}

/* Out, once the packet is what it is to be; p->tunnel: through the tunnel. */
static __always_inline int nodeport_forward(struct __sk_buff *skb, struct packet *p)
{
	p->as_host = 1;
	return p->tunnel ? deliver_to_node(skb, p) : deliver_direct(skb, p);
}

/* The way on to a backend, and as whose. */
static __always_inline void nodeport_on(struct packet *p)
{
	p->tunnel = !native_routing && tunnel_find(&p->destination, p->family);
	if (is_outside(p->source_identity))
		p->source_identity = world_of(p->family);
}

/* Gives the packet to a backend this node's address. NODEPORT_FORWARD, or the action of a drop. */
static __always_inline int nodeport_translate(struct __sk_buff *skb, struct packet *p, struct scratch *room)
{
	__u32 reason;

	room->own.address = nodeport_address(is_ipv6(p));
	room->own.port = p->snat_port;
	reason = nat(skb, p, &room->own, true);
	if (reason)
		return drop(skb, p, reason);
	nodeport_on(p);
	return NODEPORT_FORWARD;
}

/* Key of the flow between this node's port and a backend, and the side that this node is of it. */
static __always_inline __u32 nodeport_flow(struct packet *flow, const struct packet *p, const union address *backend,
					   __be16 backend_port, __be16 port, union ct_key *key)
{
	const bool v6 = is_ipv6(p);

	flow->family = p->family;
	flow->protocol = p->protocol;
	flow->source = nodeport_address(v6);
	flow->source_port = port;
	flow->destination = *backend;
	flow->destination_port = backend_port;
	return ct_key_of(flow, key, v6) & 1;
}

/* Writes the flow's entry. 0, or the reason to drop. */
static __noinline __u32 nodeport_flow_opens(struct __sk_buff *skb, struct packet *p, struct scratch *room)
{
	const struct vtep *vtep = native_routing ? NULL : tunnel_find(&p->destination, p->family);
	struct ct_entry *entry = &room->entry;
	union ct_key key;
	__u32 side;

	side = nodeport_flow(&room->other, p, &p->destination, p->destination_port, p->snat_port, &key);
	memset(entry, 0, sizeof(*entry));
	entry->flags = CT_SNAT | (side ? CT_OPENED_BY_B : 0) | (p->tunnel ? CT_TUNNEL : 0);
	entry->service = p->service;
	entry->node = vtep ? vtep->node : 0;
	entry->ipcache_generation = p->ipcache_generation;
	entry->stamp[0] = side ? p->destination_identity : p->source_identity;
	entry->stamp[1] = side ? p->source_identity : p->destination_identity;
	if (side)
		ct_touch(entry, p, 1, skb->len, now_jiffies());
	else
		ct_touch(entry, p, 0, skb->len, now_jiffies());
	return ct_store(&key, entry, is_ipv6(p));
}

/* The packet is made what it was before a backend was chosen, and its sender told that it is too long. */
static __noinline int nodeport_undo(struct __sk_buff *skb, struct packet *p, struct scratch *room)
{
	const struct lb_reverse *asked = lb_reverse(p->service);
	__u32 reason;

	if (!asked)
		return drop(skb, p, DROP_NO_SERVICE);
	room->asked.port = asked->port;
	memcpy(&room->asked.address, asked->address, sizeof(room->asked.address));
	reason = nat(skb, p, &room->asked, false);
	return reason ? drop(skb, p, reason) : nodeport_too_long(skb, p);
}

/*
 * A new flow, whose packet has been given to the backend already; who asks has been looked at, p->tunnel: it came through
 * the tunnel. NODEPORT_FORWARD, or the action of a drop.
 */
__noinline int nodeport_open(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *room = scratch();
	__u32 reason;

	if (!p || !room)
		return TC_ACT_SHOT;
	if (unlikely(nodeport_exceeds(skb, p, &p->destination)))
		return nodeport_undo(skb, p, room);
	room->other.family = p->family;
	room->other.protocol = p->protocol;
	room->other.source = nodeport_address(is_ipv6(p));
	room->other.destination = p->destination;
	room->other.destination_port = p->destination_port;
	if (!is_address(&room->other.source))
		return drop(skb, p, DROP_NAT_NO_MAPPING);
	p->snat_port = snat_port(p);
	if (!p->snat_port)
		return drop(skb, p, DROP_NAT_NO_MAPPING);
	reason = nodeport_flow_opens(skb, p, room);
	if (!reason)
		reason = serve_remember(p);
	if (reason)
		return drop(skb, p, reason);
	if (monitor_level() >= MONITOR_MEDIUM)
		emit(skb, p, EVENT_TRACE, 0);
	return nodeport_translate(skb, p, room);
}

/*
 * Who asks, for a packet of a flow that is known. 0, or the reason to drop. What came through the tunnel is whom the tunnel
 * said, if that is behind the node that sent it.
 */
static __noinline __u32 nodeport_asker(struct __sk_buff *skb, struct packet *p, __u32 flags, __u32 generation, __u32 stamp)
{
	const struct vtep *behind;

	if (flags & CT_TUNNEL) {
		behind = tunnel_find(&p->source, p->family);
		if (p->point != POINT_FROM_OVERLAY || !behind || behind->node != p->node)
			return DROP_INVALID_SOURCE;
		return tunnel_may_give(behind, p->source_identity) && identity_is_judged(p->source_identity) ?
			       0 : DROP_INVALID_IDENTITY;
	}
	if (p->point == POINT_FROM_OVERLAY)
		return DROP_INVALID_SOURCE;
	if (generation != ipcache_generation())
		return enter_source(skb, p, 0);
	p->source_identity = stamp;
	p->ipcache_generation = generation;
	return 0;
}

/*
 * A packet to a frontend whose service entry tells backend and port. NODEPORT_FORWARD, the action of a drop, or
 * NOT_ESTABLISHED: it is as it was, and of a new flow.
 */
__noinline int nodeport_again(struct __sk_buff *skb, struct packet *p, __u32 number, __u32 port)
{
	const struct lb_backend *backend = lb_backend(number);
	struct scratch *room = scratch();
	struct snat_entry *held;
	struct ct_entry *entry;
	union ct_key key;
	__u32 side, reason, now;

	if (!p || !room)
		return TC_ACT_SHOT;
	if (!backend || backend->family != p->family)
		return NOT_ESTABLISHED;
	room->is.port = backend->port;
	memcpy(&room->is.address, backend->address, sizeof(room->is.address));
	side = nodeport_flow(&room->other, p, &room->is.address, room->is.port, port, &key);
	entry = ct_find(&key, is_ipv6(p));
	now = now_jiffies();
	if (!entry || (entry->flags & (CT_SNAT | CT_SERVICE)) != CT_SNAT || ct_opener(entry) != side ||
	    ct_expired(entry, p->protocol, now) || ct_reopens(entry, p, side))
		return NOT_ESTABLISHED;
	held = bpf_map_lookup_elem(&cilium_snat_external, snat_key_of(room, &room->other, port));
	if (unlikely(!held)) {
		/* It had to make room for others. */
		snat_claim(&room->whose, p, now);
		if (bpf_map_update_elem(&cilium_snat_external, &room->snat, &room->whose, BPF_NOEXIST))
			return drop(skb, p, DROP_NAT_NO_MAPPING);
	} else if (!snat_is_of(held, &p->source, p->source_port)) {
		return NOT_ESTABLISHED;
	}
	if (unlikely(nodeport_exceeds(skb, p, &room->is.address)))
		return nodeport_too_long(skb, p);
	reason = nodeport_asker(skb, p, entry->flags, entry->ipcache_generation, entry->stamp[side & 1]);
	if (reason)
		return drop(skb, p, reason);
	p->service = entry->service;
	p->backend = number;
	p->snat_port = port;
	if (side)
		ct_touch(entry, p, 1, skb->len, now);
	else
		ct_touch(entry, p, 0, skb->len, now);
	reason = nat(skb, p, &room->is, false);
	return reason ? drop(skb, p, reason) : nodeport_translate(skb, p, room);
}

/* Whether a packet of the flow comes from where its backend is. */
static __always_inline bool nodeport_is_backends(const struct packet *p, const struct ct_entry *entry)
{
	return p->point == POINT_FROM_OVERLAY ? entry->node && entry->node == p->node : !entry->node;
}

/* What a backend answers. Results as above; NOT_ESTABLISHED: it is no answer to any of this. */
__noinline int nodeport_answer(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *room = scratch();
	const struct lb_reverse *asked;
	const struct snat_entry *held;
	struct ct_entry *entry;
	union ct_key key;
	__u32 side, reason, now;
	bool v6;

	if (!p || !room)
		return TC_ACT_SHOT;
	v6 = is_ipv6(p);
	side = ct_key_of(p, &key, v6) & 1;
	entry = ct_find(&key, v6);
	now = now_jiffies();
	if (!entry || (entry->flags & (CT_SNAT | CT_SERVICE)) != CT_SNAT || ct_opener(entry) == side ||
	    ct_expired(entry, p->protocol, now) || !nodeport_is_backends(p, entry))
		return NOT_ESTABLISHED;
	room->other.family = p->family;
	room->other.protocol = p->protocol;
	room->other.destination = p->source;
	room->other.destination_port = p->source_port;
	held = bpf_map_lookup_elem(&cilium_snat_external, snat_key_of(room, &room->other, p->destination_port));
	if (!held)
		return NOT_ESTABLISHED;
	room->client.port = held->client_port;
	memcpy(&room->client.address, held->client, sizeof(room->client.address));
	p->service = entry->service;
	asked = lb_reverse(p->service);
	if (!asked || asked->family != p->family)
		return drop(skb, p, DROP_NO_SERVICE);
	room->asked.port = asked->port;
	memcpy(&room->asked.address, asked->address, sizeof(room->asked.address));
	p->tunnel = !!(entry->flags & CT_TUNNEL);
	if (side)
		ct_touch(entry, p, 1, skb->len, now);
	else
		ct_touch(entry, p, 0, skb->len, now);
	reason = nat(skb, p, &room->client, false);
	if (!reason)
		reason = nat(skb, p, &room->asked, true);
	p->source_identity = IDENTITY_HOST;
	return reason ? drop(skb, p, reason) : NODEPORT_FORWARD;
}

/* What is said of a packet that was sent on is for who asked. The quoted packet is between this node and the backend. */
static __always_inline int nodeport_error_back(struct __sk_buff *skb, struct packet *p, struct scratch *room,
					       const struct ct_entry *entry)
{
	const struct packet *quoted = &room->other;
	const struct snat_entry *held;
	const struct lb_reverse *asked;
	__u32 reason;

	if (!nodeport_is_backends(p, entry))
		return NOT_ESTABLISHED;
	held = bpf_map_lookup_elem(&cilium_snat_external, snat_key_of(room, quoted, quoted->source_port));
	p->service = entry->service;
	p->tunnel = !!(entry->flags & CT_TUNNEL);
	asked = lb_reverse(p->service);
	if (!held || !asked)
		return NOT_ESTABLISHED;
	room->own.address = quoted->source;
	room->own.port = quoted->source_port;
	room->is.address = quoted->destination;
	room->is.port = quoted->destination_port;
	room->client.port = held->client_port;
	memcpy(&room->client.address, held->client, sizeof(room->client.address));
	room->asked.port = asked->port;
	memcpy(&room->asked.address, asked->address, sizeof(room->asked.address));
	reason = related_nat(skb, p, &room->own, &room->client, RELATED_SOURCE);
	if (!reason)
		reason = related_nat(skb, p, &room->is, &room->asked, RELATED_ALWAYS);
	p->source_identity = IDENTITY_HOST;
	return reason ? drop(skb, p, reason) : NODEPORT_FORWARD;
}

/* What is said of an answer is for the backend. The quoted packet is between frontend and client. */
static __always_inline int nodeport_error_on(struct __sk_buff *skb, struct packet *p, struct scratch *room,
					     const struct ct_entry *entry)
{
	const struct lb_backend *backend = lb_backend(entry->stamp[0]);
	struct packet *quoted = &room->other;
	union ct_key key;
	__u32 side, reason;

	if (!backend)
		return NOT_ESTABLISHED;
	room->asked.address = quoted->source;
	room->asked.port = quoted->source_port;
	room->client.address = quoted->destination;
	room->client.port = quoted->destination_port;
	room->is.port = backend->port;
	memcpy(&room->is.address, backend->address, sizeof(room->is.address));
	room->own.address = nodeport_address(is_ipv6(p));
	room->own.port = entry->stamp[1];
	side = nodeport_flow(quoted, quoted, &room->is.address, room->is.port, room->own.port, &key);
	entry = ct_find(&key, is_ipv6(p));
	if (!entry || (entry->flags & (CT_SNAT | CT_SERVICE)) != CT_SNAT ||
	    ct_expired(entry, quoted->protocol, now_jiffies()))
		return NOT_ESTABLISHED;
	p->service = entry->service;
	p->source_identity = entry->stamp[side & 1];
	reason = related_nat(skb, p, &room->asked, &room->is, RELATED_SOURCE);
	if (!reason)
		reason = related_nat(skb, p, &room->client, &room->own, RELATED_ALWAYS);
	if (reason)
		return drop(skb, p, reason);
	nodeport_on(p);
	return NODEPORT_FORWARD;
}

/* An ICMP error about a flow that was sent on, from either of its ends. Results as above. */
__noinline int nodeport_error(struct __sk_buff *skb, struct packet *p)
{
	struct scratch *room = scratch();
	struct packet *quoted;
	struct ct_entry *entry;
	union ct_key key;
	__u32 side;
	bool v6;

	if (!p || !room)
		return TC_ACT_SHOT;
	if (p->later_fragment)
		return NOT_ESTABLISHED;
	v6 = is_ipv6(p);
	quoted = &room->other;
	memset(quoted, 0, sizeof(*quoted));
	quoted->family = p->family;
	if (parse_quoted(skb, quoted, p->transport + ICMP_HEADER) || quoted->kind != KIND_FLOW ||
	    !same_address(&quoted->source, &p->destination))
		return NOT_ESTABLISHED;
	side = ct_key_of(quoted, &key, v6) & 1;
	entry = ct_find(&key, v6);
	if (!entry || !(entry->flags & CT_SNAT))
		return NOT_ESTABLISHED;
	if (entry->flags & CT_SERVICE)
		return ct_opener(entry) != side ? nodeport_error_on(skb, p, room, entry) : NOT_ESTABLISHED;
	if (ct_opener(entry) != side || ct_expired(entry, quoted->protocol, now_jiffies()))
		return NOT_ESTABLISHED;
	return nodeport_error_back(skb, p, room, entry);
}

/* A packet of a flow that conntrack has as one that is sent on. NOT_ESTABLISHED, or an action. */
static __always_inline int nodeport_established(struct __sk_buff *skb, struct packet *p, const struct ct_entry *entry)
{
	const int action = entry->flags & CT_SERVICE ? nodeport_again(skb, p, entry->stamp[0], entry->stamp[1]) :
						       nodeport_answer(skb, p);

	return action == NODEPORT_FORWARD ? nodeport_forward(skb, p) : action;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Services packet by packet: what is sent to a frontend goes to a backend, and comes back as if from the frontend.
 *
 *     under (client, frontend)   the service entry: which backend it was
 *     under (client, backend)    the flow, as any other; it knows the service
 *
 * The service entry stands as long as the flow does; policy is asked about the backend. Owns both translations and the
 * service entry. Which backend is lb.h's choice, and how a packet is rewritten is nat.h's.
 */
#ifndef SERVE_H
#define SERVE_H

#include "conntrack.h"
#include "ipcache.h"
#include "lb.h"
#include "nat.h"
#include "scratch.h"

/* Results beside 0 (no service) and reasons to refuse. */
#define SERVED (-1)
#define SERVED_ECHO (-2)

/*
 * Who calls a service and is chosen himself would see his own address as the caller's, and take it for a lie. He sees
 * this one, to which he answers by his gateway: 169.254.42.1, and in IPv6 one of the prefix that leads nowhere (RFC 6666).
 */
#define SELF_IPV4 0xa9fe2a01
#define SELF_IPV6 0x01000000

static __always_inline union address self_address(bool v6)
{
	union address self = {};
	__be32 *words = (__be32 *)self.bytes;

	words[0] = v6 ? bpf_htonl(SELF_IPV6) : bpf_htonl(SELF_IPV4);
	if (v6)
		words[3] = bpf_htonl(SELF_IPV4);
	return self;
}

static __always_inline bool is_self(const union address *address, bool v6)
{
	const union address self = self_address(v6);

	return same_address(address, &self);
}

/* Sends the packet to a backend. 0, or the reason to drop. */
static __always_inline __u32 serve_by(struct __sk_buff *skb, struct packet *p, const struct lb_backend *backend)
{
	struct nat_end end = { .port = p->source_port };
	__u32 reason;

	if (p->self) {
		end.address = self_address(is_ipv6(p));
		reason = nat(skb, p, &end, true);
		if (reason)
			return reason;
	}
	end.port = backend->port;
	memcpy(&end.address, backend->address, sizeof(end.address));
	return nat(skb, p, &end, false);
}

static __always_inline bool serve_is_self(const struct packet *p, const struct lb_backend *backend)
{
	union address address;

	memcpy(&address, backend->address, sizeof(address));
	return same_address(&address, &p->source);
}

/*
 * A packet to a frontend, by its service entry: sends it to the same backend if its flow still lives, and returns that.
 * Else NULL: with p->backend 0 the packet is as it was, and is one of a new flow; else it must go nowhere: the backend is
 * gone with p->service 0, the packet is spoilt without.
 */
static __noinline struct ct_entry *serve_again(struct __sk_buff *skb, struct packet *p, __u32 number, __u32 service)
{
	const struct lb_backend *backend = lb_backend(number);
	const struct nat_end asked = { .address = p->destination, .port = p->destination_port };
	const union address source = p->source;
	const bool v6 = is_ipv6(p);
	struct ct_entry *entry;
	union ct_key key;
	__u32 side;

	if (!backend || backend->family != p->family) {
		/* A new flow goes to somebody else, an old one is told that there is nobody any more. */
		p->backend = p->protocol == IPPROTO_TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN ? number : 0;
		return NULL;
	}
	p->self = serve_is_self(p, backend);
	if (p->self)
		p->source = self_address(v6);
	memcpy(&p->destination, backend->address, sizeof(p->destination));
	p->destination_port = backend->port;
	side = ct_key_of(p, &key, v6) & 1;
	entry = ct_find(&key, v6);
	if (entry && (ct_expired(entry, p->protocol, now_jiffies()) || ct_reopens(entry, p, side)))
		entry = NULL;
	p->source = source;
	p->destination = asked.address;
	p->destination_port = asked.port;
	if (!entry) {
		p->self = 0;
		return NULL;
	}
	p->service = service;
	p->backend = number;
	if (serve_by(skb, p, backend))
		return NULL;
	p->backend = 0;
	return entry;
}

/* Whether the packet's address is nothing but services', whatever port is asked for: not a node's too. */
static __always_inline bool serve_knows(const struct packet *p, struct lb_key *key)
{
	key->port = 0;
	key->protocol = 0;
	return bpf_map_lookup_elem(&cilium_lb_services, key) &&
	       is_outside(ipcache_find(&p->destination, p->family).identity);
}

static __always_inline __u32 serve_refusal(const struct lb_question *q)
{
	return q->service.kind == LB_CLUSTER_IP ? DROP_CLUSTER_IP : DROP_NOT_IN_SOURCE_RANGE;
}

/*
 * The first packet of a flow: if it is for a service, chooses a backend and sends it there. 0: no service; SERVED;
 * SERVED_ECHO: it asks whether the address of a service is there; else the reason to refuse it. `from`: LB_INTERNAL,
 * LB_EXTERNAL.
 */
__noinline int serve(struct __sk_buff *skb, struct packet *p, __u32 from)
{
	struct lb_question q = { .from = from };
	struct lb_key key = {};
	const struct lb_backend *backend;
	__u32 number, reason;

	if (!p)
		return DROP_INVALID_PACKET;
	memcpy(key.address, &p->destination, sizeof(key.address));
	key.family = p->family;
	if (is_icmp(p))
		return is_echo_request(p) && serve_knows(p, &key) ? SERVED_ECHO : 0;
	key.port = p->destination_port;
	key.protocol = p->protocol;
	if (!lb_find(&key, &q))
		return serve_knows(p, &key) ? DROP_NO_SERVICE : 0;
	memcpy(q.client.client, &p->source, sizeof(q.client.client));
	/* What only the host's own sockets mean is none of ours. */
	if (q.service.flags & LB_LOOPBACK)
		return 0;
	if (!lb_may_ask(&q, is_ipv6(p)))
		return serve_refusal(&q);
	q.hash = lb_hash(&q, p->source_port);
	number = lb_choose(&q);
	backend = lb_backend(number);
	if (!backend || backend->family != p->family)
		return DROP_NO_SERVICE;
	p->self = from == LB_INTERNAL && serve_is_self(p, backend);
	reason = serve_by(skb, p, backend);
	if (reason)
		return reason;
	p->service = q.service.number;
	p->backend = number;
	return SERVED;
}

/* Whether a packet of no flow may be the first one to a service. */
static __always_inline bool may_open(const struct packet *p)
{
	return p->kind == KIND_FLOW && !is_icmp(p) &&
	       (p->protocol != IPPROTO_TCP || (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN);
}

/* Writes the service entry of a flow that was allowed. 0, or the reason to drop. */
__noinline int serve_remember(struct packet *p)
{
	struct scratch *room = scratch();
	const struct lb_reverse *asked;
	struct ct_entry *entry;
	struct packet *first;
	union ct_key key;

	if (!p || !room)
		return DROP_INVALID_PACKET;
	asked = lb_reverse(p->service);
	if (!asked || asked->family != p->family)
		return DROP_NO_SERVICE;
	first = &room->other;
	first->protocol = p->protocol;
	first->source = p->self ? p->destination : p->source;
	first->source_port = p->source_port;
	memcpy(&first->destination, asked->address, sizeof(first->destination));
	first->destination_port = asked->port;
	entry = &room->entry;
	memset(entry, 0, sizeof(*entry));
	entry->seen = now_jiffies();
	entry->service = p->service;
	entry->stamp[0] = p->backend;
	entry->stamp[1] = p->snat_port;
	entry->flags = CT_SERVICE | (p->snat_port ? CT_SNAT : 0) | (ct_key_of(first, &key, is_ipv6(p)) ? CT_OPENED_BY_B : 0);
	return ct_store(&key, entry, is_ipv6(p));
}

/* What comes back gets the address that was asked for. 0, or the reason to drop. */
__noinline int serve_answer(struct __sk_buff *skb, struct packet *p)
{
	const struct lb_reverse *asked;
	struct nat_end end = {};
	__u32 reason;

	if (!p)
		return DROP_INVALID_PACKET;
	asked = lb_reverse(p->service);
	if (!asked || asked->family != p->family)
		return DROP_NO_SERVICE;
	if (is_self(&p->destination, is_ipv6(p))) {
		end.address = p->source;
		end.port = p->destination_port;
		reason = nat(skb, p, &end, false);
		if (reason)
			return reason;
	}
	memcpy(&end.address, asked->address, sizeof(end.address));
	end.port = asked->port;
	return nat(skb, p, &end, true);
}

#endif

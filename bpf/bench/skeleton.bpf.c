/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The yardstick S: the least map work that a correct same-node verdict needs, without anything that makes a datapath
 * (no source check, no lifetimes, no fragments, no wildcards, no IPv6). S_lb: the same with a load balancer before it. And
 * the bare look-ups H (hash) and L (trie).
 * Probes for a budget, never attached.
 */
#include "../lib/kernel.h"

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>

struct s_key {
	__be32 a, b;
	__be16 pa, pb;
	__u8 protocol, direction;
	__u16 pad;
};

struct s_flow {
	__u32 generation[2];
	__u32 seen, ifindex;
	__u8 mac[6], node_mac[6];
	__u32 identity[2];
	__u32 flags;
	__be32 backend; /* of S_lb */
	__be16 backend_port, pad;
	__u64 packets, bytes;
};

struct s_service_key {
	__be32 address;
	__be16 port;
	__u8 protocol, pad;
};

struct s_service {
	__u32 first, places;
};

struct s_backend {
	__be32 address;
	__be16 port, pad;
};

struct s_policy_key {
	__u32 identity;
	__be16 port;
	__u8 protocol, direction;
};

struct s_host {
	__u32 identity, slot;
};

struct s_endpoint {
	__u32 ifindex;
	__u8 mac[6], node_mac[6];
};

struct s_counter {
	__u64 packets, bytes;
};

struct s_prefix {
	__u32 length;
	__u32 kind;
	__be32 address[4];
};

#undef PIN_BY_NAME
#define PIN_BY_NAME 0
#define FLOWS (1 << 20)
MAP(s_flows, BPF_MAP_TYPE_LRU_HASH, struct s_key, struct s_flow, FLOWS, 0);
MAP(s_hosts, BPF_MAP_TYPE_HASH, __u32, struct s_host, FLOWS, 0);
MAP(s_endpoints, BPF_MAP_TYPE_ARRAY, __u32, struct s_endpoint, 65536, 0);
MAP(s_policy, BPF_MAP_TYPE_HASH, struct s_policy_key, __u64, 32768, 0);
MAP(s_counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct s_counter, 512, 0);
MAP(s_services, BPF_MAP_TYPE_HASH, struct s_service_key, struct s_service, 262144, 0);
MAP(s_places, BPF_MAP_TYPE_ARRAY, __u32, __u32, 262144, 0);
MAP(s_backends, BPF_MAP_TYPE_ARRAY, __u32, struct s_backend, 262144, 0);
MAP(h_table, BPF_MAP_TYPE_HASH, struct s_key, struct s_flow, FLOWS, 0);
MAP(l_table, BPF_MAP_TYPE_LPM_TRIE, struct s_prefix, struct s_host, FLOWS, BPF_F_NO_PREALLOC);

struct {
	FIELD(type, BPF_MAP_TYPE_RINGBUF);
	FIELD(max_entries, 1 << 25);
} s_events SEC(".maps");

__u32 s_generation[2] = { 1, 1 };

struct s_packet {
	struct s_key key;
	__u8 tcp_flags;
};

static __always_inline bool s_parse(struct __sk_buff *skb, struct s_packet *p)
{
	struct ethhdr *eth = packet_start(skb);
	struct iphdr *ip = (void *)(eth + 1);
	__u8 *tcp = (void *)(ip + 1);

	if ((void *)tcp + 20 > packet_end(skb))
		return false;
	if (eth->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5 || (ip->frag_off & bpf_htons(0x3fff)))
		return false;
	p->key = (struct s_key){ .a = ip->saddr,
				 .b = ip->daddr,
				 .pa = *(__be16 *)tcp,
				 .pb = *(__be16 *)(tcp + 2),
				 .protocol = ip->protocol };
	p->tcp_flags = tcp[13];
	return true;
}

static __always_inline void s_count(__u32 slot, __u32 bytes)
{
	struct s_counter *counter = bpf_map_lookup_elem(&s_counters, &slot);

	if (counter) {
		counter->packets++;
		counter->bytes += bytes;
	}
}

static __always_inline int s_deliver(struct __sk_buff *skb, const struct s_flow *flow)
{
	struct ethhdr *eth = packet_start(skb);
	struct iphdr *ip = (void *)(eth + 1);
	__u32 check;

	if ((void *)(ip + 1) > packet_end(skb))
		return TC_ACT_SHOT;
	memcpy(eth->h_dest, flow->mac, ETH_ALEN);
	memcpy(eth->h_source, flow->node_mac, ETH_ALEN);
	if (ip->ttl <= 1)
		return TC_ACT_SHOT;
	ip->ttl--;
	check = ip->check + 1;
	ip->check = check + (check >> 16);
	s_count(0, skb->len);
	return bpf_redirect_peer(flow->ifindex, 0);
}

static __always_inline __u32 s_clock(void)
{
	return bpf_jiffies64() >> 8;
}

/* Two hosts, two policies, one entry, one event. */
static __always_inline bool s_open(struct __sk_buff *skb, const struct s_packet *p, __be32 called, __be16 port,
				   struct s_flow *flow)
{
	struct s_host *from = bpf_map_lookup_elem(&s_hosts, &p->key.a), *to = bpf_map_lookup_elem(&s_hosts, &called);
	struct s_policy_key q = { .port = port, .protocol = p->key.protocol, .direction = 1 };
	struct s_endpoint *ep;
	__u64 *event;

	if (!from || !to)
		return false;
	q.identity = to->identity;
	if (!bpf_map_lookup_elem(&s_policy, &q))
		return false;
	q.identity = from->identity;
	q.direction = 0;
	if (!bpf_map_lookup_elem(&s_policy, &q))
		return false;
	ep = bpf_map_lookup_elem(&s_endpoints, &to->slot);
	if (!ep)
		return false;
	flow->generation[0] = s_generation[0];
	flow->generation[1] = s_generation[1];
	flow->seen = s_clock();
	flow->ifindex = ep->ifindex;
	memcpy(flow->mac, ep->mac, ETH_ALEN);
	memcpy(flow->node_mac, ep->node_mac, ETH_ALEN);
	flow->identity[0] = from->identity;
	flow->identity[1] = to->identity;
	flow->packets = 1;
	flow->bytes = skb->len;
	if (bpf_map_update_elem(&s_flows, &p->key, flow, BPF_ANY))
		return false;
	event = bpf_ringbuf_reserve(&s_events, 64, 0);
	if (event) {
		memset(event, 0, 64);
		event[0] = 5;
		event[1] = (__u64)from->identity << 32 | to->identity;
		bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	}
	return true;
}

static __always_inline struct s_flow *s_established(struct __sk_buff *skb, const struct s_packet *p)
{
	struct s_flow *flow = bpf_map_lookup_elem(&s_flows, &p->key);
	__u32 now;

	if (!flow || flow->generation[0] != s_generation[0] || flow->generation[1] != s_generation[1])
		return NULL;
	now = s_clock();
	if (flow->seen != now)
		flow->seen = now;
	flow->packets++;
	flow->bytes += skb->len;
	if (p->tcp_flags & 5)
		flow->flags |= p->tcp_flags;
	return flow;
}

SEC("classifier/skeleton") int skeleton(struct __sk_buff *skb)
{
	struct s_flow opened = {};
	struct s_packet p;
	struct s_flow *flow;

	if (!s_parse(skb, &p))
		return TC_ACT_SHOT;
	flow = s_established(skb, &p);
	if (flow)
		return s_deliver(skb, flow);
	if (!s_open(skb, &p, p.key.b, p.key.pb, &opened)) {
		s_count(1, skb->len);
		return TC_ACT_SHOT;
	}
	return s_deliver(skb, &opened);
}

static __always_inline void s_translate(struct __sk_buff *skb, const struct s_packet *p, const struct s_flow *flow)
{
	struct iphdr *ip = packet_start(skb) + ETH_HLEN;
	__be16 *ports = (void *)(ip + 1);
	const __be32 from = p->key.b, to = flow->backend;
	const __u32 check_at = ETH_HLEN + sizeof(*ip) + 16;
	__u32 sum;

	if ((void *)ports + 20 > packet_end(skb))
		return;
	ip->daddr = to;
	ports[1] = flow->backend_port;
	sum = (__u16)~ip->check + (__u16)~from + (__u16)~(from >> 16) + (__u16)to + (__u16)(to >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~(sum + (sum >> 16));
	bpf_l4_csum_replace(skb, check_at, from, to, BPF_F_PSEUDO_HDR | 4);
	if (p->key.pb != flow->backend_port)
		bpf_l4_csum_replace(skb, check_at, p->key.pb, flow->backend_port, 2);
}

static __always_inline bool s_choose(const struct s_packet *p, struct s_flow *flow)
{
	struct s_service_key key = { .address = p->key.b, .port = p->key.pb, .protocol = p->key.protocol };
	struct s_service *service = bpf_map_lookup_elem(&s_services, &key);
	struct s_backend *backend;
	__u64 hash;
	__u32 place, *number;

	if (!service)
		return false;
	hash = (p->key.a ^ 0x9e3779b9u) * 0xff51afd7ed558ccdULL;
	hash ^= hash >> 33;
	hash = (hash + ((__u64)p->key.b << 32 | p->key.pa << 16 | p->key.pb)) * 0xc4ceb9fe1a85ec53ULL;
	place = service->first + ((hash >> 32) * service->places >> 32);
	number = bpf_map_lookup_elem(&s_places, &place);
	backend = number ? bpf_map_lookup_elem(&s_backends, number) : NULL;
	if (!backend)
		return false;
	flow->backend = backend->address;
	flow->backend_port = backend->port;
	return true;
}

/* S_lb: one entry holds the verdict and the translation. */
SEC("classifier/balancer") int balancer(struct __sk_buff *skb)
{
	struct s_flow opened = {};
	struct s_packet p;
	struct s_flow *flow;

	if (!s_parse(skb, &p))
		return TC_ACT_SHOT;
	flow = s_established(skb, &p);
	if (!flow) {
		if (!s_choose(&p, &opened) || !s_open(skb, &p, opened.backend, opened.backend_port, &opened)) {
			s_count(1, skb->len);
			return TC_ACT_SHOT;
		}
		flow = &opened;
	}
	s_translate(skb, &p, flow);
	return s_deliver(skb, flow);
}

/* H: one look-up of the flow in a plain hash, which it fills itself. */
SEC("classifier/bare_hash") int bare_hash(struct __sk_buff *skb)
{
	struct s_flow empty = {};
	struct s_packet p;
	struct s_flow *flow;

	if (!s_parse(skb, &p))
		return TC_ACT_SHOT;
	flow = bpf_map_lookup_elem(&h_table, &p.key);
	if (flow)
		return TC_ACT_OK;
	bpf_map_update_elem(&h_table, &p.key, &empty, BPF_ANY);
	return TC_ACT_PIPE;
}

/* L: one look-up of the source address in a trie shaped like an address cache. */
SEC("classifier/bare_lpm") int bare_lpm(struct __sk_buff *skb)
{
	struct s_prefix prefix = { .length = 160, .kind = 1 };
	struct s_packet p;

	if (!s_parse(skb, &p))
		return TC_ACT_SHOT;
	prefix.address[0] = p.key.a;
	return bpf_map_lookup_elem(&l_table, &prefix) ? TC_ACT_OK : TC_ACT_PIPE;
}

char LICENSE[] SEC("license") = "GPL";

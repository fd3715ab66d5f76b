/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The yardstick S: the least map work that a correct same-node verdict needs, without anything that makes a datapath
 * (no source check, no lifetimes, no fragments, no wildcards, no IPv6). And the bare look-ups H (hash) and L (trie).
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
	__u32 flags, pad[2];
	__u64 packets, bytes;
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
static __always_inline bool s_open(struct __sk_buff *skb, const struct s_packet *p, struct s_flow *flow)
{
	struct s_host *from = bpf_map_lookup_elem(&s_hosts, &p->key.a), *to = bpf_map_lookup_elem(&s_hosts, &p->key.b);
	struct s_policy_key q = { .port = p->key.pb, .protocol = p->key.protocol, .direction = 1 };
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

SEC("classifier/skeleton") int skeleton(struct __sk_buff *skb)
{
	struct s_flow opened = {};
	struct s_packet p;
	struct s_flow *flow;
	__u32 now;

	if (!s_parse(skb, &p))
		return TC_ACT_SHOT;
	flow = bpf_map_lookup_elem(&s_flows, &p.key);
	if (flow && flow->generation[0] == s_generation[0] && flow->generation[1] == s_generation[1]) {
		now = s_clock();
		if (flow->seen != now)
			flow->seen = now;
		flow->packets++;
		flow->bytes += skb->len;
		if (p.tcp_flags & 5)
			flow->flags |= p.tcp_flags;
		return s_deliver(skb, flow);
	}
	if (!s_open(skb, &p, &opened)) {
		s_count(1, skb->len);
		return TC_ACT_SHOT;
	}
	return s_deliver(skb, &opened);
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

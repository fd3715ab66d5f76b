/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives a program under BPF_PROG_TEST_RUN: restores the packet that the last repetition changed, picks a flow, and
 * tail-calls the subject. Its own cost is measured with `nothing` as the subject and taken off.
 */
#include "../lib/kernel.h"

#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

volatile const __u32 flows = 1; /* picked from at random */
volatile const __u32 source = 0; /* network order */
volatile const __u32 destination = 0;
volatile const __u32 port = 80; /* host order, of the side that is called; flow bits above 16 are added */
volatile const __u32 tcp_flags = 0x10;
volatile const __u32 fresh = 0; /* 1: every packet is of a flow never seen before */
volatile const __u32 reply = 0; /* 1: packets go from the called side to the caller */
volatile const __u32 vary_address = 0; /* 1: flows differ by source address in place of ports */
volatile const __u32 ipv6 = 0; /* 1: the same in IPv6, the addresses behind PREFIX6 */
volatile const __u32 spread = 0; /* not 0: to so many ports in turn, from `port` on */
#define PREFIX6 0xf00d0000

__u64 random_state = 88172645463325252ULL;
__u64 fresh_state = 0;

struct {
	FIELD(type, BPF_MAP_TYPE_PROG_ARRAY);
	FIELD(key_size, 4);
	FIELD(value_size, 4);
	FIELD(max_entries, 1);
} subject SEC(".maps");

static long (*const bpf_tail_call)(void *ctx, void *programs, __u32 index) = (void *)BPF_FUNC_tail_call;

static __always_inline __u32 next_flow(void)
{
	if (fresh)
		return fresh_state++;
	random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return ((random_state >> 32) * (__u64)flows) >> 32;
}

/* Behind the Ethernet header: the network header, from one address to another. */
static __always_inline void *write_ipv4(__be32 *ip, __be32 from, __be32 to)
{
	ip[0] = bpf_htonl(0x45000000 | 186);
	ip[1] = bpf_htonl(0x12344000);
	ip[2] = bpf_htonl(0x40060000);
	ip[3] = from;
	ip[4] = to;
	return ip + 5;
}

static __always_inline void *write_ipv6(__be32 *ip, __be32 from, __be32 to)
{
	ip[0] = bpf_htonl(0x60000000);
	ip[1] = bpf_htonl(146 << 16 | 0x0640);
	ip[2] = ip[6] = bpf_htonl(PREFIX6);
	ip[3] = ip[4] = ip[7] = ip[8] = 0;
	ip[5] = from;
	ip[9] = to;
	return ip + 10;
}

static __always_inline void write_packet(__u8 *frame, __u32 flow)
{
	struct ethhdr *eth = (void *)frame;
	__be16 caller = vary_address ? bpf_htons(1024) : (__be16)(spread ? flow / spread : flow);
	__be16 called = bpf_htons(port + (vary_address ? 0 : spread ? flow % spread : flow >> 16));
	__be32 from = vary_address ? bpf_htonl(__builtin_bswap32(source) + flow) : source;
	__be32 sender = reply ? destination : from, receiver = reply ? from : destination;
	__be16 *tcp;

	memset(eth, 2, 12);
	eth->h_proto = bpf_htons(ipv6 ? ETH_P_IPV6 : ETH_P_IP);
	tcp = ipv6 ? write_ipv6((void *)(eth + 1), sender, receiver) : write_ipv4((void *)(eth + 1), sender, receiver);
	tcp[0] = reply ? called : caller;
	tcp[1] = reply ? caller : called;
	*(__be32 *)(tcp + 6) = bpf_htonl(0x50000200 | tcp_flags << 16);
}

SEC("classifier/driver") int driver(struct __sk_buff *skb)
{
	void *frame = packet_start(skb);

	if (frame + 74 > packet_end(skb))
		return TC_ACT_SHOT;
	write_packet(frame, next_flow());
	bpf_tail_call(skb, &subject, 0);
	return TC_ACT_STOLEN;
}

/*
 * Cuts the packet to skb->cb[0] bytes and hands it on: test_run itself takes no frame that ends within an IP header, a
 * network does.
 */
SEC("classifier/cut") int cut(struct __sk_buff *skb)
{
	if (bpf_skb_change_tail(skb, skb->cb[0], 0))
		return TC_ACT_STOLEN;
	bpf_tail_call(skb, &subject, 0);
	return TC_ACT_STOLEN;
}

/*
 * Has the packet come out of a tunnel, and hands it on: skb->cb[0] is the network identifier, skb->cb[1..4] the outer
 * source address, of IPv4 as ::ffff:a.b.c.d. test_run itself knows no tunnels.
 */
SEC("classifier/carry") int carry(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = { .tunnel_id = skb->cb[0], .tunnel_ttl = 64 };
	__u64 flags = 0;

	if (skb->cb[3] == bpf_htonl(0xffff)) {
		key.local_ipv4 = bpf_ntohl(skb->cb[4]);
	} else {
		key.local_ipv6[0] = skb->cb[1];
		key.local_ipv6[1] = skb->cb[2];
		key.local_ipv6[2] = skb->cb[3];
		key.local_ipv6[3] = skb->cb[4];
		flags = BPF_F_TUNINFO_IPV6;
	}
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags))
		return TC_ACT_STOLEN;
	bpf_tail_call(skb, &subject, 0);
	return TC_ACT_STOLEN;
}

SEC("classifier/nothing") int nothing(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives a program under BPF_PROG_TEST_RUN: restores the packet that the last repetition changed, picks a flow, and
 * tail-calls the subject. Its own cost is measured with `nothing` as the subject and taken off.
 */
#include "../lib/kernel.h"

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>

volatile const __u32 flows = 1; /* picked from at random */
volatile const __u32 source = 0; /* network order */
volatile const __u32 destination = 0;
volatile const __u32 port = 80; /* host order, of the side that is called; flow bits above 16 are added */
volatile const __u32 tcp_flags = 0x10;
volatile const __u32 fresh = 0; /* 1: every packet is of a flow never seen before */
volatile const __u32 reply = 0; /* 1: packets go from the called side to the caller */
volatile const __u32 vary_address = 0; /* 1: flows differ by source address in place of ports */

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

static __always_inline void write_packet(__u8 *frame, __u32 flow)
{
	struct ethhdr *eth = (void *)frame;
	struct iphdr *ip = (void *)(eth + 1);
	__be16 *tcp = (void *)(ip + 1);
	__be16 caller = vary_address ? bpf_htons(1024) : (__be16)flow;
	__be16 called = bpf_htons(port + (vary_address ? 0 : flow >> 16));
	__be32 from = vary_address ? bpf_htonl(__builtin_bswap32(source) + flow) : source;

	memset(eth, 2, 12);
	eth->h_proto = bpf_htons(ETH_P_IP);
	*(__be32 *)ip = bpf_htonl(0x45000000 | 186);
	*((__be32 *)ip + 1) = bpf_htonl(0x12344000);
	*((__be32 *)ip + 2) = bpf_htonl(0x40060000);
	ip->saddr = reply ? destination : from;
	ip->daddr = reply ? from : destination;
	tcp[0] = reply ? called : caller;
	tcp[1] = reply ? caller : called;
	*(__be32 *)(tcp + 6) = bpf_htonl(0x50000200 | tcp_flags << 16);
}

SEC("classifier/driver") int driver(struct __sk_buff *skb)
{
	void *frame = packet_start(skb);

	if (frame + 54 > packet_end(skb))
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

SEC("classifier/nothing") int nothing(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";

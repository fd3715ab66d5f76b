/* SPDX-License-Identifier: Apache-2.0 */
/* What is known about the packet in hand. Owns the record that all other parts fill and read, and nothing of them. */
#ifndef PACKET_H
#define PACKET_H

#include "kernel.h"

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

/* Of <linux/icmp.h>, <linux/icmpv6.h>, which want a C library. */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* IPv4 in `v4` with the rest 0, so that comparing and hashing all 16 bytes is right for both families. */
union address {
	__be32 v4;
	__u64 half[2];
	__u8 bytes[16];
};

/* An address and port that takes another one's place. */
struct nat_end {
	union address address;
	__be16 port;
	__u8 pad[6];
};

enum packet_kind {
	KIND_FLOW = 0, /* TCP, UDP, SCTP, ICMP echo: has a conntrack key */
	KIND_ICMP_ERROR, /* quotes a packet */
	KIND_ICMP_OTHER, /* judged by itself */
	KIND_LINK, /* ICMPv6 that belongs to one link: neighbour discovery, multicast membership, redirects */
};

struct packet {
	union address source;
	union address destination;
	/* For ICMP: the identifier (echo, else 0), and the type as if it were a port. */
	__be16 source_port;
	__be16 destination_port;
	__u8 family; /* FAMILY_*, 0: no IP */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 kind; /* enum packet_kind */
	__u16 transport; /* offset of the transport header from the start of the frame */
	__u8 later_fragment; /* bool: there is no transport header */
	/* What an event says, kept up as it becomes known. */
	__u8 point;
	__u32 source_identity;
	__u32 destination_identity;
	__u16 source_slot;
	__u16 destination_slot;
	__u8 direction;
	__u8 ct_state;
	__u8 matched;
	__u8 hairpin; /* bool: the other end is a local endpoint, but reached by way of the host's stack */
	__u8 tunnel; /* bool: the other end is reached through the tunnel */
	__u8 direct; /* bool: the other end is another node's pod, past the host's stack */
	__u8 unheard; /* bool: the destination is behind another node and nobody's as far as is known here */
	__u8 fragment; /* bool: a piece of a datagram */
	__u8 self; /* bool: by way of a service back to its own sender */
	__u8 as_host; /* bool: it has an address of this host's as source, which the host's stack would take from nobody */
	__be16 snat_port; /* of this node's, that took the place of the client's port; 0: none did */
	__u32 node; /* number of the node that the other end is behind */
	__u32 service; /* number of the service that the flow's opener asked for, 0: none */
	__u32 backend; /* number of the backend that was just chosen, 0: none was */
	/* What a verdict rests on: policies of the ends that are judged here (0: none), state of the ipcache it used. */
	__u32 source_policy;
	__u32 destination_policy;
	__u32 ipcache_generation;
};

static __always_inline bool is_ipv6(const struct packet *p)
{
	return p->family == FAMILY_IPV6;
}

static __always_inline bool same_address(const union address *a, const union address *b)
{
	return a->half[0] == b->half[0] && a->half[1] == b->half[1];
}

static __always_inline __u32 now_jiffies(void)
{
	return (__u32)bpf_jiffies64();
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* Knobs: constants that the loader may set. Owns their defaults; times are in jiffies, the defaults for 250 a second. */
#ifndef CONFIG_H
#define CONFIG_H

#include "kernel.h"

#define DEFAULT_HZ 250

/* Interface number of slot 0. */
volatile const __u32 lxc_ifindex_base = LXC_IFINDEX_BASE;

/* UDP ports that containers may not send to, host order, 0: none. IANA's for VXLAN and Geneve as Linux has them. */
volatile const __u32 vxlan_port = 8472;
volatile const __u32 geneve_port = 6081;

/* Not 0: no tunnel leads to other nodes' pods, the network between the nodes does. */
volatile const __u32 native_routing = 0;

/* GENEVE_*: who speaks Geneve to other nodes. */
volatile const __u32 geneve = GENEVE_NONE;

/* This node's ports for what it sends on for others, host order: none that its own sockets are given by themselves. */
volatile const __u32 snat_port_first = 1024;
volatile const __u32 snat_port_last = 29999;

/* Lifetimes of flows without packets; the numbers are Cilium's. */
volatile const __u32 ct_timeout_tcp = 8000 * DEFAULT_HZ;
volatile const __u32 ct_timeout_tcp_syn = 60 * DEFAULT_HZ;
volatile const __u32 ct_timeout_any = 60 * DEFAULT_HZ;
volatile const __u32 ct_timeout_closing = 10 * DEFAULT_HZ; /* the least of the four: conntrack.h relies on it */

/* Linux gives up on an incomplete datagram after 30 s. */
volatile const __u32 frag_timeout = 30 * DEFAULT_HZ;

/* Between two traces of one direction of one flow; Cilium's monitor-aggregation-interval. */
volatile const __u32 report_interval = 5 * DEFAULT_HZ;

#endif

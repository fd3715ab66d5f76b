/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The only place that knows a layout which both halves share: map keys and values, event records, numbers.
 *
 * `cargo xtask abi` turns this file into src/abi.rs. Rules: fixed-width integers and byte arrays, explicit padding, no
 * bitfield, no pointer, no conditional. Everything is host byte order but __be16/__be32 and addresses.
 */
#ifndef ABI_H
#define ABI_H

#include <linux/types.h>

/* Raised when a key, a value or the meaning of one changes: pinned maps of another version cannot be taken over. */
#define ABI_VERSION 5

/* The host-side device of endpoint N has the interface number LXC_IFINDEX_BASE + N, so a device names its slot. */
#define LXC_IFINDEX_BASE 0x10000
/* The tunnel device has the number that an endpoint in slot 0 would have: LXC_IFINDEX_BASE itself. */
/* Slots of cilium_lxc; slot 0 belongs to nobody, in every field that holds a slot it stands for "no endpoint here". */
#define LXC_SLOTS 65536

/* Reserved identities that the programs know by number. */
#define IDENTITY_HOST 1
#define IDENTITY_HEALTH 4
#define IDENTITY_INIT 5
#define IDENTITY_REMOTE_NODE 6
#define IDENTITY_WORLD_IPV4 9
#define IDENTITY_WORLD_IPV6 10
/* The first identity that is not reserved. */
#define IDENTITY_FIRST_CLUSTER 256
/* Where in those the id of the cluster begins that gives them: 8 bits. */
#define IDENTITY_CLUSTER_SHIFT 16
/* The first identity that stands for a CIDR prefix on this node. */
#define IDENTITY_FIRST_LOCAL 0x1000000

#define FAMILY_IPV4 1
#define FAMILY_IPV6 2

/* ---- cilium_lxc: ARRAY, slot -> endpoint ------------------------------------------------------------------------ */

/* The slot is in use. Without it a packet from that device is dropped (DROP_UNKNOWN_SENDER). */
#define ENDPOINT_VALID 1
/* On an internal network: no traffic with world or CIDR identities (DROP_UNROUTABLE). */
#define ENDPOINT_INTERNAL 2

/* One cache line. */
struct endpoint {
	__u32 policy; /* id of the policy in force; the one field that changes while packets flow */
	__u32 identity;
	__be32 ipv4; /* 0: has none */
	__u16 flags; /* ENDPOINT_* */
	__u16 pad0;
	__u8 ipv6[16]; /* all 0: has none */
	__u8 mac[6]; /* of the container's side */
	__u8 node_mac[6]; /* of the host's side: what the container believes its gateway to have */
	__u8 pad1[20];
};

/* ---- cilium_policies: ARRAY, policy id % POLICY_SLOTS -> policy_header -------------------------------------------- */

/*
 * A policy id names one version of one identity's policy. It is never 0 and never used again while the maps live; two
 * ids in use at the same time differ modulo POLICY_SLOTS. Write the entries, then the header, then the `policy` field of
 * the endpoints. After that entries come and go only for peers that no packet can be of; a class of keys is announced
 * in the header before the first key of it is written.
 */
#define POLICY_SLOTS 65536

/* Indices into policy_header.classes. */
#define POLICY_INGRESS 0
#define POLICY_EGRESS 1
#define POLICY_PEER 0 /* keys that name a peer's identity */
#define POLICY_ANY_PEER 1 /* keys with identity 0 */

struct policy_header {
	__u32 id; /* the whole id: another one means that this policy is not here */
	__u32 identity; /* whose policy it is */
	__u32 classes[2][2]; /* [direction][whose]: bit n is set when a key of class n occurs */
	__u32 pad[2];
};

/* ---- cilium_policy: HASH, policy_key -> policy_entry -------------------------------------------------------------- */

/* A key's class: 0..16, the number of leading port bits that count, or any protocol (protocol and port are 0 then). */
#define POLICY_CLASS_EXACT 16
#define POLICY_CLASS_ANY_PROTOCOL 17
#define POLICY_CLASSES 18
/* In policy_key.class_direction beside the class: the key is one of egress. */
#define POLICY_KEY_EGRESS 0x80

struct policy_key {
	__u32 policy;
	__u32 identity; /* of the peer; 0: any */
	__u16 port; /* host order, bits beyond the class 0; for ICMP the type */
	__u8 protocol;
	__u8 class_direction; /* class | POLICY_KEY_EGRESS */
};

#define POLICY_DENY 1

struct policy_entry {
	__u8 flags; /* POLICY_DENY */
	__u8 precedence; /* the larger one wins between the peer's best key and any peer's best key */
	__u16 proxy_port; /* host order; not 0: only a proxy may let it through (DROP_NO_PROXY while there is none) */
	__u32 pad;
	/* Packets that this entry decided: the ones that opened a flow, had it judged again, or were refused. */
	__u64 packets;
	__u64 bytes;
};

/* How a verdict was found, as Cilium numbers it. */
enum policy_match {
	MATCH_NONE = 0,
	MATCH_L3_ONLY = 1, /* peer, any protocol */
	MATCH_L3_L4 = 2, /* peer, protocol and port */
	MATCH_L4_ONLY = 3, /* any peer, protocol and port */
	MATCH_ALL = 4, /* any peer, any protocol */
	MATCH_L3_PROTO = 5, /* peer, protocol, every port */
	MATCH_PROTO_ONLY = 6, /* any peer, protocol, every port */
};

/* ---- cilium_ipcache: HASH, ipcache_key -> ipcache_entry; cilium_ipcache_lpm: LPM_TRIE ------------------------------ */

struct ipcache_key {
	__u8 family; /* FAMILY_* */
	__u8 pad[3];
	__u8 address[16]; /* IPv4 in the first four, the rest 0 */
};

/* Whole addresses (/32, /128) stand in the hash alone, shorter prefixes in the trie alone. */
#define IPCACHE_LPM_FAMILY_BITS 32

struct ipcache_lpm_key {
	__u32 prefix; /* IPCACHE_LPM_FAMILY_BITS + length of the prefix */
	struct ipcache_key key;
};

struct ipcache_entry {
	__u32 identity;
	__u16 slot; /* of the endpoint on this node that has the address, else 0 */
	__u16 pad;
};

/* ---- cilium_identities: HASH, identity -> __u32 that says nothing ------------------------------------------------- */

/*
 * Identities of the cluster about which every policy here says what it has to say: only they are believed of what comes
 * through the tunnel. One comes after the policies that name it, and goes before what they say of it.
 */
#define IDENTITY_ENTRIES 131072

/* ---- cilium_tunnel_map: LPM_TRIE, ipcache_lpm_key -> vtep; cilium_node_map: HASH, ipcache_key -> __u32 --------------- */

/*
 * Underlay address of the node behind which a pod prefix is, or another address of the node. Where `strict`
 * is not 0, the node speaks for identities of these two clusters alone, which may be the same.
 */
struct vtep {
	__u8 family; /* FAMILY_* */
	__u8 strict;
	__u8 clusters[2];
	__u32 node; /* the node's number, see below */
	__u8 address[16]; /* IPv4 in the first four, the rest 0 */
};

/*
 * cilium_node_map: underlay addresses from which tunnelled packets are believed. The value is the node's number: 1 to
 * NODE_NUMBERS, the same for all that is one node's, and no other node's while flows remember it.
 */
#define NODE_NUMBERS 0xffff

/* Who puts packets into Geneve and takes them out: nobody, a device of the kernel's, or the programs themselves. */
#define GENEVE_NONE 0
#define GENEVE_DEVICE 1
#define GENEVE_PROGRAMS 2

/* ---- cilium_ct4_global, cilium_ct6_global: LRU_HASH, ct?_key -> ct_entry ------------------------------------------- */

/*
 * One entry per flow: the two ends are ordered, (a, pa) <= (b, pb) as bytes in memory read by the machine, so both
 * directions have the same key. Side 0 is a, side 1 is b. An echo request has its identifier on both sides and names in
 * `asker` who asks, so that a request the other way is another flow.
 */
#define CT_ASKER_NONE 0
#define CT_ASKER_A 1
#define CT_ASKER_B 2

struct ct4_key {
	__be32 a;
	__be32 b;
	__be16 pa;
	__be16 pb;
	__u8 protocol;
	__u8 asker;
	__u8 pad[2];
};

struct ct6_key {
	__u8 a[16];
	__u8 b[16];
	__be16 pa;
	__be16 pb;
	__u8 protocol;
	__u8 asker;
	__u8 pad[2];
};

/* Side b opened the flow (else side a). */
#define CT_OPENED_BY_B 1
/* The end that is no endpoint here is a local endpoint nevertheless, reached by way of the host's stack (a hairpin). */
#define CT_HAIRPIN 2
/* The end that is no endpoint here is reached through the tunnel. */
#define CT_TUNNEL 4
/*
 * No flow, but what became of one: an end asked for a service's frontend, and stamp[0] is the number of the backend that
 * it was given. The flow itself has its entry under that backend's address. Of the other fields only service, seen and
 * CT_OPENED_BY_B (side b is who asked) say anything.
 */
#define CT_SERVICE 8
/* The end that is no endpoint here is another node's pod, and nobody translates between the two: past the host's stack. */
#define CT_DIRECT 16
/*
 * The flow is one that this node sends on under its own address, for who asked from outside for a service whose backend is
 * not here: neither end is. Its opener is this node, and stamp its opener's and its backend's identity; with CT_TUNNEL who
 * asked is reached through the tunnel, and node is the backend's, 0 where no tunnel leads there. With CT_SERVICE: stamp[1]
 * is this node's port, as it is in packets.
 */
#define CT_SNAT 32

/* Of jiffies, so that 8 bits last for a minute at 250 a second. */
#define REPORT_SHIFT 6

/* 64 bytes: with the 16-byte key and the kernel's 48 an IPv4 flow is two cache lines. */
struct ct_entry {
	/* What the verdict rests on, by side: slot != 0: the id of that endpoint's policy; slot == 0: the peer's identity. */
	__u32 stamp[2];
	__u16 slot[2]; /* endpoints on this node */
	__u32 ipcache_generation; /* of the look-up that gave the identity; of no meaning when both slots are set */
	__u32 seen; /* jiffies, low 32 bits, of the last packet */
	__u8 flags; /* CT_* */
	__u8 tcp_flags[2]; /* by sending side: every TCP flag seen */
	__u8 reported[2]; /* by sending side: jiffies >> REPORT_SHIFT of the last event */
	__u8 pad;
	__u16 node; /* with CT_TUNNEL: number of the node that the other end is behind */
	__u32 service; /* number of the service that the opener asked for; 0: it asked for the other end itself */
	__u64 packets[2]; /* by sending side */
	__u64 bytes[2];
};

/* ---- cilium_ipv4_frag_datagrams, cilium_ipv6_frag_datagrams: LRU_HASH, frag?_key -> frag_entry --------------------- */

struct frag4_key {
	__be32 source;
	__be32 destination;
	__be16 id;
	__u8 protocol;
	__u8 pad;
};

struct frag6_key {
	__u8 source[16];
	__u8 destination[16];
	__be32 id;
	__u8 protocol;
	__u8 pad[3];
};

struct frag_entry {
	__be16 source_port;
	__be16 destination_port;
	__u32 seen; /* jiffies, low 32 bits, of the first fragment */
};

/* ---- services: what is asked for, who answers, and how one of those is chosen -------------------------------------- */

/*
 * A service number and a backend number name one frontend and one backend of this kernel: never 0, and not given to
 * another one while flows may remember it. They are indices into arrays after a modulo; the element says which number it
 * holds, so that what is remembered too long finds nothing instead of somebody else. What is gone leaves its number
 * there, without a family: the largest of an array is the largest that was given out. Write backends, places and the
 * reverse entry first, then the service; take them away, after a while, in the reverse order.
 */
#define LB_SERVICES 524288
#define LB_BACKENDS 524288

/*
 * cilium_lb_services: HASH, lb_key -> lb_service. With protocol 0 and port 0: the address is some service's and not the
 * host's, so that what is asked for there and is no service is refused; of the value nothing counts.
 */
struct lb_key {
	__u8 address[16]; /* IPv4 in the first four, the rest 0 */
	__be16 port;
	__u8 protocol;
	__u8 family; /* FAMILY_* */
};

/* lb_service.kind, by who may ask; the names are Cilium's. */
enum lb_kind {
	LB_CLUSTER_IP = 1, /* who asks from outside the cluster is refused */
	LB_NODE_PORT = 2,
	LB_EXTERNAL_IP = 3,
	LB_LOAD_BALANCER = 4,
	LB_HOST_PORT = 5,
};

/* The backend is found by a hash of the flow instead of a random number, shifted by where the flow begins. */
#define LB_MAGLEV 1
/* Who comes from elsewhere must be in cilium_lb_source_range. */
#define LB_SOURCE_RANGES 4
/* The address is one of this host's loopback ones: nobody but the host itself means it. */
#define LB_LOOPBACK 8

/* Indices into first, places: where a flow begins. */
#define LB_INTERNAL 0 /* on a node: in a container or on the host */
#define LB_EXTERNAL 1 /* elsewhere */

/* Half a cache line. */
struct lb_service {
	__u32 number;
	__u32 first[2]; /* where its places begin in cilium_lb_places */
	__u32 places[2]; /* how many those are; 0: flows are refused at once */
	__u32 affinity; /* jiffies for which a client's next flow goes where its last one went; 0: it is chosen anew */
	__u8 kind; /* enum lb_kind */
	__u8 flags; /* LB_MAGLEV, LB_MAGLEV << LB_EXTERNAL, LB_SOURCE_RANGES, LB_LOOPBACK */
	__u8 pad[2];
	__u32 id; /* by which users know it; of no meaning here */
};

/* cilium_lb_places: ARRAY, place / LB_ROW -> lb_row: numbers of backends, 0 where nobody is. */
#define LB_ROW 16
#define LB_PLACE_ROWS 262144 /* unless the loader says otherwise */

struct lb_row {
	__u32 backend[LB_ROW];
};

/* cilium_lb_backends: ARRAY, number % LB_BACKENDS -> lb_backend. */
struct lb_backend {
	__u32 number; /* the whole one: another one means that this backend is gone */
	__be16 port;
	__u8 family; /* FAMILY_*, 0: it is gone */
	__u8 pad;
	__u8 address[16];
};

/* cilium_lb_reverse: ARRAY, number % LB_SERVICES -> lb_reverse: what was asked for, for what comes back. */
struct lb_reverse {
	__u32 number; /* the whole one: another one means that this service is gone */
	__be16 port;
	__u8 family; /* FAMILY_*, 0: it is gone */
	__u8 pad;
	__u8 address[16];
};

/*
 * cilium_snat_external: LRU_HASH, snat_key -> snat_entry: who asked, for what this node sends on to a backend that is not
 * here. Without a flow that rests on it (CT_SNAT) a port is free again, a while after it was taken.
 */
struct snat_key {
	__u8 backend[16];
	__be16 backend_port;
	__be16 port; /* this node's */
	__u8 protocol;
	__u8 family; /* FAMILY_* */
	__u8 pad[2];
};

struct snat_entry {
	__u64 claim; /* jiffies, low 32 bits, when the port was taken << 32, and a random number */
	__u8 client[16];
	__be16 client_port;
	__u8 pad[6];
};

/* cilium_lb_affinity: LRU_HASH, lb_client -> lb_affinity: who was served by whom. */
struct lb_client {
	__u8 client[16]; /* its address; at a socket the cookie of its network namespace, in the first eight */
	__u32 service; /* number */
	__u8 by_cookie; /* bool */
	__u8 pad[3];
};

struct lb_affinity {
	__u32 backend; /* number */
	__u32 seen; /* jiffies, low 32 bits */
};

/* cilium_lb_affinity_match: HASH, lb_member -> __u32 that says nothing: the backend still gets new flows of the service. */
struct lb_member {
	__u32 service; /* number */
	__u32 backend; /* number */
};

/* cilium_lb_source_range: LPM_TRIE, lb_source -> __u32 that says nothing. */
#define LB_SOURCE_SERVICE_BITS 32

struct lb_source {
	__u32 prefix; /* LB_SOURCE_SERVICE_BITS + length of the prefix */
	__u32 service; /* number */
	__u8 address[16];
};

/* cilium_lb_reverse_sk: LRU_HASH, lb_peer -> lb_asked: what a socket asked for that was connected to a backend. */
struct lb_peer {
	__u64 cookie; /* of the socket */
	__u8 address[16];
	__be16 port;
	__u8 family;
	__u8 pad[5];
};

struct lb_asked {
	__u8 address[16];
	__be16 port;
	__u8 family;
	__u8 pad;
	__u32 service; /* number */
};

/* ---- cilium_metrics: PERCPU_ARRAY, reason -> metric --------------------------------------------------------------- */

#define METRIC_REASONS 256
#define REASON_FORWARDED 0
/* An event that found the ring buffer full. */
#define REASON_EVENT_LOST 1

/* Traffic directions of metrics and events (Cilium's numbers); an event about both verdicts has both bits. */
#define DIRECTION_INGRESS 1
#define DIRECTION_EGRESS 2

/* One cache line: all directions of a reason, indexed by DIRECTION_*. */
struct metric {
	__u64 packets[4];
	__u64 bytes[4];
};

/* ---- cilium_runtime: ARRAY of one, what changes while the programs run -------------------------------------------- */

enum monitor_level {
	MONITOR_DROPS = 0,
	MONITOR_VERDICTS = 1, /* and the verdict on each new flow */
	MONITOR_MEDIUM = 2, /* and a trace per direction of a flow every report_interval and with each new TCP flag */
	MONITOR_ALL = 3, /* and a trace of every packet */
};

struct runtime {
	__u32 ipcache_generation; /* raise it after each change of the ipcache: flows with one end elsewhere are judged again */
	__u32 monitor; /* enum monitor_level */
	/* What this node's packets through a tunnel without a device have as outer source; all 0: not known. */
	__be32 tunnel4;
	__u8 tunnel6[16];
	__u32 tunnel_mtu; /* largest packet that the tunnel takes, 0: not known */
	/* What this node's packets for others have as source (cilium_snat_external); all 0: not known. */
	__be32 node4;
	__u8 node6[16];
	__u32 pad[3];
};

/* ---- cilium_events: RINGBUF of event ------------------------------------------------------------------------------- */

enum event_kind {
	EVENT_DROP = 1,
	EVENT_TRACE = 4,
	EVENT_VERDICT = 5, /* a new flow was allowed; a refused one is an EVENT_DROP */
};

/* Where the packet was seen going (Cilium's numbers). */
enum observation_point {
	POINT_TO_ENDPOINT = 0,
	POINT_TO_HOST = 2,
	POINT_TO_STACK = 3,
	POINT_TO_OVERLAY = 4,
	POINT_FROM_ENDPOINT = 5, /* of drops: while leaving a container */
	POINT_FROM_OVERLAY = 9,
};

enum ct_state {
	CT_NEW = 0,
	CT_ESTABLISHED = 1,
	CT_REPLY = 2,
	CT_RELATED = 3,
};

#define EVENT_CAPTURE 128

struct event {
	__u64 timestamp; /* ns, CLOCK_MONOTONIC */
	__u8 kind; /* enum event_kind */
	__u8 reason; /* enum drop_reason, 0 when no drop */
	__u8 point; /* enum observation_point */
	__u8 direction; /* DIRECTION_* bits: which verdict(s) it is about */
	__u8 ct_state; /* enum ct_state */
	__u8 matched; /* enum policy_match of the deciding verdict; when both allowed, of the destination's */
	__u8 family; /* FAMILY_*, 0 when neither */
	__u8 protocol;
	__u32 source_identity; /* 0: not known when it was written */
	__u32 destination_identity;
	__u16 source_slot;
	__u16 destination_slot;
	__u16 source_port; /* host order; 0 for ICMP */
	__u16 destination_port; /* host order; for ICMP the type */
	__u32 ifindex; /* of the host-side device whose program wrote it */
	__u32 length; /* of the packet with its Ethernet header */
	__u16 captured; /* how many bytes of `packet` are set */
	__u16 cpu;
	__u32 pad;
	__u8 packet[EVENT_CAPTURE]; /* from the Ethernet header on */
};

/* ---- why a packet was dropped: Cilium's numbers, those that these programs give ----------------------------------- */

enum drop_reason {
	DROP_INVALID_SOURCE = 132, /* an address that is not the sender's */
	DROP_POLICY_DENIED = 133, /* no entry allows it */
	DROP_INVALID_PACKET = 134, /* cut short or malformed up to the network header */
	DROP_CT_INVALID_HEADER = 135, /* cut short within the transport header */
	DROP_TOO_LONG = 136, /* longer with its outer headers than what the way to the other node takes */
	DROP_CT_UNKNOWN_PROTOCOL = 137, /* no TCP, UDP, SCTP or ICMP */
	DROP_UNSUPPORTED_L3 = 139, /* an ethertype beside IPv4, IPv6, ARP */
	DROP_WRITE_ERROR = 141, /* the packet could not be changed or enlarged */
	DROP_TUNNEL_KEY = 147, /* a tunnel header that is not understood */
	DROP_UNROUTABLE = 151, /* between an internal network and the outside, or to an endpoint that is gone or unheard of */
	DROP_NO_ENDPOINT = 152, /* to the device of an empty slot; out of the tunnel for nobody here */
	DROP_CT_INSERT_FAILED = 155,
	DROP_INVALID_EXTENSION = 156, /* an IPv6 extension header chain too long or malformed */
	DROP_FRAGMENTED = 157, /* a piece of a tunnel packet: it cannot be put together before it is opened */
	DROP_NO_SERVICE = 158, /* nobody serves what was asked for, or who did is gone; who asked is told */
	DROP_NAT_NO_MAPPING = 161, /* to another node's backend: this node has no address or no port for that */
	DROP_UNKNOWN_CT_STATE = 163, /* an ICMP error about no flow that is known */
	DROP_NO_POLICY = 165, /* the endpoint's policy id has no header */
	DROP_UNSUPPORTED_L2 = 166, /* no Ethernet II frame, or ARP that makes no sense */
	DROP_NO_FIB = 169, /* the host has no way to the other node */
	DROP_ENCAPSULATION = 170, /* UDP to a tunnel port */
	DROP_INVALID_IDENTITY = 171, /* out of the tunnel: an identity that another node's endpoints cannot have */
	DROP_UNKNOWN_SENDER = 172, /* from the device of an empty slot; out of the tunnel, but not from a known node */
	DROP_CLUSTER_IP = 174, /* from outside to an address that is the cluster's own */
	DROP_FRAGMENT_NOT_FOUND = 175, /* a later fragment without its first one */
	DROP_FORBIDDEN_ICMP6 = 176,
	DROP_NOT_IN_SOURCE_RANGE = 177, /* to a service that is not for who asks */
	DROP_NO_PROXY = 180, /* only a proxy may let it through and there is none */
	DROP_POLICY_DENY = 181, /* a deny entry */
	DROP_TTL_EXCEEDED = 196, /* no hop left on the way on to another node or back to who asked */
};

#endif

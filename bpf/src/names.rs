//! The names by which maps, programs and knobs are found in `CONTAINER` and `SOCKETS`, and under which maps are pinned.
//!
//! Owns the spelling; what each holds is `abi`'s, declared in `bpf/lib/*.h`.

/// Maps; all of them are pinned by name (`LIBBPF_PIN_BY_NAME`).
pub mod map {
    /// ARRAY: endpoint id -> `abi::Endpoint`.
    pub const LXC: &str = "cilium_lxc";
    /// ARRAY: policy id % `abi::POLICY_SLOTS` -> `abi::PolicyHeader`.
    pub const POLICIES: &str = "cilium_policies";
    /// HASH: `abi::PolicyKey` -> `abi::PolicyEntry`.
    pub const POLICY: &str = "cilium_policy";
    /// HASH: `abi::IpcacheKey` -> `abi::IpcacheEntry`, whole addresses.
    pub const IPCACHE: &str = "cilium_ipcache";
    /// LPM_TRIE: prefix length `abi::IPCACHE_LPM_FAMILY_BITS` + n, `abi::IpcacheKey` -> `abi::IpcacheEntry`, prefixes.
    pub const IPCACHE_LPM: &str = "cilium_ipcache_lpm";
    /// LPM_TRIE: as in `IPCACHE_LPM`, of pods on other nodes -> `abi::Vtep`.
    pub const TUNNEL: &str = "cilium_tunnel_map";
    /// HASH: `u32`, an identity of the cluster that is believed -> `u32` of no meaning.
    pub const IDENTITIES: &str = "cilium_identities";
    /// HASH: `abi::IpcacheKey`, underlay addresses of known nodes -> `u32`, the node's number.
    pub const NODES: &str = "cilium_node_map";
    /// LRU_HASH: `abi::Ct4Key` -> `abi::CtEntry`.
    pub const CT4: &str = "cilium_ct4_global";
    /// LRU_HASH: `abi::Ct6Key` -> `abi::CtEntry`.
    pub const CT6: &str = "cilium_ct6_global";
    /// LRU_HASH: `abi::Frag4Key` -> `abi::FragEntry`.
    pub const FRAG4: &str = "cilium_ipv4_frag_datagrams";
    /// LRU_HASH: `abi::Frag6Key` -> `abi::FragEntry`.
    pub const FRAG6: &str = "cilium_ipv6_frag_datagrams";
    /// HASH: `abi::LbKey`, what is asked for -> `abi::LbService`.
    pub const LB_SERVICES: &str = "cilium_lb_services";
    /// ARRAY: place / `abi::LB_ROW` -> `abi::LbRow`, the backends that new flows are given to.
    pub const LB_PLACES: &str = "cilium_lb_places";
    /// ARRAY: backend number % `abi::LB_BACKENDS` -> `abi::LbBackend`.
    pub const LB_BACKENDS: &str = "cilium_lb_backends";
    /// ARRAY: service number % `abi::LB_SERVICES` -> `abi::LbReverse`.
    pub const LB_REVERSE: &str = "cilium_lb_reverse";
    /// LRU_HASH: `abi::LbClient` -> `abi::LbAffinity`.
    pub const LB_AFFINITY: &str = "cilium_lb_affinity";
    /// HASH: `abi::LbMember`, a backend that gets new flows of a service -> `u32` of no meaning.
    pub const LB_AFFINITY_MATCH: &str = "cilium_lb_affinity_match";
    /// LPM_TRIE: `abi::LbSource` -> `u32` of no meaning.
    pub const LB_SOURCE_RANGE: &str = "cilium_lb_source_range";
    /// LRU_HASH: `abi::SnatKey`, a port of this node's -> `abi::SnatEntry`, whose it is.
    pub const SNAT: &str = "cilium_snat_external";
    /// LRU_HASH: `abi::LbPeer` -> `abi::LbAsked`; of `SOCKETS` alone.
    pub const LB_REVERSE_SK: &str = "cilium_lb_reverse_sk";
    /// PERCPU_ARRAY: drop reason -> `abi::Metric`.
    pub const METRICS: &str = "cilium_metrics";
    /// ARRAY of one `abi::Runtime`.
    pub const RUNTIME: &str = "cilium_runtime";
    /// PERCPU_ARRAY of one: what the programs have no room for on their stack. Of no meaning between two runs.
    pub const SCRATCH: &str = "cilium_scratch";
    /// RINGBUF of `abi::Event`.
    pub const EVENTS: &str = "cilium_events";

    /// Every map of `CONTAINER`.
    pub const ALL: [&str; 24] = [
        LXC,
        POLICIES,
        POLICY,
        IPCACHE,
        IPCACHE_LPM,
        IDENTITIES,
        TUNNEL,
        NODES,
        SCRATCH,
        CT4,
        CT6,
        FRAG4,
        FRAG6,
        LB_SERVICES,
        LB_PLACES,
        LB_BACKENDS,
        LB_REVERSE,
        LB_AFFINITY,
        LB_AFFINITY_MATCH,
        LB_SOURCE_RANGE,
        SNAT,
        METRICS,
        RUNTIME,
        EVENTS,
    ];
}

/// Programs, all of type `SCHED_CLS`.
pub mod program {
    /// tcx ingress of an endpoint's host-side device: what leaves the container.
    pub const FROM_CONTAINER: &str = "from_container";
    /// tcx egress of an endpoint's host-side device: what the host's stack sends to the container.
    pub const TO_CONTAINER: &str = "to_container";
    /// tcx ingress of the tunnel device: what other nodes sent.
    pub const FROM_OVERLAY: &str = "from_overlay";
    /// tcx egress of the tunnel device: what the host's stack sends to pods of other nodes.
    pub const TO_OVERLAY: &str = "to_overlay";
    /// tcx ingress of a device that carries an address of the node's: where programs speak Geneve, what other nodes sent.
    pub const FROM_UNDERLAY: &str = "from_underlay";
    /// Never attached: run by test_run it returns the low 32 bits of jiffies, the clock of `abi::CtEntry::seen`.
    pub const CLOCK: &str = "clock";

    /// Every program of `CONTAINER`.
    pub const ALL: [&str; 6] = [FROM_CONTAINER, TO_CONTAINER, FROM_OVERLAY, TO_OVERLAY, FROM_UNDERLAY, CLOCK];
}

/// Programs of `SOCKETS`.
pub mod socket {
    /// Each with the kernel's number of its hook (`enum bpf_attach_type`). Those that turn backends' addresses back into
    /// services' come first: they are attached in this order.
    pub const ALL: [(&str, u32); 11] = [
        ("sock_release", 34),
        ("sock_getpeername4", 29),
        ("sock_getpeername6", 30),
        ("sock_recvmsg4", 19),
        ("sock_recvmsg6", 20),
        ("sock_post_bind4", 12),
        ("sock_post_bind6", 13),
        ("sock_sendmsg4", 14),
        ("sock_sendmsg6", 15),
        ("sock_connect4", 10),
        ("sock_connect6", 11),
    ];
}

/// Constants of the programs that the loader sets (`volatile const`, `u32` each); times are in jiffies.
pub mod knob {
    /// Of `SOCKETS`, a `u64`: cookie of the host's network namespace; unset none is the host's.
    pub const HOST_NETNS: &str = "host_netns";
    /// Of `SOCKETS`: 1 where programs can say with which error a call fails.
    pub const TELLS_ERROR: &str = "tells_error";
    /// Interface number of slot 0; `abi::LXC_IFINDEX_BASE` unless set.
    pub const LXC_IFINDEX_BASE: &str = "lxc_ifindex_base";
    /// UDP ports, host order, that a container may not send to; 0: none. Unset 8472 and 6081.
    pub const VXLAN_PORT: &str = "vxlan_port";
    pub const GENEVE_PORT: &str = "geneve_port";
    /// 1 where other nodes' pods are reached without a tunnel; unset 0.
    pub const NATIVE_ROUTING: &str = "native_routing";
    /// `abi::GENEVE_*`: who speaks Geneve to other nodes; unset nobody.
    pub const GENEVE: &str = "geneve";
    /// This node's ports for what it sends on to other nodes' backends, host order: from the first to the last; unset 1024
    /// to 29999.
    pub const SNAT_PORT_FIRST: &str = "snat_port_first";
    pub const SNAT_PORT_LAST: &str = "snat_port_last";
    /// How long a flow without packets lives: TCP that both sides have spoken on (unset 8000 s at 250 Hz) ...
    pub const CT_TIMEOUT_TCP: &str = "ct_timeout_tcp";
    /// ... TCP that only one side has spoken on (60 s) ...
    pub const CT_TIMEOUT_TCP_SYN: &str = "ct_timeout_tcp_syn";
    /// ... everything else (60 s) ...
    pub const CT_TIMEOUT_ANY: &str = "ct_timeout_any";
    /// ... and TCP after a FIN from both sides or an RST (10 s). The least of the four.
    pub const CT_TIMEOUT_CLOSING: &str = "ct_timeout_closing";
    /// How long a first fragment's ports are remembered (30 s).
    pub const FRAG_TIMEOUT: &str = "frag_timeout";
    /// The least time between two traces of one direction of a flow at `abi::MONITOR_MEDIUM` (5 s).
    pub const REPORT_INTERVAL: &str = "report_interval";
}

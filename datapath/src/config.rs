//! What the datapath is told once, at start.

use crate::netns::Namespace;
use ipnetwork::IpNetwork;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Settings of the node. All have defaults; what follows from networks and endpoints is in the snapshots.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where a BPF file system is, or is mounted if there is none.
    pub bpffs: PathBuf,
    /// Entries of the flow tables.
    pub conntrack_max_v4: u32,
    pub conntrack_max_v6: u32,
    /// Entries of all policies together. A policy that changes needs room for both versions for a moment.
    pub policy_max: u32,
    /// Whole addresses, and as many shorter prefixes.
    pub ipcache_max: u32,
    /// Masquerade what leaves the node from the pools.
    pub masquerade: bool,
    /// Prefixes to which the network brings packets of the pools as they are: they are not masqueraded.
    pub native: Vec<IpNetwork>,
    pub monitor_aggregation: Aggregation,
    /// How packets get to the pods of other nodes.
    pub tunnel: Tunnel,
    /// Of use where programs write the outer headers.
    pub node: NodeAddresses,
    pub tunnel_ports: TunnelPorts,
    pub timeouts: Timeouts,
    pub attach: Attach,
    /// Where endpoints live that no container is behind; without it there can be none of them.
    pub own: Option<Arc<Namespace>>,
    /// Places of the tables by which new flows find backends, of all services together; a service that changes needs
    /// room for both tables for a moment.
    pub lb_places_max: u32,
    /// Have sockets talk to backends where they were given a service's address, so that no packet needs to be changed.
    pub sockets: bool,
    /// Whose processes' sockets: a directory of a cgroup2 file system; `None`: where it usually is, or mounted.
    pub cgroup_root: Option<PathBuf>,
    /// What sockets asked for that were given a backend, so many of them.
    pub sock_reverse_max: u32,
    /// Clients for whom this node speaks to other nodes' backends, so many of them.
    pub nat_max: u32,
    /// The ports under which it does, for each backend: none that sockets of the host are given by themselves.
    pub snat_ports: RangeInclusive<u16>,
    /// How often everything in the kernel is read again and compared.
    pub resync: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            bpffs: PathBuf::from("/sys/fs/bpf"),
            conntrack_max_v4: 524_288,
            conntrack_max_v6: 262_144,
            policy_max: 131_072,
            ipcache_max: 512_000,
            masquerade: true,
            native: Vec::new(),
            monitor_aggregation: Aggregation::default(),
            tunnel: Tunnel::default(),
            node: NodeAddresses::default(),
            tunnel_ports: TunnelPorts::default(),
            timeouts: Timeouts::default(),
            attach: Attach::default(),
            own: None,
            lb_places_max: 4_194_304,
            sockets: true,
            cgroup_root: None,
            sock_reverse_max: 262_144,
            nat_max: 262_144,
            snat_ports: 1024..=29_999,
            resync: Duration::from_secs(60),
        }
    }
}

/// How much the programs tell of what passes; drops are told always.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Aggregation {
    /// A trace of every packet, and the verdict on each new flow.
    None,
    /// The verdict on each new flow; of each direction of a flow a trace every five seconds and with each new TCP flag.
    #[default]
    Medium,
    /// The verdict on each new flow.
    Verdicts,
    /// Nothing else.
    DropsOnly,
}

/// Addresses by which other nodes reach this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NodeAddresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl NodeAddresses {
    /// The first of each family.
    pub(crate) fn of(addresses: &[IpAddr]) -> NodeAddresses {
        let (mut v4, mut v6) = (None, None);
        for address in addresses {
            match address {
                IpAddr::V4(ip) => v4 = v4.or(Some(*ip)),
                IpAddr::V6(ip) => v6 = v6.or(Some(*ip)),
            }
        }
        NodeAddresses { v4, v6 }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// The way to other nodes' pods.
///
/// A tunnel's outer headers take 50 bytes of each packet where the nodes reach each other by IPv4, 70 by IPv6: whoever
/// makes snapshots gives endpoints an MTU that is the underlay's less that. The tunnel device has room for the largest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tunnel {
    /// By whatever routes the host has: what snapshots say of other nodes is not followed.
    #[default]
    Disabled,
    /// In VXLAN, by UDP to this port of theirs and of ours; containers may not send to it.
    Vxlan { port: u16 },
    /// In Geneve, likewise.
    Geneve { port: u16, by: GeneveBy },
}

/// Who puts packets into Geneve and takes them out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GeneveBy {
    /// A device where the kernel has one that is of use, else the programs.
    #[default]
    Auto,
    /// A device of the kernel's.
    Device,
    /// The programs, on the devices that carry the node's addresses. What such a packet is fragmented into is dropped.
    Programs,
}

/// UDP ports that a container may not send to, so that it cannot forge what a tunnel would carry; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelPorts {
    pub vxlan: u16,
    pub geneve: u16,
}

impl Default for TunnelPorts {
    /// Cilium's ports.
    fn default() -> TunnelPorts {
        TunnelPorts { vxlan: 8472, geneve: 6081 }
    }
}

/// How long what the programs remember lives without a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP that both sides have spoken on.
    pub tcp: Duration,
    /// TCP that only one side has spoken on.
    pub tcp_syn: Duration,
    /// Everything else.
    pub any: Duration,
    /// TCP after a reset or a FIN from both sides.
    pub closing: Duration,
    /// The ports of a fragmented datagram.
    pub fragments: Duration,
    /// The least time between two traces of one direction of a flow.
    pub report: Duration,
}

impl Default for Timeouts {
    /// Cilium's times.
    fn default() -> Timeouts {
        Timeouts {
            tcp: Duration::from_secs(8000),
            tcp_syn: Duration::from_secs(60),
            any: Duration::from_secs(60),
            closing: Duration::from_secs(10),
            fragments: Duration::from_secs(30),
            report: Duration::from_secs(5),
        }
    }
}

/// How programs are attached to devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Attach {
    /// By tcx where the kernel has it (6.6 and later), else by clsact.
    #[default]
    Auto,
    /// By clsact, whatever the kernel has.
    Clsact,
}

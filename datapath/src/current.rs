//! What the kernel holds of ours, in this crate's words: read back at start, at resync and after a failure, and carried
//! forward by each operation that succeeded.
//!
//! Owns the picture alone. Reading it from a kernel is `kernel`'s, comparing it with what is wanted is `plan`'s.

pub mod services;

use crate::NodeAddresses;
use crate::operation::{Operation, TunnelKind};
use ipnetwork::IpNetwork;
use model::{EndpointId, Identity, IdentitySet, Ipcache, Mac, PolicyMap};
use services::Services;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// One version of one identity's policy in the kernel: what it says of a peer does not change while a packet can be one
/// of that peer's. Never 0, never used again while the maps live.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(transparent)]
pub struct PolicyId(pub u32);

/// What stands for another node in the kernel, where flows remember it: 1 to `LAST`, not used again before all were.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeNumber(pub u32);

impl NodeNumber {
    /// The largest that a flow has room for.
    pub const LAST: u32 = bpf::abi::NODE_NUMBERS;
}

/// Where a prefix is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vtep {
    /// Underlay address of a node.
    pub address: IpAddr,
    pub node: NodeNumber,
    /// The ids of the clusters whose identities the node may give; `None`: any.
    pub clusters: Option<[u8; 2]>,
}

/// The host-side device of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub name: String,
    pub mac: Mac,
    pub mtu: u32,
    pub up: bool,
}

/// The tunnel device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelLink {
    pub kind: TunnelKind,
    pub mtu: u32,
    pub up: bool,
}

/// What the programs know of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    pub policy: PolicyId,
    pub identity: Identity,
    pub internal: bool,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub mac: Mac,
    pub node_mac: Mac,
}

/// The two programs on an endpoint's device, or on the tunnel's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attachment {
    /// Both are this build's.
    Current,
    /// Both are there, at least one is another build's; it keeps filtering until it is replaced.
    Outdated,
    /// A pin without a device, or one program without the other: the device may be unfiltered.
    Dead,
}

/// A policy version in the policy bpf.
#[derive(Clone, PartialEq, Debug)]
pub struct Policy {
    /// `None`: entries without a header, left by an agent that ended while it wrote them.
    pub identity: Option<Identity>,
    pub map: Arc<PolicyMap>,
}

/// Devices, addresses, routes, neighbours.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Network {
    /// The node forwards packets of both families.
    pub forwarding: bool,
    /// The pair that carries the gateway addresses is there and up.
    pub host_device: bool,
    pub gateways: BTreeSet<IpAddr>,
    /// Prefixes with an unreachable route of ours.
    pub pools: BTreeSet<IpNetwork>,
    pub tunnel: Option<TunnelLink>,
    /// Prefixes with a route into the tunnel, and preferred sources.
    pub tunnel_routes: BTreeMap<IpNetwork, Option<IpAddr>>,
    /// Addresses of the host on devices that are not ours, and the devices' numbers.
    pub addresses: BTreeMap<IpAddr, u32>,
    /// Those of these devices that speak Ethernet.
    pub ethernet: BTreeSet<u32>,
    /// Prefixes with a route of ours to another node, and by which of its addresses.
    pub hops: BTreeMap<IpNetwork, IpAddr>,
    pub links: BTreeMap<EndpointId, Link>,
    /// Containers' ends that are in the datapath's own namespace.
    pub housed: BTreeSet<String>,
    /// Address to preferred source, by endpoint.
    pub routes: BTreeMap<EndpointId, BTreeMap<IpAddr, Option<IpAddr>>>,
    pub neighbours: BTreeMap<EndpointId, BTreeMap<IpAddr, Mac>>,
}

/// Maps and programs.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Bpf {
    pub slots: BTreeMap<EndpointId, Slot>,
    pub attachments: BTreeMap<EndpointId, Attachment>,
    /// Of the tunnel device.
    pub tunnel: Option<Attachment>,
    /// Of devices that are not ours, by number.
    pub underlays: BTreeMap<u32, Attachment>,
    pub tunnel_sources: NodeAddresses,
    pub snat_sources: NodeAddresses,
    /// What the programs take to be too large for it; 0: nothing.
    pub tunnel_mtu: u32,
    /// Behind which node a prefix is; a node's own address is behind itself.
    pub vteps: BTreeMap<IpNetwork, Vtep>,
    /// Addresses of nodes that are believed.
    pub nodes: BTreeMap<IpAddr, NodeNumber>,
    /// The largest number that was given to a node as far as is known.
    pub last_node: u32,
    /// Identities of the cluster that are believed of what other nodes send.
    pub identities: IdentitySet,
    pub policies: BTreeMap<PolicyId, Policy>,
    pub ipcache: Ipcache,
    /// The ipcache, or what is known of other nodes, changed since flows were last told to look again.
    pub flows_stale: bool,
    /// The largest policy id that was ever given out.
    pub last_policy: u32,
    /// The programs on the cgroup; `None`: there are none, nor pins of them.
    pub sockets: Option<Attachment>,
}

/// What passes and what is masqueraded outside of our programs.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Firewall {
    /// Pools in the masquerading table; `None`: not known to be as we write it.
    pub masquerade: Option<BTreeSet<IpNetwork>>,
    /// Packets from and to our devices pass the FORWARD chains.
    pub forward: bool,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Current {
    pub network: Network,
    pub bpf: Bpf,
    pub services: Services,
    pub firewall: Firewall,
}

impl Current {
    /// Carries the picture forward over an operation that succeeded.
    pub fn record(&mut self, operation: &Operation) {
        match operation {
            Operation::Forwarding
            | Operation::HostDevice
            | Operation::AddGateway(_)
            | Operation::RemoveGateway(_)
            | Operation::AddPool(_)
            | Operation::RemovePool(_)
            | Operation::AddHop(..)
            | Operation::RemoveHop(_) => self.network.record_node(operation),
            Operation::CreateTunnel(_) | Operation::DeleteTunnel => {
                self.network.record_tunnel(operation);
                if let Some(attachment) = &mut self.bpf.tunnel {
                    *attachment = Attachment::Dead;
                }
            }
            Operation::AdjustTunnel(_)
            | Operation::RaiseTunnel
            | Operation::AddTunnelRoute(..)
            | Operation::RemoveTunnelRoute(_) => self.network.record_tunnel(operation),
            Operation::CreateLink(id, _) => {
                self.network.record_link(operation);
                // What is pinned belongs to a device that is no more.
                if let Some(attachment) = self.bpf.attachments.get_mut(id) {
                    *attachment = Attachment::Dead;
                }
            }
            Operation::DeleteLink(id) => {
                self.network.record_link(operation);
                if let Some(attachment) = self.bpf.attachments.get_mut(id) {
                    *attachment = Attachment::Dead;
                }
            }
            Operation::AdjustLink(..)
            | Operation::House(..)
            | Operation::RaiseLink(_)
            | Operation::AddRoute(..)
            | Operation::RemoveRoute(..)
            | Operation::AddNeighbour(..)
            | Operation::RemoveNeighbour(..) => self.network.record_link(operation),
            Operation::Masquerade(pools) => self.firewall.masquerade = Some(pools.clone()),
            Operation::Forward => self.firewall.forward = true,
            Operation::AttachTunnel
            | Operation::UnpinTunnel
            | Operation::TunnelSources(_)
            | Operation::SnatSources(_)
            | Operation::AttachUnderlay(_)
            | Operation::DetachUnderlay(_)
            | Operation::TunnelMtu(_)
            | Operation::PutVtep(..)
            | Operation::RemoveVtep(_)
            | Operation::PutNode(..)
            | Operation::RemoveNode(_)
            | Operation::PutIdentity(_)
            | Operation::RemoveIdentity(_)
            | Operation::ClearSlot(_)
            | Operation::WriteSlot(..)
            | Operation::Attach(_)
            | Operation::Unpin(_)
            | Operation::WritePolicy(..)
            | Operation::AmendPolicy(..)
            | Operation::RemovePolicy(..)
            | Operation::PutIpcache(..)
            | Operation::RemoveIpcache(_)
            | Operation::AttachSockets
            | Operation::DetachSockets
            | Operation::InvalidateFlows => self.bpf.record(operation),
            Operation::PutBackend(..)
            | Operation::WritePlaces(..)
            | Operation::PutReverse(..)
            | Operation::PutMember(..)
            | Operation::PutSource(..)
            | Operation::PutService(..)
            | Operation::RemoveService(_)
            | Operation::RemoveMember(..)
            | Operation::RemoveSource(..)
            | Operation::ReleasePlaces(..)
            | Operation::RemoveReverse(..)
            | Operation::RemoveBackend(_) => self.services.record(operation),
        }
    }
}

impl Network {
    fn record_node(&mut self, operation: &Operation) {
        match operation {
            Operation::Forwarding => self.forwarding = true,
            Operation::HostDevice => self.host_device = true,
            Operation::AddGateway(ip) => drop(self.gateways.insert(*ip)),
            Operation::RemoveGateway(ip) => drop(self.gateways.remove(ip)),
            Operation::AddPool(prefix) => drop(self.pools.insert(*prefix)),
            Operation::RemovePool(prefix) => drop(self.pools.remove(prefix)),
            Operation::AddHop(prefix, node) => drop(self.hops.insert(*prefix, *node)),
            Operation::RemoveHop(prefix) => drop(self.hops.remove(prefix)),
            _ => {}
        }
    }

    fn record_tunnel(&mut self, operation: &Operation) {
        match operation {
            Operation::CreateTunnel(spec) => {
                self.tunnel = Some(TunnelLink { kind: spec.kind, mtu: spec.mtu, up: false });
                self.tunnel_routes.clear();
            }
            Operation::DeleteTunnel => {
                self.tunnel = None;
                self.tunnel_routes.clear();
            }
            Operation::AdjustTunnel(spec) => self.tunnel.iter_mut().for_each(|link| link.mtu = spec.mtu),
            Operation::RaiseTunnel => self.tunnel.iter_mut().for_each(|link| link.up = true),
            Operation::AddTunnelRoute(prefix, source) => drop(self.tunnel_routes.insert(*prefix, *source)),
            Operation::RemoveTunnelRoute(prefix) => drop(self.tunnel_routes.remove(prefix)),
            _ => {}
        }
    }

    fn record_link(&mut self, operation: &Operation) {
        match operation {
            Operation::CreateLink(id, link) => {
                self.forget(*id);
                self.housed.remove(&link.peer_name);
                let made = Link { name: link.name.clone(), mac: link.node_mac, mtu: link.mtu, up: false };
                self.links.insert(*id, made);
            }
            Operation::DeleteLink(id) => self.forget(*id),
            Operation::AdjustLink(id, wanted) => {
                if let Some(link) = self.links.get_mut(id) {
                    (link.mac, link.mtu) = (wanted.node_mac, wanted.mtu);
                }
            }
            Operation::House(_, inside) => drop(self.housed.insert(inside.peer_name.clone())),
            Operation::RaiseLink(id) => {
                if let Some(link) = self.links.get_mut(id) {
                    link.up = true;
                }
            }
            Operation::AddRoute(id, ip, source) => drop(self.routes.entry(*id).or_default().insert(*ip, *source)),
            Operation::RemoveRoute(id, ip) => remove_inner(&mut self.routes, *id, ip),
            Operation::AddNeighbour(id, ip, mac) => drop(self.neighbours.entry(*id).or_default().insert(*ip, *mac)),
            Operation::RemoveNeighbour(id, ip) => remove_inner(&mut self.neighbours, *id, ip),
            _ => {}
        }
    }

    /// A device takes its routes and neighbours with it.
    fn forget(&mut self, id: EndpointId) {
        self.links.remove(&id);
        self.routes.remove(&id);
        self.neighbours.remove(&id);
    }
}

fn remove_inner<V>(table: &mut BTreeMap<EndpointId, BTreeMap<IpAddr, V>>, id: EndpointId, ip: &IpAddr) {
    if let Some(inner) = table.get_mut(&id) {
        inner.remove(ip);
        if inner.is_empty() {
            table.remove(&id);
        }
    }
}

impl Bpf {
    fn record(&mut self, operation: &Operation) {
        match operation {
            Operation::ClearSlot(id) => drop(self.slots.remove(id)),
            Operation::WriteSlot(id, slot) => drop(self.slots.insert(*id, *slot)),
            Operation::Attach(id) => drop(self.attachments.insert(*id, Attachment::Current)),
            Operation::Unpin(id) => drop(self.attachments.remove(id)),
            Operation::WritePolicy(id, identity, map) => {
                self.policies.insert(*id, Policy { identity: Some(*identity), map: map.clone() });
                self.last_policy = id.0;
            }
            Operation::AmendPolicy(id, _, _, map) => {
                if let Some(policy) = self.policies.get_mut(id) {
                    policy.map = map.clone();
                }
            }
            Operation::RemovePolicy(id, _) => drop(self.policies.remove(id)),
            Operation::AttachTunnel => self.tunnel = Some(Attachment::Current),
            Operation::UnpinTunnel => self.tunnel = None,
            Operation::TunnelSources(sources) => self.tunnel_sources = *sources,
            Operation::SnatSources(sources) => self.snat_sources = *sources,
            Operation::AttachUnderlay(number) => drop(self.underlays.insert(*number, Attachment::Current)),
            Operation::DetachUnderlay(number) => drop(self.underlays.remove(number)),
            Operation::TunnelMtu(mtu) => self.tunnel_mtu = *mtu,
            Operation::PutVtep(prefix, vtep) => {
                self.vteps.insert(*prefix, *vtep);
                self.last_node = self.last_node.max(vtep.node.0);
                self.flows_stale = true;
            }
            Operation::RemoveVtep(prefix) => {
                self.vteps.remove(prefix);
                self.flows_stale = true;
            }
            Operation::PutNode(node, number) => {
                self.nodes.insert(*node, *number);
                self.last_node = self.last_node.max(number.0);
            }
            Operation::RemoveNode(node) => {
                self.nodes.remove(node);
                self.flows_stale = true;
            }
            Operation::PutIdentity(identity) => {
                self.identities.insert(*identity, ());
            }
            Operation::RemoveIdentity(identity) => {
                self.identities.remove(identity);
                self.flows_stale = true;
            }
            Operation::PutIpcache(prefix, entry) => {
                self.ipcache.insert(*prefix, *entry);
                self.flows_stale = true;
            }
            Operation::RemoveIpcache(prefix) => {
                self.ipcache.remove(prefix);
                self.flows_stale = true;
            }
            Operation::AttachSockets => self.sockets = Some(Attachment::Current),
            Operation::DetachSockets => self.sockets = None,
            Operation::InvalidateFlows => self.flows_stale = false,
            _ => {}
        }
    }
}

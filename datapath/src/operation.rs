//! Everything that this crate ever does to a kernel, as data.
//!
//! An operation names what it acts on in the words of `model`, is complete in itself, and may be carried out again:
//! deleting what is absent and making what is there already succeed. In which order they come is `plan`'s.

use crate::NodeAddresses;
use crate::current::services::{BackendNumber, Frontend, Places, ServiceNumber};
use crate::current::{NodeNumber, PolicyId, Slot, Vtep};
pub use crate::housing::HousingSpec;
use ipnetwork::IpNetwork;
use model::desired::{IpcacheEntry, Object};
use model::{EndpointId, Identity, L4Address, Mac, PolicyMap};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What an endpoint's pair of devices should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkSpec {
    /// The host's end.
    pub name: String,
    pub node_mac: Mac,
    /// The container's end, in the host's namespace until Docker takes it.
    pub peer_name: String,
    pub mac: Mac,
    /// Of both ends.
    pub mtu: u32,
}

/// What carries packets to other nodes: a device whose program or whose kernel does the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelKind {
    /// By UDP to this port, of both ends.
    Vxlan {
        port: u16,
    },
    Geneve {
        port: u16,
    },
    /// A pair of devices: the host's routes lead into the end that has programs, which speak Geneve by themselves.
    Pair,
}

/// What the tunnel device should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelSpec {
    pub kind: TunnelKind,
    /// Of what goes inside.
    pub mtu: u32,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Operation {
    /// Has the node forward packets of both families.
    Forwarding,
    /// Makes the pair `cilium_host` - `cilium_net`, which carries the gateway addresses.
    HostDevice,
    AddGateway(IpAddr),
    RemoveGateway(IpAddr),
    /// Makes a prefix unreachable unless something more specific says where it is.
    AddPool(IpNetwork),
    RemovePool(IpNetwork),

    /// Makes the tunnel device, down, in the place of another one.
    CreateTunnel(TunnelSpec),
    AdjustTunnel(TunnelSpec),
    AttachTunnel,
    RaiseTunnel,
    /// Tells the programs what is too large for the tunnel; 0: nothing.
    TunnelMtu(u32),
    /// Deletes the device and with it its routes.
    DeleteTunnel,
    UnpinTunnel,
    /// Into the tunnel, to pods of another node, with the source that the host's own packets get.
    AddTunnelRoute(IpNetwork, Option<IpAddr>),
    RemoveTunnelRoute(IpNetwork),
    /// To pods of another node by an address of that node, on a network that both are on.
    AddHop(IpNetwork, IpAddr),
    RemoveHop(IpNetwork),
    /// Tells behind which node a prefix is.
    PutVtep(IpNetwork, Vtep),
    RemoveVtep(IpNetwork),
    /// What comes from there through the tunnel is believed.
    PutNode(IpAddr, NodeNumber),
    RemoveNode(IpAddr),
    /// What other nodes send of the identity is believed: policies here are complete about it.
    PutIdentity(Identity),
    RemoveIdentity(Identity),
    /// What this node's packets have as outer source where programs write it.
    TunnelSources(NodeAddresses),
    /// What this node's packets have as source that it sends on for others.
    SnatSources(NodeAddresses),
    /// Puts the program that takes packets out of Geneve on a device that is not ours, by number.
    AttachUnderlay(u32),
    DetachUnderlay(u32),

    /// Makes a pair of devices, both down.
    CreateLink(EndpointId, LinkSpec),
    AdjustLink(EndpointId, LinkSpec),
    /// Puts the container's end into the datapath's own namespace.
    House(EndpointId, HousingSpec),
    /// Takes the host's end up.
    RaiseLink(EndpointId),
    /// Deletes the pair and with it routes, neighbours and whatever is attached.
    DeleteLink(EndpointId),
    /// From the host to an address by the endpoint's device, with the source that the host's own packets get.
    AddRoute(EndpointId, IpAddr, Option<IpAddr>),
    RemoveRoute(EndpointId, IpAddr),
    AddNeighbour(EndpointId, IpAddr, Mac),
    RemoveNeighbour(EndpointId, IpAddr),

    /// Puts this build's programs on both hooks of the device; those of another build are replaced in place.
    Attach(EndpointId),
    /// Removes the pins of a device that is gone.
    Unpin(EndpointId),
    WriteSlot(EndpointId, Slot),
    /// Everything from and to the endpoint is dropped from now on.
    ClearSlot(EndpointId),
    /// Writes all entries, then the header. Nothing looks at them before a slot names the id.
    WritePolicy(PolicyId, Identity, Arc<PolicyMap>),
    /// Makes the version say about some peers what the last map says instead of the one before. None of those peers is
    /// one that a packet can come from or go to now.
    AmendPolicy(PolicyId, Identity, Arc<PolicyMap>, Arc<PolicyMap>),
    RemovePolicy(PolicyId, Arc<PolicyMap>),
    PutIpcache(IpNetwork, IpcacheEntry),
    RemoveIpcache(IpNetwork),
    /// Has flows with one end elsewhere judged again.
    InvalidateFlows,

    /// A backend has a number, on behalf of a frontend that needs it.
    PutBackend(L4Address, BackendNumber, SocketAddr),
    WritePlaces(L4Address, Places),
    /// Tells what was asked for by a service number.
    PutReverse(L4Address, ServiceNumber),
    /// A client may be sent to the backend again.
    PutMember(L4Address, ServiceNumber, BackendNumber),
    /// Who comes from there may ask.
    PutSource(L4Address, ServiceNumber, IpNetwork),
    /// Has new flows follow the entry, all of which is there.
    PutService(L4Address, Frontend),
    RemoveService(L4Address),
    RemoveMember(L4Address, ServiceNumber, BackendNumber),
    RemoveSource(L4Address, ServiceNumber, IpNetwork),
    /// The places from a row on may be given to others. Does nothing to the kernel.
    ReleasePlaces(L4Address, u32),
    RemoveReverse(L4Address, ServiceNumber),
    RemoveBackend(BackendNumber),
    /// Puts this build's programs on the cgroup; those of another build are replaced in place.
    AttachSockets,
    DetachSockets,

    /// Masquerades what leaves the node from these prefixes; none: no table at all.
    Masquerade(BTreeSet<IpNetwork>),
    /// Has the FORWARD chains of iptables accept packets from and to our devices.
    Forward,
}

/// The part of `Current` that has to be read again when an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Domain {
    Network,
    Bpf,
    Services,
    Firewall,
}

/// What is taken away of services after nothing names it.
pub const RETIRED: Object = Object::Node("former services");

impl Operation {
    /// Whose failure it is when the operation fails.
    pub fn object(&self) -> Object {
        match self {
            Operation::Forwarding => Object::Node("forwarding"),
            Operation::HostDevice => Object::Node("devices"),
            Operation::AddGateway(ip) | Operation::RemoveGateway(ip) => Object::Gateway(*ip),
            Operation::AddPool(prefix) | Operation::RemovePool(prefix) => Object::Pool(*prefix),
            Operation::CreateTunnel(_)
            | Operation::AdjustTunnel(_)
            | Operation::AttachTunnel
            | Operation::RaiseTunnel
            | Operation::DeleteTunnel
            | Operation::UnpinTunnel
            | Operation::TunnelMtu(_)
            | Operation::TunnelSources(_)
            | Operation::SnatSources(_)
            | Operation::AttachUnderlay(_)
            | Operation::DetachUnderlay(_) => Object::Node("tunnel"),
            Operation::AddTunnelRoute(..) | Operation::RemoveTunnelRoute(_) => Object::Node("tunnel routes"),
            Operation::PutVtep(..) | Operation::RemoveVtep(_) | Operation::PutNode(..) | Operation::RemoveNode(_) => {
                Object::Node("other nodes")
            }
            Operation::AddHop(prefix, _) | Operation::RemoveHop(prefix) => Object::Route(*prefix),
            Operation::PutIdentity(identity) | Operation::RemoveIdentity(identity) => Object::Identity(*identity),
            Operation::CreateLink(id, _)
            | Operation::AdjustLink(id, _)
            | Operation::House(id, _)
            | Operation::RaiseLink(id)
            | Operation::DeleteLink(id)
            | Operation::AddRoute(id, ..)
            | Operation::RemoveRoute(id, _)
            | Operation::AddNeighbour(id, ..)
            | Operation::RemoveNeighbour(id, _)
            | Operation::Attach(id)
            | Operation::Unpin(id)
            | Operation::WriteSlot(id, _)
            | Operation::ClearSlot(id) => Object::Endpoint(*id),
            Operation::WritePolicy(_, identity, _) | Operation::AmendPolicy(_, identity, ..) => {
                Object::Policy(*identity)
            }
            Operation::RemovePolicy(..) => Object::Node("policies"),
            Operation::PutIpcache(prefix, _) | Operation::RemoveIpcache(prefix) => Object::Ipcache(*prefix),
            Operation::InvalidateFlows => Object::Node("flows"),
            Operation::PutBackend(frontend, ..)
            | Operation::WritePlaces(frontend, _)
            | Operation::PutReverse(frontend, _)
            | Operation::PutMember(frontend, ..)
            | Operation::PutSource(frontend, ..)
            | Operation::PutService(frontend, _)
            | Operation::RemoveService(frontend) => Object::Service(*frontend),
            Operation::RemoveMember(..)
            | Operation::RemoveSource(..)
            | Operation::ReleasePlaces(..)
            | Operation::RemoveReverse(..)
            | Operation::RemoveBackend(_) => RETIRED,
            Operation::AttachSockets | Operation::DetachSockets => Object::Node("sockets"),
            Operation::Masquerade(_) => Object::Node("masquerade"),
            Operation::Forward => Object::Node("forward"),
        }
    }

    pub fn domain(&self) -> Domain {
        match self {
            Operation::Forwarding
            | Operation::HostDevice
            | Operation::AddGateway(_)
            | Operation::RemoveGateway(_)
            | Operation::AddPool(_)
            | Operation::RemovePool(_)
            | Operation::CreateTunnel(_)
            | Operation::AdjustTunnel(_)
            | Operation::RaiseTunnel
            | Operation::DeleteTunnel
            | Operation::AddTunnelRoute(..)
            | Operation::RemoveTunnelRoute(_)
            | Operation::AddHop(..)
            | Operation::RemoveHop(_)
            | Operation::CreateLink(..)
            | Operation::AdjustLink(..)
            | Operation::House(..)
            | Operation::RaiseLink(_)
            | Operation::DeleteLink(_)
            | Operation::AddRoute(..)
            | Operation::RemoveRoute(..)
            | Operation::AddNeighbour(..)
            | Operation::RemoveNeighbour(..) => Domain::Network,
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
            | Operation::Attach(_)
            | Operation::Unpin(_)
            | Operation::WriteSlot(..)
            | Operation::ClearSlot(_)
            | Operation::WritePolicy(..)
            | Operation::AmendPolicy(..)
            | Operation::RemovePolicy(..)
            | Operation::PutIpcache(..)
            | Operation::RemoveIpcache(_)
            | Operation::AttachSockets
            | Operation::DetachSockets
            | Operation::InvalidateFlows => Domain::Bpf,
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
            | Operation::RemoveBackend(_) => Domain::Services,
            Operation::Masquerade(_) | Operation::Forward => Domain::Firewall,
        }
    }
}

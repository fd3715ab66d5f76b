//! The state that this node's kernel should be in: what the brain (`state`) publishes and `datapath` makes true.
//!
//! It speaks names (endpoint ids, interface names, addresses, identities), never kernel-made numbers. Each snapshot is
//! complete: what is not in it should not be in the kernel, but see `Datapath::settled`.

use crate::{
    EndpointId, Identity, IdentityMap, IdentitySet, Ipcache, L4Address, Labels, LoadBalancer, Mac, PolicyMap, SharedMap,
};
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// One complete snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Datapath {
    /// Grows with each published snapshot. `Status::realised` of the reconciler answers with it.
    pub revision: u64,
    /// Whether every source has told all it knows since start. Before that, what the kernel holds and this snapshot does
    /// not mention is merely unrecognised, and stays.
    pub settled: bool,
    pub endpoints: BTreeMap<EndpointId, Endpoint>,
    /// Prefix to who lives there. Endpoints of this node are in it too.
    pub ipcache: Ipcache,
    /// Policy by subject identity, for every identity that an endpoint in `endpoints` has.
    pub policies: BTreeMap<Identity, Arc<PolicyMap>>,
    /// Identities of the cluster that `policies` know: the ones that are believed of what other nodes send. Empty where
    /// nothing of theirs carries an identity.
    pub identities: IdentitySet,
    /// Addresses of the `cilium_host` device: the gateways of all networks, as /32 and /128.
    pub gateways: BTreeSet<IpAddr>,
    /// Prefixes out of which this node hands out addresses: unassigned ones are unreachable instead of following the
    /// host's default route, and what leaves the node from them is masqueraded.
    pub pools: BTreeSet<IpNetwork>,
    /// Pod prefixes of other nodes, and the underlay address (VTEP) that they are behind. Of this and the other tables of
    /// other nodes snapshots share one object as long as nothing of it changed.
    pub vteps: Arc<BTreeMap<IpNetwork, IpAddr>>,
    /// Largest packet that gets to other nodes through a tunnel; `None`: there is no tunnel, or it is not known yet.
    pub tunnel_mtu: Option<u32>,
    /// Pod prefixes of other nodes that are reached without a tunnel, and the node's address to which they are routed.
    pub hops: Arc<BTreeMap<IpNetwork, IpAddr>>,
    /// Underlay addresses of the nodes that are known, and by each the one that stands for the node: its VTEP where it has
    /// one. What else comes through a tunnel is not believed.
    pub nodes: Arc<BTreeMap<IpAddr, IpAddr>>,
    /// What is asked for and who answers, by frontend.
    pub services: SharedMap<L4Address, Arc<LoadBalancer>>,
    /// The id of this node's cluster. Where that is not 0, nodes speak for identities of their own clusters only; those
    /// without an id are this cluster's too.
    pub cluster_id: u8,
    /// The nodes of other clusters, by the address that stands for each, and the ids of their clusters.
    pub clusters: Arc<BTreeMap<IpAddr, u8>>,
}

/// What of an endpoint's network device is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkIntent {
    /// Both ends must exist; the container's end still waits in the host's namespace for Docker to take it.
    Create,
    /// Both ends must exist; the container's end lives in a namespace of the datapath's own, which ends with it.
    Own,
    /// The pair was handed to Docker: if it is gone, it is not made again (its namespace ended), the endpoint is failing.
    Keep,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub id: EndpointId,
    /// Host-side device, at most 15 bytes: `lxc` and 12 hexadecimal digits.
    pub ifname: String,
    /// Name of the container's end until Docker takes and renames it.
    pub peer_ifname: String,
    pub link: LinkIntent,
    pub mac: Mac,
    /// MAC of the host-side device; the container sees it as its gateway's.
    pub node_mac: Mac,
    pub mtu: u32,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// Source address of the host's own packets to this endpoint, per family: the gateway of its network.
    pub gateway4: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    pub identity: Identity,
    /// A network made with `--internal`: nothing to or from the world.
    pub internal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpcacheEntry {
    pub identity: Identity,
    /// The endpoint of this node that has the address; then the prefix is a single address.
    pub endpoint: Option<EndpointId>,
}

/// An object that a reconciler can fail on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Object {
    Endpoint(EndpointId),
    Ipcache(IpNetwork),
    Policy(Identity),
    Identity(Identity),
    Route(IpNetwork),
    Gateway(IpAddr),
    Pool(IpNetwork),
    Service(L4Address),
    /// The node as a whole: programs, base devices, firewall.
    Node(&'static str),
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Object::Endpoint(id) => write!(f, "endpoint {id}"),
            Object::Ipcache(prefix) => write!(f, "ipcache {prefix}"),
            Object::Policy(identity) => write!(f, "policy of identity {identity}"),
            Object::Identity(identity) => write!(f, "identity {identity}"),
            Object::Route(prefix) => write!(f, "route to {prefix}"),
            Object::Gateway(ip) => write!(f, "gateway {ip}"),
            Object::Pool(prefix) => write!(f, "pool {prefix}"),
            Object::Service(frontend) => write!(f, "service {frontend}"),
            Object::Node(what) => write!(f, "node: {what}"),
        }
    }
}

/// Why an object is not as desired yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The error and its causes, for people.
    pub message: String,
    /// Attempts so far, at least 1; the next follows by itself.
    pub attempts: u32,
    /// There was no room for it; what takes the room is then worth telling.
    pub full: bool,
}

/// What a reconciler reports after each round.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// The newest revision that has been *attempted* in full: each object of it is in the kernel or in `failing`.
    pub realised: u64,
    pub failing: BTreeMap<Object, Failure>,
    /// Policy revision-independent facts for `status`: how many rounds ran, how many operations they made.
    pub rounds: u64,
    pub operations: u64,
}

/// Names a reader needs to print what the kernel tells: published with each snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    pub identities: IdentityMap<Arc<Labels>>,
    pub endpoints: BTreeMap<EndpointId, String>,
}

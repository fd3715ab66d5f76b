//! Every fact that can change this node's state, in one enum: what Docker and users ask for, what the kvstore, the
//! kernel and the local store tell. What follows from a fact is decided in the files of the tables.

use crate::EndpointRef;
use crate::services::Published;
use crate::services::definition::{Service, ServiceName};
use ipnetwork::IpNetwork;
use model::desired::Status;
use model::{ClusterName, Identity, Labels, Mac};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// One fact. `State::apply` takes it in whole or rejects it; repeats are harmless, except that each `PoolRequest` is
/// counted.
#[derive(Clone, Debug)]
pub enum Input {
    /// The local records as the last run left them (full key to JSON text): the first input of a life. An empty map is a
    /// fresh start. Until it came all requests are rejected with `Rejected::NotRestored`.
    Restore(BTreeMap<String, Arc<str>>),

    /// All addresses of this host's own devices.
    HostAddresses(BTreeSet<IpAddr>),
    /// MTU of the device of the default route: what endpoints get whose network names none and when `Config::mtu` is
    /// `None`. Endpoints keep what they were made with.
    UplinkMtu(u32),
    /// What the datapath reconciler reports.
    Datapath(Arc<Status>),

    /// A set of rules, as JSON text of a list, and its revision. Ignored when its revision is lower than that of the
    /// rules in force: an older write that arrives late.
    PolicyDocument {
        revision: u64,
        rules: Arc<str>,
    },
    /// What a fresh listing of the kvstore found: taken whatever its revision, since the kvstore is the truth. No
    /// document there = revision 1 and `[]`.
    PolicyListed {
        revision: u64,
        rules: Arc<str>,
    },
    /// For whom policy is enforced from now on, instead of what `Config::policy` says.
    Enforcement(policy::Enforcement),

    /// The kvstore says that this number stands for these labels.
    IdentityKnown {
        identity: Identity,
        labels: Labels,
    },
    /// This number stood for these labels when the kvstore was last heard of, before this life. True until the kvstore says
    /// otherwise or, once all identities are listed, does not say it.
    IdentityRemembered {
        identity: Identity,
        labels: Labels,
    },
    /// The kvstore no longer has this number. An endpoint that has it keeps it until there is another for its labels.
    IdentityGone {
        identity: Identity,
    },

    /// What a node of the cluster tells of itself. This node's own record may be among them.
    NodeKnown(RemoteNode),
    /// The node is gone for good: nothing is believed any more that it told.
    NodeGone(NodeName),
    /// A node of the cluster tells who has an address. This node's own records may be among them.
    AddressKnown {
        address: IpAddr,
        record: RemoteAddress,
    },
    AddressGone {
        address: IpAddr,
    },

    /// What the kvstore of another cluster tells.
    Mesh {
        cluster: ClusterName,
        fact: MeshFact,
    },
    /// A service of the cluster, as the kvstore has it.
    ServiceKnown(Service),
    /// What the kvstore has under the name of a service says nothing, and why.
    ServiceRefused {
        name: ServiceName,
        reason: String,
    },
    ServiceGone(ServiceName),

    /// The source has told all it knows.
    Synced(Source),
    /// The source cannot be reached at start: go on with what the records hold. It takes nothing away, and a source that
    /// comes back later is told by its usual inputs.
    Away(Source),

    /// Docker's endpoint ids on our networks, all of them. Endpoints that are not among them and older than
    /// `Config::docker_grace` are taken down, and addresses that no endpoint took are released.
    DockerEndpoints(BTreeSet<String>),
    /// Ids of all networks of our driver that Docker has. Others that are older than `Config::docker_grace` are
    /// forgotten, with the pools that only they held.
    DockerNetworks(BTreeSet<String>),

    /// Answered with `Reply::Pool`.
    PoolRequest(PoolRequest),
    /// An unknown pool is a success.
    PoolRelease {
        pool: String,
    },
    /// Answered with `Reply::Address`.
    AddressRequest(AddressRequest),
    /// This node may give out the addresses of the block, which is part of the pool's subnet. An unknown pool is a success.
    BlockTaken {
        pool: String,
        block: IpNetwork,
    },
    /// The block is another node's: no address of it is given out any more.
    BlockLost {
        pool: String,
        block: IpNetwork,
    },
    /// An unknown address is a success. The address of a living endpoint stays taken until the endpoint is deleted.
    AddressRelease {
        pool: String,
        address: IpAddr,
    },

    /// A network is made or learnt; replaces what was known of it.
    NetworkPut(Network),
    /// An unknown network is a success.
    NetworkDelete {
        id: String,
    },

    /// Whether this node has an endpoint of its own, `reserved:health`, for other nodes to probe.
    HealthEndpoint(bool),
    /// Answered with `Reply::Endpoint`, also when the very same endpoint exists already.
    EndpointCreate(EndpointCreate),
    /// Answered with `Reply::Endpoint`.
    EndpointChange {
        endpoint: EndpointRef,
        change: EndpointChange,
    },
    /// An unknown endpoint is a success.
    EndpointDelete {
        endpoint: EndpointRef,
    },
}

/// Somebody who tells a whole table, so that there is a moment when all of it is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Source {
    /// The local store: `Input::Restore`.
    Records,
    /// The kvstore's policy document. Synced by the first document that is accepted.
    Policy,
    /// The kvstore's identities. Synced by `Input::Synced`.
    Identities,
    /// Docker's list of endpoints. Synced by the first `Input::DockerEndpoints`.
    Docker,
    /// The kvstore's nodes and their addresses. Synced by `Input::Synced`.
    Cluster,
    /// The kvstores of other clusters, all that are to be waited for. Synced by `Input::Synced`, and from the beginning
    /// where this cluster has no id.
    Mesh,
    /// The kvstore's services. Synced by `Input::Synced`.
    Services,
}

impl Source {
    pub const ALL: [Source; 7] = [
        Source::Records,
        Source::Policy,
        Source::Identities,
        Source::Docker,
        Source::Cluster,
        Source::Mesh,
        Source::Services,
    ];
}

/// What another cluster tells. It is believed within that cluster's rights; see `mesh`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MeshFact {
    /// It is one of the mesh from now on, with this id: nothing else is heard of it before. Rejected when it cannot be.
    Joined {
        id: u8,
    },
    /// It is no longer one: all that it told goes.
    Left,
    /// As `Input::IdentityKnown`, and so on.
    IdentityKnown {
        identity: Identity,
        labels: Labels,
    },
    IdentityGone {
        identity: Identity,
    },
    NodeKnown(RemoteNode),
    NodeGone(NodeName),
    AddressKnown {
        address: IpAddr,
        record: RemoteAddress,
    },
    AddressGone {
        address: IpAddr,
    },
}

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: &IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    pub fn of_network(network: &IpNetwork) -> Family {
        if network.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A node's name and that of its cluster.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NodeName {
    pub cluster: String,
    pub name: String,
}

/// What a node tells of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteNode {
    pub name: NodeName,
    /// By which other nodes reach it.
    pub addresses: BTreeSet<IpAddr>,
    /// Its own addresses out of its prefixes: what its host speaks to containers from.
    pub routers: BTreeSet<IpAddr>,
    /// Those of its health endpoint, out of its prefixes.
    pub health: BTreeSet<IpAddr>,
    /// Out of which it hands out addresses.
    pub prefixes: BTreeSet<IpNetwork>,
}

/// What a node tells of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemoteAddress {
    pub identity: Identity,
    /// An address of the node.
    pub node: IpAddr,
}

/// Asks for a pool. Without a subnet, or with the node's own range as subnet, the node's pool of the family is meant. A
/// subnet that is in use with the same range already is counted once more; one that overlaps another pool is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolRequest {
    pub family: Family,
    pub subnet: Option<IpNetwork>,
    /// The part of the subnet to hand out addresses of when none is asked for by name; `None`: all of it.
    pub range: Option<IpNetwork>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressRequest {
    /// `PoolView::id`.
    pub pool: String,
    /// A fixed address of the pool's subnet; `None`: any free one of its range.
    pub address: Option<IpAddr>,
    /// Where no address is named: take it from this part of the range only. Networks that share the node's pool keep to
    /// parts of their own by it, so that a container on two of them has a route to each.
    pub part: Option<IpNetwork>,
    /// For people, such as `docker`.
    pub owner: String,
    pub purpose: Purpose,
    /// Where another block would help, say so rather than give out what rests or nothing.
    pub may_claim: bool,
}

/// What an address is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// An endpoint will take it. Released by itself when none did, once Docker's list is seen.
    Endpoint,
    /// The gateway of a network. A fixed one becomes the gateway of its pool, unless an earlier request chose that. With
    /// no address named, a network's own pool answers with the gateway it has set aside, and the node's pool with an
    /// address of its own for each request.
    Gateway,
    /// Kept away from endpoints (`--aux-address`) until it is released or its pool is. A fixed address that is asked for
    /// an endpoint while no network is known on its pool counts as this too: Docker asks for both in the same words.
    Reserved,
}

/// A Docker network that we serve.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Network {
    /// Docker's network id.
    pub id: String,
    pub ipv4: Option<Subnet>,
    pub ipv6: Option<Subnet>,
    /// Nothing to or from the world.
    pub internal: bool,
    /// 576..=65535, with IPv6 1280 and more; `None`: the uplink's.
    pub mtu: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Subnet {
    /// A prefix of length 0 stands for "the node's pool".
    pub subnet: IpNetwork,
    /// `None`: the gateway of the pool that the subnet is.
    pub gateway: Option<IpAddr>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointCreate {
    /// Not empty.
    pub docker_endpoint_id: String,
    /// May be a network that is not known (yet): the endpoint then counts as on an internal one.
    pub docker_network_id: String,
    /// At least one address is needed; none may belong to another endpoint, the host or a gateway.
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// `None`: one is chosen.
    pub mac: Option<Mac>,
}

/// What is learnt of an endpoint after it was made; `None` leaves a thing as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointChange {
    pub container_id: Option<String>,
    pub container_name: Option<String>,
    /// All labels of the container as Docker tells them; `Config::label_filter` decides which make the identity.
    pub container_labels: Option<BTreeMap<String, String>>,
    /// Path of the sandbox that takes the container's end of the link: from now on the link is Docker's.
    pub sandbox: Option<String>,
    /// All ports of the host that are published for it from now on.
    pub published: Option<Vec<Published>>,
}

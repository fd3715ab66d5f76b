//! Why an input is not acceptable, in words that a user can act on.

use crate::EndpointRef;
use crate::input::Family;
use ipnetwork::IpNetwork;
use model::{ClusterName, EndpointId, Identity, L4Address, Mac};
use std::net::{IpAddr, SocketAddr};

/// An input that was not taken; nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("the agent has not read back its state yet: try again")]
    NotRestored,
    #[error("the records were restored already")]
    RestoredAlready,

    #[error("{0:?} cannot be the name of a node or a cluster: it is empty, or holds a '/' or a control character")]
    BadName(String),

    #[error("{0} is off on this node: it has no address range of that family")]
    FamilyOff(Family),
    #[error("{what} {network} is not {family}")]
    WrongFamily { what: &'static str, network: IpNetwork, family: Family },
    #[error("subnet {subnet} cannot be used: {reason}")]
    BadSubnet { subnet: IpNetwork, reason: &'static str },
    #[error("range {range} cannot be used with subnet {subnet}: {reason}")]
    BadRange { range: IpNetwork, subnet: IpNetwork, reason: &'static str },
    #[error("subnet {subnet} is in use already, with {used}")]
    OtherRange { subnet: IpNetwork, used: String },
    #[error("subnet {subnet} overlaps {other}, which is in use by {by}")]
    Overlap { subnet: IpNetwork, other: IpNetwork, by: &'static str },
    #[error("pool {0:?} is not known")]
    UnknownPool(String),

    #[error("address {address} is not in subnet {subnet}")]
    OutsideSubnet { address: IpAddr, subnet: IpNetwork },
    #[error("address {address} cannot be given out: it is {what}")]
    SetAside { address: IpAddr, what: &'static str },
    #[error("address {address} is taken by {owner}")]
    Taken { address: IpAddr, owner: String },
    #[error("no free address is left in {0}")]
    PoolFull(IpNetwork),
    #[error("this node has no block of {subnet} with a free address")]
    BlockNeeded { subnet: IpNetwork, range: Option<IpNetwork> },
    #[error("{address} of {subnet} is in no block of this node")]
    ClaimNeeded { subnet: IpNetwork, address: IpAddr, reserved: bool },
    #[error("block {block} is not inside {subnet}")]
    BadBlock { block: IpNetwork, subnet: IpNetwork },

    #[error("network {id:?} cannot be served: {reason}")]
    BadNetwork { id: String, reason: String },

    #[error("endpoint {id:?} cannot be made: {reason}")]
    BadEndpoint { id: String, reason: &'static str },
    #[error("endpoint {id:?} cannot be made with MAC address {mac}: an endpoint's is unicast and not zero")]
    BadMac { id: String, mac: Mac },
    #[error("endpoint {id:?} exists already with another {field}")]
    EndpointDiffers { id: String, field: &'static str },
    #[error("this node has no endpoint number left: 65535 is the limit")]
    EndpointsFull,
    #[error("endpoint {0} is not known")]
    UnknownEndpoint(EndpointRef),
    /// In Docker's own words, which its users and their scripts know.
    #[error("Bind for {} failed: port is already allocated", SocketAddr::new(.0.ip, .0.port))]
    PortTaken(L4Address),
    #[error("port {address} of the host cannot be published: {reason}")]
    BadPort { address: L4Address, reason: &'static str },
    #[error("endpoint {0} is the node's own, for other nodes to probe: no container is behind it")]
    NodesOwn(EndpointId),
    #[error("{0} names several endpoints: use the endpoint's number")]
    AmbiguousEndpoint(EndpointRef),

    #[error("identity {identity} cannot be {labels:?}: {reason}")]
    BadIdentity { identity: Identity, labels: String, reason: &'static str },
    #[error("cluster {cluster} cannot be one of the mesh with id {id}: {reason}")]
    BadCluster { cluster: ClusterName, id: u8, reason: String },
    #[error("policy document of revision {revision} cannot be enforced:\n{faults}")]
    BadPolicy { revision: u64, faults: String },
}

/// What kind of answer a rejection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectedKind {
    /// It can never be accepted as it stands.
    Invalid,
    /// What it is about does not exist.
    NotFound,
    /// It contradicts what is there.
    Conflict,
    /// Nothing left to give.
    Exhausted,
    /// Too early; the same request may succeed later.
    NotReady,
}

impl Rejected {
    pub fn kind(&self) -> RejectedKind {
        match self {
            Rejected::NotRestored => RejectedKind::NotReady,
            Rejected::RestoredAlready
            | Rejected::OtherRange { .. }
            | Rejected::Overlap { .. }
            | Rejected::Taken { .. }
            | Rejected::EndpointDiffers { .. }
            | Rejected::PortTaken(_)
            | Rejected::NodesOwn(_)
            | Rejected::AmbiguousEndpoint(_) => RejectedKind::Conflict,
            Rejected::UnknownPool(_) | Rejected::UnknownEndpoint(_) => RejectedKind::NotFound,
            Rejected::PoolFull(_)
            | Rejected::BlockNeeded { .. }
            | Rejected::ClaimNeeded { .. }
            | Rejected::EndpointsFull => RejectedKind::Exhausted,
            Rejected::BadName(_)
            | Rejected::FamilyOff(_)
            | Rejected::WrongFamily { .. }
            | Rejected::BadSubnet { .. }
            | Rejected::BadRange { .. }
            | Rejected::OutsideSubnet { .. }
            | Rejected::SetAside { .. }
            | Rejected::BadBlock { .. }
            | Rejected::BadNetwork { .. }
            | Rejected::BadEndpoint { .. }
            | Rejected::BadMac { .. }
            | Rejected::BadPort { .. }
            | Rejected::BadIdentity { .. }
            | Rejected::BadCluster { .. }
            | Rejected::BadPolicy { .. } => RejectedKind::Invalid,
        }
    }
}

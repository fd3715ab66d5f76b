//! Services as the kernel needs them: an address and port that is asked for (a frontend), those who answer (backends),
//! and the tables by which a new flow finds one of them.
//!
//! Owns the words. Which backends a service has and how its tables are laid out is `state`'s; where they lie in the
//! kernel, and the numbers that they have there, is `datapath`'s.

use crate::Protocol;
use ipnetwork::IpNetwork;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The number by which users and all nodes know a service's frontend. Never 0. The addresses that one stands for, of a node
/// port or of a published port, share its number. From `1 << 24` on they are a node's own, of what it publishes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ServiceId(pub u32);

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address, a port that is not 0, and TCP, UDP or SCTP: of a frontend or of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct L4Address {
    pub ip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
}

impl fmt::Display for L4Address {
    /// As Cilium writes it: `10.96.0.10:80/TCP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.ip, self.port), self.protocol)
    }
}

/// What kind of address a frontend is; it decides who may ask there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ServiceType {
    /// An address of the cluster's own: for its containers and hosts, refused to all others.
    ClusterIp,
    /// A port of this host, for everybody. With the unspecified address it only keeps others from binding the port.
    NodePort,
    /// An address that the network routes to nodes.
    ExternalIp,
    LoadBalancer,
    /// A port of this host that was published for a container of this node.
    HostPort,
}

impl fmt::Display for ServiceType {
    /// As Cilium names them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ServiceType::ClusterIp => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::ExternalIp => "ExternalIP",
            ServiceType::LoadBalancer => "LoadBalancer",
            ServiceType::HostPort => "HostPort",
        })
    }
}

/// How a place of a table is found for a new flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Algorithm {
    Random,
    /// By a hash of the flow, which is the same on every node.
    Maglev,
}

/// Whom new flows are given to: each place holds an index into `LoadBalancer::backends`, and places are equally likely.
/// Without places new flows are refused at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    pub by: Algorithm,
    pub places: Arc<[u16]>,
}

impl Default for Table {
    fn default() -> Table {
        Table { by: Algorithm::Random, places: Arc::new([]) }
    }
}

/// What a frontend does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadBalancer {
    pub id: ServiceId,
    pub kind: ServiceType,
    /// All that flows may rest on, those that get no new ones included, in ascending order; of the frontend's family and
    /// protocol. At most 65,535.
    pub backends: Arc<[L4Address]>,
    /// For flows that begin on a node of the cluster, in a container or on the host.
    pub internal: Table,
    /// For flows that come in from elsewhere.
    pub external: Table,
    /// For how many seconds after its last packet a client's next flow goes to the same backend; `None`: it is chosen anew.
    pub affinity: Option<u32>,
    /// From where flows may come in from elsewhere; `None`: from everywhere.
    pub source_ranges: Option<Arc<[IpNetwork]>>,
}

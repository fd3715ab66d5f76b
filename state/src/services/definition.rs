//! What a service is, as users and nodes tell it: its frontends, who answers behind them, and how one of those is chosen.

use ipnetwork::IpNetwork;
use model::service::{Algorithm, ServiceType};
use model::{L4Address, Protocol, ServiceId};
use std::fmt;
use std::net::IpAddr;

/// From here on numbers are this node's own: of the ports that it publishes for containers. The numbers below are the
/// cluster's.
pub const LOCAL_IDS: u32 = 1 << 24;
/// What Cilium and Kubernetes keep a client with its backend for when nothing else is said, in seconds.
pub const DEFAULT_AFFINITY: u32 = 10_800;
/// The longest that a client can be kept, in seconds: a day, as Kubernetes has it.
pub const MAX_AFFINITY: u32 = 86_400;
pub const DEFAULT_WEIGHT: u16 = 100;

/// A service by its cluster, its space (Kubernetes: namespace) and its name there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceName {
    pub cluster: String,
    pub space: String,
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.space, self.name)
    }
}

/// One service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    pub name: ServiceName,
    pub frontends: Vec<Frontend>,
    pub backends: Vec<Backend>,
    /// Who is asked by those who come from outside of the cluster.
    pub external: TrafficPolicy,
    /// Who is asked by containers and hosts of the cluster at its ClusterIP.
    pub internal: TrafficPolicy,
    /// For how many seconds after its last packet a client stays with its backend; 1..=`MAX_AFFINITY`.
    pub affinity: Option<u32>,
    /// From where others than the cluster may ask; empty: from everywhere.
    pub source_ranges: Vec<IpNetwork>,
    /// As long as backends of the same node answer, the others are not asked.
    pub prefer_local: bool,
    /// How backends are chosen for those who come from outside; `None`: as the node is told to.
    pub algorithm: Option<Algorithm>,
}

/// Whether all backends may be asked, or only those of the node that is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frontend {
    pub id: ServiceId,
    pub kind: ServiceType,
    /// With the unspecified address (node ports, published ports): each of the node's own of that family.
    pub address: L4Address,
    /// Name of the port; its backends are those with the same one. May be empty.
    pub port: String,
}

/// Who answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    pub address: L4Address,
    /// Of which port of the service.
    pub port: String,
    /// Share of the new flows, beside the other backends' weights; 0: none.
    pub weight: u16,
    pub state: BackendState,
    /// Name of the node that it is on, if that is told.
    pub node: Option<String>,
}

/// What a backend gets. Flows that it has go on in every state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum BackendState {
    #[default]
    Active,
    /// It is about to end: no new flows, unless nobody else is there and it still serves.
    Terminating { serves: bool },
    /// It does not answer its health checks: no new flows.
    Quarantined,
    /// Somebody took it out: no new flows.
    Maintenance,
}

impl BackendState {
    /// As Cilium names them; `None` for anything else.
    pub fn parse(text: &str) -> Option<BackendState> {
        match text {
            "active" => Some(BackendState::Active),
            "terminating" => Some(BackendState::Terminating { serves: true }),
            "terminating-not-serving" => Some(BackendState::Terminating { serves: false }),
            "quarantined" => Some(BackendState::Quarantined),
            "maintenance" => Some(BackendState::Maintenance),
            _ => None,
        }
    }
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            BackendState::Active => "active",
            BackendState::Terminating { serves: true } => "terminating",
            BackendState::Terminating { serves: false } => "terminating-not-serving",
            BackendState::Quarantined => "quarantined",
            BackendState::Maintenance => "maintenance",
        })
    }
}

/// A fault of a definition: where, as in `frontends[2].port`, and what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceFault {
    pub path: String,
    pub message: String,
}

impl fmt::Display for ServiceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// More is taken for a mistake.
pub const MAX_FRONTENDS: usize = 1024;
/// What a place of a table can name.
pub const MAX_BACKENDS: usize = 65_535;
pub const MAX_SOURCE_RANGES: usize = 1024;

/// What can be a part of a service's name: of keys, of logs and of terminals.
pub fn is_service_name(name: &str) -> bool {
    (1..=253).contains(&name.len()) && !name.contains('/') && !name.chars().any(char::is_control)
}

impl Service {
    /// One with nothing special about it.
    pub fn new(name: ServiceName, frontends: Vec<Frontend>, backends: Vec<Backend>) -> Service {
        Service {
            name,
            frontends,
            backends,
            external: TrafficPolicy::Cluster,
            internal: TrafficPolicy::Cluster,
            affinity: None,
            source_ranges: Vec::new(),
            prefer_local: false,
            algorithm: None,
        }
    }

    /// Everything that is wrong with it by itself; what the node it is on has to say comes in addition.
    pub fn faults(&self) -> Vec<ServiceFault> {
        let mut faults = Vec::new();
        let mut fault = |path: String, message: String| faults.push(ServiceFault { path, message });
        for (path, name) in
            [("cluster", &self.name.cluster), ("namespace", &self.name.space), ("name", &self.name.name)]
        {
            if !is_service_name(name) {
                fault(path.to_owned(), format!("{name:?} is no name of a service, a space or a cluster"));
            }
        }
        if self.frontends.len() > MAX_FRONTENDS {
            fault("frontends".to_owned(), format!("there are {}, and {MAX_FRONTENDS} at most", self.frontends.len()));
        }
        if self.backends.len() > MAX_BACKENDS {
            fault("backends".to_owned(), format!("there are {}, and {MAX_BACKENDS} at most", self.backends.len()));
        }
        let (mut ids, mut addresses) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for (n, frontend) in self.frontends.iter().enumerate().take(MAX_FRONTENDS) {
            if let Some(message) = frontend.fault() {
                fault(format!("frontends[{n}]"), message);
            }
            if !ids.insert(frontend.id) {
                fault(format!("frontends[{n}]"), format!("service id {} is there twice", frontend.id));
            }
            if !addresses.insert(frontend.address) {
                fault(format!("frontends[{n}]"), format!("{} is there twice", frontend.address));
            }
        }
        let mut addresses = std::collections::BTreeSet::new();
        for (n, backend) in self.backends.iter().enumerate().take(MAX_BACKENDS) {
            if let Some(message) = backend.fault() {
                fault(format!("backends[{n}]"), message);
            }
            if !addresses.insert((&backend.port, backend.address)) {
                fault(format!("backends[{n}]"), format!("{} is there twice", backend.address));
            }
        }
        if let Some(seconds) = self.affinity.filter(|seconds| !(1..=MAX_AFFINITY).contains(seconds)) {
            let message = format!("{seconds} is no number of seconds from 1 to {MAX_AFFINITY}");
            fault("sessionAffinity".to_owned(), message);
        }
        if self.source_ranges.len() > MAX_SOURCE_RANGES {
            let message = format!("there are {}, and {MAX_SOURCE_RANGES} at most", self.source_ranges.len());
            fault("loadBalancerSourceRanges".to_owned(), message);
        }
        faults
    }
}

impl Frontend {
    /// Why it cannot be a frontend of the cluster.
    pub fn fault(&self) -> Option<String> {
        let L4Address { ip, .. } = self.address;
        if self.id.0 == 0 || self.id.0 >= LOCAL_IDS {
            return Some(format!("service id {} is not from 1 to {}", self.id, LOCAL_IDS - 1));
        }
        if let Some(fault) = address_fault(&self.address) {
            return Some(fault);
        }
        match self.kind {
            ServiceType::NodePort if !ip.is_unspecified() => {
                Some(format!("a node port is of every address of a node: 0.0.0.0 or [::] stands for it, and not {ip}"))
            }
            ServiceType::NodePort => None,
            ServiceType::HostPort => Some("a HostPort is published by its node, for a container".to_owned()),
            _ => not_routable(ip).map(|what| format!("{ip} cannot be the address of a service: it is {what}")),
        }
    }
}

impl Backend {
    /// Why it cannot be a backend of the cluster. Addresses that mean another host to everybody who uses them are not
    /// taken: a service is not a way into a host's loopback or its metadata.
    pub fn fault(&self) -> Option<String> {
        let ip = self.address.ip;
        if let Some(fault) = address_fault(&self.address) {
            return Some(fault);
        }
        not_routable(ip).map(|what| format!("{ip} cannot be a backend: it is {what}"))
    }
}

fn address_fault(address: &L4Address) -> Option<String> {
    if address.port == 0 {
        return Some(format!("{} has no port", address.ip));
    }
    let known = [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&address.protocol);
    (!known).then(|| format!("{} is none of TCP, UDP and SCTP", address.protocol))
}

fn not_routable(ip: IpAddr) -> Option<&'static str> {
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    match ip {
        _ if ip.is_unspecified() => Some("the unspecified one"),
        _ if ip.is_loopback() => Some("a loopback one"),
        _ if ip.is_multicast() => Some("a multicast one"),
        _ if local => Some("a link-local one"),
        IpAddr::V4(ip) if ip.octets()[0] == 0 || ip.is_broadcast() => Some("none of a host"),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Some("an IPv4 address written as IPv6"),
        _ => None,
    }
}

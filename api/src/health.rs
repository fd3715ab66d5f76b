//! Whether the nodes of the cluster reach each other: `GET /v1/health`, `PUT /v1/health/probe`. The fields are those of
//! `cilium-health status`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What this node found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Whether this node probes the others at all.
    pub enabled: bool,
    pub local: Local,
    /// The newest probe, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// Seconds between two probes of a node.
    #[serde(default)]
    pub probe_interval: f64,
    /// This node is among them.
    pub nodes: Vec<NodeHealth>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Local {
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NodeHealth {
    /// With the cluster's name and a slash in front, if that is another cluster.
    pub name: String,
    pub local: bool,
    /// The node's own addresses.
    pub host: Paths,
    /// Its health endpoint, reached as its containers are; without addresses it has none.
    pub health_endpoint: Paths,
}

/// The ways to one end, by its addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Paths {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary_address: Option<Path>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secondary_addresses: Vec<Path>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Path {
    pub ip: String,
    pub icmp: Probe,
    pub http: Probe,
}

/// How the last probe of one kind went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Why there was no answer; empty: there was one.
    pub status: String,
    /// Nanoseconds until the answer.
    #[serde(default)]
    pub latency: u64,
    /// RFC 3339; absent: not probed yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_probed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success: Option<String>,
}

impl Probe {
    pub fn is_ok(&self) -> bool {
        self.last_probed.is_some() && self.status.is_empty()
    }
}

impl Path {
    pub fn is_ok(&self) -> bool {
        self.icmp.is_ok() && self.http.is_ok()
    }
}

impl Paths {
    /// The primary one first.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        self.primary_address.iter().chain(&self.secondary_addresses)
    }

    /// How many of the addresses answered to both probes, and how many there are.
    pub fn reached(&self) -> (usize, usize) {
        (self.all().filter(|path| path.is_ok()).count(), self.all().count())
    }
}

impl NodeHealth {
    /// Whether every address of the node and its health endpoint answered to both probes.
    pub fn is_reachable(&self) -> bool {
        let (reached, all) = self.host.reached();
        all > 0 && reached == all && self.health_endpoint.all().all(Path::is_ok)
    }

    /// Whether each address was probed at least once.
    pub fn is_probed(&self) -> bool {
        let probed = |path: &Path| path.icmp.last_probed.is_some() && path.http.last_probed.is_some();
        self.host.all().chain(self.health_endpoint.all()).all(probed)
    }
}

impl Health {
    pub fn reachable(&self) -> usize {
        self.nodes.iter().filter(|node| node.is_reachable()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(icmp: &str, probed: bool) -> Path {
        let probe = |status: &str| Probe {
            status: status.to_owned(),
            last_probed: probed.then(|| "2026-11-21T00:00:00Z".to_owned()),
            ..Probe::default()
        };
        Path { ip: "192.0.2.1".to_owned(), icmp: probe(icmp), http: probe("") }
    }

    fn node(host: Vec<Path>, endpoint: Vec<Path>) -> NodeHealth {
        let paths = |mut all: Vec<Path>| {
            let primary_address = (!all.is_empty()).then(|| all.remove(0));
            Paths { primary_address, secondary_addresses: all }
        };
        NodeHealth { host: paths(host), health_endpoint: paths(endpoint), ..NodeHealth::default() }
    }

    #[test]
    fn a_node_is_reachable_when_everything_of_it_answered() {
        assert!(node(vec![path("", true)], vec![]).is_reachable());
        assert!(node(vec![path("", true), path("", true)], vec![path("", true)]).is_reachable());
        assert!(!node(vec![path("", true), path("lost", true)], vec![]).is_reachable());
        assert!(!node(vec![path("", true)], vec![path("lost", true)]).is_reachable());
        assert!(!node(vec![path("", false)], vec![]).is_reachable(), "nobody asked yet");
        assert!(!node(vec![], vec![]).is_reachable());
    }
}

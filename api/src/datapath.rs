//! What the kernel holds, read back: `GET /v1/bpf/{endpoint|policy|ct|ipcache|lb|nat|metrics|tunnel}`, `DELETE /v1/bpf/ct`, `GET /v1/map`,
//! `GET /v1/map/{name}`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointRow {
    pub id: u16,
    pub ip: Vec<String>,
    pub ifindex: u32,
    pub mac: String,
    pub node_mac: String,
    pub identity: u32,
    pub policy: u32,
    pub flags: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyRow {
    /// Subject identity and the version of its policy.
    pub subject: u32,
    pub policy: u32,
    /// `Ingress` or `Egress`.
    pub direction: String,
    pub identity: u32,
    /// Labels of `identity`, filled by the agent.
    #[serde(default)]
    pub labels: Vec<String>,
    /// `80/TCP`, `80-87/TCP`, `ANY/TCP`, `ANY`.
    pub port: String,
    pub deny: bool,
    pub proxy_port: u16,
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct CtRow {
    pub protocol: String,
    /// The side that opened the flow, `address:port`.
    pub source: String,
    pub destination: String,
    pub source_identity: u32,
    pub destination_identity: u32,
    pub source_endpoint: u16,
    pub destination_endpoint: u16,
    /// Seconds until it expires if nothing more comes.
    pub expires: i64,
    pub state: String,
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
    pub flags_seen: [u8; 2],
    /// Number of the service that the opening side asked for, as in `GET /v1/bpf/lb`; 0: none.
    #[serde(default)]
    pub service: u32,
    /// Not 0: no flow, but which backend one to that service was given, by its number.
    #[serde(default)]
    pub backend: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct IpcacheRow {
    pub prefix: String,
    pub identity: u32,
    pub endpoint: u16,
    #[serde(default)]
    pub labels: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TunnelRow {
    pub prefix: String,
    /// Underlay address of the node that the prefix is behind.
    pub vtep: String,
}

/// A port of this node's under which it sends on what somebody asked of a service to a backend that is not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct NatRow {
    pub protocol: String,
    /// Who asked: `192.0.2.1:40000`
    pub client: String,
    /// Whom the backend sees; empty: this node has no address of that family any more.
    pub translated: String,
    pub backend: String,
    /// Seconds since the port was taken. It is free again when its flow is over.
    pub age: u32,
}

/// Services as the kernel has them. Numbers are this kernel's own, and stand for nothing elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LoadBalancer {
    pub services: Vec<LbService>,
    /// `10.64.0.4:80` by number.
    pub backends: BTreeMap<u32, String>,
    /// What flows asked for, by the service's number.
    pub revnat: BTreeMap<u32, String>,
    pub source_ranges: Vec<LbSourceRange>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LbService {
    /// `10.96.0.10:80/TCP`
    pub frontend: String,
    pub number: u32,
    /// By which users know it.
    pub id: u32,
    /// `ClusterIP`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Seconds for which a client stays with its backend; 0: it does not.
    pub affinity: u32,
    /// For flows that begin in a container or on a node.
    pub internal: LbPlaces,
    /// For those from elsewhere.
    pub external: LbPlaces,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LbPlaces {
    /// `random` or `maglev`
    pub algorithm: String,
    /// Numbers of backends, and how many of the equally likely places each has; none: flows are refused.
    pub shares: BTreeMap<u32, u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LbSourceRange {
    /// Number of the service.
    pub service: u32,
    pub prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MetricRow {
    pub code: u8,
    pub reason: String,
    pub direction: String,
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct MapRow {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub path: String,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    /// `None` where counting would mean walking a table that is always full.
    pub entries: Option<u32>,
}

/// `GET /v1/map/{name}`: raw contents, at most the first 10,000 entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MapDump {
    pub name: String,
    pub entries: Vec<MapEntry>,
    pub truncated: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MapEntry {
    /// Hexadecimal.
    pub key: String,
    pub value: String,
}

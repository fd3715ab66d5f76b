//! What the kernel holds, read back: `GET /v1/bpf/{endpoint|policy|ct|ipcache|metrics|tunnel}`, `DELETE /v1/bpf/ct`, `GET /v1/map`,
//! `GET /v1/map/{name}`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

//! Services: `GET /v1/service`, `GET|PUT|DELETE /v1/service/{id}`, and the file of several: `PUT /v1/service`. The shapes
//! are Cilium's, with what it has no word for beside it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A frontend: what is wanted, and what of it is in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    pub spec: ServiceSpec,
    pub status: ServiceStatus,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceStatus {
    /// `None`: nothing of it is in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realized: Option<ServiceSpec>,
    /// Why it is not, or not as wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// `PUT /v1/service/{id}`: 201 where it is new, 200 where it was there, 460 for a frontend and 461 for a backend that cannot
/// be one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServiceSpec {
    /// Of the whole cluster; in a request that of the path, or 0.
    #[serde(default)]
    pub id: u32,
    pub frontend_address: FrontendAddress,
    #[serde(default)]
    pub backend_addresses: Vec<BackendAddress>,
    #[serde(default)]
    pub flags: ServiceFlags,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FrontendAddress {
    /// `0.0.0.0` and `::` of a node port stand for each of a node's own addresses.
    pub ip: IpAddr,
    /// `tcp`, `udp` or `sctp`, in capitals or not.
    #[serde(default = "tcp")]
    pub protocol: String,
    pub port: u16,
}

fn tcp() -> String {
    "TCP".to_owned()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendAddress {
    pub ip: IpAddr,
    pub port: u16,
    #[serde(default = "tcp")]
    pub protocol: String,
    /// Share of the new flows beside the other backends' weights.
    #[serde(default = "hundred")]
    pub weight: u16,
    /// `active`, `terminating`, `terminating-not-serving`, `quarantined` or `maintenance`.
    #[serde(default = "active")]
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
}

fn hundred() -> u16 {
    100
}

fn active() -> String {
    "active".to_owned()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServiceFlags {
    /// `ClusterIP`, `NodePort`, `ExternalIP`, `LoadBalancer`; of what a node publishes itself `HostPort`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `Cluster` or `Local`.
    pub ext_traffic_policy: String,
    pub int_traffic_policy: String,
    /// For how many seconds a client stays with its backend; 0: not at all.
    #[serde(skip_serializing_if = "is_zero")]
    pub session_affinity: u32,
    /// CIDRs from where others than the cluster may ask; empty: from everywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<String>,
    /// Backends of the same node are asked as long as there are some.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub prefer_same_node: bool,
    /// `random` or `maglev`; without it as the node is told to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<String>,
    /// Of what it is a part; not for requests.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Default for ServiceFlags {
    fn default() -> ServiceFlags {
        ServiceFlags {
            kind: "ClusterIP".to_owned(),
            ext_traffic_policy: "Cluster".to_owned(),
            int_traffic_policy: "Cluster".to_owned(),
            session_affinity: 0,
            source_ranges: Vec::new(),
            prefer_same_node: false,
            algorithm: None,
            name: String::new(),
            namespace: String::new(),
        }
    }
}

/// The answer to `PUT /v1/service`: what was made of the documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Imported {
    pub services: Vec<ImportedService>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportedService {
    pub namespace: String,
    pub name: String,
    /// The numbers of its frontends.
    pub ids: Vec<u32>,
    /// Whether it is new; else it was changed, or is as it was.
    pub created: bool,
    pub changed: bool,
}

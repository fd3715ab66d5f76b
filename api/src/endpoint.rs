//! Endpoints: `/v1/endpoint…`. An `{id}` is a number, or one of `docker-endpoint:<EndpointID>`, `container-id:<id>`,
//! `container-name:<name>`, `ipv4:<ip>`, `ipv6:<ip>`, `cilium-local:<n>`.

use model::{EndpointState, Identity, Mac};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};

/// `PUT /v1/endpoint`: make an endpoint. Answered when its links, programs and verdicts are in the kernel (under
/// `reserved:init`), or with an error and nothing left behind. Repeating it with the same content is a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EndpointCreate {
    pub docker_endpoint_id: String,
    pub docker_network_id: String,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// `None`: the agent chooses one.
    #[schemars(with = "Option<String>")]
    pub mac: Option<Mac>,
}

/// `PATCH /v1/endpoint/{id}`: what is learnt later. Absent fields stay as they are. When labels are given the answer
/// comes when the kernel enforces the policy of the identity they make, or after `wait-ms` with the state so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EndpointChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
    /// The container's labels as Docker tells them (all of them; the agent filters).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_labels: Option<std::collections::BTreeMap<String, String>>,
    /// Sandbox path: Docker takes the container's end of the link now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// All ports of the host that are published for it from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<Vec<PublishedPort>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// A port of the host (`docker run -p`), and the container's that answers there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PublishedPort {
    /// An address of the host, or the unspecified one for all of that family; absent in a request: all, of each family that
    /// the container has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::IpAddr>,
    /// In a request the first that may be taken; 0: any free one.
    pub host_port: u16,
    /// The last that may be taken; 0 and in answers: none but the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub host_port_end: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    pub container_port: u16,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(n: &u16) -> bool {
    *n == 0
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Endpoint {
    pub id: u16,
    pub docker_endpoint_id: String,
    pub docker_network_id: String,
    pub container_id: Option<String>,
    pub container_name: Option<String>,
    #[schemars(with = "String")]
    pub state: EndpointState,
    /// Why the state is `not-ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    pub identity: EndpointIdentity,
    /// Labels that make the identity, and those that the filter left out.
    pub labels: EndpointLabels,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub gateway4: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    #[schemars(with = "String")]
    pub mac: Mac,
    #[schemars(with = "String")]
    pub node_mac: Mac,
    pub interface_name: String,
    /// Name of the container's end until Docker takes it.
    pub peer_interface_name: String,
    pub mtu: u32,
    pub policy: EndpointPolicy,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// Ports of the host that are published for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PublishedPort>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointIdentity {
    #[schemars(with = "u32")]
    pub id: Identity,
    pub labels: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointLabels {
    pub security_relevant: Vec<String>,
    pub disabled: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct EndpointPolicy {
    /// `none`, `ingress`, `egress` or `both`.
    pub enabled: String,
    /// Revision of the rules that the kernel enforces for this endpoint.
    pub revision: u64,
}

/// `GET /v1/endpoint/{id}/log`, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LogEntry {
    /// RFC 3339, UTC.
    pub timestamp: String,
    /// `ok` or `failed`.
    pub code: String,
    pub message: String,
    pub state: String,
}

/// `GET /v1/endpoint/{id}/healthz`: each `OK`, `Bootstrap`, `Pending`, `Warning`, `Failure` or `Disabled`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointHealth {
    pub overall_health: String,
    pub bpf: String,
    pub policy: String,
    pub connected: bool,
}

//! Identities: `GET /v1/identity`, `GET /v1/identity/{id}`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub id: u32,
    pub labels: Vec<String>,
    #[serde(rename = "labelsSHA256")]
    pub labels_sha256: String,
    /// Endpoints of this node that have it.
    pub ref_count: u32,
}

/// `GET /v1/ip`: one row of the address table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct IpEntry {
    /// Prefix, e.g. `10.15.3.4/32`.
    pub ip: String,
    pub identity: u32,
    pub labels: Vec<String>,
    /// Who said so: `endpoint`, `host`, `policy` (a CIDR that a rule mentions), `kvstore`.
    pub source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

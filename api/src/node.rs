//! Nodes: `GET /v1/node`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Node {
    pub name: String,
    pub cluster: String,
    pub ipv4: Option<String>,
    pub ipv6: Option<String>,
    pub ipv4_alloc_cidr: Option<String>,
    pub ipv6_alloc_cidr: Option<String>,
    pub local: bool,
}

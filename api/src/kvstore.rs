//! The store through the agent: `GET|PUT|DELETE /v1/kvstore?key=…[&recursive=true]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    pub key: String,
    /// Text as stored; bytes that are no UTF-8 are shown as `\xNN`.
    pub value: String,
    pub revision: u64,
}

/// Body of the PUT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Value {
    pub value: String,
}

//! Policy: `/v1/policy…`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `PUT /v1/policy`: the body is the list of rules itself, with `?replace=true` (delete the rules that carry all labels
/// of a new rule first) and `?wait=true` (answer when every endpoint enforces it). All of the rules or none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyChange {
    pub revision: u64,
    /// Rules added and rules removed.
    pub added: usize,
    pub removed: usize,
    /// Endpoints whose policy the change is about, when it was waited for: how many enforce it.
    pub enforced: Option<Enforced>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Enforced {
    pub endpoints: usize,
    pub failing: Vec<String>,
}

/// `GET /v1/policy?label=…` (repeatable): rules as imported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Policy {
    pub revision: u64,
    pub rules: serde_json::Value,
}

/// `GET /v1/policy/status`: how far each node of the cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyStatus {
    /// Revision of the rules that the kvstore holds.
    pub revision: u64,
    pub nodes: Vec<NodeEnforcement>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeEnforcement {
    pub node: String,
    /// Revision of the rules that the node knows; `null`: it tells nothing, or nothing readable.
    pub known: Option<u64>,
    /// What every endpoint of the node enforces, or more.
    pub enforced: Option<u64>,
    pub endpoints: usize,
    /// What keeps endpoints from enforcing, a few of them.
    pub failing: Vec<String>,
}

/// `POST /v1/policy/trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    pub from: Vec<String>,
    pub to: Vec<String>,
    /// `80/TCP`, `53/UDP`, `80` (ANY); empty: an L3 question.
    pub dports: Vec<String>,
    #[serde(default)]
    pub verbose: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TraceResult {
    pub log: String,
    /// `allowed` or `denied`.
    pub verdict: String,
}

/// `GET /v1/policy/wait?revision=N`: how far the endpoints are (the CLI polls).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitState {
    /// The revision in force. Below the one that was asked for, nobody enforces that yet, not even where there are no
    /// endpoints.
    pub revision: u64,
    /// How many endpoints enforce the revision that was asked for, or a newer one.
    pub at_revision: usize,
    pub endpoints: usize,
}

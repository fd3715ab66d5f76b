//! The agent's configuration: `GET /v1/config`, `PATCH /v1/config`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Configuration {
    /// `default`, `always` or `never`; can be changed.
    pub policy_enforcement: String,
    /// Everything else the agent was started with: flag to value. Secrets are shown as `********`.
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ConfigurationChange {
    pub policy_enforcement: Option<String>,
}

//! What Docker itself says: `PUT /v1/docker/endpoints`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// All endpoints that Docker has on networks of ours, and all those networks: sent whenever both could be read
/// completely. The agent takes down the endpoints and forgets the networks that are missing, unless they are too young
/// for Docker to list them. Answered with an empty body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DockerEndpoints {
    /// Docker's endpoint ids, 64 hexadecimal digits each.
    pub docker_endpoint_ids: BTreeSet<String>,
    /// Docker's network ids, 64 hexadecimal digits each.
    pub docker_network_ids: BTreeSet<String>,
}

//! `GET /v1/healthz`: is everything well, and if not, what.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum State {
    Ok,
    Warning,
    Failure,
    Disabled,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    pub state: State,
    pub msg: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The worst of the others, with the reason.
    pub cilium: Part,
    pub kvstore: Part,
    #[serde(default)]
    pub kvstore_contact: KvstoreContact,
    pub container_runtime: Part,
    pub docker_plugin: Part,
    pub datapath: Part,
    pub masquerade: Part,
    /// How packets get to other nodes.
    pub routing: Part,
    /// How many nodes this one reaches. How others are is no fault of this agent's: it does not count for `cilium`.
    pub cluster_health: Part,
    /// Other clusters; `None`: this one is in no mesh. How others are is no fault of this agent's, but what is wrong with
    /// the files that tell of them counts for `cilium`.
    #[serde(default)]
    pub cluster_mesh: Option<ClusterMesh>,
    pub ipam: IpamStatus,
    pub node_monitor: Option<MonitorStatus>,
    pub controllers: Vec<Controller>,
    pub node: String,
    pub cluster: String,
    pub version: String,
    /// Seconds since the agent started.
    pub uptime: u64,
    pub policy_revision: u64,
    /// Newest desired revision and the newest that the kernel has.
    pub desired_revision: u64,
    pub realised_revision: u64,
    /// Latencies of the last plugin call of each method, microseconds.
    #[serde(default)]
    pub plugin_calls: Vec<PluginCall>,
}

/// The other clusters of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ClusterMesh {
    /// Why the folder that tells of them cannot be read.
    pub fault: Option<String>,
    pub clusters: Vec<RemoteCluster>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct RemoteCluster {
    pub name: String,
    /// `None`: it is not known, or not accepted.
    pub id: Option<u8>,
    pub state: MeshState,
    /// Why it is failing.
    pub reason: Option<String>,
    /// What it tells, believed or not. What was known stays while it is failing.
    pub nodes: usize,
    pub endpoints: usize,
    pub identities: usize,
    /// How often it began to fail.
    pub failures: u64,
    /// Seconds ago.
    pub last_failure: Option<u64>,
    pub last_failure_msg: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MeshState {
    /// Changes come as they happen.
    Ready,
    /// Its kvstore answers, and is not listed yet.
    Connecting,
    Failing,
}

/// What the agent has to do with the kvstore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct KvstoreContact {
    pub watches: Vec<Watch>,
    pub lease: Option<Lease>,
    /// `None`: none was seen yet.
    pub heartbeat: Option<Heartbeat>,
}

/// Keys that the agent follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Watch {
    pub prefix: String,
    /// The newest change that came, or the store's revision at the last comparison.
    pub revision: u64,
    /// Whether changes come as they happen.
    pub in_contact: bool,
}

/// Under which the agent's own keys are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Lease {
    pub id: Option<String>,
    /// Seconds since the store last confirmed it.
    pub confirmed: Option<u64>,
    pub keys: usize,
    /// Writes and deletions that wait for the store.
    pub pending: usize,
    pub trouble: Option<String>,
}

/// The newest sign of life that some node wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Heartbeat {
    /// Time by the clock of who wrote it.
    pub written: String,
    /// Seconds since this agent saw it first.
    pub age: u64,
    /// How long the store took to answer.
    pub round_trip_us: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IpamStatus {
    pub ipv4: Option<PoolUse>,
    pub ipv6: Option<PoolUse>,
    /// Address to owner.
    pub allocations: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolUse {
    pub pool: String,
    pub allocated: u64,
    /// Text, since an IPv6 pool's capacity may exceed JSON's numbers.
    pub capacity: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MonitorStatus {
    pub cpus: u32,
    /// Bytes of the ring buffer.
    pub buffer: u64,
    pub lost: u64,
    pub unknown: u64,
}

/// Something the agent keeps true by trying again: one row of "Controller Status".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Controller {
    pub name: String,
    pub success_count: u64,
    pub failure_count: u64,
    pub consecutive_failure_count: u64,
    /// Seconds ago.
    pub last_success: Option<u64>,
    pub last_failure: Option<u64>,
    pub last_failure_msg: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PluginCall {
    pub method: String,
    pub count: u64,
    pub errors: u64,
    pub last_us: u64,
    pub max_us: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    pub version: String,
    pub revision: String,
}

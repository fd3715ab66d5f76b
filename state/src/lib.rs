//! The brain: takes in facts about the world (`Input`), keeps the tables that follow from them, and yields what the
//! kernel, the stores and the readers should have (`Outputs`).
//!
//! Pure: no clock (`now` is an argument), no files, no network, no tasks. One writer owns a `State`; all others see
//! snapshots. It knows neither Docker's protocol nor the kernel's layout, nor where the kvstore is.

pub mod input;
pub mod outputs;
mod rejected;

pub use input::{
    AddressRequest, EndpointChange, EndpointCreate, Family, Input, Network, PoolRequest, Purpose, Source, Subnet,
};
pub use outputs::{
    AddressView, EndpointRef, EndpointView, IdentityView, IpRow, IpSource, LOG_LENGTH, LogEntry, Outputs, PolicyView,
    PoolView, SyncState, Timestamp, View,
};
pub use rejected::{Rejected, RejectedKind};

use ipnetwork::{Ipv4Network, Ipv6Network};
use model::EndpointId;
use model::label_filter::LabelFilter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Where the keys of `Outputs::records` begin. Whoever keeps them lists this prefix at start and feeds
/// `Input::Restore`.
pub const RECORDS_PREFIX: &str = "cilium/local/";

/// What stays the same for a whole life.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this node and of its cluster: parts of kvstore keys, so without `/`.
    pub node: String,
    pub cluster: String,
    pub cluster_id: u32,
    /// The node's own address for other nodes.
    pub node_ipv4: Option<Ipv4Addr>,
    pub node_ipv6: Option<Ipv6Addr>,
    /// The node's pools; `None`: the family is off.
    pub ipv4_range: Option<Ipv4Network>,
    pub ipv6_range: Option<Ipv6Network>,
    /// MTU of endpoints whose network names none; `None`: the uplink's.
    pub mtu: Option<u32>,
    pub label_filter: LabelFilter,
    /// Milliseconds for which a released address or endpoint number is not given out again while there are others.
    pub quarantine: u64,
    /// Milliseconds for which an endpoint, an address or a network that Docker does not list is left alone: Docker makes
    /// them before it lists them.
    pub docker_grace: u64,
}

/// The default of `Config::quarantine`.
pub const QUARANTINE: u64 = 30_000;
/// The default of `Config::docker_grace`.
pub const DOCKER_GRACE: u64 = 10_000;

/// What an accepted input is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    Pool(PoolView),
    Address { pool: String, address: IpAddr },
    Endpoint(EndpointId),
}

/// All tables of a node.
#[derive(Debug)]
pub struct State {
    config: Config,
    outputs: Arc<Outputs>,
}

impl State {
    /// A node that knows nothing yet. Fails when the ranges of `config` cannot serve as pools.
    pub fn new(config: Config) -> Result<State, Rejected> {
        Ok(State { config, outputs: Arc::default() })
    }

    /// Takes in one fact. A rejected one changes nothing.
    pub fn apply(&mut self, input: Input, now: Timestamp) -> Result<Reply, Rejected> {
        tracing::debug!(node = self.config.node, ?input, ?now, "too early");
        Err(Rejected::NotRestored)
    }

    /// The snapshot after all inputs so far; the same `Arc` as last time when nothing changed.
    pub fn outputs(&mut self) -> Arc<Outputs> {
        self.outputs.clone()
    }
}

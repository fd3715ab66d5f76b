//! The brain: takes in facts about the world (`Input`), keeps the tables that follow from them, and yields what the
//! kernel, the stores and the readers should have (`Outputs`).
//!
//! Pure: no clock (`now` is an argument), no files, no network, no tasks. One writer owns a `State`; all others see
//! snapshots. It knows neither Docker's protocol nor the kernel's layout, nor where the kvstore is.

mod apply;
mod desired;
mod endpoints;
mod health;
mod identities;
pub mod input;
mod ipam;
mod ipcache;
mod ledger;
mod mesh;
mod networks;
pub mod outputs;
mod policies;
mod publish;
mod records;
mod rejected;
mod remote;
mod restore;
pub mod services;
mod shared;
mod view;

pub use input::{
    AddressRequest, EndpointChange, EndpointCreate, Family, Input, MeshFact, Network, NodeName, PoolRequest, Purpose,
    RemoteAddress, RemoteNode, Source, Subnet,
};
pub use outputs::{
    AddressView, EndpointRef, EndpointView, IdentityView, IpRow, IpSource, LOG_LENGTH, LogEntry, Outputs, PolicyView,
    PoolView, SyncState, Timestamp, View,
};
pub use rejected::{Rejected, RejectedKind};
pub use shared::{cluster as cluster_record, read as shared_records};

use endpoints::Endpoints;
use identities::Identities;
use ipam::Ipam;
use ipcache::Ipcache;
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use ledger::Ledger;
use mesh::Mesh;
use model::desired::Status;
use model::label_filter::LabelFilter;
use model::{EndpointId, Identity};
use networks::Networks;
use policies::Policies;
use remote::{Believed, Remote};
use services::Services;
use std::collections::{BTreeMap, BTreeSet};
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
    /// What its identities carry in bits 16 to 23. 0: it is in no mesh.
    pub cluster_id: u8,
    /// The node's own address for other nodes.
    pub node_ipv4: Option<Ipv4Addr>,
    pub node_ipv6: Option<Ipv6Addr>,
    /// The node's pools; `None`: the family is off.
    pub ipv4_range: Option<Ipv4Network>,
    pub ipv6_range: Option<Ipv6Network>,
    /// MTU of endpoints whose network names none; `None`: the uplink's.
    pub mtu: Option<u32>,
    /// Where the kvstore is, as far as that is known by address: no node's containers may seem to be there.
    pub kvstore: BTreeSet<IpAddr>,
    /// How many bytes of each packet between nodes the tunnel takes; `None`: there is no tunnel.
    pub tunnel_overhead: Option<u32>,
    /// Without a tunnel, whether the host is to route other nodes' prefixes to those nodes.
    pub direct_routes: bool,
    pub label_filter: LabelFilter,
    /// When policy is enforced, and whether the host is subject to it.
    pub policy: policy::Options,
    /// Networks with a subnet of their own share it with other nodes: addresses come out of blocks that this node has.
    pub shares_subnets: bool,
    pub services: services::Options,
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

/// How much of the outputs is to be made anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Dirty {
    Nothing,
    /// How far the kernel is with each endpoint: what it reports after each round.
    Lives,
    /// What services there are.
    Services,
    /// Which identities there are and who of other nodes' endpoints has them, and with them the policies.
    Identities,
    Tables,
}

/// Whoever is in no mesh has heard all of it.
fn first_sync(source: Source, cluster_id: u8) -> SyncState {
    if source == Source::Mesh && cluster_id == 0 { SyncState::Synced } else { SyncState::Waiting }
}

/// All tables of a node.
#[derive(Debug)]
pub struct State {
    config: Config,
    ipam: Ipam,
    networks: Networks,
    endpoints: Endpoints,
    identities: Identities,
    policies: Policies,
    remote: Remote,
    mesh: Mesh,
    /// What of `remote` is believed, as `ipcache` has it.
    believed: Believed,
    ipcache: Ipcache,
    services: Services,
    /// Addresses of the host's devices.
    host: BTreeSet<IpAddr>,
    uplink_mtu: Option<u32>,
    /// What the datapath reconciler reported last.
    status: Arc<Status>,
    sync: BTreeMap<Source, SyncState>,
    /// Records that could not be used: their text and why.
    bad_records: BTreeMap<String, (Arc<str>, String)>,
    records: Ledger,
    shared: Ledger,
    /// Whether what the node tells of itself is to be written anew.
    announce_node: bool,
    /// Whether all records are to be written anew.
    rewrite_records: bool,
    /// How many endpoints have each identity, as `outputs` shows it.
    references: BTreeMap<Identity, u32>,
    /// Time of the last input.
    now: Timestamp,
    /// What the inputs since `outputs` were made may have changed.
    dirty: Dirty,
    outputs: Arc<Outputs>,
}

impl State {
    /// A node that knows nothing yet. Fails when the names or ranges of `config` cannot be used.
    pub fn new(config: Config) -> Result<State, Rejected> {
        for name in [&config.node, &config.cluster] {
            if name.is_empty() || name.contains('/') || name.chars().any(char::is_control) {
                return Err(Rejected::BadName(name.clone()));
            }
        }
        let range4 = config.ipv4_range.map(IpNetwork::V4);
        let ranges: Vec<IpNetwork> = range4.into_iter().chain(config.ipv6_range.map(IpNetwork::V6)).collect();
        Ok(State {
            ipam: Ipam::new(config.quarantine, &ranges, config.shares_subnets)?,
            networks: Networks::default(),
            endpoints: Endpoints::new(config.quarantine),
            identities: Identities::default(),
            policies: Policies::new(config.policy),
            remote: Remote::default(),
            mesh: Mesh::default(),
            believed: Believed::default(),
            ipcache: Ipcache::default(),
            services: Services::new(config.services.clone()),
            host: BTreeSet::new(),
            uplink_mtu: None,
            status: Arc::default(),
            sync: Source::ALL.map(|source| (source, first_sync(source, config.cluster_id))).into(),
            bad_records: BTreeMap::new(),
            records: Ledger::default(),
            shared: Ledger::default(),
            announce_node: false,
            rewrite_records: false,
            references: BTreeMap::new(),
            now: Timestamp::default(),
            dirty: Dirty::Tables,
            outputs: Arc::default(),
            config,
        })
    }

    /// Takes in one fact. A rejected one changes nothing, except that a policy document that cannot be enforced shows in
    /// the view.
    pub fn apply(&mut self, input: Input, now: Timestamp) -> Result<Reply, Rejected> {
        self.now = now;
        self.dirty = self.dirty.max(match input {
            Input::Datapath(_) => Dirty::Lives,
            // More, if an endpoint's identity follows from it.
            Input::IdentityKnown { .. } | Input::IdentityRemembered { .. } | Input::IdentityGone { .. } => {
                Dirty::Identities
            }
            // If it is news.
            Input::NodeKnown(_)
            | Input::NodeGone(_)
            | Input::AddressKnown { .. }
            | Input::AddressGone { .. }
            | Input::Mesh { .. }
            | Input::ServiceKnown(_)
            | Input::ServiceRefused { .. }
            | Input::ServiceGone(_) => Dirty::Nothing,
            _ => Dirty::Tables,
        });
        self.take_in(input, now)
    }
}

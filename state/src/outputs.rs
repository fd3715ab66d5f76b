//! What the state wants of the world and tells its readers: one immutable snapshot after each batch of inputs. How each
//! part is computed is the business of its table's file.

use crate::input::{Family, Network, NodeName, Purpose, RemoteNode, Source};
use crate::services::{Published, ServiceView};
use ipnetwork::IpNetwork;
use model::desired::{Datapath, LinkIntent, Names};
use model::{EndpointId, EndpointState, Identity, IdentityMap, Labels, Mac, ServiceId, SharedMap};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// One snapshot. A part that did not change since the one before is the same `Arc`.
///
/// A request is on disk when the store has realised `records_revision`, and in the kernel when the datapath has realised
/// `datapath_revision()`, both taken of the first snapshot after its `apply`.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    /// Grows whenever any part changed. The other revisions are values that it had.
    pub revision: u64,
    /// `None` until the records, the policy and the identities are known (or declared away): before that, anything
    /// published would open what was closed.
    pub datapath: Option<Arc<Datapath>>,
    /// Revision at which `records` last changed; 0 before `Input::Restore`, when nothing may be made equal to them yet.
    pub records_revision: u64,
    /// What the local store must hold under `RECORDS_PREFIX`: full key to JSON text.
    pub records: Arc<BTreeMap<String, Arc<str>>>,
    /// Label sets that need a number: each that an endpoint of this node has.
    pub wanted_identities: Arc<BTreeSet<Labels>>,
    /// Revision at which `shared` last changed; 0 likewise.
    pub shared_revision: u64,
    /// What this node publishes in the kvstore for as long as it lives: full key to JSON text.
    pub shared: Arc<BTreeMap<String, Arc<str>>>,
    pub names: Arc<Names>,
    pub view: Arc<View>,
}

impl Outputs {
    /// The revision of the datapath part; `None` when there is none yet.
    pub fn datapath_revision(&self) -> Option<u64> {
        self.datapath.as_ref().map(|datapath| datapath.revision)
    }
}

/// Everything that the API shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    pub endpoints: Arc<BTreeMap<EndpointId, Arc<EndpointView>>>,
    /// Reserved, allocated and node-local ones.
    pub identities: IdentityMap<IdentityView>,
    pub ips: SharedMap<IpNetwork, IpRow>,
    /// What the nodes of the cluster tell of themselves, this one included once its own record is read back.
    pub nodes: Arc<BTreeMap<NodeName, RemoteNode>>,
    /// By `PoolView::id`, the node's own included.
    pub pools: Arc<BTreeMap<String, PoolView>>,
    pub addresses: Arc<BTreeMap<IpAddr, AddressView>>,
    pub networks: Arc<BTreeMap<String, Network>>,
    pub policy: Arc<PolicyView>,
    pub sync: Arc<BTreeMap<Source, SyncState>>,
    /// Records of the local store that could not be read, with the reason. They are left as they are.
    pub bad_records: Arc<BTreeMap<String, String>>,
    /// What other nodes tell and is not believed: by whom or about what, and why.
    pub doubts: Arc<BTreeMap<String, String>>,
    /// By number: each frontend of a service, node ports with the unspecified address, and the ports that this node
    /// publishes.
    pub services: SharedMap<ServiceId, Arc<ServiceView>>,
}

impl View {
    /// The endpoint that `wanted` names, if it names exactly one.
    pub fn find(&self, wanted: &EndpointRef) -> Option<&Arc<EndpointView>> {
        if let EndpointRef::Id(id) = wanted {
            return self.endpoints.get(id);
        }
        let mut matching = self.endpoints.values().filter(|endpoint| endpoint.is_named_by(wanted));
        let found = matching.next();
        found.filter(|_| matching.next().is_none())
    }
}

/// A way to name an endpoint.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum EndpointRef {
    Id(EndpointId),
    /// Docker's endpoint id.
    Docker(String),
    /// Docker's container id, or its head of 12 digits and more; ambiguous when the container is on two of our networks.
    ContainerId(String),
    /// Likewise.
    ContainerName(String),
    Address(IpAddr),
}

impl fmt::Display for EndpointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndpointRef::Id(id) => write!(f, "{id}"),
            EndpointRef::Docker(id) => write!(f, "docker-endpoint:{id}"),
            EndpointRef::ContainerId(id) => write!(f, "container-id:{id}"),
            EndpointRef::ContainerName(name) => write!(f, "container-name:{name}"),
            EndpointRef::Address(IpAddr::V4(ip)) => write!(f, "ipv4:{ip}"),
            EndpointRef::Address(IpAddr::V6(ip)) => write!(f, "ipv6:{ip}"),
        }
    }
}

/// The shortest head of a container id that names it: what `docker ps` shows.
const SHORT_ID: usize = 12;

/// Whether `wanted` names the endpoint of which these things are known.
pub(crate) fn names_endpoint(
    wanted: &EndpointRef,
    id: EndpointId,
    docker_endpoint_id: &str,
    container_id: Option<&str>,
    container_name: Option<&str>,
    mut addresses: impl Iterator<Item = IpAddr>,
) -> bool {
    match wanted {
        EndpointRef::Id(wanted) => *wanted == id,
        EndpointRef::Docker(wanted) => wanted == docker_endpoint_id,
        EndpointRef::ContainerId(wanted) => {
            container_id.is_some_and(|id| id == wanted || (wanted.len() >= SHORT_ID && id.starts_with(wanted)))
        }
        EndpointRef::ContainerName(wanted) => container_name == Some(wanted),
        EndpointRef::Address(wanted) => addresses.any(|address| address == *wanted),
    }
}

/// An endpoint with its story so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    pub id: EndpointId,
    pub docker_endpoint_id: String,
    pub docker_network_id: String,
    /// Whether the network is known here.
    pub network_known: bool,
    pub internal: bool,
    pub container_id: Option<String>,
    pub container_name: Option<String>,
    pub sandbox: Option<String>,
    pub state: EndpointState,
    /// Why the state is `NotReady`.
    pub failure: Option<String>,
    pub identity: Identity,
    /// What `identity` stands for.
    pub identity_labels: Arc<Labels>,
    /// Labels that make the identity that the endpoint should have; `None` until Docker told its container's labels.
    pub labels: Option<Arc<Labels>>,
    /// Labels of the container that the filter left out.
    pub disabled_labels: Arc<Labels>,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub gateway4: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    pub mac: Mac,
    pub node_mac: Mac,
    pub ifname: String,
    pub peer_ifname: String,
    pub link: LinkIntent,
    pub mtu: u32,
    /// Revision of the rules that the kernel enforces for it; 0: none yet.
    pub policy_revision: u64,
    pub enforced_ingress: bool,
    pub enforced_egress: bool,
    pub created: Timestamp,
    /// Ports of the host that are published for it.
    pub published: Vec<Published>,
    /// The last `LOG_LENGTH` transitions, oldest first.
    pub log: Arc<Vec<LogEntry>>,
}

impl EndpointView {
    fn is_named_by(&self, wanted: &EndpointRef) -> bool {
        let container_id = self.container_id.as_deref();
        let container_name = self.container_name.as_deref();
        let addresses = self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6));
        names_endpoint(wanted, self.id, &self.docker_endpoint_id, container_id, container_name, addresses)
    }
}

/// How many lines of an endpoint's story are kept.
pub const LOG_LENGTH: usize = 64;

/// One line of an endpoint's story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub at: Timestamp,
    /// The state after it.
    pub state: EndpointState,
    pub failed: bool,
    pub message: String,
}

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Milliseconds since `earlier`; 0 when the clock was set back meanwhile.
    pub fn since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityView {
    pub labels: Arc<Labels>,
    /// Endpoints of this node that have it.
    pub references: u32,
}

/// Who lives at a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRow {
    pub identity: Identity,
    pub source: IpSource,
    pub endpoint: Option<EndpointId>,
    /// An address of the other node that it is on.
    pub node: Option<IpAddr>,
}

/// Who said so. Of two that speak of the same prefix the larger one is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpSource {
    /// A prefix that a rule mentions.
    Policy,
    /// Another node.
    Kvstore,
    /// An address of the host, or a gateway.
    Host,
    /// An endpoint of this node.
    Endpoint,
}

impl IpSource {
    pub fn as_str(self) -> &'static str {
        match self {
            IpSource::Policy => "policy",
            IpSource::Kvstore => "kvstore",
            IpSource::Host => "host",
            IpSource::Endpoint => "endpoint",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    /// `node-ipv4`, `node-ipv6`, or the subnet's text.
    pub id: String,
    pub family: Family,
    pub subnet: IpNetwork,
    pub range: Option<IpNetwork>,
    pub gateway: IpAddr,
    pub node_pool: bool,
    /// What of the subnet is this node's to give out; `None`: all of it.
    pub blocks: Option<BTreeSet<IpNetwork>>,
    /// Requests that hold it.
    pub references: u32,
    /// How many of `capacity` are taken. Fixed addresses outside the range are not among them.
    pub allocated: u64,
    /// Addresses of the range (of the subnet, without a range) but for those set aside: network, broadcast, gateway.
    pub capacity: u128,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressView {
    pub pool: String,
    pub owner: String,
    pub purpose: Purpose,
    pub endpoint: Option<EndpointId>,
    pub since: Timestamp,
}

/// The rules in force.
#[derive(Clone, Debug, Default)]
pub struct PolicyView {
    /// 0: none known yet.
    pub revision: u64,
    /// JSON list, as it came.
    pub rules: Arc<str>,
    /// The same, read.
    pub repository: Arc<policy::Repository>,
    /// Why the newest document could not be taken; the rules in force are then older ones.
    pub fault: Option<String>,
    /// For whom policy is enforced.
    pub enforcement: policy::Enforcement,
}

/// The repository follows from the rest.
impl PartialEq for PolicyView {
    fn eq(&self, other: &PolicyView) -> bool {
        (self.revision, &self.rules, &self.fault, self.enforcement)
            == (other.revision, &other.rules, &other.fault, other.enforcement)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncState {
    Waiting,
    Synced,
    /// Not reachable at start; the records' copy is used.
    Away,
}

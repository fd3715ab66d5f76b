//! One other cluster: its kvstore followed, and what it tells fed to the state as that cluster's.
//!
//! First it must say which cluster it is, and with which id; nothing else is read before. What goes is handed on as for this
//! cluster's own nodes: see `cluster`. Nothing goes while the kvstore is away.

use super::report::{Counts, OfCluster, Standing};
use crate::cluster::departures::{Departures, Gone};
use crate::cluster::{MAX_ADDRESSES, MAX_NODES, node_name, single, sleep_until};
use crate::controllers::causes;
use crate::memory::{Memory, RememberedCluster};
use crate::writer::{Inputs, SubmitError};
use kvstore::watch::{self, Feed, Update};
use kvstore::{Backend, keys};
use model::{ClusterName, Identity, Labels};
use state::shared_records::{self as records, RecordError};
use state::{Input, MeshFact, NodeName, RemoteAddress, RemoteNode};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How often the kvstore is asked how it is.
const LOOK: Duration = Duration::from_secs(2);
/// How long it may take to say so.
const ANSWER: Duration = Duration::from_millis(1500);

/// What is known of the cluster; it outlives the connection.
pub(super) struct Remote {
    cluster: ClusterName,
    inputs: Inputs,
    memory: Memory,
    report: OfCluster,
    grace: Duration,
    /// The id with which the state has it as one of the mesh.
    joined: Option<u8>,
    departures: Departures,
    identities: BTreeSet<Identity>,
    /// What of the above no listing of this connection had yet.
    unconfirmed: Unconfirmed,
}

#[derive(Default)]
struct Unconfirmed {
    nodes: BTreeSet<NodeName>,
    addresses: BTreeSet<IpAddr>,
    identities: BTreeSet<Identity>,
}

/// How far the listings of a connection are.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Listed {
    nodes: bool,
    addresses: bool,
    identities: bool,
}

impl Listed {
    fn is_all(self) -> bool {
        self.nodes && self.addresses && self.identities
    }
}

/// What is followed of a kvstore that is the right one.
struct Feeds {
    nodes: Feed,
    addresses: Feed,
    identities: Feed,
    listed: Listed,
}

impl Feeds {
    fn begin(backend: &Arc<dyn Backend>) -> Feeds {
        let follow = |prefix: &str| watch::follow(Arc::clone(backend), prefix, watch::Options::default());
        Feeds {
            nodes: follow(keys::NODES),
            addresses: follow(keys::IPS),
            identities: follow(&masters()),
            listed: Listed::default(),
        }
    }
}

/// Where it says what numbers stand for.
fn masters() -> String {
    format!("{}/id/", keys::IDENTITIES)
}

/// What the kvstore says of which clusters there are.
#[derive(Default)]
struct Configs {
    seen: BTreeMap<String, Result<u8, String>>,
    listed: bool,
}

impl Configs {
    fn take_in(&mut self, updates: Vec<Update>) {
        for update in updates {
            match update {
                Update::Reset => self.listed = false,
                Update::Synced { .. } => self.listed = true,
                Update::Put(entry) => {
                    if let Some(name) = keys::parse_cluster_config(&entry.key) {
                        let read = records::cluster(&name, &entry.value).map_err(|error| causes(&error));
                        self.seen.insert(name, read);
                    }
                }
                Update::Delete { key } => {
                    if let Some(name) = keys::parse_cluster_config(&key) {
                        self.seen.remove(&name);
                    }
                }
            }
        }
    }

    /// The cluster's id, or why there is none.
    fn id_of(&self, cluster: ClusterName) -> Result<u8, String> {
        match self.seen.get(cluster.as_str()) {
            Some(Ok(id)) => Ok(*id),
            Some(Err(why)) => Err(format!("what it says of itself cannot be used: {why}")),
            None => Err(match self.seen.keys().next() {
                Some(other) => format!("its kvstore is that of cluster {other:?}"),
                None => "its kvstore does not say which cluster it is of: has it a --cluster-id?".to_owned(),
            }),
        }
    }
}

impl Remote {
    pub(super) fn new(
        cluster: ClusterName,
        inputs: Inputs,
        memory: Memory,
        report: OfCluster,
        grace: Duration,
    ) -> Remote {
        report.note(|_| {});
        Remote {
            cluster,
            inputs,
            memory,
            report,
            grace,
            joined: None,
            departures: Departures::new(grace),
            identities: BTreeSet::new(),
            unconfirmed: Unconfirmed::default(),
        }
    }

    /// Begins with what the last run knew.
    pub(super) async fn recall(&mut self, remembered: RememberedCluster) {
        let RememberedCluster { id, nodes, addresses, identities } = remembered;
        let refused = match id {
            Some(id) => self.join(id).await.err(),
            None => Some("its id is not remembered".to_owned()),
        };
        if let Some(why) = refused {
            tracing::warn!(cluster = %self.cluster, why, "what is remembered of another cluster is not used");
            // The notes go with what they are about.
            nodes.iter().for_each(|node| self.memory.node(&node.name, None));
            addresses.iter().for_each(|(address, _)| self.memory.address(*address, None));
            identities.iter().for_each(|(identity, _)| self.memory.identity(*identity, None));
            return self.memory.cluster_id(None);
        }
        for (identity, labels) in identities {
            self.identity_there(identity, labels).await;
        }
        for node in nodes {
            self.node_there(node).await;
        }
        for (address, record) in addresses {
            self.address_there(address, record).await;
        }
        self.doubt_all();
        self.count();
        self.report.note(|cluster| cluster.has_spoken = true);
    }

    /// Nothing of what is known was told by the connection that begins.
    fn doubt_all(&mut self) {
        self.unconfirmed = Unconfirmed {
            nodes: self.departures.node_names().cloned().collect(),
            addresses: self.departures.all_addresses().collect(),
            identities: self.identities.clone(),
        };
    }

    /// Follows a kvstore until told to stop; then another connection can go on with what is known.
    pub(super) async fn follow(mut self, backend: Arc<dyn Backend>, stop: CancellationToken) -> Remote {
        self.doubt_all();
        self.report.stands(Standing::Connecting);
        let mut following = watch::follow(Arc::clone(&backend), keys::CLUSTER_CONFIGS, watch::Options::default());
        let mut configs = Configs::default();
        let mut feeds: Option<Feeds> = None;
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = feeds.as_ref().filter(|feeds| feeds.listed.is_all()).and_then(|_| self.departures.next_due());
            tokio::select! {
                () = stop.cancelled() => return self,
                updates = following.next() => match updates {
                    Some(updates) => {
                        configs.take_in(updates);
                        self.judge(&configs, &mut feeds, &backend).await;
                    }
                    None => return self.until(stop).await,
                },
                told = next(&mut feeds) => match told {
                    Some(told) => self.take_in(told, &mut feeds).await,
                    None => return self.until(stop).await,
                },
                () = sleep_until(due), if due.is_some() => self.let_go().await,
                _ = looks.tick() => {
                    self.look(&backend, &configs, feeds.as_ref()).await;
                    if feeds.is_none() {
                        // Another cluster may have given up the id that this one has.
                        self.judge(&configs, &mut feeds, &backend).await;
                    }
                }
            }
            self.count();
        }
    }

    /// The runtime ends, or the agent does.
    async fn until(self, stop: CancellationToken) -> Remote {
        stop.cancelled().await;
        self
    }

    /// Draws the conclusion of which clusters the kvstore says to be of.
    async fn judge(&mut self, configs: &Configs, feeds: &mut Option<Feeds>, backend: &Arc<dyn Backend>) {
        if !configs.listed {
            return;
        }
        let refused = match configs.id_of(self.cluster) {
            Ok(id) => {
                if self.joined.is_some_and(|joined| joined != id) {
                    *feeds = None;
                    self.leave().await;
                }
                self.join(id).await.err()
            }
            Err(why) => Some(why),
        };
        match refused {
            Some(why) => {
                // Of such a kvstore nothing more is heard; what is known stays.
                *feeds = None;
                self.report.stands(Standing::Failing(why));
                self.report.note(|cluster| cluster.has_spoken = true);
            }
            None if feeds.is_none() => {
                self.doubt_all();
                *feeds = Some(Feeds::begin(backend));
            }
            None => {}
        }
    }

    /// Has the state take the cluster as one of the mesh; `Err`: why it does not.
    async fn join(&mut self, id: u8) -> Result<(), String> {
        if self.joined == Some(id) {
            return Ok(());
        }
        match self.tell_and_wait(MeshFact::Joined { id }).await {
            Ok(()) => {
                self.joined = Some(id);
                self.memory.cluster_id(Some(id));
                self.report.note(|cluster| cluster.id = Some(id));
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn tell_and_wait(&self, fact: MeshFact) -> Result<(), SubmitError> {
        self.inputs.submit(Input::Mesh { cluster: self.cluster, fact }).await.map(drop)
    }

    async fn tell(&self, fact: MeshFact) {
        self.inputs.tell(Input::Mesh { cluster: self.cluster, fact }).await;
    }

    /// All that it told goes, here and from what is remembered.
    pub(super) async fn leave(&mut self) {
        self.departures.node_names().for_each(|name| self.memory.node(name, None));
        self.departures.all_addresses().for_each(|address| self.memory.address(address, None));
        self.identities.iter().for_each(|identity| self.memory.identity(*identity, None));
        self.memory.cluster_id(None);
        self.departures = Departures::new(self.grace);
        self.identities.clear();
        self.unconfirmed = Unconfirmed::default();
        if self.joined.take().is_some() {
            self.tell(MeshFact::Left).await;
        }
        self.report.note(|cluster| cluster.id = None);
        self.count();
    }

    /// How the kvstore is, in words.
    async fn look(&self, backend: &Arc<dyn Backend>, configs: &Configs, feeds: Option<&Feeds>) {
        let answer = tokio::time::timeout(ANSWER, backend.status()).await;
        let trouble = match answer {
            Err(_) => Some(format!("no answer within {ANSWER:?}")),
            Ok(status) => (!status.healthy).then_some(status.text),
        };
        match trouble {
            Some(why) => self.report.stands(Standing::Failing(why)),
            None if feeds.is_some_and(|feeds| feeds.listed.is_all()) => self.report.stands(Standing::Ready),
            // It was refused, which is told.
            None if feeds.is_none() && configs.listed => {}
            None => self.report.stands(Standing::Connecting),
        }
    }

    fn count(&self) {
        let counts = Counts {
            nodes: self.departures.nodes(),
            addresses: self.departures.addresses(),
            identities: self.identities.len(),
        };
        self.report.note(|cluster| cluster.counts = counts);
    }

    async fn take_in(&mut self, told: Told, feeds: &mut Option<Feeds>) {
        let Some(Feeds { listed, .. }) = feeds else { return };
        let was_all = listed.is_all();
        match told {
            Told::Nodes(updates) => self.nodes(updates, &mut listed.nodes).await,
            Told::Addresses(updates) => self.addresses(updates, &mut listed.addresses).await,
            Told::Identities(updates) => self.identities(updates, &mut listed.identities).await,
        }
        if listed.is_all() && !was_all {
            self.all_listed().await;
        }
    }

    async fn nodes(&mut self, updates: Vec<Update>, listed: &mut bool) {
        for update in updates {
            match update {
                Update::Reset => *listed = false,
                Update::Synced { .. } => *listed = true,
                Update::Put(entry) => {
                    let Some(name) = node_name(&entry.key) else { continue };
                    let full = self.departures.nodes() >= MAX_NODES && !self.departures.has_node(&name);
                    match within(full, "nodes").and_then(|()| records::node(name.clone(), &entry.value)) {
                        // Another cluster's is not this one's to tell: the state says so, and nothing is kept of it.
                        Ok(node) if node.name.cluster != self.cluster.as_str() => {
                            self.tell(MeshFact::NodeKnown(node)).await;
                        }
                        Ok(node) => {
                            self.unconfirmed.nodes.remove(&name);
                            self.memory.node(&name, Some(&entry.value));
                            self.node_there(node).await;
                        }
                        Err(error) => {
                            self.complain(&entry.key, &error);
                            self.departures.node_went(name, Instant::now());
                        }
                    }
                }
                Update::Delete { key } => match node_name(&key) {
                    Some(name) if name.cluster != self.cluster.as_str() => self.tell(MeshFact::NodeGone(name)).await,
                    Some(name) => self.departures.node_went(name, Instant::now()),
                    None => {}
                },
            }
        }
    }

    async fn node_there(&mut self, node: RemoteNode) {
        self.departures.node_there(&node, Instant::now());
        self.tell(MeshFact::NodeKnown(node)).await;
    }

    async fn addresses(&mut self, updates: Vec<Update>, listed: &mut bool) {
        for update in updates {
            match update {
                Update::Reset => *listed = false,
                Update::Synced { .. } => *listed = true,
                Update::Put(entry) => {
                    let Some(address) = single(&entry.key) else { continue };
                    let full = self.departures.addresses() >= MAX_ADDRESSES && !self.departures.has_address(&address);
                    match within(full, "addresses").and_then(|()| records::address(address, &entry.value)) {
                        Ok(record) => {
                            self.unconfirmed.addresses.remove(&address);
                            self.memory.address(address, Some(&entry.value));
                            self.address_there(address, record).await;
                        }
                        Err(error) => {
                            self.complain(&entry.key, &error);
                            self.departures.address_went(address, Instant::now());
                        }
                    }
                }
                Update::Delete { key } => {
                    if let Some(address) = single(&key) {
                        self.departures.address_went(address, Instant::now());
                    }
                }
            }
        }
    }

    async fn address_there(&mut self, address: IpAddr, record: RemoteAddress) {
        self.departures.address_there(address, record.node);
        self.tell(MeshFact::AddressKnown { address, record }).await;
    }

    async fn identities(&mut self, updates: Vec<Update>, listed: &mut bool) {
        let base = masters();
        for update in updates {
            match update {
                Update::Reset => *listed = false,
                Update::Synced { .. } => *listed = true,
                Update::Put(entry) => {
                    let Some(number) = entry.key.strip_prefix(&base) else { continue };
                    match records::identity(number, &entry.value) {
                        Ok((identity, labels)) => {
                            self.unconfirmed.identities.remove(&identity);
                            if self.is_its_own(identity) {
                                self.memory.identity(identity, Some(&labels));
                            }
                            self.identity_there(identity, labels).await;
                        }
                        Err(error) => {
                            self.complain(&entry.key, &error);
                            self.identity_went(number).await;
                        }
                    }
                }
                Update::Delete { key } => {
                    if let Some(number) = key.strip_prefix(&base) {
                        self.identity_went(number).await;
                    }
                }
            }
        }
    }

    /// Nothing is kept of others' identities: the state will not have them.
    fn is_its_own(&self, identity: Identity) -> bool {
        identity.is_allocated() && self.joined == Some(identity.cluster_id())
    }

    async fn identity_there(&mut self, identity: Identity, labels: Labels) {
        if self.is_its_own(identity) {
            self.identities.insert(identity);
        }
        self.tell(MeshFact::IdentityKnown { identity, labels }).await;
    }

    async fn identity_went(&mut self, number: &str) {
        if let Ok(number) = number.parse() {
            self.forget_identity(Identity(number)).await;
        }
    }

    async fn forget_identity(&mut self, identity: Identity) {
        if self.identities.remove(&identity) {
            self.memory.identity(identity, None);
        }
        self.tell(MeshFact::IdentityGone { identity }).await;
    }

    /// All is told. What went while nobody could tell has its time from now on.
    async fn all_listed(&mut self) {
        let now = Instant::now();
        self.departures.begin_anew(now);
        let Unconfirmed { nodes, addresses, identities } = std::mem::take(&mut self.unconfirmed);
        nodes.into_iter().for_each(|name| self.departures.node_went(name, now));
        addresses.into_iter().for_each(|address| self.departures.address_went(address, now));
        for identity in identities {
            self.forget_identity(identity).await;
        }
        self.report.stands(Standing::Ready);
        self.report.note(|cluster| cluster.has_spoken = true);
    }

    async fn let_go(&mut self) {
        for gone in self.departures.take_due(Instant::now()) {
            let fact = match gone {
                Gone::Node(name) => {
                    tracing::info!(node = name.name, cluster = name.cluster, "the node is gone");
                    self.memory.node(&name, None);
                    MeshFact::NodeGone(name)
                }
                Gone::Address(address) => {
                    self.memory.address(address, None);
                    MeshFact::AddressGone { address }
                }
            };
            self.tell(fact).await;
        }
    }

    /// A record that cannot be read says nothing, so what it said before is on its way out.
    fn complain(&self, key: &str, error: &RecordError) {
        tracing::warn!(cluster = %self.cluster, key, reason = causes(error), "a record of another cluster cannot be read");
    }
}

/// Whoever can write to a kvstore must not fill this node's memory.
fn within(full: bool, what: &'static str) -> Result<(), RecordError> {
    let reason = if what == "nodes" { "there are too many nodes" } else { "there are too many addresses" };
    if full { Err(RecordError::Content(reason)) } else { Ok(()) }
}

/// Updates, and of what.
enum Told {
    Nodes(Vec<Update>),
    Addresses(Vec<Update>),
    Identities(Vec<Update>),
}

/// The next updates of any feed; `None` only when the runtime ends. Without feeds it never returns.
async fn next(feeds: &mut Option<Feeds>) -> Option<Told> {
    let Some(Feeds { nodes, addresses, identities, .. }) = feeds else { return std::future::pending().await };
    tokio::select! {
        updates = identities.next() => updates.map(Told::Identities),
        updates = nodes.next() => updates.map(Told::Nodes),
        updates = addresses.next() => updates.map(Told::Addresses),
    }
}

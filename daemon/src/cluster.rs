//! The other nodes and their addresses, followed in the kvstore and fed to the state.
//!
//! What others write is handed on at once. What goes is handed on later: an address a moment after, when its node is seen
//! to go on; a node that is gone, with all its addresses, after a grace period, since its lease may have run out for a
//! reason that passes. And nothing goes while the kvstore is away. What the last run knew is handed on first; what the
//! first full listing does not have of it is treated as gone from then on. Whom to believe is decided by the state.

pub(crate) mod departures;

use crate::contact::Contact;
use crate::controllers::{Controllers, causes};
use crate::feed;
use crate::memory::Memory;
use crate::writer::Inputs;
use departures::{Departures, Gone};
use kvstore::session::Session;
use kvstore::watch::{self, Update};
use kvstore::{Backend, keys};
use state::shared_records as records;
use state::{Input, NodeName, RemoteAddress, RemoteNode, Source};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const CONTROLLER: &str = "kvstore-nodes";
/// More than these are not taken in: whoever can write to the kvstore must not fill this node's memory.
pub(crate) const MAX_NODES: usize = 16_384;
pub(crate) const MAX_ADDRESSES: usize = 1 << 20;

pub struct ClusterFeed {
    pub backend: Arc<dyn Backend>,
    pub inputs: Inputs,
    pub controllers: Controllers,
    pub contact: Contact,
    /// Who writes this node's own records, and is told when they go.
    pub session: Session,
    /// How long what a node told is believed after its records went.
    pub grace: Duration,
    /// Where what is believed is noted for the next run.
    pub memory: Memory,
    pub remembered: Remembered,
}

/// What the last run knew, and the store has not confirmed.
#[derive(Debug, Default)]
pub struct Remembered {
    pub nodes: Vec<RemoteNode>,
    pub addresses: Vec<(IpAddr, RemoteAddress)>,
}

/// How far the two listings are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Listed {
    nodes: bool,
    addresses: bool,
}

struct Follower {
    inputs: Inputs,
    session: Session,
    controllers: Controllers,
    departures: Departures,
    listed: Listed,
    memory: Memory,
    /// Names and addresses of an earlier run that no listing had yet.
    unconfirmed: (BTreeSet<NodeName>, BTreeSet<IpAddr>),
    /// Whether the state was told that all is listed, or that the kvstore is away.
    announced: bool,
}

impl ClusterFeed {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut nodes = watch::follow(Arc::clone(&self.backend), keys::NODES, watch::Options::default());
        let mut addresses = watch::follow(Arc::clone(&self.backend), keys::IPS, watch::Options::default());
        self.contact.follows(nodes.progress());
        self.contact.follows(addresses.progress());
        let patience = tokio::time::sleep(feed::patience(!self.remembered.nodes.is_empty()));
        tokio::pin!(patience);
        let mut follower = Follower {
            inputs: self.inputs,
            session: self.session,
            controllers: self.controllers,
            departures: Departures::new(self.grace),
            listed: Listed::default(),
            memory: self.memory,
            unconfirmed: Default::default(),
            announced: false,
        };
        follower.recall(self.remembered).await;
        let mut waiting = true;
        loop {
            let due = follower.due();
            tokio::select! {
                () = shutdown.cancelled() => return,
                updates = nodes.next() => match updates {
                    Some(updates) => follower.nodes(updates).await,
                    None => return,
                },
                updates = addresses.next() => match updates {
                    Some(updates) => follower.addresses(updates).await,
                    None => return,
                },
                () = sleep_until(due), if due.is_some() => follower.let_go().await,
                () = &mut patience, if waiting => {
                    waiting = false;
                    follower.lose_patience().await;
                }
            }
        }
    }
}

pub(crate) async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Follower {
    /// When the next of those that went is to be let go; never while the kvstore is away.
    fn due(&self) -> Option<Instant> {
        let in_contact = self.listed == Listed { nodes: true, addresses: true };
        self.departures.next_due().filter(|_| in_contact)
    }

    /// Begins with what the last run knew.
    async fn recall(&mut self, remembered: Remembered) {
        for node in remembered.nodes {
            self.departures.node_there(&node, Instant::now());
            self.unconfirmed.0.insert(node.name.clone());
            self.inputs.tell(Input::NodeKnown(node)).await;
        }
        for (address, record) in remembered.addresses {
            self.departures.address_there(address, record.node);
            self.unconfirmed.1.insert(address);
            self.inputs.tell(Input::AddressKnown { address, record }).await;
        }
    }

    async fn nodes(&mut self, updates: Vec<Update>) {
        for update in updates {
            match update {
                Update::Reset => self.listed.nodes = false,
                Update::Synced { .. } => self.listed(Listed { nodes: true, ..self.listed }).await,
                Update::Put(entry) => {
                    let Some(name) = node_name(&entry.key) else { continue };
                    match records::node(name.clone(), &entry.value) {
                        Ok(_) if self.departures.nodes() >= MAX_NODES && !self.departures.has_node(&name) => {
                            self.complain(&entry.key, &records::RecordError::Content("there are too many nodes"));
                        }
                        Ok(node) => {
                            self.departures.node_there(&node, Instant::now());
                            self.unconfirmed.0.remove(&name);
                            self.memory.node(&name, Some(&entry.value));
                            self.inputs.tell(Input::NodeKnown(node)).await;
                        }
                        Err(error) => {
                            self.complain(&entry.key, &error);
                            self.departures.node_went(name, Instant::now());
                        }
                    }
                }
                Update::Delete { ref key } => {
                    self.session.defend(&update);
                    if let Some(name) = node_name(key) {
                        self.departures.node_went(name, Instant::now());
                    }
                }
            }
        }
    }

    async fn addresses(&mut self, updates: Vec<Update>) {
        for update in updates {
            match update {
                Update::Reset => self.listed.addresses = false,
                Update::Synced { .. } => self.listed(Listed { addresses: true, ..self.listed }).await,
                Update::Put(entry) => {
                    let Some(address) = single(&entry.key) else { continue };
                    match records::address(address, &entry.value) {
                        Ok(_)
                            if self.departures.addresses() >= MAX_ADDRESSES
                                && !self.departures.has_address(&address) =>
                        {
                            self.complain(&entry.key, &records::RecordError::Content("there are too many addresses"));
                        }
                        Ok(record) => {
                            self.departures.address_there(address, record.node);
                            self.unconfirmed.1.remove(&address);
                            self.memory.address(address, Some(&entry.value));
                            self.inputs.tell(Input::AddressKnown { address, record }).await;
                        }
                        Err(error) => {
                            self.complain(&entry.key, &error);
                            self.departures.address_went(address, Instant::now());
                        }
                    }
                }
                Update::Delete { ref key } => {
                    self.session.defend(&update);
                    if let Some(address) = single(key) {
                        self.departures.address_went(address, Instant::now());
                    }
                }
            }
        }
    }

    /// After the second of the two listings: all is known. What went while nobody could tell has its time from now on.
    async fn listed(&mut self, listed: Listed) {
        let before = std::mem::replace(&mut self.listed, listed);
        if listed == before || listed != (Listed { nodes: true, addresses: true }) {
            return;
        }
        self.controllers.success(CONTROLLER);
        let now = Instant::now();
        self.departures.begin_anew(now);
        let (nodes, addresses) = std::mem::take(&mut self.unconfirmed);
        nodes.into_iter().for_each(|name| self.departures.node_went(name, now));
        addresses.into_iter().for_each(|address| self.departures.address_went(address, now));
        self.announced = true;
        self.inputs.tell(Input::Synced(Source::Cluster)).await;
    }

    async fn lose_patience(&mut self) {
        if !self.announced {
            self.announced = true;
            tracing::warn!("the kvstore does not answer: what was last known of other nodes stays");
            self.controllers.failure(CONTROLLER, "the kvstore does not answer");
            self.inputs.tell(Input::Away(Source::Cluster)).await;
        }
    }

    async fn let_go(&mut self) {
        for gone in self.departures.take_due(Instant::now()) {
            let input = match gone {
                Gone::Node(name) => {
                    tracing::info!(node = name.name, cluster = name.cluster, "the node is gone");
                    self.memory.node(&name, None);
                    Input::NodeGone(name)
                }
                Gone::Address(address) => {
                    self.memory.address(address, None);
                    Input::AddressGone { address }
                }
            };
            self.inputs.tell(input).await;
        }
    }

    /// A record that cannot be read says nothing, so what it said before is on its way out.
    fn complain(&self, key: &str, error: &records::RecordError) {
        let reason = causes(error);
        tracing::warn!(key, reason, "a record of another node cannot be read");
        self.controllers.failure(CONTROLLER, format!("{key}: {reason}"));
    }
}

pub(crate) fn node_name(key: &str) -> Option<NodeName> {
    keys::parse_node(key).map(|(cluster, name)| NodeName { cluster, name })
}

/// The address of a key; prefixes are not a node's to tell.
pub(crate) fn single(key: &str) -> Option<std::net::IpAddr> {
    let (_, address, length) = keys::parse_ip(key)?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    length.is_none_or(|length| length == whole).then_some(address)
}

#[cfg(test)]
mod tests;

//! What this agent last knew of the cluster, on its own disk: other nodes, who has which address, what the numbers of
//! identities stand for, and services. An agent that starts while the kvstore is away goes on with it.
//!
//! The kvstore is the truth; this is only read at start, and what the first full listing does not confirm is dropped. So
//! writing may lag behind: what changes is gathered for a moment and written together, into a file of its own, so that
//! nothing that Docker waits for waits for it.

use crate::controllers::{Controllers, causes};
use futures::future::try_join_all;
use kvstore::{Backend, MAX_BYTES, MAX_STEPS, Opened, Txn, keys};
use model::{ClusterName, Identity, Labels};
use state::services::definition::{Service, ServiceName};
use state::shared_records as records;
use state::{NodeName, RemoteAddress, RemoteNode};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const CONTROLLER: &str = "cluster-memory";
/// Above all that is remembered, in the file.
const ROOT: &str = "cilium/remembered/";
/// Between the base and the name of another cluster, where what is below is of that.
const CLUSTERS: &str = "mesh/";
/// Of another cluster: its id.
const CLUSTER_ID: &str = "id";
/// How long changes are gathered before they are written.
const GATHER: Duration = Duration::from_millis(500);
/// First and longest pause after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Transactions handed to the file at once, which share one flush.
const TOGETHER: usize = 32;

/// What the last run knew.
#[derive(Debug, Default)]
pub struct Remembered {
    pub nodes: Vec<RemoteNode>,
    pub addresses: Vec<(IpAddr, RemoteAddress)>,
    pub identities: Vec<(Identity, Labels)>,
    pub services: Vec<Service>,
    /// Of other clusters' kvstores.
    pub clusters: BTreeMap<ClusterName, RememberedCluster>,
}

/// What the last run knew of another cluster.
#[derive(Debug, Default)]
pub struct RememberedCluster {
    /// `None`: nothing of it can be used.
    pub id: Option<u8>,
    pub nodes: Vec<RemoteNode>,
    pub addresses: Vec<(IpAddr, RemoteAddress)>,
    pub identities: Vec<(Identity, Labels)>,
}

/// Takes notes of what is to be remembered. Cheap to clone; without a file it forgets all.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    notes: Option<mpsc::UnboundedSender<Note>>,
    base: Arc<str>,
}

/// A key and what it holds from now on.
type Note = (String, Option<Vec<u8>>);

impl Memory {
    /// The part of it that is about another cluster.
    pub fn of_cluster(&self, cluster: ClusterName) -> Memory {
        Memory { notes: self.notes.clone(), base: format!("{}{CLUSTERS}{cluster}/", self.base).into() }
    }

    /// Of another cluster: its id.
    pub fn cluster_id(&self, id: Option<u8>) {
        self.note(CLUSTER_ID, id.map(|id| id.to_string()).as_deref().map(str::as_bytes));
    }

    pub fn node(&self, name: &NodeName, record: Option<&[u8]>) {
        self.note(&keys::node(&name.cluster, &name.name), record);
    }

    pub fn address(&self, address: IpAddr, record: Option<&[u8]>) {
        self.note(&address_key(address), record);
    }

    pub fn identity(&self, identity: Identity, labels: Option<&Labels>) {
        let labels = labels.map(Labels::sorted_list);
        self.note(&identity_key(identity), labels.as_deref().map(str::as_bytes));
    }

    pub fn service(&self, name: &ServiceName, record: Option<&[u8]>) {
        self.note(&crate::services::key_of(name), record);
    }

    fn note(&self, key: &str, record: Option<&[u8]>) {
        if let Some(notes) = &self.notes {
            // The writer is gone when the agent ends.
            let _ = notes.send((format!("{}{key}", self.base), record.map(<[u8]>::to_vec)));
        }
    }
}

/// One address space: whichever cluster's part of the kvstore a record came from, an address is there once.
fn address_key(address: IpAddr) -> String {
    keys::ip("default", address)
}

fn identity_key(identity: Identity) -> String {
    format!("{}/id/{identity}", keys::IDENTITIES)
}

/// The task that writes.
#[derive(Debug)]
pub struct MemoryWriter {
    store: Arc<dyn Backend>,
    notes: mpsc::UnboundedReceiver<Note>,
    /// Fingerprints of the keys and values that the file has, so that repeats cost no write.
    written: HashMap<u64, u64>,
    hasher: RandomState,
}

/// A memory that was opened, and what it holds.
#[derive(Debug)]
pub struct Recalled {
    pub memory: Memory,
    pub writer: MemoryWriter,
    pub remembered: Remembered,
    /// What had to be done to open it, for people.
    pub warning: Option<String>,
}

/// Opens the file and reads what the last run noted of this cluster. What belongs to another cluster, and what cannot be
/// read, is removed.
pub async fn recall(path: &Path, cluster: &str) -> Result<Recalled, kvstore::Error> {
    let opened = kvstore::connect(kvstore::Config::Embedded { path: path.to_owned() }).await?;
    let warning = match &opened.opened {
        Opened::Ready => None,
        Opened::SetAside { moved_to, reason } => Some(format!(
            "what was remembered of the cluster was not readable ({reason}) and is kept as {}",
            moved_to.display()
        )),
    };
    recall_from(opened.backend, cluster, warning).await
}

async fn recall_from(
    store: Arc<dyn Backend>,
    cluster: &str,
    warning: Option<String>,
) -> Result<Recalled, kvstore::Error> {
    let base = format!("{ROOT}{}/", keys::escape(cluster));
    let (sender, notes) = mpsc::unbounded_channel();
    let mut writer = MemoryWriter { store, notes, written: HashMap::new(), hasher: RandomState::new() };
    let mut remembered = Remembered::default();
    let mut useless = Vec::new();
    for entry in writer.store.list(ROOT).await?.entries {
        let taken = entry.key.strip_prefix(&base).and_then(|key| remembered.take(key, &entry.value));
        match taken {
            Some(()) => writer.remember_written(&entry.key, Some(&entry.value)),
            None => useless.push(entry.key),
        }
    }
    let useless: Vec<_> = useless.iter().map(|key| (key, None)).collect();
    if let Err(error) = writer.write(&useless).await {
        tracing::debug!(error = causes(&error), "useless notes stay until the next start");
    }
    let memory = Memory { notes: Some(sender), base: base.into() };
    Ok(Recalled { memory, writer, remembered, warning })
}

impl Remembered {
    /// `None` if the record says nothing.
    fn take(&mut self, key: &str, value: &[u8]) -> Option<()> {
        match key.strip_prefix(CLUSTERS) {
            None => {
                let Some((cluster, space, name)) = keys::parse_service(key) else {
                    return take(key, value, &mut self.nodes, &mut self.addresses, &mut self.identities);
                };
                let name = ServiceName { cluster, space, name };
                self.services.push(state::services::record::decode(name, value).ok()?);
                Some(())
            }
            Some(key) => {
                let (cluster, key) = key.split_once('/')?;
                let cluster = ClusterName::new(cluster).ok()?;
                let RememberedCluster { id, nodes, addresses, identities } = self.clusters.entry(cluster).or_default();
                if key != CLUSTER_ID {
                    return take(key, value, nodes, addresses, identities);
                }
                *id = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
                Some(())
            }
        }
    }
}

/// Puts what a record says where it belongs.
fn take(
    key: &str,
    value: &[u8],
    nodes: &mut Vec<RemoteNode>,
    addresses: &mut Vec<(IpAddr, RemoteAddress)>,
    identities: &mut Vec<(Identity, Labels)>,
) -> Option<()> {
    if let Some((cluster, name)) = keys::parse_node(key) {
        nodes.push(records::node(NodeName { cluster, name }, value).ok()?);
    } else if let Some((_, address, None)) = keys::parse_ip(key) {
        addresses.push((address, records::address(address, value).ok()?));
    } else {
        let number = key.strip_prefix(keys::IDENTITIES)?.strip_prefix("/id/")?.parse().ok()?;
        let labels = Labels::from_sorted_list(std::str::from_utf8(value).ok()?).ok()?;
        identities.push((Identity(number), labels));
    }
    Some(())
}

impl MemoryWriter {
    /// Runs until `shutdown`, and then writes what is left.
    pub async fn run(mut self, shutdown: CancellationToken, controllers: Controllers) {
        let mut pending: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        let mut pause = RETRY.0;
        loop {
            let end = tokio::select! {
                () = shutdown.cancelled() => true,
                note = self.notes.recv(), if pending.is_empty() => match note {
                    Some(note) => {
                        pending.extend([note]);
                        wait(GATHER, &shutdown).await
                    }
                    None => true,
                },
                () = tokio::time::sleep(pause), if !pending.is_empty() => false,
            };
            while let Ok((key, value)) = self.notes.try_recv() {
                pending.insert(key, value);
            }
            let news = pending.iter().map(|(key, value)| (key, value.as_deref()));
            let news: Vec<_> = news.filter(|(key, value)| !self.is_written(key, *value)).collect();
            match controllers.book(CONTROLLER, self.write(&news).await) {
                Ok(()) => {
                    pending.clear();
                    pause = RETRY.0;
                }
                Err(error) => {
                    tracing::warn!(error = causes(&error), "the cluster could not be noted on disk; trying again");
                    pause = (pause * 2).min(RETRY.1);
                }
            }
            if end {
                return;
            }
        }
    }

    fn remember_written(&mut self, key: &str, value: Option<&[u8]>) {
        let place = self.hasher.hash_one(key);
        match value {
            Some(value) => self.written.insert(place, self.hasher.hash_one(value)),
            None => self.written.remove(&place),
        };
    }

    fn is_written(&self, key: &str, value: Option<&[u8]>) -> bool {
        self.written.get(&self.hasher.hash_one(key)).copied() == value.map(|value| self.hasher.hash_one(value))
    }

    /// Writes all of it, many transactions at once.
    async fn write(&mut self, news: &[(&String, Option<&[u8]>)]) -> Result<(), kvstore::Error> {
        for transactions in pages(news).chunks(TOGETHER) {
            try_join_all(transactions.iter().map(|txn| self.store.commit(txn.clone()))).await?;
        }
        for (key, value) in news {
            self.remember_written(key, *value);
        }
        Ok(())
    }
}

/// True if it is time to end.
async fn wait(time: Duration, shutdown: &CancellationToken) -> bool {
    tokio::time::timeout(time, shutdown.cancelled()).await.is_ok()
}

fn pages(news: &[(&String, Option<&[u8]>)]) -> Vec<Txn> {
    let mut pages = Vec::new();
    let (mut txn, mut bytes) = (Txn::new(), 0);
    for (key, value) in news {
        let size = key.len() + value.map_or(0, <[u8]>::len);
        if txn.changes.len() == MAX_STEPS || (bytes + size > MAX_BYTES && !txn.changes.is_empty()) {
            pages.push(std::mem::take(&mut txn));
            bytes = 0;
        }
        bytes += size;
        txn = match value {
            Some(value) => txn.put(*key, *value, None),
            None => txn.delete(*key),
        };
    }
    if !txn.changes.is_empty() {
        pages.push(txn);
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvstore::memory;

    const NODE: &[u8] =
        br#"{"Name": "n2", "Cluster": "c", "IPAddresses": [{"Type": "InternalIP", "IP": "192.0.2.2"}]}"#;
    const ADDRESS: &[u8] = br#"{"IP": "10.64.1.7", "ID": 300, "HostIP": "192.0.2.2"}"#;

    const SERVICE: &[u8] = br#"{"cluster": "c", "namespace": "s", "name": "web", "frontends":
        {"10.96.0.1": {"": {"Protocol": "TCP", "Port": 80, "ID": 1, "Type": "ClusterIP"}}}}"#;

    fn service_name() -> ServiceName {
        ServiceName { cluster: "c".to_owned(), space: "s".to_owned(), name: "web".to_owned() }
    }

    fn name() -> NodeName {
        NodeName { cluster: "c".to_owned(), name: "n2".to_owned() }
    }

    fn labels() -> Labels {
        [model::Label::new("container", "id", "far")].into_iter().collect()
    }

    /// Runs a writer until it wrote all notes.
    async fn noted(store: &Arc<dyn Backend>, cluster: &str, notes: impl FnOnce(&Memory)) {
        let recalled = recall_from(Arc::clone(store), cluster, None).await.unwrap();
        notes(&recalled.memory);
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        recalled.writer.run(shutdown, Controllers::default()).await;
    }

    #[tokio::test]
    async fn the_next_run_knows_what_this_one_noted() {
        let store = memory::open().0;
        let address: IpAddr = "10.64.1.7".parse().unwrap();
        noted(&store, "c", |memory| {
            memory.node(&name(), Some(NODE));
            memory.address(address, Some(ADDRESS));
            memory.identity(Identity(300), Some(&labels()));
            memory.identity(Identity(301), Some(&labels()));
            memory.identity(Identity(301), None);
            memory.service(&service_name(), Some(SERVICE));
        })
        .await;
        let Remembered { nodes, addresses, identities, services, .. } =
            recall_from(store, "c", None).await.unwrap().remembered;
        assert_eq!((nodes.len(), &nodes[0].name), (1, &name()));
        assert_eq!(addresses, [(address, records::address(address, ADDRESS).unwrap())]);
        assert_eq!(identities, [(Identity(300), labels())]);
        assert_eq!(services, [state::services::record::decode(service_name(), SERVICE).unwrap()]);
    }

    #[tokio::test]
    async fn other_clusters_are_remembered_apart() {
        let store = memory::open().0;
        let east = ClusterName::new("east").unwrap();
        noted(&store, "c", |memory| {
            memory.identity(Identity(300), Some(&labels()));
            let memory = memory.of_cluster(east);
            memory.cluster_id(Some(7));
            memory.node(&name(), Some(NODE));
            memory.identity(Identity(7 << 16 | 300), Some(&labels()));
        })
        .await;
        let remembered = recall_from(Arc::clone(&store), "c", None).await.unwrap().remembered;
        assert_eq!((remembered.identities.len(), remembered.nodes.len()), (1, 0));
        let of_east = &remembered.clusters[&east];
        assert_eq!((of_east.id, of_east.nodes.len()), (Some(7), 1));
        assert_eq!(of_east.identities, [(Identity(7 << 16 | 300), labels())]);
        assert!(recall_from(store, "d", None).await.unwrap().remembered.clusters.is_empty());
    }

    #[tokio::test]
    async fn repeats_write_nothing() {
        let store = memory::open().0;
        let note = |memory: &Memory| memory.node(&name(), Some(NODE));
        noted(&store, "c", note).await;
        let before = store.list(ROOT).await.unwrap();
        noted(&store, "c", note).await;
        assert_eq!(store.list(ROOT).await.unwrap(), before);
    }

    #[tokio::test]
    async fn another_clusters_notes_and_garbage_are_dropped() {
        let store = memory::open().0;
        noted(&store, "c", |memory| {
            memory.node(&name(), Some(b"garbage"));
            memory.identity(Identity(300), Some(&labels()));
        })
        .await;
        let recalled = recall_from(Arc::clone(&store), "c", None).await.unwrap();
        assert_eq!((recalled.remembered.nodes.len(), recalled.remembered.identities.len()), (0, 1));
        let recalled = recall_from(Arc::clone(&store), "d", None).await.unwrap();
        assert!(recalled.remembered.identities.is_empty());
        assert!(store.list(ROOT).await.unwrap().entries.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_fails_for_a_while_loses_no_note() {
        let (store, power) = memory::open();
        let recalled = recall_from(Arc::clone(&store), "c", None).await.unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(recalled.writer.run(shutdown.clone(), Controllers::default()));
        power.off();
        recalled.memory.node(&name(), Some(NODE));
        tokio::time::sleep(RETRY.1).await;
        power.on();
        tokio::time::sleep(RETRY.1 * 2).await;
        assert_eq!(store.list(ROOT).await.unwrap().entries.len(), 1);
        shutdown.cancel();
        task.await.unwrap();
    }
}

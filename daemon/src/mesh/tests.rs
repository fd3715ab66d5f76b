use super::*;
use crate::testing::Brain;
use api::status::{MeshState, RemoteCluster};
use kvstore::memory::{self, Power};
use kvstore::{Backend, keys};
use model::Identity;
use serde_json::json;
use state::Outputs;

const GRACE: Duration = Duration::from_secs(60);
const CLIENT: &str = "container:id=client;k8s:io.cilium.k8s.policy.cluster=b;";

fn name(cluster: &str) -> ClusterName {
    ClusterName::new(cluster).unwrap()
}

/// A brain of cluster a, and the kvstore of cluster b.
struct World {
    brain: Brain,
    backend: Arc<dyn Backend>,
    power: Power,
    report: Report,
    stop: CancellationToken,
}

impl World {
    async fn begin() -> (World, JoinHandle<Remote>) {
        World::begin_with(None).await
    }

    async fn begin_with(remembered: Option<RememberedCluster>) -> (World, JoinHandle<Remote>) {
        let brain = Brain::begin_in("a", 1).await;
        let (backend, power) = memory::open();
        let report = Report::default();
        let mut remote = Remote::new(name("b"), brain.inputs.clone(), Memory::default(), report.of(name("b")), GRACE);
        if let Some(remembered) = remembered {
            remote.recall(remembered).await;
        }
        let stop = CancellationToken::new();
        let task = tokio::spawn(remote.follow(Arc::clone(&backend), stop.clone()));
        (World { brain, backend, power, report, stop }, task)
    }

    async fn put(&self, key: &str, value: &str) {
        self.backend.put(key, value.as_bytes().to_vec(), None).await.unwrap();
    }

    /// The cluster with a node, and an address of it.
    async fn fill(&self, id: u8) {
        let identity = u32::from(id) << 16 | 300;
        self.put(&keys::cluster_config("b"), &state::cluster_record("b", id)).await;
        self.put(&format!("{}/id/{identity}", keys::IDENTITIES), CLIENT).await;
        let address = json!([{"Type": "InternalIP", "IP": "2001:db8::2"}]);
        let range = json!({"IP": "10.65.1.0", "Mask": "////AA=="});
        let node = json!({"Name": "n1", "Cluster": "b", "IPAddresses": address, "IPv4AllocCIDR": range});
        self.put(&keys::node("b", "n1"), &node.to_string()).await;
        let record = json!({"IP": "10.65.1.7", "ID": identity, "HostIP": "2001:db8::2"});
        self.put(&keys::ip("default", "10.65.1.7".parse().unwrap()), &record.to_string()).await;
    }

    async fn has(&self, identity: Option<u32>) {
        let prefix = "10.65.1.7/32".parse().unwrap();
        let identity_of = |outputs: &Outputs| outputs.view.ips.get(&prefix).map(|row| row.identity.0);
        self.brain.until(&format!("it has {identity:?}"), |outputs| identity_of(outputs) == identity).await;
    }

    async fn stands(&self, what: &str, wanted: impl Fn(&RemoteCluster) -> bool) {
        for _ in 0..600 {
            let report = self.report.report();
            if report.clusters.iter().any(&wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("never {what}: {:?}", self.report.report());
    }

    async fn is_ready(&self) {
        self.stands("ready", |cluster| cluster.state == MeshState::Ready).await;
    }

    async fn is_failing(&self, reason: &str) {
        let why = |cluster: &RemoteCluster| cluster.reason.as_ref().is_some_and(|why| why.contains(reason));
        self.stands(reason, |cluster| cluster.state == MeshState::Failing && why(cluster)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_cluster_tells_is_known_until_it_leaves() {
    let (world, task) = World::begin().await;
    // What is remembered of identities goes when the own kvstore has told all of its own.
    world.brain.inputs.submit(state::Input::Synced(Source::Identities)).await.unwrap();
    world.is_failing("does not say which cluster it is of").await;
    world.fill(2).await;
    world.has(Some(2 << 16 | 300)).await;
    world.is_ready().await;
    let report = world.report.report().clusters.remove(0);
    assert_eq!((report.id, report.nodes, report.endpoints, report.identities), (Some(2), 1, 1, 1));
    assert!(world.report.all_have_spoken());
    world.stop.cancel();
    task.await.unwrap().leave().await;
    world.has(None).await;
    let gone = |outputs: &Outputs| outputs.view.identities.keys().all(|identity| identity.cluster_id() == 0);
    world.brain.until("the identities are gone", gone).await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_away_stays_and_is_followed_again() {
    let (world, _task) = World::begin().await;
    world.fill(2).await;
    world.is_ready().await;
    world.power.off();
    world.is_failing("").await;
    tokio::time::sleep(GRACE * 10).await;
    world.has(Some(2 << 16 | 300)).await;
    world.power.on();
    world.is_ready().await;
    world.backend.delete(&keys::ip("default", "10.65.1.7".parse().unwrap())).await.unwrap();
    world.has(None).await;
}

#[tokio::test(start_paused = true)]
async fn an_id_that_changes_takes_all_of_the_former_away() {
    let (world, _task) = World::begin().await;
    world.fill(2).await;
    world.has(Some(2 << 16 | 300)).await;
    world.put(&keys::cluster_config("b"), &state::cluster_record("b", 1)).await;
    world.is_failing("this cluster has that id itself").await;
    world.has(None).await;
    world.fill(3).await;
    world.has(Some(3 << 16 | 300)).await;
    world.is_ready().await;
}

#[tokio::test(start_paused = true)]
async fn an_earlier_run_is_believed_until_the_kvstore_speaks() {
    let (known, task) = World::begin().await;
    known.fill(2).await;
    known.is_ready().await;
    let backend = &known.backend;
    let entry = |key: String| async move { backend.get(&key).await.unwrap().unwrap().value };
    let node_name = state::NodeName { cluster: "b".to_owned(), name: "n1".to_owned() };
    let node = state::shared_records::node(node_name, &entry(keys::node("b", "n1")).await).unwrap();
    let address = "10.65.1.7".parse().unwrap();
    let record = state::shared_records::address(address, &entry(keys::ip("default", address)).await).unwrap();
    let labels = model::Labels::from_sorted_list(CLIENT).unwrap();
    let identity = Identity(2 << 16 | 300);
    drop(task);
    let remembered = RememberedCluster {
        id: Some(2),
        nodes: vec![node],
        addresses: vec![(address, record)],
        identities: vec![(identity, labels)],
    };
    let (world, _task) = World::begin_with(Some(remembered)).await;
    world.has(Some(identity.0)).await;
    assert!(world.report.all_have_spoken());
    // The kvstore has the cluster and nothing else.
    world.put(&keys::cluster_config("b"), &state::cluster_record("b", 2)).await;
    world.is_ready().await;
    world.has(None).await;
}

#[tokio::test]
async fn files_that_come_change_and_go_are_noticed() {
    let brain = Brain::begin_in("a", 1).await;
    let folder = tempfile::tempdir().unwrap();
    let report = Report::default();
    let mesh = Mesh {
        folder: folder.path().to_owned(),
        own: name("a"),
        inputs: brain.inputs.clone(),
        grace: GRACE,
        memory: Memory::default(),
        remembered: BTreeMap::new(),
        report: report.clone(),
    };
    tokio::spawn(mesh.run(brain.shutdown.clone()));
    let synced = |outputs: &Outputs| outputs.view.sync.get(&Source::Mesh) == Some(&state::SyncState::Synced);
    brain.until("without a file there is nobody to wait for", synced).await;
    let until = async |what: &str, wanted: &dyn Fn(&[RemoteCluster]) -> bool| {
        for _ in 0..2000 {
            if wanted(&report.report().clusters) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never {what}: {:?}", report.report());
    };
    let write = |text: &str| std::fs::write(folder.path().join("b"), text).unwrap();
    write("endpoints: [127.0.0.1:1]");
    std::fs::write(folder.path().join("a"), "endpoints: [x]").unwrap();
    until("it is tried", &|all| all.len() == 1 && all[0].name == "b" && all[0].state == MeshState::Failing).await;
    write("endpoints: []");
    let faulty = |all: &[RemoteCluster]| {
        all.first().and_then(|b| b.reason.as_ref()).is_some_and(|why| why.contains("its file cannot be used"))
    };
    until("the fault is told", &faulty).await;
    write("endpoints: [127.0.0.1:2]");
    until("it is tried again", &|all| all.len() == 1 && !faulty(all)).await;
    std::fs::remove_file(folder.path().join("b")).unwrap();
    until("it is gone", &<[RemoteCluster]>::is_empty).await;
}

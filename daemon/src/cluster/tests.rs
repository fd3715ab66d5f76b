use super::*;
use crate::testing::Brain;
use kvstore::memory::{self, Power};
use kvstore::session::{self, Session};
use serde_json::json;
use state::{Outputs, SyncState};

const GRACE: Duration = Duration::from_secs(60);

struct World {
    brain: Brain,
    backend: Arc<dyn Backend>,
    power: Power,
    controllers: Controllers,
}

impl World {
    async fn begin() -> World {
        World::begin_with(memory::open(), Remembered::default()).await
    }

    async fn begin_with((backend, power): (Arc<dyn Backend>, Power), remembered: Remembered) -> World {
        let brain = Brain::begin().await;
        let controllers = Controllers::default();
        let feed = ClusterFeed {
            backend: Arc::clone(&backend),
            inputs: brain.inputs.clone(),
            controllers: controllers.clone(),
            contact: Contact::default(),
            session: Session::start(Arc::clone(&backend), session::Options::default()),
            grace: GRACE,
            memory: Memory::default(),
            remembered,
        };
        tokio::spawn(feed.run(brain.shutdown.clone()));
        World { brain, backend, power, controllers }
    }

    async fn put(&self, key: &str, value: serde_json::Value) {
        self.backend.put(key, value.to_string().into_bytes(), None).await.unwrap();
    }

    async fn node(&self) {
        let address = json!([{"Type": "InternalIP", "IP": "2001:db8::2"}]);
        let range = json!({"IP": "10.64.1.0", "Mask": "////AA=="});
        let record = json!({"Name": "n2", "Cluster": "default", "IPAddresses": address, "IPv4AllocCIDR": range});
        self.put(&keys::node("default", "n2"), record).await;
    }

    async fn address(&self, identity: u32) {
        let record = json!({"IP": "10.64.1.7", "ID": identity, "HostIP": "2001:db8::2"});
        self.put(&keys::ip("default", "10.64.1.7".parse().unwrap()), record).await;
    }

    async fn has(&self, prefix: &str, identity: Option<u32>) {
        let wanted = prefix.parse().unwrap();
        let what = format!("{prefix} has identity {identity:?}");
        let identity_of = |outputs: &Outputs| outputs.view.ips.get(&wanted).map(|row| row.identity.0);
        self.brain.until(&what, |outputs| identity_of(outputs) == identity).await;
    }

    fn shows(&self, prefix: &str) -> bool {
        self.brain.outputs.borrow().view.ips.contains_key(&prefix.parse().unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_and_addresses_of_others_are_followed() {
    let world = World::begin().await;
    let synced = |outputs: &Outputs| outputs.view.sync.get(&Source::Cluster) == Some(&SyncState::Synced);
    world.brain.until("listed", synced).await;
    world.address(5).await;
    world.node().await;
    world.has("10.64.1.7/32", Some(5)).await;
    world.has("2001:db8::2/128", Some(6)).await;
    world.address(4).await;
    world.has("10.64.1.7/32", Some(4)).await;
    world.backend.delete(&keys::ip("default", "10.64.1.7".parse().unwrap())).await.unwrap();
    world.has("10.64.1.7/32", None).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_goes_after_the_grace_period_and_not_before() {
    let world = World::begin().await;
    world.node().await;
    world.address(5).await;
    world.has("10.64.1.7/32", Some(5)).await;
    let before = Instant::now();
    world.backend.delete_prefix("cilium/state/").await.unwrap();
    world.has("10.64.1.7/32", None).await;
    assert!(before.elapsed() >= GRACE, "gone after {:?}", before.elapsed());
    assert!(!world.shows("2001:db8::2/128"));
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_while_the_kvstore_is_away() {
    let world = World::begin().await;
    world.node().await;
    world.address(5).await;
    world.has("10.64.1.7/32", Some(5)).await;
    world.power.off();
    tokio::time::sleep(GRACE * 20).await;
    assert!(world.shows("10.64.1.7/32") && world.shows("2001:db8::2/128"));
    world.power.on();
    world.address(4).await;
    world.has("10.64.1.7/32", Some(4)).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_answered_is_declared_away() {
    let (backend, power) = memory::open();
    power.off();
    let brain = Brain::begin().await;
    let (inputs, controllers) = (brain.inputs.clone(), Controllers::default());
    let (memory, remembered) = (Memory::default(), Remembered::default());
    let contact = Contact::default();
    let session = Session::start(Arc::clone(&backend), session::Options::default());
    let feed = ClusterFeed { backend, inputs, controllers, contact, session, grace: GRACE, memory, remembered };
    tokio::spawn(feed.run(brain.shutdown.clone()));
    let is = |wanted| move |outputs: &Outputs| outputs.view.sync.get(&Source::Cluster) == Some(&wanted);
    brain.until("declared away", is(SyncState::Away)).await;
    power.on();
    brain.until("listed", is(SyncState::Synced)).await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_is_as_good_as_none() {
    let world = World::begin().await;
    world.node().await;
    world.address(5).await;
    world.has("10.64.1.7/32", Some(5)).await;
    world.put(&keys::ip("default", "10.64.1.7".parse().unwrap()), json!({"IP": "10.64.1.8"})).await;
    world.has("10.64.1.7/32", None).await;
}

/// Node n2 with the address 10.64.1.7, and node n3 with 10.64.2.7.
fn remembered() -> Remembered {
    let node = |n: u16| RemoteNode {
        name: NodeName { cluster: "default".to_owned(), name: format!("n{n}") },
        addresses: [format!("2001:db8::{n}").parse().unwrap()].into(),
        routers: BTreeSet::new(),
        health: BTreeSet::new(),
        prefixes: [format!("10.64.{}.0/24", n - 1).parse().unwrap()].into(),
    };
    let address = |n: u16| {
        let record = RemoteAddress { identity: model::Identity(5), node: format!("2001:db8::{n}").parse().unwrap() };
        (format!("10.64.{}.7", n - 1).parse().unwrap(), record)
    };
    Remembered { nodes: vec![node(2), node(3)], addresses: vec![address(2), address(3)] }
}

#[tokio::test(start_paused = true)]
async fn what_the_last_run_knew_holds_without_the_kvstore_and_is_swept_when_it_is_back() {
    let (backend, power) = memory::open();
    power.off();
    let world = World::begin_with((backend, power), remembered()).await;
    world.has("10.64.1.7/32", Some(5)).await;
    world.has("10.64.2.7/32", Some(5)).await;
    tokio::time::sleep(GRACE * 20).await;
    assert!(world.shows("10.64.1.7/32") && world.shows("10.64.2.7/32"));
    world.power.on();
    // Node n2 is still there, n3 is not.
    let before = Instant::now();
    world.node().await;
    world.address(4).await;
    world.has("10.64.1.7/32", Some(4)).await;
    world.has("10.64.2.7/32", None).await;
    assert!(before.elapsed() >= GRACE, "gone after {:?}", before.elapsed());
    tokio::time::sleep(GRACE * 2).await;
    assert!(world.shows("10.64.1.7/32"));
}

/// Whatever somebody writes, the feed goes on: the next record that makes sense is followed, and status tells.
#[tokio::test(start_paused = true)]
async fn hostile_records_are_told_and_stop_nothing() {
    let world = World::begin().await;
    // From here on each record comes by itself, in order.
    let synced = |outputs: &Outputs| outputs.view.sync.get(&Source::Cluster) == Some(&SyncState::Synced);
    world.brain.until("listed", synced).await;
    let ip = |ip: &str| format!("{}default/{ip}", keys::IPS);
    let node = |name: &str| format!("{}default/{name}", keys::NODES);
    let hostile: [(String, Vec<u8>); 14] = [
        (node("n9"), b"\xff\xfe".to_vec()),
        (node("n9"), vec![b'['; 100_000]),
        (node("n9"), vec![b'x'; 1 << 19]),
        (node("..%2F..%2Fn9"), br#"{"Name": "../../n9", "Cluster": "default"}"#.to_vec()),
        (node("a/b/c"), b"{}".to_vec()),
        (node("%"), br#"{"Name": "", "Cluster": "default"}"#.to_vec()),
        (node("n9"), br#"{"Name": "n8", "Cluster": "default"}"#.to_vec()),
        (ip("10.64.1.7"), br#"{"IP": "10.64.1.7", "ID": 4294967296, "HostIP": "2001:db8::2"}"#.to_vec()),
        (ip("10.64.1.7"), br#"{"IP": "10.64.1.7", "ID": -1, "HostIP": "2001:db8::2"}"#.to_vec()),
        (ip("10.64.1.7"), br#"{"IP": "10.64.1.8", "ID": 5, "HostIP": "2001:db8::2"}"#.to_vec()),
        (ip("0.0.0.0/0"), br#"{"IP": "0.0.0.0", "ID": 5, "HostIP": "2001:db8::2"}"#.to_vec()),
        (ip("010.064.001.007"), br#"{"IP": "10.64.1.7", "ID": 5, "HostIP": "2001:db8::2"}"#.to_vec()),
        (ip("../10.64.1.7"), b"{}".to_vec()),
        (ip("10.64.1.7"), b"{\"IP\": \"10.64.1.7\"".to_vec()),
    ];
    for (key, value) in hostile {
        world.backend.put(&key, value, None).await.unwrap();
    }
    world.node().await;
    world.address(5).await;
    world.has("10.64.1.7/32", Some(5)).await;
    assert!(!world.shows("10.64.1.8/32") && !world.shows("0.0.0.0/0"));
    let nodes: Vec<String> = world.brain.outputs.borrow().view.nodes.keys().map(|name| name.name.clone()).collect();
    assert_eq!(nodes, ["n2"]);
    let report = world.controllers.report();
    let row = report.iter().find(|row| row.name == CONTROLLER).unwrap();
    assert!(row.failure_count >= 3, "{row:?}");
}

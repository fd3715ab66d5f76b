//! Two clusters, each with an etcd of its own: their endpoints reach each other, policies tell them apart, and what one
//! tells is believed within its rights only.

use anyhow::{Context, Result, ensure};
use lab::{CLUSTERS, Clusters, Container, Engine, Hammer, Server, World, eventually};
use serde_json::json;
use std::time::Duration;

const MODES: [(&str, &[&str]); 3] = [
    ("vxlan", &["--tunnel", "vxlan"]),
    ("geneve", &["--tunnel", "geneve"]),
    ("native", &["--tunnel", "disabled", "--auto-direct-node-routes"]),
];
/// How long a condition may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
const A: usize = 0;
const B: usize = 1;

/// A server and a client in cluster a, and a client of the same labels in cluster b.
struct Scene {
    clusters: Clusters,
    server: Container,
    near: Container,
    far: Container,
    _server: Server,
}

impl Scene {
    fn start(options: &[&str]) -> Result<Scene> {
        let clusters = Clusters::start(&Engine::installed(), options)?;
        clusters.join()?;
        clusters.worlds.iter().try_for_each(World::network)?;
        let (server, near) = (clusters.worlds[A].container("server")?, clusters.worlds[A].container("client")?);
        let far = clusters.worlds[B].container("client")?;
        let _server = clusters.worlds[A].serve(&server, &["tcp:80"])?;
        Ok(Scene { clusters, server, near, far, _server })
    }

    /// Whether the clients of both clusters reach the server.
    fn reach(&self, near: bool, far: bool) -> Result<()> {
        eventually(PATIENCE, &format!("the near client to reach the server: {near}, the far one: {far}"), || {
            self.clusters.worlds[A].expect(&self.near, &self.server, "tcp", 80, near)?;
            self.clusters.worlds[B].expect(&self.far, &self.server, "tcp", 80, far)
        })
    }

    /// In force in cluster a: the server serves clients of these labels.
    fn admit(&self, labels: &serde_json::Value) -> Result<()> {
        let agent = &self.clusters.worlds[A].agent;
        let peers = json!([{"fromEndpoints": [{"matchLabels": labels}]}]);
        agent.cilium(&["policy", "delete", "--all"])?;
        agent.import(&json!([{"endpointSelector": {"matchLabels": {"id": "server"}}, "ingress": peers}])).map(|_| ())
    }

    fn knows(&self, cluster: usize, container: &Container, expected: bool) -> Result<()> {
        for address in [&container.ipv4, &container.ipv6] {
            let prefix = format!("{address}/{}", if address.contains(':') { 128 } else { 32 });
            eventually(PATIENCE, &format!("{prefix} to be known: {expected}"), || {
                let rows = self.clusters.worlds[cluster].agent.cilium_json(&["bpf", "ipcache", "list"])?;
                let known = rows.as_array().context("no list")?.iter().any(|row| row["prefix"] == prefix.as_str());
                ensure!(known == expected, "{rows}\n{}", self.clusters.worlds[cluster].agent.cilium(&["status"])?);
                Ok(())
            })?;
        }
        Ok(())
    }
}

#[test]
#[ignore = "needs root: make test"]
fn two_clusters_reach_each_other_and_policies_tell_them_apart() -> Result<()> {
    MODES.into_iter().try_for_each(|(mode, options)| two_clusters(options).context(mode))
}

fn two_clusters(options: &[&str]) -> Result<()> {
    let scene = Scene::start(options)?;
    // Both nodes have the same name, and are two.
    for world in &scene.clusters.worlds {
        eventually(PATIENCE, "both nodes to be listed", || {
            let list = world.agent.cilium(&["node", "list"])?;
            ensure!(CLUSTERS.iter().all(|cluster| list.contains(&format!("{cluster}/node1"))), "{list}");
            Ok(())
        })?;
    }
    scene.knows(A, &scene.far, true)?;
    scene.knows(B, &scene.server, true)?;
    scene.reach(true, true)?;
    // Identities carry the cluster's id, and say its name.
    for (cluster, container, id) in [(A, &scene.server, 1), (B, &scene.far, 2)] {
        let list = scene.clusters.worlds[cluster].agent.cilium_json(&["endpoint", "list"])?;
        let rows = list.as_array().context("no list")?;
        let row =
            rows.iter().find(|row| row.to_string().contains(&container.ipv4)).with_context(|| list.to_string())?;
        let label = format!("k8s:io.cilium.k8s.policy.cluster={}", CLUSTERS[cluster]);
        ensure!(
            row["identity"]["id"].as_u64().is_some_and(|n| n >> 16 == id) && row.to_string().contains(&label),
            "{row}"
        );
    }
    // The same label is in both clusters; their names tell them apart, and no cluster means every one.
    scene.admit(&json!({"id": "client", "io.cilium.k8s.policy.cluster": "b"}))?;
    scene.reach(false, true)?;
    scene.admit(&json!({"id": "client", "k8s:io.cilium.k8s.policy.cluster": "a"}))?;
    scene.reach(true, false)?;
    scene.admit(&json!({"id": "client"}))?;
    scene.reach(true, true)?;
    let entity =
        json!([{"endpointSelector": {"matchLabels": {"id": "server"}}, "ingress": [{"fromEntities": ["cluster"]}]}]);
    scene.clusters.worlds[A].agent.cilium(&["policy", "delete", "--all"])?;
    scene.clusters.worlds[A].agent.import(&entity)?;
    scene.reach(true, false)
}

#[test]
#[ignore = "needs root: make test"]
fn a_cluster_whose_etcd_is_away_stays_known_until_its_file_is_removed() -> Result<()> {
    let mut scene = Scene::start(&["--tunnel", "vxlan", "--kvstore-lease-ttl", "10", "--node-grace", "5"])?;
    scene.admit(&json!({"id": "client", "io.cilium.k8s.policy.cluster": "b"}))?;
    scene.knows(A, &scene.far, true)?;
    scene.reach(false, true)?;
    let mut traffic = Vec::new();
    for host in scene.server.hosts() {
        for (cluster, from, mode) in [(B, &scene.far, "keep"), (B, &scene.far, "connect"), (A, &scene.near, "denied")] {
            let machine = &scene.clusters.worlds[cluster].machine;
            traffic.push(Hammer::start(machine, &from.enter(), mode, &format!("{host}:80"))?);
        }
    }
    scene.clusters.kill_etcd(B)?;
    let row = scene.clusters.stands(A, CLUSTERS[B], "failing", "")?;
    ensure!(row["nodes"] == 1 && row["endpoints"].as_u64() >= Some(2), "{row}");
    // An agent that starts now knows as much.
    let world = &mut scene.clusters.worlds[A];
    world.agent.kill()?;
    world.agent.restart()?;
    scene.clusters.stands(A, CLUSTERS[B], "failing", "")?;
    scene.knows(A, &scene.far, true)?;
    scene.reach(false, true)?;
    scene.clusters.start_etcd(B)?;
    scene.clusters.stands(A, CLUSTERS[B], "ready", "")?;
    let late = scene.clusters.worlds[B].container("late")?;
    scene.knows(A, &late, true)?;
    for hammer in traffic {
        let tally = hammer.finish()?;
        ensure!(tally.requests > 3 && tally.failed == 0, "{tally:?}");
    }
    // A file that cannot be used changes nothing, and one that is gone takes all away.
    scene.clusters.tell_text(A, CLUSTERS[B], "endpoints: [x]")?;
    scene.clusters.stands(A, CLUSTERS[B], "failing", "its file cannot be used")?;
    scene.knows(A, &scene.far, true)?;
    scene.clusters.untell(A, CLUSTERS[B])?;
    scene.knows(A, &scene.far, false)?;
    scene.knows(A, &late, false)?;
    scene.reach(false, false)?;
    let identities = scene.clusters.worlds[A].agent.cilium(&["identity", "list"])?;
    ensure!(!identities.contains("policy.cluster=b"), "{identities}");
    scene.clusters.tell(A, CLUSTERS[B], B)?;
    scene.reach(false, true)
}

#[test]
#[ignore = "needs root: make test"]
fn what_another_cluster_may_not_say_is_refused_by_name() -> Result<()> {
    let scene = Scene::start(&["--tunnel", "vxlan"])?;
    scene.admit(&json!({"id": "client", "io.cilium.k8s.policy.cluster": "a"}))?;
    scene.reach(true, false)?;
    let clusters = &scene.clusters;
    // A kvstore of another cluster than the file says; ids that are taken; a name that is none.
    clusters.tell(A, "c", B)?;
    clusters.stands(A, "c", "failing", "its kvstore is that of cluster \"b\"")?;
    for (record, reason) in [
        (r#"{"id": 1}"#, "this cluster has that id itself"),
        (r#"{"id": 2}"#, "cluster b has that id"),
        (r#"{"id": 3, "name": "d"}"#, "and not of what its key names"),
        ("garbage", "it is not the JSON of such a record"),
    ] {
        clusters.ctl(B, &["put", "cilium/cluster-config/c", record])?;
        clusters.stands(A, "c", "failing", reason)?;
    }
    clusters.untell(A, "c")?;
    clusters.tell(A, "Not.A.Name", B)?;
    clusters.stands(A, "Not.A.Name", "failing", "is no cluster name")?;
    clusters.untell(A, "Not.A.Name")?;
    // Identities, nodes and addresses that are not its own.
    let labels = "container:id=client;k8s:io.cilium.k8s.policy.cluster=a;";
    let mine = scene.server.ipv4.as_str();
    let address = json!({"IP": scene.near.ipv4, "ID": 131_372, "HostIP": "172.31.78.11"}).to_string();
    let node = json!({"Name": "evil", "Cluster": "b",
        "IPAddresses": [{"Type": "InternalIP", "IP": "172.31.78.66"}],
        "IPv4AllocCIDR": {"IP": mine, "Mask": "/////w=="}});
    let foreign = json!({"Name": "evil", "Cluster": "a",
        "IPAddresses": [{"Type": "InternalIP", "IP": "172.31.78.67"}]});
    for (key, value) in [
        ("cilium/state/identities/v1/id/66666".to_owned(), labels.to_owned()),
        ("cilium/state/identities/v1/id/131999".to_owned(), labels.to_owned()),
        (format!("cilium/state/ip/v1/default/{}", scene.near.ipv4), address),
        ("cilium/state/nodes/v1/b/evil".to_owned(), node.to_string()),
        ("cilium/state/nodes/v1/a/evil".to_owned(), foreign.to_string()),
    ] {
        clusters.ctl(B, &["put", &key, &value])?;
    }
    let agent = &clusters.worlds[A].agent;
    eventually(PATIENCE, "the doubts to be told", || {
        let status = agent.cilium(&["status"])?;
        ensure!(status.contains("claims of other nodes are not believed"), "{status}");
        let nodes = agent.cilium(&["node", "list"])?;
        ensure!(nodes.contains("b/evil") && !nodes.contains("a/evil"), "{nodes}");
        Ok(())
    })?;
    let identities = agent.cilium(&["identity", "list"])?;
    ensure!(!identities.contains("66666") && !identities.contains("131999"), "{identities}");
    scene.reach(true, false)?;
    // Nor can an agent come with another id.
    let taken = clusters.ctl(A, &["get", "--print-value-only", "cilium/cluster-config/a"])?;
    ensure!(taken.contains("\"id\":1"), "{taken}");
    Ok(())
}

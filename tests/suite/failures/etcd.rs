//! etcd itself breaks: its leader, a member, its history, its data, our lease.

use super::{PATIENCE, Scene, in_kernel};
use anyhow::{Context, Result, ensure};
use lab::{Etcd, Nodes, eventually};

/// The lease is as long as it is by default: no renewal helps anybody here.
const OPTIONS: [&str; 4] = ["--kvstore-lease-ttl", "900", "--node-grace", "30"];

#[test]
#[ignore = "needs root: make test"]
fn members_leases_and_history_may_go() -> Result<()> {
    let mut scene = Scene::start(&[&OPTIONS, &OPTIONS])?;
    let traffic = scene.traffic()?;

    let leader = scene.nodes.etcd.leader()?;
    scene.nodes.etcd.kill(leader)?;
    scene.news_travels(0, 1)?;
    scene.news_travels(1, 0)?;
    scene.nodes.etcd.start_all()?;

    // Cut off, a leader answers nobody and knows it not at once.
    let cut = Etcd::name(scene.nodes.etcd.leader()?);
    scene.nodes.cut(&cut, true)?;
    scene.news_travels(0, 1)?;
    scene.news_travels(1, 0)?;
    scene.nodes.cut(&cut, false)?;
    scene.nodes.etcd.answers()?;

    a_member_goes_back_in_time(&mut scene)?;

    // Changes that a node missed, and of which the history is gone when it asks.
    scene.nodes.part_from_etcd(1, true)?;
    (0..3).try_for_each(|n| scene.tell(0, &format!("missed-{n}")))?;
    compact(&scene.nodes)?;
    scene.nodes.part_from_etcd(1, false)?;
    (0..3).try_for_each(|n| scene.hears(1, &format!("missed-{n}")))?;
    scene.news_travels(1, 0)?;

    // Somebody ends the lease of node 1: all of its records go, and come back long before anybody gives it up.
    let before = lease_of(&scene.nodes, "node1")?;
    scene.nodes.etcdctl(&["lease", "revoke", &before])?;
    eventually(PATIENCE, "node 1 to be published again", || {
        let lease = lease_of(&scene.nodes, "node1")?;
        ensure!(lease != before, "{lease}");
        Ok(())
    })?;
    eventually(PATIENCE, "its addresses to be published again", || {
        let keys = scene.nodes.etcdctl(&["get", "--prefix", "--keys-only", "cilium/state/ip/"])?;
        ensure!(keys.contains(&scene.server.ipv4) && keys.contains(&scene.server.ipv6), "{keys}");
        Ok(())
    })?;
    scene.news_travels(0, 1)?;
    traffic.finish()
}

#[test]
#[ignore = "needs root: make test"]
fn a_cluster_restored_from_an_old_snapshot_gets_what_it_lost() -> Result<()> {
    let mut scene = Scene::start(&[&OPTIONS, &OPTIONS])?;
    scene.tell(0, "kept")?;
    scene.hears(1, "kept")?;
    let snapshot = scene.nodes.etcd.snapshot()?;
    // After the snapshot: a rule, a container with labels of its own, and a twin of the client's.
    scene.tell(0, "lost")?;
    scene.hears(1, "lost")?;
    let late = scene.nodes.worlds[1].container("late")?;
    let twin = scene.nodes.worlds[1].docker.sleeper("twin", "net", "client")?;
    for ip in [&late.ipv4, &late.ipv6, &twin.ipv4, &twin.ipv6] {
        scene.kernel_knows(0, ip, true)?;
    }
    let traffic = scene.traffic()?;
    scene.nodes.etcd.restore(&snapshot)?;
    // Of the rules etcd has the last word; of its own containers each node has.
    for node in 0..2 {
        eventually(PATIENCE, "the lost rule to be gone", || scene.has_heard(node, "lost", false))?;
        scene.has_heard(node, "kept", true)?;
    }
    eventually(PATIENCE, "the lost records to be written again", || {
        let keys = scene.nodes.etcdctl(&["get", "--prefix", "--keys-only", "cilium/state/"])?;
        for part in [&late.ipv4, &late.ipv6, &twin.ipv4, &twin.ipv6, "value/container:id=late;/node2"] {
            ensure!(keys.contains(part), "{part} is not in\n{keys}");
        }
        Ok(())
    })?;
    scene.news_travels(0, 1)?;
    scene.news_travels(1, 0)?;
    scene.nodes.worlds[1].endpoints_ready(4)?;
    for ip in [&late.ipv4, &late.ipv6, &twin.ipv4, &twin.ipv6, &scene.client.ipv4] {
        ensure!(in_kernel(&scene.nodes.worlds[0], ip)?, "{ip} is not known on node 1");
    }
    scene.is_enforced()?;
    traffic.finish()
}

/// One member is given older data of its own while the others went on: it acknowledged what it now does not know, which no
/// member may. etcd may mend that (with the next leader) or end that member, and then it is to be replaced; meanwhile the
/// other two are a quorum, and nodes go by them.
fn a_member_goes_back_in_time(scene: &mut Scene) -> Result<()> {
    let leader = scene.nodes.etcd.leader()?;
    let victim = (leader + 1) % 3;
    scene.nodes.etcd.kill(victim)?;
    let older = scene.nodes.etcd.copy_of(victim)?;
    scene.nodes.etcd.launch(victim)?;
    scene.nodes.etcd.answers()?;
    (0..3).try_for_each(|n| scene.tell(0, &format!("since-{n}")))?;
    scene.hears(1, "since-2")?;
    scene.nodes.etcd.kill(victim)?;
    scene.nodes.etcd.replace_data(victim, &older)?;
    scene.nodes.etcd.launch(victim)?;
    scene.news_travels(0, 1)?;
    scene.news_travels(1, 0)?;
    (0..2).try_for_each(|node| scene.has_heard(node, "since-2", true))?;
    let fate = eventually(PATIENCE, "the member to be whole or to end", || {
        let ended = !scene.nodes.etcd.running(victim);
        ensure!(ended || scene.nodes.etcd.ctl_of(victim, &["endpoint", "health"]).is_ok());
        Ok(if ended { "ended" } else { "is whole again" })
    })?;
    eprintln!("the member with older data {fate}");
    if fate == "ended" {
        let log = scene.nodes.etcd.log(victim);
        ensure!(log.contains("out of range"), "{log}");
        scene.nodes.etcd.replace_member(victim)?;
    }
    scene.nodes.etcd.answers()?;
    scene.news_travels(0, 1)?;
    // All three have the same.
    eventually(PATIENCE, "the members to agree", || {
        let hashes = (0..3).map(|member| -> Result<String> {
            let text = scene.nodes.etcd.ctl_of(member, &["endpoint", "hashkv", "-w", "json"])?;
            let answer: serde_json::Value = serde_json::from_str(&text)?;
            Ok(answer[0]["HashKV"]["hash"].to_string())
        });
        let hashes = hashes.collect::<Result<Vec<_>>>()?;
        ensure!(hashes[0] != "null" && hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
        Ok(())
    })
}

/// Forgets all history.
pub(super) fn compact(nodes: &Nodes) -> Result<()> {
    let answer: serde_json::Value = serde_json::from_str(&nodes.etcdctl(&["get", "none", "-w", "json"])?)?;
    let revision = answer["header"]["revision"].as_u64().context("no revision")?;
    nodes.etcdctl(&["compaction", &revision.to_string()]).map(|_| ())
}

/// The lease under which a node's record is, as etcdctl writes it.
pub(super) fn lease_of(nodes: &Nodes, node: &str) -> Result<String> {
    let key = format!("cilium/state/nodes/v1/default/{node}");
    let answer: serde_json::Value = serde_json::from_str(&nodes.etcdctl(&["get", &key, "-w", "json"])?)?;
    let lease = answer["kvs"][0]["lease"].as_u64().with_context(|| format!("no lease in {answer}"))?;
    Ok(format!("{lease:x}"))
}

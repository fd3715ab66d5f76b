//! Thousands of changes: an agent that does not read for a while, and one that reads as they come.

use super::{PATIENCE, Scene};
use anyhow::{Context, Result, ensure};
use lab::eventually;
use std::io::Write;
use std::process::Stdio;
use std::time::Instant;

/// Addresses of a node that only exists in etcd.
const CROWD: u32 = 5000;
/// As many changes as etcd takes at once.
const STEP: usize = 128;
const NODE: &str = "cilium/state/nodes/v1/default/crowd";

#[test]
#[ignore = "needs root: make test"]
fn thousands_of_changes_reach_agents_that_read_and_agents_that_sleep() -> Result<()> {
    let scene = Scene::start(&[&[], &["--node-grace", "1"]])?;
    let traffic = scene.traffic()?;
    let identity = identity_of(&scene, "server")?;
    let other = identity_of(&scene, "client")?;
    let record = r#"{"Name":"crowd","Cluster":"default","IPAddresses":[{"Type":"InternalIP","IP":"172.31.78.99"}],"#;
    let part =
        r#""IPv6AllocCIDR":{"IP":"fd64::c8:0","Mask":"//////////////////8AAA=="},"ClusterID":0,"Source":"local"}"#;
    scene.nodes.etcdctl(&["put", NODE, &format!("{record}{part}")])?;

    // As they come.
    let began = Instant::now();
    crowd(&scene, identity)?;
    let rate = f64::from(CROWD) / began.elapsed().as_secs_f64();
    eprintln!("{rate:.0} changes a second");
    (0..2).try_for_each(|node| counts(&scene, node, identity))?;

    // All of them change, and some of their history is lost, while node 2 sleeps.
    scene.nodes.worlds[1].agent.freeze(true)?;
    crowd(&scene, other)?;
    super::etcd::compact(&scene.nodes)?;
    counts(&scene, 0, other)?;
    scene.nodes.worlds[1].agent.freeze(false)?;
    counts(&scene, 1, other)?;

    // And go: the addresses are not the node's last.
    scene.nodes.etcdctl(&["del", "--prefix", "cilium/state/ip/v1/default/fd64::c8:"])?;
    scene.nodes.etcdctl(&["del", NODE])?;
    scene.kernel_knows(1, "fd64::c8:1", false)?;
    eventually(PATIENCE, "the crowd to be gone from node 2", || {
        let left = in_crowd(&scene, 1)?.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })?;
    scene.news_travels(0, 1)?;
    traffic.finish()
}

/// The number of the identity that a container of this name has.
fn identity_of(scene: &Scene, name: &str) -> Result<u64> {
    let list = scene.nodes.worlds[0].agent.cilium_json(&["identity", "list"])?;
    let label = format!("container:id={name}");
    let rows = list.as_array().context("no list")?;
    let row = rows.iter().find(|row| row.to_string().contains(&format!("\"{label}\""))).context(label)?;
    row["id"].as_u64().with_context(|| format!("no number in {row}"))
}

/// Gives every address of the crowd this identity.
fn crowd(scene: &Scene, identity: u64) -> Result<()> {
    let puts: Vec<String> = (1..=CROWD)
        .map(|n| {
            let ip = format!("fd64::c8:{n:x}");
            let value =
                format!(r#"{{"IP":"{ip}","Mask":null,"HostIP":"172.31.78.99","ID":{identity},"Key":0,"Metadata":""}}"#);
            format!("put cilium/state/ip/v1/default/{ip} {value:?}")
        })
        .collect();
    let machine = scene.nodes.etcd.machine(0);
    for step in puts.chunks(STEP) {
        let mut command = machine.command("env");
        command.args(["ETCDCTL_API=3", "etcdctl", "--endpoints", lab::ENDPOINTS, "txn"]).stdin(Stdio::piped());
        let mut etcdctl = command.stdout(Stdio::null()).spawn()?;
        // Without conditions; what to do; nothing else otherwise.
        let text = format!("\n{}\n\n\n", step.join("\n"));
        etcdctl.stdin.take().context("no standard input")?.write_all(text.as_bytes())?;
        let status = etcdctl.wait()?;
        ensure!(status.success(), "etcdctl txn: {status}");
    }
    Ok(())
}

/// Waits until a node's kernel has the whole crowd with this identity.
fn counts(scene: &Scene, node: usize, identity: u64) -> Result<()> {
    eventually(PATIENCE, "the whole crowd to be in the kernel", || {
        let crowd = in_crowd(scene, node)?;
        let right = crowd.iter().filter(|of| **of == Some(identity)).count();
        ensure!(right == CROWD as usize, "{right} of {} on node {}", crowd.len(), node + 1);
        Ok(())
    })
}

/// Identities of the crowd's addresses in a node's kernel.
fn in_crowd(scene: &Scene, node: usize) -> Result<Vec<Option<u64>>> {
    let rows = scene.nodes.worlds[node].agent.cilium_json(&["bpf", "ipcache", "list"])?;
    let rows = rows.as_array().context("no list")?.iter();
    let ours =
        rows.filter(|row| row["prefix"].as_str().is_some_and(|p| p.starts_with("fd64::c8:") && p.ends_with("/128")));
    Ok(ours.map(|row| row["identity"].as_u64()).collect())
}

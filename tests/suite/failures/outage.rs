//! etcd is away, for longer than every lease, time-out and grace.

use super::{LEASE, PATIENCE, Scene, goes_on, in_kernel};
use anyhow::{Context, Result, ensure};
use lab::{World, eventually};
use std::time::{Duration, Instant};

/// How long departed nodes are believed in: more than both nodes take to be back in touch.
const GRACE: u64 = 20;

#[test]
#[ignore = "needs root: make test"]
fn without_etcd_everything_goes_on_and_it_heals_by_itself() -> Result<()> {
    let grace = GRACE.to_string();
    let options = [&LEASE[..], &["--node-grace", &grace]].concat();
    let mut scene = Scene::start(&[&options, &options])?;
    let traffic = scene.traffic()?;
    let began = Instant::now();
    (0..2).try_for_each(|node| scene.nodes.part_from_etcd(node, true))?;
    for world in &scene.nodes.worlds {
        eventually(PATIENCE, "the status to say that etcd is away", || {
            let status = world.agent.cilium(&["status"]).err().context("all is well")?.to_string();
            ensure!(status.contains("has-quorum=false"), "{status}");
            Ok(())
        })?;
    }
    // A container whose identity is known starts, has it, and may what others of its kind may: its packets say who it is.
    let twin = scene.nodes.worlds[1].docker.sleeper("twin", "net", "client")?;
    scene.nodes.worlds[1].endpoints_ready(3)?;
    eventually(PATIENCE, "the client's twin to reach the server", || {
        scene.nodes.worlds[1].expect(&twin, &scene.server, "tcp", 80, true)
    })?;
    // One with labels that nobody has seen starts too, waits for its identity, and may nothing until then.
    let novel = scene.nodes.worlds[1].container("novel")?;
    waits_for_its_identity(&scene.nodes.worlds[1], "novel")?;
    scene.nodes.worlds[1].expect(&novel, &scene.server, "tcp", 80, false)?;

    // The leases run out, and etcd forgets both nodes.
    let forgotten = ["get", "--prefix", "--keys-only", "cilium/state/nodes/"];
    eventually(PATIENCE, "the leases to run out", || {
        let keys = scene.nodes.etcdctl(&forgotten)?;
        ensure!(keys.trim().is_empty(), "{keys}");
        Ok(())
    })?;
    scene.nodes.etcd.kill_all()?;
    // What is looked for here is a length of time: beyond the lease (seen above) and the grace.
    eventually(PATIENCE, "the outage to be longer than the grace", || {
        ensure!(began.elapsed() > Duration::from_secs(GRACE + 5));
        Ok(())
    })?;
    nothing_went(&scene)?;
    // Agents that are killed and start now know as much.
    for world in &mut scene.nodes.worlds {
        world.agent.kill()?;
        world.agent.relaunch()?;
        goes_on(world)?;
    }
    nothing_went(&scene)?;

    (0..2).try_for_each(|node| scene.nodes.part_from_etcd(node, false))?;
    scene.nodes.etcd.start_all()?;
    scene.news_travels(0, 1)?;
    scene.news_travels(1, 0)?;
    scene.nodes.know_each_other()?;
    scene.nodes.worlds[1].endpoints_ready(4)?;
    for ip in [&twin.ipv4, &twin.ipv6, &novel.ipv4, &novel.ipv6] {
        scene.kernel_knows(0, ip, true)?;
    }
    scene.nodes.worlds[1].expect(&twin, &scene.server, "tcp", 80, true)?;
    scene.nodes.worlds[1].expect(&novel, &scene.server, "tcp", 80, false)?;
    nothing_went(&scene)?;
    traffic.finish()
}

fn nothing_went(scene: &Scene) -> Result<()> {
    for (node, container) in [(0, &scene.client), (0, &scene.stranger), (1, &scene.server)] {
        for ip in [&container.ipv4, &container.ipv6] {
            ensure!(in_kernel(&scene.nodes.worlds[node], ip)?, "{ip} went on node {}", node + 1);
        }
    }
    Ok(())
}

/// Waits until the endpoint is listed as one that has no identity of its own yet.
fn waits_for_its_identity(world: &World, name: &str) -> Result<()> {
    eventually(PATIENCE, "the endpoint to wait for its identity", || {
        let list = world.agent.cilium_json(&["endpoint", "list"])?;
        let label = format!("container:id={name}");
        let rows = list.as_array().context("no list")?;
        let row = rows.iter().find(|row| row.to_string().contains(&label)).with_context(|| list.to_string())?;
        ensure!(row["state"] == "waiting-for-identity", "{row}");
        Ok(())
    })
}

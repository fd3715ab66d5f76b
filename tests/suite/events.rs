//! What one sees: monitor, tables, JSON.

use anyhow::{Context, Result, ensure};
use lab::{Engine, World, eventually};
use serde_json::json;
use std::time::Duration;

#[test]
#[ignore = "needs root: make test"]
fn the_monitor_names_both_sides_of_each_drop() -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let (a, b) = (world.container("aa")?, world.container("bb")?);
    world.agent.import(&json!([{"endpointSelector": {"matchLabels": {"id": "bb"}}, "ingress": [{}]}]))?;
    let mut command = world.machine.command(lab::binary("cilium")?.to_str().context("path")?);
    command.args(["monitor", "--type", "drop"]);
    let _monitor = world.machine.spawn("monitor.log", command)?;
    eventually(Duration::from_secs(30), "the monitor", || {
        ensure!(!world.machine.log("monitor.log").is_empty());
        Ok(())
    })?;
    for host in b.hosts() {
        world.reaches(&a.enter(), "tcp", &host, 80)?;
        eventually(Duration::from_secs(30), "the drop", || {
            let log = world.machine.log("monitor.log");
            let seen = log.lines().any(|line| {
                ["Policy denied", "container:id=aa", "container:id=bb", "tcp SYN", &format!("{host}:80")]
                    .iter()
                    .all(|part| line.contains(part))
            });
            ensure!(seen, "{log}");
            Ok(())
        })?;
    }
    let metrics = world.agent.cilium(&["bpf", "metrics", "list"])?;
    ensure!(metrics.contains("Policy denied"), "{metrics}");
    let prometheus = world.agent.cilium(&["metrics", "list"]).or_else(|_| {
        world.machine.run(&["curl", "-s", "--unix-socket", "/run/cilium/cilium.sock", "http://localhost/v1/metrics"])
    })?;
    ensure!(prometheus.contains("drop"), "{prometheus}");
    Ok(())
}

#[test]
#[ignore = "needs root: make test"]
fn every_list_reads_as_a_table_and_as_json() -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let (a, b) = (world.container("aa")?, world.container("bb")?);
    let _server = world.serve(&b, &["tcp:80"])?;
    world.endpoints_ready(2)?;
    world.expect(&a, &b, "tcp", 80, true)?;
    for args in [
        &["status"][..],
        &["status", "--verbose"],
        &["endpoint", "list"],
        &["identity", "list"],
        &["policy", "get"],
        &["bpf", "endpoint", "list"],
        &["bpf", "policy", "list"],
        &["bpf", "ct", "list"],
        &["bpf", "ipcache", "list"],
        &["bpf", "metrics", "list"],
        &["map", "list"],
        &["node", "list"],
        &["ip", "list"],
        &["config"],
        &["version"],
        &["kvstore", "get", "--recursive", "cilium/"],
    ] {
        ensure!(!world.agent.cilium(args)?.trim().is_empty(), "{args:?} printed nothing");
        world.agent.cilium_json(args)?;
    }
    let flows = world.agent.cilium(&["bpf", "ct", "list"])?;
    ensure!(flows.contains(&a.ipv4) && flows.contains(&format!("{}:80", b.ipv4)), "{flows}");
    let id = world.agent.cilium_json(&["endpoint", "list"])?[0]["id"].to_string();
    for command in ["get", "labels", "health", "log"] {
        world.agent.cilium(&["endpoint", command, &id])?;
        world.agent.cilium_json(&["endpoint", command, &id])?;
    }
    world.agent.cilium(&["endpoint", "get", "container-name:aa"])?;
    world.agent.cilium(&["endpoint", "get", &format!("ipv4:{}", a.ipv4)])?;
    let keys = world.agent.cilium(&["kvstore", "get", "--recursive", "cilium/state/identities/v1/"])?;
    ensure!(keys.contains("container:id=aa=;") || keys.contains("container:id=aa;"), "{keys}");
    world.agent.cilium(&["debuginfo"])?;
    Ok(())
}

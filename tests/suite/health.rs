//! Nodes look after each other: who is reached, who is not, and that it heals.

use anyhow::{Context, Result, ensure};
use lab::{Engine, Nodes, World, eventually};
use serde_json::Value;
use std::time::Duration;

/// The word of one node about another.
fn health_of(world: &World, name: &str) -> Result<Value> {
    let health = world.agent.cilium_json(&["health", "status"])?;
    let node = health["nodes"].as_array().context("no nodes")?.iter().find(|node| node["name"] == name).cloned();
    node.with_context(|| format!("{name} is not in {health}"))
}

/// Every address of a node, with who it is and how its probes went.
fn paths(node: &Value) -> Vec<(&'static str, &Value)> {
    let of = |end: &'static str| {
        let secondary = node[end]["secondary-addresses"].as_array().into_iter().flatten();
        let primary = Some(&node[end]["primary-address"]).filter(|path| !path.is_null());
        primary.into_iter().chain(secondary).map(move |path| (end, path))
    };
    of("host").chain(of("health-endpoint")).collect()
}

fn is_reached(path: &Value) -> bool {
    ["icmp", "http"].iter().all(|kind| path[kind]["status"] == "" && path[kind]["lastProbed"].is_string())
}

/// Whether a node has told of both its ends: it announces its health endpoint a moment after itself.
fn is_whole(node: &Value) -> bool {
    let of = |end: &str| paths(node).iter().filter(|(which, _)| *which == end).count();
    of("health-endpoint") == of("host")
}

/// Waits until the node says that all are reached.
fn all_reached(world: &World, count: usize) -> Result<()> {
    eventually(Duration::from_secs(60), "all nodes to be reached", || {
        let health = world.agent.cilium_json(&["health", "status"])?;
        let nodes = health["nodes"].as_array().context("no nodes")?;
        let all = || nodes.iter().flat_map(paths);
        let whole = nodes.len() == count && nodes.iter().all(is_whole);
        ensure!(whole && all().all(|(_, path)| is_reached(path)), "{health:#}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root: make test"]
fn a_node_that_is_cut_off_is_seen_to_be_and_heals() -> Result<()> {
    let nodes = Nodes::start(&Engine::installed(), 2, &["--tunnel", "vxlan", "--health-interval", "1"])?;
    nodes.know_each_other()?;
    let [one, two] = nodes.worlds.as_slice() else { anyhow::bail!("two nodes are needed") };
    for world in [one, two] {
        all_reached(world, 2)?;
        let status = world.agent.cilium(&["status", "--all-health"])?;
        ensure!(status.contains("2/2 reachable") && status.contains("(localhost)"), "{status}");
    }
    // Both families, of the node and of what stands for its containers.
    let node = health_of(one, "node2")?;
    let ips: Vec<_> = paths(&node).iter().map(|(end, path)| (*end, path["ip"].to_string())).collect();
    for ip in ["\"172.31.78.12\"", "\"fd78::12\""] {
        ensure!(ips.contains(&("host", ip.to_owned())), "{ips:?}");
    }
    for part in ["\"10.64.", "\"fd64::"] {
        ensure!(ips.iter().any(|(end, ip)| *end == "health-endpoint" && ip.starts_with(part)), "{ips:?}");
    }
    // Told at once, not when the next probe is due.
    let probed = one.agent.cilium(&["health", "status", "--probe"])?;
    ensure!(probed.contains("Reachable:    2/2"), "{probed}");

    nodes.hub.run(&["ip", "link", "set", "node2", "down"])?;
    eventually(Duration::from_secs(60), "node 2 to be seen as cut off", || {
        let node = health_of(one, "node2")?;
        ensure!(paths(&node).iter().all(|(_, path)| !is_reached(path)), "{node:#}");
        ensure!(paths(&node).iter().all(|(_, path)| path["icmp"]["lastSuccess"].is_string()), "{node:#}");
        let status = one.agent.cilium(&["status"])?;
        ensure!(status.contains("1/2 reachable"), "{status}");
        Ok(())
    })?;
    let metrics = one.agent.cilium(&["metrics", "list"])?;
    ensure!(metrics.contains("node_connectivity_status"), "{metrics}");
    nodes.hub.run(&["ip", "link", "set", "node2", "up"])?;
    for world in [one, two] {
        all_reached(world, 2)?;
    }
    Ok(())
}

/// What a container reaches of the nodes themselves is decided by policy, in either family: the port that answers to
/// probes, on its own node, on another and in that one's health endpoint, and etcd's.
#[test]
#[ignore = "needs root: make test"]
fn containers_reach_nodes_only_as_policy_says() -> Result<()> {
    let nodes = Nodes::start(&Engine::installed(), 2, &["--tunnel", "vxlan", "--health-interval", "1"])?;
    nodes.know_each_other()?;
    let one = &nodes.worlds[0];
    one.network()?;
    let app = one.container("app1")?;
    one.endpoints_ready(1)?;
    all_reached(one, 2)?;
    let endpoint = paths(&health_of(one, "node2")?).iter().find_map(|(end, path)| {
        let ip = path["ip"].as_str().filter(|ip| *end == "health-endpoint" && ip.contains('.'))?;
        Some(ip.to_owned())
    });
    let endpoint = endpoint.context("node 2 has no health endpoint")?;
    let inside = endpoint.rsplit_once('.').map(|(part, _)| format!("{part}.1")).context("no address")?;
    let urls = |host: &str, port: u16| format!("http://{host}:{port}/");
    let host = [urls("172.31.78.11", 4240), urls("[fd78::11]", 4240)];
    let remote = [urls("172.31.78.12", 4240), urls("[fd78::12]", 4240)];
    let health = [urls(&endpoint, 4240)];
    // An answer with 404 is one: the port was reached.
    let reaches = |url: &String| app.run(&["curl", "-s", "-o", "/dev/null", "--max-time", "3", url]).is_ok();
    let expect = |what: &str, urls: &[String], expected: bool| {
        for url in urls {
            eventually(Duration::from_secs(30), &format!("{what} {url} to be reached: {expected}"), || {
                ensure!(reaches(url) == expected);
                Ok(())
            })?;
        }
        Ok::<(), anyhow::Error>(())
    };
    let etcd = [urls("172.31.78.2", 2379)];
    let all = [&host[..], &remote, &health, &etcd].concat();
    expect("without rules", &all, true)?;
    let rule = |entities: &[&str]| serde_json::json!([{"endpointSelector": {"matchLabels": {"id": "app1"}}, "egress": [{"toEntities": entities}]}]);
    let import = |entities: &[&str]| -> Result<()> {
        one.agent.cilium(&["policy", "delete", "--all"])?;
        one.agent.import(&rule(entities)).map(drop)
    };
    import(&["init"])?;
    expect("with nothing allowed", &all, false)?;
    ensure!(app.run(&["ping", "-c1", "-W1", &inside]).is_err(), "the other node by its address inside the tunnel");
    import(&["remote-node"])?;
    expect("with remote-node allowed", &remote, true)?;
    expect("with remote-node allowed", &[&host[..], &health, &etcd].concat(), false)?;
    import(&["health"])?;
    expect("with health allowed", &health, true)?;
    expect("with health allowed", &[&host[..], &remote].concat(), false)?;
    Ok(())
}

//! What each node knows of the others, and what it finds of them.

use super::{Lab, PATIENCE};
use anyhow::{Context, Result, ensure};
use lab::{Underlay, World, eventually};
use serde_json::Value;

pub(super) fn nodes_tell_each_other(lab: &mut Lab) -> Result<()> {
    let routing = lab.one().agent.cilium_json(&["status"])?["routing"].clone();
    let told = routing["msg"].as_str().with_context(|| routing.to_string())?;
    ensure!(lab.tunnel.is_none_or(|tunnel| told.starts_with(tunnel)), "{routing}");
    let nodes = lab.one().agent.cilium_json(&["node", "list"])?.to_string();
    for ip in lab.underlay_ips("11").iter().chain(&lab.underlay_ips("12")) {
        ensure!(nodes.contains(&format!("\"{ip}\"")), "{ip} is not in {nodes}");
    }
    // Each out of its own part of the cluster's range, which the other reaches by its address.
    let parts = [part(&lab.client.ipv4)?, part(&lab.client.ipv6)?];
    ensure!(part(&lab.server.ipv4)? != parts[0] && part(&lab.server.ipv6)? != parts[1], "one part for both: {parts:?}");
    ensure!(lab.client.ipv4.starts_with("10.64.") && lab.client.ipv6.starts_with("fd64::"), "{parts:?}");
    let tunnels = lab.one().agent.cilium_json(&["bpf", "tunnel", "list"])?;
    let rows = tunnels.as_array().context("no list")?;
    for part in &parts {
        let row = rows.iter().find(|row| row.to_string().contains(&format!("\"{part}\"")));
        let vtep = format!("\"{}\"", lab.vtep(2));
        ensure!(row.is_some_and(|row| row.to_string().contains(&vtep)) == lab.tunnel.is_some(), "{part} in {tunnels}");
    }
    if lab.tunnel.is_none() {
        for ip in lab.ips(&lab.client) {
            let route = lab.one().machine.run(&["ip", "route", "get", ip])?;
            let hop = lab.underlay_ips("12").into_iter().find(|hop| hop.contains(':') == ip.contains(':'));
            ensure!(hop.is_some_and(|hop| route.contains(&format!("via {hop} "))), "{route}");
        }
    }
    for (world, container) in [(lab.one(), &lab.client), (lab.two(), &lab.server)] {
        let list = world.agent.cilium_json(&["ip", "list"])?;
        let rows = list.as_array().context("no list")?;
        for prefix in [format!("{}/32", container.ipv4), format!("{}/128", container.ipv6)] {
            let row = rows.iter().find(|row| row["ip"] == prefix.as_str()).context(prefix.clone())?;
            let label = format!("container:id={}", container.name);
            ensure!(row["source"] == "kvstore" && row["labels"][0] == label.as_str(), "{row}");
        }
    }
    // The host's own packets have a source that the other node knows, whichever devices the host has besides.
    for ip in lab.ips(&lab.client).into_iter().filter(|_| lab.tunnel.is_some()) {
        let route = lab.one().machine.run(&["ip", "route", "get", ip])?;
        let gateways = ["10.64.0.1", "10.64.0.3", "fd64::1", "fd64::3"].map(str::to_owned);
        let mut known = lab.underlay_ips("11").into_iter().chain(gateways);
        ensure!(known.any(|source| route.contains(&format!("src {source} "))), "{route}");
    }
    let overhead = match (lab.tunnel, lab.underlay) {
        (None, _) => 0,
        (Some(_), Underlay::Both) => 50,
        (Some(_), Underlay::Ipv6) => 70,
    };
    let link = lab.client.run(&["ip", "link", "show", "cilium0"])?;
    ensure!(link.contains(&format!("mtu {}", 1500 - overhead)), "{link}");
    let keys = lab.nodes.etcdctl(&["get", "--prefix", "--keys-only", "cilium/state/"])?;
    for key in ["nodes/v1/default/node1", "nodes/v1/default/node2", "blocks/v1/10.64.0.0%2F16/10.64.0.0%2F24"] {
        ensure!(keys.contains(key), "{key} is not in\n{keys}");
    }
    // What goes on one node goes on the other.
    let brief = lab.one().container("brief")?;
    for (world, expected) in [(lab.two(), true), (lab.two(), false)] {
        if !expected {
            lab.one().docker.docker(&["rm", "-f", "brief"])?;
        }
        eventually(PATIENCE, &format!("the other node to list it: {expected}"), || {
            let list = world.agent.cilium_json(&["ip", "list"])?.to_string();
            ensure!(list.contains(&format!("\"{}/32\"", brief.ipv4)) == expected, "{list}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The part of the cluster's range that an address is of.
fn part(ip: &str) -> Result<String> {
    if let Some((part, _)) = ip.rsplit_once('.') {
        return Ok(format!("{part}.0/24"));
    }
    let (part, _) = ip.rsplit_once(':').context("no address")?;
    // fd64::5 is of fd64::/112, fd64::1:5 of fd64::1:0/112.
    Ok(if part.ends_with(':') { format!("{part}/112") } else { format!("{part}:0/112") })
}

pub(super) fn health(lab: &mut Lab) -> Result<()> {
    let whole = lab.families().len() == 2;
    for world in [lab.one(), lab.two()] {
        all_reached(lab, world)?;
        let status = world.agent.cilium(&["status", "--all-health"])?;
        ensure!(status.contains("2/2 reachable") == whole && status.contains("(localhost)"), "{status}");
    }
    // Both families, of the node and of what stands for its containers.
    let node = health_of(lab.one(), "node2")?;
    let ips: Vec<_> = paths(&node).iter().map(|(end, path)| (*end, path["ip"].to_string())).collect();
    for ip in lab.underlay_ips("12") {
        ensure!(ips.contains(&("host", format!("{ip:?}"))), "{ip} in {ips:?}");
    }
    ensure!(ips.iter().any(|(end, ip)| *end == "health-endpoint" && ip.starts_with("\"fd64::")), "{ips:?}");
    // Told at once, not when the next probe is due.
    let probed = lab.one().agent.cilium(&["health", "status", "--probe"])?;
    ensure!(probed.contains("Reachable:    2/2") == whole, "{probed}");

    lab.nodes.hub.run(&["ip", "link", "set", "node2", "down"])?;
    let seen = eventually(PATIENCE, "node 2 to be seen as cut off", || {
        let node = health_of(lab.one(), "node2")?;
        ensure!(paths(&node).iter().all(|(_, path)| !is_reached(path)), "{node:#}");
        let seen = paths(&node).iter().filter(|(_, path)| path["icmp"]["lastSuccess"].is_string()).count();
        ensure!(seen == paths(&node).len() - (2 - lab.families().len()), "{node:#}");
        let status = lab.one().agent.cilium(&["status"])?;
        ensure!(status.contains("1/2 reachable"), "{status}");
        Ok(())
    });
    let metrics = lab.one().agent.cilium(&["metrics", "list"])?;
    lab.nodes.hub.run(&["ip", "link", "set", "node2", "up"])?;
    seen?;
    ensure!(metrics.contains("node_connectivity_status"), "{metrics}");
    [lab.one(), lab.two()].into_iter().try_for_each(|world| all_reached(lab, world))
}

/// The word of one node about another.
pub(super) fn health_of(world: &World, name: &str) -> Result<Value> {
    let health = world.agent.cilium_json(&["health", "status"])?;
    let node = health["nodes"].as_array().context("no nodes")?.iter().find(|node| node["name"] == name).cloned();
    node.with_context(|| format!("{name} is not in {health}"))
}

/// Every address of a node, with who it is and how its probes went.
pub(super) fn paths(node: &Value) -> Vec<(&'static str, &Value)> {
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

/// Waits until the node says that all are reached.
pub(super) fn all_reached(lab: &Lab, world: &World) -> Result<()> {
    eventually(PATIENCE, "all nodes to be reached", || {
        let health = world.agent.cilium_json(&["health", "status"])?;
        let nodes = health["nodes"].as_array().context("no nodes")?;
        ensure!(nodes.len() == 2, "{health:#}");
        for node in nodes {
            let of = |end: &str| paths(node).iter().filter(|(which, _)| *which == end).count();
            // A node announces its health endpoint a moment after itself.
            ensure!(of("host") == lab.underlay_ips("").len() && of("health-endpoint") >= 1, "{health:#}");
            // Without a tunnel an underlay carries its own families alone.
            let carried =
                |path: &Value| path["ip"].as_str().is_some_and(|ip| lab.families().contains(&!ip.contains(':')));
            let all = paths(node);
            ensure!(all.iter().all(|(_, path)| !carried(path) || is_reached(path)), "{health:#}");
        }
        Ok(())
    })
}

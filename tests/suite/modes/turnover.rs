//! Containers and nodes that come and go.

use super::{Lab, PATIENCE, labelled, none_failed, only_the_client};
use anyhow::{Context, Result, ensure};
use lab::eventually;
use serde_json::json;
use std::collections::BTreeSet;

pub(super) fn containers(lab: &mut Lab) -> Result<()> {
    lab.import(&only_the_client())?;
    let traffic = lab.traffic(true)?;
    for round in 0..2 {
        // One of the client's kind is let in as soon as its node is heard of; another of labels that are new is not.
        let twin = lab.two().docker.sleeper("twin", "net", "client")?;
        let novel = lab.two().container(&format!("novel{round}"))?;
        lab.expect(&twin, &lab.server, "tcp", 80, true)?;
        lab.holds(&novel, &lab.server, "tcp", 80, false)?;
        let near = lab.one().docker.sleeper("near", "net", "client")?;
        lab.expect(&near, &lab.server, "tcp", 80, true)?;
        let ip = lab.ips(&twin)[0].to_owned();
        lab.two().docker.docker(&["rm", "-f", "twin", &novel.name])?;
        lab.one().docker.docker(&["rm", "-f", "near"])?;
        eventually(PATIENCE, "the twin to be forgotten", || {
            let list = lab.one().agent.cilium_json(&["bpf", "ipcache", "list"])?.to_string();
            ensure!(!list.contains(&format!("\"{ip}/")), "{list}");
            Ok(())
        })?;
    }
    none_failed(traffic)
}

/// A subnet that both nodes give out of: no address twice, each reached from the other node.
pub(super) fn shared_subnet(lab: &mut Lab) -> Result<()> {
    let outcome = in_shared_subnet(lab);
    for (world, node) in [(lab.one(), "one"), (lab.two(), "two")] {
        let names: Vec<String> = (0..4).map(|number| format!("{node}{number}")).collect();
        let names = names.iter().map(String::as_str).chain(["named", "late"]);
        // Some are not there.
        let _ = world.docker.docker(&["rm", "-f"].into_iter().chain(names).collect::<Vec<_>>());
        let _ = world.docker.docker(&["network", "rm", "shared"]);
    }
    outcome
}

fn create_shared(world: &lab::World) -> Result<()> {
    let create =
        "network create --driver cilium --ipam-driver cilium --subnet 10.9.1.0/27 --ipv6 --subnet fd09::/120 shared";
    world.docker.docker(&create.split(' ').collect::<Vec<_>>()).map(drop)
}

fn in_shared_subnet(lab: &Lab) -> Result<()> {
    let mut containers = Vec::new();
    for (world, node, count) in [(lab.one(), "one", 4), (lab.two(), "two", 1)] {
        create_shared(world)?;
        for number in 0..count {
            containers.push(world.docker.sleeper(&format!("{node}{number}"), "shared", node)?);
        }
    }
    // Blocks have four addresses: the fourth container needed another one.
    let addresses: BTreeSet<&str> = containers.iter().flat_map(|c| [c.ipv4.as_str(), c.ipv6.as_str()]).collect();
    ensure!(addresses.len() == 2 * containers.len(), "{addresses:?}");
    ensure!(addresses.iter().all(|ip| ip.starts_with("10.9.1.") || ip.starts_with("fd09::")), "{addresses:?}");
    let (near, far) = (&containers[3], &containers[4]);
    let _server = lab.one().serve(near, &["tcp:80"])?;
    lab.expect(far, near, "tcp", 80, true)?;
    lab.expect(&lab.client, near, "tcp", 80, true)?;
    lab.expect(far, &lab.server, "tcp", 80, true)?;
    // An address by name is one node's.
    let by_name =
        |name| ["run", "-d", "--name", name, "--net", "shared", "--ip", "10.9.1.30", "lab", "sleep", "1000000"];
    lab.one().docker.docker(&by_name("named"))?;
    let refused = lab.two().docker.refused(&by_name("late"))?;
    ensure!(refused.contains("10.9.1.30/32 is node node1 of default's"), "{refused}");
    Ok(())
}

/// A third node joins under traffic, its containers are reached and judged, and when it dies it is forgotten, and what it
/// had goes back.
pub(super) fn a_node(lab: &mut Lab) -> Result<()> {
    lab.import(&only_the_client())?;
    let traffic = lab.traffic(true)?;
    let (options, engine) = (lab.options.clone(), lab.engine.clone());
    lab.nodes.add(&engine, &[&options])?;
    let outcome = with_third_node(lab);
    let third = lab.nodes.worlds.pop();
    outcome?;
    let mut third = third.context("there is no third node")?;
    third.agent.kill()?;
    drop(third);
    lab.nodes.know_each_other()?;
    eventually(PATIENCE, "the blocks of the dead node to go back", || {
        let blocks = lab.nodes.etcdctl(&["get", "--prefix", "cilium/state/blocks/v1/"])?;
        ensure!(!blocks.contains("\"node3\"") && blocks.contains("\"node1\""), "{blocks}");
        Ok(())
    })?;
    for world in [lab.one(), lab.two()] {
        eventually(PATIENCE, "the dead node to be forgotten", || {
            for table in ["tunnel", "ipcache"] {
                let list = world.agent.cilium_json(&["bpf", table, "list"])?.to_string();
                ensure!(!list.contains("\"10.64.2.") && !list.contains("\"fd64::2:"), "{list}");
            }
            let routes = world.machine.run(&["ip", "route"])? + &world.machine.run(&["ip", "-6", "route"])?;
            ensure!(!routes.contains("10.64.2.0/24") && !routes.contains("fd64::2:0/112"), "{routes}");
            Ok(())
        })?;
    }
    none_failed(traffic)
}

fn with_third_node(lab: &Lab) -> Result<()> {
    lab.nodes.know_each_other()?;
    let third = &lab.nodes.worlds[2];
    third.network()?;
    let ally = third.docker.sleeper("ally", "net", "client")?;
    let other = third.container("other")?;
    lab.expect(&ally, &lab.server, "tcp", 80, true)?;
    lab.expect(&other, &lab.server, "tcp", 80, false)?;
    lab.expect(&lab.client, &ally, "icmp", 0, true)?;
    create_shared(third)?;
    let shared = third.docker.sleeper("shared", "shared", "client")?;
    lab.expect(&shared, &lab.server, "tcp", 80, true)?;
    // Rules that a new node was never told hold there too.
    third.agent.import(&json!([{"endpointSelector": labelled("ally-of-nobody"), "ingress": [{}]}]))?;
    let revision = third.agent.cilium_json(&["policy", "get"])?["revision"].to_string();
    lab.one().agent.cilium(&["policy", "wait", &revision]).map(drop)
}

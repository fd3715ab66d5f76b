//! What nodes agree on through etcd, and what they keep of it without etcd.

use anyhow::{Context, Result, ensure};
use lab::{Engine, Nodes, World, eventually};
use serde_json::json;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn state_of(world: &World, name: &str) -> Result<String> {
    let list = world.agent.cilium_json(&["endpoint", "list"])?;
    let row = list.as_array().context("no list")?.iter().find(|row| row["container-name"] == name);
    Ok(row.with_context(|| format!("{name} is not in {list}"))?["state"].as_str().unwrap_or_default().to_owned())
}

/// An agent that starts while etcd is away knows who is elsewhere, and who may reach whom.
#[test]
#[ignore = "needs root: make test"]
fn an_agent_that_starts_without_etcd_knows_what_was_known() -> Result<()> {
    let mut nodes = Nodes::start(&Engine::installed(), 2, &["--tunnel", "vxlan"])?;
    nodes.know_each_other()?;
    nodes.worlds.iter().try_for_each(World::network)?;
    let server = nodes.worlds[0].container("server")?;
    let client = nodes.worlds[1].container("client")?;
    let _server = nodes.worlds[0].serve(&server, &["tcp:80"])?;
    let app = |id: &str| json!({"matchLabels": {"id": id}});
    nodes.worlds[0]
        .agent
        .import(&json!([{"endpointSelector": app("server"), "ingress": [{"fromEndpoints": [app("client")]}]}]))?;
    eventually(LIMIT, "the client to reach the server", || nodes.worlds[1].expect(&client, &server, "tcp", 80, true))?;
    (0..3).try_for_each(|member| nodes.etcd.freeze(member, true))?;
    for world in &mut nodes.worlds {
        world.agent.stop()?;
        world.agent.relaunch()?;
    }
    // The command ends with code 1, as something is broken.
    let cilium = lab::binary("cilium")?;
    let cilium = cilium.to_str().context("path")?;
    let status = |world: &World| -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&world.machine.output(&[cilium, "status", "-o", "json"])?.stdout)?)
    };
    for world in &nodes.worlds {
        eventually(LIMIT, "the agent to go on without etcd", || {
            let status = status(world)?;
            ensure!(status["datapath"]["state"] == "Ok", "{status}");
            Ok(())
        })?;
    }
    let [one, two] = nodes.worlds.as_slice() else { anyhow::bail!("two nodes are needed") };
    eventually(LIMIT, "the nodes to be remembered", || {
        ensure!(one.agent.cilium_json(&["node", "list"])?.as_array().is_some_and(|list| list.len() == 2));
        Ok(())
    })?;
    eventually(LIMIT, "the client to reach the server", || two.expect(&client, &server, "tcp", 80, true))?;
    // The labels of the other node's container have a number that is remembered here, and count in the policy; those of
    // a stranger have none.
    let twin = one.docker.sleeper("twin", "net", "client")?;
    eventually(LIMIT, "the twin to be ready", || {
        ensure!(state_of(one, "twin")? == "ready");
        Ok(())
    })?;
    one.expect(&twin, &server, "tcp", 80, true)?;
    let stranger = one.docker.sleeper("stranger", "net", "stranger")?;
    eventually(LIMIT, "the stranger to wait", || {
        ensure!(state_of(one, "stranger")? == "waiting-for-identity");
        Ok(())
    })?;
    one.expect(&stranger, &server, "tcp", 80, false)?;
    let kvstore = status(one)?["kvstore"].to_string();
    ensure!(kvstore.contains("waits for an identity"), "{kvstore}");
    (0..3).try_for_each(|member| nodes.etcd.freeze(member, false))?;
    let one = &nodes.worlds[0];
    eventually(LIMIT, "the stranger to get its identity", || {
        ensure!(state_of(one, "stranger")? == "ready");
        Ok(())
    })?;
    nodes.worlds[1].expect(&client, &server, "tcp", 80, true)
}

/// Each node tells how far it is with the policy, and one that is behind is seen on every other.
#[test]
#[ignore = "needs root: make test"]
fn the_state_of_the_policy_on_all_nodes_is_told() -> Result<()> {
    let nodes = Nodes::start(&Engine::installed(), 2, &[])?;
    nodes.know_each_other()?;
    nodes.worlds.iter().try_for_each(World::network)?;
    nodes.worlds[1].container("app")?;
    let rules = json!([{"endpointSelector": {"matchLabels": {"id": "app"}}, "ingress": [{}]}]);
    nodes.worlds[0].agent.import(&rules)?;
    let revision = nodes.worlds[0].agent.cilium_json(&["policy", "get"])?["revision"].clone();
    for world in &nodes.worlds {
        eventually(LIMIT, "both nodes to enforce it", || {
            let status = world.agent.cilium_json(&["policy", "get", "--status"])?;
            let rows = status["nodes"].as_array().context("no nodes")?;
            ensure!(status["revision"] == revision && rows.len() == 2, "{status}");
            ensure!(rows.iter().all(|row| row["enforced"] == revision), "{status}");
            ensure!(rows.iter().any(|row| row["node"] == "node2" && row["endpoints"] == 1), "{status}");
            Ok(())
        })?;
    }
    eventually(LIMIT, "the contact with etcd to be shown", || {
        let page = nodes.worlds[0].agent.cilium(&["status", "--verbose"])?;
        for wanted in ["has-quorum=true", "lease ", "last heartbeat seen", "cilium/state/nodes/v1/: followed"] {
            ensure!(page.contains(wanted), "{wanted:?} is not in\n{page}");
        }
        Ok(())
    })
}

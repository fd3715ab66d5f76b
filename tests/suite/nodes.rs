//! Several nodes as one cluster: what one of them tells, the others know.

use anyhow::{Context, Result, ensure};
use lab::{Engine, Hammer, Nodes, World, eventually};
use serde_json::json;
use std::time::Duration;

crate::on_each_engine!(nodes_tell_each_other_who_has_which_address, one_policy_holds_on_all_nodes);

/// The ways to other nodes, and what agents are told for each: a scene between containers of two nodes plays the same by
/// all of them.
const MODES: [(&str, &[&str]); 3] = [
    ("vxlan", &["--tunnel", "vxlan"]),
    ("geneve", &["--tunnel", "geneve"]),
    ("native", &["--tunnel", "disabled", "--auto-direct-node-routes"]),
];

/// Waits until the node knows the address by this label.
fn knows(world: &World, address: &str, label: &str) -> Result<()> {
    let prefix = format!("{address}/{}", if address.contains(':') { 128 } else { 32 });
    eventually(Duration::from_secs(20), "an address to be known", || {
        let list = world.agent.cilium_json(&["ip", "list"])?;
        let row = list.as_array().context("no list")?.iter().find(|row| row["ip"] == prefix.as_str());
        let row = row.with_context(|| format!("{prefix} is not in {list}"))?;
        ensure!(row["source"] == "kvstore" && row["labels"][0] == label, "{row}");
        Ok(())
    })
}

fn nodes_tell_each_other_who_has_which_address(engine: &Engine) -> Result<()> {
    let nodes = Nodes::start(engine, 2, &["--tunnel", "vxlan"])?;
    nodes.know_each_other()?;
    let [one, two] = nodes.worlds.as_slice() else { anyhow::bail!("two nodes are needed") };
    one.network()?;
    two.network()?;
    let (a, b) = (one.container("aa")?, two.container("bb")?);
    // Each out of its own part of the cluster's range.
    let part = |ip: &str| ip.rsplit_once('.').map(|(part, _)| part.to_owned());
    assert!(a.ipv4.starts_with("10.64.") && b.ipv4.starts_with("10.64."), "{} {}", a.ipv4, b.ipv4);
    assert_ne!(part(&a.ipv4), part(&b.ipv4));
    for ip in [&a.ipv4, &a.ipv6] {
        knows(two, ip, "container:id=aa")?;
    }
    for ip in [&b.ipv4, &b.ipv6] {
        knows(one, ip, "container:id=bb")?;
    }
    // The tunnel takes its bytes.
    assert!(a.run(&["ip", "link", "show", "cilium0"])?.contains("mtu 1450"));
    let keys = nodes.etcdctl(&["get", "--prefix", "--keys-only", "cilium/state/"])?;
    for key in ["nodes/v1/default/node1", "nodes/v1/default/node2", "blocks/v1/10.64.0.0%2F16/10.64.0.0%2F24"] {
        assert!(keys.contains(key), "{key} is not in\n{keys}");
    }
    // What goes on one node goes on the other.
    one.docker.docker(&["rm", "-f", "aa"])?;
    eventually(Duration::from_secs(20), "the address to go", || {
        let list = two.agent.cilium_json(&["ip", "list"])?.to_string();
        ensure!(!list.contains(&format!("\"{}/32\"", a.ipv4)), "{list}");
        Ok(())
    })
}

/// The README's scene with its servers and clients on different nodes: app2 on node 2 reaches app1 on node 1, app3 does
/// not, by both families.
fn one_policy_holds_on_all_nodes(engine: &Engine) -> Result<()> {
    MODES.into_iter().try_for_each(|(mode, options)| one_policy_holds(engine, mode, options).context(mode))
}

fn one_policy_holds(engine: &Engine, mode: &str, options: &[&str]) -> Result<()> {
    let nodes = Nodes::start(engine, 2, options)?;
    nodes.know_each_other()?;
    let routing = nodes.worlds[0].agent.cilium_json(&["status"])?["routing"].clone();
    ensure!(routing["msg"].as_str().is_some_and(|msg| msg.starts_with(mode) || mode == "native"), "{routing}");
    let [one, two] = nodes.worlds.as_slice() else { anyhow::bail!("two nodes are needed") };
    one.network()?;
    two.network()?;
    let app1 = one.container("app1")?;
    let (app2, app3) = (two.container("app2")?, two.container("app3")?);
    let _server = one.serve(&app1, &["tcp:80", "tcp:81"])?;
    for ip in [&app1.ipv4, &app1.ipv6] {
        knows(two, ip, "container:id=app1")?;
    }
    for (client, label) in [(&app2, "container:id=app2"), (&app3, "container:id=app3")] {
        for ip in [&client.ipv4, &client.ipv6] {
            knows(one, ip, label)?;
        }
    }
    one.endpoints_ready(1)?;
    two.endpoints_ready(2)?;
    let expect = |client, port, expected| {
        let what = format!("port {port} to be reached: {expected}");
        eventually(Duration::from_secs(30), &what, || two.expect(client, &app1, "tcp", port, expected))
    };
    expect(&app2, 80, true)?;
    expect(&app3, 80, true)?;
    let app = |id: &str| json!({"matchLabels": {"id": id}});
    let port = json!([{"ports": [{"port": "80", "protocol": "TCP"}]}]);
    let ingress = json!([{"fromEndpoints": [app("app2")], "toPorts": port}]);
    // Imported on one node, in force on all: the rule on egress is about containers of the other node.
    let rules = json!([
        {"endpointSelector": app("app1"), "ingress": ingress},
        {"endpointSelector": app("app2"), "egress": [{"toEndpoints": [app("app1")]}]},
    ]);
    two.agent.import(&rules)?;
    let revision = two.agent.cilium_json(&["policy", "get"])?["revision"].to_string();
    one.agent.cilium(&["policy", "wait", &revision])?;
    // Once in force it does not waver.
    for (client, port, expected) in [(&app2, 80, true), (&app2, 81, false), (&app3, 80, false), (&app3, 81, false)] {
        two.expect(client, &app1, "tcp", port, expected)?;
    }
    // Node 1 judged what node 2 sent, by the identity that came with it.
    let tunnel = one.agent.cilium_json(&["bpf", "tunnel", "list"])?;
    let part = app2.ipv4.rsplit_once('.').map(|(part, _)| format!("{part}.0/24")).context("no address")?;
    ensure!(tunnel.to_string().contains(&part) == (mode != "native"), "{part} in {tunnel}");
    Ok(())
}

/// What the kernel has of other nodes goes on without an agent, and is taken up as it is by the next.
#[test]
#[ignore = "needs root: make test"]
fn killed_agents_interrupt_nothing_between_nodes() -> Result<()> {
    MODES.into_iter().try_for_each(|(mode, options)| killed_agents_interrupt_nothing(options).context(mode))
}

fn killed_agents_interrupt_nothing(options: &[&str]) -> Result<()> {
    let mut nodes = Nodes::start(&Engine::installed(), 2, options)?;
    nodes.know_each_other()?;
    nodes.worlds.iter().try_for_each(World::network)?;
    let (server, client) = (nodes.worlds[0].container("server")?, nodes.worlds[1].container("client")?);
    let _server = nodes.worlds[0].serve(&server, &["tcp:80"])?;
    let rules = json!([{"endpointSelector": {"matchLabels": {"id": "server"}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "client"}}]}]}]);
    nodes.worlds[0].agent.import(&rules)?;
    eventually(Duration::from_secs(20), "the client to reach the server", || {
        nodes.worlds[1].expect(&client, &server, "tcp", 80, true)
    })?;
    let mut traffic = Vec::new();
    for host in server.hosts() {
        for mode in ["keep", "connect"] {
            let target = format!("{host}:80");
            traffic.push(Hammer::start(&nodes.worlds[1].machine, &client.enter(), mode, &target)?);
        }
    }
    for round in 0..6 {
        let world = &mut nodes.worlds[round % 2];
        world.agent.kill()?;
        world.agent.restart()?;
    }
    nodes.know_each_other()?;
    knows(&nodes.worlds[0], &client.ipv4, "container:id=client")?;
    for hammer in traffic {
        let tally = hammer.finish()?;
        ensure!(tally.requests > 0 && tally.failed == 0, "{tally:?}");
    }
    Ok(())
}

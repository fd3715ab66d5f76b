//! Two containers of two nodes, in each way between nodes: through a tunnel, beside a bare VXLAN between the nodes' own
//! namespaces (the limit) and Docker's own network over several hosts; routed, beside the underlay itself.

use crate::Effort;
use crate::table::{Goal, Table, median};
use crate::traffic::{Figures, Pair, rounds, servers};
use anyhow::Result;
use lab::{Engine, Machine, Nodes, World, eventually};
use std::time::Duration;

/// Addresses of the two nodes on the underlay.
const NODES: [&str; 2] = ["172.31.78.11", "172.31.78.12"];
const NODE_V6: &str = "fd78::12";
/// The second end of the bare VXLAN.
const VXLAN: [&str; 2] = ["10.210.0.2", "fd00:d2::2"];
const PATIENCE: Duration = Duration::from_secs(60);

/// A way between nodes.
struct Way {
    title: &'static str,
    options: &'static [&'static str],
    /// What its rows stand beside, in each family.
    beside: [&'static str; 2],
    /// Whether Docker's overlay is measured in the same rounds.
    swarm: bool,
}

const BARE_VXLAN: [&str; 2] = ["vxlan", "vxlan-v6"];

const WAYS: [Way; 3] = [
    Way { title: "VXLAN", options: &["--tunnel", "vxlan"], beside: BARE_VXLAN, swarm: true },
    Way { title: "Geneve", options: &["--tunnel", "geneve"], beside: BARE_VXLAN, swarm: false },
    Way {
        title: "native routing",
        options: &["--tunnel", "disabled", "--auto-direct-node-routes"],
        beside: ["underlay", "underlay-v6"],
        swarm: false,
    },
];

pub fn measure(table: &mut Table, effort: Effort) -> Result<()> {
    WAYS.iter().try_for_each(|way| measure_way(table, way, effort))
}

/// Each way has nodes of its own, and what it stands beside is measured in the same rounds.
fn measure_way(table: &mut Table, way: &Way, effort: Effort) -> Result<()> {
    let nodes = Nodes::start(&Engine::installed(), 2, way.options)?;
    nodes.know_each_other()?;
    let [one, two] = nodes.worlds.as_slice() else { anyhow::bail!("two nodes are needed") };
    bare_vxlan(&one.machine, "1", NODES[1])?;
    bare_vxlan(&two.machine, "2", NODES[0])?;
    let underlay =
        Pair { name: "underlay", client: here(), server: here(), address: NODES[1].into(), _running: vec![] };
    // Whoever answers on the node answers on all of its addresses.
    let same = |name, address: &str| Pair { name, address: address.to_owned(), ..underlay.twin() };
    let on_nodes = [same("underlay-v6", NODE_V6), same("vxlan", VXLAN[0]), same("vxlan-v6", VXLAN[1])];
    let mut pairs = vec![underlay];
    pairs.extend(ours(one, two)?);
    if way.swarm {
        pairs.push(swarm(one, two)?);
    }
    for pair in pairs.iter_mut().filter(|pair| !pair.name.ends_with("-v6")) {
        pair._running = servers(&two.machine, &one.machine, pair)?;
    }
    let wanted = |pair: &Pair| pair.name.starts_with("underlay") || way.beside.contains(&pair.name);
    pairs.extend(on_nodes.into_iter().filter(wanted));
    report(table, way, &rounds(&one.machine, &pairs, effort)?);
    Ok(())
}

/// The machine's own namespace.
fn here() -> Vec<String> {
    vec!["env".to_owned()]
}

/// A device as anybody would make it by hand, with an address of each family.
fn bare_vxlan(machine: &Machine, number: &str, remote: &str) -> Result<()> {
    let script = format!(
        "ip link add vxb type vxlan id 77 remote {remote} dstport 8473 dev eth0
        ip addr add 10.210.0.{number}/24 dev vxb; ip addr add fd00:d2::{number}/64 dev vxb nodad
        ip link set vxb up"
    );
    machine.run(&["sh", "-ec", &script]).map(|_| ())
}

/// A pair with a policy on both sides, and one without what Docker puts into containers (see `traffic`), by both families.
fn ours(one: &World, two: &World) -> Result<Vec<Pair>> {
    one.network()?;
    two.network()?;
    let mut pairs = Vec::new();
    for (name, name6, [a, b]) in [("ours", "ours-v6", ["aa", "bb"]), ("bare", "bare-v6", ["cc", "dd"])] {
        let (client, server) = (one.container(a)?, two.container(b)?);
        if name == "bare" {
            client.run(&["nft", "flush", "ruleset"])?;
            server.run(&["nft", "flush", "ruleset"])?;
        }
        let (client, enter) = (client.enter(), server.enter());
        let pair = Pair { name, client, server: enter, address: server.ipv4.clone(), _running: vec![] };
        pairs.push(Pair { name: name6, address: server.ipv6.clone(), ..pair.twin() });
        pairs.push(pair);
    }
    one.endpoints_ready(2)?;
    two.endpoints_ready(2)?;
    let select =
        |ids: [&str; 2]| serde_json::json!({"matchExpressions": [{"key": "id", "operator": "In", "values": ids}]});
    let rules = serde_json::json!([
        {"endpointSelector": select(["bb", "dd"]), "ingress": [{"fromEndpoints": [select(["aa", "cc"])]}]},
        {"endpointSelector": select(["aa", "cc"]), "egress": [{"toEndpoints": [select(["bb", "dd"])]}]},
    ]);
    one.agent.import(&rules)?;
    let revision = one.agent.cilium_json(&["policy", "get"])?["revision"].to_string();
    two.agent.cilium(&["policy", "wait", &revision])?;
    Ok(pairs)
}

/// Two containers on an attachable overlay network of Docker's.
fn swarm(one: &World, two: &World) -> Result<Pair> {
    one.docker.docker(&["swarm", "init", "--advertise-addr", NODES[0]])?;
    let token = one.docker.docker(&["swarm", "join-token", "-q", "worker"])?;
    let manager = format!("{}:2377", NODES[0]);
    eventually(PATIENCE, "the second engine to join", || {
        two.docker.docker(&["swarm", "join", "--token", &token, "--advertise-addr", NODES[1], &manager])
    })?;
    one.docker.docker(&["network", "create", "-d", "overlay", "--attachable", "ov"])?;
    let start = |world: &World, name: &str| {
        eventually(PATIENCE, "the network to be there", || {
            let _ = world.docker.docker(&["rm", "-f", name]);
            world.docker.run(name, &["--net", "ov"], &["sleep", "1000000"])
        })
    };
    let (client, server) = (start(one, "ov-a")?, start(two, "ov-b")?);
    let address = server.ipv4.clone();
    Ok(Pair { name: "swarm", client: client.enter(), server: server.enter(), address, _running: vec![] })
}

fn report(table: &mut Table, way: &Way, figures: &Figures) {
    let of = |pair, mode| figures.get(&(pair, mode)).map(|values| median(values)).unwrap_or(0.0);
    let [v4, v6] = way.beside;
    let rows = [
        ("ours", "containers of two nodes", v4, true),
        ("ours-v6", "containers of two nodes, IPv6", v6, true),
        ("bare", "the datapath alone", v4, true),
        ("bare-v6", "the datapath alone, IPv6", v6, true),
        ("swarm", "containers on Docker's overlay", v4, false),
        ("underlay", "the underlay itself", v4, false),
    ];
    let limit = if v4 == "underlay" { "the underlay" } else { "bare VXLAN" };
    for (mode, title, unit, goal) in [
        ("rr", "request/response", "us", Goal::AtMost(1.10)),
        ("crr", "connect/request/response", "us", Goal::AtMost(1.10)),
        ("stream", "stream, one core", "Gbit/s", Goal::AtLeast(0.97)),
    ] {
        for (pair, what, beside, counts) in rows {
            if pair == beside || (pair == "swarm" && !way.swarm) {
                continue;
            }
            let goal = if counts { goal } else { Goal::None };
            let what = format!("{}, {title}: {what}", way.title);
            table.ratio(&what, unit, of(pair, mode), (limit, of(beside, mode)), goal);
        }
    }
}

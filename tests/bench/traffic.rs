//! Two containers of one node, end to end, beside a bare veth pair (the limit), a bare `redirect_peer` (the floor of a BPF
//! path) and Docker's own bridge.

use crate::Effort;
use crate::table::{Goal, Table, median};
use anyhow::{Context, Result};
use lab::{Engine, Machine, Process, World, eventually};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// A pair of places: arguments that enter the client's and the server's namespace, and the server's address.
pub(super) struct Pair {
    pub(super) name: &'static str,
    pub(super) client: Vec<String>,
    pub(super) server: Vec<String>,
    pub(super) address: String,
    pub(super) _running: Vec<Process>,
}

impl Pair {
    /// The same places; whoever runs in them is the first one's.
    pub(super) fn twin(&self) -> Pair {
        let (client, server) = (self.client.clone(), self.server.clone());
        Pair { name: self.name, client, server, address: self.address.clone(), _running: vec![] }
    }
}

pub fn measure(table: &mut Table, effort: Effort) -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let machine = world.machine.clone();
    let mut pairs = vec![wire(&machine)?];
    pairs.push(Pair { name: "wire-v6", address: "fd00:c8::2".into(), ..pairs[0].twin() });
    pairs.push(redirect_peer(&machine)?);
    pairs.extend(ours(&world)?);
    pairs.push(containers("bridge", &world, "bridge")?);
    world.docker.docker(&["network", "create", "own"])?;
    pairs.push(containers("own-bridge", &world, "own")?);
    for pair in &mut pairs {
        if !pair.name.ends_with("-v6") {
            pair._running = servers(&machine, &machine, pair)?;
        }
    }
    let figures = rounds(&machine, &pairs, effort)?;
    report(table, &figures);
    Ok(())
}

pub(super) type Figures = BTreeMap<(&'static str, &'static str), Vec<f64>>;

/// Every pair in each round, from its client in this machine, so that what disturbs one disturbs all of them.
pub(super) fn rounds(machine: &Machine, pairs: &[Pair], effort: Effort) -> Result<Figures> {
    let mut figures = Figures::new();
    for _ in 0..effort.rounds {
        for pair in pairs {
            for mode in ["rr", "crr"] {
                let answer = probe(machine, pair, mode, effort.seconds)?;
                figures.entry((pair.name, mode)).or_default().push(answer["p50_us"].as_f64().context("p50_us")?);
            }
            figures.entry((pair.name, "stream")).or_default().push(stream(machine, pair, effort.seconds)?);
        }
    }
    Ok(figures)
}

fn report(table: &mut Table, figures: &Figures) {
    let of = |pair, mode| figures.get(&(pair, mode)).map(|values| median(values)).unwrap_or(0.0);
    for (mode, title, goal) in [("rr", "request/response", 1.10), ("crr", "connect/request/response", 1.15)] {
        for (pair, what, wire, goal) in [
            ("bare", "the datapath alone", "wire", Goal::AtMost(goal)),
            ("bare-v6", "the datapath alone, IPv6", "wire-v6", Goal::AtMost(goal)),
            ("ours", "two containers", "wire", Goal::AtMost(goal)),
            ("ours-v6", "two containers, IPv6", "wire-v6", Goal::AtMost(goal)),
            ("peer", "bare redirect_peer", "wire", Goal::None),
            ("own-bridge", "two containers on a bridge network of Docker's", "wire", Goal::None),
            ("bridge", "two containers on docker0", "wire", Goal::None),
        ] {
            table.ratio(&format!("{title}: {what}"), "us", of(pair, mode), ("bare veth pair", of(wire, mode)), goal);
        }
    }
    for (pair, what, goal) in [
        ("bare", "the datapath alone", Goal::AtLeast(0.97)),
        ("bare-v6", "the datapath alone, IPv6", Goal::AtLeast(0.97)),
        ("ours", "two containers", Goal::AtLeast(0.97)),
        ("ours-v6", "two containers, IPv6", Goal::AtLeast(0.97)),
        ("own-bridge", "two containers on a bridge network of Docker's", Goal::None),
        ("bridge", "two containers on docker0", Goal::None),
        ("wire", "bare veth pair", Goal::None),
    ] {
        let title = format!("stream, one core: {what}");
        table.ratio(&title, "Gbit/s", of(pair, "stream"), ("bare redirect_peer", of("peer", "stream")), goal);
    }
}

/// Two containers with a policy on both sides; and two more without what Docker puts into every container on a network
/// that is not docker0: address translation for its name server, with the kernel's connection tracking behind it.
fn ours(world: &World) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for (name, name6, [a, b]) in [("ours", "ours-v6", ["aa", "bb"]), ("bare", "bare-v6", ["cc", "dd"])] {
        let (client, server) = (world.container(a)?, world.container(b)?);
        if name == "bare" {
            client.run(&["nft", "flush", "ruleset"])?;
            server.run(&["nft", "flush", "ruleset"])?;
        }
        let (client, enter) = (client.enter(), server.enter());
        let address = server.ipv4.clone();
        let pair = Pair { name, client, server: enter, address, _running: vec![] };
        pairs.push(Pair { name: name6, address: server.ipv6.clone(), ..pair.twin() });
        pairs.push(pair);
    }
    world.endpoints_ready(4)?;
    let select =
        |ids: [&str; 2]| serde_json::json!({"matchExpressions": [{"key": "id", "operator": "In", "values": ids}]});
    world.agent.import(&serde_json::json!([
        {"endpointSelector": select(["bb", "dd"]), "ingress": [{"fromEndpoints": [select(["aa", "cc"])]}]},
        {"endpointSelector": select(["aa", "cc"]), "egress": [{"toEndpoints": [select(["bb", "dd"])]}]},
    ]))?;
    Ok(pairs)
}

fn containers(name: &'static str, world: &World, network: &str) -> Result<Pair> {
    let start = |end| world.docker.run(&format!("{name}-{end}"), &["--net", network], &["sleep", "1000000"]);
    let (client, server) = (start("a")?, start("b")?);
    let address = server.ipv4.clone();
    Ok(Pair { name, client: client.enter(), server: server.enter(), address, _running: vec![] })
}

pub(super) fn netns(name: &str) -> Vec<String> {
    vec!["nsenter".into(), format!("--net=/run/netns/{name}")]
}

pub(super) fn wire(machine: &Machine) -> Result<Pair> {
    machine.run(&[
        "sh",
        "-ec",
        "ip netns add wa; ip netns add wb
        ip link add eth0 netns wa type veth peer name eth0 netns wb
        for n in a b; do ip -n w$n link set lo up; ip -n w$n link set eth0 up; done
        ip -n wa addr add 10.200.0.1/24 dev eth0; ip -n wb addr add 10.200.0.2/24 dev eth0
        ip -n wa addr add fd00:c8::1/64 dev eth0 nodad; ip -n wb addr add fd00:c8::2/64 dev eth0 nodad",
    ])?;
    Ok(Pair { name: "wire", client: netns("wa"), server: netns("wb"), address: "10.200.0.2".into(), _running: vec![] })
}

fn redirect_peer(machine: &Machine) -> Result<Pair> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/peer.bpf.c");
    let script = format!(
        "clang=$(ls /usr/bin/clang-[0-9]* | grep -E 'clang-[0-9]+$' | sort -V | tail -n 1)
        for n in a b; do ip netns add p$n; ip link add h$n type veth peer name eth0 netns p$n
          ip link set h$n up; ip -n p$n link set lo up; ip -n p$n link set eth0 up; done
        ip -n pa addr add 10.201.0.1/24 dev eth0; ip -n pb addr add 10.201.0.2/24 dev eth0
        mac() {{ ip -n $1 -j link show eth0 | jq -r '.[0].address'; }}
        ip -n pa neigh add 10.201.0.2 lladdr $(mac pb) dev eth0; ip -n pb neigh add 10.201.0.1 lladdr $(mac pa) dev eth0
        for n in a b; do o=$([ $n = a ] && echo b || echo a)
          $clang -O2 -g -target bpf -I/usr/include/$(uname -m)-linux-gnu -DTARGET=$(cat /sys/class/net/h$o/ifindex) -c {source} -o peer-$n.o
          tc qdisc add dev h$n clsact; tc filter add dev h$n ingress bpf da obj peer-$n.o sec tc
        done"
    );
    machine.run(&["sh", "-ec", &script])?;
    Ok(Pair { name: "peer", client: netns("pa"), server: netns("pb"), address: "10.201.0.2".into(), _running: vec![] })
}

const PIN: [&str; 3] = ["taskset", "-c", "1"];

/// Starts what answers in the one machine, and waits until it does to the other.
pub(super) fn servers(machine: &Machine, client: &Machine, pair: &Pair) -> Result<Vec<Process>> {
    let mut echo = machine.command("env");
    echo.args(&pair.server).args(PIN).arg(lab::binary("lab-probe")?).args(["serve", "tcp:7001"]);
    let mut iperf = machine.command("env");
    iperf.args(&pair.server).args(PIN).args(["iperf3", "-s", "-p", "7002"]);
    let running = vec![machine.spawn("bench-echo.log", echo)?, machine.spawn("bench-iperf.log", iperf)?];
    eventually(Duration::from_secs(30), "the servers to answer", || {
        probe(client, pair, "rr", 0.01)?;
        stream(client, pair, 0.1)
    })?;
    Ok(running)
}

fn target(pair: &Pair, port: u16) -> String {
    if pair.address.contains(':') { format!("[{}]:{port}", pair.address) } else { format!("{}:{port}", pair.address) }
}

fn run(machine: &Machine, pair: &Pair, argv: &[&str]) -> Result<String> {
    let client: Vec<&str> = pair.client.iter().map(String::as_str).collect();
    machine.run(&[&client[..], &PIN, argv].concat())
}

pub(super) fn probe(machine: &Machine, pair: &Pair, mode: &str, seconds: f64) -> Result<Value> {
    let binary = lab::binary("lab-probe")?;
    let binary = binary.to_str().context("path")?;
    let text = run(machine, pair, &[binary, "measure", mode, &target(pair, 7001), &seconds.to_string()])?;
    Ok(serde_json::from_str(&text)?)
}

/// Gbit/s of one TCP stream.
fn stream(machine: &Machine, pair: &Pair, seconds: f64) -> Result<f64> {
    let seconds = seconds.ceil().to_string();
    let text = run(machine, pair, &["iperf3", "-c", &pair.address, "-p", "7002", "-t", &seconds, "-J"])?;
    let answer: Value = serde_json::from_str(&text)?;
    Ok(answer["end"]["sum_received"]["bits_per_second"].as_f64().context("bits_per_second")? / 1e9)
}

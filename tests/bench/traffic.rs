//! Two containers of one node, end to end, beside a bare veth pair (the limit), a bare `redirect_peer` (the floor of a BPF
//! path) and Docker's own bridge.

use crate::Effort;
use crate::table::{Goal, Table, median};
use anyhow::{Context, Result};
use lab::{Engine, Machine, Process, World, eventually};
use serde_json::Value;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// A pair of places: arguments that enter the client's and the server's namespace, and the server's address.
struct Pair {
    name: &'static str,
    client: Vec<String>,
    server: Vec<String>,
    address: String,
    _running: Vec<Process>,
}

pub fn measure(table: &mut Table, effort: Effort) -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let (a, b) = (world.container("aa")?, world.container("bb")?);
    world.endpoints_ready(2)?;
    // A policy on both sides, so that both are enforced.
    world.agent.import(&serde_json::json!([
        {"endpointSelector": {"matchLabels": {"id": "bb"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "aa"}}]}]},
        {"endpointSelector": {"matchLabels": {"id": "aa"}}, "egress": [{"toEndpoints": [{"matchLabels": {"id": "bb"}}]}]},
    ]))?;
    let machine = world.machine.clone();
    let bridge_a = world.docker.run("bridge-a", &[], &["sleep", "1000000"])?;
    let bridge_b = world.docker.run("bridge-b", &[], &["sleep", "1000000"])?;
    let mut pairs = vec![
        wire(&machine)?,
        redirect_peer(&machine)?,
        Pair { name: "ours", client: a.enter(), server: b.enter(), address: b.ipv4.clone(), _running: vec![] },
        Pair { name: "ours-v6", client: a.enter(), server: b.enter(), address: b.ipv6.clone(), _running: vec![] },
        Pair {
            name: "bridge",
            client: bridge_a.enter(),
            server: bridge_b.enter(),
            address: bridge_b.ipv4.clone(),
            _running: vec![],
        },
    ];
    for pair in &mut pairs {
        if pair.name != "ours-v6" {
            pair._running = servers(&machine, pair)?;
        }
    }
    let mut figures: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for _ in 0..effort.rounds {
        for pair in &pairs {
            for mode in ["rr", "crr"] {
                let answer = probe(&machine, pair, mode, effort.seconds)?;
                figures.entry((pair.name, mode)).or_default().push(answer["p50_us"].as_f64().context("p50_us")?);
            }
            figures.entry((pair.name, "stream")).or_default().push(stream(&machine, pair, effort.seconds)?);
        }
    }
    let of = |pair, mode| figures.get(&(pair, mode)).map(|values| median(values)).unwrap_or(0.0);
    for (mode, title, goal) in [("rr", "request/response", 1.10), ("crr", "connect/request/response", 1.15)] {
        table.ratio(
            &format!("{title}, median"),
            "us",
            of("ours", mode),
            ("bare veth pair", of("wire", mode)),
            Goal::AtMost(goal),
        );
        table.ratio(
            &format!("{title}, median, IPv6"),
            "us",
            of("ours-v6", mode),
            ("bare veth pair", of("wire", mode)),
            Goal::AtMost(goal),
        );
        table.ratio(
            &format!("{title}: bare redirect_peer"),
            "us",
            of("peer", mode),
            ("bare veth pair", of("wire", mode)),
            Goal::None,
        );
        table.ratio(
            &format!("{title}: Docker bridge"),
            "us",
            of("bridge", mode),
            ("bare veth pair", of("wire", mode)),
            Goal::None,
        );
    }
    table.ratio(
        "stream, one core",
        "Gbit/s",
        of("ours", "stream"),
        ("bare redirect_peer", of("peer", "stream")),
        Goal::AtLeast(0.97),
    );
    table.ratio(
        "stream, one core, IPv6",
        "Gbit/s",
        of("ours-v6", "stream"),
        ("bare redirect_peer", of("peer", "stream")),
        Goal::AtLeast(0.97),
    );
    table.ratio(
        "stream: Docker bridge",
        "Gbit/s",
        of("bridge", "stream"),
        ("bare redirect_peer", of("peer", "stream")),
        Goal::None,
    );
    table.ratio(
        "stream: bare veth pair",
        "Gbit/s",
        of("wire", "stream"),
        ("bare redirect_peer", of("peer", "stream")),
        Goal::None,
    );
    Ok(())
}

fn netns(name: &str) -> Vec<String> {
    vec!["nsenter".into(), format!("--net=/run/netns/{name}")]
}

fn wire(machine: &Machine) -> Result<Pair> {
    machine.run(&[
        "sh",
        "-ec",
        "ip netns add wa; ip netns add wb
        ip link add eth0 netns wa type veth peer name eth0 netns wb
        for n in a b; do ip -n w$n link set lo up; ip -n w$n link set eth0 up; done
        ip -n wa addr add 10.200.0.1/24 dev eth0; ip -n wb addr add 10.200.0.2/24 dev eth0",
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

fn servers(machine: &Rc<Machine>, pair: &Pair) -> Result<Vec<Process>> {
    let mut echo = machine.command("env");
    echo.args(&pair.server).args(PIN).arg(lab::binary("lab-probe")?).args(["serve", "tcp:7001"]);
    let mut iperf = machine.command("env");
    iperf.args(&pair.server).args(PIN).args(["iperf3", "-s", "-p", "7002"]);
    let running = vec![machine.spawn("bench-echo.log", echo)?, machine.spawn("bench-iperf.log", iperf)?];
    eventually(Duration::from_secs(10), "the servers to answer", || {
        probe(machine, pair, "rr", 0.01)?;
        stream(machine, pair, 0.1)
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

fn probe(machine: &Machine, pair: &Pair, mode: &str, seconds: f64) -> Result<Value> {
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

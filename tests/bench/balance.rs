//! What it costs to ask for a service instead of its backend, among few services and among very many: at sockets, and
//! packet by packet; and what rules of iptables cost as kube-proxy writes them.

use crate::Effort;
use crate::table::{Goal, Table, median};
use crate::traffic::{Pair, probe, wire};
use anyhow::{Context, Result, ensure};
use lab::{Engine, Machine, Process, World, eventually};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

const FEW: usize = 10;
/// With `--quick`, and without.
const MANY: [usize; 2] = [10_000, 100_000];
/// One file of services has so many at most.
const FILE: usize = 10_000;
/// As many as kube-proxy's rules are measured with; at the last one of them, which is the worst.
const RULES: [usize; 3] = [10, 1000, 10_000];
const PORT: u16 = 7001;
const PATIENCE: Duration = Duration::from_secs(600);

pub fn measure(table: &mut Table, effort: Effort) -> Result<()> {
    let many = MANY[usize::from(effort.rounds > 3)];
    served(table, effort, "at sockets", &[], many)?;
    served(table, effort, "packet by packet", &["--bpf-lb-sock=false"], many)?;
    rules(table, effort)
}

/// Two containers; the second one is the backend of all services.
fn served(table: &mut Table, effort: Effort, title: &str, options: &[&str], many: usize) -> Result<()> {
    let world = World::with_options(&Engine::installed(), options)?;
    world.network()?;
    let (client, server) = (world.container("aa")?, world.container("bb")?);
    // See `traffic`: what Docker puts into containers.
    client.run(&["nft", "flush", "ruleset"])?;
    server.run(&["nft", "flush", "ruleset"])?;
    let (client, enter) = (client.enter(), server.enter());
    let direct = Pair { name: "direct", client, server: enter, address: server.ipv4.clone(), _running: vec![] };
    let _server = serve(&world.machine, &direct)?;
    let vip = Pair { name: "vip", address: address(0), ..direct.twin() };
    // As soon as there is a service a program looks at what comes in by the host's own devices.
    let mine = Pair {
        name: "host",
        client: vec!["nsenter".into(), "--net=/run/netns/world".into()],
        server: vec!["env".into()],
        address: lab::MACHINE4.into(),
        _running: vec![],
    };
    let _host = serve(&world.machine, &mine)?;
    let before = rounds(&world.machine, &[&mine], effort)?;
    let mut there = 0;
    for count in [FEW, many] {
        while there < count {
            let next = count.min(there + FILE);
            import(&world, there..next, &server.ipv4)?;
            there = next;
        }
        in_kernel(&world, count)?;
        let figures = rounds(&world.machine, &[&direct, &vip, &mine], effort)?;
        for (mode, what) in [("crr", "connect/request/response"), ("rr", "request/response")] {
            let of = |pair| figures[&(pair, mode)];
            let what = format!("services {title}, {count} of them: {what}");
            table.ratio(&what, "us", of("vip"), ("the backend itself", of("direct")), Goal::AtMost(1.10));
            let what = format!("the host's own traffic, services {title}, {count} of them: {mode}");
            table.ratio(&what, "us", of("host"), ("no services", before[&("host", mode)]), Goal::None);
        }
    }
    Ok(())
}

/// The address of a service, as a number of its own.
fn address(n: usize) -> String {
    format!("10.{}.{}.{}", 96 + n / 65_536, n / 256 % 256, n % 256)
}

fn import(world: &World, which: std::ops::Range<usize>, backend: &str) -> Result<()> {
    let service = |n: usize| {
        json!({
            "kind": "Service", "metadata": {"name": format!("s{n}"), "namespace": "bench"},
            "spec": {"clusterIP": address(n), "ports": [{"port": PORT}], "backends": [{"address": backend}]},
        })
    };
    let file = world.machine.dir().join("services.json");
    let items: Vec<_> = which.map(service).collect();
    std::fs::write(&file, json!({"kind": "List", "items": items}).to_string())?;
    world.agent.cilium(&["service", "import", file.to_str().context("path")?]).map(|_| ())
}

/// Waits until the kernel has all of them, each with its address as a whole.
fn in_kernel(world: &World, count: usize) -> Result<()> {
    eventually(PATIENCE, "the services to be in the kernel", || {
        let maps = world.agent.cilium_json(&["map", "list"])?;
        let map = maps.as_array().context("no list")?.iter().find(|map| map["name"] == "cilium_lb_services");
        let entries = map.context("no such map")?["entries"].as_u64().context("no number")?;
        ensure!(entries >= 2 * count as u64, "{entries}");
        Ok(())
    })
}

fn serve(machine: &Machine, pair: &Pair) -> Result<Process> {
    let mut echo = machine.command("env");
    echo.args(&pair.server).args(["taskset", "-c", "1"]);
    echo.arg(lab::binary("lab-probe")?).args(["serve", &format!("tcp:{PORT}")]);
    let running = machine.spawn("bench-balance.log", echo)?;
    eventually(Duration::from_secs(30), "the server to answer", || probe(machine, pair, "rr", 0.01))?;
    Ok(running)
}

/// Medians of the rounds, each of which has every pair.
fn rounds(machine: &Machine, pairs: &[&Pair], effort: Effort) -> Result<BTreeMap<(&'static str, &'static str), f64>> {
    let mut figures: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for _ in 0..effort.rounds {
        for pair in pairs {
            for mode in ["rr", "crr"] {
                let answer = probe(machine, pair, mode, effort.seconds)?;
                figures.entry((pair.name, mode)).or_default().push(answer["p50_us"].as_f64().context("p50_us")?);
            }
        }
    }
    Ok(figures.into_iter().map(|(key, values)| (key, median(&values))).collect())
}

/// The same between two namespaces with nothing but a pair of devices and the rules.
fn rules(table: &mut Table, effort: Effort) -> Result<()> {
    let machine = Machine::start()?;
    let direct = wire(&machine)?;
    machine.run(&["ip", "-n", "wa", "route", "add", "10.96.0.0/12", "via", &direct.address])?;
    let _server = serve(&machine, &direct)?;
    // Without any: what is for no service goes through all of them.
    let bare = rounds(&machine, &[&direct], effort)?[&(direct.name, "crr")];
    for count in RULES {
        let file = machine.dir().join("rules");
        std::fs::write(&file, kube_proxy(count, &direct.address)?)?;
        let load = [&direct.client[..], &["iptables-restore".to_owned()]].concat().join(" ");
        machine.run(&["sh", "-c", &format!("{load} < {}", file.display())])?;
        let last = Pair { name: "last", address: address(count - 1), ..direct.twin() };
        let figures = rounds(&machine, &[&last], effort)?;
        let what = format!("rules as kube-proxy's, {count} services: connect/request/response to the last");
        table.ratio(&what, "us", figures[&("last", "crr")], ("no rules", bare), Goal::None);
    }
    Ok(())
}

/// A chain for each service, one for each backend, and a rule for each service by which packets find its chain.
fn kube_proxy(count: usize, backend: &str) -> Result<String> {
    let mut rules = "*nat\n:KUBE-SERVICES - [0:0]\n".to_owned();
    for n in 0..count {
        writeln!(rules, ":KUBE-SVC-{n} - [0:0]\n:KUBE-SEP-{n} - [0:0]")?;
    }
    writeln!(rules, "-A OUTPUT -j KUBE-SERVICES")?;
    for n in 0..count {
        let ip = address(n);
        writeln!(rules, "-A KUBE-SERVICES -d {ip}/32 -p tcp -m tcp --dport {PORT} -j KUBE-SVC-{n}")?;
        writeln!(rules, "-A KUBE-SVC-{n} -j KUBE-SEP-{n}")?;
        writeln!(rules, "-A KUBE-SEP-{n} -p tcp -m tcp -j DNAT --to-destination {backend}:{PORT}")?;
    }
    writeln!(rules, "COMMIT")?;
    Ok(rules)
}

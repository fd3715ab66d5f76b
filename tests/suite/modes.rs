//! Several nodes as one network, by every way there is between them: two nodes are started for each mode, and one list of
//! scenes is played with them, the same for all modes.
//!
//! A scene begins and ends with the same cast on each node, no rules and no traffic: what it adds goes when it ends. A
//! scene that fails is named and the rest is played all the same. `SCENE=policy` plays only those with that in their name.

mod agents;
mod entities;
mod forgery;
mod policy;
mod sizes;
mod tables;
mod turnover;

use anyhow::{Context, Result, ensure};
use lab::{Ask, Container, Engine, Hammer, Nodes, Server, Underlay, World, eventually};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long a condition may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(90);

type Scene = fn(&mut Lab) -> Result<()>;

/// What is played, in this order. Where the underlay has IPv6 alone, and with another engine, only what depends on it: the
/// core.
const SCENES: [(&str, Part, Scene); 17] = [
    ("tables: nodes tell each other who they are and who has which address", Core, tables::nodes_tell_each_other),
    ("tables: all ends of all nodes are healthy, and one that is cut off is seen to be", Core, tables::health),
    ("policy: one policy holds on all nodes, for every protocol", Core, policy::holds_on_all_nodes),
    ("policy: what is denied is not allowed by anything else", Core, policy::denies),
    (
        "policy: changes under traffic fail no request, and cut what is not allowed any more",
        More,
        policy::under_traffic,
    ),
    ("entities: what containers reach of nodes and world", Core, entities::of_egress),
    ("entities: which nodes and world reach containers", Core, entities::of_ingress),
    ("forgery: a container speaks for nobody else", Core, forgery::by_a_container),
    ("forgery: an outsider is believed nothing", Core, forgery::by_an_outsider),
    ("sizes: all that fits goes through, and what does not is told", Core, sizes::large_packets),
    ("sizes: the network between the nodes carries less than before", Core, sizes::smaller_underlay),
    ("turnover: containers come and go under traffic", More, turnover::containers),
    ("turnover: nodes share the subnet of a network", More, turnover::shared_subnet),
    ("agents: killed under traffic", Core, agents::killed),
    ("agents: replaced by another version under traffic", More, agents::upgraded),
    ("agents: engines restart under traffic", More, agents::engines_restart),
    // Last: another node joins the two.
    ("turnover: a node joins, and dies", More, turnover::a_node),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Core,
    More,
}
use Part::{Core, More};

/// A way between nodes.
struct Mode {
    name: &'static str,
    options: &'static [&'static str],
}

const VXLAN: Mode = Mode { name: "vxlan", options: &["--tunnel", "vxlan"] };
const GENEVE: Mode = Mode { name: "geneve", options: &["--tunnel", "geneve"] };
const NATIVE: Mode = Mode { name: "native", options: &["--tunnel", "disabled", "--auto-direct-node-routes"] };

macro_rules! modes {
    ($($test:ident: $mode:ident, $underlay:ident, $engine:expr, $parts:expr;)*) => { $(
        #[test]
        #[ignore = "needs root: make test"]
        fn $test() -> Result<()> {
            play(&$mode, Underlay::$underlay, &$engine, &$parts)
        }
    )* };
}

modes! {
    vxlan: VXLAN, Both, Engine::installed(), [Core, More];
    geneve: GENEVE, Both, Engine::installed(), [Core, More];
    native: NATIVE, Both, Engine::installed(), [Core, More];
    vxlan_over_ipv6: VXLAN, Ipv6, Engine::installed(), [Core];
    geneve_over_ipv6: GENEVE, Ipv6, Engine::installed(), [Core];
    native_over_ipv6: NATIVE, Ipv6, Engine::installed(), [Core];
    vxlan_with_a_newer_engine: VXLAN, Both, Engine::newer()?, [Core];
}

fn play(mode: &Mode, underlay: Underlay, engine: &Engine, parts: &[Part]) -> Result<()> {
    let only = std::env::var("SCENE").unwrap_or_default();
    let began = Instant::now();
    let mut lab = Lab::start(mode, underlay, engine).with_context(|| format!("{}: the start", mode.name))?;
    eprintln!("{}: started in {:.1} s", mode.name, began.elapsed().as_secs_f64());
    let mut faults = Vec::new();
    let wanted = SCENES.iter().filter(|(name, part, _)| name.contains(&only) && parts.contains(part));
    for (name, _, scene) in wanted {
        let began = Instant::now();
        let outcome = scene(&mut lab);
        eprintln!("{}: {name}: {} in {:.1} s", mode.name, verdict(&outcome), began.elapsed().as_secs_f64());
        if let Err(error) = outcome {
            eprintln!("{error:?}");
            faults.push(format!("{name}: {error:?}"));
        }
        if let Err(error) = lab.tidy() {
            faults.push(format!("after {name} the lab is not as before, nothing more is played: {error:?}"));
            break;
        }
    }
    ensure!(faults.is_empty(), "{} over {underlay:?}:\n{}", mode.name, faults.join("\n\n"));
    Ok(())
}

fn verdict(outcome: &Result<()>) -> &'static str {
    if outcome.is_ok() { "holds" } else { "FAILS" }
}

/// Two nodes with those who are there in every scene.
struct Lab {
    nodes: Nodes,
    tunnel: Option<&'static str>,
    underlay: Underlay,
    engine: Engine,
    options: Vec<&'static str>,
    /// On node 1, with a server of TCP 80 and 81, UDP 53 and SCTP 90.
    server: Container,
    /// On node 1.
    mate: Container,
    /// On node 2.
    client: Container,
    /// On node 2.
    stranger: Container,
    _server: Server,
}

const PORTS: [&str; 4] = ["tcp:80", "tcp:81", "udp:53", "sctp:90"];

impl Lab {
    fn start(mode: &Mode, underlay: Underlay, engine: &Engine) -> Result<Lab> {
        let graces =
            ["--kvstore-lease-ttl", "10", "--node-grace", "10", "--block-grace", "10", "--health-interval", "1"];
        let options = [mode.options, &graces].concat();
        let mut nodes = Nodes::on(underlay)?;
        nodes.etcd.start_all()?;
        nodes.add(engine, &[&options, &options])?;
        nodes.know_each_other()?;
        nodes.worlds.iter().try_for_each(World::network)?;
        let (server, mate) = (nodes.worlds[0].container("server")?, nodes.worlds[0].container("mate")?);
        let (client, stranger) = (nodes.worlds[1].container("client")?, nodes.worlds[1].container("stranger")?);
        let _server = nodes.worlds[0].serve(&server, &PORTS)?;
        let tunnel = mode.options.get(1).copied().filter(|name| *name != "disabled");
        let lab =
            Lab { nodes, tunnel, underlay, engine: engine.clone(), options, server, mate, client, stranger, _server };
        lab.tidy()?;
        Ok(lab)
    }

    fn one(&self) -> &World {
        &self.nodes.worlds[0]
    }

    fn two(&self) -> &World {
        &self.nodes.worlds[1]
    }

    /// Families of containers' traffic between nodes. Without a tunnel a family takes a network between the nodes that has
    /// it too.
    fn families(&self) -> &'static [bool] {
        const IPV4: bool = true;
        const IPV6: bool = false;
        if self.tunnel.is_none() && self.underlay == Underlay::Ipv6 { &[IPV6] } else { &[IPV4, IPV6] }
    }

    /// A container's addresses of those families.
    fn ips<'a>(&self, container: &'a Container) -> Vec<&'a str> {
        self.families().iter().map(|ipv4| if *ipv4 { container.ipv4.as_str() } else { &container.ipv6 }).collect()
    }

    /// The addresses of a machine on the underlay by its last figure (`12` is node 2, `1` the hub).
    fn underlay_ips(&self, last: &str) -> Vec<String> {
        let ipv4 = (self.underlay == Underlay::Both).then(|| format!("172.31.78.{last}"));
        ipv4.into_iter().chain([format!("fd78::{last}")]).collect()
    }

    /// By which address of node 1 or 2 others reach its containers.
    fn vtep(&self, node: usize) -> String {
        self.underlay_ips(&format!("1{node}")).swap_remove(0)
    }

    /// Waits until a container reaches another's port, or does not.
    fn expect(&self, from: &Container, to: &Container, protocol: &str, port: u16, expected: bool) -> Result<()> {
        let what = format!("{} -> {} {protocol} {port}: {expected}", from.name, to.name);
        eventually(PATIENCE, &what, || self.holds(from, to, protocol, port, expected))
    }

    /// Likewise, without waiting: what is in force does not waver.
    fn holds(&self, from: &Container, to: &Container, protocol: &str, port: u16, expected: bool) -> Result<()> {
        self.all_hold(from, to, &[(protocol, port, expected)])
    }

    /// The same for several ports at once.
    fn all_hold(&self, from: &Container, to: &Container, ports: &[(&str, u16, bool)]) -> Result<()> {
        let mut asks = Vec::new();
        for (protocol, port, expected) in ports {
            for ip in self.ips(to) {
                let ask = Ask::start(from.machine(), &from.enter(), protocol, ip, *port, *expected)?;
                asks.push((format!("{protocol} {ip} {port}: {expected}"), ask));
            }
        }
        all_as_expected(asks).with_context(|| format!("{} -> {}", from.name, to.name))
    }

    /// Imports rules on node 2 and waits until both nodes enforce them.
    fn import(&self, rules: &Value) -> Result<()> {
        self.two().agent.import(rules)?;
        self.in_force()
    }

    /// Deletes all rules, and waits likewise.
    fn forget(&self) -> Result<()> {
        eventually(PATIENCE, "all rules to be deleted", || {
            self.two().agent.cilium(&["policy", "delete", "--all"]).map(drop)
        })?;
        self.in_force()
    }

    fn in_force(&self) -> Result<()> {
        let revision = self.two().agent.cilium_json(&["policy", "get"])?["revision"].to_string();
        self.nodes.worlds.iter().try_for_each(|world| world.agent.cilium(&["policy", "wait", &revision]).map(drop))
    }

    /// Requests from node 2 to the server: the client's over one connection and over new ones; where there is a policy
    /// against it the stranger's too, none of which may pass.
    fn traffic(&self, with_stranger: bool) -> Result<Vec<Hammer>> {
        let mut hammers = Vec::new();
        for ip in self.ips(&self.server) {
            let target = format!("{}:80", host(ip));
            let mut start = |from: &Container, mode| -> Result<()> {
                hammers.push(Hammer::start(&self.two().machine, &from.enter(), mode, &target)?);
                Ok(())
            };
            start(&self.client, "keep")?;
            start(&self.client, "connect")?;
            if with_stranger {
                start(&self.stranger, "denied")?;
            }
        }
        Ok(hammers)
    }

    /// Makes all be as it was before a scene.
    fn tidy(&self) -> Result<()> {
        self.forget()?;
        let cast = [["server", "mate"], ["client", "stranger"]];
        for (world, cast) in self.nodes.worlds.iter().zip(cast) {
            let names = world.docker.docker(&["ps", "-a", "--format", "{{.Names}}"])?;
            for name in names.lines().filter(|name| !cast.contains(name)) {
                world.docker.docker(&["rm", "-f", name])?;
            }
            let running = world.docker.docker(&["ps", "--format", "{{.Names}}"])?;
            ensure!(running.lines().count() == cast.len(), "of {cast:?} run {running:?}");
            world.endpoints_ready(cast.len())?;
        }
        self.nodes.know_each_other()?;
        for container in [&self.server, &self.mate] {
            self.expect(&self.client, container, "icmp", 0, true)?;
            self.expect(&self.stranger, container, "icmp", 0, true)?;
        }
        self.holds(&self.client, &self.server, "tcp", 80, true)
    }
}

/// Waits for all answers, and names those that came and should not, and the other way round.
fn all_as_expected(asks: Vec<(String, Ask)>) -> Result<()> {
    let mut wrong = Vec::new();
    for (what, ask) in asks {
        if ask.is_wrong()? {
            wrong.push(what);
        }
    }
    ensure!(wrong.is_empty(), "not as expected: {}", wrong.join(", "));
    Ok(())
}

/// Ends requests and counts: all that may were answered, all that may not were not.
fn none_failed(traffic: Vec<Hammer>) -> Result<()> {
    let tallies = traffic.into_iter().map(Hammer::finish).collect::<Result<Vec<_>>>()?;
    let requests: u64 = tallies.iter().map(|tally| tally.requests).sum();
    eprintln!("  {requests} requests, {} failed", tallies.iter().map(|tally| tally.failed).sum::<u64>());
    ensure!(tallies.iter().all(|tally| tally.requests > 3 && tally.failed == 0), "{tallies:#?}");
    Ok(())
}

/// An address as it stands before a port.
fn host(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

fn labelled(id: &str) -> Value {
    json!({"matchLabels": {"id": id}})
}

/// The server may be reached by the client alone.
fn only_the_client() -> Value {
    json!([{"endpointSelector": labelled("server"), "ingress": [{"fromEndpoints": [labelled("client")]}]}])
}

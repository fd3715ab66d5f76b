//! Services over two nodes: whoever asks for a frontend, a container or a host, gets a backend of either node, as policy
//! allows, and no change of them or of the agents costs a request.

use anyhow::{Context, Result, ensure};
use lab::{Ask, Container, Engine, Hammer, Machine, Nodes, Server, Underlay, World, eventually};
use serde_json::json;
use std::rc::Rc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Service numbers, addresses and protocols; the port is that of the backends too.
const FRONTENDS: [(&str, &str, &str, u16); 3] =
    [("1", "10.96.0.10", "tcp", 80), ("2", "fd96::10", "tcp", 80), ("3", "10.96.0.10", "udp", 53)];
/// The same for the world: ports of every node, and an address that is routed to the first one.
const OUTSIDE: [(&str, &str, &str, u16); 4] = [
    ("11", "0.0.0.0", "tcp", 30_080),
    ("12", "::", "tcp", 30_080),
    ("13", "0.0.0.0", "udp", 30_053),
    ("14", VIP, "tcp", 80),
];
const VIP: &str = "198.51.100.10";
/// Who of the world may ask for that: the hub, by this address alone.
const SOURCES: &str = "172.31.78.1/32";
/// Services that are connected to.
const TCP: [&str; 5] = ["1", "2", "11", "12", "14"];
/// Addresses of the nodes.
const NODES: [[&str; 2]; 2] = [["172.31.78.11", "fd78::11"], ["172.31.78.12", "fd78::12"]];

#[test]
#[ignore = "needs root: make test"]
fn services_of_two_nodes_by_vxlan() -> Result<()> {
    two_nodes(&["--tunnel", "vxlan"])
}

#[test]
#[ignore = "needs root: make test"]
fn services_of_two_nodes_by_native_routing() -> Result<()> {
    two_nodes(&["--tunnel", "disabled", "--auto-direct-node-routes"])
}

/// Without programs at sockets containers are served packet by packet, and hosts not at all.
#[test]
#[ignore = "needs root: make test"]
fn services_of_two_nodes_packet_by_packet() -> Result<()> {
    two_nodes(&["--tunnel", "vxlan", "--bpf-lb-sock=false"])
}

/// A backend on each node, and a client on each.
struct Scene {
    nodes: Nodes,
    backends: [Container; 2],
    clients: [Container; 2],
    servers: Vec<Server>,
    /// Whether sockets are served.
    sockets: bool,
}

fn two_nodes(options: &[&str]) -> Result<()> {
    let mut scene = Scene::start(options)?;
    scene.all_ask().context("two backends")?;
    scene.world_asks().context("the world asks")?;
    scene.kernels_have_them()?;
    scene.world_is_let_in()?;
    scene.policy_is_about_backends()?;
    scene.backends_come_and_go()?;
    scene.agents_are_killed()?;
    scene.nobody_serves()
}

impl Scene {
    fn start(options: &[&str]) -> Result<Scene> {
        let sockets = !options.contains(&"--bpf-lb-sock=false");
        let mut nodes = Nodes::on(Underlay::Both)?;
        nodes.etcd.start_all()?;
        nodes.add(&Engine::installed(), &[options, options])?;
        nodes.know_each_other()?;
        nodes.worlds.iter().try_for_each(World::network)?;
        let [one, two] = nodes.worlds.as_slice() else { anyhow::bail!("there are two nodes") };
        let backends = [one.container("web")?, two.container("web")?];
        let clients = [one.container("client")?, two.container("client")?];
        let mut scene = Scene { nodes, backends, clients, servers: Vec::new(), sockets };
        scene.serve()?;
        for (id, ..) in FRONTENDS.iter().chain(&OUTSIDE) {
            scene.update(id, &["active", "active"])?;
        }
        scene.nodes.hub.run(&["ip", "route", "add", VIP, "via", NODES[0][0]])?;
        Ok(scene)
    }

    fn serve(&mut self) -> Result<()> {
        for (world, backend) in self.nodes.worlds.iter().zip(&self.backends) {
            self.servers.push(world.serve(backend, &["tcp:80", "udp:53"])?);
        }
        Ok(())
    }

    /// Says of a service which states its backends have, or with none that it has no backends; waits for both nodes.
    fn update(&self, id: &str, states: &[&str]) -> Result<()> {
        let mut services = FRONTENDS.iter().chain(&OUTSIDE);
        let (_, address, protocol, port) = services.find(|(of, ..)| *of == id).context("no such service")?;
        let at = |ip: &str, port: u16| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
        let serves = if *protocol == "udp" { 53 } else { 80 };
        let backends = self.backends.iter().map(|b| at(if address.contains(':') { &b.ipv6 } else { &b.ipv4 }, serves));
        let backends = backends.take(states.len()).collect::<Vec<_>>().join(",");
        let (frontend, states) = (at(address, *port), states.join(","));
        let kind = match *address {
            "0.0.0.0" | "::" => "NodePort",
            VIP => "LoadBalancer",
            _ => "ClusterIP",
        };
        let mut update =
            vec!["service", "update", "--id", id, "--type", kind, "--frontend", &frontend, "--protocol", protocol];
        if *address == VIP {
            update.extend(["--source-ranges", SOURCES]);
        }
        if !states.is_empty() {
            update.extend(["--backends", &backends, "--states", &states]);
        }
        self.nodes.worlds[0].agent.cilium(&update)?;
        for world in &self.nodes.worlds {
            eventually(PATIENCE, "the service to be as it was said", || {
                let service = world.agent.cilium_json(&["service", "get", id])?;
                let realized = &service["status"]["realized"];
                let found = realized["backend-addresses"].as_array().map_or(&[][..], Vec::as_slice);
                let found: Vec<&str> = found.iter().filter_map(|backend| backend["state"].as_str()).collect();
                ensure!(!realized.is_null() && found.join(",") == states, "{service}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Places that ask: containers, and hosts where they are served.
    fn places(&self) -> Vec<(&Rc<Machine>, Vec<String>)> {
        let containers = self.clients.iter().map(|client| (client.machine(), client.enter()));
        let hosts = self.nodes.worlds.iter().filter(|_| self.sockets).map(|world| (&world.machine, Vec::new()));
        containers.chain(hosts).collect()
    }

    /// Everybody gets an answer of every service, several times: both backends are asked.
    fn all_ask(&self) -> Result<()> {
        let mut asks = Vec::new();
        for (place, (machine, enter)) in self.places().iter().enumerate() {
            for (_, address, protocol, port) in FRONTENDS {
                for _ in 0..4 {
                    let ask = Ask::start(machine, enter, protocol, address, port, true)?;
                    asks.push((format!("place {place}: {protocol} {address} {port}"), ask));
                }
            }
        }
        let wrong = asks.into_iter().map(|(what, ask)| Ok(ask.is_wrong()?.then_some(what)));
        let wrong: Vec<String> = wrong.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        ensure!(wrong.is_empty(), "no answer: {wrong:?}");
        Ok(())
    }

    /// Asks of the world: whom, and whether there is an answer.
    fn world(&self) -> Vec<(&'static str, &'static str, u16)> {
        let mut asks = vec![("tcp", VIP, 80)];
        for node in NODES {
            asks.extend(node.map(|address| ("tcp", address, 30_080)));
            asks.push(("udp", node[0], 30_053));
        }
        asks
    }

    /// The world, and containers of each node, ask each node for its ports, several times: both backends are asked.
    fn world_asks(&self) -> Result<()> {
        let containers = self.clients.iter().map(|client| (client.machine(), client.enter()));
        let hub = (&self.nodes.hub, Vec::new());
        let mut asks = Vec::new();
        for (place, (machine, enter)) in [hub].into_iter().chain(containers).enumerate() {
            for (protocol, address, port) in self.world() {
                for _ in 0..4 {
                    let ask = Ask::start(machine, &enter, protocol, address, port, true)?;
                    asks.push((format!("place {place}: {protocol} {address} {port}"), ask));
                }
            }
        }
        let wrong = asks.into_iter().map(|(what, ask)| Ok(ask.is_wrong()?.then_some(what)));
        let wrong: Vec<String> = wrong.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        ensure!(wrong.is_empty(), "no answer: {wrong:?}");
        Ok(())
    }

    /// Not to what is the cluster's own, nor to an address for others, nor past policy; under its own address where a node
    /// gives only its own containers.
    fn world_is_let_in(&self) -> Result<()> {
        let hub = &self.nodes.hub;
        let ask = |protocol: &str, address: &str, port, expected| {
            let wrong = Ask::start(hub, &[], protocol, address, port, expected)?.is_wrong()?;
            ensure!(!wrong, "{address} {port}: not {expected}");
            Ok(())
        };
        hub.run(&["ip", "route", "add", "10.96.0.10", "via", NODES[0][0]])?;
        ask("tcp", "10.96.0.10", 80, false)?;
        hub.run(&["ip", "address", "add", "172.31.78.9/32", "dev", "lo"])?;
        for (source, expected) in [("172.31.78.9", false), ("172.31.78.1", true)] {
            hub.run(&["ip", "route", "replace", VIP, "via", NODES[0][0], "src", source])?;
            ask("tcp", VIP, 80, expected)?;
        }
        let agent = &self.nodes.worlds[0].agent;
        let local = ["--ext-traffic-policy", "Local", "--backends"];
        let backend = format!("{}:80", self.backends[1].ipv4);
        let update = ["service", "update", "--id", "15", "--type", "NodePort", "--frontend", "0.0.0.0:30081"];
        agent.cilium(&[&update[..], &local, &[&backend]].concat())?;
        let select = json!({"matchLabels": {"id": "web"}});
        agent.import(&json!([{"endpointSelector": select, "ingress": [{"fromCIDR": [SOURCES]}]}]))?;
        eventually(PATIENCE, "the node of the backend to show it who asks", || ask("tcp", NODES[1][0], 30_081, true))?;
        // A node that gives another's containers what it is asked speaks for itself.
        eventually(PATIENCE, "the first node to be refused", || ask("tcp", NODES[0][0], 30_080, false))?;
        let refused = hub.run(&[
            lab::binary("lab-probe")?.to_str().context("no path")?,
            "ask",
            "tcp",
            &format!("{}:30081", NODES[0][0]),
            "20000",
        ]);
        let refused = format!("{:#}", refused.err().context("a node without a backend answers")?);
        ensure!(refused.contains("refused"), "{refused}");
        agent.cilium(&["policy", "delete", "--all"])?;
        agent.cilium(&["service", "delete", "15"])?;
        eventually(PATIENCE, "the world to be let in again", || self.world_asks())
    }

    /// The kernel's own tables say on both nodes what was said to one.
    fn kernels_have_them(&self) -> Result<()> {
        for world in &self.nodes.worlds {
            let lb = world.agent.cilium_json(&["bpf", "lb", "list"])?;
            let services = lb["services"].as_array().context("no list")?;
            let services: Vec<_> = services.iter().filter(|service| service["type"] == "ClusterIP").collect();
            ensure!(services.len() == FRONTENDS.len(), "{lb}");
            for service in services {
                let shares = service["internal"]["shares"].as_object().context("no shares")?;
                let backends = shares.keys().filter_map(|number| lb["backends"][number].as_str());
                let nodes = backends
                    .filter_map(|at| self.backends.iter().position(|b| at.contains(&b.ipv4) || at.contains(&b.ipv6)));
                ensure!(nodes.collect::<std::collections::BTreeSet<_>>() == [0, 1].into(), "{service} in {lb}");
            }
            let flows = world.agent.cilium(&["bpf", "ct", "list"])?;
            let known = ["SVC ", "RevNAT="].iter().all(|part| flows.contains(part));
            ensure!(known, "{flows}");
            let ports = world.agent.cilium(&["bpf", "nat", "list"])?;
            ensure!(ports.contains("XLATE_SRC"), "{ports}");
        }
        Ok(())
    }

    /// Requests from everywhere, each over a connection of its own.
    fn traffic(&self) -> Result<Vec<Hammer>> {
        let mut hammers = Vec::new();
        for (machine, enter) in self.places() {
            for target in ["10.96.0.10:80", "[fd96::10]:80"] {
                hammers.push(Hammer::start(machine, &enter, "connect", target)?);
            }
        }
        for target in ["172.31.78.11:30080", "[fd78::11]:30080", "172.31.78.12:30080", "198.51.100.10:80"] {
            hammers.push(Hammer::start(&self.nodes.hub, &[], "connect", target)?);
        }
        Ok(hammers)
    }

    /// Who may reach the backends may reach the service, and nobody else.
    fn policy_is_about_backends(&self) -> Result<()> {
        let agent = &self.nodes.worlds[0].agent;
        let strangers: Vec<Container> =
            self.nodes.worlds.iter().map(|world| world.container("stranger")).collect::<Result<_>>()?;
        let peers = json!([{"fromEndpoints": [{"matchLabels": {"id": "client"}}]}]);
        agent.import(&json!([{"endpointSelector": {"matchLabels": {"id": "web"}}, "ingress": peers}]))?;
        for (stranger, client) in strangers.iter().zip(&self.clients) {
            for (_, address, protocol, port) in FRONTENDS {
                for (from, expected) in [(stranger, false), (client, true)] {
                    let what = format!("{} -> {protocol} {address}: {expected}", from.name);
                    eventually(PATIENCE, &what, || {
                        // More often than there are backends.
                        let asks: Vec<Ask> = (0..4)
                            .map(|_| Ask::start(from.machine(), &from.enter(), protocol, address, port, expected))
                            .collect::<Result<_>>()?;
                        let wrong = asks.into_iter().map(Ask::is_wrong).collect::<Result<Vec<_>>>()?;
                        ensure!(!wrong.contains(&true));
                        Ok(())
                    })?;
                }
            }
        }
        agent.cilium(&["policy", "delete", "--all"])?;
        for world in &self.nodes.worlds {
            world.docker.docker(&["rm", "-f", "stranger"])?;
        }
        eventually(PATIENCE, "everybody to be answered again", || self.all_ask())
    }

    /// One backend after the other is drained, ends, and starts again, under requests from everywhere.
    fn backends_come_and_go(&mut self) -> Result<()> {
        let traffic = self.traffic()?;
        for round in 0..4 {
            let leaver = round % 2;
            let mut states = ["active", "active"];
            states[leaver] = "terminating";
            for id in TCP {
                self.update(id, &states)?;
            }
            let server = &self.backends[leaver];
            eventually(PATIENCE, "the last requests to be answered", || {
                let open = server.run(&["ss", "-Htn", "state", "established", "sport = :80"])?;
                ensure!(open.is_empty(), "{open}");
                Ok(())
            })?;
            drop(self.servers.remove(leaver));
            let again = self.nodes.worlds[leaver].serve(&self.backends[leaver], &["tcp:80", "udp:53"])?;
            self.servers.insert(leaver, again);
            for id in TCP {
                self.update(id, &["active", "active"])?;
            }
        }
        none_failed(traffic)
    }

    fn agents_are_killed(&mut self) -> Result<()> {
        let traffic = self.traffic()?;
        for round in 0..4 {
            let agent = &mut self.nodes.worlds[round % 2].agent;
            agent.kill()?;
            agent.relaunch()?;
            agent.wait_ready()?;
        }
        self.nodes.know_each_other()?;
        none_failed(traffic)?;
        self.all_ask()
    }

    /// Without a backend there is a refusal at once; without the service there is nobody.
    fn nobody_serves(&self) -> Result<()> {
        for id in TCP {
            self.update(id, &[])?;
        }
        let mut asks = Vec::new();
        for (machine, enter) in self.places() {
            asks.extend(["10.96.0.10:80", "[fd96::10]:80"].map(|target| (machine, enter.clone(), target)));
        }
        // Nobody serves another port of such addresses either.
        let hub = ["172.31.78.11:30080", "[fd78::12]:30080", "198.51.100.10:80", "198.51.100.10:81"];
        asks.extend(hub.map(|target| (&self.nodes.hub, Vec::new(), target)));
        for client in &self.clients {
            let others = ["10.96.0.10:81", "[fd96::10]:81", "198.51.100.10:81"];
            asks.extend(others.map(|target| (client.machine(), client.enter(), target)));
            ensure!(
                !Ask::start(client.machine(), &client.enter(), "icmp", "10.96.0.10", 0, true)?.is_wrong()?,
                "no echo"
            );
        }
        for (place, (machine, enter, target)) in asks.iter().enumerate() {
            let began = Instant::now();
            let probe = lab::binary("lab-probe")?;
            let ask = ["ask", "tcp", target, "20000"].map(str::to_owned);
            let command: Vec<&str> = enter.iter().map(String::as_str).chain(probe.to_str()).collect();
            let command = [command, ask.iter().map(String::as_str).collect()].concat();
            let refused = machine.run(&command).err().with_context(|| format!("place {place}: {target} answers"))?;
            let (refused, took) = (format!("{refused:#}"), began.elapsed());
            ensure!(refused.contains("refused") && took < Duration::from_secs(10), "{took:?}: {refused}");
        }
        self.nodes.worlds[1].agent.cilium(&["service", "delete", "3"])?;
        for world in &self.nodes.worlds {
            eventually(PATIENCE, "the service to be gone", || {
                let list = world.agent.cilium(&["service", "list"])?;
                ensure!(!list.contains("10.96.0.10:53"), "{list}");
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Ten backends of a service end and start again, one after the other, each drained before; under requests of a container
/// and of the host.
#[test]
#[ignore = "needs root: make test"]
fn ten_backends_restart_one_after_the_other() -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let client = world.container("client")?;
    let backends: Vec<Container> = (0..10).map(|n| world.container(&format!("web{n}"))).collect::<Result<_>>()?;
    let mut servers = backends.iter().map(|b| world.serve(b, &["tcp:80"])).collect::<Result<Vec<_>>>()?;
    let ips: Vec<String> = backends.iter().map(|backend| format!("{}:80", backend.ipv4)).collect();
    let update = |away: Option<usize>| {
        let states: Vec<&str> = (0..10).map(|n| if Some(n) == away { "terminating" } else { "active" }).collect();
        let (ips, states) = (ips.join(","), states.join(","));
        let update = ["service", "update", "--id", "1", "--frontend", "10.96.0.10:80", "--backends", &ips, "--states"];
        world.agent.cilium(&[&update[..], &[&states]].concat())?;
        eventually(PATIENCE, "the service to be as it was said", || {
            let service = world.agent.cilium_json(&["service", "get", "1"])?;
            let realized = service["status"]["realized"]["backend-addresses"].as_array().context("nothing yet")?;
            let found: Vec<&str> = realized.iter().filter_map(|backend| backend["state"].as_str()).collect();
            ensure!(found.join(",") == states, "{service}");
            Ok(())
        })
    };
    update(None)?;
    let mut traffic = Vec::new();
    for enter in [client.enter(), Vec::new()] {
        traffic.push(Hammer::start(&world.machine, &enter, "connect", "10.96.0.10:80")?);
    }
    for (leaver, backend) in backends.iter().enumerate() {
        update(Some(leaver))?;
        eventually(PATIENCE, "the last requests to be answered", || {
            let open = backend.run(&["ss", "-Htn", "state", "established", "sport = :80"])?;
            ensure!(open.is_empty(), "{open}");
            Ok(())
        })?;
        drop(servers.remove(leaver));
        servers.insert(leaver, world.serve(backend, &["tcp:80"])?);
        update(None)?;
    }
    none_failed(traffic)
}

fn none_failed(traffic: Vec<Hammer>) -> Result<()> {
    let tallies = traffic.into_iter().map(Hammer::finish).collect::<Result<Vec<_>>>()?;
    let requests: u64 = tallies.iter().map(|tally| tally.requests).sum();
    eprintln!("  {requests} requests, {} failed", tallies.iter().map(|tally| tally.failed).sum::<u64>());
    ensure!(tallies.iter().all(|tally| tally.requests > 3 && tally.failed == 0), "{tallies:#?}");
    Ok(())
}

//! Services as Kubernetes' rules for them have it, as a table: each type of service, protocol, family, traffic policy, set
//! of backends, and place that asks is a case, with real packets between two nodes. What each comes to is written down
//! from the rules (`Case::expected`), not from what the datapath does.
//!
//! Where Kubernetes leaves it open whether a service without a backend is silent or refuses, ours refuses.

use anyhow::{Context, Result, ensure};
use lab::{Container, Engine, Machine, Nodes, Server, Underlay, World, eventually};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);
/// How long the world's first look at a case may take in milliseconds, and a second one at what came out otherwise.
const LIMITS: [&str; 4] = ["1000", "2000", "4000", "8000"];
/// Of the first node; of the second one.
const NODES: [[&str; 2]; 2] = [["172.31.78.11", "fd78::11"], ["172.31.78.12", "fd78::12"]];
const PORT: u16 = 80;

#[test]
#[ignore = "needs root: make test"]
fn kubernetes_rules_by_vxlan() -> Result<()> {
    play(&["--tunnel", "vxlan"], &[])
}

#[test]
#[ignore = "needs root: make test"]
fn kubernetes_rules_by_native_routing() -> Result<()> {
    play(&["--tunnel", "disabled", "--auto-direct-node-routes"], &[])
}

/// Without programs at sockets the hosts themselves are not served at their own node.
#[test]
#[ignore = "needs root: make test"]
fn kubernetes_rules_packet_by_packet() -> Result<()> {
    play(&["--tunnel", "geneve", "--bpf-lb-sock=false"], &[Place::Host, Place::OtherHost])
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    NodePort,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Backends {
    None,
    /// On the first node.
    Near,
    /// On the second.
    Far,
    Both,
    /// Both, about to end.
    Ending,
    /// Both, taken out of service.
    Away,
}

/// Who asks. Where an address leads to a node it is the first one, but for containers and the host of the second, which
/// have all but node ports at their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    /// The backend of the first node.
    Itself,
    Container,
    OtherContainer,
    Host,
    OtherHost,
    Outside,
}

const PLACES: [Place; 6] =
    [Place::Itself, Place::Container, Place::OtherContainer, Place::Host, Place::OtherHost, Place::Outside];

/// A service; its number tells its addresses and ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Service {
    kind: Kind,
    protocol: &'static str,
    ipv4: bool,
    /// The policy that there is for the type: of the cluster's own for a ClusterIP, else of who comes from outside.
    local: bool,
    backends: Backends,
    number: u16,
}

/// A question, and at which node a node port is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Case {
    service: Service,
    place: Place,
    node: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Answered,
    Refused,
    Silent,
}

fn services() -> Vec<Service> {
    let mut services = Vec::new();
    for kind in [Kind::ClusterIp, Kind::ExternalIp, Kind::LoadBalancer, Kind::NodePort] {
        for protocol in ["tcp", "udp", "sctp"] {
            for ipv4 in [true, false] {
                for local in [false, true] {
                    for backends in [
                        Backends::None,
                        Backends::Near,
                        Backends::Far,
                        Backends::Both,
                        Backends::Ending,
                        Backends::Away,
                    ] {
                        let number = services.len() as u16 + 1;
                        services.push(Service { kind, protocol, ipv4, local, backends, number });
                    }
                }
            }
        }
    }
    services
}

impl Service {
    fn port(&self) -> u16 {
        if self.kind == Kind::NodePort { 30_000 + self.number } else { PORT }
    }

    /// The address of the service; of a node port the one that stands for all of a node's.
    fn address(&self) -> String {
        let (net4, net6) = match self.kind {
            Kind::ClusterIp => ("10.96.1", "fd96:1"),
            Kind::ExternalIp => ("198.51.100", "fd96:2"),
            Kind::LoadBalancer => ("203.0.113", "fd96:3"),
            Kind::NodePort => return if self.ipv4 { "0.0.0.0" } else { "::" }.to_owned(),
        };
        let host = self.number % 250 + 1;
        if self.ipv4 { format!("{net4}.{host}") } else { format!("{net6}::{host:x}") }
    }

    /// As documents of `cilium service import` have it.
    fn document(&self, backends: &[Container]) -> Value {
        let ip = |container: &Container| if self.ipv4 { container.ipv4.clone() } else { container.ipv6.clone() };
        let state = match self.backends {
            Backends::Ending => "terminating",
            Backends::Away => "maintenance",
            _ => "active",
        };
        let some: &[Container] = match self.backends {
            Backends::None => &[],
            Backends::Near => &backends[..1],
            Backends::Far => &backends[1..],
            Backends::Both | Backends::Ending | Backends::Away => backends,
        };
        let list: Vec<Value> = some.iter().map(|backend| json!({"address": ip(backend), "state": state})).collect();
        let mut port = json!({"port": PORT, "protocol": self.protocol.to_uppercase()});
        let policy = if self.local { "Local" } else { "Cluster" };
        let mut spec = json!({"backends": list});
        let (kind, addresses, policy_of) = match self.kind {
            Kind::ClusterIp => ("ClusterIP", Some("clusterIP"), "internalTrafficPolicy"),
            Kind::ExternalIp => ("ClusterIP", Some("externalIPs"), "externalTrafficPolicy"),
            Kind::LoadBalancer => ("LoadBalancer", Some("loadBalancerIPs"), "externalTrafficPolicy"),
            Kind::NodePort => ("NodePort", None, "externalTrafficPolicy"),
        };
        spec["type"] = json!(kind);
        spec[policy_of] = json!(policy);
        match addresses {
            Some("clusterIP") => spec["clusterIP"] = json!(self.address()),
            Some(field) => spec[field] = json!([self.address()]),
            None => port["nodePort"] = json!(self.port()),
        }
        if self.kind == Kind::NodePort {
            // Out of nobody's way: a node port's service has an address too.
            let host = self.number;
            let ip =
                if self.ipv4 { format!("10.97.{}.{}", host / 250, host % 250 + 1) } else { format!("fd97::{host:x}") };
            spec["clusterIP"] = json!(ip);
        }
        spec["ports"] = json!([port]);
        json!({"kind": "Service", "metadata": {"name": format!("s{}", self.number), "namespace": "rules"}, "spec": spec})
    }
}

impl Case {
    fn target(&self) -> String {
        let host = match self.service.kind {
            Kind::NodePort => NODES[self.node][usize::from(!self.service.ipv4)].to_owned(),
            _ => self.service.address(),
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        format!("{}/{host}:{}", self.service.protocol, self.service.port())
    }

    /// The node that asks, if it is one of the cluster's.
    fn home(&self) -> Option<usize> {
        match self.place {
            Place::Itself | Place::Container | Place::Host => Some(0),
            Place::OtherContainer | Place::OtherHost => Some(1),
            Place::Outside => None,
        }
    }

    /// The node at which it comes from outside; `None`: it begins at the node that decides.
    fn entrance(&self) -> Option<usize> {
        match (self.home(), self.service.kind) {
            (None, Kind::NodePort) => Some(self.node),
            (None, _) => Some(0),
            (Some(home), Kind::NodePort) => (home != self.node).then_some(self.node),
            (Some(_), _) => None,
        }
    }

    /// What the rules say.
    fn expected(&self) -> Outcome {
        let Service { kind, local, backends, .. } = self.service;
        if kind == Kind::ClusterIp && self.entrance().is_some() {
            return Outcome::Silent;
        }
        // Whose backends count: with a policy of Local those of the node that is asked. That of a ClusterIP is for the
        // cluster's own, that of all others for who comes from outside; the cluster's own are spared it.
        let only = match (kind, self.entrance()) {
            (Kind::ClusterIp, _) => self.home().filter(|_| local),
            (_, Some(node)) if local => Some(node),
            _ => None,
        };
        let on: &[usize] = match backends {
            Backends::None | Backends::Away => &[],
            Backends::Near => &[0],
            Backends::Far => &[1],
            // Nobody else is there.
            Backends::Both | Backends::Ending => &[0, 1],
        };
        if on.iter().any(|node| only.is_none_or(|only| only == *node)) { Outcome::Answered } else { Outcome::Refused }
    }

    /// Whether this is something that the combination of settings does. The kernel has no hooks for sockets of SCTP, so
    /// at their own node hosts are served by other protocols alone; docs/services.md says so.
    fn is_supported(&self, unserved: &[Place]) -> bool {
        let host = matches!(self.place, Place::Host | Place::OtherHost);
        self.entrance().is_some() || !(unserved.contains(&self.place) || (host && self.service.protocol == "sctp"))
    }

    /// Nobody tells a raw socket that it is refused.
    fn is(&self, outcome: Outcome) -> bool {
        let expected = self.expected();
        outcome == expected
            || (self.service.protocol == "sctp" && expected == Outcome::Refused && outcome == Outcome::Silent)
    }
}

fn cases(unserved: &[Place]) -> Vec<Case> {
    let mut cases = Vec::new();
    for service in services() {
        for place in PLACES {
            let nodes = if service.kind == Kind::NodePort { 0..2 } else { 0..1 };
            cases.extend(nodes.map(|node| Case { service, place, node }));
        }
    }
    cases.retain(|case| case.is_supported(unserved));
    cases
}

struct Scene {
    nodes: Nodes,
    backends: Vec<Container>,
    clients: Vec<Container>,
    _servers: Vec<Server>,
}

fn play(options: &[&str], unserved: &[Place]) -> Result<()> {
    let scene = Scene::start(options)?;
    scene.import()?;
    let cases = cases(unserved);
    let mut wrong = cases.clone();
    let mut came = BTreeMap::new();
    for limit in LIMITS {
        wrong = scene.ask(&wrong, limit, &mut came)?;
        eprintln!("  within {limit} ms {} of {} cases are not as the rules say", wrong.len(), cases.len());
        if wrong.is_empty() {
            break;
        }
    }
    for outcome in [Outcome::Answered, Outcome::Refused, Outcome::Silent] {
        let count = came.values().filter(|one| **one == outcome).count();
        eprintln!("  {outcome:?}: {count}");
        ensure!(count > 0, "no case is {outcome:?}");
    }
    let told = |case: &Case| format!("{case:?} {}: {:?}, not {:?}", case.target(), came[case], case.expected());
    ensure!(wrong.is_empty(), "{}", wrong.iter().map(told).collect::<Vec<_>>().join("\n"));
    Ok(())
}

impl Scene {
    fn start(options: &[&str]) -> Result<Scene> {
        let mut nodes = Nodes::on(Underlay::Both)?;
        nodes.etcd.start_all()?;
        nodes.add(&Engine::installed(), &[options, options])?;
        nodes.know_each_other()?;
        nodes.worlds.iter().try_for_each(World::network)?;
        let backends = nodes.worlds.iter().map(|world| world.container("web")).collect::<Result<Vec<_>>>()?;
        let clients = nodes.worlds.iter().map(|world| world.container("client")).collect::<Result<Vec<_>>>()?;
        let ports = ["tcp", "udp", "sctp"].map(|protocol| format!("{protocol}:{PORT}"));
        let ports = ports.each_ref().map(String::as_str);
        let servers = nodes.worlds.iter().zip(&backends).map(|(world, web)| world.serve(web, &ports));
        let servers = servers.collect::<Result<Vec<_>>>()?;
        for net in ["10.96.1.0/24", "198.51.100.0/24", "203.0.113.0/24"] {
            nodes.hub.run(&["ip", "route", "add", net, "via", NODES[0][0]])?;
        }
        for net in ["fd96:1::/64", "fd96:2::/64", "fd96:3::/64"] {
            nodes.hub.run(&["ip", "-6", "route", "add", net, "via", NODES[0][1]])?;
        }
        Ok(Scene { nodes, backends, clients, _servers: servers })
    }

    fn import(&self) -> Result<()> {
        let world = &self.nodes.worlds[0];
        let services = services();
        let documents: Vec<Value> = services.iter().map(|service| service.document(&self.backends)).collect();
        let file = world.machine.dir().join("services.json");
        std::fs::write(&file, json!({"kind": "List", "items": documents}).to_string())?;
        world.agent.cilium(&["service", "import", file.to_str().context("a path that is no text")?])?;
        for world in &self.nodes.worlds {
            eventually(PATIENCE, "all services to be in the kernel", || {
                let lb = world.agent.cilium_json(&["bpf", "lb", "list"])?;
                let known: Vec<&str> = lb["services"]
                    .as_array()
                    .context("no list")?
                    .iter()
                    .filter_map(|s| s["frontend"].as_str())
                    .collect();
                let missing = services.iter().find(|service| {
                    let (ip, port) = (service.address(), service.port());
                    let host = if ip.contains(':') { format!("[{ip}]") } else { ip };
                    let wanted = format!("{host}:{port}/{}", service.protocol.to_uppercase());
                    !known.contains(&wanted.as_str())
                });
                ensure!(missing.is_none(), "{missing:?}");
                Ok(())
            })?;
        }
        Ok(())
    }

    fn place(&self, place: Place) -> (&Rc<Machine>, Vec<String>) {
        let inside = |container: &Container| container.enter();
        match place {
            Place::Itself => (self.backends[0].machine(), inside(&self.backends[0])),
            Place::Container => (self.clients[0].machine(), inside(&self.clients[0])),
            Place::OtherContainer => (self.clients[1].machine(), inside(&self.clients[1])),
            Place::Host => (&self.nodes.worlds[0].machine, Vec::new()),
            Place::OtherHost => (&self.nodes.worlds[1].machine, Vec::new()),
            Place::Outside => (&self.nodes.hub, Vec::new()),
        }
    }

    /// Asks all, those of one place together; tells which did not come out as the rules say.
    fn ask(&self, cases: &[Case], limit: &str, came: &mut BTreeMap<Case, Outcome>) -> Result<Vec<Case>> {
        let probe = lab::binary("lab-probe")?;
        let probe = probe.to_str().context("a path that is no text")?;
        let mut wrong = Vec::new();
        for place in PLACES {
            let asked: Vec<&Case> = cases.iter().filter(|case| case.place == place).collect();
            let targets: Vec<String> = asked.iter().map(|case| case.target()).collect();
            let (machine, enter) = self.place(place);
            let command = enter.iter().map(String::as_str).chain([probe, "try", limit]);
            let command: Vec<&str> = command.chain(targets.iter().map(String::as_str)).collect();
            if asked.is_empty() {
                continue;
            }
            let output = machine.run(&command)?;
            let outcomes: Vec<&str> = output.lines().collect();
            ensure!(outcomes.len() == asked.len(), "{} answers on {} questions", outcomes.len(), asked.len());
            for (case, outcome) in asked.into_iter().zip(outcomes) {
                let outcome = match outcome {
                    "answered" => Outcome::Answered,
                    "refused" => Outcome::Refused,
                    _ => Outcome::Silent,
                };
                came.insert(*case, outcome);
                if !case.is(outcome) {
                    wrong.push(*case);
                }
            }
        }
        Ok(wrong)
    }
}

/// More than the 350 that there are to be, of which each is another one.
#[test]
fn the_table_is_whole() {
    let cases = cases(&[]);
    assert!(cases.len() >= 350, "{}", cases.len());
    let distinct: std::collections::BTreeSet<(Place, String)> =
        cases.iter().map(|case| (case.place, case.target())).collect();
    assert_eq!(distinct.len(), cases.len());
    for outcome in [Outcome::Answered, Outcome::Refused, Outcome::Silent] {
        assert!(cases.iter().any(|case| case.expected() == outcome), "{outcome:?}");
    }
}

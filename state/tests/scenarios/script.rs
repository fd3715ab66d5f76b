//! The commands of a scenario: one input each, or a look at the tables.

use crate::tables;
use ipnetwork::IpNetwork;
use model::desired::{Failure, Object, Status};
use model::label_filter::LabelFilter;
use model::service::Algorithm;
use model::{ClusterName, EndpointId, Identity, L4Address, Label, Labels, ServiceId};
use state::services::definition::{Backend, BackendState, Frontend, Service, ServiceName, TrafficPolicy};
use state::services::{Published, record};
use state::{
    AddressRequest, Config, EndpointChange, EndpointCreate, EndpointRef, Family, Input, MeshFact, Network, NodeName,
    Outputs, PoolRequest, Purpose, RemoteAddress, RemoteNode, Reply, Source, State, Subnet, Timestamp,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// A state with a clock that the script sets.
pub struct World {
    state: State,
    config: Config,
    /// Records as changed by the script, for the next restart.
    altered: BTreeMap<String, Arc<str>>,
    now: Timestamp,
}

fn config() -> Config {
    Config {
        node: "n1".to_owned(),
        cluster: "default".to_owned(),
        cluster_id: 0,
        node_ipv4: Some("192.0.2.15".parse().unwrap()),
        node_ipv6: None,
        ipv4_range: Some("10.15.0.0/16".parse().unwrap()),
        ipv6_range: Some("f00d::a0f:0:0:0/96".parse().unwrap()),
        mtu: None,
        kvstore: ["203.0.113.5".parse().unwrap()].into(),
        tunnel_overhead: None,
        direct_routes: false,
        label_filter: LabelFilter::default(),
        policy: policy::Options::default(),
        shares_subnets: false,
        services: state::services::Options::default(),
        quarantine: state::QUARANTINE,
        docker_grace: state::DOCKER_GRACE,
    }
}

impl World {
    pub fn new() -> World {
        let config = config();
        let state = State::new(config.clone()).unwrap();
        World { state, config, altered: BTreeMap::new(), now: Timestamp(0) }
    }

    /// Runs one command; `None` if there is no such.
    pub fn run(&mut self, command: &str) -> Option<String> {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match verb {
            "at" => self.now = Timestamp(duration(rest)?),
            "direct-routes" => self.config.direct_routes = rest.parse().ok()?,
            "cluster" => {
                let name = words.first()?.parse::<ClusterName>().ok()?;
                (self.config.cluster, self.config.cluster_id) = (name.to_string(), words.get(1)?.parse().ok()?);
                self.config.label_filter = LabelFilter::default().in_cluster(name);
                self.config.policy.cluster = Some(name);
            }
            "shared-subnets" => self.config.shares_subnets = true,
            "tunnel" => self.config.tunnel_overhead = Some(rest.parse().ok()?),
            "range4" => self.config.ipv4_range = Some(rest.parse().ok()?),
            "restart" => {
                let mut records = (*self.outputs().records).clone();
                records.append(&mut self.altered);
                self.state = State::new(self.config.clone()).unwrap();
                return Some(self.apply(Input::Restore(records)));
            }
            "record" => {
                let (key, text) = rest.split_once(' ')?;
                self.altered.insert(key.to_owned(), text.into());
            }
            "show" => {
                let outputs = self.outputs();
                return words.iter().map(|what| tables::show(&outputs, what)).collect();
            }
            "realise" => return Some(self.realise(BTreeMap::new())),
            "fail" => {
                let object = Object::Endpoint(EndpointId(words.first()?.parse().ok()?));
                let failure = Failure { message: words.get(1..)?.join(" "), attempts: 1, full: false };
                return Some(self.realise([(object, failure)].into()));
            }
            "full" => {
                let object = Object::Policy(Identity(words.first()?.parse().ok()?));
                let failure = Failure { message: words.get(1..)?.join(" "), attempts: 1, full: true };
                return Some(self.realise([(object, failure)].into()));
            }
            _ => {
                let input = input(verb, rest, &words)?;
                return Some(self.apply(input));
            }
        }
        Some(String::new())
    }

    fn outputs(&mut self) -> Arc<Outputs> {
        self.state.outputs()
    }

    fn realise(&mut self, failing: BTreeMap<Object, Failure>) -> String {
        let realised = self.outputs().datapath_revision().unwrap_or(0);
        self.apply(Input::Datapath(Arc::new(Status { realised, failing, rounds: 1, operations: 1 })))
    }

    fn apply(&mut self, input: Input) -> String {
        let reply = self.state.apply(input, self.now);
        self.state.outputs();
        match reply {
            Ok(Reply::Done) => String::new(),
            Ok(Reply::Pool(pool)) => format!("pool {} gateway {} held {}x\n", pool.id, pool.gateway, pool.references),
            Ok(Reply::Address { address, .. }) => format!("address {address}\n"),
            Ok(Reply::Endpoint(id)) => format!("endpoint {id}\n"),
            Err(refused) => format!("refused ({:?}): {refused}\n", refused.kind()),
        }
    }
}

fn input(verb: &str, rest: &str, words: &[&str]) -> Option<Input> {
    Some(match verb {
        "restore" => Input::Restore(BTreeMap::new()),
        "host" => Input::HostAddresses(all(words)?),
        "mtu" => Input::UplinkMtu(rest.parse().ok()?),
        "policy" => {
            let (revision, rules) = rest.split_once(' ')?;
            Input::PolicyDocument { revision: revision.parse().ok()?, rules: rules.into() }
        }
        "policy-listed" => {
            let (revision, rules) = rest.split_once(' ')?;
            Input::PolicyListed { revision: revision.parse().ok()?, rules: rules.into() }
        }
        "identity" => Input::IdentityKnown { identity: identity(words.first()?)?, labels: labels(words.get(1)?)? },
        "remembered" => {
            Input::IdentityRemembered { identity: identity(words.first()?)?, labels: labels(words.get(1)?)? }
        }
        "block" => Input::BlockTaken { pool: (*words.first()?).to_owned(), block: words.get(1)?.parse().ok()? },
        "block-lost" => Input::BlockLost { pool: (*words.first()?).to_owned(), block: words.get(1)?.parse().ok()? },
        "identity-gone" => Input::IdentityGone { identity: identity(rest)? },
        "node" => Input::NodeKnown(remote_node(words)?),
        "node-gone" => Input::NodeGone(node_name(rest)),
        "ip" => {
            let record = RemoteAddress { identity: identity(words.get(1)?)?, node: words.get(2)?.parse().ok()? };
            Input::AddressKnown { address: words.first()?.parse().ok()?, record }
        }
        "ip-gone" => Input::AddressGone { address: rest.parse().ok()? },
        "of" => {
            let (cluster, rest) = rest.split_once(' ')?;
            Input::Mesh { cluster: cluster.parse().ok()?, fact: mesh_fact(cluster, rest)? }
        }
        "service" => Input::ServiceKnown(service(words)?),
        "service-refused" => {
            let (name, reason) = rest.split_once(' ')?;
            Input::ServiceRefused { name: service_name(name)?, reason: reason.to_owned() }
        }
        "service-gone" => Input::ServiceGone(service_name(rest)?),
        "synced" => Input::Synced(source(rest)?),
        "away" => Input::Away(source(rest)?),
        "docker-endpoints" => Input::DockerEndpoints(all(words)?),
        "docker-networks" => Input::DockerNetworks(all(words)?),
        "pool" => Input::PoolRequest(pool_request(words)?),
        "pool-release" => Input::PoolRelease { pool: rest.to_owned() },
        "address" => Input::AddressRequest(address_request(words)?),
        "address-release" => {
            Input::AddressRelease { pool: (*words.first()?).to_owned(), address: words.get(1)?.parse().ok()? }
        }
        "network" => Input::NetworkPut(network(words)?),
        "network-delete" => Input::NetworkDelete { id: rest.to_owned() },
        "health" => Input::HealthEndpoint(rest == "on"),
        "endpoint" => Input::EndpointCreate(endpoint(words)?),
        "change" => Input::EndpointChange { endpoint: reference(words.first()?), change: change(words) },
        "delete" => Input::EndpointDelete { endpoint: reference(rest) },
        _ => return None,
    })
}

/// `joined ID`, `left`, or what a kvstore tells, in the words for this cluster's; a node may be one of yet another.
fn mesh_fact(cluster: &str, rest: &str) -> Option<MeshFact> {
    let (verb, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let words: Vec<&str> = rest.split_whitespace().collect();
    let named = |name: NodeName| match rest.split_whitespace().next().is_some_and(|word| word.contains('/')) {
        true => name,
        false => NodeName { cluster: cluster.to_owned(), ..name },
    };
    Some(match verb {
        "joined" => MeshFact::Joined { id: rest.parse().ok()? },
        "left" => MeshFact::Left,
        _ => match input(verb, rest, &words)? {
            Input::IdentityKnown { identity, labels } => MeshFact::IdentityKnown { identity, labels },
            Input::IdentityGone { identity } => MeshFact::IdentityGone { identity },
            Input::NodeKnown(node) => MeshFact::NodeKnown(RemoteNode { name: named(node.name), ..node }),
            Input::NodeGone(name) => MeshFact::NodeGone(named(name)),
            Input::AddressKnown { address, record } => MeshFact::AddressKnown { address, record },
            Input::AddressGone { address } => MeshFact::AddressGone { address },
            _ => return None,
        },
    })
}

fn service_name(text: &str) -> Option<ServiceName> {
    let (space, name) = text.split_once('/')?;
    Some(ServiceName { cluster: "default".to_owned(), space: space.to_owned(), name: name.to_owned() })
}

/// `10.96.0.10:80/TCP`
fn l4(text: &str) -> Option<L4Address> {
    let (address, protocol) = text.split_once('/')?;
    let address: SocketAddr = address.parse().ok()?;
    Some(L4Address { ip: address.ip(), port: address.port(), protocol: record::protocol(protocol)? })
}

/// A name, frontends as `N=Type=address`, backends as `address[,weight][,state]`, and `external=`, `internal=Local`,
/// `affinity=`, `sources=`, `prefer-local`, `maglev`.
fn service(words: &[&str]) -> Option<Service> {
    let (name, rest) = words.split_first()?;
    let policy = |name| match named(words, name) {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    };
    let mut service = Service {
        name: service_name(name)?,
        frontends: Vec::new(),
        backends: Vec::new(),
        external: policy("external"),
        internal: policy("internal"),
        affinity: named(words, "affinity").and_then(|seconds| seconds.parse().ok()),
        source_ranges: named(words, "sources").map(|range| range.parse().unwrap()).into_iter().collect(),
        prefer_local: words.contains(&"prefer-local"),
        algorithm: words.contains(&"maglev").then_some(Algorithm::Maglev),
    };
    for word in rest {
        let mut parts = word.splitn(3, '=');
        if let (Some(id), Some(kind), Some(address)) = (parts.next(), parts.next(), parts.next()) {
            let (id, kind) = (ServiceId(id.parse().ok()?), record::kind(kind)?);
            service.frontends.push(Frontend { id, kind, address: l4(address)?, port: String::new() });
            continue;
        }
        let mut parts = word.split(',');
        let Some(address) = parts.next().and_then(l4) else { continue };
        let (mut weight, mut state) = (100, BackendState::Active);
        for part in parts {
            match part.parse() {
                Ok(number) => weight = number,
                Err(_) => state = BackendState::parse(part)?,
            }
        }
        service.backends.push(Backend { address, port: String::new(), weight, state, node: None });
    }
    Some(service)
}

/// `host:port=container port/protocol`
fn published(text: &str) -> Option<Published> {
    let (host, container) = text.split_once('=')?;
    let (port, protocol) = container.split_once('/')?;
    let host: SocketAddr = host.parse().ok()?;
    Some(Published {
        address: host.ip(),
        host_port: host.port(),
        protocol: record::protocol(protocol)?,
        container_port: port.parse().ok()?,
        id: ServiceId(0),
    })
}

/// `name`, or `cluster/name`.
fn node_name(name: &str) -> NodeName {
    let (cluster, name) = name.split_once('/').unwrap_or(("default", name));
    NodeName { cluster: cluster.to_owned(), name: name.to_owned() }
}

/// A name, underlay addresses, prefixes (with a `/`), routers (`via=`), addresses of the health endpoint (`health=`).
fn remote_node(words: &[&str]) -> Option<RemoteNode> {
    let (name, rest) = words.split_first()?;
    let (routers, rest): (Vec<&str>, Vec<&str>) = rest.iter().partition(|word| word.starts_with("via="));
    let (health, rest): (Vec<&str>, Vec<&str>) = rest.into_iter().partition(|word| word.starts_with("health="));
    let health: Vec<&str> = health.iter().filter_map(|word| word.strip_prefix("health=")).collect();
    let (prefixes, addresses): (Vec<&str>, Vec<&str>) = rest.into_iter().partition(|word| word.contains('/'));
    let routers: Vec<&str> = routers.iter().filter_map(|word| word.strip_prefix("via=")).collect();
    Some(RemoteNode {
        name: node_name(name),
        addresses: all(&addresses)?,
        routers: all(&routers)?,
        health: all(&health)?,
        prefixes: all(&prefixes)?,
    })
}

fn duration(text: &str) -> Option<u64> {
    match text.strip_suffix("ms") {
        Some(ms) => ms.parse().ok(),
        None => text.strip_suffix('s')?.parse::<u64>().ok().map(|s| s * 1000),
    }
}

fn all<T: FromStr, C: FromIterator<T>>(words: &[&str]) -> Option<C> {
    words.iter().map(|word| word.parse().ok()).collect()
}

fn identity(text: &str) -> Option<Identity> {
    text.parse().ok().map(Identity)
}

fn labels(text: &str) -> Option<Labels> {
    text.split(',').map(|label| label.parse::<Label>().ok()).collect()
}

fn source(text: &str) -> Option<Source> {
    Source::ALL.into_iter().find(|source| format!("{source:?}").eq_ignore_ascii_case(text))
}

/// The value of `name=value` among the words.
fn named<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn pool_request(words: &[&str]) -> Option<PoolRequest> {
    let family = if *words.first()? == "v6" { Family::V6 } else { Family::V4 };
    let subnet = words.get(1).filter(|word| !word.contains('=')).map(|word| word.parse()).transpose().ok()?;
    let range = named(words, "range").map(str::parse).transpose().ok()?;
    Some(PoolRequest { family, subnet, range })
}

fn address_request(words: &[&str]) -> Option<AddressRequest> {
    let purpose = match named(words, "for") {
        None => Purpose::Endpoint,
        Some("gateway") => Purpose::Gateway,
        Some("reserved") => Purpose::Reserved,
        Some(_) => return None,
    };
    let address = words.get(1).filter(|word| !word.contains('=')).map(|word| word.parse()).transpose().ok()?;
    let (pool, owner) = ((*words.first()?).to_owned(), "docker".to_owned());
    Some(AddressRequest { pool, address, part: None, owner, purpose, may_claim: true })
}

fn network(words: &[&str]) -> Option<Network> {
    let subnet = |name| {
        let text = named(words, name)?;
        let (subnet, gateway) = text.split_once(',').map_or((text, None), |(subnet, gateway)| (subnet, Some(gateway)));
        Some(Subnet { subnet: subnet.parse().ok()?, gateway: gateway.and_then(|gateway| gateway.parse().ok()) })
    };
    Some(Network {
        id: (*words.first()?).to_owned(),
        ipv4: subnet("v4"),
        ipv6: subnet("v6"),
        internal: words.contains(&"internal"),
        mtu: named(words, "mtu").and_then(|mtu| mtu.parse().ok()),
    })
}

fn endpoint(words: &[&str]) -> Option<EndpointCreate> {
    let addresses: Vec<IpAddr> = words.get(2..)?.iter().filter_map(|word| word.parse().ok()).collect();
    Some(EndpointCreate {
        docker_endpoint_id: (*words.first()?).to_owned(),
        docker_network_id: (*words.get(1)?).to_owned(),
        ipv4: addresses.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }),
        ipv6: addresses.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None }),
        mac: named(words, "mac").and_then(|mac| mac.parse().ok()),
    })
}

fn change(words: &[&str]) -> EndpointChange {
    let text = |name| named(words, name).map(str::to_owned);
    let pairs = words.iter().filter_map(|word| word.strip_prefix("label:")?.split_once('='));
    let labels: BTreeMap<String, String> = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    EndpointChange {
        container_id: text("id"),
        container_name: text("name"),
        container_labels: Some(labels).filter(|labels| !labels.is_empty() || words.contains(&"unlabelled")),
        sandbox: text("sandbox"),
        published: match named(words, "publish") {
            Some("nothing") => Some(Vec::new()),
            ports => ports.map(|ports| ports.split(',').map(|port| published(port).unwrap()).collect()),
        },
    }
}

/// A number is an endpoint's; an address its own; anything else Docker's id.
fn reference(text: &str) -> EndpointRef {
    if let Ok(id) = text.parse() {
        return EndpointRef::Id(EndpointId(id));
    }
    match text.parse::<IpNetwork>() {
        Ok(address) => EndpointRef::Address(address.ip()),
        Err(_) => EndpointRef::Docker(text.to_owned()),
    }
}

//! Services through random changes, held against a naive reading of the rules, and what one change costs.

use super::definition::{Backend, BackendState, Frontend, Service, ServiceName, TrafficPolicy};
use super::{Options, Services, Surroundings};
use model::service::{Algorithm, ServiceType};
use model::{EndpointId, L4Address, Protocol, ServiceId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

fn at(text: &str) -> L4Address {
    let address: SocketAddr = text.parse().unwrap();
    L4Address { ip: address.ip(), port: address.port(), protocol: Protocol::TCP }
}

fn service(name: &str, frontends: &[(u32, ServiceType, &str)], backends: &[&str]) -> Service {
    let frontend = |(id, kind, address): &(u32, ServiceType, &str)| Frontend {
        id: ServiceId(*id),
        kind: *kind,
        address: at(address),
        port: String::new(),
    };
    let backend = |address: &&str| Backend {
        address: at(address),
        port: String::new(),
        weight: 100,
        state: BackendState::Active,
        node: None,
    };
    Service::new(
        ServiceName { cluster: "default".to_owned(), space: "s".to_owned(), name: name.to_owned() },
        frontends.iter().map(frontend).collect(),
        backends.iter().map(backend).collect(),
    )
}

const FRONTENDS: [(ServiceType, &str); 7] = [
    (ServiceType::ClusterIp, "10.96.0.1:80"),
    (ServiceType::ClusterIp, "10.15.0.9:80"),
    (ServiceType::ClusterIp, "192.0.2.15:80"),
    (ServiceType::ClusterIp, "[fd96::1]:80"),
    (ServiceType::NodePort, "0.0.0.0:30080"),
    (ServiceType::NodePort, "0.0.0.0:80"),
    (ServiceType::LoadBalancer, "192.0.2.15:30080"),
];
const BACKENDS: [&str; 5] = ["10.15.0.2:80", "10.15.0.3:80", "10.16.0.2:80", "10.16.0.3:80", "[f00d::2]:80"];
const STATES: [BackendState; 5] = [
    BackendState::Active,
    BackendState::Terminating { serves: true },
    BackendState::Terminating { serves: false },
    BackendState::Quarantined,
    BackendState::Maintenance,
];

#[derive(Clone, Debug)]
enum Step {
    Put(Service),
    Remove(ServiceName),
    Publish(u16, Option<Service>),
    Around(Surroundings),
}

fn any_service() -> impl Strategy<Value = Service> {
    let policy = || prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)];
    (
        0..4_u32,
        prop::sample::subsequence((0..FRONTENDS.len()).collect::<Vec<_>>(), 0..4),
        prop::collection::vec((0..BACKENDS.len(), 0..STATES.len(), 0..3_u16), 0..5),
        policy(),
        policy(),
        any::<bool>(),
        1..4_u32,
    )
        .prop_map(|(name, frontends, backends, external, internal, prefer_local, first)| {
            let mut made = service(&format!("n{name}"), &[], &[]);
            for (n, frontend) in frontends.into_iter().enumerate() {
                let (kind, address) = FRONTENDS[frontend];
                let id = ServiceId(first + n as u32);
                made.frontends.push(Frontend { id, kind, address: at(address), port: String::new() });
            }
            for (which, state, weight) in backends {
                let address = at(BACKENDS[which]);
                if made.backends.iter().all(|backend| backend.address != address) {
                    let state = STATES[state];
                    made.backends.push(Backend { address, port: String::new(), weight, state, node: None });
                }
            }
            Service { external, internal, prefer_local, ..made }
        })
}

fn published() -> impl Strategy<Value = Service> {
    let address = prop_oneof![Just("0.0.0.0:30080"), Just("127.0.0.1:80"), Just("192.0.2.15:80")];
    (address, 0..2_u32).prop_map(|(address, id)| {
        service("published", &[((1 << 24) + id, ServiceType::HostPort, address)], &["10.15.0.2:80"])
    })
}

fn around() -> impl Strategy<Value = Surroundings> {
    let some = |all: &'static [&'static str]| {
        prop::sample::subsequence(all, 0..=all.len())
            .prop_map(|some| some.into_iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect::<BTreeSet<IpAddr>>())
    };
    let endpoints = some(&["10.15.0.2", "10.15.0.3", "f00d::2"]);
    let hosts = some(&["192.0.2.15", "192.0.2.16", "127.0.0.1", "fe80::1", "2001:db8::15"]);
    (endpoints, hosts, any::<bool>()).prop_map(|(endpoints, host, pool)| Surroundings {
        near: endpoints.union(&host).copied().collect(),
        host,
        pools: pool.then(|| "10.15.0.0/16".parse().unwrap()).into_iter().collect(),
        kvstore: BTreeSet::new(),
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any_service().prop_map(Step::Put),
        2 => (0..4).prop_map(|n| Step::Remove(service(&format!("n{n}"), &[], &[]).name)),
        1 => (1..3_u16, prop::option::of(published())).prop_map(|(id, service)| Step::Publish(id, service)),
        2 => around().prop_map(Step::Around),
    ]
}

/// Number, and whom new flows get from inside and from outside.
type Answer = (ServiceId, BTreeSet<L4Address>, BTreeSet<L4Address>);

/// What the rules come to for each address, with no thought of cost.
fn naive(
    records: &BTreeMap<ServiceName, Service>,
    published: &BTreeMap<u16, Service>,
    around: &Surroundings,
) -> BTreeMap<L4Address, Answer> {
    // In the order in which they are believed.
    let mut claims: Vec<(bool, u32, String, usize, &Service)> = Vec::new();
    for (id, service) in published {
        claims.extend(
            (0..service.frontends.len()).map(|n| (false, service.frontends[n].id.0, format!("{id:05}"), n, service)),
        );
    }
    for (name, service) in records {
        claims.extend(
            (0..service.frontends.len()).map(|n| (true, service.frontends[n].id.0, name.to_string(), n, service)),
        );
    }
    claims.sort_by(|a, b| (a.0, a.1, &a.2, a.3).cmp(&(b.0, b.1, &b.2, b.3)));
    let mut numbers: BTreeSet<u32> = BTreeSet::new();
    let mut answers = BTreeMap::new();
    for (_, id, _, n, service) in claims {
        let frontend = &service.frontends[n];
        let (ip, kind) = (frontend.address.ip, frontend.kind);
        if !numbers.insert(id) {
            continue;
        }
        let refused = match kind {
            ServiceType::HostPort => false,
            ServiceType::NodePort => !(30_000..=32_767).contains(&frontend.address.port),
            ServiceType::ClusterIp => around.host.contains(&ip) || around.pools.iter().any(|pool| pool.contains(ip)),
            _ => around.pools.iter().any(|pool| pool.contains(ip)),
        };
        if refused {
            continue;
        }
        // Where only services are, whatever else is asked for is refused.
        let own = matches!(kind, ServiceType::NodePort | ServiceType::HostPort)
            || around.host.contains(&ip)
            || ip.is_unspecified();
        if !own {
            answers.entry(L4Address { ip, port: 0, protocol: Protocol(0) }).or_insert((
                ServiceId(id),
                BTreeSet::new(),
                BTreeSet::new(),
            ));
        }
        let mut addresses = vec![ip];
        if ip.is_unspecified() {
            addresses.push("127.0.0.1".parse().unwrap());
            addresses.extend(around.host.iter().filter(|ip| ip.is_ipv4() && !ip.is_loopback()));
        }
        for ip in addresses {
            let outside = kind != ServiceType::ClusterIp && !ip.is_loopback();
            let inner = if kind == ServiceType::ClusterIp { service.internal } else { TrafficPolicy::Cluster };
            let (inside, outside) = match ip.is_unspecified() {
                true => (BTreeSet::new(), BTreeSet::new()),
                false => (
                    asked(service, ip.is_ipv4(), inner, around),
                    if outside { asked(service, ip.is_ipv4(), service.external, around) } else { BTreeSet::new() },
                ),
            };
            answers.entry(L4Address { ip, ..frontend.address }).or_insert((ServiceId(id), inside, outside));
        }
    }
    answers
}

fn asked(service: &Service, ipv4: bool, policy: TrafficPolicy, around: &Surroundings) -> BTreeSet<L4Address> {
    let near = |backend: &&Backend| around.near.contains(&backend.address.ip);
    let fit = |backend: &&Backend| {
        backend.address.ip.is_ipv4() == ipv4
            && backend.weight > 0
            && (policy == TrafficPolicy::Cluster || near(backend))
    };
    let with = |state: BackendState| {
        service.backends.iter().filter(move |backend| backend.state == state).filter(fit).collect::<Vec<_>>()
    };
    let active = with(BackendState::Active);
    let near_active: Vec<_> = active.iter().copied().filter(near).collect();
    let found = if service.prefer_local && !near_active.is_empty() {
        near_active
    } else if !active.is_empty() {
        active
    } else {
        with(BackendState::Terminating { serves: true })
    };
    found.into_iter().map(|backend| backend.address).collect()
}

fn answered(services: &Services) -> BTreeMap<L4Address, Answer> {
    services
        .frontends()
        .iter()
        .map(|(address, balancer)| {
            let named = |table: &model::service::Table| {
                table.places.iter().map(|place| balancer.backends[usize::from(*place)]).collect::<BTreeSet<_>>()
            };
            (*address, (balancer.id, named(&balancer.internal), named(&balancer.external)))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_is_answered_is_what_a_naive_reader_finds(steps in prop::collection::vec(step(), 1..30), maglev in any::<bool>()) {
        let algorithm = if maglev { Algorithm::Maglev } else { Algorithm::Random };
        let mut services = Services::new(Options { algorithm, maglev_size: 251, ..Options::default() });
        let (mut records, mut ports, mut last) = (BTreeMap::new(), BTreeMap::new(), Surroundings::default());
        for step in steps {
            match step {
                Step::Put(service) => {
                    services.put(service.clone());
                    records.insert(service.name.clone(), service);
                }
                Step::Remove(name) => {
                    services.remove(&name);
                    records.remove(&name);
                }
                Step::Publish(id, service) => {
                    services.publish(EndpointId(id), service.clone());
                    match service {
                        Some(service) => drop(ports.insert(id, service)),
                        None => drop(ports.remove(&id)),
                    }
                }
                Step::Around(around) => {
                    services.look_around(around.clone());
                    last = around;
                }
            }
            // Sees to it by itself that nothing was left as it was.
            services.refresh();
            prop_assert_eq!(answered(&services), naive(&records, &ports, &last));
        }
    }
}

/// A change of one among many touches that one: counted, not timed.
#[test]
fn one_among_many_is_no_more_work_than_one_among_few() {
    let mut services = Services::new(Options::default());
    for n in 0..20_000_u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let address = format!("10.{}.{b}.{c}:80", 96 + a);
        services.put(service(&format!("n{n}"), &[(n + 1, ServiceType::ClusterIp, &address)], &["10.15.0.2:80"]));
    }
    services.refresh();
    let before = services.frontends().clone();
    // Each, and its address as a whole.
    assert_eq!(before.len(), 40_000);
    services.put(service("one", &[(20_001, ServiceType::ClusterIp, "10.99.0.1:80")], &["10.15.0.2:80"]));
    assert_eq!((services.stale.len(), services.unsettled.len()), (1, 0));
    assert!(services.refresh());
    let mut changed = 0;
    before.differences(services.frontends(), |_, _, _| changed += 1);
    assert_eq!(changed, 2);
    assert!(!services.refresh(), "nothing was said");
}

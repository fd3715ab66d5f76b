//! What holds for every sequence of inputs, sensible or not.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the test")]

use ipnetwork::IpNetwork;
use model::desired::{Datapath, Status};
use model::label_filter::LabelFilter;
use model::{EndpointId, Identity, Labels};
use proptest::prelude::*;
use state::{
    AddressRequest, Config, EndpointChange, EndpointCreate, EndpointRef, Family, Input, Network, NodeName, Outputs,
    PoolRequest, Purpose, RemoteAddress, RemoteNode, Source, State, Subnet, SyncState, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

fn config() -> Config {
    Config {
        node: "n1".to_owned(),
        cluster: "default".to_owned(),
        cluster_id: 0,
        node_ipv4: Some("192.0.2.15".parse().unwrap()),
        node_ipv6: None,
        ipv4_range: Some("10.15.0.0/28".parse().unwrap()),
        ipv6_range: None,
        mtu: None,
        kvstore: std::collections::BTreeSet::new(),
        tunnel_overhead: Some(50),
        direct_routes: false,
        label_filter: LabelFilter::default(),
        policy: policy::Options::default(),
        shares_subnets: false,
        services: state::services::Options::default(),
        quarantine: state::QUARANTINE,
        docker_grace: state::DOCKER_GRACE,
    }
}

const POOLS: [&str; 4] = ["node-ipv4", "10.1.0.0/28", "10.1.0.8/29", "10.2.0.0/29"];
const RULES: [&str; 5] = [
    "[]",
    r#"[{"endpointSelector":{"matchLabels":{"id":"a"}},"ingress":[{"fromEndpoints":[{"matchLabels":{"id":"b"}}]}]}]"#,
    r#"[{"endpointSelector":{},"egress":[{"toCIDRSet":[{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}]}]}]"#,
    r#"[{"endpointSelector":{},"ingress":[{"fromCIDR":["10.1.0.3/32","192.0.2.0/24"]}]}]"#,
    r#"[{"endpointSelector":{},"unknown":[]}]"#,
];

fn address() -> impl Strategy<Value = Ipv4Addr> {
    let net = prop_oneof![Just([10, 15, 0]), Just([10, 1, 0]), Just([10, 2, 0]), Just([172, 18, 0])];
    (net, 0u8..18).prop_map(|([a, b, c], d)| Ipv4Addr::new(a, b, c, d))
}

fn labels() -> impl Strategy<Value = Labels> {
    prop_oneof![Just("a"), Just("b"), Just("c")]
        .prop_map(|id| LabelFilter::default().container_labels(&[("id".to_owned(), id.to_owned())].into()))
}

/// Of another node's endpoints alone.
fn remote_labels(n: u32) -> Labels {
    LabelFilter::default().container_labels(&[("id".to_owned(), format!("remote{n}"))].into())
}

const PREFIXES: [&str; 6] = ["10.1.0.0/28", "10.1.0.8/29", "10.2.0.0/29", "172.18.0.0/16", "10.15.0.0/29", "0.0.0.0/0"];

fn remote_node() -> impl Strategy<Value = RemoteNode> {
    (16u8..19, prop::sample::subsequence(&PREFIXES[..], 0..3), prop::option::of(address())).prop_map(
        |(last, prefixes, router)| RemoteNode {
            name: NodeName { cluster: "default".to_owned(), name: format!("n{last}") },
            addresses: [IpAddr::from([192, 0, 2, last])].into(),
            routers: router.map(IpAddr::V4).into_iter().collect(),
            health: BTreeSet::new(),
            prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        },
    )
}

fn docker_id() -> impl Strategy<Value = String> {
    (0..5).prop_map(|n| format!("e{n}"))
}

fn network_id() -> impl Strategy<Value = String> {
    (0..3).prop_map(|n| format!("n{n}"))
}

fn pool() -> impl Strategy<Value = String> {
    prop::sample::select(&POOLS[..]).prop_map(str::to_owned)
}

fn reference() -> impl Strategy<Value = EndpointRef> {
    prop_oneof![
        4 => docker_id().prop_map(EndpointRef::Docker),
        1 => (1u16..6).prop_map(|id| EndpointRef::Id(EndpointId(id))),
        1 => address().prop_map(|ip| EndpointRef::Address(IpAddr::V4(ip))),
        1 => prop_oneof![Just("x"), Just("y")].prop_map(|name| EndpointRef::ContainerName(name.to_owned())),
    ]
}

fn change() -> impl Strategy<Value = EndpointChange> {
    let raw = prop_oneof![Just("a"), Just("b"), Just("c")];
    let labels = raw.prop_map(|id| BTreeMap::from([("id".to_owned(), id.to_owned())]));
    (
        prop::option::of(prop_oneof![Just("x".to_owned()), Just("y".to_owned())]),
        prop::option::of(labels),
        prop::option::of(Just("/run/netns/1".to_owned())),
    )
        .prop_map(|(container_name, container_labels, sandbox)| EndpointChange {
            container_id: None,
            container_name,
            container_labels,
            sandbox,
            published: None,
        })
}

fn network() -> impl Strategy<Value = Network> {
    let subnet = prop_oneof![
        Just(("10.1.0.0/28", Some("10.1.0.1"))),
        Just(("10.2.0.0/29", None)),
        Just(("0.0.0.0/0", Some("10.15.0.2"))),
        Just(("172.18.0.0/16", Some("172.18.0.1"))),
        Just(("10.1.0.0/28", Some("10.9.0.1"))),
    ];
    (network_id(), subnet, any::<bool>(), prop::option::of(500u32..2000)).prop_map(
        |(id, (subnet, gateway), internal, mtu)| {
            let gateway = gateway.map(|gateway| gateway.parse().unwrap());
            let ipv4 = Some(Subnet { subnet: subnet.parse().unwrap(), gateway });
            Network { id, ipv4, ipv6: None, internal, mtu }
        },
    )
}

fn pool_request() -> impl Strategy<Value = PoolRequest> {
    let subnet =
        prop::option::of(prop::sample::select(&POOLS[1..]).prop_map(|text| text.parse::<IpNetwork>().unwrap()));
    let range = prop_oneof![4 => Just(None), 1 => Just(Some("10.1.0.4/30".parse().unwrap()))];
    let family = prop_oneof![9 => Just(Family::V4), 1 => Just(Family::V6)];
    (family, subnet, range).prop_map(|(family, subnet, range)| PoolRequest { family, subnet, range })
}

fn address_request() -> impl Strategy<Value = AddressRequest> {
    let purpose = prop_oneof![6 => Just(Purpose::Endpoint), 1 => Just(Purpose::Gateway), 1 => Just(Purpose::Reserved)];
    (pool(), prop::option::of(address()), purpose).prop_map(|(pool, address, purpose)| AddressRequest {
        pool,
        address: address.map(IpAddr::V4),
        part: None,
        owner: "docker".to_owned(),
        may_claim: true,
        purpose,
    })
}

fn identity() -> impl Strategy<Value = Identity> {
    (254u32..260).prop_map(Identity)
}

/// An input, or time that passes.
#[derive(Clone, Debug)]
enum Step {
    Input(Box<Input>),
    Wait(u64),
    /// The kernel has all that was published.
    Realise,
}

fn step() -> impl Strategy<Value = Step> {
    let mac = prop::option::weighted(0.1, Just("02:00:00:00:00:01".parse().unwrap()));
    let create = (docker_id(), network_id(), prop::option::weighted(0.95, address()), mac);
    let create = create.prop_map(|(docker_endpoint_id, docker_network_id, ipv4, mac)| {
        Input::EndpointCreate(EndpointCreate { docker_endpoint_id, docker_network_id, ipv4, ipv6: None, mac })
    });
    let policy = (1u64..6, prop::sample::select(&RULES[..]), any::<bool>());
    let policy = policy.prop_map(|(revision, rules, listed)| match listed {
        true => Input::PolicyListed { revision, rules: rules.into() },
        false => Input::PolicyDocument { revision, rules: rules.into() },
    });
    let remote = (address(), 0u32..3, 16u8..19).prop_map(|(ip, n, node)| Input::AddressKnown {
        address: IpAddr::V4(ip),
        record: RemoteAddress { identity: Identity(500 + n), node: IpAddr::from([192, 0, 2, node]) },
    });
    let input = prop_oneof![
        3 => remote_node().prop_map(Input::NodeKnown),
        1 => remote_node().prop_map(|node| Input::NodeGone(node.name)),
        3 => remote,
        1 => address().prop_map(|ip| Input::AddressGone { address: IpAddr::V4(ip) }),
        2 => (0u32..3).prop_map(|n| Input::IdentityKnown { identity: Identity(500 + n), labels: remote_labels(n) }),
        6 => create,
        6 => (reference(), change()).prop_map(|(endpoint, change)| Input::EndpointChange { endpoint, change }),
        2 => reference().prop_map(|endpoint| Input::EndpointDelete { endpoint }),
        3 => pool_request().prop_map(Input::PoolRequest),
        1 => pool().prop_map(|pool| Input::PoolRelease { pool }),
        6 => address_request().prop_map(Input::AddressRequest),
        2 => (pool(), address()).prop_map(|(pool, ip)| Input::AddressRelease { pool, address: IpAddr::V4(ip) }),
        3 => network().prop_map(Input::NetworkPut),
        1 => network_id().prop_map(|id| Input::NetworkDelete { id }),
        4 => (identity(), labels()).prop_map(|(identity, labels)| Input::IdentityKnown { identity, labels }),
        2 => identity().prop_map(|identity| Input::IdentityGone { identity }),
        3 => policy,
        1 => prop::collection::btree_set(docker_id(), 0..5).prop_map(Input::DockerEndpoints),
        1 => prop::collection::btree_set(network_id(), 0..3).prop_map(Input::DockerNetworks),
        1 => prop::collection::btree_set(address().prop_map(IpAddr::V4), 0..3).prop_map(Input::HostAddresses),
        1 => (1200u32..1500).prop_map(Input::UplinkMtu),
        1 => Just(Input::Synced(Source::Identities)),
        1 => prop_oneof![Just(Source::Policy), Just(Source::Identities)].prop_map(Input::Away),
        1 => Just(Input::Restore(BTreeMap::new())),
    ];
    prop_oneof![
        20 => input.prop_map(|input| Step::Input(Box::new(input))),
        2 => (1u64..40_000).prop_map(Step::Wait),
        2 => Just(Step::Realise),
    ]
}

/// A state, and what its sources would tell a state that starts anew.
struct Run {
    state: State,
    now: Timestamp,
    identities: BTreeMap<Identity, Labels>,
    host: BTreeSet<IpAddr>,
    nodes: BTreeMap<NodeName, RemoteNode>,
    remote: BTreeMap<IpAddr, RemoteAddress>,
}

impl Run {
    fn new() -> Run {
        let mut state = State::new(config()).unwrap();
        state.apply(Input::Restore(BTreeMap::new()), Timestamp(0)).unwrap();
        Run {
            state,
            now: Timestamp(0),
            identities: BTreeMap::new(),
            host: BTreeSet::new(),
            nodes: BTreeMap::new(),
            remote: BTreeMap::new(),
        }
    }

    /// Plays a step; whether it was taken.
    fn play(&mut self, step: Step) -> bool {
        let input = match step {
            Step::Wait(ms) => {
                self.now.0 += ms;
                return true;
            }
            Step::Realise => {
                let realised = self.state.outputs().datapath_revision().unwrap_or(0);
                Input::Datapath(Arc::new(Status { realised, ..Status::default() }))
            }
            Step::Input(input) => *input,
        };
        let taken = self.state.apply(input.clone(), self.now).is_ok();
        match input {
            Input::IdentityKnown { identity, labels } if taken => {
                self.identities.insert(identity, labels);
            }
            Input::IdentityGone { identity } => {
                self.identities.remove(&identity);
            }
            Input::HostAddresses(host) => self.host = host,
            Input::NodeKnown(node) => drop(self.nodes.insert(node.name.clone(), node)),
            Input::NodeGone(name) => drop(self.nodes.remove(&name)),
            Input::AddressKnown { address, record } => drop(self.remote.insert(address, record)),
            Input::AddressGone { address } => drop(self.remote.remove(&address)),
            _ => {}
        }
        taken
    }

    /// The same node after the process was killed.
    fn restarted(&mut self) -> Arc<Outputs> {
        let before = self.state.outputs();
        let mut state = State::new(config()).unwrap();
        let mut apply = |input| state.apply(input, self.now).unwrap();
        apply(Input::Restore((*before.records).clone()));
        apply(Input::HostAddresses(self.host.clone()));
        if before.view.policy.revision > 0 {
            let (revision, rules) = (before.view.policy.revision, before.view.policy.rules.clone());
            apply(Input::PolicyListed { revision, rules });
        }
        for (identity, labels) in &self.identities {
            apply(Input::IdentityKnown { identity: *identity, labels: labels.clone() });
        }
        for node in self.nodes.values() {
            apply(Input::NodeKnown(node.clone()));
        }
        for (address, record) in &self.remote {
            apply(Input::AddressKnown { address: *address, record: *record });
        }
        if before.view.sync[&Source::Identities] != SyncState::Waiting {
            apply(Input::Synced(Source::Identities));
        }
        state.outputs()
    }
}

/// The datapath part but for what a restart cannot know.
fn essence(outputs: &Outputs) -> Option<Datapath> {
    outputs.datapath.as_ref().map(|datapath| Datapath { revision: 0, settled: false, ..(**datapath).clone() })
}

fn check(outputs: &Outputs) -> Result<(), TestCaseError> {
    let view = &outputs.view;
    let mut seen = BTreeSet::new();
    for endpoint in view.endpoints.values() {
        let address = IpAddr::V4(endpoint.ipv4.unwrap());
        prop_assert!(seen.insert(address), "{address} is two endpoints'");
        prop_assert_eq!(view.ips[&IpNetwork::from(address)].endpoint, Some(endpoint.id));
        prop_assert_eq!(view.ips[&IpNetwork::from(address)].identity, endpoint.identity);
        let pooled = view.pools.values().any(|pool| pool.subnet.contains(address));
        let allocation = view.addresses.get(&address);
        prop_assert_eq!(pooled, allocation.is_some(), "{}", address);
        prop_assert!(allocation.is_none_or(|a| a.endpoint == Some(endpoint.id) && a.purpose == Purpose::Endpoint));
        if let Some(labels) = &endpoint.labels {
            prop_assert!(outputs.wanted_identities.contains(labels));
            let known = view.identities.values().any(|identity| identity.labels == *labels);
            prop_assert!(!known || endpoint.identity_labels == *labels, "{} keeps another identity", endpoint.id);
        }
        prop_assert_eq!(&view.identities[&endpoint.identity].labels, &endpoint.identity_labels);
    }
    let pools: Vec<_> = view.pools.values().collect();
    for pool in &pools {
        let overlapping = pools.iter().filter(|other| other.subnet.contains(pool.subnet.ip())).count();
        prop_assert_eq!(overlapping, 1, "{} overlaps", pool.subnet);
        prop_assert!(u128::from(pool.allocated) <= pool.capacity, "{:?}", pool);
        prop_assert!(!view.addresses.contains_key(&pool.gateway), "{} is given out", pool.gateway);
    }
    for address in view.addresses.keys() {
        prop_assert!(pools.iter().any(|pool| pool.subnet.contains(*address)), "{address} is in no pool");
    }
    let Some(datapath) = &outputs.datapath else { return Ok(()) };
    prop_assert!(datapath.revision <= outputs.revision);
    for endpoint in datapath.endpoints.values() {
        prop_assert!(datapath.policies.contains_key(&endpoint.identity), "no policy for {}", endpoint.identity);
        prop_assert!(endpoint.gateway4.is_none_or(|gateway| datapath.gateways.contains(&IpAddr::V4(gateway))));
    }
    for (prefix, vtep) in datapath.vteps.iter() {
        prop_assert!(datapath.nodes.contains_key(vtep), "{prefix} is behind {vtep}, which is no node");
        let ours = datapath.pools.iter().find(|pool| pool.contains(prefix.ip()) || prefix.contains(pool.ip()));
        prop_assert!(ours.is_none(), "{prefix} is behind {vtep} and ours: {ours:?}");
        let others = datapath.vteps.keys().filter(|other| other.contains(prefix.ip())).count();
        prop_assert_eq!(others, 1, "{} is two nodes'", prefix);
    }
    let shared = view.identities.keys().filter(|identity| identity.is_allocated());
    prop_assert_eq!(datapath.identities.keys().collect::<Vec<_>>(), shared.collect::<Vec<_>>());
    for (prefix, row) in &datapath.ipcache {
        prop_assert!(view.identities.contains_key(&row.identity), "{prefix} has an unknown identity");
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_tables_consistent(steps in prop::collection::vec(step(), 1..80)) {
        let mut run = Run::new();
        let mut before = run.state.outputs();
        for step in steps {
            let is_policy =
                matches!(&step, Step::Input(i) if matches!(**i, Input::PolicyDocument { .. } | Input::PolicyListed { .. }));
            let taken = run.play(step);
            let after = run.state.outputs();
            prop_assert!(Arc::ptr_eq(&after, &run.state.outputs()), "nothing happened, and yet there is a new snapshot");
            prop_assert!(after.revision >= before.revision);
            prop_assert!(after.datapath_revision() >= before.datapath_revision());
            if !taken && !is_policy {
                prop_assert!(Arc::ptr_eq(&before, &after), "a refused input changed something");
            }
            check(&after)?;
            // To hear the same again is to learn nothing, and all parts are made anew for it.
            run.play(Step::Input(Box::new(Input::HostAddresses(run.host.clone()))));
            prop_assert!(Arc::ptr_eq(&after, &run.state.outputs()), "a part was not made anew when it had changed");
            before = after;
        }
    }

    #[test]
    fn a_restart_brings_everything_back(steps in prop::collection::vec(step(), 1..80)) {
        let mut run = Run::new();
        for step in steps {
            run.play(step);
        }
        let before = run.state.outputs();
        let after = run.restarted();
        let believed = |outputs| essence(outputs).map(|datapath| datapath.identities).unwrap_or_default();
        // Nobody has told the new one of the uplink's MTU yet.
        let rest = |outputs| {
            let bare = |datapath| Datapath { identities: Default::default(), tunnel_mtu: None, ..datapath };
            let mut datapath = essence(outputs).map(bare);
            // Nor is what policies say of identities that are gone, see below.
            for map in datapath.iter_mut().flat_map(|datapath| datapath.policies.values_mut()) {
                let gone = |identity: &Identity| identity.is_allocated() && !run.identities.contains_key(identity);
                for identity in map.columns().keys().filter(gone).collect::<Vec<_>>() {
                    Arc::make_mut(map).set_column(identity, None);
                }
            }
            datapath
        };
        prop_assert_eq!(rest(&before), rest(&after));
        // What is gone from the kvstore and nobody's is forgotten when it comes to that, at a restart at the latest.
        for (identity, ()) in believed(&before).iter() {
            prop_assert!(believed(&after).contains_key(&identity) || !run.identities.contains_key(&identity));
        }
        for (identity, ()) in believed(&after).iter() {
            prop_assert!(believed(&before).contains_key(&identity));
        }
        prop_assert_eq!(&before.records, &after.records);
        prop_assert_eq!(&before.shared, &after.shared);
        prop_assert_eq!(&before.wanted_identities, &after.wanted_identities);
        prop_assert!(after.view.bad_records.is_empty(), "{:?}", after.view.bad_records);
    }

    /// The same inputs give the same outputs, whether they come one by one or in one batch.
    #[test]
    fn batches_do_not_matter(steps in prop::collection::vec(step(), 1..60)) {
        let (mut single, mut batch) = (Run::new(), Run::new());
        for step in steps {
            // What the kernel has depends on what was published meanwhile.
            if !matches!(step, Step::Realise) {
                single.play(step.clone());
                single.state.outputs();
                batch.play(step);
            }
        }
        let (single, batch) = (single.state.outputs(), batch.state.outputs());
        prop_assert_eq!(essence(&single), essence(&batch));
        prop_assert_eq!(&single.records, &batch.records);
        prop_assert_eq!(&single.shared, &batch.shared);
    }
}

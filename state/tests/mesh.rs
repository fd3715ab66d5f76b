//! Whatever another cluster tells, what this one and those before it tell stands.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the test")]

use ipnetwork::IpNetwork;
use model::label_filter::LabelFilter;
use model::{ClusterName, Identity, Label, Labels};
use proptest::collection::btree_set;
use proptest::prelude::*;
use state::{Config, Input, MeshFact, NodeName, Outputs, RemoteAddress, RemoteNode, Source, State, Timestamp};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The clusters, in the order in which they are believed: this one first.
const CLUSTERS: [(&str, u8); 3] = [("b", 7), ("a", 8), ("c", 9)];

fn name(cluster: &str) -> ClusterName {
    ClusterName::new(cluster).unwrap()
}

fn config() -> Config {
    Config {
        node: "n1".to_owned(),
        cluster: CLUSTERS[0].0.to_owned(),
        cluster_id: CLUSTERS[0].1,
        node_ipv4: Some("192.0.2.15".parse().unwrap()),
        node_ipv6: None,
        ipv4_range: Some("10.15.0.0/24".parse().unwrap()),
        ipv6_range: None,
        mtu: None,
        kvstore: BTreeSet::new(),
        tunnel_overhead: Some(50),
        direct_routes: false,
        label_filter: LabelFilter::default().in_cluster(name(CLUSTERS[0].0)),
        policy: policy::Options { cluster: Some(name(CLUSTERS[0].0)), ..policy::Options::default() },
        shares_subnets: false,
        services: state::services::Options::default(),
        quarantine: state::QUARANTINE,
        docker_grace: state::DOCKER_GRACE,
    }
}

/// Few enough that clusters meet: underlay addresses, some of them out of prefixes, and addresses of pods.
fn address() -> impl Strategy<Value = IpAddr> {
    let net =
        prop_oneof![3 => Just([192, 0, 2]), 1 => Just([10, 15, 0]), 2 => Just([10, 16, 0]), 2 => Just([10, 17, 0])];
    (net, 14u8..20).prop_map(|([a, b, c], d)| IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
}

fn prefix() -> impl Strategy<Value = IpNetwork> {
    let texts = ["10.15.0.0/24", "10.16.0.0/24", "10.16.0.16/30", "10.17.0.0/16", "10.0.0.0/8", "192.0.2.16/32"];
    prop::sample::select(texts.to_vec()).prop_map(|text| text.parse().unwrap())
}

fn cluster() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["a", "b", "c", "d"][..])
}

fn node() -> impl Strategy<Value = RemoteNode> {
    let name = (cluster(), 1u8..4).prop_map(|(cluster, n)| NodeName { cluster: cluster.into(), name: format!("n{n}") });
    (name, btree_set(address(), 0..3), btree_set(address(), 0..2), btree_set(prefix(), 0..3)).prop_map(
        |(name, addresses, routers, prefixes)| RemoteNode {
            name,
            addresses,
            routers,
            health: BTreeSet::new(),
            prefixes,
        },
    )
}

fn identity() -> impl Strategy<Value = Identity> {
    let cluster = prop_oneof![Just(0u32), Just(7), Just(8), Just(9), Just(255), Just(256)];
    (cluster, prop_oneof![Just(2u32), Just(4), Just(255), 300u32..303])
        .prop_map(|(cluster, number)| Identity(cluster << 16 | number))
}

fn labels() -> impl Strategy<Value = Labels> {
    let label =
        prop_oneof![
            (cluster(), prop::sample::select(&["k8s", "container", "any"][..]))
                .prop_map(|(cluster, source)| Label::new(source, model::CLUSTER_LABEL, cluster)),
            "[xy]".prop_map(|id| Label::new("container", "id", id)),
            Just(Label::reserved("host")),
        ];
    prop::collection::vec(label, 0..3).prop_map(|labels| labels.into_iter().collect())
}

/// A fact told by the cluster of this place in `CLUSTERS`; every other is within its rights.
fn fact() -> impl Strategy<Value = (usize, MeshFact)> {
    let record = (identity(), address()).prop_map(|(identity, node)| RemoteAddress { identity, node });
    let facts = prop_oneof![
        3 => (identity(), labels()).prop_map(|(identity, labels)| MeshFact::IdentityKnown { identity, labels }),
        1 => identity().prop_map(|identity| MeshFact::IdentityGone { identity }),
        4 => node().prop_map(MeshFact::NodeKnown),
        1 => node().prop_map(|node| MeshFact::NodeGone(node.name)),
        4 => (address(), record).prop_map(|(address, record)| MeshFact::AddressKnown { address, record }),
        1 => address().prop_map(|address| MeshFact::AddressGone { address }),
        1 => Just(MeshFact::Left),
        2 => (0u8..11).prop_map(|id| MeshFact::Joined { id }),
    ];
    (0..CLUSTERS.len(), facts, any::<bool>()).prop_map(|(place, fact, honest)| {
        let (cluster, id) = CLUSTERS[place];
        let own = |name: NodeName| NodeName { cluster: cluster.to_owned(), ..name };
        let fact = match fact {
            MeshFact::Joined { .. } => MeshFact::Joined { id },
            fact if !honest => fact,
            MeshFact::NodeKnown(node) => MeshFact::NodeKnown(RemoteNode { name: own(node.name), ..node }),
            MeshFact::NodeGone(name) => MeshFact::NodeGone(own(name)),
            MeshFact::IdentityKnown { identity, .. } => MeshFact::IdentityKnown {
                identity: Identity(identity.0 & 0xffff | u32::from(id) << 16),
                labels: [Label::new("container", "id", "x"), Label::new("k8s", model::CLUSTER_LABEL, cluster)]
                    .into_iter()
                    .collect(),
            },
            MeshFact::AddressKnown { address, record } => {
                let identity = Identity(record.identity.0 & 0xffff | u32::from(id) << 16);
                MeshFact::AddressKnown { address, record: RemoteAddress { identity, ..record } }
            }
            fact => fact,
        };
        (place, fact)
    })
}

/// What the state makes of what the first `count` clusters tell.
fn heard(facts: &[(usize, MeshFact)], count: usize) -> Arc<Outputs> {
    let mut state = State::new(config()).unwrap();
    let mut hear = |input| drop(state.apply(input, Timestamp(0)));
    hear(Input::Restore(Default::default()));
    hear(Input::HostAddresses(["192.0.2.15".parse().unwrap()].into()));
    hear(Input::PolicyListed { revision: 1, rules: "[]".into() });
    [Source::Identities, Source::Cluster, Source::Mesh].into_iter().for_each(|source| hear(Input::Synced(source)));
    for (cluster, id) in &CLUSTERS[1..count] {
        hear(Input::Mesh { cluster: name(cluster), fact: MeshFact::Joined { id: *id } });
    }
    for (place, fact) in facts.iter().filter(|(place, _)| *place < count) {
        let input = match fact.clone() {
            fact if *place > 0 => Input::Mesh { cluster: name(CLUSTERS[*place].0), fact },
            MeshFact::IdentityKnown { identity, labels } => Input::IdentityKnown { identity, labels },
            MeshFact::IdentityGone { identity } => Input::IdentityGone { identity },
            // What this cluster's kvstore says of others' nodes follows from which others there are.
            MeshFact::NodeKnown(node) if node.name.cluster != CLUSTERS[0].0 => continue,
            MeshFact::NodeKnown(node) => Input::NodeKnown(node),
            MeshFact::NodeGone(name) => Input::NodeGone(name),
            MeshFact::AddressKnown { address, record } => Input::AddressKnown { address, record },
            MeshFact::AddressGone { address } => Input::AddressGone { address },
            MeshFact::Joined { .. } | MeshFact::Left => continue,
        };
        hear(input);
    }
    state.outputs()
}

proptest! {
    #[test]
    fn what_is_told_stands_whatever_later_clusters_tell(facts in prop::collection::vec(fact(), 0..60)) {
        for count in 1..CLUSTERS.len() {
            let (without, with) = (heard(&facts, count), heard(&facts, count + 1));
            for (prefix, row) in without.view.ips.iter() {
                prop_assert_eq!(with.view.ips.get(prefix), Some(row), "{} of {} clusters", prefix, count + 1);
            }
            for (identity, known) in without.view.identities.iter() {
                let still = with.view.identities.get(&identity);
                prop_assert_eq!(still.map(|known| &known.labels), Some(&known.labels), "{}", identity);
            }
            let (without, with) = (without.datapath.as_ref().unwrap(), with.datapath.as_ref().unwrap());
            for (prefix, node) in without.vteps.iter() {
                prop_assert_eq!(with.vteps.get(prefix), Some(node));
            }
            for (address, node) in without.nodes.iter() {
                prop_assert_eq!(with.nodes.get(address), Some(node));
                prop_assert_eq!(with.clusters.get(address), without.clusters.get(address));
            }
        }
    }

    #[test]
    fn an_identity_is_of_the_cluster_that_its_number_and_its_labels_say(facts in prop::collection::vec(fact(), 0..60)) {
        let heard = heard(&facts, CLUSTERS.len());
        for (identity, known) in heard.view.identities.iter().filter(|(identity, _)| identity.is_allocated()) {
            let told = known.labels.iter().filter(|label| label.key == model::CLUSTER_LABEL);
            let told: BTreeSet<&str> = told.map(|label| label.value.as_str()).collect();
            let of = CLUSTERS.iter().find(|(_, id)| *id == identity.cluster_id());
            match of {
                Some((cluster, 7)) => prop_assert!(told.iter().all(|told| told == cluster), "{:?}", known.labels),
                Some((cluster, _)) => prop_assert_eq!(told.into_iter().collect::<Vec<_>>(), [*cluster]),
                None => prop_assert_eq!(identity.cluster_id(), 0),
            }
        }
        // And nobody is at an address behind another cluster's node.
        for (prefix, row) in heard.view.ips.iter().filter(|(_, row)| row.identity.is_allocated()) {
            let node = row.node.unwrap();
            let datapath = heard.datapath.as_ref().unwrap();
            let standing = datapath.nodes.get(&node).copied().unwrap_or(node);
            let cluster = datapath.clusters.get(&standing).copied().unwrap_or(CLUSTERS[0].1);
            let id = row.identity.cluster_id();
            prop_assert!(id == cluster || id == 0 && cluster == CLUSTERS[0].1, "{} {:?}", prefix, row);
        }
    }
}

//! Random rules, labels and options: few keys, values, prefixes and ports, so that they meet each other.

use model::{Label, Labels};
use policy::{AllowLocalhost, Enforcement, Options};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};

/// Prefixes that lie in each other, beside each other and in both families.
const PREFIXES: [&str; 12] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.1.0/24",
    "10.1.1.7/32",
    "10.2.0.0/16",
    "192.0.2.0/24",
    "::/0",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1::7/128",
    "fd00::/8",
];

/// A prefix with some that lie inside.
const NESTED: [(&str, &[&str]); 6] = [
    ("0.0.0.0/0", &["10.0.0.0/8", "192.0.2.0/24"]),
    ("10.0.0.0/8", &["10.1.0.0/16", "10.1.1.0/24", "10.2.0.0/16"]),
    ("10.1.0.0/16", &["10.1.1.0/24", "10.1.0.0/16"]),
    ("::/0", &["2001:db8::/32", "fd00::/8"]),
    ("2001:db8::/32", &["2001:db8:1::/48"]),
    ("192.0.2.0/24", &[]),
];

pub const PORTS: [u16; 12] = [0, 1, 8, 53, 79, 80, 81, 87, 88, 443, 1024, 65535];

const ENTITIES: [&str; 13] = [
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "host",
    "remote-node",
    "kube-apiserver",
    "health",
    "init",
    "ingress",
    "unmanaged",
    "none",
];

const KEYS: [&str; 9] = [
    "a",
    "b",
    "container:a",
    "k8s:a",
    "any:b",
    "reserved:host",
    "reserved:world",
    "reserved:world-ipv4",
    "cidr:10.0.0.0/8",
];

fn key() -> impl Strategy<Value = &'static str> {
    // Mostly keys that endpoints have.
    prop_oneof![3 => select(&KEYS[..2]), 2 => select(&KEYS[..])]
}

fn selector() -> impl Strategy<Value = Value> {
    let value = || select(&["x", "y", ""][..]);
    let expression = (key(), select(&["In", "NotIn", "Exists", "DoesNotExist"][..]), vec(value(), 1..3));
    let expression = expression.prop_map(|(key, operator, values)| match operator {
        "In" | "NotIn" => json!({"key": key, "operator": operator, "values": values}),
        _ => json!({"key": key, "operator": operator}),
    });
    prop_oneof![
        1 => Just(json!({})),
        4 => (key(), value()).prop_map(|(key, value)| json!({"matchLabels": {key: value}})),
        3 => vec(expression, 1..3).prop_map(|expressions| json!({"matchExpressions": expressions})),
    ]
}

/// At most one peer field, by its name without `from` or `to`; sometimes an empty one beside it.
fn peers(allow: bool, egress: bool) -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    let set = (select(&NESTED[..]), vec(any::<Index>(), 0..3)).prop_map(|((cidr, inner), chosen)| {
        let except: Vec<_> =
            if inner.is_empty() { Vec::new() } else { chosen.iter().map(|index| *index.get(inner)).collect() };
        if except.is_empty() { json!({"cidr": cidr}) } else { json!({"cidr": cidr, "except": except}) }
    });
    let mut empties = vec!["Endpoints", "CIDR", "CIDRSet", "Entities", "Groups", "Nodes"];
    empties.extend(egress.then_some("Services"));
    empties.extend((egress && allow).then_some("FQDNs"));
    let empty = select(empties).prop_map(|name| vec![(name, json!([]))]);
    let one = prop_oneof![
        5 => vec(selector(), 1..4).prop_map(|selectors| vec![("Endpoints", json!(selectors))]),
        3 => vec(select(&PREFIXES[..]), 1..4).prop_map(|prefixes| vec![("CIDR", json!(prefixes))]),
        3 => vec(set, 1..3).prop_map(|sets| vec![("CIDRSet", json!(sets))]),
        3 => vec(select(&ENTITIES[..]), 1..3).prop_map(|entities| vec![("Entities", json!(entities))]),
    ];
    prop_oneof![
        3 => Just(Vec::new()),
        1 => empty.clone(),
        8 => one.clone(),
        1 => (empty, one).prop_map(|(empty, one)| if empty[0].0 == one[0].0 { one } else { [empty, one].concat() }),
    ]
}

/// `toPorts`, `icmps` or neither.
fn traffic() -> impl Strategy<Value = Option<(&'static str, Value)>> {
    let protocol = select(&["TCP", "UDP", "SCTP", "ANY", "tcp", ""][..]);
    let port = (select(&PORTS[..]), option::weighted(0.4, select(&PORTS[..])), option::of(protocol)).prop_map(
        |(port, end, protocol)| {
            let mut written = json!({"port": port.to_string()});
            if let Some(end) = end.filter(|end| *end >= port) {
                written["endPort"] = json!(end);
            }
            if let Some(protocol) = protocol {
                written["protocol"] = json!(protocol);
            }
            written
        },
    );
    let field =
        (select(&[0u8, 1, 8, 53, 128][..]), option::of(select(&["IPv4", "IPv6"][..]))).prop_map(|(number, family)| {
            family.map_or(json!({"type": number}), |family| json!({"type": number, "family": family}))
        });
    prop_oneof![
        4 => Just(None),
        6 => vec(vec(port, 1..3), 1..3).prop_map(|lists| Some(("toPorts", lists.into_iter().map(|ports| json!({"ports": ports})).collect()))),
        2 => vec(field, 1..3).prop_map(|fields| Some(("icmps", json!([{"fields": fields}])))),
        1 => select(&["toPorts", "icmps"][..]).prop_map(|name| Some((name, json!([])))),
        1 => select(&["toPorts", "icmps"][..]).prop_map(|name| Some((name, json!([{}])))),
    ]
}

fn entry(allow: bool, egress: bool) -> impl Strategy<Value = Value> {
    let requires = option::weighted(0.15, vec(selector(), 0..3));
    (peers(allow, egress), traffic(), requires).prop_map(move |(peers, traffic, requires)| {
        let way = if egress { "to" } else { "from" };
        let mut entry: Map<String, Value> =
            peers.into_iter().map(|(name, value)| (format!("{way}{name}"), value)).collect();
        entry.extend(traffic.map(|(name, value)| (name.to_owned(), value)));
        entry.extend(requires.map(|selectors| (format!("{way}Requires"), json!(selectors))));
        Value::Object(entry)
    })
}

pub fn rule() -> impl Strategy<Value = Value> {
    let section = |allow, egress| option::of(vec(entry(allow, egress), 0..4));
    let default_deny = option::weighted(0.4, (option::of(any::<bool>()), option::of(any::<bool>())));
    let sections = (section(true, false), section(false, false), section(true, true), section(false, true));
    (prop_oneof![1 => Just(json!({})), 3 => selector()], sections, default_deny)
        .prop_filter("a rule must say something", |(_, (a, b, c, d), _)| {
            [a, b, c, d].into_iter().flatten().any(|list| !list.is_empty())
        })
        .prop_map(|(subject, (ingress, ingress_deny, egress, egress_deny), default_deny)| {
            let mut rule = json!({"endpointSelector": subject});
            for (name, list) in
                [("ingress", ingress), ("ingressDeny", ingress_deny), ("egress", egress), ("egressDeny", egress_deny)]
            {
                if let Some(list) = list {
                    rule[name] = json!(list);
                }
            }
            if let Some((ingress, egress)) = default_deny {
                rule["enableDefaultDeny"] = json!({"ingress": ingress, "egress": egress});
            }
            rule
        })
}

pub fn options() -> impl Strategy<Value = Options> {
    let enforcement =
        prop_oneof![8 => Just(Enforcement::Default), 2 => Just(Enforcement::Always), 1 => Just(Enforcement::Never)];
    let localhost = select(&[AllowLocalhost::Always, AllowLocalhost::Policy][..]);
    (enforcement, localhost).prop_map(|(enforcement, allow_localhost)| Options {
        enforcement,
        allow_localhost,
        cluster: None,
    })
}

pub fn container_labels() -> impl Strategy<Value = Labels> {
    let label = (select(&["container", "k8s"][..]), select(&["a", "b"][..]), select(&["x", "y", ""][..]));
    vec(label.prop_map(|(source, key, value)| Label::new(source, key, value)), 0..4)
        .prop_map(|labels| labels.into_iter().collect())
}

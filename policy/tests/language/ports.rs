//! Ports, ranges, protocols, names of ports and types of ICMP.

use crate::{Allowed, Denied, World, id};
use policy::trace::Decision;
use serde_json::{Value, json};

fn ports(ports: Value) -> World {
    World::of_a(json!({"ingress": [{"toPorts": [{"ports": ports}]}]}))
}

fn each(world: &World, port: u16) -> [Decision; 4] {
    ["TCP", "UDP", "SCTP", "ICMP"].map(|protocol| world.ask("b", "a", port, protocol, Value::Null))
}

#[test]
fn any_and_nothing_mean_the_three_protocols_with_ports() {
    for written in [
        json!([{"port": "8"}]),
        json!([{"port": "8", "protocol": "ANY"}]),
        json!([{"port": "8", "protocol": "any"}]),
        json!([{"port": "8", "protocol": ""}]),
    ] {
        assert_eq!(each(&ports(written), 8), [Allowed, Allowed, Allowed, Denied]);
    }
    assert_eq!(each(&ports(json!([{"port": "8", "protocol": "Udp"}])), 8), [Denied, Allowed, Denied, Denied]);
}

#[test]
fn port_zero_is_every_port_but_never_icmp() {
    let world = ports(json!([{"port": "0", "protocol": "ANY"}]));
    for port in [0, 1, 65535] {
        assert_eq!(each(&world, port), [Allowed, Allowed, Allowed, Denied], "{port}");
    }
    assert_eq!(each(&ports(json!([{"port": "0", "protocol": "TCP"}])), 80), [Allowed, Denied, Denied, Denied]);
}

#[test]
fn a_range_includes_its_ends() {
    let tcp = |written: Value| {
        let world = ports(json!([written]));
        [79, 80, 85, 90, 91].map(|port| world.tcp("b", "a", port))
    };
    assert_eq!(
        tcp(json!({"port": "80", "endPort": 90, "protocol": "TCP"})),
        [Denied, Allowed, Allowed, Allowed, Denied]
    );
    for end in [0, 80] {
        assert_eq!(
            tcp(json!({"port": "80", "endPort": end, "protocol": "TCP"})),
            [Denied, Allowed, Denied, Denied, Denied],
            "{end}"
        );
    }
    assert_eq!(tcp(json!({"port": "0", "endPort": 65535, "protocol": "TCP"})), [Allowed; 5]);
}

#[test]
fn ports_are_the_listening_sides_in_both_directions() {
    let world = World::of_a(json!({"egress": [{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}]}));
    assert_eq!((world.tcp("a", "b", 80), world.tcp("a", "b", 81), world.tcp("b", "a", 81)), (Allowed, Denied, Allowed));
}

#[test]
fn names_are_the_subjects_own_on_ingress_and_anybodys_on_egress() {
    let named = |name: &str, port: u16, protocol: &str| json!({name: {"port": port, "protocol": protocol}});
    let endpoints = json!({
        "a": {"labels": ["id=a"], "named-ports": named("web", 8080, "TCP")},
        "b": {"labels": ["id=b"], "named-ports": named("db", 5432, "TCP")},
        "c": {"labels": ["id=c"], "named-ports": named("db", 5432, "TCP")},
        "d": {"labels": ["id=d"], "named-ports": named("cache", 6379, "UDP")}});
    let world = |name: &str, ambiguous: bool| {
        let mut endpoints = endpoints.clone();
        if ambiguous {
            endpoints["c"]["named-ports"] = named("db", 5433, "TCP");
        }
        let entry = json!([{"toPorts": [{"ports": [{"port": name}]}]}]);
        World::of_a(json!({"ingress": entry, "egress": entry})).with("endpoints", endpoints)
    };
    assert_eq!((world("WEB", false).tcp("b", "a", 8080), world("web", false).tcp("b", "a", 80)), (Allowed, Denied));
    assert_eq!(world("web", false).udp("b", "a", 8080), Denied, "the name is of one protocol");
    assert_eq!(world("db", false).tcp("b", "a", 5432), Denied, "another endpoint's name");
    assert_eq!((world("db", false).tcp("a", "b", 5432), world("db", false).tcp("a", "d", 5432)), (Allowed, Allowed));
    assert_eq!(
        (world("db", true).tcp("a", "b", 5432), world("db", true).tcp("a", "b", 5433)),
        (Denied, Denied),
        "two numbers are none"
    );
    assert_eq!(
        (world("cache", false).udp("a", "b", 6379), world("cache", false).tcp("a", "b", 6379)),
        (Allowed, Denied)
    );
    assert_eq!(world("0x50", false).tcp("b", "a", 80), Denied, "that is a name");
}

#[test]
fn types_of_icmp_are_exact_even_zero() {
    let icmp = |fields: Value| World::of_a(json!({"ingress": [{"icmps": [{"fields": fields}]}]}));
    let ask = |world: &World, protocol: &str, kind: u16| world.ask("b", "a", kind, protocol, Value::Null);
    let reply = icmp(json!([{"type": 0}]));
    assert_eq!((ask(&reply, "ICMP", 0), ask(&reply, "ICMP", 8), ask(&reply, "ICMPv6", 0)), (Allowed, Denied, Denied));
    let named = icmp(json!([{"type": "EchoRequest"}, {"type": "NeighborSolicitation", "family": "IPv6"}]));
    assert_eq!(
        (ask(&named, "ICMP", 8), ask(&named, "ICMPv6", 135), ask(&named, "ICMPv6", 128)),
        (Allowed, Allowed, Denied)
    );
    assert_eq!(named.tcp("b", "a", 8), Denied);
    let nothing = World::of_a(json!({"ingress": [{"fromEndpoints": [id("b")], "icmps": [{}]}]}));
    assert_eq!(ask(&nothing, "ICMP", 8), Denied);
}

#[test]
fn protocols_without_ports() {
    let world = ports(json!([{"protocol": "VRRP"}]));
    assert_eq!(
        (
            world.ask("b", "a", 0, "VRRP", Value::Null),
            world.ask("b", "a", 0, "IGMP", Value::Null),
            world.tcp("b", "a", 0)
        ),
        (Allowed, Denied, Denied)
    );
}

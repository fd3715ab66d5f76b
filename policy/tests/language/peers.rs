//! Selectors, labels, entities, requirements, and which of absent, empty and `[{}]` is meant.

use crate::{Allowed, Denied, World, id, of_a, tcp_port};
use serde_json::{Value, json};

fn ingress(entries: Value) -> World {
    World::of_a(json!({"ingress": entries}))
}

#[test]
fn a_selector_without_parts_is_everybody_as_a_peer_and_every_endpoint_as_a_subject() {
    let peers = ingress(json!([{"fromEndpoints": [{}]}]));
    for from in ["b", "d", "@host", "@world", "192.0.2.1", "@remote-node"] {
        assert_eq!(peers.tcp(from, "a", 80), Allowed, "{from}");
    }
    let subjects = World::of(json!([{"endpointSelector": {}, "ingress": [{}]}]));
    assert_eq!(
        (subjects.tcp("a", "b", 80), subjects.tcp("a", "d", 80), subjects.tcp("a", "@host", 80)),
        (Denied, Denied, Allowed)
    );
    let null = World::of(json!([{"endpointSelector": null, "ingress": [{}]}]));
    assert_eq!(null.tcp("a", "b", 80), Denied);
}

#[test]
fn a_key_without_a_source_is_of_any_source_and_a_dot_parts_nothing() {
    for (key, from_b, from_c) in [
        ("id", Denied, Allowed),
        ("any:id", Denied, Allowed),
        ("k8s:id", Denied, Allowed),
        ("container:id", Denied, Denied),
        ("k8s.id", Denied, Denied),
    ] {
        let world = ingress(json!([{"fromEndpoints": [{"matchLabels": {key: "c"}}]}]));
        assert_eq!((world.tcp("b", "a", 80), world.tcp("c", "a", 80)), (from_b, from_c), "{key}");
    }
}

#[test]
fn all_parts_of_a_selector_must_match() {
    let world = ingress(
        json!([{"fromEndpoints": [{"matchLabels": {"id": "b"}, "matchExpressions": [{"key": "env", "operator": "In", "values": ["prod"]}]}]}]),
    );
    assert_eq!(world.tcp("b", "a", 80), Denied);
    let world = ingress(
        json!([{"fromEndpoints": [{"matchLabels": {"id": "b"}, "matchExpressions": [{"key": "env", "operator": "In", "values": ["prod", "test"]}]}]}]),
    );
    assert_eq!(world.tcp("b", "a", 80), Allowed);
}

#[test]
fn an_empty_value_is_a_value() {
    let world = ingress(json!([{"fromEndpoints": [{"matchLabels": {"plain": ""}}]}]));
    assert_eq!((world.tcp("d", "a", 80), world.tcp("b", "a", 80)), (Allowed, Denied));
    let world = ingress(json!([{"fromEndpoints": [{"matchLabels": {"id": ""}}]}]));
    assert_eq!(world.tcp("b", "a", 80), Denied);
}

#[test]
fn operators_that_ask_for_absence_match_the_world_too() {
    for expression in [
        json!({"key": "env", "operator": "NotIn", "values": ["prod"]}),
        json!({"key": "env", "operator": "DoesNotExist"}),
    ] {
        let world = ingress(json!([{"fromEndpoints": [{"matchExpressions": [expression]}]}]));
        for from in ["@world", "@host", "@remote-node", "192.0.2.1", "d"] {
            assert_eq!(world.tcp(from, "a", 80), Allowed, "{from} {expression}");
        }
    }
    let exists = ingress(json!([{"fromEndpoints": [{"matchExpressions": [{"key": "env", "operator": "Exists"}]}]}]));
    assert_eq!(
        (exists.tcp("b", "a", 80), exists.tcp("d", "a", 80), exists.tcp("@world", "a", 80)),
        (Allowed, Denied, Denied)
    );
}

#[test]
fn reserved_keys_are_entities() {
    for name in ["host", "world", "remote-node", "kube-apiserver", "health", "ingress", "unmanaged"] {
        let world = ingress(json!([{"fromEndpoints": [{"matchLabels": {format!("reserved:{name}"): ""}}]}]));
        assert_eq!(world.tcp(&format!("@{name}"), "a", 80), Allowed, "{name}");
        assert_eq!(world.tcp("b", "a", 80), Denied, "{name}");
    }
    let none = ingress(json!([{"fromEndpoints": [{"matchLabels": {"reserved:none": ""}}]}]));
    assert_eq!((none.tcp("b", "a", 80), none.tcp("@world", "a", 80)), (Denied, Denied));
}

#[test]
fn entities_select_their_own() {
    let peers = [
        "b",
        "init",
        "@host",
        "@world",
        "@world-ipv4",
        "192.0.2.1",
        "2001:db8::1",
        "@remote-node",
        "@kube-apiserver",
        "@health",
        "@ingress",
        "@unmanaged",
    ];
    for (entity, selected) in [
        ("all", &peers[..]),
        ("none", &[][..]),
        ("world", &["@world", "@world-ipv4", "192.0.2.1", "2001:db8::1"]),
        ("world-ipv4", &["@world-ipv4", "192.0.2.1"]),
        ("world-ipv6", &["2001:db8::1"]),
        ("host", &["@host"]),
        ("remote-node", &["@remote-node", "@kube-apiserver"]),
        ("kube-apiserver", &["@kube-apiserver"]),
        ("health", &["@health"]),
        ("ingress", &["@ingress"]),
        ("unmanaged", &["@unmanaged"]),
        ("init", &["init"]),
        // Every endpoint belongs to the cluster here.
        ("cluster", &["b", "init", "@host", "@remote-node", "@kube-apiserver", "@health", "@ingress", "@unmanaged"]),
    ] {
        // The init endpoint's own egress is closed; a rule opens it.
        let open =
            json!({"endpointSelector": {"matchLabels": {"reserved:init": ""}}, "egress": [{"toEndpoints": [{}]}]});
        let world = World::of(json!([open, of_a(json!({"ingress": [{"fromEntities": [entity]}]}))]));
        for peer in peers {
            let expected = if selected.contains(&peer) { Allowed } else { Denied };
            assert_eq!(world.tcp(peer, "a", 80), expected, "{entity} {peer}");
        }
    }
}

#[test]
fn the_four_shapes_of_an_entry() {
    let peers = ingress(json!([{"fromEndpoints": [id("b")]}]));
    assert_eq!(
        (peers.tcp("b", "a", 80), peers.udp("b", "a", 7), peers.ask("b", "a", 8, "ICMP", Value::Null)),
        (Allowed, Allowed, Allowed)
    );
    assert_eq!((peers.tcp("c", "a", 80), peers.ask("b", "a", 0, "GRE", Value::Null)), (Denied, Allowed));
    let ports = ingress(json!([{"toPorts": tcp_port(80)}]));
    assert_eq!(
        (ports.tcp("b", "a", 80), ports.tcp("@world", "a", 80), ports.tcp("@host", "a", 80), ports.tcp("b", "a", 81)),
        (Allowed, Allowed, Allowed, Denied)
    );
    let both = ingress(json!([{"fromEndpoints": [id("b")], "toPorts": tcp_port(80)}]));
    assert_eq!((both.tcp("b", "a", 80), both.tcp("b", "a", 81), both.tcp("c", "a", 80)), (Allowed, Denied, Denied));
    let neither = ingress(json!([{}]));
    assert_eq!((neither.tcp("b", "a", 80), neither.tcp("a", "b", 80)), (Denied, Allowed));
}

#[test]
fn absent_empty_and_one_empty_element_differ() {
    let both = |alone: Value| {
        let mut with_ports = alone.clone();
        with_ports["toPorts"] = tcp_port(80);
        let (alone, with_ports) = (ingress(json!([alone])), ingress(json!([with_ports])));
        [
            alone.tcp("b", "a", 80),
            alone.tcp("@world", "a", 81),
            with_ports.tcp("b", "a", 80),
            with_ports.tcp("b", "a", 81),
        ]
    };
    assert_eq!(both(json!({})), [Denied, Denied, Allowed, Denied]);
    assert_eq!(both(json!({"fromEndpoints": [{}]})), [Allowed, Allowed, Allowed, Denied]);
    for name in ["fromEndpoints", "fromEntities", "fromCIDR", "fromCIDRSet", "fromNodes", "fromGroups"] {
        assert_eq!(both(json!({name: []})), [Denied, Denied, Denied, Denied], "{name}");
    }
    for name in ["toFQDNs", "toServices", "toGroups"] {
        let egress = World::of_a(json!({"egress": [{name: [], "toPorts": tcp_port(80)}]}));
        assert_eq!(egress.tcp("a", "b", 80), Denied, "{name}: an empty list is nobody");
    }
    for untouched in [json!([]), Value::Null] {
        let world = World::of_a(json!({"ingress": untouched, "egress": [{}]}));
        assert_eq!((world.tcp("b", "a", 80), world.tcp("a", "b", 80)), (Allowed, Denied));
    }
    let beside = ingress(json!([{}, {"fromEndpoints": [id("b")]}]));
    assert_eq!((beside.tcp("b", "a", 80), beside.tcp("c", "a", 80)), (Allowed, Denied));
    let ports = |to_ports: Value| ingress(json!([{"fromEndpoints": [id("b")], "toPorts": to_ports}])).tcp("b", "a", 80);
    assert_eq!((ports(json!([])), ports(json!([{}])), ports(Value::Null)), (Allowed, Denied, Allowed));
}

#[test]
fn in_kubernetes_own_kind_absent_and_empty_are_everybody() {
    let policy = |ingress: Value| {
        World::of(json!([{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "x"}, "spec": {"podSelector": {}, "ingress": ingress}}]))
    };
    for ingress in [json!([{}]), json!([{"from": []}])] {
        let world = policy(ingress);
        assert_eq!((world.tcp("b", "c", 80), world.tcp("@world", "c", 80)), (Allowed, Allowed));
    }
    let closed = policy(json!([]));
    assert_eq!(
        (closed.tcp("b", "c", 80), closed.tcp("c", "b", 80), closed.tcp("b", "a", 80)),
        (Denied, Allowed, Allowed)
    );
}

#[test]
fn in_a_namespace_everybody_is_everybody_of_the_namespace() {
    let spec = json!({"endpointSelector": {}, "ingress": [{"fromEndpoints": [{}]}]});
    let world = World::of(
        json!([{"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "x"}, "spec": spec}]),
    );
    assert_eq!(
        (world.tcp("c", "c", 80), world.tcp("b", "c", 80), world.tcp("@world", "c", 80)),
        (Allowed, Denied, Denied)
    );
    assert_eq!(world.tcp("c", "a", 80), Allowed, "endpoints of no namespace are not selected");
    let everywhere = World::of(
        json!([{"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "x"}, "spec": spec}]),
    );
    assert_eq!(
        (everywhere.tcp("c", "a", 80), everywhere.tcp("b", "a", 80), everywhere.tcp("@host", "a", 80)),
        (Allowed, Denied, Denied)
    );
}

#[test]
fn requirements_narrow_label_peers_and_grant_nothing() {
    let requirement = json!({"fromRequires": [{"matchLabels": {"env": "prod"}}]});
    let world = World::of(json!([
        {"endpointSelector": id("b"), "ingress": [requirement]},
        {"endpointSelector": id("b"), "ingress": [{"fromEndpoints": [id("a"), id("c")]}, {"fromEntities": ["host"]}, {"toPorts": tcp_port(80)}]}]));
    assert_eq!((world.tcp("a", "b", 443), world.tcp("c", "b", 443)), (Allowed, Denied));
    assert_eq!(
        (world.tcp("@host", "b", 443), world.tcp("c", "b", 80)),
        (Allowed, Allowed),
        "entities and ports alone are not narrowed"
    );
    let alone = World::of(json!([{"endpointSelector": id("b"), "ingress": [requirement]}]));
    assert_eq!(alone.tcp("a", "b", 80), Denied);
}

#[test]
fn what_nothing_here_knows_selects_nobody() {
    for (name, value) in [
        ("toServices", json!([{"k8sService": {"serviceName": "x"}}])),
        ("toGroups", json!([{"aws": {"region": "x"}}])),
        ("toNodes", json!([{}])),
        ("toCIDRSet", json!([{"cidrGroupRef": "nowhere"}])),
    ] {
        for to in ["b", "@remote-node", "192.0.2.1"] {
            let world =
                World::of_a(json!({"egress": [{name: value.clone()}, {name: value.clone(), "toPorts": tcp_port(80)}]}));
            assert_eq!(world.tcp("a", to, 80), Denied, "{name} {to}");
        }
    }
}

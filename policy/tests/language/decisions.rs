//! What wins: enforcement, default deny, denies, both sides, the host.

use crate::{Allowed, Denied, World, id, of_a, tcp_port};
use serde_json::{Value, json};

#[test]
fn modes_of_enforcement() {
    let world = |mode: &str| {
        World::of(json!([of_a(json!({"ingress": [{"fromEndpoints": [id("b")]}], "ingressDeny": [{"fromEndpoints": [id("c")]}]})),
            {"endpointSelector": id("b"), "egress": [{"toEndpoints": [{}]}], "enableDefaultDeny": {"egress": false}},
            {"endpointSelector": id("c"), "egress": [{"toEndpoints": [{}]}]}])).with("enforcement", json!(mode))
    };
    let answers = |mode: &str| {
        let world = world(mode);
        [
            world.tcp("b", "a", 80),
            world.tcp("@world", "a", 80),
            world.tcp("c", "a", 80),
            world.tcp("a", "192.0.2.1", 80),
            world.tcp("@world", "b", 80),
        ]
    };
    assert_eq!(answers("default"), [Allowed, Denied, Denied, Allowed, Allowed]);
    assert_eq!(answers("always"), [Allowed, Denied, Denied, Denied, Denied]);
    assert_eq!(answers("never"), [Allowed; 5]);
}

#[test]
fn a_rule_that_only_denies_closes_too_unless_it_says_otherwise() {
    let deny = json!({"ingressDeny": [{"fromEndpoints": [id("b")]}]});
    let world = World::of_a(deny.clone());
    assert_eq!((world.tcp("b", "a", 80), world.tcp("c", "a", 80), world.tcp("a", "c", 80)), (Denied, Denied, Allowed));
    let mut gentle = deny;
    gentle["enableDefaultDeny"] = json!({"ingress": false});
    let world = World::of_a(gentle.clone());
    assert_eq!((world.tcp("b", "a", 80), world.tcp("c", "a", 80)), (Denied, Allowed));
    let closing = World::of(json!([of_a(gentle), of_a(json!({"ingress": [{}]}))]));
    assert_eq!(closing.tcp("c", "a", 80), Denied, "one rule that closes is enough");
}

#[test]
fn true_for_a_direction_that_the_rule_does_not_speak_of_does_nothing() {
    let world = World::of_a(json!({"ingress": [{}], "enableDefaultDeny": {"egress": true}}));
    assert_eq!((world.tcp("a", "b", 80), world.tcp("b", "a", 80)), (Allowed, Denied));
}

#[test]
fn an_endpoint_that_nothing_is_known_of_is_closed() {
    let world = World::of(json!([]));
    assert_eq!((world.tcp("init", "a", 80), world.tcp("a", "init", 80)), (Denied, Denied));
    let never = World::of(json!([])).with("enforcement", json!("never"));
    assert_eq!(never.tcp("init", "a", 80), Allowed);
    let open = World::of(
        json!([{"endpointSelector": {"matchLabels": {"reserved:init": ""}}, "egress": [{"toEndpoints": [{}]}]}]),
    );
    assert_eq!((open.tcp("init", "a", 80), open.tcp("a", "init", 80)), (Allowed, Denied));
}

#[test]
fn both_sides_must_allow_and_those_outside_enforce_nothing() {
    let out = json!({"endpointSelector": id("a"), "egress": [{"toEndpoints": [id("b")]}]});
    let closed = json!({"endpointSelector": id("b"), "ingress": [{}]});
    assert_eq!(World::of(json!([out])).tcp("a", "b", 80), Allowed);
    assert_eq!(World::of(json!([out, closed])).tcp("a", "b", 80), Denied);
    let open = json!({"endpointSelector": id("c"), "ingress": [{"fromEndpoints": [id("a")]}]});
    assert_eq!(World::of(json!([out, open])).tcp("a", "c", 80), Denied, "an ingress rule opens no egress");
    let world = World::of(json!([{"endpointSelector": {}, "ingress": [{}], "egress": [{}]}]));
    assert_eq!((world.tcp("@host", "@world", 80), world.tcp("192.0.2.1", "@remote-node", 80)), (Allowed, Allowed));
}

#[test]
fn allows_only_add_whatever_document_they_are_from() {
    let rules = [
        of_a(json!({"ingress": [{"fromEndpoints": [id("b")], "toPorts": tcp_port(80)}]})),
        of_a(json!({"ingress": [{"fromEndpoints": [id("c")]}]})),
        of_a(json!({"ingress": [{}]})),
    ];
    let joined = of_a(
        json!({"ingress": [{}, {"fromEndpoints": [id("c")]}, {"fromEndpoints": [id("b")], "toPorts": tcp_port(80)}]}),
    );
    let mut turned = rules.clone();
    turned.reverse();
    for policies in [json!(rules), json!(turned), json!([rules, turned]), json!([joined])] {
        let world = World::of(policies);
        assert_eq!(
            (world.tcp("b", "a", 80), world.tcp("b", "a", 81), world.tcp("c", "a", 81), world.tcp("d", "a", 80)),
            (Allowed, Denied, Allowed, Denied)
        );
    }
}

#[test]
fn a_deny_wins_in_every_dimension() {
    let world = |allow: Value, deny: Value| World::of_a(json!({"ingress": [allow], "ingressDeny": [deny]}));
    let from_b = json!({"fromEndpoints": [id("b")]});
    let port_80 = json!({"toPorts": tcp_port(80)});
    let b_80 = json!({"fromEndpoints": [id("b")], "toPorts": tcp_port(80)});
    let everyone = json!({"fromEndpoints": [{}]});
    let broad = world(b_80.clone(), from_b.clone());
    assert_eq!(broad.tcp("b", "a", 80), Denied, "all of b is denied, its port 80 too");
    let port = world(from_b.clone(), port_80.clone());
    assert_eq!(
        (port.tcp("b", "a", 80), port.tcp("b", "a", 81), port.ask("b", "a", 8, "ICMP", Value::Null)),
        (Denied, Allowed, Allowed)
    );
    let narrow = world(everyone.clone(), b_80.clone());
    assert_eq!(
        (narrow.tcp("b", "a", 80), narrow.tcp("b", "a", 81), narrow.tcp("c", "a", 80)),
        (Denied, Allowed, Allowed)
    );
    let all = world(b_80, everyone.clone());
    assert_eq!(all.tcp("b", "a", 80), Denied);
    let range = world(
        json!({"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}),
        json!({"toPorts": [{"ports": [{"port": "0", "endPort": 65535, "protocol": "TCP"}]}]}),
    );
    assert_eq!(range.tcp("b", "a", 80), Denied);
    let any = world(everyone, json!({"toPorts": [{"ports": [{"port": "80"}]}]}));
    let each = ["TCP", "UDP", "SCTP", "ICMP"].map(|protocol| any.ask("b", "a", 80, protocol, Value::Null));
    assert_eq!(each, [Denied, Denied, Denied, Allowed]);
}

#[test]
fn the_host_needs_a_rule_unless_it_is_always_let_in() {
    let world = |localhost: &str, deny: bool| {
        let mut rule = json!({"ingress": [{}]});
        if deny {
            rule["ingressDeny"] = json!([{"fromEntities": ["host"]}]);
        }
        World::of_a(rule).with("options", json!({"allow-localhost": localhost})).tcp("@host", "a", 80)
    };
    assert_eq!(
        (world("policy", false), world("auto", false), world("always", false), world("always", true)),
        (Denied, Denied, Allowed, Denied)
    );
    let others = World::of_a(json!({"ingress": [{}]})).with("options", json!({"allow-localhost": "always"}));
    assert_eq!(
        (others.tcp("@remote-node", "a", 80), others.tcp("@world", "a", 80), others.tcp("a", "@host", 80)),
        (Denied, Denied, Allowed)
    );
}

#[test]
fn rules_for_hosts_and_for_endpoints_keep_apart() {
    let rules = json!([{"nodeSelector": {}, "ingress": [{"fromEntities": ["remote-node"]}], "egress": [{}]}, {"endpointSelector": {}, "ingress": [{"fromEntities": ["host"]}]}]);
    let on = World::of(rules.clone()).with("options", json!({"host-firewall": true}));
    assert_eq!(
        (on.tcp("@world", "@host", 22), on.tcp("@remote-node", "@host", 22), on.tcp("@host", "@world", 443)),
        (Denied, Allowed, Denied)
    );
    assert_eq!((on.tcp("@host", "a", 80), on.tcp("a", "@host", 80)), (Allowed, Allowed), "judged at the endpoint");
    let off = World::of(rules);
    assert_eq!(
        (off.tcp("@world", "@host", 22), off.tcp("@host", "@world", 443), off.tcp("@world", "a", 80)),
        (Allowed, Allowed, Denied)
    );
}

//! Prefixes, excepted prefixes and names: how addresses outside are told apart.

use crate::{Allowed, Denied, World, of_a, tcp_port};
use serde_json::{Value, json};

fn egress(entries: Value) -> World {
    World::of_a(json!({"egress": entries}))
}

#[test]
fn a_prefix_is_masked_and_an_address_is_a_prefix() {
    let world = egress(json!([{"toCIDR": ["10.1.2.3/8", "192.0.2.7", "2001:db8::1"]}]));
    for (to, expected) in [
        ("10.200.0.1", Allowed),
        ("11.0.0.1", Denied),
        ("192.0.2.7", Allowed),
        ("192.0.2.8", Denied),
        ("2001:db8::1", Allowed),
        ("2001:db8::2", Denied),
    ] {
        assert_eq!(world.tcp("a", to, 80), expected, "{to}");
    }
}

#[test]
fn a_narrower_rule_elsewhere_takes_nothing_from_a_broad_one() {
    let broad = of_a(json!({"egress": [{"toCIDR": ["10.0.0.0/8"]}]}));
    let narrow = json!({"endpointSelector": {"matchLabels": {"id": "b"}}, "egress": [{"toCIDR": ["10.1.0.0/16"]}]});
    let world = World::of(json!([broad, narrow]));
    assert_eq!(
        (world.tcp("a", "10.1.2.3", 80), world.tcp("b", "10.1.2.3", 80), world.tcp("b", "10.2.0.1", 80)),
        (Allowed, Allowed, Denied)
    );
}

#[test]
fn an_exception_denies_nothing_that_another_allows() {
    let set = json!({"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.96.0.0/12"]}]});
    let world = egress(json!([set]));
    assert_eq!((world.tcp("a", "10.1.1.1", 80), world.tcp("a", "10.100.1.1", 80)), (Allowed, Denied));
    let other = egress(json!([set, {"toCIDR": ["10.100.0.0/16"]}]));
    assert_eq!((other.tcp("a", "10.100.1.1", 80), other.tcp("a", "10.101.1.1", 80)), (Allowed, Denied));
    let element =
        egress(json!([{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.96.0.0/12"]}, {"cidr": "10.96.0.0/16"}]}]));
    assert_eq!((element.tcp("a", "10.96.1.1", 80), element.tcp("a", "10.97.1.1", 80)), (Allowed, Denied));
}

#[test]
fn prefixes_are_never_our_own() {
    let world = egress(json!([{"toCIDR": ["0.0.0.0/0", "10.15.0.0/24"]}]));
    for to in ["b", "10.15.0.2", "@host", "@remote-node", "@health", "2001:db8::1"] {
        assert_eq!(world.tcp("a", to, 80), Denied, "{to}");
    }
    for to in ["192.0.2.1", "@world", "10.15.0.200"] {
        assert_eq!(world.tcp("a", to, 80), Allowed, "{to}");
    }
    for entry in [
        json!({"toEndpoints": [{}]}),
        json!({"toEntities": ["all"]}),
        json!({"toPorts": tcp_port(80)}),
        json!({"toEntities": ["world"]}),
    ] {
        let mentioned =
            json!({"endpointSelector": {"matchLabels": {"id": "b"}}, "egress": [{"toCIDR": ["192.0.2.0/24"]}]});
        let world = World::of(json!([mentioned, of_a(json!({"egress": [entry]}))]));
        assert_eq!(world.tcp("a", "192.0.2.1", 80), Allowed, "{entry}");
    }
}

#[test]
fn a_label_of_a_prefix_sees_what_others_mention() {
    let selecting = of_a(json!({"egress": [{"toEndpoints": [{"matchLabels": {"cidr:10.0.0.0/8": ""}}]}]}));
    let mentioning = json!({"endpointSelector": {"matchLabels": {"id": "b"}}, "egress": [{"toCIDR": ["10.1.0.0/16"]}]});
    let world = World::of(json!([selecting, mentioning]));
    assert_eq!((world.tcp("a", "10.1.2.3", 80), world.tcp("a", "10.2.0.1", 80)), (Allowed, Denied));
}

#[test]
fn a_denied_prefix_holds_every_longer_one_and_names_inside() {
    let world = World::of_a(json!({"egress": [{"toCIDR": ["10.1.2.0/24"]}, {"toFQDNs": [{"matchName": "in.test"}, {"matchName": "out.test"}]}],
        "egressDeny": [{"toCIDR": ["10.1.0.0/16"]}]})).with("fqdn-cache", json!({"in.test": ["10.1.7.7"], "out.test": ["10.2.7.7"]}));
    assert_eq!(
        (world.tcp("a", "10.1.2.3", 80), world.tcp("a", "in.test", 80), world.tcp("a", "out.test", 80)),
        (Denied, Denied, Allowed)
    );
}

#[test]
fn names_select_what_was_answered_for_them() {
    let cache = json!({"www.cilium.test": ["192.0.2.1", "2001:db8::1"], "cilium.test": ["192.0.2.2"], "a.b.cilium.test": ["192.0.2.3"],
        "subcilium.test": ["192.0.2.4"], "sub.cilium.test": ["192.0.2.5"], "subdomain.cilium.test": ["192.0.2.6"], "shared.test": ["192.0.2.1"]});
    let names = [
        "www.cilium.test",
        "cilium.test",
        "a.b.cilium.test",
        "subcilium.test",
        "sub.cilium.test",
        "subdomain.cilium.test",
    ];
    for (element, selected) in [
        (json!({"matchName": "Cilium.test."}), &["cilium.test"][..]),
        (json!({"matchPattern": "*.cilium.test"}), &["www.cilium.test", "sub.cilium.test", "subdomain.cilium.test"]),
        (json!({"matchPattern": "*cilium.test"}), &["cilium.test", "subcilium.test"]),
        (json!({"matchPattern": "sub*.cilium.test"}), &["sub.cilium.test", "subdomain.cilium.test"]),
        (
            json!({"matchPattern": "**.cilium.test"}),
            &["www.cilium.test", "a.b.cilium.test", "sub.cilium.test", "subdomain.cilium.test"],
        ),
        (json!({"matchPattern": "*"}), &names),
    ] {
        let world = egress(json!([{"toFQDNs": [element]}])).with("fqdn-cache", cache.clone());
        for name in names {
            let expected = if selected.contains(&name) { Allowed } else { Denied };
            assert_eq!(world.tcp("a", name, 443), expected, "{element} {name}");
        }
        assert_eq!(world.tcp("a", "unseen.cilium.test", 443), Denied, "no answer was seen");
        assert_eq!(world.tcp("a", "192.0.2.99", 443), Denied);
    }
    let shared = egress(json!([{"toFQDNs": [{"matchName": "shared.test"}]}])).with("fqdn-cache", cache);
    assert_eq!(shared.tcp("a", "192.0.2.1", 443), Allowed, "an address is shared with all of its names");
    assert_eq!(shared.tcp("a", "www.cilium.test", 443), Denied, "of which another address was not allowed");
}

#[test]
fn names_that_were_learnt_are_the_world_and_in_its_prefixes() {
    let cache = json!({"x.test": ["192.0.2.1"]});
    let mentioned =
        json!({"endpointSelector": {"matchLabels": {"id": "b"}}, "egress": [{"toFQDNs": [{"matchName": "x.test"}]}]});
    for entry in
        [json!({"toEntities": ["world"]}), json!({"toCIDR": ["192.0.2.0/24"]}), json!({"toCIDR": ["0.0.0.0/0"]})]
    {
        let world = World::of(json!([of_a(json!({"egress": [entry]})), mentioned])).with("fqdn-cache", cache.clone());
        assert_eq!(world.tcp("a", "x.test", 443), Allowed, "{entry}");
    }
}

//! Requests: HTTP, Kafka, DNS and TLS hellos, and how rules for them come together.

use crate::{Allowed, Denied, Redirected, World, http, id, of_a, tcp_port};
use policy::trace::Decision;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

fn ingress(entries: Value) -> World {
    World::of_a(json!({"ingress": entries}))
}

fn from_b(to_ports: Value) -> Value {
    json!({"fromEndpoints": [id("b")], "toPorts": to_ports})
}

#[test]
fn a_path_is_matched_as_a_whole_with_its_query() {
    let exact = ingress(json!([{"toPorts": http(json!([{"path": "/public"}]))}]));
    let open = ingress(json!([{"toPorts": http(json!([{"path": "/public.*"}]))}]));
    for (path, as_is, with_more) in [
        ("/public", Allowed, Allowed),
        ("/public/x", Denied, Allowed),
        ("/public?a=1", Denied, Allowed),
        ("/x/public", Denied, Denied),
    ] {
        assert_eq!((exact.get("b", "a", path), open.get("b", "a", path)), (as_is, with_more), "{path}");
    }
    let any = ingress(json!([{"toPorts": http(json!([{}]))}]));
    assert_eq!((any.get("b", "a", "/whatever"), any.tcp("b", "a", 80)), (Allowed, Redirected));
}

#[test]
fn field_names_are_known_in_any_case() {
    let world = ingress(
        json!([{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"HTTP": [{"METHOD": "GET", "Path": "/public"}]}}]}]),
    );
    assert_eq!((world.get("b", "a", "/public"), world.get("b", "a", "/private")), (Allowed, Denied));
}

#[test]
fn empty_rules_restrict_nothing() {
    for rules in [json!({}), json!({"http": []}), json!({"kafka": []}), Value::Null] {
        let world = ingress(json!([{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": rules}]}]));
        assert_eq!((world.tcp("b", "a", 80), world.get("b", "a", "/x")), (Allowed, Allowed));
    }
}

#[test]
fn one_selectors_lists_are_united() {
    let world = ingress(json!([from_b(http(json!([{"path": "/one"}]))), from_b(http(json!([{"path": "/two"}])))]));
    assert_eq!(
        (world.get("b", "a", "/one"), world.get("b", "a", "/two"), world.get("b", "a", "/three")),
        (Allowed, Allowed, Denied)
    );
}

#[test]
fn beside_plain_ports_every_request_passes_though_it_is_looked_at() {
    let world = ingress(json!([from_b(http(json!([{"path": "/one"}]))), from_b(tcp_port(80))]));
    assert_eq!((world.tcp("b", "a", 80), world.get("b", "a", "/three")), (Redirected, Allowed));
}

#[test]
fn different_selectors_keep_their_lists() {
    let everyone = json!({"toPorts": http(json!([{"path": "/all"}]))});
    let world = ingress(
        json!([from_b(http(json!([{"path": "/b"}]))), {"fromEndpoints": [id("c")], "toPorts": http(json!([{"path": "/c"}]))}, everyone]),
    );
    assert_eq!(
        [("b", "/b"), ("b", "/c"), ("b", "/all"), ("c", "/c"), ("c", "/b"), ("d", "/all"), ("d", "/b")]
            .map(|(from, path)| world.get(from, "a", path)),
        [Allowed, Denied, Allowed, Allowed, Denied, Allowed, Denied]
    );
}

#[test]
fn an_allow_without_ports_or_of_a_range_lifts_the_restriction() {
    let everyone = json!({"toPorts": http(json!([{"path": "/all"}]))});
    let range = json!([{"ports": [{"port": "0", "protocol": "TCP"}]}]);
    let wide = json!([{"ports": [{"port": "70", "endPort": 90, "protocol": "TCP"}]}]);
    for lifting in [json!({"fromEndpoints": [id("b")]}), from_b(range), from_b(wide), json!({"fromEndpoints": [{}]})] {
        let world = ingress(json!([everyone, lifting]));
        assert_eq!((world.tcp("b", "a", 80), world.get("b", "a", "/x")), (Redirected, Allowed), "{lifting}");
    }
    let world = ingress(json!([everyone, from_b(tcp_port(81))]));
    assert_eq!((world.get("b", "a", "/x"), world.tcp("b", "a", 81)), (Denied, Allowed), "another port lifts nothing");
}

#[test]
fn a_deny_comes_before_all_requests() {
    let world = World::of_a(
        json!({"ingress": [{"toPorts": http(json!([{}]))}], "ingressDeny": [{"fromEndpoints": [id("b")]}]}),
    );
    assert_eq!((world.get("b", "a", "/"), world.get("c", "a", "/")), (Denied, Allowed));
}

#[test]
fn nothing_is_refused_where_nothing_is_closed() {
    let gentle = World::of_a(
        json!({"ingress": [{"toPorts": http(json!([{"path": "/x"}]))}], "enableDefaultDeny": {"ingress": false}}),
    );
    assert_eq!(
        (gentle.tcp("b", "a", 80), gentle.get("b", "a", "/y"), gentle.tcp("b", "a", 81)),
        (Redirected, Allowed, Allowed)
    );
    let dns = json!([{"ports": [{"port": "53", "protocol": "UDP"}], "rules": {"dns": [{"matchName": "x.test"}]}}]);
    let gentle = World::of_a(json!({"egress": [{"toPorts": dns}], "enableDefaultDeny": {"egress": false}}));
    assert_eq!(ask_dns(&gentle, "a", "b", "y.test"), Allowed);
}

#[test]
fn the_host_that_is_always_let_in_asks_for_anything() {
    let world = ingress(json!([{"toPorts": http(json!([{"path": "/x"}]))}]));
    assert_eq!(world.get("@host", "a", "/y"), Denied);
    let always = world.with("options", json!({"allow-localhost": "always"}));
    assert_eq!((always.get("@host", "a", "/y"), always.get("b", "a", "/y")), (Allowed, Denied));
}

#[test]
fn requests_are_decided_on_both_sides() {
    let out = json!({"endpointSelector": id("b"), "egress": [{"toPorts": http(json!([{"path": "/(one|two)"}]))}]});
    let inside = of_a(json!({"ingress": [{"toPorts": http(json!([{"path": "/(two|three)"}]))}]}));
    let world = World::of(json!([out, inside]));
    assert_eq!(["/one", "/two", "/three"].map(|path| world.get("b", "a", path)), [Denied, Allowed, Denied]);
}

#[test]
fn of_several_parsers_for_one_peer_the_first_in_rank_gets_the_connection() {
    let kafka = json!([{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"kafka": [{}]}}]);
    let world = ingress(json!([from_b(kafka), {"toPorts": http(json!([{"path": "/x"}]))}]));
    assert_eq!(world.get("b", "a", "/x"), Allowed);
    assert_eq!(
        world.ask("b", "a", 80, "TCP", json!({"kafka": {"apiKey": "heartbeat"}})),
        Allowed,
        "the union of what applies"
    );
    assert_eq!(world.ask("c", "a", 80, "TCP", json!({"kafka": {"apiKey": "heartbeat"}})), Denied);
}

#[test]
fn what_cannot_be_merged_lets_nothing_through() {
    let element = |more: Value| {
        let mut element = json!({"ports": [{"port": "443", "protocol": "TCP"}]});
        element.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([element])
    };
    let http = element(json!({"rules": {"http": [{}]}}));
    let secret = |name: &str| json!({"terminatingTLS": {"secret": {"name": name}}});
    for (one, other, conflict) in [
        (http.clone(), element(json!({"rules": {"kafka": [{}]}})), true),
        (http.clone(), element(json!({"rules": {"l7proto": "x"}})), true),
        (element(json!({"rules": {"l7proto": "x"}})), element(json!({"rules": {"l7proto": "y"}})), true),
        (http.clone(), http.clone(), false),
        (http.clone(), element(json!({"serverNames": ["x.test"]})), true),
        (element(json!({"serverNames": ["x.test"]})), http.clone(), true),
        (element(secret("one")), element(secret("two")), true),
        (element(secret("one")), http.clone(), false),
        (http.clone(), element(json!({})), false),
    ] {
        let world = ingress(json!([from_b(one.clone()), from_b(other.clone())]));
        let expected = if conflict { Denied } else { Redirected };
        assert_eq!((world.tcp("b", "a", 443), world.tcp("a", "b", 443)), (expected, Allowed), "{one} {other}");
        let apart = ingress(json!([from_b(one.clone()), {"toPorts": other.clone()}]));
        assert_eq!(apart.tcp("b", "a", 443), Redirected, "different selectors do not meet: {one} {other}");
    }
    let modes = |one: &str, other: &str| {
        let entry =
            |mode: &str| json!({"fromEndpoints": [id("b")], "toPorts": tcp_port(80), "authentication": {"mode": mode}});
        ingress(json!([entry(one), entry(other)])).tcp("b", "a", 80)
    };
    assert_eq!((modes("required", "disabled"), modes("required", "required")), (Denied, Allowed));
}

fn ask_dns(world: &World, from: &str, to: &str, name: &str) -> Decision {
    world.ask(from, to, 53, "UDP", json!({"dns": {"query": name}}))
}

#[test]
fn dns_rules_are_those_of_the_exact_port() {
    let port = json!([{"port": "53", "protocol": "UDP"}]);
    let rules = json!([{"ports": port, "rules": {"dns": [{"matchName": "x.test"}]}}]);
    let world = World::of_a(json!({"egress": [{"toPorts": rules}]}));
    assert_eq!((ask_dns(&world, "a", "b", "X.test."), ask_dns(&world, "a", "b", "y.test")), (Allowed, Denied));
    let beside = |entry: Value| World::of_a(json!({"egress": [{"toPorts": rules}, entry]}));
    let to_b = json!({"toEndpoints": [id("b")]});
    assert_eq!(ask_dns(&beside(to_b), "a", "b", "y.test"), Denied, "an allow without ports does not lift them");
    let range = json!({"toPorts": [{"ports": [{"port": "50", "endPort": 60, "protocol": "UDP"}]}]});
    assert_eq!(ask_dns(&beside(range), "a", "b", "y.test"), Denied);
    let same = json!({"toEndpoints": [id("b")], "toPorts": [{"ports": port}]});
    assert_eq!(ask_dns(&beside(same.clone()), "a", "b", "y.test"), Allowed);
    assert_eq!(ask_dns(&beside(same), "a", "c", "y.test"), Denied, "a selector that does not hold the server");
    let own = json!({"toEndpoints": [id("c")], "toPorts": [{"ports": port, "rules": {"dns": [{"matchPattern": "*.c.test"}]}}]});
    let world = beside(own);
    assert_eq!((ask_dns(&world, "a", "c", "w.c.test"), ask_dns(&world, "a", "b", "w.c.test")), (Allowed, Denied));
    assert_eq!(ask_dns(&world, "a", "c", "x.test"), Allowed);
}

#[test]
fn any_port_may_have_dns_rules() {
    let rules = json!([{"ports": [{"port": "5353", "protocol": "ANY"}], "rules": {"dns": [{"matchPattern": "*"}]}}]);
    let world = World::of_a(json!({"egress": [{"toPorts": rules}]}));
    for protocol in ["UDP", "TCP"] {
        assert_eq!(world.ask("a", "b", 5353, protocol, json!({"dns": {"query": "."}})), Allowed, "{protocol}");
    }
}

#[test]
fn names_in_hellos_are_united_and_hold_for_all_of_their_selector() {
    let element = |names: Value| json!([{"ports": [{"port": "443", "protocol": "TCP"}], "serverNames": names}]);
    let hello = |world: &World, name: &str| world.ask("a", "192.0.2.1", 443, "TCP", json!({"sni": name}));
    let egress = |entries: Value| World::of_a(json!({"egress": entries}));
    let world = egress(
        json!([{"toEntities": ["world"], "toPorts": element(json!(["x.test"]))}, {"toEntities": ["world"], "toPorts": element(json!(["*.y.test"]))}]),
    );
    assert_eq!(["x.test", "a.y.test", "y.test"].map(|name| hello(&world, name)), [Allowed, Allowed, Denied]);
    let plain = json!([{"ports": [{"port": "443", "protocol": "TCP"}]}]);
    let same = egress(
        json!([{"toEntities": ["world"], "toPorts": element(json!(["x.test"]))}, {"toEntities": ["world"], "toPorts": plain}]),
    );
    assert_eq!(
        ["x.test", "z.test"].map(|name| hello(&same, name)),
        [Allowed, Denied],
        "plain ports of the same selector too"
    );
    let other = egress(
        json!([{"toEntities": ["world"], "toPorts": element(json!(["x.test"]))}, {"toCIDR": ["192.0.2.0/24"], "toPorts": plain}]),
    );
    assert_eq!(hello(&other, "z.test"), Allowed, "those of another selector are free");
    assert_eq!(other.tcp("a", "192.0.2.1", 443), Redirected);
}

#[test]
fn requests_behind_terminated_tls() {
    let element = json!([{"ports": [{"port": "443", "protocol": "TCP"}], "terminatingTLS": {"secret": {"name": "x"}},
        "serverNames": ["x.test"], "rules": {"http": [{"path": "/one"}]}}]);
    let world = World::of_a(json!({"egress": [{"toPorts": element}]}));
    let ask = |request: Value| world.ask("a", "192.0.2.1", 443, "TCP", request);
    assert_eq!(
        ask(json!({"http": {"path": "/one", "host": "x.test:443"}})),
        Allowed,
        "the hello is for the host that is asked for"
    );
    assert_eq!(ask(json!({"http": {"path": "/one", "host": "y.test"}, "sni": "x.test"})), Allowed, "unless it is said");
    assert_eq!(ask(json!({"http": {"path": "/one", "host": "x.test"}, "sni": "y.test"})), Denied);
    assert_eq!(ask(json!({"http": {"path": "/two", "host": "x.test"}})), Denied);
    assert_eq!((ask(json!({"sni": "x.test"})), ask(json!({"sni": "y.test"}))), (Allowed, Denied));
}

#[test]
fn listeners_and_foreign_parsers_decide_for_themselves() {
    let listener = |name: &str, priority: u8| {
        json!([{"ports": [{"port": "80", "protocol": "TCP"}],
        "listener": {"envoyConfig": {"kind": "CiliumEnvoyConfig", "name": "x"}, "name": name, "priority": priority}}])
    };
    let egress = |entries: Value| World::of_a(json!({"egress": entries}));
    let world = egress(json!([{"toPorts": listener("one", 1)}]));
    assert_eq!((world.tcp("a", "b", 80), world.get("a", "b", "/x")), (Redirected, Redirected));
    let two = |first: u8, second: u8| {
        egress(json!([{"toPorts": listener("one", first)}, {"toPorts": listener("two", second)}])).tcp("a", "b", 80)
    };
    assert_eq!((two(1, 2), two(3, 3)), (Redirected, Denied), "two of one rank cannot be merged");
    let foreign =
        ingress(json!([from_b(json!([{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"l7proto": "x"}}]))]));
    assert_eq!((foreign.tcp("b", "a", 80), foreign.get("b", "a", "/x")), (Redirected, Redirected));
}

/// An entry in the small world of the property below: whom it is about, on which ports, and which paths it lets pass.
#[derive(Clone, Debug)]
struct Small {
    peer: &'static str,
    ports: Option<(u16, u16)>,
    paths: Option<Vec<&'static str>>,
}

impl Small {
    fn covers(&self, from: &str, port: u16) -> bool {
        (self.peer == "everyone" || self.peer == from)
            && self.ports.is_none_or(|(first, last)| (first..=last).contains(&port))
    }

    fn entry(&self) -> Value {
        let mut entry = json!({"fromEndpoints": [if self.peer == "everyone" { json!({}) } else { id(self.peer) }]});
        if let Some((first, last)) = self.ports {
            let mut element = json!({"ports": [{"port": first.to_string(), "endPort": last, "protocol": "TCP"}]});
            if let Some(paths) = &self.paths {
                let rules: Vec<Value> = paths.iter().map(|path| json!({"path": path})).collect();
                element["rules"] = json!({"http": rules});
            }
            entry["toPorts"] = json!([element]);
        }
        entry
    }
}

fn small() -> impl Strategy<Value = Small> {
    let peer = select(&["b", "c", "everyone"][..]);
    let ports = select(&[None, Some((80, 80)), Some((81, 81)), Some((70, 90)), Some((1, 65535))][..]);
    let paths = prop::option::weighted(0.7, prop::collection::vec(select(&["/x", "/y", "/[xz]"][..]), 1..3));
    (peer, ports, paths).prop_map(|(peer, ports, paths)| Small {
        peer,
        ports,
        paths: paths.filter(|_| ports.is_some()),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_request_passes_when_some_entry_lets_it_and_none_denies(
        allows in prop::collection::vec(small(), 0..6),
        denies in prop::collection::vec(small(), 0..2),
        rotation in any::<usize>(),
    ) {
        let deny = |small: &Small| Small { paths: None, ..small.clone() }.entry();
        let rule = |small: &Small| of_a(json!({"ingress": [small.entry()]}));
        let mut rules: Vec<Value> = allows.iter().map(rule).collect();
        rules.push(of_a(json!({"ingress": [{}], "ingressDeny": denies.iter().map(deny).collect::<Vec<_>>()})));
        rules.rotate_left(rotation % allows.len().max(1));
        let world = World::of(json!(rules));
        for from in ["b", "c", "d"] {
            let denied = denies.iter().any(|small| small.covers(from, 80));
            let covering: Vec<&Small> = allows.iter().filter(|small| small.covers(from, 80)).collect();
            let parsed = covering.iter().any(|small| small.paths.is_some());
            let connection = if denied || covering.is_empty() { Denied } else if parsed { Redirected } else { Allowed };
            prop_assert_eq!(world.tcp(from, "a", 80), connection);
            for path in ["/x", "/y", "/z", "/xz"] {
                let lets = |small: &&Small| match &small.paths {
                    None => true,
                    Some(paths) => paths.iter().any(|rule| *rule == path || *rule == "/[xz]" && ["/x", "/z"].contains(&path)),
                };
                let expected = if !denied && covering.iter().any(lets) { Allowed } else { Denied };
                prop_assert_eq!(world.get(from, "a", path), expected, "{} {}", from, path);
            }
        }
    }
}

use super::*;
use crate::cidr::cidr_labels;
use crate::parse_rules;
use crate::resolve::AllowLocalhost;
use model::{Direction, Label, PolicyEntry, PolicyKey, Protocol};
use serde_json::{Value, json};

const WEB: Identity = Identity(300);
const CLIENT: Identity = Identity(301);
const OTHER: Identity = Identity(302);
const PREFIX: u32 = Identity::FIRST_LOCAL;

fn labels(texts: &[&str]) -> Labels {
    texts.iter().map(|text| text.parse::<Label>().unwrap()).collect()
}

/// Three containers; every prefix that the rules mention has an identity too, in order from `PREFIX` on.
fn identities(repository: &Repository) -> BTreeMap<Identity, Labels> {
    let mut identities = BTreeMap::from([
        (WEB, labels(&["container:id=web", "container:env=prod"])),
        (CLIENT, labels(&["container:id=client", "container:env=prod"])),
        (OTHER, labels(&["container:id=other", "container:env=test"])),
    ]);
    let prefixes = repository.mentioned_prefixes();
    identities.extend(prefixes.iter().zip(PREFIX..).map(|(prefix, number)| (Identity(number), cidr_labels(*prefix))));
    identities
}

fn repository(rules: Value) -> Repository {
    let mut repository = Repository::new();
    repository.add(parse_rules(&rules.to_string()).unwrap());
    repository
}

fn resolve_with(rules: Value, options: Options, subject: &Labels) -> PolicyMap {
    let repository = repository(rules);
    let identities = identities(&repository);
    let map = Resolver::new(&repository, &identities, options).resolve(subject);
    (*map).clone()
}

fn resolve(rules: Value) -> PolicyMap {
    resolve_with(rules, Options::default(), &labels(&["container:id=web", "container:env=prod"]))
}

/// The map of `web` under one rule for it with these sections.
fn with(sections: Value) -> PolicyMap {
    let mut rule = json!({"endpointSelector": {"matchLabels": {"id": "web"}}});
    rule.as_object_mut().unwrap().extend(sections.as_object().unwrap().clone());
    resolve(json!([rule]))
}

fn ingress(entry: Value) -> PolicyMap {
    with(json!({"ingress": [entry]}))
}

fn allowed(map: &PolicyMap, direction: Direction, peer: Identity, protocol: Protocol, port: u16) -> bool {
    map.lookup(direction, peer, protocol, port).is_some_and(|entry| !entry.deny)
}

/// Which of a handful of probes get in: (client, TCP 80), (client, ICMP 8), (world, TCP 80), (world, TCP 81).
fn probes(map: &PolicyMap) -> [bool; 4] {
    [
        (CLIENT, Protocol::TCP, 80),
        (CLIENT, Protocol::ICMP, 8),
        (Identity::WORLD, Protocol::TCP, 80),
        (Identity::WORLD, Protocol::TCP, 81),
    ]
    .map(|(peer, protocol, port)| allowed(map, Direction::Ingress, peer, protocol, port))
}

const NOTHING: [bool; 4] = [false; 4];
const EVERYTHING: [bool; 4] = [true; 4];
const PORT_80_FROM_ANYONE: [bool; 4] = [true, false, true, false];

#[test]
fn the_main_example() {
    let repository = repository(serde_json::from_str(include_str!("../../../examples/policies/l3-l4.json")).unwrap());
    let identities = BTreeMap::from([
        (WEB, labels(&["container:id=app1"])),
        (CLIENT, labels(&["container:id=app2"])),
        (OTHER, labels(&["container:id=app3"])),
    ]);
    let mut resolver = Resolver::new(&repository, &identities, Options::default());
    let map = resolver.resolve(&identities[&WEB]);
    let expected = BTreeMap::from([
        (PolicyKey::one_port(Direction::Ingress, CLIENT, Protocol::TCP, 80), PolicyEntry::ALLOW),
        (PolicyKey::any_port(Direction::Egress, Identity::UNKNOWN), PolicyEntry::ALLOW),
    ]);
    assert_eq!(map.iter().collect::<BTreeMap<_, _>>(), expected);
    assert!(map.enforced_ingress && !map.enforced_egress);
    assert_eq!(*resolver.resolve(&identities[&CLIENT]), PolicyMap::allow_all());
}

#[test]
fn absent_empty_and_wild_peers() {
    let ports = json!([{"ports": [{"port": "80", "protocol": "TCP"}]}]);
    for field in ["fromEndpoints", "fromEntities", "fromCIDR", "fromCIDRSet", "fromNodes", "fromGroups"] {
        assert_eq!(probes(&ingress(json!({field: []}))), NOTHING, "{field}");
        assert_eq!(probes(&ingress(json!({field: [], "toPorts": ports}))), NOTHING, "{field}");
    }
    assert_eq!(probes(&ingress(json!({}))), NOTHING);
    assert_eq!(probes(&ingress(json!({"toPorts": ports}))), PORT_80_FROM_ANYONE);
    assert_eq!(probes(&ingress(json!({"fromEndpoints": [{}]}))), EVERYTHING);
    assert_eq!(probes(&ingress(json!({"fromEndpoints": [{}], "toPorts": ports}))), PORT_80_FROM_ANYONE);
    assert_eq!(probes(&ingress(json!({"fromEntities": ["all"], "toPorts": ports}))), PORT_80_FROM_ANYONE);
}

#[test]
fn empty_destinations_are_nobody() {
    let ports = json!([{"ports": [{"port": "80", "protocol": "TCP"}]}]);
    for field in ["toFQDNs", "toServices", "toGroups", "toEndpoints", "toNodes"] {
        let map = with(json!({"egress": [{field: [], "toPorts": ports}]}));
        assert!(map.enforced_egress && !map.enforced_ingress);
        assert!(!allowed(&map, Direction::Egress, Identity::WORLD, Protocol::TCP, 80), "{field}");
    }
}

#[test]
fn empty_directions_and_entries() {
    assert!(!with(json!({"ingress": [], "egress": [{}]})).enforced_ingress);
    assert_eq!(probes(&with(json!({"ingress": [], "egress": [{}]}))), EVERYTHING);
    let map = with(json!({"ingress": [{}, {"fromEndpoints": [{"matchLabels": {"id": "client"}}]}]}));
    assert_eq!(probes(&map), [true, true, false, false]);
    assert_eq!(probes(&ingress(json!({"fromEndpoints": [{}], "toPorts": []}))), EVERYTHING);
    assert_eq!(probes(&ingress(json!({"fromEndpoints": [{}], "toPorts": [{}]}))), NOTHING);
    assert_eq!(probes(&ingress(json!({"toPorts": [{}]}))), NOTHING);
    assert_eq!(probes(&ingress(json!({"icmps": [{}]}))), NOTHING);
    assert_eq!(probes(&ingress(json!({"toPorts": []}))), NOTHING);
}

#[test]
fn denies_win_in_every_dimension() {
    let from = |id: &str| json!([{"matchLabels": {"id": id}}]);
    let tcp_80 = json!([{"ports": [{"port": "80", "protocol": "TCP"}]}]);
    // Deny {client, any} against allow {client, 80}.
    let map = with(
        json!({"ingress": [{"fromEndpoints": from("client"), "toPorts": tcp_80}], "ingressDeny": [{"fromEndpoints": from("client")}]}),
    );
    assert_eq!(probes(&map), NOTHING);
    // Deny {anyone, 80} against allow {client, any}.
    let map = with(json!({"ingress": [{"fromEndpoints": from("client")}], "ingressDeny": [{"toPorts": tcp_80}]}));
    assert_eq!(probes(&map), [false, true, false, false]);
    // Deny {client, 80} against allow {anyone, any}.
    let map = with(
        json!({"ingress": [{"fromEndpoints": [{}]}], "ingressDeny": [{"fromEndpoints": from("client"), "toPorts": tcp_80}]}),
    );
    assert_eq!(probes(&map), [false, true, true, true]);
    // Deny ANY 80 refuses each protocol with ports.
    let map = with(
        json!({"ingress": [{"fromEndpoints": [{}]}], "ingressDeny": [{"toPorts": [{"ports": [{"port": "80"}]}]}]}),
    );
    for (protocol, port, expected) in [
        (Protocol::TCP, 80, false),
        (Protocol::UDP, 80, false),
        (Protocol::SCTP, 80, false),
        (Protocol::TCP, 81, true),
        (Protocol::ICMP, 8, true),
    ] {
        assert_eq!(allowed(&map, Direction::Ingress, CLIENT, protocol, port), expected, "{protocol} {port}");
    }
}

#[test]
fn a_deny_alone_switches_to_default_deny_unless_told_otherwise() {
    let deny = json!([{"fromEndpoints": [{"matchLabels": {"id": "client"}}]}]);
    assert_eq!(probes(&with(json!({"ingressDeny": deny}))), NOTHING);
    let map = with(json!({"ingressDeny": deny, "enableDefaultDeny": {"ingress": false}}));
    assert_eq!(probes(&map), [false, false, true, true]);
    assert!(map.enforced_ingress);
    let map = with(json!({"ingressDeny": deny, "enableDefaultDeny": {"egress": true}}));
    assert!(!map.enforced_egress);
}

#[test]
fn one_rule_with_default_deny_is_enough() {
    let soft = json!({"endpointSelector": {}, "ingress": [{"fromEntities": ["host"]}], "enableDefaultDeny": {"ingress": false}});
    assert_eq!(probes(&resolve(json!([soft]))), EVERYTHING);
    let hard = json!({"endpointSelector": {}, "ingress": [{}]});
    assert_eq!(probes(&resolve(json!([soft, hard]))), NOTHING);
}

/// CVE-2024-47825: a broad deny by prefix held against a narrower allow, also where nothing is denied by default.
#[test]
fn a_broad_denied_prefix_covers_a_narrower_allowed_one() {
    for default_deny in [json!({}), json!({"egress": false})] {
        let map = with(json!({"enableDefaultDeny": default_deny,
            "egress": [{"toCIDR": ["10.1.0.0/16"]}, {"toEntities": ["world"], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}],
            "egressDeny": [{"toCIDR": ["10.0.0.0/8"]}]}));
        for number in [PREFIX, PREFIX + 1] {
            assert!(!allowed(&map, Direction::Egress, Identity(number), Protocol::TCP, 80), "{number}");
        }
        assert!(allowed(&map, Direction::Egress, Identity::WORLD, Protocol::TCP, 80));
    }
}

/// CVE-2025-64715: an empty peer list beside ports meant anyone.
#[test]
fn an_empty_peer_list_never_means_anyone() {
    let map = with(json!({"egress": [{"toGroups": [], "toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}]}]}],
        "egressDeny": [{"toEndpoints": [], "toPorts": [{"ports": [{"port": "80"}]}]}], "enableDefaultDeny": {"egress": false}}));
    assert!(map.iter().all(|(_, entry)| !entry.deny));
}

/// CVE-2023-27594: traffic from the world taken for the host's, and let in by the implicit allow.
#[test]
fn what_is_allowed_to_the_host_is_not_allowed_to_the_world() {
    let options = Options { allow_localhost: AllowLocalhost::Always, ..Options::default() };
    let rule = json!([{"endpointSelector": {}, "ingress": [{}]}]);
    let map = resolve_with(rule, options, &labels(&["container:id=web"]));
    assert!(allowed(&map, Direction::Ingress, Identity::HOST, Protocol::TCP, 80));
    for peer in [Identity::WORLD, Identity::REMOTE_NODE, Identity::INIT, Identity::UNKNOWN, CLIENT] {
        assert!(!allowed(&map, Direction::Ingress, peer, Protocol::TCP, 80), "{peer}");
    }
}

#[test]
fn the_host_needs_a_rule_unless_it_is_always_allowed() {
    let closed = json!([{"endpointSelector": {}, "ingress": [{}]}]);
    let denied = json!([{"endpointSelector": {}, "ingress": [{"fromEndpoints": [{}]}], "ingressDeny": [{"fromEntities": ["host"]}]}]);
    let allows = |rules: &Value, allow_localhost| {
        let options = Options { allow_localhost, ..Options::default() };
        let map = resolve_with(rules.clone(), options, &labels(&["container:id=web"]));
        allowed(&map, Direction::Ingress, Identity::HOST, Protocol::TCP, 80)
    };
    assert!(!allows(&closed, AllowLocalhost::Policy));
    assert!(allows(&closed, AllowLocalhost::Always));
    assert!(!allows(&denied, AllowLocalhost::Always));
}

#[test]
fn enforcement_modes() {
    let rules = json!([{"endpointSelector": {"matchLabels": {"id": "web"}}, "ingress": [{"fromEntities": ["world"]}],
        "ingressDeny": [{"fromEntities": ["host"]}], "enableDefaultDeny": {"ingress": false}}]);
    let found = |enforcement, id: &str| {
        let options = Options { enforcement, ..Options::default() };
        let map = resolve_with(rules.clone(), options, &labels(&[id]));
        let peers = [CLIENT, Identity::WORLD, Identity::HOST]
            .map(|peer| allowed(&map, Direction::Ingress, peer, Protocol::TCP, 80));
        (peers, allowed(&map, Direction::Egress, CLIENT, Protocol::TCP, 80), map.enforced_ingress, map.enforced_egress)
    };
    let (web, other) = ("container:id=web", "container:id=other");
    assert_eq!(found(Enforcement::Default, web), ([true, true, false], true, true, false));
    assert_eq!(found(Enforcement::Default, other), ([true, true, true], true, false, false));
    assert_eq!(found(Enforcement::Always, web), ([false, true, false], false, true, true));
    assert_eq!(found(Enforcement::Always, other), ([false, false, false], false, true, true));
    assert_eq!(found(Enforcement::Never, web), ([true, true, true], true, false, false));
}

#[test]
fn modes_are_read_and_written() {
    for mode in [Enforcement::Default, Enforcement::Always, Enforcement::Never] {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    assert!("Default".parse::<Enforcement>().is_err());
}

#[test]
fn an_endpoint_without_labels_yet_is_refused_what_no_rule_allows() {
    let init = Labels::reserved("init");
    let map = resolve_with(json!([]), Options::default(), &init);
    assert_eq!((map.len(), map.enforced_ingress, map.enforced_egress), (0, true, true));
    let rule = json!([{"endpointSelector": {"matchLabels": {"reserved:init": ""}}, "egress": [{"toEntities": ["host"]}], "enableDefaultDeny": {"egress": false}}]);
    let map = resolve_with(rule, Options::default(), &init);
    assert!(allowed(&map, Direction::Egress, Identity::HOST, Protocol::UDP, 53));
    assert!(!allowed(&map, Direction::Egress, Identity::WORLD, Protocol::UDP, 53));
    let never = Options { enforcement: Enforcement::Never, ..Options::default() };
    assert_eq!(resolve_with(json!([]), never, &init), PolicyMap::allow_all());
}

#[test]
fn rules_for_endpoints_do_not_apply_to_the_host() {
    let rule = json!([{"endpointSelector": {}, "ingress": [{}]}]);
    for enforcement in [Enforcement::Default, Enforcement::Always] {
        let options = Options { enforcement, ..Options::default() };
        assert_eq!(resolve_with(rule.clone(), options, &Labels::reserved("host")), PolicyMap::allow_all());
    }
    assert!(resolve_with(rule, Options::default(), &Labels::reserved("health")).enforced_ingress);
}

#[test]
fn requirements_narrow_label_peers_and_nothing_else() {
    let rules = |peers: Value| {
        json!([
            {"endpointSelector": {"matchLabels": {"id": "web"}}, "ingress": [{"fromRequires": [{"matchLabels": {"env": "prod"}}]}]},
            {"endpointSelector": {"matchLabels": {"id": "web"}}, "ingress": [peers]}])
    };
    let found = |peers: Value| {
        let map = resolve(rules(peers));
        [CLIENT, OTHER, Identity::WORLD].map(|peer| allowed(&map, Direction::Ingress, peer, Protocol::TCP, 80))
    };
    assert_eq!(found(json!({})), [false, false, false]);
    assert_eq!(found(json!({"fromEndpoints": [{}]})), [true, false, false]);
    assert_eq!(found(json!({"fromEndpoints": [{"matchLabels": {"id": "other"}}]})), [false, false, false]);
    assert_eq!(found(json!({"fromEntities": ["all"]})), [true, true, true]);
    assert_eq!(found(json!({"toPorts": [{"ports": [{"port": "80"}]}]})), [true, true, true]);
}

#[test]
fn requirements_of_denies_and_of_allows_are_apart() {
    let map = with(
        json!({"ingress": [{"fromEndpoints": [{}]}, {"fromRequires": [{"matchExpressions": [{"key": "id", "operator": "Exists"}]}]}],
        "ingressDeny": [{"fromEndpoints": [{}], "fromRequires": [{"matchLabels": {"env": "test"}}]}]}),
    );
    let found = [CLIENT, OTHER, Identity::WORLD].map(|peer| allowed(&map, Direction::Ingress, peer, Protocol::TCP, 80));
    assert_eq!(found, [true, false, false]);
}

#[test]
fn a_prefix_rule_selects_narrower_prefixes_of_other_rules() {
    let rules = json!([
        {"endpointSelector": {"matchLabels": {"id": "web"}}, "egress": [{"toCIDR": ["10.0.0.0/8"]}]},
        {"endpointSelector": {"matchLabels": {"id": "nobody"}}, "egress": [{"toCIDRSet": [{"cidr": "10.1.0.0/16", "except": ["10.1.1.0/24"]}]}]}]);
    let map = resolve(rules);
    let found: Vec<_> =
        (0..3).map(|i| allowed(&map, Direction::Egress, Identity(PREFIX + i), Protocol::TCP, 80)).collect();
    assert_eq!(found, [true; 3]);
}

#[test]
fn excepted_prefixes_are_not_denied_only_not_allowed() {
    let except = json!({"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]});
    let map = with(json!({"egress": [except]}));
    let found = [0, 1].map(|i| allowed(&map, Direction::Egress, Identity(PREFIX + i), Protocol::TCP, 80));
    assert_eq!(found, [true, false]);
    let map = with(json!({"egress": [except, {"toCIDR": ["10.1.0.0/16"]}]}));
    assert!(allowed(&map, Direction::Egress, Identity(PREFIX + 1), Protocol::TCP, 80));
}

#[test]
fn families_of_the_world_are_told_apart() {
    let map = with(json!({"egress": [{"toCIDR": ["0.0.0.0/0"]}]}));
    let found = [Identity::WORLD_IPV4, Identity::WORLD_IPV6, Identity::WORLD]
        .map(|peer| allowed(&map, Direction::Egress, peer, Protocol::TCP, 80));
    assert_eq!(found, [true, false, true]);
    assert!(!allowed(&map, Direction::Egress, CLIENT, Protocol::TCP, 80));
}

#[test]
fn absence_of_a_label_admits_the_world() {
    let map = ingress(
        json!({"fromEndpoints": [{"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["prod"]}]}]}),
    );
    let found = [CLIENT, OTHER, Identity::WORLD, Identity::HOST]
        .map(|peer| allowed(&map, Direction::Ingress, peer, Protocol::TCP, 80));
    assert_eq!(found, [false, true, true, true]);
}

#[test]
fn the_cluster_is_every_endpoint_and_node_but_not_the_world() {
    let map = ingress(json!({"fromEntities": ["cluster"]}));
    let found = [CLIENT, Identity::HOST, Identity::REMOTE_NODE, Identity::INIT, Identity::WORLD]
        .map(|peer| allowed(&map, Direction::Ingress, peer, Protocol::TCP, 80));
    assert_eq!(found, [true, true, true, true, false]);
}

#[test]
fn icmp_type_0_is_not_every_type() {
    let map = ingress(json!({"icmps": [{"fields": [{"type": 0}, {"type": "EchoRequest", "family": "IPv6"}]}]}));
    for (protocol, number, expected) in [
        (Protocol::ICMP, 0, true),
        (Protocol::ICMP, 8, false),
        (Protocol::ICMPV6, 128, true),
        (Protocol::ICMPV6, 0, false),
        (Protocol::TCP, 0, false),
    ] {
        assert_eq!(allowed(&map, Direction::Ingress, CLIENT, protocol, number), expected, "{protocol} {number}");
    }
}

#[test]
fn port_0_is_every_port_but_not_icmp() {
    let map = ingress(json!({"toPorts": [{"ports": [{"port": "0"}]}]}));
    assert_eq!(map.keys().filter(|key| key.direction == Direction::Ingress).count(), 3);
    assert_eq!(probes(&map), [true, false, true, true]);
}

#[test]
fn equal_rules_share_one_map_and_other_subjects_do_not() {
    let repository = repository(
        json!([{"endpointSelector": {"matchLabels": {"env": "prod"}}, "ingress": [{"fromEndpoints": [{}]}]}]),
    );
    let identities = identities(&repository);
    let mut resolver = Resolver::new(&repository, &identities, Options::default());
    let maps = [WEB, CLIENT, OTHER].map(|identity| resolver.resolve(&identities[&identity]));
    assert!(Arc::ptr_eq(&maps[0], &maps[1]) && !Arc::ptr_eq(&maps[0], &maps[2]));
    assert_eq!(resolver.selecting(&identities[&WEB]), [0]);
}

#[test]
fn reserved_identities_need_not_be_told() {
    let repository =
        repository(json!([{"endpointSelector": {}, "ingress": [{"fromEntities": ["host", "remote-node"]}]}]));
    let map = Resolver::new(&repository, &BTreeMap::new(), Options::default()).resolve(&labels(&["container:id=web"]));
    let peers: Vec<_> = map.keys().filter(|key| key.direction == Direction::Ingress).map(|key| key.identity).collect();
    assert_eq!(peers, [Identity::HOST, Identity::REMOTE_NODE, Identity::KUBE_APISERVER]);
}

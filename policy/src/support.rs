//! Which parts of the language this build enforces: everything about labels, prefixes, entities, ports and ICMP types.
//! A part that is valid but cannot be enforced is refused here by name, so that nothing is accepted and then ignored.
//!
//! Lists that are present and empty restrict nothing or select nobody; both are enforced, so they pass.

use crate::entity::Entity;
use crate::fault::{Errors, Fault, Faults, Path};
use crate::rule::{Entry, L4Protocol, Port, PortRule, Rule, SECTIONS, Verdict, section_name};
use model::Direction;

/// Refuses rules that use what cannot be enforced yet, with a fault for each such part.
pub fn check_supported(rules: &[Rule]) -> Result<(), Errors> {
    let mut faults = Faults::default();
    for (i, rule) in rules.iter().enumerate() {
        let path = Path::ROOT.index(i);
        if rule.node_selector.is_some() {
            refuse("nodeSelector", &path, &mut faults);
        }
        if rule.log.is_some() {
            refuse("log", &path, &mut faults);
        }
        for (direction, verdict) in SECTIONS {
            let section = path.field(section_name(direction, verdict));
            for (i, entry) in rule.entries(direction, verdict).iter().enumerate() {
                check_entry(entry, direction, &section.index(i), &mut faults);
            }
        }
    }
    faults.into_result()
}

/// Notes that the member `name` of what is at `path` is not enforced.
fn refuse(name: &str, path: &Path<'_>, faults: &mut Faults) {
    refuse_as(name, &path.field(name), faults);
}

fn refuse_as(what: &str, path: &Path<'_>, faults: &mut Faults) {
    faults.add(path, format!("{what} cannot be enforced by this build"));
}

fn check_entry(entry: &Entry, direction: Direction, path: &Path<'_>, faults: &mut Faults) {
    let named = |from, to| if direction == Direction::Ingress { from } else { to };
    for field in entry.peer_fields() {
        let name = field.name(direction);
        let known = [
            "fromEndpoints",
            "toEndpoints",
            "fromCIDR",
            "toCIDR",
            "fromCIDRSet",
            "toCIDRSet",
            "fromEntities",
            "toEntities",
        ];
        if field.len.is_some_and(|len| len > 0) && !known.contains(&name) {
            refuse(name, path, faults);
        }
    }
    let sets = path.field(named("fromCIDRSet", "toCIDRSet"));
    for (i, set) in entry.cidr_set.iter().flatten().enumerate() {
        if set.cidr_group_ref.as_ref().is_some_and(|name| !name.is_empty()) {
            refuse("cidrGroupRef", &sets.index(i), faults);
        }
        if set.cidr_group_selector.is_some() {
            refuse("cidrGroupSelector", &sets.index(i), faults);
        }
    }
    let to_ports = path.field("toPorts");
    for (i, rule) in entry.to_ports.iter().flatten().enumerate() {
        check_port_rule(rule, &to_ports.index(i), faults);
    }
    if entry.authentication.is_some() {
        refuse("authentication", path, faults);
    }
}

fn check_port_rule(rule: &PortRule, path: &Path<'_>, faults: &mut Faults) {
    let ports = path.field("ports");
    for (i, port) in rule.ports.iter().flatten().enumerate() {
        let at = ports.index(i);
        if let Some(Port::Name(name)) = &port.port {
            refuse_as(&format!("the named port {name:?}"), &at.field("port"), faults);
        }
        let protocol = port.l4_protocol();
        if matches!(protocol, L4Protocol::Vrrp | L4Protocol::Igmp) {
            refuse_as(&format!("the protocol {}", protocol.name()), &at.field("protocol"), faults);
        }
    }
    if rule.server_names.as_ref().is_some_and(|names| !names.is_empty()) {
        refuse("serverNames", path, faults);
    }
    let single = [
        ("terminatingTLS", rule.terminating_tls.is_some()),
        ("originatingTLS", rule.originating_tls.is_some()),
        ("listener", rule.listener.is_some()),
    ];
    for (name, _) in single.into_iter().filter(|(_, there)| *there) {
        refuse(name, path, faults);
    }
    if let Some(kind) = rule.rules.as_ref().and_then(|rules| rules.effective_kind()) {
        refuse_as(&format!("rules.{kind}"), &path.field("rules").field(kind), faults);
    }
}

/// What is valid and enforced but rarely meant, for whoever imports to be told.
pub fn warnings(rules: &[Rule]) -> Vec<Fault> {
    let mut faults = Faults::default();
    for (i, rule) in rules.iter().enumerate() {
        let path = Path::ROOT.index(i);
        for (direction, verdict) in SECTIONS {
            let section = path.field(section_name(direction, verdict));
            for (i, entry) in rule.entries(direction, verdict).iter().enumerate() {
                warn_of_entry(entry, direction, verdict, &section.index(i), &mut faults);
            }
        }
    }
    faults.into_list()
}

fn warn_of_entry(entry: &Entry, direction: Direction, verdict: Verdict, path: &Path<'_>, faults: &mut Faults) {
    let named = |from, to| if direction == Direction::Ingress { from } else { to };
    if entry.requires.as_ref().is_some_and(|requires| !requires.is_empty()) {
        let (requires, endpoints) = (named("fromRequires", "toRequires"), named("fromEndpoints", "toEndpoints"));
        let message = format!("constrains only the peers named by {endpoints}, not entities, prefixes or ports alone");
        faults.add(&path.field(requires), message);
    }
    let to_ports = path.field("toPorts");
    for (i, rule) in entry.to_ports.iter().flatten().enumerate() {
        if rule.ports.as_ref().is_none_or(Vec::is_empty) {
            faults.add(&to_ports.index(i), "matches nothing, because it names no ports");
        }
    }
    if entry.entities.as_deref() == Some(&[Entity::None]) {
        faults.add(&path.field(named("fromEntities", "toEntities")), "selects nobody");
    }
    let endpoints = path.field(named("fromEndpoints", "toEndpoints"));
    for (i, selector) in entry.endpoints.iter().flatten().enumerate() {
        if verdict == Verdict::Allow && selector.demands_only_absence() {
            let message = "also selects the world and the host, because they do not have the label either";
            faults.add(&endpoints.index(i), message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_rules;
    use serde_json::{Value, json};

    fn refusals(rule: Value) -> Vec<String> {
        let rules = parse_rules(&json!([rule]).to_string()).unwrap();
        check_supported(&rules).err().map_or(Vec::new(), |errors| errors.0.iter().map(ToString::to_string).collect())
    }

    fn of_ports(element: Value) -> Vec<String> {
        refusals(json!({"endpointSelector": {}, "egress": [{"toPorts": [element]}]}))
    }

    #[test]
    fn l7_is_refused_by_name() {
        let ports = json!([{"port": "80", "protocol": "TCP"}]);
        let at = "[0].egress[0].toPorts[0]";
        for (rules, kind) in [
            (json!({"http": [{}]}), "http"),
            (json!({"HTTP": [{"path": "/public"}]}), "http"),
            (json!({"kafka": [{"topic": "x"}]}), "kafka"),
            (json!({"dns": [{"matchName": "x.test"}]}), "dns"),
            (json!({"l7proto": "x"}), "l7proto"),
        ] {
            let found = of_ports(json!({"ports": ports.clone(), "rules": rules}));
            assert_eq!(found, [format!("{at}.rules.{kind}: rules.{kind} cannot be enforced by this build")]);
        }
        for (name, value) in [
            ("terminatingTLS", json!({})),
            ("originatingTLS", json!({})),
            ("serverNames", json!(["x.test"])),
            ("listener", json!({})),
        ] {
            let found = of_ports(json!({"ports": ports.clone(), name: value}));
            assert_eq!(found, [format!("{at}.{name}: {name} cannot be enforced by this build")]);
        }
    }

    #[test]
    fn empty_l7_restricts_nothing() {
        let ports = json!([{"port": "80", "protocol": "TCP"}]);
        for rules in [json!({}), json!({"http": []}), json!(null), json!({"l7proto": ""})] {
            assert_eq!(of_ports(json!({"ports": ports.clone(), "rules": rules, "serverNames": []})), [""; 0]);
        }
    }

    #[test]
    fn ports_without_a_number_are_refused() {
        assert_eq!(
            of_ports(json!({"ports": [{"port": "http"}]})),
            ["[0].egress[0].toPorts[0].ports[0].port: the named port \"http\" cannot be enforced by this build"]
        );
        assert_eq!(
            of_ports(json!({"ports": [{"protocol": "vrrp"}]})),
            ["[0].egress[0].toPorts[0].ports[0].protocol: the protocol VRRP cannot be enforced by this build"]
        );
    }

    #[test]
    fn peers_from_outside_are_refused() {
        for (name, value) in [
            ("toServices", json!([{"k8sService": {"serviceName": "x"}}])),
            ("toFQDNs", json!([{"matchName": "x.test"}])),
            ("toGroups", json!([{"aws": {"region": "x"}}])),
            ("toNodes", json!([{}])),
        ] {
            let rule = |value: &Value| json!({"endpointSelector": {}, "egress": [{name: value}]});
            assert_eq!(
                refusals(rule(&value)),
                [format!("[0].egress[0].{name}: {name} cannot be enforced by this build")]
            );
            assert_eq!(refusals(rule(&json!([]))), [""; 0]);
        }
        for (name, value) in [("cidrGroupRef", json!("x")), ("cidrGroupSelector", json!({}))] {
            let found = refusals(json!({"endpointSelector": {}, "ingress": [{"fromCIDRSet": [{name: value}]}]}));
            assert_eq!(
                found,
                [format!("[0].ingress[0].fromCIDRSet[0].{name}: {name} cannot be enforced by this build")]
            );
        }
    }

    #[test]
    fn the_rest_of_what_is_not_enforced_is_refused() {
        let found = refusals(json!({"nodeSelector": {}, "log": {"value": "x"},
            "ingress": [{"fromEndpoints": [{}], "authentication": {"mode": "required"}}]}));
        let expected =
            ["[0].nodeSelector: nodeSelector", "[0].log: log", "[0].ingress[0].authentication: authentication"];
        assert_eq!(found, expected.map(|text| format!("{text} cannot be enforced by this build")));
    }

    #[test]
    fn all_of_l3_and_l4_is_enforced() {
        let document = include_str!("../../examples/policies/every-l3-l4-field.json");
        assert_eq!(check_supported(&parse_rules(document).unwrap()), Ok(()));
    }

    #[test]
    fn surprises_are_warned_of() {
        let rules = json!([{"endpointSelector": {}, "ingress": [
            {"fromRequires": [{"matchLabels": {"env": "prod"}}]},
            {"fromEndpoints": [{"matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["x"]}]}]},
            {"toPorts": [{}]}]}]);
        let found = warnings(&parse_rules(&rules.to_string()).unwrap());
        let paths: Vec<_> = found.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(
            paths,
            ["[0].ingress[0].fromRequires", "[0].ingress[1].fromEndpoints[0]", "[0].ingress[2].toPorts[0]"]
        );
    }
}

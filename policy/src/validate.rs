//! Whether the parts of a rule make sense together: the checks that Cilium makes when it takes a policy in, and some
//! more where Cilium accepts what nobody means (ranges that end before they begin, excepted prefixes that lie outside).
//! What is wrong in a single value is found when it is decoded.

mod l7;

use crate::cidr;
use crate::fault::{Faults, Path};
use crate::rule::{
    Authentication, CidrRule, Entry, IcmpRule, Port, PortProtocol, PortRule, Rule, SECTIONS, section_name,
};
use model::Direction;

/// Ports in an element of `toPorts`, and fields in an element of `icmps` (Cilium `maxPorts`, `maxICMPFields`).
const MAX_PORTS: usize = 40;
/// Characters in the text of `log`.
const MAX_LOG: usize = 32;

/// Adds what is wrong with `rule` to `faults`.
pub(crate) fn validate_rule(rule: &Rule, path: &Path<'_>, faults: &mut Faults) {
    let subjects = ["endpointSelector", "nodeSelector"];
    match (&rule.endpoint_selector, &rule.node_selector) {
        (Some(_), Some(_)) => faults.add(path, "a rule cannot have both endpointSelector and nodeSelector"),
        (None, None) => {
            faults.add_missing_member(path, &subjects, "a rule must have one of endpointSelector or nodeSelector");
        }
        _ => {}
    }
    if rule.all_entries().next().is_none() {
        let names = SECTIONS.map(|(direction, verdict)| section_name(direction, verdict));
        faults.add_missing_member(
            path,
            &names,
            "a rule must have at least one of ingress, ingressDeny, egress, egressDeny",
        );
    }
    if let Some(text) = rule.log.as_ref().and_then(|log| log.value.as_ref())
        && (text.chars().count() > MAX_LOG || text.chars().any(char::is_control))
    {
        faults.add(&path.field("log").field("value"), format!("must be at most {MAX_LOG} printable characters"));
    }
    for (direction, verdict) in SECTIONS {
        let section = path.field(section_name(direction, verdict));
        for (i, entry) in rule.entries(direction, verdict).iter().enumerate() {
            let place = Place { direction, of_host: rule.node_selector.is_some() };
            validate_entry(entry, place, &section.index(i), faults);
        }
    }
}

/// Where an entry stands.
#[derive(Clone, Copy)]
struct Place {
    direction: Direction,
    /// The rule's subject is the host.
    of_host: bool,
}

fn validate_entry(entry: &Entry, place: Place, path: &Path<'_>, faults: &mut Faults) {
    let fields = entry.peer_fields();
    let mut filled = fields.iter().filter(|field| field.len.is_some_and(|len| len > 0));
    if let Some(first) = filled.next() {
        for other in filled {
            let (a, b) = (first.name(place.direction), other.name(place.direction));
            faults.add(path, format!("combining {a} and {b} in one entry is not supported: write an entry for each"));
        }
    }
    let name = if place.direction == Direction::Ingress { "fromCIDRSet" } else { "toCIDRSet" };
    let sets = path.field(name);
    for (i, set) in entry.cidr_set.iter().flatten().enumerate() {
        validate_cidr_rule(set, &sets.index(i), faults);
    }
    let names = path.field("toFQDNs");
    for (i, name) in entry.fqdns.iter().flatten().enumerate() {
        l7::validate_fqdn(name, &names.index(i), faults);
    }
    validate_ports(entry, place, path, faults);
    if let Some(authentication) = &entry.authentication {
        validate_authentication(authentication, &path.field("authentication"), faults);
    }
}

fn validate_ports(entry: &Entry, place: Place, path: &Path<'_>, faults: &mut Faults) {
    let filled = |len: Option<usize>| len.is_some_and(|len| len > 0);
    if filled(entry.to_ports.as_ref().map(Vec::len)) && filled(entry.icmps.as_ref().map(Vec::len)) {
        faults.add(&path.field("icmps"), "icmps may only be present without toPorts: write an entry for each");
    }
    let to_ports = path.field("toPorts");
    for (i, rule) in entry.to_ports.iter().flatten().enumerate() {
        validate_port_rule(rule, place, &to_ports.index(i), faults);
    }
    let icmps = path.field("icmps");
    for (i, IcmpRule { fields }) in entry.icmps.iter().flatten().enumerate() {
        if fields.as_ref().is_some_and(|fields| fields.len() > MAX_PORTS) {
            faults.add(&icmps.index(i).field("fields"), format!("too many types, the max is {MAX_PORTS}"));
        }
    }
}

fn validate_cidr_rule(set: &CidrRule, path: &Path<'_>, faults: &mut Faults) {
    let names = ["cidr", "cidrGroupRef", "cidrGroupSelector"];
    let group = set.cidr_group_ref.as_ref().is_some_and(|name| !name.is_empty());
    let given =
        [set.cidr.is_some(), group, set.cidr_group_selector.is_some()].into_iter().filter(|there| *there).count();
    match given {
        0 => faults.add_missing_member(path, &names, "one of cidr, cidrGroupRef or cidrGroupSelector is required"),
        1 => {}
        _ => faults.add(path, "only one of cidr, cidrGroupRef and cidrGroupSelector may be set"),
    }
    let except = path.field("except");
    for (i, inner) in set.except.iter().flatten().enumerate() {
        if let Some(cidr) = set.cidr.as_ref().filter(|cidr| !cidr::contains(cidr.value, inner.value)) {
            let message = format!("the prefix {} does not contain the excepted prefix {}", cidr.value, inner.value);
            faults.add(&except.index(i), message);
        }
    }
}

fn validate_port_rule(rule: &PortRule, place: Place, path: &Path<'_>, faults: &mut Faults) {
    let ports = path.field("ports");
    if rule.ports.as_ref().is_some_and(|ports| ports.len() > MAX_PORTS) {
        faults.add(&ports, format!("too many ports, the max is {MAX_PORTS}"));
    }
    for (i, port) in rule.ports.iter().flatten().enumerate() {
        validate_port(port, &ports.index(i), faults);
    }
    l7::validate_port_rule(rule, place, path, faults);
}

fn validate_port(port: &PortProtocol, path: &Path<'_>, faults: &mut Faults) {
    let protocol = port.l4_protocol();
    match &port.port {
        None if !protocol.is_portless() => {
            // Of a protocol that could not be read nobody knows whether it has ports.
            if !faults.has_below(&path.field("protocol")) {
                faults.add_missing(&path.field("port"), "a port must be specified");
            }
        }
        None | Some(Port::Number(0)) => {}
        Some(_) if protocol.is_portless() => {
            faults.add(&path.field("port"), format!("must be empty or 0, because {} has no ports", protocol.name()));
        }
        Some(Port::Name(_)) => {}
        Some(Port::Number(first)) => {
            if let Some(last) = port.end_port.filter(|last| *last != 0 && last < first) {
                faults.add(
                    &path.field("endPort"),
                    format!("the range would end at {last}, before its first port {first}"),
                );
            }
        }
    }
}

fn validate_authentication(authentication: &Authentication, path: &Path<'_>, faults: &mut Faults) {
    const MODES: [&str; 3] = ["disabled", "required", "test-always-fail"];
    let path = path.field("mode");
    match authentication.mode.as_deref() {
        None => faults.add_missing(&path, "an authentication mode must be given"),
        Some(mode) if !MODES.contains(&mode) => {
            faults.add(&path, format!("unknown authentication mode {mode:?}: use one of {}", MODES.join(", ")));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests;

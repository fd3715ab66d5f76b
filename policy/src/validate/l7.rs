//! Checks of the L7 part: which kinds of rules go with which ports, and the fields of each kind.

use super::Place;
use crate::fault::{Faults, Path};
use crate::l7::{Pattern, api_key};
use crate::rule::{DnsRule, HeaderMatch, HttpRule, KafkaRule, L4Protocol, L7Rules, Port, PortRule};
use model::Direction;

/// Characters in a DNS name pattern.
const MAX_PATTERN: usize = 255;
/// Characters in the name of a Kafka topic (what Cilium checks; Kafka itself allows 249).
const MAX_TOPIC: usize = 255;

pub(super) fn validate_port_rule(rule: &PortRule, place: Place, path: &Path<'_>, faults: &mut Faults) {
    let default = L7Rules::default();
    let rules = rule.rules.as_ref().unwrap_or(&default);
    let at = path.field("rules");
    if rules.kinds().len() > 1 {
        faults.add(&at, format!("several kinds of L7 rules in one element: {}", rules.kinds().join(", ")));
    }
    if rules.l7.as_ref().is_some_and(|l7| !l7.is_empty()) && rules.l7proto.as_ref().is_none_or(String::is_empty) {
        faults.add(&at.field("l7"), "may only be specified together with l7proto");
    }
    let kind = rules.effective_kind();
    if let Some(kind) = kind {
        validate_place(kind, place, &at, faults);
        validate_carrier(kind, rule, path, faults);
    }
    validate_names(rule, kind.is_some(), path, faults);
    if rule.listener.is_some() {
        let at = path.field("listener");
        if place.direction == Direction::Ingress {
            faults.add(&at, "is not allowed on ingress");
        }
        if kind.is_some() {
            faults.add(&at, "is not allowed together with L7 rules");
        }
    }
    validate_rules(rules, &at, faults);
}

/// L7 rules for the host, and DNS rules on ingress, do not exist.
fn validate_place(kind: &'static str, place: Place, at: &Path<'_>, faults: &mut Faults) {
    if place.of_host && place.direction == Direction::Ingress {
        faults.add(at, "L7 policy is not supported on host ingress");
    } else if place.of_host && kind != "dns" {
        faults.add(&at.field(kind), format!("{kind} rules are not supported on host egress"));
    } else if kind == "dns" && place.direction == Direction::Ingress {
        faults.add(&at.field(kind), "dns rules are not supported on ingress");
    }
}

/// What the ports of an element with L7 rules may be.
fn validate_carrier(kind: &'static str, rule: &PortRule, path: &Path<'_>, faults: &mut Faults) {
    let ports = path.field("ports");
    if kind == "dns" && rule.ports.iter().flatten().next().is_none() {
        faults.add_missing(&ports, "port 53 must be specified for dns rules");
    }
    for (i, port) in rule.ports.iter().flatten().enumerate() {
        let at = ports.index(i);
        let protocol = port.l4_protocol();
        let fits =
            protocol == L4Protocol::Tcp || kind == "dns" && matches!(protocol, L4Protocol::Udp | L4Protocol::Any);
        if !fits {
            let message = format!("L7 rules can only apply to TCP (not {}), dns rules also to UDP", protocol.name());
            faults.add_missing(&at.field("protocol"), message);
        }
        if port.port == Some(Port::Number(0)) {
            faults.add(&at.field("port"), "L7 rules cannot be used when the port is 0");
        }
        if kind == "dns" && port.end_port.is_some_and(|last| last != 0) {
            faults.add(&at.field("endPort"), "dns rules do not support port ranges");
        }
    }
}

fn validate_names(rule: &PortRule, has_l7: bool, path: &Path<'_>, faults: &mut Faults) {
    let Some(names) = rule.server_names.as_ref().filter(|names| !names.is_empty()) else {
        return;
    };
    let at = path.field("serverNames");
    if has_l7 && rule.terminating_tls.is_none() {
        faults.add(&at, "are not allowed with L7 rules without terminatingTLS");
    }
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() {
            faults.add(&at.index(i), "a server name may not be empty");
        }
    }
}

fn validate_rules(rules: &L7Rules, at: &Path<'_>, faults: &mut Faults) {
    let http = at.field("http");
    for (i, rule) in rules.http.iter().flatten().enumerate() {
        validate_http(rule, &http.index(i), faults);
    }
    let kafka = at.field("kafka");
    for (i, rule) in rules.kafka.iter().flatten().enumerate() {
        validate_kafka(rule, &kafka.index(i), faults);
    }
    let dns = at.field("dns");
    for (i, rule) in rules.dns.iter().flatten().enumerate() {
        validate_dns_name(rule, &dns.index(i), faults);
    }
    let l7 = at.field("l7");
    for (i, rule) in rules.l7.iter().flatten().enumerate() {
        if rule.contains_key("") {
            faults.add(&l7.index(i), "a key may not be empty");
        }
    }
}

fn validate_http(rule: &HttpRule, at: &Path<'_>, faults: &mut Faults) {
    for (name, pattern) in [("path", &rule.path), ("method", &rule.method), ("host", &rule.host)] {
        if let Some(Err(error)) = pattern.as_deref().map(Pattern::compile) {
            faults.add(&at.field(name), error.to_string());
        }
    }
    let matches = at.field("headerMatches");
    for (i, header) in rule.header_matches.iter().flatten().enumerate() {
        validate_header(header, &matches.index(i), faults);
    }
}

fn validate_header(header: &HeaderMatch, at: &Path<'_>, faults: &mut Faults) {
    const ACTIONS: [&str; 5] = ["", "LOG", "ADD", "DELETE", "REPLACE"];
    if header.name.as_ref().is_none_or(String::is_empty) {
        faults.add_missing(&at.field("name"), "header name missing");
    }
    if let Some(action) = header.mismatch.as_ref().filter(|action| !ACTIONS.contains(&action.as_str())) {
        faults.add(&at.field("mismatch"), format!("invalid header action {action:?}: use LOG, ADD, DELETE or REPLACE"));
    }
    if header.secret.as_ref().is_some_and(|secret| secret.name.as_ref().is_none_or(String::is_empty)) {
        faults.add_missing(&at.field("secret").field("name"), "secret name missing");
    }
}

fn validate_kafka(rule: &KafkaRule, at: &Path<'_>, faults: &mut Faults) {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (role, key) = (filled(&rule.role), filled(&rule.api_key));
    if let (Some(role), Some(key)) = (&role, &key) {
        faults.add(at, format!("cannot set both role {role:?} and apiKey {key:?}"));
    }
    if let Some(role) = role.filter(|role| !["produce", "consume"].contains(&role.to_ascii_lowercase().as_str())) {
        faults.add(&at.field("role"), format!("invalid Kafka role {role:?}: use produce or consume"));
    }
    if let Some(key) = key.filter(|key| api_key(key).is_none()) {
        faults.add(&at.field("apiKey"), format!("invalid Kafka apiKey {key:?}"));
    }
    if let Some(version) = filled(&rule.api_version) {
        let plain = version.bytes().all(|b| b.is_ascii_digit());
        if !plain || version.parse::<i16>().is_err() {
            faults.add(&at.field("apiVersion"), format!("invalid Kafka apiVersion {version:?}: use 0 to 32767"));
        }
    }
    if let Some(topic) = filled(&rule.topic) {
        if topic.len() > MAX_TOPIC {
            faults.add(&at.field("topic"), format!("kafka topic exceeds the maximum of {MAX_TOPIC} characters"));
        }
        if !topic.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            faults.add(&at.field("topic"), format!("invalid Kafka topic name {topic:?}"));
        }
    }
}

/// An element of `toFQDNs` has exactly one of the two fields.
pub(super) fn validate_fqdn(rule: &DnsRule, at: &Path<'_>, faults: &mut Faults) {
    let filled = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    match (filled(&rule.match_name), filled(&rule.match_pattern)) {
        (true, true) => faults.add(at, "only one of matchName and matchPattern is allowed"),
        (false, false) => {
            faults.add_missing_member(
                at,
                &["matchName", "matchPattern"],
                "one of matchName and matchPattern is required",
            );
        }
        _ => {}
    }
    validate_dns_name(rule, at, faults);
}

fn validate_dns_name(rule: &DnsRule, at: &Path<'_>, faults: &mut Faults) {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if let Some(name) = rule.match_name.as_ref().filter(|name| !name.bytes().all(allowed)) {
        let message = format!("invalid characters in {name:?}: only 0-9, a-z, A-Z and . - _ are allowed");
        faults.add(&at.field("matchName"), message);
    }
    if let Some(pattern) = &rule.match_pattern {
        let at = at.field("matchPattern");
        if !pattern.bytes().all(|byte| allowed(byte) || byte == b'*') {
            faults.add(&at, format!("invalid characters in {pattern:?}: only 0-9, a-z, A-Z and . - _ * are allowed"));
        }
        if pattern.len() > MAX_PATTERN {
            faults.add(&at, format!("must be at most {MAX_PATTERN} characters long"));
        }
    }
}

//! `NetworkPolicy` of Kubernetes: another language, turned into a rule that says the same.
//!
//! It differs where it is easily mistaken: an absent or empty `from` is everyone, and no ports are all ports.

use super::metadata::{Metadata, NAMESPACE_LABELS, namespace_key};
use crate::cidr::{self, Length};
use crate::decode::{Decoder, Fields, Name, Written};
use crate::fault::Path;
use crate::rule::{CidrRule, Entry, L4Protocol, Port, PortProtocol, PortRule, Rule};
use crate::selector::{self, Key, Operator, Requirement, Selector};
use ipnetwork::IpNetwork;
use model::Direction;
use serde_json::Value;

pub(super) const KIND: &str = "NetworkPolicy";
pub(super) const FIELDS: &[Name] = &["apiVersion", "kind", "metadata", "spec", "status"];

/// Reads the rule that the document stands for.
pub(super) fn read(decoder: &mut Decoder, document: &Fields<'_>, path: &Path<'_>, metadata: &Metadata) -> Option<Rule> {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let rule = document.read(decoder, path, "spec", |decoder, value, path| {
        let fields = decoder.object(value, path, &["podSelector", "ingress", "egress", "policyTypes"])?;
        let mut subject = fields.read(decoder, path, "podSelector", pod_selector).unwrap_or_default();
        pin(&mut subject, namespace);
        let mut section = |name: Name, direction: Direction| {
            let elements = fields.read_list(decoder, path, name, |decoder, value, path| {
                read_element(decoder, value, path, direction, namespace)
            });
            elements.unwrap_or_default().into_iter().flatten().collect::<Vec<_>>()
        };
        let (mut ingress, mut egress) = (section("ingress", Direction::Ingress), section("egress", Direction::Egress));
        let types = fields.read_list(decoder, path, "policyTypes", policy_type).unwrap_or_default();
        // A type that is named without elements closes the direction; ingress is meant when egress alone is not.
        if ingress.is_empty() && (types.contains(&Direction::Ingress) || !types.contains(&Direction::Egress)) {
            ingress.push(Entry::default());
        }
        if egress.is_empty() && types.contains(&Direction::Egress) {
            egress.push(Entry::default());
        }
        let filled = |list: Vec<Entry>| Some(list).filter(|list| !list.is_empty());
        let mut rule = Rule {
            endpoint_selector: Some(subject),
            ingress: filled(ingress),
            egress: filled(egress),
            ..Rule::default()
        };
        metadata.sign(&mut rule);
        decoder.limits.check_rule(&rule, path, &mut decoder.faults);
        Some(rule)
    });
    if rule.is_none() {
        decoder.faults.add_missing(&path.field("spec"), "empty policy: a spec is required");
    }
    rule
}

fn policy_type(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Direction> {
    match decoder.text(value, path)?.as_str() {
        "Ingress" => Some(Direction::Ingress),
        "Egress" => Some(Direction::Egress),
        other => {
            decoder.faults.add(path, format!("unknown policy type {other:?}: use Ingress or Egress"));
            None
        }
    }
}

/// Reads an element of `ingress` or `egress`: an entry for the peers with labels, one for those with prefixes.
fn read_element(
    decoder: &mut Decoder,
    value: &Value,
    path: &Path<'_>,
    direction: Direction,
    namespace: &str,
) -> Option<Vec<Entry>> {
    let (known, peers): (&'static [Name], Name) = match direction {
        Direction::Ingress => (&["from", "ports"], "from"),
        Direction::Egress => (&["to", "ports"], "to"),
    };
    let fields = decoder.object(value, path, known)?;
    let written = fields.read(decoder, path, peers, |_, value, _| value.as_array().map(Vec::len));
    let peers = fields.read_list(decoder, path, peers, |decoder, value, path| peer(decoder, value, path, namespace));
    let (mut endpoints, mut prefixes) = (Vec::new(), Vec::new());
    for peer in peers.into_iter().flatten() {
        match peer {
            Peer::Labels(selector) => endpoints.push(selector),
            Peer::Prefix(set) => prefixes.push(set),
        }
    }
    if written.unwrap_or_default() == 0 {
        endpoints.push(Selector::default());
    }
    let ports = fields.read_list(decoder, path, "ports", port).filter(|ports| !ports.is_empty());
    let mut entries = Vec::new();
    if !endpoints.is_empty() {
        entries.push(Entry { endpoints: Some(endpoints), to_ports: ports.clone(), ..Entry::default() });
    }
    if !prefixes.is_empty() {
        entries.push(Entry { cidr_set: Some(prefixes), to_ports: ports, ..Entry::default() });
    }
    Some(entries)
}

enum Peer {
    Labels(Selector),
    Prefix(CidrRule),
}

fn peer(decoder: &mut Decoder, value: &Value, path: &Path<'_>, namespace: &str) -> Option<Peer> {
    const WAYS: &[Name] = &["podSelector", "namespaceSelector", "ipBlock"];
    let fields = decoder.object(value, path, WAYS)?;
    let pods = fields.read(decoder, path, "podSelector", pod_selector);
    let namespaces = fields.read(decoder, path, "namespaceSelector", namespace_selector);
    let block = fields.read(decoder, path, "ipBlock", ip_block);
    match (pods, namespaces, block) {
        (None, None, Some(block)) => Some(Peer::Prefix(block)),
        (Some(mut pods), None, None) => {
            pin(&mut pods, namespace);
            Some(Peer::Labels(pods))
        }
        (pods, Some(namespaces), None) => Some(Peer::Labels(both(pods.unwrap_or_default(), namespaces))),
        (None, None, None) => {
            decoder.faults.add_missing_member(
                path,
                WAYS,
                "one of podSelector, namespaceSelector or ipBlock is required",
            );
            None
        }
        (_, _, Some(_)) => {
            decoder.faults.add(path, "ipBlock may not be combined with podSelector or namespaceSelector");
            None
        }
    }
}

fn ip_block(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<CidrRule> {
    let fields = decoder.object(value, path, &["cidr", "except"])?;
    let cidr = fields.read(decoder, path, "cidr", prefix);
    if cidr.is_none() {
        decoder.faults.add_missing(&path.field("cidr"), "an address prefix must be given");
    }
    let cidr = cidr?;
    let except = fields.read_list(decoder, path, "except", |decoder, value, path| {
        let inner = prefix(decoder, value, path)?;
        if !cidr::contains(cidr.value, inner.value) {
            let message = format!("the prefix {} does not contain the excepted prefix {}", cidr.value, inner.value);
            decoder.faults.add(path, message);
        }
        Some(inner)
    });
    Some(CidrRule { cidr: Some(cidr), cidr_group_ref: None, cidr_group_selector: None, except })
}

fn prefix(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Written<IpNetwork>> {
    let text = decoder.text(value, path)?;
    let prefix = cidr::parse(&text, Length::Required);
    prefix.map_err(|message| decoder.faults.add(path, message)).ok().map(|value| Written { text, value })
}

/// Reads an element of `ports`, which becomes an element of `toPorts` of its own.
fn port(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<PortRule> {
    let fields = decoder.object(value, path, &["port", "endPort", "protocol"])?;
    let port = fields.read(decoder, path, "port", |decoder, value, path| match value {
        Value::String(text) => Port::parse(text).map_err(|message| decoder.faults.add(path, message)).ok(),
        _ => number(decoder, value, path).map(Port::Number),
    });
    let end_port = fields.read(decoder, path, "endPort", number);
    if let Some(last) = end_port.filter(|last| *last != 0) {
        let at = path.field("endPort");
        match &port {
            Some(Port::Number(first)) if last < *first => {
                decoder.faults.add(&at, format!("the range would end at {last}, before its first port {first}"));
            }
            Some(Port::Number(_)) => {}
            Some(Port::Name(_)) => decoder.faults.add(&at, "may not be given with a named port"),
            None => decoder.faults.add_missing_member(path, &["port"], "endPort may not be given without port"),
        }
    }
    let protocol = fields.read(decoder, path, "protocol", |decoder, value, path| {
        let text = decoder.text(value, path)?;
        let known = [L4Protocol::Tcp, L4Protocol::Udp, L4Protocol::Sctp];
        let found = known.into_iter().find(|protocol| protocol.name() == text);
        if found.is_none() {
            decoder.faults.add(path, format!("unknown protocol {text:?}: use TCP, UDP or SCTP"));
        }
        found
    });
    let protocol = protocol.unwrap_or(L4Protocol::Tcp);
    let port = PortProtocol {
        port: Some(port.unwrap_or(Port::Number(0))),
        end_port,
        protocol: Some(Written { text: protocol.name().to_owned(), value: protocol }),
    };
    Some(PortRule { ports: Some(vec![port]), ..PortRule::default() })
}

fn number(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<u16> {
    decoder.number(value, path, u64::from(u16::MAX)).and_then(|number| u16::try_from(number).ok())
}

fn pod_selector(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Selector> {
    selector_of(decoder, value, path, "")
}

/// Empty: whatever has a namespace.
fn namespace_selector(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Selector> {
    let mut selector = selector_of(decoder, value, path, NAMESPACE_LABELS)?;
    if selector.is_empty() {
        let exists = Requirement { key: namespace_key(), operator: Operator::Exists, values: None };
        selector.match_expressions = Some(vec![exists]);
    }
    Some(selector)
}

/// A selector whose keys have no sources: they are Kubernetes', and stand behind `prefix`.
fn selector_of(decoder: &mut Decoder, value: &Value, path: &Path<'_>, prefix: &str) -> Option<Selector> {
    let selector = Selector::decode(decoder, value, path)?;
    let mut sourced = |key: Key, path: &Path<'_>| {
        if key.is_qualified() {
            decoder.faults.add(path, format!("the key {key} has a source, which keys do not have here"));
        }
        let key = Key::new(format!("k8s:{prefix}{}", key.name));
        if !prefix.is_empty() {
            selector::check_key(&key, decoder, path);
        }
        key
    };
    let (labels, expressions) = (path.field("matchLabels"), path.field("matchExpressions"));
    let match_labels = selector.match_labels.map(|members| {
        let members = members.into_iter().map(|(key, value)| {
            let at = key.name.clone();
            (sourced(key, &labels.field(&at)), value)
        });
        members.collect()
    });
    let match_expressions = selector.match_expressions.map(|list| {
        let list = list.into_iter().enumerate().map(|(i, requirement)| Requirement {
            key: sourced(requirement.key, &expressions.index(i).field("key")),
            ..requirement
        });
        list.collect()
    });
    Some(Selector { match_labels, match_expressions })
}

fn pin(selector: &mut Selector, namespace: &str) {
    selector.match_labels.get_or_insert_default().insert(namespace_key(), namespace.to_owned());
}

fn both(mut a: Selector, b: Selector) -> Selector {
    if let Some(labels) = b.match_labels {
        a.match_labels.get_or_insert_default().extend(labels);
    }
    if let Some(expressions) = b.match_expressions {
        a.match_expressions.get_or_insert_default().extend(expressions);
    }
    a
}

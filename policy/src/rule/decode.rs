//! Reading a rule and its entries from JSON.

use super::icmp::IcmpRule;
use super::l7::DnsRule;
use super::outside::{Authentication, CidrRule, Group, ServiceRule, decode_cidr};
use super::ports::PortRule;
use super::{DefaultDeny, Entry, Log, Rule, RuleLabel, Verdict, section_name};
use crate::cidr::Length;
use crate::decode::{Decoder, Name, Written};
use crate::entity::Entity;
use crate::fault::Path;
use crate::selector::Selector;
use model::labels::SOURCE_UNSPEC;
use model::{Direction, Label};
use serde_json::Value;

const RULE: &[Name] = &[
    "endpointSelector",
    "nodeSelector",
    "ingress",
    "ingressDeny",
    "egress",
    "egressDeny",
    "enableDefaultDeny",
    "labels",
    "description",
    "log",
];

/// Reads one rule; what is wrong with it is in the decoder's faults.
pub(crate) fn decode_rule(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Rule> {
    let fields = decoder.object(value, path, RULE)?;
    // A selector that is null selects everything, so here null is not as good as absent.
    let mut subject = |name: Name| Selector::decode(decoder, fields.raw(name)?, &path.field(name));
    let (endpoint_selector, node_selector) = (subject("endpointSelector"), subject("nodeSelector"));
    let mut section = |direction, verdict| {
        fields.read_list(decoder, path, section_name(direction, verdict), |decoder, value, path| {
            decode_entry(decoder, value, path, direction, verdict)
        })
    };
    Some(Rule {
        endpoint_selector,
        node_selector,
        ingress: section(Direction::Ingress, Verdict::Allow),
        ingress_deny: section(Direction::Ingress, Verdict::Deny),
        egress: section(Direction::Egress, Verdict::Allow),
        egress_deny: section(Direction::Egress, Verdict::Deny),
        enable_default_deny: fields.read(decoder, path, "enableDefaultDeny", |decoder, value, path| {
            let fields = decoder.object(value, path, &["ingress", "egress"])?;
            Some(DefaultDeny {
                ingress: fields.read(decoder, path, "ingress", Decoder::boolean),
                egress: fields.read(decoder, path, "egress", Decoder::boolean),
            })
        }),
        labels: fields.read_list(decoder, path, "labels", decode_label),
        description: fields.read(decoder, path, "description", Decoder::text),
        log: fields.read(decoder, path, "log", |decoder, value, path| {
            let fields = decoder.object(value, path, &["value"])?;
            Some(Log { value: fields.read(decoder, path, "value", Decoder::text) })
        }),
    })
}

fn decode_label(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<RuleLabel> {
    if let Value::String(text) = value {
        return match Label::parse(text, SOURCE_UNSPEC) {
            Ok(label) => Some(RuleLabel::Text(Written { text: text.clone(), value: label })),
            Err(error) => {
                decoder.faults.add(path, error.to_string());
                None
            }
        };
    }
    let fields = decoder.object(value, path, &["key", "value", "source"])?;
    let key = fields.read(decoder, path, "key", Decoder::text).filter(|key| !key.is_empty());
    if key.is_none() {
        decoder.faults.add_missing(&path.field("key"), "a label must have a key");
    }
    let value = fields.read(decoder, path, "value", Decoder::text);
    let source = fields.read(decoder, path, "source", Decoder::text);
    Some(RuleLabel::Parts { key: key?, value, source })
}

const INGRESS: &[Name] = &[
    "fromEndpoints",
    "fromRequires",
    "fromCIDR",
    "fromCIDRSet",
    "fromEntities",
    "fromGroups",
    "fromNodes",
    "toPorts",
    "icmps",
    "authentication",
];
const INGRESS_DENY: &[Name] = INGRESS.split_last().expect("the list is not empty").1;
const EGRESS: &[Name] = &[
    "toEndpoints",
    "toRequires",
    "toCIDR",
    "toCIDRSet",
    "toEntities",
    "toServices",
    "toGroups",
    "toNodes",
    "toPorts",
    "icmps",
    "toFQDNs",
    "authentication",
];
const EGRESS_DENY: &[Name] = EGRESS.split_at(EGRESS.len() - 2).0;

fn decode_entry(
    decoder: &mut Decoder,
    value: &Value,
    path: &Path<'_>,
    direction: Direction,
    verdict: Verdict,
) -> Option<Entry> {
    let known = match (direction, verdict) {
        (Direction::Ingress, Verdict::Allow) => INGRESS,
        (Direction::Ingress, Verdict::Deny) => INGRESS_DENY,
        (Direction::Egress, Verdict::Allow) => EGRESS,
        (Direction::Egress, Verdict::Deny) => EGRESS_DENY,
    };
    let fields = decoder.object(value, path, known)?;
    let named = |from: Name, to: Name| if direction == Direction::Ingress { from } else { to };
    let single_cidr = |d: &mut Decoder, v: &Value, p: &Path<'_>| decode_cidr(d, v, p, Length::Optional);
    let port_rule = |d: &mut Decoder, v: &Value, p: &Path<'_>| PortRule::decode(d, v, p, verdict);
    Some(Entry {
        endpoints: fields.read_list(decoder, path, named("fromEndpoints", "toEndpoints"), Selector::decode),
        requires: fields.read_list(decoder, path, named("fromRequires", "toRequires"), Selector::decode),
        cidr: fields.read_list(decoder, path, named("fromCIDR", "toCIDR"), single_cidr),
        cidr_set: fields.read_list(decoder, path, named("fromCIDRSet", "toCIDRSet"), CidrRule::decode),
        entities: fields.read_list(decoder, path, named("fromEntities", "toEntities"), decode_entity),
        services: fields.read_list(decoder, path, "toServices", ServiceRule::decode),
        fqdns: fields.read_list(decoder, path, "toFQDNs", DnsRule::decode),
        groups: fields.read_list(decoder, path, named("fromGroups", "toGroups"), Group::decode),
        nodes: fields.read_list(decoder, path, named("fromNodes", "toNodes"), Selector::decode),
        to_ports: fields.read_list(decoder, path, "toPorts", port_rule),
        icmps: fields.read_list(decoder, path, "icmps", IcmpRule::decode),
        authentication: fields.read(decoder, path, "authentication", Authentication::decode),
    })
}

fn decode_entity(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Entity> {
    let text = decoder.text(value, path)?;
    let entity = Entity::from_name(&text);
    if entity.is_none() {
        decoder.faults.add(path, format!("unsupported entity {text:?}: use one of {}", Entity::names()));
    }
    entity
}

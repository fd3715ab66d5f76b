//! `CiliumNetworkPolicy` and `CiliumClusterwideNetworkPolicy`: rules under `spec` and `specs`, whose selectors are
//! narrowed to where the document lives.

use super::decode_rule;
use super::metadata::{Metadata, is_namespace, is_namespace_label, namespace_key};
use crate::decode::{Decoder, Fields, Name};
use crate::fault::Path;
use crate::rule::{Rule, SECTIONS};
use crate::selector::{Key, Operator, Requirement, Selector};
use model::labels::SOURCE_RESERVED;
use serde_json::Value;

pub(super) const NAMESPACED: &str = "CiliumNetworkPolicy";
pub(super) const CLUSTERWIDE: &str = "CiliumClusterwideNetworkPolicy";
/// Old documents have a description beside their rules; it says nothing about who may talk to whom.
pub(super) const FIELDS: &[Name] = &["apiVersion", "kind", "metadata", "spec", "specs", "status", "description"];

/// Reads the rules of a document, each with its path.
pub(super) fn read(
    decoder: &mut Decoder,
    document: &Fields<'_>,
    path: &Path<'_>,
    metadata: &Metadata,
) -> Vec<(Rule, String)> {
    let mut rules = Vec::new();
    let mut given = false;
    let mut one = |decoder: &mut Decoder, value: &Value, path: &Path<'_>| {
        let mut rule = decode_rule(decoder, value, path)?;
        if metadata.namespace.is_some() && rule.node_selector.is_some() {
            decoder
                .faults
                .add(&path.field("nodeSelector"), format!("belongs in a {CLUSTERWIDE}, not in a {NAMESPACED}"));
        }
        narrow(&mut rule, metadata, path, decoder);
        metadata.sign(&mut rule);
        rules.push((rule, path.to_string()));
        Some(())
    };
    document.read(decoder, path, "spec", |decoder, value, path| {
        given = true;
        one(decoder, value, path)
    });
    document.read_list(decoder, path, "specs", |decoder, value, path| {
        given = true;
        one(decoder, value, path)
    });
    if !given {
        decoder.faults.add_missing_member(path, &["spec", "specs"], "empty policy: one of spec or specs is required");
    }
    rules
}

/// Narrows the selectors of a rule to the document's namespace, or to whatever has one.
fn narrow(rule: &mut Rule, metadata: &Metadata, path: &Path<'_>, decoder: &mut Decoder) {
    let of_init = rule.endpoint_selector.as_ref().is_some_and(selects_init);
    if let (Some(namespace), Some(subject)) = (&metadata.namespace, &mut rule.endpoint_selector) {
        pin_subject(subject, namespace, &path.field("endpointSelector"), decoder);
    }
    let pinned = |selector: &mut Selector| match &metadata.namespace {
        Some(namespace) => {
            if !keys(selector).any(|key| is_namespace(key) || is_namespace_label(key)) {
                pin(selector, namespace);
            }
        }
        None => {
            if !of_init && !keys(selector).any(is_namespace) {
                demand(selector, namespace_key());
            }
        }
    };
    for (direction, verdict) in SECTIONS {
        for entry in rule.section_mut(direction, verdict).into_iter().flatten() {
            for selector in entry.endpoints.iter_mut().flatten().filter(|s| !keys(s).any(is_reserved)) {
                pinned(selector);
            }
            entry.requires.iter_mut().flatten().for_each(pinned);
            for selector in entry.nodes.iter_mut().flatten() {
                demand(selector, Key::new("reserved:remote-node"));
            }
        }
    }
}

/// The subject is in the document's namespace, whatever it says itself.
fn pin_subject(subject: &mut Selector, namespace: &str, path: &Path<'_>, decoder: &mut Decoder) {
    let other = subject.match_labels.iter().flatten().find(|(key, value)| is_namespace(key) && *value != namespace);
    if let Some((key, value)) = other {
        let message = format!("{key}={value} is overridden: the document is of the namespace {namespace}");
        decoder.ignored.add(&path.field("matchLabels"), message);
    }
    if let Some(labels) = &mut subject.match_labels {
        labels.retain(|key, _| !is_namespace(key));
    }
    pin(subject, namespace);
}

fn pin(selector: &mut Selector, namespace: &str) {
    selector.match_labels.get_or_insert_default().insert(namespace_key(), namespace.to_owned());
}

fn demand(selector: &mut Selector, key: Key) {
    let exists = Requirement { key, operator: Operator::Exists, values: None };
    selector.match_expressions.get_or_insert_default().push(exists);
}

fn selects_init(subject: &Selector) -> bool {
    keys(subject).any(|key| key.source == SOURCE_RESERVED && key.name == "init")
}

fn is_reserved(key: &Key) -> bool {
    key.source == SOURCE_RESERVED
}

fn keys(selector: &Selector) -> impl Iterator<Item = &Key> {
    let labels = selector.match_labels.iter().flatten().map(|(key, _)| key);
    labels.chain(selector.match_expressions.iter().flatten().map(|requirement| &requirement.key))
}

//! Label selectors: their shape, their canonical text, and which label sets they match. Peers that are chosen otherwise
//! (by prefix or by entity) are `peer`'s.

use crate::cidr;
use crate::decode::{Decoder, Name};
use crate::fault::Path;
use ipnetwork::IpNetwork;
use model::Labels;
use model::labels::{SOURCE_ANY, SOURCE_CIDR, SOURCE_RESERVED};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;

mod anchor;
mod syntax;

pub(crate) use anchor::Anchor;
pub(crate) use syntax::{check_key, check_value};

/// The key of a label, with the source it must have. `id` is short for `any:id`, which is a label of any source; a dot
/// does not part a source from a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    written: String,
    pub source: String,
    pub name: String,
    /// What a `cidr:` key stands for.
    prefix: Option<IpNetwork>,
}

impl Key {
    pub fn new(written: impl Into<String>) -> Key {
        let written = written.into();
        let (source, name) = written.split_once(':').unwrap_or((SOURCE_ANY, &written));
        let source = if source.is_empty() { SOURCE_ANY } else { source }.to_owned();
        let name = name.to_owned();
        let prefix = if source == SOURCE_CIDR { cidr::parse_label_key(&name) } else { None };
        Key { written, source, name, prefix }
    }

    /// Whether the source was written.
    pub(crate) fn is_qualified(&self) -> bool {
        self.written.contains(':')
    }

    /// The values that `labels` has under this key: several where the same key has several sources.
    fn values<'l>(&self, labels: &'l Labels) -> impl Iterator<Item = &'l str> {
        let plain = labels
            .iter()
            .filter(|label| {
                label.key == self.name && (self.source == SOURCE_ANY || self.source == label.source)
                    || self.is_world()
                        && label.source == SOURCE_RESERVED
                        && matches!(&*label.key, "world-ipv4" | "world-ipv6")
            })
            .map(|label| label.value.as_str());
        plain.chain(self.stands_for_prefix_of(labels).then_some(""))
    }

    fn is_world(&self) -> bool {
        self.source == SOURCE_RESERVED && self.name == "world"
    }

    /// A `cidr:` key matches every identity whose prefix lies inside; the world of a family is all of its prefixes.
    fn stands_for_prefix_of(&self, labels: &Labels) -> bool {
        let family = self.family();
        if self.prefix.is_none() && family.is_none() {
            return false;
        }
        cidr::of_labels(labels).is_some_and(|prefix| {
            self.prefix.is_some_and(|outer| cidr::contains(outer, prefix))
                || family.is_some_and(|outer| cidr::contains(outer, prefix))
        })
    }

    fn family(&self) -> Option<IpNetwork> {
        match (&*self.source, &*self.name) {
            (SOURCE_RESERVED, "world-ipv4") => Some(cidr::EVERYTHING[0]),
            (SOURCE_RESERVED, "world-ipv6") => Some(cidr::EVERYTHING[1]),
            _ => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.name)
    }
}

impl serde::Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.written)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub enum Operator {
    In,
    /// Also true of a label set without the key.
    NotIn,
    Exists,
    DoesNotExist,
}

const OPERATORS: [(Operator, &str); 4] = [
    (Operator::In, "In"),
    (Operator::NotIn, "NotIn"),
    (Operator::Exists, "Exists"),
    (Operator::DoesNotExist, "DoesNotExist"),
];

/// An element of `matchExpressions`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub struct Requirement {
    pub key: Key,
    pub operator: Operator,
    /// Needed for `In` and `NotIn`, forbidden for the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
}

impl Requirement {
    pub fn matches(&self, labels: &Labels) -> bool {
        let listed = |value: &str| self.values.iter().flatten().any(|wanted| wanted == value);
        let mut found = self.key.values(labels);
        match self.operator {
            Operator::In => found.any(listed),
            Operator::NotIn => !found.any(listed),
            Operator::Exists => found.next().is_some(),
            Operator::DoesNotExist => found.next().is_none(),
        }
    }
}

/// All parts must match; a selector without parts matches every label set.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<Key, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_expressions: Option<Vec<Requirement>>,
}

const FIELDS: &[Name] = &["matchLabels", "matchExpressions"];
const REQUIREMENT_FIELDS: &[Name] = &["key", "operator", "values"];

impl Selector {
    /// Whether this matches everything.
    pub fn is_empty(&self) -> bool {
        self.match_labels.iter().flatten().next().is_none() && self.match_expressions.iter().flatten().next().is_none()
    }

    /// How many labels, expressions and values of expressions are named.
    pub(crate) fn size(&self) -> usize {
        let expressions = self.match_expressions.iter().flatten();
        let expressions: usize = expressions.map(|r| 1 + r.values.as_ref().map_or(0, Vec::len)).sum();
        self.match_labels.as_ref().map_or(0, BTreeMap::len) + expressions
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().flatten().all(|(key, value)| key.values(labels).any(|found| found == value))
            && self.match_expressions.iter().flatten().all(|requirement| requirement.matches(labels))
    }

    /// Whether every label set without a certain key matches, and so the whole world does: nothing is demanded but
    /// absence.
    pub(crate) fn demands_only_absence(&self) -> bool {
        let absence = |r: &Requirement| matches!(r.operator, Operator::NotIn | Operator::DoesNotExist);
        let empty = self.match_labels.iter().flatten().next().is_none();
        empty && !self.is_empty() && self.match_expressions.iter().flatten().all(absence)
    }

    /// `null` selects everything, as `{}` does.
    pub(crate) fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Selector> {
        if value.is_null() {
            return Some(Selector::default());
        }
        let fields = decoder.object(value, path, FIELDS)?;
        let match_labels = fields.read(decoder, path, "matchLabels", |decoder, value, path| {
            let members = decoder.map(value, path)?;
            for (key, value) in &members {
                let path = path.field(key);
                syntax::check_key(&Key::new(key.as_str()), decoder, &path);
                syntax::check_value(value, decoder, &path);
            }
            Some(members.into_iter().map(|(key, value)| (Key::new(key), value)).collect())
        });
        let match_expressions = fields.read_list(decoder, path, "matchExpressions", Requirement::decode);
        Some(Selector { match_labels, match_expressions })
    }
}

impl Requirement {
    fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Requirement> {
        let fields = decoder.object(value, path, REQUIREMENT_FIELDS)?;
        let key = fields.read(decoder, path, "key", Decoder::text).map(Key::new);
        match &key {
            Some(key) => syntax::check_key(key, decoder, &path.field("key")),
            None => decoder.faults.add_missing(&path.field("key"), "a key must be given"),
        }
        let operator = fields.read(decoder, path, "operator", decode_operator);
        if operator.is_none() {
            decoder.faults.add_missing(&path.field("operator"), "an operator must be given");
        }
        let values = fields.read(decoder, path, "values", Decoder::texts);
        let path = path.field("values");
        for (i, value) in values.iter().flatten().enumerate() {
            syntax::check_value(value, decoder, &path.index(i));
        }
        let given = values.as_ref().is_some_and(|values| !values.is_empty());
        match operator? {
            Operator::In | Operator::NotIn if !given => {
                decoder.faults.add_missing(&path, "must be given when the operator is In or NotIn");
            }
            Operator::Exists | Operator::DoesNotExist if given => {
                decoder.faults.add(&path, "may not be given when the operator is Exists or DoesNotExist");
            }
            _ => {}
        }
        Some(Requirement { key: key?, operator: operator?, values })
    }
}

fn decode_operator(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Operator> {
    let text = decoder.text(value, path)?;
    let operator = OPERATORS.iter().find(|(_, name)| *name == text).map(|(operator, _)| *operator);
    if operator.is_none() {
        let names = OPERATORS.map(|(_, name)| name).join(", ");
        decoder.faults.add(path, format!("{text:?} is not a selector operator: use one of {names}"));
    }
    operator
}

/// The canonical text, as Cilium shows selectors: JSON with every key qualified (`any:id`).
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = serde_json::Map::new();
        let mut labels: Vec<_> = self.match_labels.iter().flatten().map(|(k, v)| (k.to_string(), json!(v))).collect();
        labels.sort_by(|a, b| a.0.cmp(&b.0));
        if !labels.is_empty() {
            text.insert("matchLabels".to_owned(), Value::Object(labels.into_iter().collect()));
        }
        let expressions: Vec<_> = self.match_expressions.iter().flatten().map(canonical_requirement).collect();
        if !expressions.is_empty() {
            text.insert("matchExpressions".to_owned(), Value::Array(expressions));
        }
        write!(f, "{}", Value::Object(text))
    }
}

fn canonical_requirement(requirement: &Requirement) -> Value {
    let mut text = json!({"key": requirement.key.to_string(), "operator": requirement.operator});
    if let Some(values) = requirement.values.as_ref().filter(|values| !values.is_empty()) {
        text["values"] = json!(values);
    }
    text
}

#[cfg(test)]
mod tests;

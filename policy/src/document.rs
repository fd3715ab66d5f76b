//! Policy texts as people write them: lists of rules in JSON or YAML, single rules, and the documents in which clusters
//! keep policies, turned into rules.
//!
//! Owns the kinds of documents, what is common to them (name, namespace, the labels by which a document's rules are
//! found again) and the bounds on what is read. `text` reads values, `cilium` and `kubernetes` turn documents into
//! rules, `groups` fills prefix groups in. What a rule may say is decided where every rule is read.

mod cilium;
mod groups;
mod kubernetes;
mod metadata;
pub(crate) mod text;

use crate::decode::{Decoder, Name};
use crate::fault::{Errors, Fault, Faults, Path};
use crate::limits::{Limits, exceeded};
use crate::rule::{self, Rule};
use crate::validate;
use groups::Groups;
pub(crate) use metadata::DocumentName;
use metadata::Metadata;
use serde_json::Value;

/// How policy texts are read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Pass over fields that nothing is known of, as Cilium does, instead of refusing them.
    pub ignore_unknown_fields: bool,
    /// The namespace of documents that name none.
    pub namespace: String,
    pub limits: Limits,
}

impl Default for ReadOptions {
    fn default() -> ReadOptions {
        ReadOptions { ignore_unknown_fields: false, namespace: "default".to_owned(), limits: Limits::default() }
    }
}

/// Reads the rules of one text: a JSON or YAML list of rules, a single rule, or documents of the kinds
/// `CiliumNetworkPolicy`, `CiliumClusterwideNetworkPolicy`, `NetworkPolicy`, `CiliumCIDRGroup` and lists of them. Either
/// everything is sound, or the errors say all that is wrong.
pub fn read_documents(text: &str, options: &ReadOptions) -> Result<Vec<Rule>, Errors> {
    let mut reader = Reader::new(options);
    reader.add_text(text)?;
    reader.finish().map(|reading| reading.rules)
}

/// The documents of a text as they stand, JSON or YAML, within the bounds: for readers of documents of other kinds.
///
/// # Errors
/// Why the text is neither, or which bound it passes.
pub fn read_values(text: &str, limits: &Limits) -> Result<Vec<Value>, String> {
    text::read(text, limits)
}

/// Reads several texts together: groups of prefixes in one are known in the others.
#[derive(Debug)]
pub struct Reader<'o> {
    options: &'o ReadOptions,
    groups: Groups,
    reading: Reading,
    texts: usize,
}

/// What texts say.
#[derive(Debug, Default)]
pub struct Reading {
    pub rules: Vec<Rule>,
    /// Where each rule was read.
    pub places: Vec<Place>,
    /// What was passed over or changed, with the number of the text.
    pub notes: Vec<(usize, Fault)>,
}

/// Where a rule was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Which text, counted from 0 in the order in which they were added.
    pub text: usize,
    /// The rule's path in the text, such as `[2]` or `specs[1]`.
    pub path: String,
    /// The document of a kind that the rule is of, such as `CiliumNetworkPolicy default/web`.
    pub document: Option<String>,
    /// The namespace that the document's subjects are in.
    pub namespace: Option<String>,
}

/// What one text is found to have wrong, and what was passed over or changed in it.
#[derive(Default)]
struct Found {
    faults: Faults,
    notes: Faults,
}

/// What is wrong with a text as a whole.
fn of_text(message: String) -> Errors {
    Errors(vec![Fault { path: String::new(), message }])
}

impl<'o> Reader<'o> {
    pub fn new(options: &'o ReadOptions) -> Reader<'o> {
        Reader { options, groups: Groups::default(), reading: Reading::default(), texts: 0 }
    }

    /// Reads one text. After an error its rules are incomplete; other texts may still be added, to learn their faults.
    pub fn add_text(&mut self, text: &str) -> Result<(), Errors> {
        match text::read(text, &self.options.limits) {
            Ok(values) => self.add_values(&values),
            Err(message) => {
                self.texts += 1;
                Err(of_text(message))
            }
        }
    }

    /// Reads one text that is values already: each is a list of rules, a rule, or a document of a kind.
    pub fn add_values(&mut self, values: &[Value]) -> Result<(), Errors> {
        let mut found = Found::default();
        for (i, value) in values.iter().enumerate() {
            let number = (values.len() > 1).then_some(i + 1);
            self.add_value(value, &Path::ROOT, number, &mut found);
        }
        self.reading.notes.extend(found.notes.into_list().into_iter().map(|note| (self.texts, note)));
        self.texts += 1;
        found.faults.into_result()
    }

    /// The rules of all texts, with the groups that they name filled in.
    pub fn finish(self) -> Result<Reading, Errors> {
        let Reader { options, groups, mut reading, .. } = self;
        let limits = &options.limits;
        if reading.rules.len() > limits.rules {
            return Err(of_text(exceeded("rules", limits.rules)));
        }
        groups.fill_in(&mut reading.rules, limits).map_err(of_text)?;
        Ok(reading)
    }

    fn add_value(&mut self, value: &Value, path: &Path<'_>, number: Option<usize>, found: &mut Found) {
        let mut decoder = self.decoder();
        let mut document = number.map(|number| format!("document {number}"));
        match value {
            Value::Array(list) => {
                for (i, value) in list.iter().enumerate() {
                    let path = path.index(i);
                    if kind(value).is_some() {
                        self.add_value(value, &path, number, found);
                    } else if let Some(rule) = decode_rule(&mut decoder, value, &path) {
                        self.keep(rule, &path);
                    }
                }
            }
            Value::Object(_) => match kind(value) {
                Some(kind) => self.add_document(kind, value, path, &mut document, &mut decoder, found),
                None => {
                    if let Some(rule) = decode_rule(&mut decoder, value, path) {
                        self.keep(rule, path);
                    }
                }
            },
            _ => decoder.faults.add(path, "must be a list of rules, a rule, or a document with a kind"),
        }
        let described = |mut fault: Fault| {
            if let Some(document) = &document {
                fault.message = format!("{} (in {document})", fault.message);
            }
            fault
        };
        found.notes.take_in(decoder.ignored, described);
        found.faults.take_in(decoder.faults, described);
    }

    /// Reads a document of a kind; `document` becomes what it is called.
    fn add_document(
        &mut self,
        kind: &str,
        value: &Value,
        path: &Path<'_>,
        document: &mut Option<String>,
        decoder: &mut Decoder,
        found: &mut Found,
    ) {
        if kind.ends_with("List") {
            return self.add_list(value, path, decoder, found);
        }
        let Some(kind) = Kind::of(kind, value, decoder, path) else { return };
        let Some(fields) = decoder.object(value, path, kind.fields) else { return };
        let namespace = kind.namespaced.then_some(self.options.namespace.as_str());
        let metadata = Metadata::read(decoder, kind.name, &fields, path, namespace);
        *document = Some(match document.take() {
            _ if !metadata.name.is_empty() => metadata.to_string(),
            Some(number) => format!("{}, {number}", kind.name),
            None => kind.name.to_owned(),
        });
        let rules = match kind.name {
            groups::KIND => {
                self.groups.read(decoder, &fields, path, &metadata);
                Vec::new()
            }
            kubernetes::KIND => {
                let rule = kubernetes::read(decoder, &fields, path, &metadata);
                rule.map(|rule| (rule, path.field("spec").to_string())).into_iter().collect()
            }
            _ => cilium::read(decoder, &fields, path, &metadata),
        };
        for (rule, path) in rules {
            let namespace = metadata.namespace.clone();
            let place = Place { text: self.texts, path, document: document.clone(), namespace };
            self.reading.rules.push(rule);
            self.reading.places.push(place);
        }
    }

    fn add_list(&mut self, value: &Value, path: &Path<'_>, decoder: &mut Decoder, found: &mut Found) {
        let Some(fields) = decoder.object(value, path, &["apiVersion", "kind", "metadata", "items"]) else { return };
        let items = path.field("items");
        match fields.raw("items") {
            Some(Value::Array(list)) => {
                for (i, value) in list.iter().enumerate() {
                    let path = items.index(i);
                    if kind(value).is_some() {
                        self.add_value(value, &path, None, found);
                    } else {
                        decoder.faults.add(&path, "must be a document with a kind");
                    }
                }
            }
            None | Some(Value::Null) => {}
            Some(_) => decoder.faults.add(&items, "must be a list"),
        }
    }

    fn decoder(&self) -> Decoder {
        Decoder {
            limits: self.options.limits,
            ignore_unknown_fields: self.options.ignore_unknown_fields,
            ..Decoder::default()
        }
    }

    fn keep(&mut self, rule: Rule, path: &Path<'_>) {
        let path = path.to_string();
        self.reading.places.push(Place { text: self.texts, path, document: None, namespace: None });
        self.reading.rules.push(rule);
    }
}

/// A kind of document that says something about policy.
struct Kind {
    name: &'static str,
    /// What stands before the `/` in the `apiVersion` of such documents.
    groups: &'static [&'static str],
    namespaced: bool,
    fields: &'static [Name],
}

const KINDS: [Kind; 4] = [
    Kind { name: cilium::NAMESPACED, groups: &["cilium.io"], namespaced: true, fields: cilium::FIELDS },
    Kind { name: cilium::CLUSTERWIDE, groups: &["cilium.io"], namespaced: false, fields: cilium::FIELDS },
    Kind {
        name: kubernetes::KIND,
        groups: &["networking.k8s.io", "extensions"],
        namespaced: true,
        fields: kubernetes::FIELDS,
    },
    Kind { name: groups::KIND, groups: &["cilium.io"], namespaced: false, fields: groups::FIELDS },
];

impl Kind {
    /// The kind of that name. What is no policy is passed over and noted; another kind of network policy is refused,
    /// because nobody means it to be passed over.
    fn of(name: &str, value: &Value, decoder: &mut Decoder, path: &Path<'_>) -> Option<&'static Kind> {
        let version = value.get("apiVersion").and_then(Value::as_str);
        let group = version.map(|version| version.split_once('/').map_or("", |(group, _)| group));
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
            let lower = name.to_ascii_lowercase();
            if lower.ends_with("networkpolicy") || lower == groups::KIND.to_ascii_lowercase() {
                let known = KINDS.map(|kind| kind.name).join(", ");
                decoder.faults.add(&path.field("kind"), format!("{name} cannot be read; known kinds: {known}"));
            } else {
                decoder.ignored.add(path, format!("{name} is no policy and is passed over"));
            }
            return None;
        };
        if let Some(group) = group.filter(|group| !kind.groups.contains(group)) {
            let message = format!("the {name} of {group:?} cannot be read, only that of {}", kind.groups.join(", "));
            decoder.faults.add(&path.field("apiVersion"), message);
            return None;
        }
        Some(kind)
    }
}

/// The kind of a document; `None` for what is a rule, even one with a `kind` that it should not have.
fn kind(value: &Value) -> Option<&str> {
    let subjects = ["endpointSelector", "nodeSelector"];
    let of_rule = |name: &String| subjects.iter().any(|subject| subject.eq_ignore_ascii_case(name));
    let members = value.as_object().filter(|members| !members.keys().any(of_rule))?;
    members.get("kind").and_then(Value::as_str)
}

/// Reads one rule and checks it.
pub(crate) fn decode_rule(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Rule> {
    let rule = rule::decode_rule(decoder, value, path)?;
    validate::validate_rule(&rule, path, &mut decoder.faults);
    decoder.limits.check_rule(&rule, path, &mut decoder.faults);
    Some(rule)
}

#[cfg(test)]
mod tests;

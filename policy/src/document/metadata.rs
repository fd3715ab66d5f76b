//! Who a document is: kind, name, namespace, and the labels by which the rules made of it are found again.

use crate::decode::{Decoder, Fields, Name};
use crate::fault::Path;
use crate::rule::{Rule, RuleLabel};
use crate::selector::{self, Key};
use std::fmt;

/// Source of the labels that Kubernetes gives to endpoints and rules.
const SOURCE_K8S: &str = "k8s";
/// Key of the label that says in which namespace an endpoint is.
const NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// `k8s:io.kubernetes.pod.namespace`.
pub(super) fn namespace_key() -> Key {
    Key::new(format!("{SOURCE_K8S}:{NAMESPACE}"))
}

/// Whether the key is a namespace's name, of any source that stands for Kubernetes'.
pub(super) fn is_namespace(key: &Key) -> bool {
    key.name == NAMESPACE && is_of_kubernetes(key)
}

/// Whether the key is one of the labels of a namespace.
pub(super) fn is_namespace_label(key: &Key) -> bool {
    key.name.starts_with(NAMESPACE_LABELS) && is_of_kubernetes(key)
}

fn is_of_kubernetes(key: &Key) -> bool {
    key.source == SOURCE_K8S || key.source == model::labels::SOURCE_ANY
}

/// What the keys of a namespace's own labels begin with on the endpoints in it.
pub(super) const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";

/// The metadata of a document.
#[derive(Debug)]
pub(super) struct Metadata {
    kind: &'static str,
    pub(super) name: String,
    /// Absent for kinds that belong to no namespace.
    pub(super) namespace: Option<String>,
    uid: Option<String>,
    pub(super) labels: Vec<(String, String)>,
}

/// Members of metadata that say something about rules, and those that do not.
const FIELDS: &[Name] = &[
    "name",
    "namespace",
    "uid",
    "labels",
    "annotations",
    "generateName",
    "selfLink",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "clusterName",
];

impl Metadata {
    /// Reads the member `metadata` of a document; `namespace` is the one of documents that name none, absent for kinds
    /// without.
    pub(super) fn read(
        decoder: &mut Decoder,
        kind: &'static str,
        document: &Fields<'_>,
        path: &Path<'_>,
        namespace: Option<&str>,
    ) -> Metadata {
        let mut found = Metadata { kind, name: String::new(), namespace: None, uid: None, labels: Vec::new() };
        document.read(decoder, path, "metadata", |decoder, value, path| {
            let fields = decoder.object(value, path, FIELDS)?;
            found.name = fields.read(decoder, path, "name", Decoder::text).unwrap_or_default();
            found.namespace = fields.read(decoder, path, "namespace", Decoder::text);
            found.uid = fields.read(decoder, path, "uid", Decoder::text);
            found.labels = fields.read(decoder, path, "labels", Decoder::map).unwrap_or_default();
            Some(())
        });
        let metadata = path.field("metadata");
        if found.name.is_empty() {
            decoder.faults.add_missing_member(&metadata, &["name"], "a document must have a name");
        }
        let given = found.namespace.take().filter(|name| !name.is_empty());
        found.namespace = namespace.map(|default| given.unwrap_or_else(|| default.to_owned()));
        if let Some(namespace) = &found.namespace {
            selector::check_value(namespace, decoder, &metadata.field("namespace"));
        }
        found
    }

    /// Gives a rule that was made of the document the labels by which all of them are found again, before its own.
    pub(super) fn sign(&self, rule: &mut Rule) {
        let label = |key: &str, value: &str| RuleLabel::Parts {
            key: format!("{POLICY}{key}"),
            value: Some(value.to_owned()),
            source: Some(SOURCE_K8S.to_owned()),
        };
        let mut labels = vec![label("derived-from", self.kind), label("name", &self.name)];
        labels.extend(self.namespace.as_deref().map(|namespace| label("namespace", namespace)));
        labels.extend(self.uid.as_deref().map(|uid| label("uid", uid)));
        labels.extend(rule.labels.take().unwrap_or_default());
        rule.labels = Some(labels);
    }
}

/// What the keys of the labels of rules that were made of documents begin with.
const POLICY: &str = "io.cilium.k8s.policy.";

/// What a document is known by, as the labels of its rules tell.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct DocumentName {
    kind: String,
    namespace: Option<String>,
    name: String,
}

impl DocumentName {
    /// The document that a rule was made of; `None` if it was made of none.
    pub(crate) fn of(rule: &Rule) -> Option<DocumentName> {
        let mut parts = [None, None, None];
        for label in rule.rule_labels().filter(|label| label.source == SOURCE_K8S) {
            let key = label.key.strip_prefix(POLICY);
            let place = key.and_then(|key| ["derived-from", "namespace", "name"].iter().position(|part| *part == key));
            if let Some(part) = place.and_then(|place| parts.get_mut(place)) {
                *part = Some(label.value);
            }
        }
        let [kind, namespace, name] = parts;
        Some(DocumentName { kind: kind?, namespace, name: name? })
    }
}

/// What people call the document: kind, and name within its namespace.
impl fmt::Display for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

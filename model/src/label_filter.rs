//! Which labels of a container make its identity.
//!
//! An entry is `[source:][!]prefix`: labels whose key starts with the prefix are included, or with `!` excluded. A
//! prefix that ends in `$` is a whole key. As soon as one inclusive entry is given by the user, only included labels
//! count. Of the entries that match a label the one with the longest prefix decides, and of equally long ones the last:
//! so what the defaults exclude can be taken back.
//! Reserved labels are never subject to the filter; containers cannot have them (see `container_labels`).

use crate::cluster_name::{CLUSTER_LABEL, ClusterName};
use crate::labels::{Label, Labels, SOURCE_ANY, SOURCE_CONTAINER, SOURCE_K8S, SOURCE_RESERVED};
use std::collections::BTreeMap;

/// Keys that differ by container, by image build or by compose run, and would make an identity for each container.
const DEFAULT_EXCLUDED: &[&str] = &[
    "annotation.",
    "com.docker.compose.config-hash",
    "com.docker.compose.container-number",
    "com.docker.compose.depends_on",
    "com.docker.compose.image",
    "com.docker.compose.oneoff",
    "com.docker.compose.project.config_files",
    "com.docker.compose.project.environment_file",
    "com.docker.compose.project.working_dir",
    "com.docker.compose.replace",
    "com.docker.compose.version",
    "com.docker.swarm.node",
    "com.docker.swarm.task",
    "controller-revision-hash",
    "desktop.docker.io/",
    "io.kubernetes",
    "kubernetes.io",
    "maintainer$",
    "org.label-schema.",
    "org.opencontainers.image.",
    "pod-template-generation",
    "pod-template-hash",
];

/// The label that policies of a namespace select by.
const NAMESPACE: &str = "io.kubernetes.pod.namespace$";

/// Longest key and value that become part of an identity: Kubernetes' limits (a key's name 63 bytes, its prefix 253;
/// a value 63) with room; longer ones are hostile or data, and count as excluded.
const MAX_KEY: usize = 317;
const MAX_VALUE: usize = 255;
/// Most labels that one identity may have.
const MAX_LABELS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    source: Option<String>,
    prefix: String,
    exclude: bool,
}

impl Entry {
    fn matches(&self, label: &Label) -> bool {
        self.source.as_deref().is_none_or(|source| source == label.source)
            && match self.prefix.strip_suffix('$') {
                Some(key) => label.key == key,
                None => label.key.starts_with(&self.prefix),
            }
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("label filter entry {0:?} is malformed: the form is [source:][!]prefix, with a prefix")]
pub struct FilterError(String);

/// Decides which labels count. Make it with `LabelFilter::new`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFilter {
    entries: Vec<Entry>,
    white_list: bool,
    /// What is said of every endpoint.
    cluster: Option<ClusterName>,
}

impl Default for LabelFilter {
    fn default() -> LabelFilter {
        let entries =
            DEFAULT_EXCLUDED.iter().map(|prefix| Entry { source: None, prefix: (*prefix).to_owned(), exclude: true });
        let namespace = Entry { source: Some(SOURCE_K8S.to_owned()), prefix: NAMESPACE.to_owned(), exclude: false };
        LabelFilter { entries: entries.chain([namespace]).collect(), white_list: false, cluster: None }
    }
}

impl LabelFilter {
    /// The default exclusions and then `entries` as the user wrote them.
    pub fn new<S: AsRef<str>>(entries: &[S]) -> Result<LabelFilter, FilterError> {
        let mut filter = LabelFilter::default();
        for text in entries.iter().map(AsRef::as_ref) {
            let (source, rest) = match text.split_once(':') {
                Some((source, rest)) => (Some(source), rest),
                None => (None, text),
            };
            let (exclude, prefix) = match rest.strip_prefix('!') {
                Some(prefix) => (true, prefix),
                None => (false, rest),
            };
            if prefix.is_empty() || prefix == "$" || source.is_some_and(|s| s.contains('!')) {
                return Err(FilterError(text.to_owned()));
            }
            filter.white_list |= !exclude;
            let source = source.filter(|s| !s.is_empty() && *s != SOURCE_ANY).map(str::to_owned);
            filter.entries.push(Entry { source, prefix: prefix.to_owned(), exclude });
        }
        Ok(filter)
    }

    /// Every identity has the label of this cluster too, whatever the entries say: that of a cluster in a mesh.
    pub fn in_cluster(self, cluster: ClusterName) -> LabelFilter {
        LabelFilter { cluster: Some(cluster), ..self }
    }

    /// Whether `label` is part of an identity.
    pub fn includes(&self, label: &Label) -> bool {
        if label.source == SOURCE_RESERVED {
            return true;
        }
        if label.key.len() > MAX_KEY || label.value.len() > MAX_VALUE {
            return false;
        }
        let decisive =
            self.entries.iter().filter(|e| e.matches(label)).max_by_key(|e| e.prefix.trim_end_matches('$').len());
        decisive.map_or(!self.white_list, |entry| !entry.exclude)
    }

    /// The identity labels of a container, out of what Docker says its labels are.
    ///
    /// Whoever creates a container chooses these texts, so they are hostile: a key that claims a source of its own
    /// (`reserved:host`) is refused, and so are keys in `io.cilium.` and `reserved`, control characters, and more than 64
    /// labels (the first ones in sorted order stay). A container that is left without any label gets
    /// `container:unlabelled`, so that it has a definite identity.
    pub fn container_labels(&self, raw: &BTreeMap<String, String>) -> Labels {
        let labels = raw.iter().filter_map(|(key, value)| container_label(key, value));
        let labels: Labels = labels.filter(|label| self.includes(label)).take(MAX_LABELS).collect();
        let labels = if labels.is_empty() {
            [Label::new(SOURCE_CONTAINER, "unlabelled", "")].into_iter().collect()
        } else {
            labels
        };
        // A container cannot have such a key itself.
        let cluster = self.cluster.map(|cluster| Label::new(SOURCE_K8S, CLUSTER_LABEL, cluster.as_str()));
        labels.0.into_iter().chain(cluster).collect()
    }
}

/// What a container's own label is to policies: `container:key=value`. A key `k8s:key`, and no other source, may be given,
/// so that policies that were written for a cluster find their namespace and their labels. `None`: refused.
pub fn container_label(key: &str, value: &str) -> Option<Label> {
    let (source, key) = match key.strip_prefix("k8s:") {
        Some(key) => (SOURCE_K8S, key),
        None => (SOURCE_CONTAINER, key),
    };
    let usable = !key.is_empty()
        && !key.starts_with("io.cilium.")
        && !key.starts_with("reserved")
        && !key.contains([':', ';', '='])
        && !value.contains(';')
        && !key.chars().chain(value.chars()).any(char::is_control);
    usable.then(|| Label::new(source, key, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn compose_noise_makes_no_identity_but_its_service_does() {
        let labels = LabelFilter::default().container_labels(&raw(&[
            ("com.docker.compose.config-hash", "abc"),
            ("com.docker.compose.container-number", "1"),
            ("com.docker.compose.service", "web"),
        ]));
        assert_eq!(labels.to_string(), "container:com.docker.compose.service=web");
    }

    #[test]
    fn a_container_cannot_take_a_reserved_or_internal_label() {
        let labels = LabelFilter::default().container_labels(&raw(&[
            ("reserved:host", ""),
            ("reserved", "host"),
            ("io.cilium.fixed-identity", "host"),
            ("a", "b;reserved:host="),
            ("id", "x"),
        ]));
        assert_eq!(labels.to_string(), "container:id=x");
    }

    #[test]
    fn a_container_may_say_what_a_cluster_would() {
        let labels = LabelFilter::default().container_labels(&raw(&[
            ("k8s:io.kubernetes.pod.namespace", "shop"),
            ("k8s:app", "web"),
            ("k8s:io.cilium.k8s.policy.serviceaccount", "admin"),
            ("k8s:reserved:host", ""),
            ("k8s:", "x"),
            ("k8s:io.kubernetes.pod.uid", "1-2-3"),
            ("io.kubernetes.pod.namespace", "other"),
            ("app", "x"),
        ]));
        assert_eq!(labels.to_string(), "container:app=x,k8s:app=web,k8s:io.kubernetes.pod.namespace=shop");
    }

    #[test]
    fn the_cluster_is_told_whatever_a_container_says_of_it() {
        let filter = LabelFilter::new(&["id"]).unwrap().in_cluster(ClusterName::new("a").unwrap());
        let lies = [(CLUSTER_LABEL, "b"), ("k8s:io.cilium.k8s.policy.cluster", "b"), ("id", "x")];
        assert_eq!(
            filter.container_labels(&raw(&lies)).to_string(),
            "container:id=x,k8s:io.cilium.k8s.policy.cluster=a"
        );
        assert_eq!(
            filter.container_labels(&raw(&[])).to_string(),
            "container:unlabelled,k8s:io.cilium.k8s.policy.cluster=a"
        );
    }

    #[test]
    fn no_labels_still_make_an_identity() {
        assert_eq!(LabelFilter::default().container_labels(&raw(&[])).to_string(), "container:unlabelled");
    }

    #[test]
    fn an_inclusive_entry_makes_a_white_list() {
        let filter = LabelFilter::new(&["container:id"]).unwrap();
        assert_eq!(filter.container_labels(&raw(&[("id", "x"), ("tier", "y")])).to_string(), "container:id=x");
    }

    #[test]
    fn the_longer_prefix_decides() {
        let filter = LabelFilter::new(&["org.", "!org.x"]).unwrap();
        assert_eq!(filter.container_labels(&raw(&[("org.a", "1"), ("org.x.b", "2")])).to_string(), "container:org.a=1");
    }

    #[test]
    fn a_default_exclusion_can_be_taken_back() {
        let filter = LabelFilter::new(&["maintainer$", "id"]).unwrap();
        assert_eq!(filter.container_labels(&raw(&[("maintainer", "me")])).to_string(), "container:maintainer=me");
    }

    #[test]
    fn malformed_entries_are_refused() {
        for text in ["", "!", "$", "container:", "container:!", "!container:x"] {
            assert!(LabelFilter::new(&[text]).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn hostile_labels_never_make_another_source(pairs in proptest::collection::btree_map(".{0,40}", ".{0,40}", 0..80)) {
            let labels = LabelFilter::default().container_labels(&pairs);
            prop_assert!(!labels.is_empty() && labels.len() <= MAX_LABELS);
            prop_assert!(labels.iter().all(|l| l.source == SOURCE_CONTAINER || l.source == SOURCE_K8S));
            prop_assert_eq!(Labels::from_sorted_list(&labels.sorted_list()).unwrap(), labels);
        }
    }
}

//! Labels, and the sets of them that identities stand for.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

pub const SOURCE_ANY: &str = "any";
pub const SOURCE_CIDR: &str = "cidr";
pub const SOURCE_CONTAINER: &str = "container";
/// Of what a cluster would say of a container; see `label_filter`.
pub const SOURCE_K8S: &str = "k8s";
pub const SOURCE_RESERVED: &str = "reserved";
pub const SOURCE_UNSPEC: &str = "unspec";

/// One label. Text form: `source:key=value`, `source:key` when the value is empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    pub source: String,
    pub key: String,
    pub value: String,
}

impl Label {
    pub fn new(source: impl Into<String>, key: impl Into<String>, value: impl Into<String>) -> Label {
        Label { source: source.into(), key: key.into(), value: value.into() }
    }

    pub fn reserved(name: &str) -> Label {
        Label::new(SOURCE_RESERVED, name, "")
    }

    /// Reads `[source:]key[=value]`. The part before the first `:` is the source, unless a `=` comes earlier (a value
    /// may hold colons); a text without a source gets `default_source`. `reserved:=x` is read as the key `x`, as
    /// Cilium does; no key has a `=` in it.
    ///
    /// Fails when the key is empty.
    pub fn parse(text: &str, default_source: &str) -> Result<Label, LabelError> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let (source, key) = name.split_once(':').unwrap_or((default_source, name));
        let source = if source.is_empty() { default_source } else { source };
        if source == SOURCE_RESERVED && key.is_empty() && !value.is_empty() && !value.contains('=') {
            return Ok(Label::reserved(value));
        }
        if key.is_empty() {
            return Err(LabelError(text.to_owned()));
        }
        Ok(Label::new(source, key, value))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.is_empty() {
            write!(f, "{}:{}", self.source, self.key)
        } else {
            write!(f, "{}:{}={}", self.source, self.key, self.value)
        }
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("label {0:?} has no key: the form is [source:]key[=value]")]
pub struct LabelError(String);

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Label, LabelError> {
        Label::parse(text, SOURCE_UNSPEC)
    }
}

impl serde::Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Label {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Label, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A sorted set of labels: what an identity stands for. Both `k8s:app=a` and `container:app=b` may be in one set.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Labels(pub BTreeSet<Label>);

impl Labels {
    pub fn new() -> Labels {
        Labels::default()
    }

    /// The set `{reserved:name}`.
    pub fn reserved(name: &str) -> Labels {
        Labels([Label::reserved(name)].into())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Label> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn has_reserved(&self, name: &str) -> bool {
        self.0.contains(&Label::reserved(name))
    }

    /// The form stored in the kvstore: each label as `source:key=value;`, sorted, the last `;` and the `=` of an empty
    /// value included (Cilium `Labels.SortedList`). Two equal sets have equal texts.
    pub fn sorted_list(&self) -> String {
        let mut text = String::new();
        for label in &self.0 {
            text.extend([&label.source, ":", &label.key, "=", &label.value, ";"]);
        }
        text
    }

    /// Reads what `sorted_list` wrote.
    pub fn from_sorted_list(text: &str) -> Result<Labels, LabelError> {
        text.split(';').filter(|part| !part.is_empty()).map(str::parse).collect::<Result<_, _>>().map(Labels)
    }

    /// SHA-256 of `sorted_list`, in hexadecimal (the `labelsSHA256` of the REST API).
    pub fn sha256(&self) -> String {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(self.sorted_list().as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, label) in self.0.iter().enumerate() {
            write!(f, "{}{label}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

impl FromIterator<Label> for Labels {
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Labels {
        Labels(labels.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_without_a_source_gets_the_default() {
        assert_eq!(Label::parse("id=app1", SOURCE_ANY).unwrap(), Label::new("any", "id", "app1"));
    }

    #[test]
    fn a_colon_in_the_value_is_no_source() {
        assert_eq!(Label::parse("url=http://x", SOURCE_ANY).unwrap(), Label::new("any", "url", "http://x"));
    }

    #[test]
    fn reserved_with_empty_key_takes_the_value_as_key() {
        assert_eq!("reserved:=host".parse::<Label>().unwrap(), Label::reserved("host"));
        assert!("reserved:=a=b".parse::<Label>().is_err());
    }

    #[test]
    fn no_key_is_an_error() {
        for text in ["", "=x", "container:", "container:=x"] {
            assert!(text.parse::<Label>().is_err(), "{text}");
        }
    }

    #[test]
    fn sorted_list_is_ciliums() {
        let labels: Labels =
            [Label::new("container", "id", "app1"), Label::new("container", "a", "")].into_iter().collect();
        assert_eq!(labels.sorted_list(), "container:a=;container:id=app1;");
    }

    proptest! {
        #[test]
        fn any_label_round_trips(source in "[a-z]{1,8}", key in "[a-zA-Z0-9._/-]{1,20}", value in "[a-zA-Z0-9._:=-]{0,20}") {
            prop_assume!(source != SOURCE_RESERVED);
            let label = Label::new(source, key, value);
            prop_assert_eq!(label.to_string().parse::<Label>().unwrap(), label);
        }

        #[test]
        fn parsing_never_panics(text in ".{0,64}") {
            let _ = text.parse::<Label>();
        }

        #[test]
        fn sorted_lists_round_trip(set in proptest::collection::btree_set(("[a-z]{1,3}", "[a-z]{1,3}", "[a-z]{0,3}"), 0..6)) {
            let labels: Labels = set.into_iter().map(|(s, k, v)| Label::new(s, k, v)).collect();
            prop_assert_eq!(Labels::from_sorted_list(&labels.sorted_list()).unwrap(), labels);
        }
    }
}

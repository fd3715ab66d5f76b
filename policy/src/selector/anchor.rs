//! What a label set must have for a selector to match it at all: by it the few selectors are found that a label set can
//! match. Whether they do is `Selector::matches`'s to say.

use super::{Key, Operator, Requirement, Selector};
use crate::cidr;
use ipnetwork::IpNetwork;

/// One way for a label set to come into question.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Anchor {
    /// It has a label with this key, of any source, and this value.
    Label(String, String),
    /// It has a label with this key, of any source.
    Key(String),
    /// It stands for a prefix inside this one.
    Prefix(IpNetwork),
    /// It is one; nothing can be told beforehand.
    Anybody,
}

impl Selector {
    /// The parts of the selector that demand something: of each part the ways in which it can be met, one of which
    /// every label set has that matches. None: the selector demands nothing, or only that things be absent.
    pub(crate) fn anchors(&self) -> Vec<Vec<Anchor>> {
        let labels = self.match_labels.iter().flatten().map(|(key, value)| key.anchors([value]));
        let expressions = self.match_expressions.iter().flatten().filter_map(Requirement::anchors);
        labels.chain(expressions).filter(|ways| !ways.contains(&Anchor::Anybody)).collect()
    }
}

impl Requirement {
    fn anchors(&self) -> Option<Vec<Anchor>> {
        match self.operator {
            Operator::In => Some(self.key.anchors(self.values.iter().flatten())),
            Operator::Exists if self.key.stands_for_more() => Some(self.key.anchors([])),
            Operator::Exists => Some(vec![Anchor::Key(self.key.name.clone())]),
            Operator::NotIn | Operator::DoesNotExist => None,
        }
    }
}

impl Key {
    /// Whether label sets can have this key without having a label of its name.
    fn stands_for_more(&self) -> bool {
        self.prefix.is_some() || self.is_world() || self.family().is_some()
    }

    /// The ways to have this key with one of `values`.
    fn anchors<'v>(&self, values: impl IntoIterator<Item = &'v String>) -> Vec<Anchor> {
        match self.prefix {
            Some(prefix) => vec![Anchor::Prefix(cidr::masked(prefix)), Anchor::Key(self.name.clone())],
            None if self.stands_for_more() => vec![Anchor::Anybody],
            None => values.into_iter().map(|value| Anchor::Label(self.name.clone(), value.clone())).collect(),
        }
    }
}

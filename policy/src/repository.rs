//! The rules in force, in the order in which they came, and the number of their version.
//!
//! Every change is all or nothing and one step of the revision. Rules are shared, so a clone is cheap.

use crate::cidr;
use crate::document::DocumentName;
use crate::rule::Rule;
use ipnetwork::IpNetwork;
use model::labels::SOURCE_ANY;
use model::{Label, Labels};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Repository {
    rules: Vec<Arc<Rule>>,
    revision: u64,
}

/// What a change did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// The revision after the change.
    pub revision: u64,
    pub added: usize,
    pub removed: usize,
}

/// No rule has all of the given labels.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("policy not found: no rule has all of the labels {}", Labels::from_iter(.0.iter().cloned()))]
pub struct NotFound(pub Vec<Label>);

/// The revision of a repository that nothing was imported into.
const FIRST_REVISION: u64 = 1;

impl Default for Repository {
    fn default() -> Repository {
        Repository::new()
    }
}

impl Repository {
    pub fn new() -> Repository {
        Repository { rules: Vec::new(), revision: FIRST_REVISION }
    }

    /// A repository as it was stored.
    pub fn from_rules(rules: impl IntoIterator<Item = Arc<Rule>>, revision: u64) -> Repository {
        Repository { rules: rules.into_iter().collect(), revision: revision.max(FIRST_REVISION) }
    }

    /// The same, but rules that `before` has too are the same objects: whoever keeps what follows from a rule sees by
    /// that which are new.
    #[must_use]
    pub fn sharing(&self, before: &Repository) -> Repository {
        let (new, old) = (&self.rules, &before.rules);
        let head = new.iter().zip(old).take_while(|(a, b)| a == b).count();
        let (new_rest, old_rest) = (&new[head..], &old[head..]);
        let tail = new_rest.iter().rev().zip(old_rest.iter().rev()).take_while(|(a, b)| a == b).count();
        let (middle, old_middle) = (&new_rest[..new_rest.len() - tail], &old_rest[..old_rest.len() - tail]);
        let mut spare: BTreeMap<String, Vec<&Arc<Rule>>> = BTreeMap::new();
        if !middle.is_empty() {
            for rule in old_middle {
                spare.entry(text_of(rule)).or_default().push(rule);
            }
        }
        let shared = middle.iter().map(|rule| {
            let same = if spare.is_empty() { None } else { spare.get_mut(&text_of(rule)).and_then(Vec::pop) };
            same.filter(|same| *same == rule).unwrap_or(rule).clone()
        });
        let shared: Vec<Arc<Rule>> = shared.collect();
        let rules = old[..head].iter().cloned().chain(shared).chain(old[old.len() - tail..].iter().cloned()).collect();
        Repository { rules, revision: self.revision }
    }

    /// 1 before the first change; every change adds 1.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Appends rules; the same rules given twice are there twice. Rules that were made of a document take the place of
    /// all that were made of it before: a document is known by its kind, namespace and name.
    pub fn add(&mut self, rules: Vec<Rule>) -> Change {
        let documents = documents_of(&rules);
        let removed = self.remove(|old| is_of(old, &documents));
        self.change(removed, rules)
    }

    /// Deletes the rules that have all of `labels`, then appends `rules`. No labels: every rule goes.
    pub fn replace_by_labels(&mut self, labels: &[Label], rules: Vec<Rule>) -> Change {
        let removed = self.remove(|rule| has_all(rule, labels));
        self.change(removed, rules)
    }

    /// Deletes, for each new rule, the rules that have all of its labels, then appends the new ones. A new rule without
    /// labels takes nobody's place. Rules that were made of documents as in `add`.
    pub fn replace(&mut self, rules: Vec<Rule>) -> Change {
        let documents = documents_of(&rules);
        let handles: Vec<Vec<Label>> = rules.iter().map(|rule| rule.rule_labels().collect()).collect();
        let by_labels = |old: &Rule| handles.iter().any(|labels| !labels.is_empty() && has_all(old, labels));
        let replaced = |old: &Rule| is_of(old, &documents) || by_labels(old);
        let removed = self.remove(replaced);
        self.change(removed, rules)
    }

    /// Deletes the rules that have all of `labels`; every rule, if there are no labels.
    ///
    /// Fails, and changes nothing, if labels are given and no rule has them.
    pub fn delete(&mut self, labels: &[Label]) -> Result<Change, NotFound> {
        let removed = self.remove(|rule| has_all(rule, labels));
        if removed == 0 && !labels.is_empty() {
            return Err(NotFound(labels.to_vec()));
        }
        Ok(self.change(removed, Vec::new()))
    }

    /// The rules that have all of `labels`, in order; every rule, if there are no labels.
    pub fn get(&self, labels: &[Label]) -> Vec<&Arc<Rule>> {
        self.rules.iter().filter(|rule| has_all(rule, labels)).collect()
    }

    /// Every prefix that a rule mentions: each must have an identity of its own, with the labels `policy::cidr_labels`.
    pub fn mentioned_prefixes(&self) -> BTreeSet<IpNetwork> {
        cidr::mentioned_prefixes(self.rules.iter().map(AsRef::as_ref))
    }

    fn remove(&mut self, unwanted: impl Fn(&Rule) -> bool) -> usize {
        let before = self.rules.len();
        self.rules.retain(|rule| !unwanted(rule));
        before - self.rules.len()
    }

    fn change(&mut self, removed: usize, rules: Vec<Rule>) -> Change {
        let added = rules.len();
        self.rules.extend(rules.into_iter().map(Arc::new));
        self.revision += 1;
        Change { revision: self.revision, added, removed }
    }
}

/// Equal rules have equal texts.
fn text_of(rule: &Rule) -> String {
    serde_json::to_string(rule).unwrap_or_default()
}

fn documents_of(rules: &[Rule]) -> BTreeSet<DocumentName> {
    rules.iter().filter_map(DocumentName::of).collect()
}

fn is_of(rule: &Rule, documents: &BTreeSet<DocumentName>) -> bool {
    !documents.is_empty() && DocumentName::of(rule).is_some_and(|name| documents.contains(&name))
}

/// Whether every one of `labels` is among the rule's own. A label of source `any` stands for every source.
fn has_all(rule: &Rule, labels: &[Label]) -> bool {
    let own: Vec<Label> = rule.rule_labels().collect();
    labels.iter().all(|wanted| {
        own.iter().any(|label| {
            let source = wanted.source == SOURCE_ANY || wanted.source == label.source;
            source && wanted.key == label.key && wanted.value == label.value
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{ReadOptions, read_documents};
    use crate::parse_rules;
    use serde_json::{Value, json};

    /// A rule with the given labels and a description to tell it by.
    fn rule(name: &str, labels: Value) -> Rule {
        let text =
            json!([{"endpointSelector": {}, "ingress": [{}], "description": name, "labels": labels}]).to_string();
        parse_rules(&text).unwrap().remove(0)
    }

    fn names(repository: &Repository) -> Vec<&str> {
        repository.rules().iter().filter_map(|rule| rule.description.as_deref()).collect()
    }

    fn label(text: &str) -> Label {
        Label::parse(text, SOURCE_ANY).unwrap()
    }

    fn filled() -> Repository {
        let mut repository = Repository::new();
        repository.add(vec![
            rule("a", json!([{"key": "name", "value": "x"}])),
            rule("b", json!(["container:name=x", "tier=1"])),
            rule("c", json!(null)),
        ]);
        repository
    }

    #[test]
    fn revisions_start_at_one_and_go_up_by_one() {
        let mut repository = Repository::new();
        assert_eq!(repository.revision(), 1);
        assert_eq!(repository.add(vec![rule("a", json!([]))]), Change { revision: 2, added: 1, removed: 0 });
        assert_eq!(repository.delete(&[]), Ok(Change { revision: 3, added: 0, removed: 1 }));
    }

    #[test]
    fn importing_twice_gives_two_copies() {
        let mut repository = filled();
        repository.add(vec![rule("a", json!(null))]);
        assert_eq!(names(&repository), ["a", "b", "c", "a"]);
    }

    #[test]
    fn every_given_label_must_be_there_and_any_is_every_source() {
        let repository = filled();
        let found = |labels: &[&str]| {
            let labels: Vec<_> = labels.iter().map(|text| label(text)).collect();
            repository.get(&labels).iter().filter_map(|rule| rule.description.clone()).collect::<String>()
        };
        assert_eq!(found(&["name=x"]), "ab");
        assert_eq!(found(&["unspec:name=x"]), "a");
        assert_eq!(found(&["name=x", "tier=1"]), "b");
        assert_eq!(found(&["name"]), "");
        assert_eq!(found(&[]), "abc");
    }

    #[test]
    fn deleting_what_is_not_there_changes_nothing() {
        let mut repository = filled();
        let error = repository.delete(&[label("name=y")]).unwrap_err();
        assert_eq!(error.to_string(), "policy not found: no rule has all of the labels any:name=y");
        assert_eq!((repository.revision(), names(&repository)), (2, vec!["a", "b", "c"]));
        assert_eq!(repository.delete(&[label("tier=1")]), Ok(Change { revision: 3, added: 0, removed: 1 }));
        assert_eq!(names(&repository), ["a", "c"]);
    }

    #[test]
    fn new_rules_take_the_place_of_those_with_their_labels() {
        let mut repository = filled();
        let new = vec![rule("d", json!([{"key": "name", "value": "x"}])), rule("e", json!([]))];
        assert_eq!(repository.replace(new), Change { revision: 3, added: 2, removed: 1 });
        assert_eq!(names(&repository), ["b", "c", "d", "e"]);
    }

    #[test]
    fn rules_are_replaced_by_given_labels() {
        let mut repository = filled();
        let change = repository.replace_by_labels(&[label("name=x")], vec![rule("d", json!([]))]);
        assert_eq!(change, Change { revision: 3, added: 1, removed: 2 });
        assert_eq!(names(&repository), ["c", "d"]);
    }

    #[test]
    fn rules_that_were_there_before_are_the_same_objects() {
        let named = |names: &str| {
            let rules = names.chars().map(|name| Arc::new(rule(&name.to_string(), json!(null))));
            Repository::from_rules(rules, 2)
        };
        for (before, after, same) in [
            ("abc", "abc", "abc"),
            ("abc", "abxc", "abc"),
            ("abcd", "ad", "ad"),
            ("abcd", "dcba", "abcd"),
            ("abba", "ab", "ab"),
            ("", "ab", ""),
            ("aa", "aaa", "aa"),
        ] {
            let (old, new) = (named(before), named(after));
            let shared = new.sharing(&old);
            assert_eq!(shared.rules(), new.rules());
            let held: BTreeSet<_> = old.rules().iter().map(Arc::as_ptr).collect();
            let mut kept: Vec<_> = shared.rules().iter().filter(|rule| held.contains(&Arc::as_ptr(rule))).collect();
            let count = kept.len();
            kept.sort_by_key(|rule| Arc::as_ptr(rule));
            kept.dedup_by_key(|rule| Arc::as_ptr(rule));
            let mut names: Vec<&str> = kept.iter().filter_map(|rule| rule.description.as_deref()).collect();
            names.sort_unstable();
            assert_eq!((names.concat(), count), (same.to_owned(), same.len()), "{before} to {after}");
        }
    }

    #[test]
    fn prefixes_are_mentioned_once_and_excepted_ones_too() {
        let text = json!([{"endpointSelector": {}, "ingress": [{"fromCIDR": ["10.1.2.3/8", "10.0.0.0/8"]}],
            "egressDeny": [{"toCIDRSet": [{"cidr": "192.168.0.0/16", "except": ["192.168.1.0/24"]}]}]}]);
        let mut repository = Repository::new();
        repository.add(parse_rules(&text.to_string()).unwrap());
        let prefixes: Vec<_> = repository.mentioned_prefixes().iter().map(ToString::to_string).collect();
        assert_eq!(prefixes, ["10.0.0.0/8", "192.168.0.0/16", "192.168.1.0/24"]);
    }

    #[test]
    fn the_world_of_a_family_needs_no_identity_of_its_own() {
        for entry in [
            json!({"fromCIDR": ["0.0.0.0/0"]}),
            json!({"fromEntities": ["world-ipv6"]}),
            json!({"fromEndpoints": [{"matchLabels": {"reserved:world-ipv4": ""}}]}),
        ] {
            let text = json!([{"endpointSelector": {}, "ingress": [entry]}]);
            let mut repository = Repository::new();
            repository.add(parse_rules(&text.to_string()).unwrap());
            let prefixes: Vec<_> = repository.mentioned_prefixes().iter().map(ToString::to_string).collect();
            assert!(prefixes.is_empty(), "{prefixes:?}");
        }
    }

    #[test]
    fn a_document_takes_its_own_place() {
        let document = |name: &str, specs: &[&str]| {
            let specs: Vec<_> = specs
                .iter()
                .map(|label| json!({"endpointSelector": {}, "ingress": [{}], "labels": [label], "description": label}))
                .collect();
            let text = json!({"kind": "CiliumNetworkPolicy", "metadata": {"name": name}, "specs": specs}).to_string();
            read_documents(&text, &ReadOptions::default()).unwrap()
        };
        let mut repository = Repository::new();
        repository.add(vec![rule("plain", json!(["a"]))]);
        repository.add(document("web", &["a", "b"]));
        repository.add(document("db", &["c"]));
        let change = repository.add(document("web", &["d"]));
        assert_eq!((change.added, change.removed), (1, 2));
        assert_eq!(names(&repository), ["plain", "c", "d"]);
        let change = repository.replace(document("web", &["e", "f"]));
        assert_eq!((change.added, change.removed), (2, 1));
        assert_eq!(names(&repository), ["plain", "c", "e", "f"]);
    }
}

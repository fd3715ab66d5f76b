//! How much one text may hold. Owns the bounds and their names; each is enforced where the thing is counted, and an
//! error that comes of one names it.

use crate::fault::{Faults, Path};
use crate::rule::{Entry, Rule};
use crate::selector::Selector;

/// Bounds on what is read, so that no text makes the reader use much more memory or time than a policy that somebody
/// could mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of one text.
    pub document_bytes: usize,
    /// Lists and objects within each other.
    pub nesting: usize,
    /// Values of one text: strings, numbers, lists, objects; aliases count as what they stand for. Also the prefixes
    /// that groups put into rules.
    pub values: usize,
    /// Documents of one text.
    pub documents: usize,
    /// Rules of all texts that are read together.
    pub rules: usize,
    /// Prefixes of one rule, excepted ones and those of groups included.
    pub cidrs_per_rule: usize,
    /// Members of `matchLabels`, elements of `matchExpressions` and their values, in all selectors of one rule.
    pub expressions_per_rule: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            document_bytes: 16 << 20,
            nesting: 64,
            values: 2_000_000,
            documents: 10_000,
            rules: 100_000,
            cidrs_per_rule: 40_000,
            expressions_per_rule: 10_000,
        }
    }
}

/// What an error says about a bound that was passed.
pub(crate) fn exceeded(what: &str, limit: usize) -> String {
    format!("too many {what}: the limit is {limit}")
}

impl Limits {
    /// Adds a fault for each bound on single rules that `rule` passes.
    pub(crate) fn check_rule(&self, rule: &Rule, path: &Path<'_>, faults: &mut Faults) {
        let cidrs: usize = rule.all_entries().map(cidrs).sum();
        if cidrs > self.cidrs_per_rule {
            faults.add(path, exceeded(&format!("prefixes in one rule ({cidrs})"), self.cidrs_per_rule));
        }
        let expressions = selectors(rule).map(Selector::size).sum::<usize>();
        if expressions > self.expressions_per_rule {
            let what = format!("label expressions in one rule ({expressions})");
            faults.add(path, exceeded(&what, self.expressions_per_rule));
        }
    }
}

fn cidrs(entry: &Entry) -> usize {
    let sets = entry.cidr_set.iter().flatten();
    let of_sets: usize = sets.map(|set| 1 + set.except.as_ref().map_or(0, Vec::len)).sum();
    entry.cidr.as_ref().map_or(0, Vec::len) + of_sets
}

fn selectors(rule: &Rule) -> impl Iterator<Item = &Selector> {
    let of_entries = rule.all_entries().flat_map(|entry| {
        let peers = [&entry.endpoints, &entry.requires, &entry.nodes].into_iter().flatten().flatten();
        let groups = entry.cidr_set.iter().flatten().filter_map(|set| set.cidr_group_selector.as_ref());
        peers.chain(groups)
    });
    rule.endpoint_selector.iter().chain(&rule.node_selector).chain(of_entries)
}

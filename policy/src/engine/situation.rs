//! The policy that follows from a set of rules, as a column of entries for each peer. An identity that comes or goes
//! costs the making of its own column, and not even that where other peers are selected alike.

use super::rules::{Keys, Prepared, RuleId, Side, Whom};
use super::selectors::{SelectorId, Selectors};
use crate::compile::{AnyPeer, Traffic};
use crate::resolve::{AllowLocalhost, Options};
use crate::rule::Verdict;
use model::{Column, Direction, Identity, PolicyEntry, PolicyMap};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SituationId(pub(super) u32);

/// All that a subject's policy depends on, beside who there is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Case {
    /// Nothing is enforced.
    Open,
    /// These rules select the subject, in the order of their numbers.
    Ruled { always_denied: bool, rules: Vec<RuleId> },
}

/// What is said of the peers that all of some selectors select.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Filter {
    /// Of the selectors the one by which its peers are found.
    lead: SelectorId,
    rest: Vec<SelectorId>,
    keys: Keys,
}

#[derive(Debug)]
pub(super) struct Situation {
    pub(super) case: Case,
    /// Whose policy this is.
    pub(super) subjects: BTreeSet<Identity>,
    pub(super) map: Arc<PolicyMap>,
    /// Each once, by `lead`.
    filters: Vec<Filter>,
    any: AnyPeer,
    /// What follows from a set of filters, by their places.
    columns: BTreeMap<Box<[u32]>, Column>,
}

/// Beyond so many for each peer, columns that were made once are forgotten.
const SPARE_COLUMNS: usize = 1024;

impl Situation {
    pub(super) fn open(case: Case) -> Situation {
        Situation {
            case,
            subjects: BTreeSet::new(),
            map: Arc::new(PolicyMap::allow_all()),
            filters: Vec::new(),
            any: AnyPeer::new(Vec::new()),
            columns: BTreeMap::new(),
        }
    }

    /// The policy of those whom `rules` select.
    pub(super) fn ruled(
        case: Case,
        always_denied: bool,
        rules: &[&Prepared],
        options: Options,
        selectors: &Selectors,
    ) -> Situation {
        let mut draft = Draft::default();
        let [ingress, egress] =
            Direction::BOTH.map(|direction| draft.direction(direction, always_denied, rules, options));
        draft.filters.sort_unstable();
        draft.filters.dedup();
        let any = AnyPeer::new(draft.any);
        let mut map = PolicyMap::default().enforcing(ingress, egress);
        map.set_column(Identity::UNKNOWN, Some(any.column().clone()));
        let mut situation = Situation {
            case,
            subjects: BTreeSet::new(),
            map: Arc::default(),
            filters: draft.filters,
            any,
            columns: BTreeMap::new(),
        };
        situation.fill(&mut map, selectors);
        situation.map = Arc::new(map);
        situation
    }

    /// The selectors whose members it says something of, each at least once.
    pub(super) fn leads(&self) -> impl Iterator<Item = SelectorId> + '_ {
        self.filters.iter().map(|filter| filter.lead)
    }

    /// Says what is to be said of an identity that these selectors match; none: it is gone. Whether that is something
    /// else than before.
    pub(super) fn update(&mut self, identity: Identity, matched: &[SelectorId]) -> bool {
        let mut applying = Vec::new();
        for id in matched {
            let first = self.filters.partition_point(|filter| filter.lead < *id);
            let led = self.filters.iter().enumerate().skip(first).take_while(|(_, filter)| filter.lead == *id);
            let applies = |filter: &Filter| filter.rest.iter().all(|other| matched.binary_search(other).is_ok());
            applying.extend(led.filter(|(_, filter)| applies(filter)).map(|(place, _)| place as u32));
        }
        let column = self.column(&applying);
        if self.map.columns().get(&identity) == column.as_ref() {
            return false;
        }
        Arc::make_mut(&mut self.map).set_column(identity, column);
        true
    }

    /// All columns at once.
    fn fill(&mut self, map: &mut PolicyMap, selectors: &Selectors) {
        let mut pairs: Vec<(Identity, u32)> = Vec::new();
        for (place, filter) in self.filters.iter().enumerate() {
            let in_all = |identity: &Identity| {
                filter.rest.iter().all(|id| selectors.members(*id).is_some_and(|set| set.contains_key(identity)))
            };
            let members = selectors.members(filter.lead).into_iter().flat_map(|set| set.keys());
            pairs.extend(members.filter(in_all).map(|identity| (identity, place as u32)));
        }
        // Runs that are in order already: what a stable sort is quick with.
        pairs.sort();
        let mut applying = Vec::new();
        for peers in pairs.chunk_by(|a, b| a.0 == b.0) {
            applying.clear();
            applying.extend(peers.iter().map(|(_, place)| *place));
            if let Some((identity, _)) = peers.first() {
                map.set_column(*identity, self.column(&applying));
            }
        }
    }

    /// What follows from the filters at these places, which are in order.
    fn column(&mut self, applying: &[u32]) -> Option<Column> {
        if applying.is_empty() {
            return None;
        }
        if let Some(column) = self.columns.get(applying) {
            return Some(column.clone()).filter(|column| !column.is_empty());
        }
        let filters = applying.iter().filter_map(|place| self.filters.get(*place as usize));
        let column = self.any.beside(filters.flat_map(|filter| filter.keys.iter().copied()).collect());
        if self.columns.len() > SPARE_COLUMNS + self.map.columns().len() {
            self.columns.clear();
        }
        self.columns.insert(applying.into(), column.clone());
        Some(column).filter(|column| !column.is_empty())
    }
}

/// A policy in the making.
#[derive(Default)]
struct Draft {
    any: Vec<(model::PolicyKey, PolicyEntry)>,
    filters: Vec<Filter>,
}

impl Draft {
    /// Adds what one direction needs; tells whether it is enforced.
    fn direction(&mut self, direction: Direction, always_denied: bool, rules: &[&Prepared], options: Options) -> bool {
        let sides = || rules.iter().map(|rule| &rule.sides[direction as usize]).filter(|side| side.speaks);
        let everything = || Traffic::Everything.keys(direction).into_iter().map(|key| (key, PolicyEntry::ALLOW));
        if !always_denied && !sides().any(|side| side.default_deny) {
            self.any.extend(everything());
        }
        if !always_denied && sides().next().is_none() {
            return false;
        }
        for (place, verdict) in [Verdict::Allow, Verdict::Deny].into_iter().enumerate() {
            let mut required: Vec<SelectorId> =
                sides().flat_map(|side| side.requires.get(place).into_iter().flatten().copied()).collect();
            required.sort_unstable();
            required.dedup();
            sides().for_each(|side| self.side(side, verdict, &required));
        }
        if direction == Direction::Ingress && options.allow_localhost == AllowLocalhost::Always {
            self.filters.push(Filter { lead: SelectorId::HOST, rest: Vec::new(), keys: everything().collect() });
        }
        true
    }

    fn side(&mut self, side: &Side, verdict: Verdict, required: &[SelectorId]) {
        for entry in side.entries.iter().filter(|entry| entry.verdict == verdict) {
            for whom in &entry.peers {
                self.add(*whom, required, &entry.keys);
            }
        }
    }

    /// Requirements turn "everyone" into those who are known to satisfy them.
    fn add(&mut self, whom: Whom, required: &[SelectorId], keys: &Keys) {
        let required = if whom.constrained { required } else { &[] };
        let mut all = whom.selector.into_iter().chain(required.iter().copied());
        match all.next() {
            None => self.any.extend(keys.iter().copied()),
            Some(lead) => {
                let rest = all.filter(|id| *id != lead).collect();
                self.filters.push(Filter { lead, rest, keys: keys.clone() });
            }
        }
    }
}

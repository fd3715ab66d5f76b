//! The policies of any number of subjects under one set of rules and identities, kept up to date as either changes.
//!
//! Each part is done once and only again for what changed: a rule is prepared when it comes (`rules`), whom a selector
//! selects is kept with it (`selectors`), subjects that the same rules select share one policy (`situation`), and of that
//! each peer's part stands by itself (`model::PolicyMap`). So an identity that comes or goes is shown to the selectors
//! that can match it (`index`), and of the policies that use those its own column is made anew; a rule that comes or goes
//! concerns the subjects that it selects.
//!
//! What the parts mean is held against the naive interpreter (`trace`) by property tests.

mod index;
mod rules;
mod selectors;
mod situation;

pub(crate) use rules::traffic_of;

use crate::repository::Repository;
use crate::resolve::{Enforcement, Options, is_host, is_init, reserved_labels, selects};
use crate::rule::Rule;
use index::Index;
use model::{Identity, Labels, PolicyMap};
use rules::{Prepared, RuleId};
use selectors::Selectors;
use situation::{Case, Situation, SituationId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug)]
pub struct Engine {
    options: Options,
    rules: Vec<Option<Prepared>>,
    free_rules: Vec<RuleId>,
    /// Numbers of the rules by the address of what they were made of.
    by_address: BTreeMap<usize, Vec<RuleId>>,
    by_subject: Index,
    selectors: Selectors,
    subjects: BTreeMap<Identity, Subject>,
    situations: Vec<Option<Situation>>,
    free_situations: Vec<SituationId>,
    by_case: BTreeMap<Case, SituationId>,
    changed: BTreeSet<Identity>,
}

/// An identity that endpoints have.
#[derive(Debug)]
struct Subject {
    labels: Arc<Labels>,
    situation: SituationId,
}

/// How much of a policy a rule makes up.
#[derive(Clone, Debug)]
pub struct Share {
    pub rule: Arc<Rule>,
    /// Entries that it would have without the others.
    pub entries: usize,
}

impl Engine {
    /// No rules and no subjects; the reserved identities are there.
    pub fn new(options: Options) -> Engine {
        let mut selectors = Selectors::new(options.cluster);
        for (identity, _) in Identity::RESERVED.iter().filter(|(identity, _)| *identity != Identity::UNKNOWN) {
            selectors.insert(*identity, &Arc::new(reserved_labels(*identity)));
        }
        Engine {
            options,
            rules: Vec::new(),
            free_rules: Vec::new(),
            by_address: BTreeMap::new(),
            by_subject: Index::default(),
            selectors,
            subjects: BTreeMap::new(),
            situations: Vec::new(),
            free_situations: Vec::new(),
            by_case: BTreeMap::new(),
            changed: BTreeSet::new(),
        }
    }

    pub fn options(&self) -> Options {
        self.options
    }

    /// Has every policy follow other options; the cluster stays what it was at first.
    pub fn set_options(&mut self, options: Options) {
        let options = Options { cluster: self.options.cluster, ..options };
        if options == self.options {
            return;
        }
        self.options = options;
        // Situations are made under the options: none may be found again.
        self.by_case.clear();
        let subjects: Vec<(Identity, Arc<Labels>)> =
            self.subjects.iter().map(|(identity, subject)| (*identity, subject.labels.clone())).collect();
        for (identity, labels) in subjects {
            self.place(identity, &labels, None);
        }
    }

    /// Puts these rules in force and no others. A rule that was in force before, as the same object, costs nothing; see
    /// `Repository::sharing`.
    pub fn set_rules(&mut self, rules: &[Arc<Rule>]) {
        let mut surplus = self.by_address.clone();
        let mut added = Vec::new();
        for rule in rules {
            let held = surplus.get_mut(&address(rule)).and_then(Vec::pop);
            if held.is_none() {
                added.push(rule.clone());
            }
        }
        let removed: BTreeSet<RuleId> = surplus.into_values().flatten().collect();
        if added.is_empty() && removed.is_empty() {
            return;
        }
        let mut fresh = Index::default();
        let added: BTreeSet<RuleId> = added.into_iter().map(|rule| self.add_rule(rule, &mut fresh)).collect();
        self.selectors.refresh();
        self.reselect(&added, &removed, &fresh);
        removed.iter().for_each(|id| self.forget_rule(*id));
    }

    /// Takes in an identity, or what it stands for from now on.
    pub fn put_identity(&mut self, identity: Identity, labels: &Arc<Labels>) {
        if identity == Identity::UNKNOWN || self.selectors.known(identity).is_some_and(|known| known.labels == *labels)
        {
            return;
        }
        let before = self.selectors.remove(identity);
        let matched = self.selectors.insert(identity, labels);
        let mut concerned = self.selectors.users(&before);
        concerned.append(&mut self.selectors.users(&matched));
        self.update(identity, &matched, &concerned);
    }

    /// Forgets an identity; a reserved one means again what it means by itself.
    pub fn remove_identity(&mut self, identity: Identity) {
        if identity.reserved_name().is_some() {
            self.put_identity(identity, &Arc::new(reserved_labels(identity)));
            return;
        }
        let before = self.selectors.remove(identity);
        let concerned = self.selectors.users(&before);
        self.update(identity, &[], &concerned);
    }

    /// Takes in an identity whose policy is wanted. It need not be known as a peer.
    pub fn put_subject(&mut self, identity: Identity, labels: &Arc<Labels>) {
        if self.subjects.get(&identity).is_none_or(|subject| subject.labels != *labels) {
            self.place(identity, labels, None);
        }
    }

    pub fn remove_subject(&mut self, identity: Identity) {
        if let Some(subject) = self.subjects.remove(&identity) {
            self.changed.insert(identity);
            self.leave(identity, subject.situation);
        }
    }

    pub fn subjects(&self) -> impl Iterator<Item = Identity> + '_ {
        self.subjects.keys().copied()
    }

    /// The policy of a subject. As long as nothing changes in it, it is the same object.
    pub fn policy(&self, subject: Identity) -> Option<&Arc<PolicyMap>> {
        let subject = self.subjects.get(&subject)?;
        self.situation(subject.situation).map(|situation| &situation.map)
    }

    /// The subjects that have come, gone, or have another policy since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<Identity> {
        std::mem::take(&mut self.changed)
    }

    /// How many selectors are kept.
    pub fn selectors(&self) -> usize {
        self.selectors.len()
    }

    /// The rules that a subject's policy is made of, the one with the most entries first.
    pub fn shares(&self, subject: Identity) -> Vec<Share> {
        let case = self.subjects.get(&subject).and_then(|s| self.situation(s.situation)).map(|s| &s.case);
        let Some(Case::Ruled { rules, .. }) = case else { return Vec::new() };
        let prepared = rules.iter().filter_map(|id| self.rule(*id));
        let mut shares: Vec<Share> =
            prepared.map(|rule| Share { rule: rule.rule.clone(), entries: self.entries(rule) }).collect();
        shares.sort_by_key(|share| std::cmp::Reverse(share.entries));
        shares
    }

    fn entries(&self, rule: &Prepared) -> usize {
        let peers = |whom: &rules::Whom| match whom.selector {
            None => 1,
            Some(id) => self.selectors.members(id).map_or(0, |members| members.len()),
        };
        let entries = rule.sides.iter().flat_map(|side| &side.entries);
        entries.map(|entry| entry.keys.len() * entry.peers.iter().map(peers).sum::<usize>()).sum()
    }

    fn add_rule(&mut self, rule: Arc<Rule>, fresh: &mut Index) -> RuleId {
        let id = self.free_rules.pop().unwrap_or_else(|| {
            self.rules.push(None);
            self.rules.len() as RuleId - 1
        });
        let selector = rule.endpoint_selector.as_ref();
        if let Some(selector) = selector {
            fresh.insert(id, selector);
        }
        let ways = selector.map(|selector| self.by_subject.insert(id, selector)).unwrap_or_default();
        self.by_address.entry(address(&rule)).or_default().push(id);
        let prepared = Prepared::new(rule, ways, &mut self.selectors);
        if let Some(place) = self.rules.get_mut(id as usize) {
            *place = Some(prepared);
        }
        id
    }

    /// Nothing may be made of it any more.
    fn forget_rule(&mut self, id: RuleId) {
        let Some(prepared) = self.rules.get_mut(id as usize).and_then(Option::take) else { return };
        self.by_subject.remove(id, &prepared.ways);
        prepared.selectors().for_each(|selector| self.selectors.release(selector));
        let address = address(&prepared.rule);
        if let Some(ids) = self.by_address.get_mut(&address) {
            ids.retain(|held| *held != id);
            if ids.is_empty() {
                self.by_address.remove(&address);
            }
        }
        self.free_rules.push(id);
    }

    /// Gives each subject that a changed rule selects the rules that select it now.
    fn reselect(&mut self, added: &BTreeSet<RuleId>, removed: &BTreeSet<RuleId>, fresh: &Index) {
        let mut concerned: Vec<(Identity, Arc<Labels>, Vec<RuleId>)> = Vec::new();
        for (identity, subject) in &self.subjects {
            let Some(Case::Ruled { rules, .. }) = self.situation(subject.situation).map(|s| &s.case) else { continue };
            let new = self.selecting(fresh, &subject.labels);
            if new.is_empty() && !rules.iter().any(|id| removed.contains(id)) {
                continue;
            }
            let mut rules: Vec<RuleId> = rules.iter().copied().filter(|id| !removed.contains(id)).collect();
            rules.extend(new.into_iter().filter(|id| added.contains(id)));
            rules.sort_unstable();
            concerned.push((*identity, subject.labels.clone(), rules));
        }
        for (identity, labels, rules) in concerned {
            self.place(identity, &labels, Some(rules));
        }
    }

    /// The rules in an index that select a subject.
    fn selecting(&self, index: &Index, labels: &Labels) -> Vec<RuleId> {
        let prefix = crate::cidr::of_labels(labels);
        let applies = |id: &RuleId| self.rule(*id).is_some_and(|prepared| selects(&prepared.rule, labels));
        index.candidates(labels, prefix).into_iter().filter(applies).collect()
    }

    /// Gives a subject the policy that follows from its labels, and from the rules that select it if they are told.
    fn place(&mut self, identity: Identity, labels: &Arc<Labels>, rules: Option<Vec<RuleId>>) {
        let case = if self.options.enforcement == Enforcement::Never || is_host(labels) {
            Case::Open
        } else {
            let always_denied = self.options.enforcement == Enforcement::Always || is_init(labels);
            let rules = rules.unwrap_or_else(|| self.selecting(&self.by_subject, labels));
            Case::Ruled { always_denied, rules }
        };
        let before = self.subjects.get(&identity).map(|subject| subject.situation);
        let former = before.and_then(|id| self.situation(id)).map(|situation| situation.map.clone());
        let id = match self.by_case.get(&case) {
            Some(id) => *id,
            None => self.make(case, former.as_ref()),
        };
        if let Some(situation) = self.situation_mut(id) {
            situation.subjects.insert(identity);
            if former.is_none_or(|former| !Arc::ptr_eq(&former, &situation.map)) {
                self.changed.insert(identity);
            }
        }
        self.subjects.insert(identity, Subject { labels: labels.clone(), situation: id });
        if let Some(before) = before.filter(|before| *before != id) {
            self.leave(identity, before);
        }
    }

    /// Makes a policy; where it says what the former one said, it is that one.
    fn make(&mut self, case: Case, former: Option<&Arc<PolicyMap>>) -> SituationId {
        let mut situation = match &case {
            Case::Open => Situation::open(case.clone()),
            Case::Ruled { always_denied, rules } => {
                let rules: Vec<&Prepared> = rules.iter().filter_map(|id| self.rule(*id)).collect();
                Situation::ruled(case.clone(), *always_denied, &rules, self.options, &self.selectors)
            }
        };
        if let Some(former) = former.filter(|former| ***former == *situation.map) {
            situation.map = former.clone();
        }
        let id = self.free_situations.pop().unwrap_or_else(|| {
            self.situations.push(None);
            SituationId(self.situations.len() as u32 - 1)
        });
        situation.leads().for_each(|selector| self.selectors.add_user(selector, id));
        if let Some(place) = self.situations.get_mut(id.0 as usize) {
            *place = Some(situation);
        }
        self.by_case.insert(case, id);
        id
    }

    /// A policy that is nobody's any more is forgotten.
    fn leave(&mut self, identity: Identity, id: SituationId) {
        let Some(situation) = self.situation_mut(id) else { return };
        situation.subjects.remove(&identity);
        if !situation.subjects.is_empty() {
            return;
        }
        let Some(situation) = self.situations.get_mut(id.0 as usize).and_then(Option::take) else { return };
        situation.leads().for_each(|selector| self.selectors.remove_user(selector, id));
        if self.by_case.get(&situation.case) == Some(&id) {
            self.by_case.remove(&situation.case);
        }
        self.free_situations.push(id);
    }

    fn update(&mut self, identity: Identity, matched: &[selectors::SelectorId], concerned: &BTreeSet<SituationId>) {
        for id in concerned {
            if let Some(situation) = self.situations.get_mut(id.0 as usize).and_then(Option::as_mut)
                && situation.update(identity, matched)
            {
                self.changed.extend(&situation.subjects);
            }
        }
    }

    fn rule(&self, id: RuleId) -> Option<&Prepared> {
        self.rules.get(id as usize).and_then(Option::as_ref)
    }

    fn situation(&self, id: SituationId) -> Option<&Situation> {
        self.situations.get(id.0 as usize).and_then(Option::as_ref)
    }

    fn situation_mut(&mut self, id: SituationId) -> Option<&mut Situation> {
        self.situations.get_mut(id.0 as usize).and_then(Option::as_mut)
    }
}

/// Tells rules apart by the object.
fn address(rule: &Arc<Rule>) -> usize {
    Arc::as_ptr(rule) as usize
}

/// One question under rules and identities that do not change: an engine that is made, asked and thrown away.
#[derive(Debug)]
pub struct Resolver {
    engine: Engine,
    rules: Vec<Arc<Rule>>,
}

/// The number under which the resolver asks.
const ASKED: Identity = Identity(u32::MAX);

impl Resolver {
    /// `identities` are all that exist now. The reserved ones always do and need not be among them.
    pub fn new(repository: &Repository, identities: &BTreeMap<Identity, Labels>, options: Options) -> Resolver {
        let mut engine = Engine::new(options);
        for (identity, labels) in identities {
            engine.put_identity(*identity, &Arc::new(labels.clone()));
        }
        engine.set_rules(repository.rules());
        Resolver { engine, rules: repository.rules().to_vec() }
    }

    /// The indices of the rules that apply to an endpoint with these labels.
    pub fn selecting(&self, subject: &Labels) -> Vec<usize> {
        let applies = |rule: &&Arc<Rule>| selects(rule, subject);
        let places =
            |rules: &[Arc<Rule>]| rules.iter().enumerate().filter(|(_, rule)| applies(rule)).map(|(n, _)| n).collect();
        places(&self.rules)
    }

    /// The policy of every endpoint with the labels `subject`.
    pub fn resolve(&mut self, subject: &Labels) -> Arc<PolicyMap> {
        self.engine.put_subject(ASKED, &Arc::new(subject.clone()));
        self.engine.policy(ASKED).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;

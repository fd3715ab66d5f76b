//! Which number stands for which labels: those that the kvstore allocated, and those of this node for the prefixes that
//! rules mention.
//!
//! It allocates only the latter. Which label sets need a number follows from the endpoints (`State::outputs`).

use crate::Rejected;
use ipnetwork::IpNetwork;
use model::labels::{SOURCE_CIDR, SOURCE_RESERVED};
use model::{Identity, IdentityMap, IdentitySet, Labels};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Numbers for prefixes have 24 bits below the bit that tells them from others; 0 is not used, as in Cilium.
const FIRST_CIDR: u32 = Identity::FIRST_LOCAL + 1;
const LAST_CIDR: u32 = Identity::FIRST_LOCAL | 0x00ff_ffff;

/// How sure it is that a number stands for its labels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// The kvstore says so.
    Confirmed,
    /// It was so, and an endpoint still has the number: read back from a record, or gone from the kvstore meanwhile.
    Remembered,
}

#[derive(Clone, Debug)]
struct Entry {
    labels: Arc<Labels>,
    standing: Standing,
}

#[derive(Debug)]
pub(crate) struct Identities {
    reserved: BTreeMap<Identity, Arc<Labels>>,
    allocated: BTreeMap<Identity, Entry>,
    by_labels: BTreeMap<Arc<Labels>, BTreeSet<Identity>>,
    /// Numbers that are not confirmed.
    remembered: BTreeSet<Identity>,
    prefixes: BTreeMap<IpNetwork, Identity>,
    prefix_labels: BTreeMap<Identity, Arc<Labels>>,
    /// What every number stands for, of whatever kind: what readers get.
    all: IdentityMap<Arc<Labels>>,
    /// Those of the cluster.
    shared: IdentitySet,
    /// Where the search for a free prefix number goes on, so that a freed one rests for long.
    next_prefix: u32,
    changed_prefixes: BTreeSet<IpNetwork>,
    /// Identities that appeared, went, or changed their meaning since that was last asked.
    changed: BTreeSet<Identity>,
}

impl Default for Identities {
    fn default() -> Identities {
        let reserved = Identity::RESERVED.iter().filter(|(identity, _)| *identity != Identity::UNKNOWN);
        let reserved: BTreeMap<Identity, Arc<Labels>> =
            reserved.map(|(identity, name)| (*identity, Arc::new(Labels::reserved(name)))).collect();
        Identities {
            all: reserved.iter().map(|(identity, labels)| (*identity, labels.clone())).collect(),
            shared: IdentitySet::new(),
            changed: reserved.keys().copied().collect(),
            reserved,
            allocated: BTreeMap::new(),
            by_labels: BTreeMap::new(),
            remembered: BTreeSet::new(),
            prefixes: BTreeMap::new(),
            prefix_labels: BTreeMap::new(),
            next_prefix: FIRST_CIDR,
            changed_prefixes: BTreeSet::new(),
        }
    }
}

impl Identities {
    /// What the number stands for.
    pub(crate) fn labels(&self, identity: Identity) -> Option<&Arc<Labels>> {
        let allocated = || self.allocated.get(&identity).map(|entry| &entry.labels);
        let prefix = || self.prefix_labels.get(&identity);
        self.reserved.get(&identity).or_else(allocated).or_else(prefix)
    }

    /// What every number stands for.
    pub(crate) fn all(&self) -> &IdentityMap<Arc<Labels>> {
        &self.all
    }

    /// The numbers that the cluster shares.
    pub(crate) fn shared(&self) -> &IdentitySet {
        &self.shared
    }

    /// The number for these labels: of several the lowest that the kvstore confirms, else the lowest that is remembered.
    pub(crate) fn number(&self, labels: &Labels) -> Option<Identity> {
        let numbers = self.by_labels.get(labels)?;
        let confirmed =
            |identity: &&Identity| self.allocated.get(identity).is_some_and(|e| e.standing == Standing::Confirmed);
        numbers.iter().find(confirmed).or_else(|| numbers.first()).copied()
    }

    pub(crate) fn prefixes(&self) -> &BTreeMap<IpNetwork, Identity> {
        &self.prefixes
    }

    /// The kvstore says what a number stands for. If it stood for other labels here, it no longer does.
    pub(crate) fn confirm(&mut self, identity: Identity, labels: Labels) -> Result<(), Rejected> {
        check_labels(identity, &labels)?;
        let known = self.allocated.get(&identity);
        if known.is_some_and(|entry| *entry.labels == labels && entry.standing == Standing::Confirmed) {
            return Ok(());
        }
        self.insert(identity, labels, Standing::Confirmed);
        Ok(())
    }

    /// Takes a number from a record: true until the kvstore says otherwise. Of two that disagree the first one stays.
    pub(crate) fn remember(&mut self, identity: Identity, labels: Labels) -> Result<(), Rejected> {
        check_labels(identity, &labels)?;
        if !self.allocated.contains_key(&identity) {
            self.insert(identity, labels, Standing::Remembered);
        }
        Ok(())
    }

    /// The kvstore has the number no longer. It stays remembered until `forget_unused`.
    pub(crate) fn unconfirm(&mut self, identity: Identity) {
        if let Some(entry) = self.allocated.get_mut(&identity) {
            entry.standing = Standing::Remembered;
            self.remembered.insert(identity);
        }
    }

    /// The same for all numbers with the id of a cluster.
    pub(crate) fn unconfirm_of_cluster(&mut self, id: u8) {
        let (first, last) =
            (Identity(*Identity::allocated_by(id).start()), Identity(*Identity::allocated_by(id).end()));
        let numbers: Vec<Identity> = self.allocated.range(first..=last).map(|(identity, _)| *identity).collect();
        numbers.into_iter().for_each(|identity| self.unconfirm(identity));
    }

    /// Whether there is anything that `forget_unused` may forget.
    pub(crate) fn has_remembered(&self) -> bool {
        !self.remembered.is_empty()
    }

    /// Forgets what is only remembered and not used.
    pub(crate) fn forget_unused(&mut self, is_used: impl Fn(Identity) -> bool) {
        let unused: Vec<Identity> = self.remembered.iter().copied().filter(|identity| !is_used(*identity)).collect();
        unused.into_iter().for_each(|identity| self.remove(identity));
    }

    /// Gives each of the prefixes a number, and frees those of others.
    pub(crate) fn keep_prefixes(&mut self, mentioned: &BTreeSet<IpNetwork>) {
        let gone: Vec<IpNetwork> = self.prefixes.keys().filter(|p| !mentioned.contains(p)).copied().collect();
        for prefix in gone {
            if let Some(identity) = self.prefixes.remove(&prefix) {
                self.prefix_labels.remove(&identity);
                self.changed_prefixes.insert(prefix);
                self.note(identity);
            }
        }
        for prefix in mentioned {
            if self.prefixes.contains_key(prefix) {
                continue;
            }
            let Some(identity) = self.free_prefix_number() else {
                tracing::warn!(%prefix, "no number is left for a prefix that a rule mentions: it stays part of the world");
                continue;
            };
            self.next_prefix = identity.0 + 1;
            self.insert_prefix(*prefix, identity);
        }
    }

    /// Puts a prefix back as a record has it.
    pub(crate) fn restore_prefix(&mut self, prefix: IpNetwork, identity: Identity) -> Result<(), Rejected> {
        let bad = |reason| Rejected::BadIdentity { identity, labels: prefix.to_string(), reason };
        if !(FIRST_CIDR..=LAST_CIDR).contains(&identity.0) {
            return Err(bad("the number is not one of a prefix"));
        }
        if self.prefix_labels.contains_key(&identity) || self.prefixes.contains_key(&prefix) {
            return Err(bad("it is there already"));
        }
        self.next_prefix = self.next_prefix.max(identity.0 + 1);
        self.insert_prefix(prefix, identity);
        Ok(())
    }

    /// The prefixes whose number changed since the last call.
    pub(crate) fn take_changed_prefixes(&mut self) -> BTreeSet<IpNetwork> {
        std::mem::take(&mut self.changed_prefixes)
    }

    /// The identities that appeared, went, or changed their meaning since the last call.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<Identity> {
        std::mem::take(&mut self.changed)
    }

    fn insert(&mut self, identity: Identity, labels: Labels, standing: Standing) {
        if self.allocated.get(&identity).is_none_or(|entry| *entry.labels != labels) {
            self.remove(identity);
        }
        let labels = Arc::new(labels);
        match standing {
            Standing::Confirmed => self.remembered.remove(&identity),
            Standing::Remembered => self.remembered.insert(identity),
        };
        self.by_labels.entry(labels.clone()).or_default().insert(identity);
        self.allocated.insert(identity, Entry { labels, standing });
        self.note(identity);
    }

    fn remove(&mut self, identity: Identity) {
        let Some(entry) = self.allocated.remove(&identity) else { return };
        self.remembered.remove(&identity);
        self.note(identity);
        if let Some(numbers) = self.by_labels.get_mut(&entry.labels) {
            numbers.remove(&identity);
            if numbers.is_empty() {
                self.by_labels.remove(&entry.labels);
            }
        }
    }

    fn insert_prefix(&mut self, prefix: IpNetwork, identity: Identity) {
        self.prefixes.insert(prefix, identity);
        self.prefix_labels.insert(identity, Arc::new(policy::cidr_labels(prefix)));
        self.changed_prefixes.insert(prefix);
        self.note(identity);
    }

    /// To be called after every change of what a number stands for.
    fn note(&mut self, identity: Identity) {
        let now = self.labels(identity).cloned();
        let before = match now {
            Some(ref labels) if self.all.get(&identity) == Some(labels) => return,
            Some(labels) => self.all.insert(identity, labels),
            None => self.all.remove(&identity),
        };
        drop(before);
        if self.allocated.contains_key(&identity) {
            self.shared.insert(identity, ());
        } else {
            self.shared.remove(&identity);
        }
        self.changed.insert(identity);
    }

    fn free_prefix_number(&self) -> Option<Identity> {
        let free = |number: &u32| !self.prefix_labels.contains_key(&Identity(*number));
        let start = self.next_prefix.clamp(FIRST_CIDR, LAST_CIDR);
        (start..=LAST_CIDR).chain(FIRST_CIDR..start).find(free).map(Identity)
    }
}

/// A number of a kvstore must be in its range, and must not stand for what only this node may say.
pub(crate) fn check_labels(identity: Identity, labels: &Labels) -> Result<(), Rejected> {
    let bad = |reason| Err(Rejected::BadIdentity { identity, labels: labels.to_string(), reason });
    if !identity.is_allocated() {
        return bad("the number is not one that is allocated for labels");
    }
    if labels.is_empty() {
        return bad("it has no labels");
    }
    if labels.iter().any(|label| label.source == SOURCE_RESERVED || label.source == SOURCE_CIDR) {
        return bad("reserved and cidr labels are not allocated");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Label;

    fn app(name: &str) -> Labels {
        Labels([Label::new("container", "id", name)].into())
    }

    fn nets(texts: &[&str]) -> BTreeSet<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_the_kvstore_confirms_beats_what_is_remembered() {
        let mut identities = Identities::default();
        identities.remember(Identity(300), app("a")).unwrap();
        identities.confirm(Identity(400), app("a")).unwrap();
        assert_eq!(identities.number(&app("a")), Some(Identity(400)));
        identities.unconfirm(Identity(400));
        assert_eq!(identities.number(&app("a")), Some(Identity(300)));
    }

    #[test]
    fn a_number_that_changes_its_meaning_leaves_the_old_labels() {
        let mut identities = Identities::default();
        identities.remember(Identity(300), app("a")).unwrap();
        identities.confirm(Identity(300), app("b")).unwrap();
        assert_eq!(identities.number(&app("a")), None);
        assert_eq!(identities.number(&app("b")), Some(Identity(300)));
    }

    #[test]
    fn only_unused_and_unconfirmed_numbers_are_forgotten() {
        let mut identities = Identities::default();
        for n in [300, 301, 302] {
            identities.confirm(Identity(n), app(&n.to_string())).unwrap();
        }
        identities.unconfirm(Identity(300));
        identities.unconfirm(Identity(301));
        identities.forget_unused(|identity| identity == Identity(301));
        let left: Vec<u32> = identities.all().keys().map(|identity| identity.0).filter(|n| *n >= 256).collect();
        assert_eq!(left, [301, 302]);
    }

    #[test]
    fn prefixes_keep_their_numbers_and_freed_ones_rest() {
        let mut identities = Identities::default();
        identities.keep_prefixes(&nets(&["10.0.0.0/8", "192.0.2.0/24"]));
        let before = identities.prefixes().clone();
        identities.keep_prefixes(&nets(&["192.0.2.0/24"]));
        identities.keep_prefixes(&nets(&["192.0.2.0/24", "2001:db8::/32"]));
        let prefix = |text: &str| text.parse::<IpNetwork>().unwrap();
        assert_eq!(identities.prefixes()[&prefix("192.0.2.0/24")], before[&prefix("192.0.2.0/24")]);
        assert_eq!(identities.prefixes()[&prefix("2001:db8::/32")], Identity(FIRST_CIDR + 2));
    }

    #[test]
    fn hostile_identities_are_refused() {
        let mut identities = Identities::default();
        for (number, labels) in [
            (1, app("a")),
            (255, app("a")),
            (65_536, app("a")),
            (1 << 24, app("a")),
            (300, Labels::new()),
            (300, Labels::reserved("host")),
            (300, policy::cidr_labels("10.0.0.0/8".parse().unwrap())),
        ] {
            assert!(identities.confirm(Identity(number), labels.clone()).is_err(), "{number} {labels}");
        }
    }
}

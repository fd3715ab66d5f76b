//! Whom each selector that rules use selects now. Each is kept once, however many rules use it, and for as long as one
//! does; an identity that comes or goes is shown only to those that can match it.

use super::index::{Index, Number};
use super::situation::SituationId;
use crate::peer::{Peer, PeerSelector};
use crate::selector::Anchor;
use model::{ClusterName, Identity, IdentityMap, IdentitySet, Labels};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SelectorId(pub(super) Number);

impl SelectorId {
    /// Selects the number of the host, whatever labels it has: what may be reached without a rule.
    pub(super) const HOST: SelectorId = SelectorId(0);
}

/// An identity with what selectors look at, and those that match it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) labels: Arc<Labels>,
    pub(super) matched: Arc<[SelectorId]>,
}

#[derive(Debug)]
struct Cached {
    /// `None`: `SelectorId::HOST`.
    selector: Option<PeerSelector>,
    /// How many elements of rules it is written in.
    uses: usize,
    ways: Vec<Anchor>,
    members: IdentitySet,
    /// Policies that say something of its members.
    users: BTreeSet<SituationId>,
}

#[derive(Debug)]
pub(super) struct Selectors {
    ids: BTreeMap<PeerSelector, SelectorId>,
    cached: Vec<Option<Cached>>,
    free: Vec<SelectorId>,
    index: Index,
    /// Those that no identity was shown to yet.
    fresh: Vec<SelectorId>,
    identities: IdentityMap<Known>,
    /// As whom identities are seen.
    cluster: Option<ClusterName>,
}

impl Selectors {
    pub(super) fn new(cluster: Option<ClusterName>) -> Selectors {
        let host = Cached {
            selector: None,
            uses: 1,
            ways: Vec::new(),
            members: [(Identity::HOST, ())].into_iter().collect(),
            users: BTreeSet::new(),
        };
        Selectors {
            ids: BTreeMap::new(),
            cached: vec![Some(host)],
            free: Vec::new(),
            index: Index::default(),
            fresh: Vec::new(),
            identities: IdentityMap::default(),
            cluster,
        }
    }

    pub(super) fn known(&self, identity: Identity) -> Option<&Known> {
        self.identities.get(&identity)
    }

    /// Notes one more use of a selector. `refresh` must be called before its members are asked for.
    pub(super) fn acquire(&mut self, selector: PeerSelector) -> SelectorId {
        if let Some(id) = self.ids.get(&selector).copied() {
            if let Some(cached) = self.cached_mut(id) {
                cached.uses += 1;
            }
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.cached.push(None);
            SelectorId(self.cached.len() as Number - 1)
        });
        let ways = self.index.insert_peers(id.0, &selector);
        self.ids.insert(selector.clone(), id);
        let cached =
            Cached { selector: Some(selector), uses: 1, ways, members: IdentitySet::default(), users: BTreeSet::new() };
        if let Some(place) = self.cached.get_mut(id.0 as usize) {
            *place = Some(cached);
        }
        self.fresh.push(id);
        id
    }

    /// One use less. What nobody uses any more is forgotten.
    pub(super) fn release(&mut self, id: SelectorId) {
        let Some(cached) = self.cached_mut(id) else { return };
        cached.uses -= 1;
        if cached.uses > 0 {
            return;
        }
        let Some(cached) = self.cached.get_mut(id.0 as usize).and_then(Option::take) else { return };
        self.index.remove(id.0, &cached.ways);
        if let Some(selector) = &cached.selector {
            self.ids.remove(selector);
        }
        for member in cached.members.keys() {
            if let Some(known) = self.identities.get(&member) {
                let matched = known.matched.iter().copied().filter(|held| *held != id).collect();
                let known = Known { matched, labels: known.labels.clone() };
                self.identities.insert(member, known);
            }
        }
        self.fresh.retain(|fresh| *fresh != id);
        self.free.push(id);
    }

    /// Shows every identity to the selectors that are new.
    pub(super) fn refresh(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        if fresh.is_empty() || self.identities.is_empty() {
            return;
        }
        let mut index = Index::default();
        for id in &fresh {
            if let Some(selector) = self.cached(*id).and_then(|cached| cached.selector.as_ref()) {
                index.insert_peers(id.0, selector);
            }
        }
        for (identity, known) in self.identities.clone().iter() {
            let found = self.matching(&index, identity, &known.labels);
            if found.is_empty() {
                continue;
            }
            for id in &found {
                self.note_member(*id, identity);
            }
            let mut matched = [&known.matched, &*found].concat();
            matched.sort_unstable();
            matched.dedup();
            self.identities.insert(identity, Known { matched: matched.into(), labels: known.labels.clone() });
        }
    }

    /// Takes in an identity that was not there; tells which selectors match it.
    pub(super) fn insert(&mut self, identity: Identity, labels: &Arc<Labels>) -> Arc<[SelectorId]> {
        let mut matched = self.matching(&self.index, identity, labels);
        for id in &matched {
            self.note_member(*id, identity);
        }
        if identity == Identity::HOST {
            matched.insert(0, SelectorId::HOST);
        }
        let matched: Arc<[SelectorId]> = matched.into();
        self.identities.insert(identity, Known { labels: labels.clone(), matched: matched.clone() });
        matched
    }

    /// Forgets an identity; tells which selectors matched it.
    pub(super) fn remove(&mut self, identity: Identity) -> Arc<[SelectorId]> {
        let Some(known) = self.identities.remove(&identity) else { return Arc::default() };
        for id in known.matched.iter().filter(|id| **id != SelectorId::HOST) {
            if let Some(cached) = self.cached_mut(*id) {
                cached.members.remove(&identity);
            }
        }
        known.matched
    }

    pub(super) fn members(&self, id: SelectorId) -> Option<&IdentitySet> {
        self.cached(id).map(|cached| &cached.members)
    }

    /// Who says something of the members of any of these.
    pub(super) fn users(&self, ids: &[SelectorId]) -> BTreeSet<SituationId> {
        ids.iter().filter_map(|id| self.cached(*id)).flat_map(|cached| cached.users.iter().copied()).collect()
    }

    pub(super) fn add_user(&mut self, id: SelectorId, user: SituationId) {
        if let Some(cached) = self.cached_mut(id) {
            cached.users.insert(user);
        }
    }

    pub(super) fn remove_user(&mut self, id: SelectorId, user: SituationId) {
        if let Some(cached) = self.cached_mut(id) {
            cached.users.remove(&user);
        }
    }

    /// How many selectors there are.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    fn matching(&self, index: &Index, identity: Identity, labels: &Labels) -> Vec<SelectorId> {
        let peer = Peer::new(identity, labels).seen_from(self.cluster);
        let matches = |id: &SelectorId| {
            self.cached(*id).and_then(|cached| cached.selector.as_ref()).is_some_and(|selector| selector.matches(&peer))
        };
        index.candidates(labels, peer.prefix).into_iter().map(SelectorId).filter(matches).collect()
    }

    fn note_member(&mut self, id: SelectorId, identity: Identity) {
        if let Some(cached) = self.cached_mut(id) {
            cached.members.insert(identity, ());
        }
    }

    fn cached(&self, id: SelectorId) -> Option<&Cached> {
        self.cached.get(id.0 as usize).and_then(Option::as_ref)
    }

    fn cached_mut(&mut self, id: SelectorId) -> Option<&mut Cached> {
        self.cached.get_mut(id.0 as usize).and_then(Option::as_mut)
    }
}

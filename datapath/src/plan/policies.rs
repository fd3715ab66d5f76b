//! Which version of each identity's policy is in force, which are to be written or amended, and which nobody needs any
//! more.
//!
//! A version is switched to whole: no packet meets half of it, and a flow that was judged under it is judged again under
//! the next. Only what it says about peers *at rest* is changed in place, so that an identity that comes or goes does not
//! have every policy written anew. A peer is at rest when no packet can be one of its own and no flow rests on a verdict
//! about it:
//!
//! - no address has the identity, no endpoint here has it, it is none that the programs give by themselves (the reserved
//!   ones), and not believed of what other nodes send: so no look-up answers with it, and no tunnel brings it;
//! - that has been so for `reconcile::GRACE`: a packet that was on its way has arrived;
//! - flows were told to look again since (`flows_stale` is false): one whose other end is elsewhere is judged again, by
//!   an address that has another identity by then;
//! - no version of its own policy is in the kernel: a flow between two endpoints here rests on the numbers of both their
//!   versions, and numbers are never given out twice.
//!
//! When the identity comes to have addresses or endpoints, in later stages of the same round at the earliest, everything
//! is said about it that is to be said.

use super::{Plan, Stage};
use crate::current::{Current, PolicyId};
use crate::operation::Operation;
use bpf::abi;
use model::desired::Datapath;
use model::{Column, Identity, IdentitySet, PolicyMap};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Finds, amends or allots the version of each identity's policy. `fading` are identities that were not at rest a short
/// while ago.
pub(super) fn plan(plan: &mut Plan, current: &Current, desired: &Datapath, fading: &BTreeSet<Identity>) {
    let mut ids = Ids::new(current);
    let mut peers = Peers { current, desired, fading, met: None, staying: None };
    let versions = versions(current);
    // Written after all amendments: while those are made, peers at rest have no version of their own.
    let mut written = Vec::new();
    for (identity, map) in &desired.policies {
        let held = versions.get(identity).map(Vec::as_slice).unwrap_or_default();
        let id = match find(plan, current, held, map) {
            Some(id) => id,
            None => amend(plan, current, held, *identity, map, &mut peers).unwrap_or_else(|map| {
                let id = ids.next();
                written.push(Operation::WritePolicy(id, *identity, map));
                id
            }),
        };
        plan.policies.insert(*identity, id);
    }
    written.into_iter().for_each(|operation| plan.add(Stage::Policies, operation));
}

/// The versions of each identity's policy, the newest first.
fn versions(current: &Current) -> BTreeMap<Identity, Vec<PolicyId>> {
    let mut versions: BTreeMap<Identity, Vec<PolicyId>> = BTreeMap::new();
    for (id, policy) in current.bpf.policies.iter().rev() {
        if let Some(identity) = policy.identity {
            versions.entry(identity).or_default().push(*id);
        }
    }
    versions
}

/// The newest version that says just what is wanted.
fn find(plan: &mut Plan, current: &Current, held: &[PolicyId], map: &Arc<PolicyMap>) -> Option<PolicyId> {
    let of = |id: &PolicyId| current.bpf.policies.get(id).map(|policy| &policy.map);
    let same = held.iter().find(|id| of(id).is_some_and(|held| Arc::ptr_eq(held, map)));
    if let Some(id) = same {
        return Some(*id);
    }
    let id = held.iter().find(|id| of(id).is_some_and(|held| held.has_same_entries(map)))?;
    plan.adopted.push((*id, map.clone()));
    Some(*id)
}

/// Has the newest version say what is wanted, if what it says differs about peers at rest alone; else a new one is to say
/// what is answered. About a peer that goes to rest in this round a version goes on saying what it says, until a later
/// one; and any version about a peer that is merely unrecognised, for packets may be its own.
fn amend(
    plan: &mut Plan,
    current: &Current,
    held: &[PolicyId],
    identity: Identity,
    map: &Arc<PolicyMap>,
    peers: &mut Peers<'_>,
) -> Result<PolicyId, Arc<PolicyMap>> {
    let policy = held.first().and_then(|id| current.bpf.policies.get_key_value(id));
    let Some((id, policy)) = policy else { return Err(map.clone()) };
    let former = &policy.map;
    let (mut possible, mut kept): (bool, Vec<(Identity, Column)>) = (true, Vec::new());
    former.differences(map, |peer, here, there| match (here, there) {
        (Some(here), None) if !peers.desired.settled && peers.goes_to_rest(peer) => kept.push((peer, here.clone())),
        _ if !possible || peers.is_at_rest(peer) => {}
        (Some(here), None) if peers.goes_to_rest(peer) => kept.push((peer, here.clone())),
        _ => possible = false,
    });
    if !possible && peers.desired.settled {
        return Err(map.clone());
    }
    plan.unfinished |= !kept.is_empty() && peers.desired.settled;
    let mut wanted = map.clone();
    for (peer, column) in kept {
        Arc::make_mut(&mut wanted).set_column(peer, Some(column));
    }
    if !possible {
        return Err(wanted);
    }
    if !wanted.has_same_entries(former) {
        plan.add(Stage::Policies, Operation::AmendPolicy(*id, identity, former.clone(), wanted));
    }
    Ok(*id)
}

/// Who a packet can be one of, found out when it is asked.
struct Peers<'p> {
    current: &'p Current,
    desired: &'p Datapath,
    fading: &'p BTreeSet<Identity>,
    /// Who is met here, but for those who have addresses.
    met: Option<IdentitySet>,
    /// Likewise who will be.
    staying: Option<IdentitySet>,
}

impl Peers<'_> {
    fn is_at_rest(&mut self, peer: Identity) -> bool {
        let (bpf, fading) = (&self.current.bpf, self.fading);
        let met = self.met.get_or_insert_with(|| {
            let endpoints = bpf.slots.values().map(|slot| slot.identity);
            let subjects = bpf.policies.values().filter_map(|policy| policy.identity);
            endpoints.chain(subjects).chain(fading.iter().copied()).map(|peer| (peer, ())).collect()
        });
        let named = bpf.ipcache.mentions(peer) || bpf.identities.contains_key(&peer);
        !peer.is_reserved() && !bpf.flows_stale && !named && !met.contains_key(&peer)
    }

    /// Whether nobody has the identity when this round is over; before everything is settled, as far as is known.
    fn goes_to_rest(&mut self, peer: Identity) -> bool {
        let desired = self.desired;
        let staying = self.staying.get_or_insert_with(|| {
            let endpoints = desired.endpoints.values().map(|endpoint| endpoint.identity);
            endpoints.chain(desired.policies.keys().copied()).map(|peer| (peer, ())).collect()
        });
        let named = desired.ipcache.mentions(peer) || desired.identities.contains_key(&peer);
        !peer.is_reserved() && !named && !staying.contains_key(&peer)
    }
}

/// Deletes the versions that no slot will name after this round. Runs after the slots are planned.
pub(super) fn sweep(plan: &mut Plan, current: &Current) {
    let mut needed: BTreeSet<PolicyId> = plan.policies.values().copied().collect();
    let cut: BTreeSet<_> = operations(plan, Stage::Cut)
        .filter_map(|operation| match operation {
            Operation::ClearSlot(id) => Some(*id),
            _ => None,
        })
        .collect();
    let written: BTreeSet<_> = operations(plan, Stage::Slots)
        .filter_map(|operation| match operation {
            Operation::WriteSlot(id, _) => Some(*id),
            _ => None,
        })
        .collect();
    let staying = current.bpf.slots.iter().filter(|(id, _)| !cut.contains(id) && !written.contains(id));
    needed.extend(staying.map(|(_, slot)| slot.policy));
    for (id, policy) in &current.bpf.policies {
        if !needed.contains(id) {
            plan.add(Stage::Sweep, Operation::RemovePolicy(*id, policy.map.clone()));
        }
    }
}

fn operations(plan: &Plan, stage: Stage) -> impl Iterator<Item = &Operation> {
    plan.stages.get(&stage).into_iter().flatten()
}

/// Gives out policy ids: ever growing, never 0, and no two in use that fall into the same place of `cilium_policies`.
///
/// After 2^32 versions they begin again at 1; a flow that was judged under the former bearer of a number has long
/// expired by then.
struct Ids {
    last: u32,
    places: BTreeSet<u32>,
}

impl Ids {
    fn new(current: &Current) -> Ids {
        let places = current.bpf.policies.keys().map(|id| id.0 % abi::POLICY_SLOTS).collect();
        Ids { last: current.bpf.last_policy, places }
    }

    /// There is always a free place: identities with endpoints are at most 65535, and `desired` has no others.
    fn next(&mut self) -> PolicyId {
        loop {
            self.last = self.last.wrapping_add(1).max(1);
            let full = self.places.len() >= abi::POLICY_SLOTS as usize;
            if self.places.insert(self.last % abi::POLICY_SLOTS) || full {
                return PolicyId(self.last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::current::Policy;

    #[test]
    fn ids_skip_occupied_places_and_zero() {
        let mut current = Current::default();
        let policy = Policy { identity: Some(Identity(300)), map: Arc::default() };
        current.bpf.policies.insert(PolicyId(2), policy);
        current.bpf.last_policy = abi::POLICY_SLOTS;
        let mut ids = Ids::new(&current);
        assert_eq!((ids.next().0, ids.next().0), (abi::POLICY_SLOTS + 1, abi::POLICY_SLOTS + 3));
        current.bpf.last_policy = u32::MAX;
        assert_eq!(Ids::new(&current).next(), PolicyId(1));
    }
}

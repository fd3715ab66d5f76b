//! Which version of each identity's policy is in force, which are to be written, and which nobody needs any more.

use super::{Plan, Stage};
use crate::current::{Current, PolicyId};
use crate::operation::Operation;
use bpf::abi;
use model::desired::Datapath;
use model::{Identity, PolicyMap};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Finds or allots the version of each identity's policy.
pub(super) fn plan(plan: &mut Plan, current: &Current, desired: &Datapath) {
    let mut ids = Ids::new(current);
    for (identity, map) in &desired.policies {
        let id = match in_kernel(current, *identity, map) {
            Some(id) => id,
            None => {
                let id = ids.next();
                plan.add(Stage::Policies, Operation::WritePolicy(id, *identity, map.clone()));
                id
            }
        };
        plan.policies.insert(*identity, id);
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

/// The newest version in the kernel that says just what is wanted.
fn in_kernel(current: &Current, identity: Identity, map: &Arc<PolicyMap>) -> Option<PolicyId> {
    let same = |held: &Arc<PolicyMap>| Arc::ptr_eq(held, map) || held.entries == map.entries;
    let versions = current.bpf.policies.iter().rev();
    versions.filter(|(_, p)| p.identity == Some(identity)).find(|(_, p)| same(&p.map)).map(|(id, _)| *id)
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

//! Devices, slots, programs, routes and neighbours of endpoints.

use super::{Plan, Seen, Stage};
use crate::current::{Attachment, Current, Link, PolicyId, Slot};
use crate::operation::{HousingSpec, LinkSpec, Operation};
use model::EndpointId;
use model::desired::{Datapath, Endpoint, LinkIntent, Object};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub(super) fn plan(plan: &mut Plan, current: &Current, desired: &Datapath, seen: &Seen) {
    for id in held(current).into_iter().filter(|id| !desired.endpoints.contains_key(id)) {
        if desired.settled || seen.endpoints.contains(&id) {
            gone(plan, current, id);
        } else {
            unrecognised(plan, current, id);
        }
    }
    for endpoint in desired.endpoints.values() {
        wanted(plan, current, endpoint);
    }
}

/// Every endpoint that the kernel has something of.
fn held(current: &Current) -> BTreeSet<EndpointId> {
    let (network, bpf) = (&current.network, &current.bpf);
    let mut ids: BTreeSet<EndpointId> = network.links.keys().copied().collect();
    ids.extend(bpf.slots.keys());
    ids.extend(bpf.attachments.keys());
    ids
}

fn gone(plan: &mut Plan, current: &Current, id: EndpointId) {
    if current.bpf.slots.contains_key(&id) {
        plan.add(Stage::Cut, Operation::ClearSlot(id));
    }
    if current.network.links.contains_key(&id) {
        plan.add(Stage::Remove, Operation::DeleteLink(id));
    }
    if current.bpf.attachments.contains_key(&id) {
        plan.add(Stage::Unpin, Operation::Unpin(id));
    }
}

/// What is not recognised stays as it is, but under today's policy of its identity where there is one.
fn unrecognised(plan: &mut Plan, current: &Current, id: EndpointId) {
    let Some(slot) = current.bpf.slots.get(&id).filter(|_| current.network.links.contains_key(&id)) else { return };
    if let Some(policy) = plan.policies.get(&slot.identity).filter(|policy| **policy != slot.policy) {
        let slot = Slot { policy: *policy, ..*slot };
        plan.add(Stage::Slots, Operation::WriteSlot(id, slot));
    }
}

/// What becomes of an endpoint's device in this round.
enum Fate {
    /// It is there.
    Stays,
    /// It is made in this round.
    Made,
    /// It is not there and must not be made.
    Missing,
}

fn wanted(plan: &mut Plan, current: &Current, endpoint: &Endpoint) {
    let fate = link(plan, current, endpoint);
    if matches!(fate, Fate::Missing) {
        let message = format!("its network device {} is gone", endpoint.ifname);
        plan.failures.insert(Object::Endpoint(endpoint.id), message);
        // A redirect to a device that is not there is a drop without a reason; an empty slot has one.
        gone(plan, current, endpoint.id);
        return;
    }
    let Some(policy) = plan.policies.get(&endpoint.identity).copied() else {
        let message = format!("there is no policy of its identity {}", endpoint.identity);
        plan.failures.insert(Object::Endpoint(endpoint.id), message);
        return;
    };
    let slot = slot(endpoint, policy);
    // With a device that was in the way goes what its slot said, be it the same.
    let made = matches!(fate, Fate::Made);
    if made || current.bpf.slots.get(&endpoint.id) != Some(&slot) {
        plan.add(Stage::Slots, Operation::WriteSlot(endpoint.id, slot));
    }
    if made && endpoint.link == LinkIntent::Own {
        plan.add(Stage::Raise, Operation::House(endpoint.id, inside(endpoint)));
    }
    if made || current.bpf.attachments.get(&endpoint.id) != Some(&Attachment::Current) {
        plan.add(Stage::Attach, Operation::Attach(endpoint.id));
    }
    if made || !current.network.links.get(&endpoint.id).is_some_and(|link| link.up) {
        plan.add(Stage::Raise, Operation::RaiseLink(endpoint.id));
    }
    reach(plan, current, endpoint, made);
}

fn link(plan: &mut Plan, current: &Current, endpoint: &Endpoint) -> Fate {
    let id = endpoint.id;
    let spec = || LinkSpec {
        name: endpoint.ifname.clone(),
        node_mac: endpoint.node_mac,
        peer_name: endpoint.peer_ifname.clone(),
        mac: endpoint.mac,
        mtu: endpoint.mtu,
    };
    let held = current.network.links.get(&id);
    let lost = endpoint.link == LinkIntent::Own && !current.network.housed.contains(&endpoint.peer_ifname);
    let same = |link: &Link| link.name == endpoint.ifname && !lost;
    match (held, endpoint.link) {
        (Some(link), _) if same(link) => {
            if link.mac != endpoint.node_mac || link.mtu != endpoint.mtu {
                plan.add(Stage::Links, Operation::AdjustLink(id, spec()));
            }
            Fate::Stays
        }
        // The number belongs to another endpoint now, or the other end was in the namespace of a former agent.
        (Some(_), LinkIntent::Create | LinkIntent::Own) => {
            gone(plan, current, id);
            plan.add(Stage::Links, Operation::CreateLink(id, spec()));
            Fate::Made
        }
        (None, LinkIntent::Create | LinkIntent::Own) => {
            plan.add(Stage::Links, Operation::CreateLink(id, spec()));
            Fate::Made
        }
        (_, LinkIntent::Keep) => Fate::Missing,
    }
}

fn inside(endpoint: &Endpoint) -> HousingSpec {
    let v4 = endpoint.ipv4.map(|ip| (IpAddr::V4(ip), endpoint.gateway4.map(IpAddr::V4)));
    let v6 = endpoint.ipv6.map(|ip| (IpAddr::V6(ip), endpoint.gateway6.map(IpAddr::V6)));
    HousingSpec { peer_name: endpoint.peer_ifname.clone(), addresses: v4.into_iter().chain(v6).collect() }
}

fn slot(endpoint: &Endpoint, policy: PolicyId) -> Slot {
    Slot {
        policy,
        identity: endpoint.identity,
        internal: endpoint.internal,
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
        mac: endpoint.mac,
        node_mac: endpoint.node_mac,
    }
}

fn reach(plan: &mut Plan, current: &Current, endpoint: &Endpoint, made: bool) {
    let id = endpoint.id;
    let nothing = BTreeMap::new();
    let routes = current.network.routes.get(&id).filter(|_| !made).unwrap_or(&nothing);
    let none = BTreeMap::new();
    let neighbours = current.network.neighbours.get(&id).filter(|_| !made).unwrap_or(&none);
    let mut addresses: BTreeMap<IpAddr, Option<IpAddr>> = BTreeMap::new();
    addresses.extend(endpoint.ipv4.map(|ip| (IpAddr::V4(ip), endpoint.gateway4.map(IpAddr::V4))));
    addresses.extend(endpoint.ipv6.map(|ip| (IpAddr::V6(ip), endpoint.gateway6.map(IpAddr::V6))));
    for ip in routes.keys().filter(|ip| !addresses.contains_key(ip)) {
        plan.add(Stage::Withdraw, Operation::RemoveRoute(id, *ip));
    }
    for ip in neighbours.keys().filter(|ip| !addresses.contains_key(ip)) {
        plan.add(Stage::Withdraw, Operation::RemoveNeighbour(id, *ip));
    }
    for (ip, source) in &addresses {
        if routes.get(ip) != Some(source) {
            plan.add(Stage::Reach, Operation::AddRoute(id, *ip, *source));
        }
        if neighbours.get(ip) != Some(&endpoint.mac) {
            plan.add(Stage::Reach, Operation::AddNeighbour(id, *ip, endpoint.mac));
        }
    }
}

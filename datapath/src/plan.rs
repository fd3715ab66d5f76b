//! From what the kernel holds and what is wanted to the operations between, in the one order that is safe.
//!
//! Pure: no kernel, no clock. `Stage` is the list of steps with the reason for the place of each.

mod endpoints;
mod policies;
mod services;
mod tunnel;

use crate::current::services::Frontend;
use crate::current::{Attachment, Current, PolicyId};
use crate::operation::Operation;
use crate::{NodeAddresses, Tunnel};
use ipnetwork::IpNetwork;
use model::desired::{Datapath, Object};
use model::{EndpointId, Identity, IdentitySet, Ipcache, L4Address, LoadBalancer, PolicyMap, SharedMap};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A step of a round; they run in this order. Operations of one stage do not depend on each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Places of services that turn away from backends and need nothing else ...
    Relief,
    /// ... and those services, with the ones that go: no new flow begins towards what is about to be cut off.
    Relieve,
    /// Forwarding, the tunnel device, gateway addresses, unreachable pools: endpoints' routes name gateways as their source, and an address
    /// of a pool must not follow the default route in the time before its own route is there.
    Node,
    /// Empty the slots of gone endpoints, so that their devices drop everything before anything of theirs goes.
    Cut,
    /// Other nodes are no longer believed, nothing is sent to them. Addresses stop to carry identities, before the policies that judge those identities go.
    Forget,
    /// Flows that rest on forgotten addresses and nodes are judged again.
    ForgetFlows,
    /// Routes and neighbours that lead to the wrong place go before their devices: their deletion needs the device.
    Withdraw,
    /// Devices of gone endpoints go; what is attached goes with them, so no device is ever up without its programs.
    Remove,
    /// Their pins go.
    Unpin,
    /// New pairs, both ends down: nothing passes.
    Links,
    /// New versions of policies under ids that no slot names yet, and what is new about peers at rest.
    Policies,
    /// Slots: each endpoint goes over to its new policy in one write. After it, every verdict is in place that the
    /// addresses of stage `Identities` need.
    Slots,
    /// Pods of other nodes are behind these, before their addresses begin to carry identities: until both are known nothing
    /// is sent there, and nothing believed.
    Nodes,
    /// Addresses begin to carry identities, and what other nodes send of new ones is believed.
    Identities,
    /// Flows that rest on the addresses' former identities are judged again.
    IdentityFlows,
    /// Backends of services, whose addresses have their identities by now ...
    Backends,
    /// ... the places at which new flows find them ...
    Places,
    /// ... what is said of the services by number ...
    Frontends,
    /// ... and the services themselves, of which each goes over in one write.
    Services,
    /// Who gets no new flows of a service any more, and from where it may not be asked any more.
    Leave,
    /// Programs, on devices whose slots are complete. A program of another build that works on maps of its own is
    /// replaced here, when everything that it knows stands in the new maps too.
    Attach,
    /// Only a device that is filtered goes up.
    Raise,
    /// The host finds its way to the endpoints, here and elsewhere. Needs devices that are up, and gateways as sources.
    Reach,
    /// Sockets are told of services, once all that are known stand there.
    Sockets,
    /// The firewall around us.
    Firewall,
    /// Former gateways and pools, which no endpoint's route names any more.
    Release,
    /// Policy versions that no slot names any more. It runs on its own, a while later: a packet on its way may still be
    /// judged by the version that its endpoint had when it came.
    Sweep,
}

/// What was ever wanted since start. Only that may be deleted before every source has told all it knows: the rest was
/// perhaps left by the agent before us and merely not heard of yet.
#[derive(Debug, Default)]
pub struct Seen {
    pub endpoints: BTreeSet<EndpointId>,
    pub prefixes: BTreeSet<IpNetwork>,
    /// The ipcache of the last snapshot that was noted: `prefixes` has all of it.
    noted: Ipcache,
    pub gateways: BTreeSet<IpAddr>,
    pub pools: BTreeSet<IpNetwork>,
    pub vteps: BTreeSet<IpNetwork>,
    pub nodes: BTreeSet<IpAddr>,
    pub identities: IdentitySet,
    pub hops: BTreeSet<IpNetwork>,
    /// The tables of other nodes that were noted last.
    noted_nodes: Option<Others>,
    pub services: BTreeSet<L4Address>,
    /// The services of the last snapshot that was noted.
    noted_services: SharedMap<L4Address, Arc<LoadBalancer>>,
}

impl Seen {
    /// Takes note of a snapshot. Once everything is settled there is nothing to remember.
    pub fn note(&mut self, desired: &Datapath) {
        if desired.settled {
            *self = Seen::default();
            return;
        }
        self.endpoints.extend(desired.endpoints.keys());
        let prefixes = &mut self.prefixes;
        self.noted.differences(&desired.ipcache, |prefix, _, there| {
            prefixes.extend(there.map(|_| *prefix));
        });
        self.noted = desired.ipcache.clone();
        self.gateways.extend(&desired.gateways);
        self.pools.extend(&desired.pools);
        if !self.noted_nodes.as_ref().is_some_and(|noted| noted.is_same(desired)) {
            self.vteps.extend(desired.vteps.keys());
            self.nodes.extend(desired.nodes.keys());
            self.hops.extend(desired.hops.keys());
            self.noted_nodes = Some(Others::of(desired));
        }
        let services = &mut self.services;
        self.noted_services.differences(&desired.services, |frontend, _, there| {
            services.extend(there.map(|_| *frontend));
        });
        self.noted_services = desired.services.clone();
        let mut new = Vec::new();
        self.identities.differences(&desired.identities, |identity, here, _| {
            if here.is_none() {
                new.push(identity);
            }
        });
        for identity in new {
            self.identities.insert(identity, ());
        }
    }
}

/// What a snapshot says of other nodes.
#[derive(Clone, Debug)]
struct Others {
    vteps: Arc<BTreeMap<IpNetwork, IpAddr>>,
    hops: Arc<BTreeMap<IpNetwork, IpAddr>>,
    nodes: Arc<BTreeMap<IpAddr, IpAddr>>,
    clusters: Arc<BTreeMap<IpAddr, u8>>,
}

impl Others {
    fn of(desired: &Datapath) -> Others {
        Others {
            vteps: desired.vteps.clone(),
            hops: desired.hops.clone(),
            nodes: desired.nodes.clone(),
            clusters: desired.clusters.clone(),
        }
    }

    /// Whether another snapshot says it by the same objects.
    fn is_same(&self, desired: &Datapath) -> bool {
        Arc::ptr_eq(&self.vteps, &desired.vteps)
            && Arc::ptr_eq(&self.hops, &desired.hops)
            && Arc::ptr_eq(&self.nodes, &desired.nodes)
            && Arc::ptr_eq(&self.clusters, &desired.clusters)
    }
}

/// What was wanted of other nodes when the kernel held all of it. As long as the picture of the kernel is only carried
/// forward, a snapshot that wants the same leaves nothing to do about other nodes, and they need not be gone through.
#[derive(Debug)]
pub struct Introduced {
    others: Others,
    settled: bool,
    /// It tells which of the nodes is this one ...
    ipcache: Ipcache,
    /// ... by what it says of these addresses.
    asked: BTreeSet<IpAddr>,
    /// Of these are the sources of the host's own packets.
    gateways: BTreeSet<IpAddr>,
    pools: BTreeSet<IpNetwork>,
}

impl Introduced {
    pub fn of(desired: &Datapath) -> Introduced {
        Introduced {
            others: Others::of(desired),
            settled: desired.settled,
            ipcache: desired.ipcache.clone(),
            asked: desired.nodes.keys().chain(desired.vteps.values()).copied().collect(),
            gateways: desired.gateways.clone(),
            pools: desired.pools.clone(),
        }
    }

    /// The same for another snapshot, if that wants nothing else of other nodes.
    pub fn after(mut self, desired: &Datapath) -> Option<Introduced> {
        let reached_alike = self.gateways == desired.gateways && self.pools == desired.pools;
        if self.settled != desired.settled || !reached_alike || !self.others.is_same(desired) {
            return None;
        }
        let (asked, mut same) = (&self.asked, true);
        self.ipcache.differences(&desired.ipcache, |prefix, _, _| same &= !asked.contains(&prefix.ip()));
        self.ipcache = desired.ipcache.clone();
        same.then_some(self)
    }
}

/// What this node does beyond what the snapshots say.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Masquerade what leaves the node from the pools.
    pub masquerade: bool,
    pub tunnel: Tunnel,
    /// What programs write outer headers with, and the host's own packets to other nodes' pods have as source.
    pub node: NodeAddresses,
    /// Have sockets talk to backends where they were given a service's address.
    pub sockets: bool,
}

#[derive(Debug, Default)]
pub struct Plan {
    /// Operations by stage; a stage without any is absent.
    pub stages: BTreeMap<Stage, Vec<Operation>>,
    /// What cannot be had by any operation.
    pub failures: BTreeMap<Object, String>,
    /// Of `failures` what there is no room for.
    pub full: BTreeSet<Object>,
    /// The version of each identity's policy that is to be in force.
    pub policies: BTreeMap<Identity, PolicyId>,
    /// Versions of which the entries are those of a policy of the snapshot, but another object.
    pub adopted: Vec<(PolicyId, Arc<PolicyMap>)>,
    /// The identities that are believed are those of the snapshot, if perhaps another object.
    pub identities_are_same: bool,
    /// Something has to wait for peers to come to rest, and for another round.
    pub unfinished: bool,
    /// Nothing is to be done about other nodes.
    pub introduced: bool,
    /// Frontends that are in the kernel as they are to be, and what is known of them beyond it.
    pub known: Vec<(L4Address, Frontend)>,
    /// What nothing names any more of services, to be taken away a while later.
    pub retired: Vec<Operation>,
}

impl Plan {
    fn add(&mut self, stage: Stage, operation: Operation) {
        self.stages.entry(stage).or_default().push(operation);
    }

    /// How many operations there are.
    fn len(&self) -> usize {
        self.stages.values().map(Vec::len).sum()
    }
}

/// The operations from `current` to `desired`. `fading`: see `policies`; `introduced`: the kernel holds all that is wanted
/// of other nodes.
pub fn plan(
    current: &Current,
    desired: &Datapath,
    seen: &Seen,
    fading: &BTreeSet<Identity>,
    introduced: bool,
    settings: Settings,
) -> Plan {
    let mut plan = Plan::default();
    node(&mut plan, current, desired, seen);
    policies::plan(&mut plan, current, desired, fading);
    endpoints::plan(&mut plan, current, desired, seen);
    policies::sweep(&mut plan, current);
    let made = tunnel::plan(&mut plan, current, desired, settings);
    let skipped = introduced && !made;
    plan.introduced = skipped || nodes(&mut plan, current, desired, seen, settings, made);
    debug_assert!(
        !skipped || nodes(&mut Plan::default(), current, desired, seen, settings, made),
        "other nodes were to be gone through"
    );
    identities(&mut plan, current, desired, seen, settings.tunnel);
    ipcache(&mut plan, current, desired, seen);
    services::plan(&mut plan, &current.services, desired, seen);
    sockets(&mut plan, current, settings);
    firewall(&mut plan, current, desired, seen, settings);
    plan
}

fn node(plan: &mut Plan, current: &Current, desired: &Datapath, seen: &Seen) {
    let network = &current.network;
    if !network.forwarding {
        plan.add(Stage::Node, Operation::Forwarding);
    }
    if !network.host_device {
        plan.add(Stage::Node, Operation::HostDevice);
    }
    for gateway in desired.gateways.difference(&network.gateways) {
        plan.add(Stage::Node, Operation::AddGateway(*gateway));
    }
    for pool in desired.pools.difference(&network.pools) {
        plan.add(Stage::Node, Operation::AddPool(*pool));
    }
    for gateway in network.gateways.difference(&desired.gateways) {
        if desired.settled || seen.gateways.contains(gateway) {
            plan.add(Stage::Release, Operation::RemoveGateway(*gateway));
        }
    }
    for pool in network.pools.difference(&desired.pools) {
        if desired.settled || seen.pools.contains(pool) {
            plan.add(Stage::Release, Operation::RemovePool(*pool));
        }
    }
}

/// Goes through the other nodes; whether there is nothing to do.
fn nodes(plan: &mut Plan, current: &Current, desired: &Datapath, seen: &Seen, settings: Settings, made: bool) -> bool {
    let before = plan.len();
    tunnel::nodes(plan, current, desired, seen, settings, made);
    hops(plan, current, desired, seen);
    plan.len() == before
}

/// Routes to the pods of other nodes where there is no tunnel.
fn hops(plan: &mut Plan, current: &Current, desired: &Datapath, seen: &Seen) {
    let held = &current.network.hops;
    for prefix in held.keys().filter(|prefix| !desired.hops.contains_key(prefix)) {
        if desired.settled || seen.hops.contains(prefix) {
            plan.add(Stage::Withdraw, Operation::RemoveHop(*prefix));
        }
    }
    for (prefix, node) in desired.hops.iter() {
        if held.get(prefix) != Some(node) {
            plan.add(Stage::Reach, Operation::AddHop(*prefix, *node));
        }
    }
}

/// Costs what the two differ in: the picture goes on from the snapshot's own object.
fn identities(plan: &mut Plan, current: &Current, desired: &Datapath, seen: &Seen, tunnel: Tunnel) {
    let nobody = IdentitySet::new();
    let (wanted, settled) = match tunnel {
        Tunnel::Disabled => (&nobody, true),
        Tunnel::Vxlan { .. } | Tunnel::Geneve { .. } => (&desired.identities, desired.settled),
    };
    let mut same = tunnel != Tunnel::Disabled;
    current.bpf.identities.differences(wanted, |identity, held, _| {
        same = false;
        if held.is_none() {
            plan.add(Stage::Identities, Operation::PutIdentity(identity));
        } else if settled || seen.identities.contains_key(&identity) {
            plan.add(Stage::Forget, Operation::RemoveIdentity(identity));
        }
    });
    plan.identities_are_same = same;
}

fn ipcache(plan: &mut Plan, current: &Current, desired: &Datapath, seen: &Seen) {
    let changes = |stage| plan.stages.get(&stage).is_some_and(|operations| operations.iter().any(tunnel::moves_flows));
    let (mut forgets, mut puts) = (changes(Stage::Forget), changes(Stage::Nodes));
    current.bpf.ipcache.differences(&desired.ipcache, |prefix, _, wanted| match wanted {
        Some(entry) => {
            plan.add(Stage::Identities, Operation::PutIpcache(*prefix, *entry));
            puts = true;
        }
        None if desired.settled || seen.prefixes.contains(prefix) => {
            plan.add(Stage::Forget, Operation::RemoveIpcache(*prefix));
            forgets = true;
        }
        None => {}
    });
    if forgets {
        plan.add(Stage::ForgetFlows, Operation::InvalidateFlows);
    }
    if puts || (current.bpf.flows_stale && !forgets) {
        plan.add(Stage::IdentityFlows, Operation::InvalidateFlows);
    }
}

fn sockets(plan: &mut Plan, current: &Current, settings: Settings) {
    match current.bpf.sockets {
        held if settings.sockets && held != Some(Attachment::Current) => {
            plan.add(Stage::Sockets, Operation::AttachSockets);
        }
        Some(_) if !settings.sockets => plan.add(Stage::Sockets, Operation::DetachSockets),
        _ => {}
    }
}

fn firewall(plan: &mut Plan, current: &Current, desired: &Datapath, seen: &Seen, settings: Settings) {
    let mut wanted = BTreeSet::new();
    if settings.masquerade {
        wanted.extend(&desired.pools);
        // A pool that is merely unrecognised goes on being masqueraded.
        let kept = current.network.pools.iter().filter(|pool| !desired.settled && !seen.pools.contains(pool));
        wanted.extend(kept);
    }
    if current.firewall.masquerade.as_ref() != Some(&wanted) {
        plan.add(Stage::Firewall, Operation::Masquerade(wanted));
    }
    if !current.firewall.forward {
        plan.add(Stage::Firewall, Operation::Forward);
    }
}

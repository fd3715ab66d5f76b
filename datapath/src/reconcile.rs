//! One round: read what is not known, plan, carry out stage by stage, say what came of it.
//!
//! Owns attempts and their pacing. When a round runs is `worker`'s, what it does in which order is `plan`'s.

use crate::current::services::{Frontend, Places, Services};
use crate::current::{Attachment, Bpf, Current, PolicyId};
use crate::kernel::{Kernel, OperationError};
use crate::maps::MapError;
use crate::operation::{Domain, Operation, RETIRED};
use crate::plan::{Introduced, Seen, Settings, Stage, plan};
use model::desired::{Datapath, Failure, IpcacheEntry, Object, Status};
use model::{Column, EndpointId, Identity, Ipcache, L4Address, LoadBalancer, PolicyMap, SharedMap};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The first retry comes after this, each further one after twice the time of the one before ...
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// ... and none after more than this.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// How long a policy version stays after no slot names it: packets that began under it have long ended.
const GRACE: Duration = Duration::from_millis(100);
/// A peer has come to rest when nothing named it for so long.
const REST: Duration = GRACE;
const SWEEPER: Object = Object::Node("policies");

/// Makes a kernel equal to snapshots.
#[derive(Debug)]
pub struct Reconciler<K> {
    kernel: K,
    settings: Settings,
    current: Current,
    /// Parts of `current` that are not known to be right.
    unread: BTreeSet<Domain>,
    seen: Seen,
    /// The other nodes that the kernel was found to know; `None`: they have to be compared.
    introduced: Option<Introduced>,
    failing: BTreeMap<Object, Attempts>,
    /// Old policy versions, and when they may go.
    sweep: Option<(Instant, Vec<Operation>)>,
    /// What nothing names any more of services, and when it may go; in order of time.
    retired: VecDeque<(Instant, Vec<Operation>)>,
    /// Something of services could not be done: what is read is to be compared with the snapshot as a whole.
    doubtful: bool,
    /// Identities that an address, an endpoint or belief lost not long ago, and when packets of theirs have arrived.
    fading: BTreeMap<Identity, Instant>,
    /// When to look again at what waits for peers to come to rest.
    unfinished: Option<Instant>,
    realised: u64,
    rounds: u64,
    operations: u64,
}

#[derive(Debug)]
struct Attempts {
    failure: Failure,
    due: Instant,
}

/// What went wrong in the round that runs.
#[derive(Default)]
struct Round {
    failed: BTreeMap<Object, String>,
    /// Of `failed` what there was no room for.
    full: BTreeSet<Object>,
    /// Identities about which some endpoint's policy should say something and does not yet.
    withheld: BTreeSet<Identity>,
    /// Of those the ones that it should refuse something.
    unrefused: BTreeSet<Identity>,
}

/// Why an operation is not tried.
enum Obstacle {
    /// It failed not long ago and waits for its time; or something that it needs failed.
    Failure(String),
    /// It is not needed after all, or not yet.
    None,
}

impl<K: Kernel> Reconciler<K> {
    pub fn new(kernel: K, settings: Settings) -> Reconciler<K> {
        Reconciler {
            kernel,
            settings,
            current: Current::default(),
            unread: BTreeSet::from([Domain::Network, Domain::Bpf, Domain::Services, Domain::Firewall]),
            seen: Seen::default(),
            introduced: None,
            failing: BTreeMap::new(),
            sweep: None,
            retired: VecDeque::new(),
            doubtful: false,
            fading: BTreeMap::new(),
            unfinished: None,
            realised: 0,
            rounds: 0,
            operations: 0,
        }
    }

    /// Has the next round read a part of the kernel's state instead of trusting the picture.
    pub fn distrust(&mut self, domain: Domain) {
        self.unread.insert(domain);
    }

    /// Makes the kernel equal to `desired` as far as it goes, and tells what came of it.
    pub fn round(&mut self, desired: &Datapath, now: Instant) -> Status {
        self.rounds += 1;
        self.seen.note(desired);
        let mut round = Round::default();
        // Planning on a picture that is not known to be right could take away what is needed.
        if self.read(&mut round, now) {
            self.fading.retain(|_, until| *until > now);
            let fading = self.fading.keys().copied().collect();
            let introduced = self.introduced.take().and_then(|introduced| introduced.after(desired));
            let mut plan = plan(&self.current, desired, &self.seen, &fading, introduced.is_some(), self.settings);
            self.introduced = plan.introduced.then(|| introduced.unwrap_or_else(|| Introduced::of(desired)));
            round.failed.append(&mut plan.failures);
            round.full.append(&mut plan.full);
            for (address, frontend) in plan.known.drain(..) {
                self.current.services.note_frontend(address, frontend);
            }
            self.adopt(std::mem::take(&mut plan.adopted));
            if plan.identities_are_same {
                self.current.bpf.identities = desired.identities.clone();
            }
            self.unfinished = plan.unfinished.then_some(now + REST);
            self.sweep = self.sweep.take().or(plan.stages.remove(&Stage::Sweep).map(|list| (now + GRACE, list)));
            plan.stages.remove(&Stage::Sweep);
            if !plan.retired.is_empty() {
                self.retired.push_back((now + GRACE, std::mem::take(&mut plan.retired)));
            }
            for operations in plan.stages.into_values() {
                self.carry_out(operations, desired, now, &mut round);
            }
            self.share(&desired.ipcache);
            self.share_services(&desired.services, &round);
            self.realised = desired.revision;
        }
        let (sweeping, retiring) = (self.sweep.is_some(), !self.retired.is_empty());
        self.failing.retain(|object, attempts| {
            let comes = sweeping && *object == SWEEPER || retiring && *object == RETIRED;
            let stays = round.failed.contains_key(object) || comes;
            if !stays {
                tracing::info!(%object, attempts = attempts.failure.attempts, "as desired again");
            }
            stays
        });
        self.count(&round, now);
        self.status()
    }

    /// Deletes the policy versions, and what of services, was found to be needed no more, if it is time.
    pub fn sweep(&mut self, now: Instant) {
        while let Some((_, operations)) = self.retired.pop_front_if(|(due, _)| *due <= now) {
            let mut round = Round::default();
            self.carry_out(operations, &Datapath::default(), now, &mut round);
            self.failing.retain(|object, _| *object != RETIRED || round.failed.contains_key(object));
            self.count(&round, now);
        }
        if let Some((_, operations)) = self.sweep.take_if(|(due, _)| *due <= now) {
            let mut round = Round::default();
            self.carry_out(operations, &Datapath::default(), now, &mut round);
            self.failing.retain(|object, _| *object != SWEEPER || round.failed.contains_key(object));
            self.count(&round, now);
        }
    }

    /// When something is due without a new snapshot: an attempt at what failed or is unfinished, or a sweep.
    pub fn due(&self) -> Option<Instant> {
        let sweeps = self.sweep.iter().chain(self.retired.front()).map(|(due, _)| *due);
        self.retries().chain(sweeps).min()
    }

    /// Whether an attempt at something that failed or is unfinished is due.
    pub fn retry_due(&self, now: Instant) -> bool {
        self.retries().any(|due| due <= now)
    }

    /// A sweep that is to come is the next attempt at the one that failed.
    fn retries(&self) -> impl Iterator<Item = Instant> {
        let (sweeping, retiring) = (self.sweep.is_some(), !self.retired.is_empty());
        self.failing
            .iter()
            .filter(move |(object, _)| (!sweeping || **object != SWEEPER) && (!retiring || **object != RETIRED))
            .map(|(_, attempts)| attempts.due)
            .chain(self.unfinished)
    }

    pub fn status(&self) -> Status {
        let failing = self.failing.iter().map(|(object, attempts)| (object.clone(), attempts.failure.clone()));
        Status { realised: self.realised, failing: failing.collect(), rounds: self.rounds, operations: self.operations }
    }

    /// The picture of the kernel after the last round.
    pub fn current(&self) -> &Current {
        &self.current
    }

    #[cfg(test)]
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Reads what is not known. `false`: a part without which nothing can be planned could not be read.
    fn read(&mut self, round: &mut Round, now: Instant) -> bool {
        for domain in std::mem::take(&mut self.unread) {
            let object = Object::Node(match domain {
                Domain::Network => "network",
                Domain::Bpf => "maps",
                Domain::Services => "service maps",
                Domain::Firewall => "firewall",
            });
            if let Some(attempts) = self.failing.get(&object).filter(|attempts| attempts.due > now) {
                round.failed.insert(object, attempts.failure.message.clone());
                self.unread.insert(domain);
                continue;
            }
            // What the picture was compared with says nothing about another picture.
            self.introduced = None;
            let result = match domain {
                Domain::Network => self.kernel.network().map(|read| self.current.network = read),
                Domain::Bpf => self.kernel.bpf(&self.current.bpf).map(|read| {
                    let last_node = self.current.bpf.last_node.max(read.last_node);
                    self.current.bpf = Bpf { last_node, ..read };
                }),
                Domain::Services => self.kernel.services().map(|read| self.take_over(read)),
                Domain::Firewall => self.kernel.firewall().map(|read| self.current.firewall = read),
            };
            if let Err(error) = result {
                round.failed.insert(object, chain(&*error));
                self.unread.insert(domain);
            }
        }
        [Domain::Network, Domain::Bpf, Domain::Services].iter().all(|domain| !self.unread.contains(domain))
    }

    /// Goes on from what was read of services, unless it is what was known.
    fn take_over(&mut self, mut read: Services) {
        let held = &self.current.services;
        if !std::mem::take(&mut self.doubtful) && held.is_as_read(&read) {
            return;
        }
        read.backends.last = read.backends.last.max(held.backends.last);
        read.reverse.last = read.reverse.last.max(held.reverse.last);
        self.current.services = read;
        // It may speak of rows that are somebody else's by then; what is needed no more is found again.
        self.retired.clear();
    }

    /// Where a version in the kernel says what is wanted, keeps the snapshot's copy: the next comparison is one of
    /// pointers.
    fn adopt(&mut self, adopted: Vec<(PolicyId, Arc<PolicyMap>)>) {
        for (id, map) in adopted {
            if let Some(held) = self.current.bpf.policies.get_mut(&id) {
                held.map = map;
            }
        }
    }

    /// Has the picture of the ipcache share with the snapshot what the two have in common: the next comparison costs no
    /// more than what differs.
    fn share(&mut self, desired: &Ipcache) {
        let held = &mut self.current.bpf.ipcache;
        let mut other = Vec::new();
        held.differences(desired, |prefix, here, _| other.push((*prefix, here.copied())));
        *held = desired.clone();
        for (prefix, entry) in other {
            match entry {
                Some(entry) => held.insert(prefix, entry),
                None => held.remove(&prefix),
            };
        }
    }

    /// Has the picture of services say which of the snapshot's are in the kernel as they are wanted.
    fn share_services(&mut self, desired: &SharedMap<L4Address, Arc<LoadBalancer>>, round: &Round) {
        let services = &mut self.current.services;
        let mut differ = Vec::new();
        services.same.differences(desired, |address, _, wanted| differ.push((*address, wanted.is_some())));
        services.same = desired.clone();
        for (address, wanted) in differ {
            let same = wanted && !round.failed.contains_key(&Object::Service(address));
            if same {
                services.strays.remove(&address);
                continue;
            }
            services.same.remove(&address);
            if services.frontends.contains_key(&address) {
                services.strays.insert(address);
            }
        }
    }

    fn carry_out(&mut self, operations: Vec<Operation>, desired: &Datapath, now: Instant, round: &mut Round) {
        let mut ready = Vec::with_capacity(operations.len());
        for operation in operations {
            match self.obstacle(&operation, now, round) {
                None => ready.push(operation),
                Some(Obstacle::None) => {}
                Some(Obstacle::Failure(reason)) => {
                    self.doubt(&operation);
                    self.fail(round, &operation, reason, desired);
                }
            }
        }
        if ready.is_empty() {
            return;
        }
        self.operations += ready.len() as u64;
        let results = self.kernel.apply(&ready);
        debug_assert_eq!(results.len(), ready.len(), "one answer for each operation");
        for (operation, result) in ready.iter().zip(results) {
            match result {
                Ok(()) => {
                    self.fade(operation, now);
                    self.current.record(operation);
                }
                Err(error) => {
                    self.unread.insert(operation.domain());
                    self.doubt(operation);
                    if is_full(&error) {
                        round.full.insert(operation.object());
                    }
                    self.fail(round, operation, chain(&*error), desired);
                }
            }
        }
    }

    /// What was not done of services is found again when everything is compared anew.
    fn doubt(&mut self, operation: &Operation) {
        if operation.domain() == Domain::Services {
            self.unread.insert(Domain::Services);
            self.doubtful = true;
        }
    }

    /// Notes the identity that an operation takes from an address or an endpoint, or from belief. To be called before it is recorded.
    fn fade(&mut self, operation: &Operation, now: Instant) {
        let bpf = &self.current.bpf;
        let former = match operation {
            Operation::PutIpcache(prefix, _) | Operation::RemoveIpcache(prefix) => {
                bpf.ipcache.get(prefix).map(|entry| entry.identity)
            }
            Operation::WriteSlot(id, _) | Operation::ClearSlot(id) => bpf.slots.get(id).map(|slot| slot.identity),
            Operation::RemoveIdentity(identity) => Some(*identity),
            _ => None,
        };
        if let Some(identity) = former {
            self.fading.insert(identity, now + REST);
        }
    }

    /// Why an operation must not be tried in this round: what it needs is not there.
    fn obstacle(&self, operation: &Operation, now: Instant, round: &Round) -> Option<Obstacle> {
        let object = operation.object();
        // Node objects run programs, or fail for reasons that no snapshot changes: they wait for their time.
        if let (Object::Node(_), Some(attempts)) = (&object, self.failing.get(&object))
            && attempts.due > now
        {
            return Some(Obstacle::Failure(attempts.failure.message.clone()));
        }
        let (network, bpf) = (&self.current.network, &self.current.bpf);
        let link = |id: &EndpointId| network.links.get(id);
        let needs = |there: bool, what: &str| (!there).then(|| Obstacle::Failure(what.to_owned()));
        match operation {
            Operation::CreateLink(id, _) => needs(link(id).is_none(), "the former device could not be deleted"),
            // Without its pin a program leaves a device that is there.
            Operation::Unpin(id) => link(id).is_some().then_some(Obstacle::None),
            Operation::WriteSlot(id, slot) if !bpf.policies.contains_key(&slot.policy) => {
                let reason = round.failed.get(&Object::Policy(slot.identity)).map_or("not tried", String::as_str);
                Some(Obstacle::Failure(format!("the policy of identity {} of endpoint {id}: {reason}", slot.identity)))
            }
            Operation::WriteSlot(id, slot)
                if round.unrefused.contains(&slot.identity)
                    && bpf.slots.get(id).is_none_or(|former| former.identity != slot.identity) =>
            {
                let reason = format!("another endpoint could not be given its verdict on identity {}", slot.identity);
                Some(Obstacle::Failure(reason))
            }
            Operation::WriteSlot(id, _) => needs(link(id).is_some(), "it has no device"),
            Operation::Attach(id) => {
                needs(link(id).is_some() && bpf.slots.contains_key(id), "it has no device or no slot")
            }
            Operation::RaiseLink(id) => {
                let filtered = bpf.attachments.get(id).is_some_and(|attachment| *attachment != Attachment::Dead);
                needs(filtered, "its programs are not attached")
            }
            Operation::AttachTunnel => needs(network.tunnel.is_some(), "there is no tunnel device"),
            Operation::RaiseTunnel => {
                let filtered = bpf.tunnel.is_some_and(|attachment| attachment != Attachment::Dead);
                needs(filtered, "its programs are not attached")
            }
            Operation::UnpinTunnel => network.tunnel.is_some().then_some(Obstacle::None),
            Operation::AddTunnelRoute(..) => {
                needs(network.tunnel.is_some_and(|link| link.up), "the tunnel device is not up")
            }
            Operation::AddRoute(id, ..) | Operation::AddNeighbour(id, ..) => {
                needs(link(id).is_some_and(|link| link.up), "its device is not up")
            }
            Operation::PutIpcache(_, IpcacheEntry { identity, .. }) | Operation::PutIdentity(identity)
                if round.withheld.contains(identity) =>
            {
                Some(Obstacle::Failure(format!("an endpoint could not be given its verdict on identity {identity}")))
            }
            Operation::PutService(_, frontend) => {
                let reason = unmet(&self.current.services, frontend)?;
                Some(Obstacle::Failure(reason.to_owned()))
            }
            Operation::ReleasePlaces(address, row) => {
                let used = self.current.services.frontends.get(address).is_some_and(|frontend| frontend.has_row(*row));
                used.then_some(Obstacle::None)
            }
            Operation::RemoveMember(address, number, backend) => {
                let held = self.current.services.frontends.get(address).filter(|held| held.number == *number);
                held.is_some_and(|held| held.members().contains(backend)).then_some(Obstacle::None)
            }
            Operation::RemoveSource(address, number, prefix) => {
                let held = self.current.services.frontends.get(address).filter(|held| held.number == *number);
                let sources = held.and_then(|held| held.sources.as_ref());
                sources.is_some_and(|sources| sources.contains(prefix)).then_some(Obstacle::None)
            }
            Operation::RemoveReverse(address, number) => {
                let held = self.current.services.frontends.get(address);
                held.is_some_and(|held| held.number == *number).then_some(Obstacle::None)
            }
            Operation::RemoveBackend(number) => {
                let services = &self.current.services;
                (services.is_used(*number) || services.backends.get(number.0).is_none()).then_some(Obstacle::None)
            }
            Operation::RemovePolicy(id, _) => {
                bpf.slots.values().any(|slot| slot.policy == *id).then_some(Obstacle::None)
            }
            _ => None,
        }
    }

    fn fail(&self, round: &mut Round, operation: &Operation, message: String, desired: &Datapath) {
        // The endpoint stays under its former policy. Addresses must not begin to carry an identity on which today's has
        // a verdict and the former perhaps none.
        if let Operation::WriteSlot(id, _) | Operation::ClearSlot(id) = operation
            && let Some(former) = self.current.bpf.slots.get(id)
        {
            let wanted = desired.endpoints.get(id).map(|endpoint| endpoint.identity);
            let maps = [Some(former.identity), wanted].into_iter().flatten().filter_map(|id| desired.policies.get(&id));
            let peers = maps.flat_map(|map| map.columns().keys());
            round.withheld.extend(peers.filter(|peer| *peer != Identity::UNKNOWN));
        }
        // The same of endpoints that would begin to have such an identity, where there is something to refuse them.
        let denies = |column: &Column| column.entries().iter().any(|(_, entry)| entry.deny);
        match operation {
            Operation::WritePolicy(_, _, map) => {
                let denied = map.columns().iter().filter(|(_, column)| denies(column));
                round.unrefused.extend(denied.map(|(peer, _)| peer));
            }
            Operation::AmendPolicy(_, _, former, map) => former.differences(map, |peer, _, column| {
                round.withheld.insert(peer);
                round.unrefused.extend(column.filter(|column| denies(column)).map(|_| peer));
            }),
            _ => {}
        }
        round.failed.entry(operation.object()).or_insert(message);
    }

    fn count(&mut self, round: &Round, now: Instant) {
        for (object, message) in &round.failed {
            let full = round.full.contains(object);
            match self.failing.get_mut(object) {
                // It was not tried.
                Some(attempts) if attempts.due > now && matches!(object, Object::Node(_)) => {}
                Some(attempts) => {
                    attempts.failure.message.clone_from(message);
                    attempts.failure.full = full;
                    attempts.failure.attempts = attempts.failure.attempts.saturating_add(1);
                    attempts.due = now + back_off(attempts.failure.attempts);
                }
                None => {
                    tracing::warn!(%object, %message, "not as desired; retried");
                    let failure = Failure { message: message.clone(), attempts: 1, full };
                    self.failing.insert(object.clone(), Attempts { failure, due: now + back_off(1) });
                }
            }
        }
    }
}

/// What is not there that an entry of a service names.
fn unmet(services: &Services, frontend: &Frontend) -> Option<&'static str> {
    let number = frontend.number;
    let stands = |places: &Places| {
        places.backends.is_empty() || services.written.get(&places.row).is_some_and(|held| *held == places.backends)
    };
    if frontend.backends.iter().any(|backend| services.backends.get(backend.0).is_none()) {
        return Some("a backend of it could not be written");
    }
    if !frontend.places.iter().all(stands) {
        return Some("its places could not be written");
    }
    let members = frontend.members();
    let members = members.iter().all(|backend| services.members.contains(&(number, *backend)));
    let sources = frontend.sources.iter().flat_map(|sources| sources.iter());
    let mut sources = sources.map(|prefix| services.sources.contains(&(number, *prefix)));
    if services.reverse.get(number.0).is_none() || !members || !sources.all(|there| there) {
        return Some("what is said of its number could not be written");
    }
    None
}

/// Whether an operation failed for want of room.
fn is_full(error: &OperationError) -> bool {
    error.downcast_ref().is_some_and(|error| matches!(error, MapError::Full { .. }))
}

fn back_off(attempts: u32) -> Duration {
    FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LAST_RETRY)
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
pub(crate) mod tests;

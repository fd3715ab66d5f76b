//! Numbers for the label sets that this node's endpoints have: asked of the allocator as they are wanted, given back a
//! while after they are not, and the numbers of all nodes fed to the state.
//!
//! The allocator agrees with other nodes; this decides only when to ask and when to let go.

use crate::controllers::{Controllers, causes};
use crate::memory::Memory;
use crate::writer::Inputs;
use kvstore::allocator::{Allocation, Allocator, IdEvent};
use model::{Identity, Labels};
use state::{Input, Outputs, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

const CONTROLLER: &str = "identity-allocation";
const COLLECTOR: &str = "identity-gc";
/// How long a set of labels is kept after the last endpoint with it is gone: containers that restart find their number.
const RELEASE_GRACE: Duration = Duration::from_secs(10);
/// First and longest pause after a failed allocation.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How often what has waited is looked at.
const TICK: Duration = Duration::from_millis(200);

pub struct IdentityAllocation {
    pub allocator: Allocator,
    pub inputs: Inputs,
    pub outputs: watch::Receiver<Arc<Outputs>>,
    pub controllers: Controllers,
    /// How often masters without users are looked for.
    pub collect_every: Duration,
    /// Where the cluster's numbers are noted for the next run.
    pub memory: Memory,
    /// What the last run knew.
    pub remembered: Vec<(Identity, Labels)>,
}

/// Where a set of labels is.
#[derive(Debug)]
enum Claim {
    /// Being asked for.
    Asking,
    /// The last try failed.
    Failed { again: Instant, pause: Duration },
    /// This node uses a number for it.
    Held,
    /// No longer wanted since then.
    Idle(Instant),
}

struct Task {
    parts: IdentityAllocation,
    claims: BTreeMap<Labels, Claim>,
    asking: JoinSet<(Labels, Duration, Result<Allocation, kvstore::Error>)>,
    wanted: Arc<BTreeSet<Labels>>,
    /// Numbers of an earlier run that the store has not confirmed.
    unconfirmed: BTreeSet<Identity>,
}

impl IdentityAllocation {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut events = self.allocator.subscribe();
        let mut unconfirmed = BTreeSet::new();
        for (identity, labels) in std::mem::take(&mut self.remembered) {
            unconfirmed.insert(identity);
            self.inputs.tell(Input::IdentityRemembered { identity, labels }).await;
        }
        let wanted = Arc::default();
        let mut task = Task { parts: self, claims: BTreeMap::new(), asking: JoinSet::new(), wanted, unconfirmed };
        let collector = collect(task.parts.allocator.clone(), task.parts.collect_every, task.parts.controllers.clone());
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = task.work(&mut events) => {}
            () = collector => {}
        }
    }
}

/// Deletes numbers that nobody uses, for ever.
async fn collect(allocator: Allocator, every: Duration, controllers: Controllers) {
    loop {
        // A little earlier or later each time: nodes that started together do not collect together.
        tokio::time::sleep(every.mul_f64(0.75 + rand::random::<f64>() / 2.0)).await;
        if let Err(error) = controllers.book(COLLECTOR, allocator.gc().await) {
            tracing::debug!(error = causes(&error), "unused identities could not be collected");
        }
    }
}

impl Task {
    async fn work(&mut self, events: &mut mpsc::UnboundedReceiver<Vec<IdEvent>>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let patience = tokio::time::sleep(crate::feed::patience(!self.unconfirmed.is_empty()));
        tokio::pin!(patience);
        let mut synced = false;
        self.compare();
        loop {
            tokio::select! {
                changed = self.parts.outputs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.compare();
                }
                batch = events.recv() => {
                    let Some(batch) = batch else { return };
                    for event in batch {
                        synced |= self.event(event).await;
                    }
                }
                Some(done) = self.asking.join_next(), if !self.asking.is_empty() => {
                    if let Ok((labels, pause, outcome)) = done {
                        self.answered(labels, pause, outcome).await;
                    }
                }
                _ = tick.tick() => self.overdue().await,
                () = &mut patience, if !synced => {
                    synced = true;
                    tracing::warn!("the kvstore does not answer: the identities of the last run are used");
                    self.parts.controllers.failure(CONTROLLER, "the kvstore does not answer");
                    self.parts.inputs.tell(Input::Away(Source::Identities)).await;
                }
            }
        }
    }

    /// Takes note of what is wanted now.
    fn compare(&mut self) {
        let wanted = Arc::clone(&self.parts.outputs.borrow_and_update().wanted_identities);
        if Arc::ptr_eq(&wanted, &self.wanted) {
            return;
        }
        for labels in wanted.iter() {
            match self.claims.get_mut(labels) {
                None => self.ask(labels.clone(), RETRY.0),
                Some(claim @ Claim::Idle(_)) => *claim = Claim::Held,
                Some(Claim::Asking | Claim::Failed { .. } | Claim::Held) => {}
            }
        }
        let now = Instant::now();
        self.claims.retain(|labels, claim| {
            if !wanted.contains(labels) {
                match claim {
                    Claim::Held => *claim = Claim::Idle(now),
                    Claim::Failed { .. } => return false,
                    Claim::Asking | Claim::Idle(_) => {}
                }
            }
            true
        });
        self.wanted = wanted;
    }

    fn ask(&mut self, labels: Labels, pause: Duration) {
        self.claims.insert(labels.clone(), Claim::Asking);
        let allocator = self.parts.allocator.clone();
        let preferred = self.last_known(&labels);
        self.asking.spawn(async move {
            let outcome = allocator.allocate(&labels.sorted_list(), preferred).await;
            (labels, pause, outcome)
        });
    }

    /// The number that an endpoint with these labels has: after a restart it should stay the same.
    fn last_known(&self, labels: &Labels) -> Option<u32> {
        let outputs = self.parts.outputs.borrow();
        let mut endpoints = outputs.view.endpoints.values();
        let same = endpoints.find(|e| *e.identity_labels == *labels && e.identity.is_allocated());
        same.map(|endpoint| endpoint.identity.0)
    }

    async fn answered(&mut self, labels: Labels, pause: Duration, outcome: Result<Allocation, kvstore::Error>) {
        match self.parts.controllers.book(CONTROLLER, outcome) {
            Ok(allocation) => {
                let wanted = self.wanted.contains(&labels);
                self.claims.insert(labels.clone(), if wanted { Claim::Held } else { Claim::Idle(Instant::now()) });
                self.known(Identity(allocation.id), labels).await;
            }
            Err(error) if self.wanted.contains(&labels) => {
                tracing::warn!(%labels, error = causes(&error), "no identity could be had; trying again");
                let pause = (pause * 2).min(RETRY.1);
                self.claims.insert(labels, Claim::Failed { again: Instant::now() + pause, pause });
            }
            Err(_) => {
                self.claims.remove(&labels);
            }
        }
    }

    async fn known(&self, identity: Identity, labels: Labels) {
        self.parts.inputs.tell(Input::IdentityKnown { identity, labels }).await;
    }

    /// Tries again what failed, and gives back what nobody wants any more.
    async fn overdue(&mut self) {
        let now = Instant::now();
        let mut failed = Vec::new();
        let mut idle = Vec::new();
        for (labels, claim) in &self.claims {
            match claim {
                Claim::Failed { again, pause } if *again <= now => failed.push((labels.clone(), *pause)),
                Claim::Idle(since) if now.duration_since(*since) >= RELEASE_GRACE => idle.push(labels.clone()),
                Claim::Asking | Claim::Failed { .. } | Claim::Held | Claim::Idle(_) => {}
            }
        }
        for (labels, pause) in failed {
            self.ask(labels, pause);
        }
        for labels in idle {
            self.parts.allocator.release(&labels.sorted_list()).await;
            self.claims.remove(&labels);
        }
    }

    /// Feeds what happens to numbers anywhere; true for the first complete listing.
    async fn event(&mut self, event: IdEvent) -> bool {
        match event {
            IdEvent::Reset => false,
            IdEvent::Put { id, key } => {
                self.unconfirmed.remove(&Identity(id));
                match Labels::from_sorted_list(&key) {
                    Ok(labels) if !labels.is_empty() => {
                        self.parts.memory.identity(Identity(id), Some(&labels));
                        self.known(Identity(id), labels).await;
                    }
                    Ok(_) => tracing::warn!(id, key, "an identity of the kvstore has no labels"),
                    Err(error) => tracing::warn!(id, key, %error, "an identity of the kvstore is not readable"),
                }
                false
            }
            IdEvent::Delete { id, .. } => {
                self.parts.memory.identity(Identity(id), None);
                self.parts.inputs.tell(Input::IdentityGone { identity: Identity(id) }).await;
                false
            }
            IdEvent::Synced => {
                for identity in std::mem::take(&mut self.unconfirmed) {
                    self.parts.memory.identity(identity, None);
                }
                self.parts.inputs.tell(Input::Synced(Source::Identities)).await;
                true
            }
            IdEvent::Conflict { id, key } => {
                tracing::warn!(id, key, "the kvstore uses this number for other labels now; asking for another");
                if let Ok(labels) = Labels::from_sorted_list(&key)
                    && self.claims.remove(&labels).is_some()
                    && self.wanted.contains(&labels)
                {
                    self.ask(labels, RETRY.0);
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Brain;
    use kvstore::allocator::Options;
    use kvstore::session::{self, Session};
    use kvstore::{Backend, keys};
    use model::Label;

    fn begin(brain: &Brain, backend: &Arc<dyn Backend>) {
        let session = Session::start(Arc::clone(backend), session::Options::default());
        let options = Options {
            choice: kvstore::allocator::Choice::Lowest,
            grace: Duration::from_secs(5),
            ..Options::new(keys::IDENTITIES, "n1", Identity::MIN_ALLOCATED..=Identity::MAX_ALLOCATED)
        };
        let task = IdentityAllocation {
            allocator: Allocator::start(Arc::clone(backend), session, options),
            inputs: brain.inputs.clone(),
            outputs: brain.outputs.clone(),
            controllers: Controllers::default(),
            collect_every: Duration::from_secs(5),
            memory: Memory::default(),
            remembered: Vec::new(),
        };
        tokio::spawn(task.run(brain.shutdown.clone()));
    }

    async fn identified(brain: &Brain, id: &str) -> u32 {
        let reference = state::EndpointRef::Docker(id.to_owned());
        let known = |outputs: &Outputs| outputs.view.find(&reference).is_some_and(|e| e.identity.is_allocated());
        brain.until("the endpoint has an identity", known).await;
        brain.identity_of(id)
    }

    fn knows(outputs: &Outputs, number: u32) -> bool {
        outputs.view.identities.contains_key(&Identity(number))
    }

    #[tokio::test(start_paused = true)]
    async fn equal_labels_share_a_number_that_goes_when_nobody_uses_it() {
        let (brain, (backend, _power)) = (Brain::begin().await, kvstore::memory::open());
        begin(&brain, &backend);
        brain.endpoint("e1", "10.15.0.5", ("id", "a")).await;
        brain.endpoint("e2", "10.15.0.6", ("id", "a")).await;
        brain.endpoint("e3", "10.15.0.7", ("id", "b")).await;
        let (a, b) = (identified(&brain, "e1").await, identified(&brain, "e3").await);
        assert_eq!(identified(&brain, "e2").await, a);
        assert_ne!(a, b);
        let master = backend.get(&format!("{}/id/{a}", keys::IDENTITIES)).await.unwrap().unwrap();
        assert_eq!(master.value, b"container:id=a;");
        brain.delete("e1").await;
        brain.delete("e3").await;
        brain.until("the unused one is gone", |outputs| !knows(outputs, b)).await;
        assert!(knows(&brain.outputs.borrow(), a), "the other is in use");
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_that_comes_back_soon_finds_its_number() {
        let (brain, (backend, _power)) = (Brain::begin().await, kvstore::memory::open());
        begin(&brain, &backend);
        brain.endpoint("e1", "10.15.0.5", ("id", "a")).await;
        let before = identified(&brain, "e1").await;
        brain.delete("e1").await;
        brain.endpoint("e2", "10.15.0.6", ("id", "a")).await;
        assert_eq!(identified(&brain, "e2").await, before);
        // Longer than everything that collects: the claim was taken up again and not let go.
        tokio::time::sleep(RELEASE_GRACE * 6).await;
        assert!(knows(&brain.outputs.borrow(), before));
    }

    #[tokio::test(start_paused = true)]
    async fn numbers_of_other_nodes_are_told() {
        let (brain, (backend, _power)) = (Brain::begin().await, kvstore::memory::open());
        begin(&brain, &backend);
        let key = format!("{}/id/4711", keys::IDENTITIES);
        backend.put(&key, b"container:id=far;".to_vec(), None).await.unwrap();
        let far: Labels = [Label::new("container", "id", "far")].into_iter().collect();
        let told = |outputs: &Outputs| {
            outputs.view.identities.get(&Identity(4711)).is_some_and(|identity| *identity.labels == far)
        };
        brain.until("the far identity is known", told).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_delays_an_identity_and_loses_nothing() {
        let (brain, (backend, power)) = (Brain::begin().await, kvstore::memory::open());
        power.off();
        begin(&brain, &backend);
        brain.endpoint("e1", "10.15.0.5", ("id", "a")).await;
        let away = |outputs: &Outputs| outputs.view.sync.get(&Source::Identities) == Some(&state::SyncState::Away);
        brain.until("declared away", away).await;
        assert_eq!(brain.identity_of("e1"), Identity::INIT.0);
        power.on();
        identified(&brain, "e1").await;
    }
}

//! Which container an endpoint belongs to, and so which labels it has. `Join` asks Docker while Docker waits for us, so
//! that the container's first packet finds its identity in place; where Docker does not tell in time the endpoint stays
//! `reserved:init` and a task keeps asking.
//!
//! Of the two questions that this takes, which containers there are is asked while Docker still waits for
//! `CreateEndpoint`, so that `Join` has to ask just whose the endpoint is.

use crate::agent::Agent;
use crate::docker::{Container, ContainerRef, Docker, DockerError};
use crate::refusal::Refusal;
use crate::stats::CallStats;
use api::endpoint::EndpointChange;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// What Docker gets at `Join` when its API has been answering. It needs a few milliseconds, and some hundred when many
/// containers start at once on a busy machine: worth waiting for, or their first packets have no identity.
const JOIN_BOUND: Duration = Duration::from_millis(900);
/// What it gets when it has not: while an engine starts it serves nobody, and its start must not wait for us.
const AWAY_BOUND: Duration = Duration::from_millis(30);
/// Pause between two questions at `Join`.
const JOIN_PAUSE: Duration = Duration::from_millis(10);
/// What the agent gets beyond the time that it is asked to keep to.
const TELL_MARGIN: Duration = Duration::from_millis(100);
/// What Docker gets when nobody waits.
const LATER_BOUND: Duration = Duration::from_secs(5);
/// Listings at once; of more starts at a time each asks for itself, so that a long list is not asked for too often.
const LISTINGS: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Finds containers, at once or later.
pub(crate) struct Resolver {
    agent: Agent,
    docker: Docker,
    stats: Arc<CallStats>,
    /// Whether Docker's API was answering when it was last used.
    up: AtomicBool,
    /// Docker's endpoint id to its network's.
    pending: Mutex<BTreeMap<String, String>>,
    /// By Docker's endpoint id: the containers that do not run, as of its `CreateEndpoint`.
    listings: Mutex<BTreeMap<String, Listing>>,
    wake: Notify,
}

/// Soon the containers that do not run.
type Listing = AbortOnDropHandle<Vec<Container>>;

/// What becomes of an endpoint whose container is sought.
enum Found {
    /// The agent knows the container now, or no longer the endpoint.
    Settled,
    NotYet,
}

impl Resolver {
    pub(crate) fn new(agent: Agent, docker: Docker, stats: Arc<CallStats>) -> Resolver {
        let (pending, listings, wake) = (Mutex::default(), Mutex::default(), Notify::new());
        Resolver { agent, docker, stats, up: AtomicBool::new(false), pending, listings, wake }
    }

    /// An endpoint is being made: its `Join` will ask for its container soon, and by name. That name stays the
    /// container's until then, because Docker holds the container's lock while it starts it.
    pub(crate) fn expect(&self, endpoint: &str) {
        let mut listings = lock(&self.listings);
        if listings.len() >= LISTINGS {
            listings.retain(|_, listing| !listing.is_finished());
        }
        if !self.up.load(Ordering::Relaxed) || listings.len() >= LISTINGS {
            return;
        }
        let docker = self.docker.clone();
        let listing = tokio::spawn(async move { docker.resting_containers().await.unwrap_or_default() });
        listings.insert(endpoint.to_owned(), AbortOnDropHandle::new(listing));
    }

    /// The endpoint will not join after all.
    pub(crate) fn forget(&self, endpoint: &str) {
        lock(&self.listings).remove(endpoint);
    }

    /// The container of an endpoint that is about to join; `None` when Docker does not tell in time.
    pub(crate) async fn at_join(&self, network: &str, endpoint: &str) -> Option<Container> {
        let began = Instant::now();
        let bound = if self.up.load(Ordering::Relaxed) { JOIN_BOUND } else { AWAY_BOUND };
        let listing = lock(&self.listings).remove(endpoint);
        let found = tokio::time::timeout_at(began + bound, self.ask_until_told(network, endpoint, listing)).await;
        self.stats.looked_up(began.elapsed(), found.is_err());
        match found {
            Ok(container) => Some(container),
            Err(_) => {
                tracing::info!(endpoint, ?bound, "Docker does not tell the container in time: reserved:init for now");
                None
            }
        }
    }

    /// Tells the agent of the container and waits until the kernel enforces its identity, but not beyond `deadline`: what
    /// is not told by then is told later.
    pub(crate) async fn tell_in_time(&self, network: &str, endpoint: &str, container: Container, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        let change = EndpointChange { wait_ms: u64::try_from(left.as_millis()).ok(), ..learnt(container) };
        let told = tokio::time::timeout_at(deadline + TELL_MARGIN, self.agent.change_endpoint(endpoint, &change)).await;
        let why = match told {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(endpoint, why, "the agent could not be told of a container: later");
        self.later(network, endpoint);
    }

    /// Seeks the container of an endpoint until it is found or the endpoint is gone.
    pub(crate) fn later(&self, network: &str, endpoint: &str) {
        lock(&self.pending).insert(endpoint.to_owned(), network.to_owned());
        self.wake.notify_one();
    }

    /// Something happened in Docker: now is a good moment to ask.
    pub(crate) fn ask_again(&self) {
        self.wake.notify_one();
    }

    pub(crate) fn docker_is(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
        if up {
            self.ask_again();
        }
    }

    /// Works on what [`Resolver::later`] was told, until `shutdown`.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.resolve_forever()).await;
    }

    async fn resolve_forever(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let waiting = lock(&self.pending).clone();
            if waiting.is_empty() {
                self.wake.notified().await;
                pause = FIRST_PAUSE;
                continue;
            }
            for (endpoint, network) in &waiting {
                if let Found::Settled = self.resolve(network, endpoint).await {
                    lock(&self.pending).remove(endpoint);
                }
            }
            match tokio::time::timeout(pause, self.wake.notified()).await {
                Ok(()) => pause = FIRST_PAUSE,
                Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    async fn resolve(&self, network: &str, endpoint: &str) -> Found {
        let asked = tokio::time::timeout(LATER_BOUND, self.docker.container_of(network, endpoint)).await;
        let done = match asked {
            Ok(Ok(Some(container))) => self.tell(endpoint, container).await,
            // Docker may not list it yet, or never again.
            Ok(Ok(None)) => self.agent.endpoint(endpoint).await.map(|known| known.is_none()),
            Ok(Err(error)) => {
                tracing::debug!(endpoint, %error, "Docker does not tell the container");
                return Found::NotYet;
            }
            Err(_) => return Found::NotYet,
        };
        match done {
            Ok(true) => Found::Settled,
            Ok(false) => Found::NotYet,
            Err(error) => {
                tracing::warn!(endpoint, %error, "a container was found but not told");
                Found::NotYet
            }
        }
    }

    async fn tell(&self, endpoint: &str, container: Container) -> Result<bool, Refusal> {
        let name = container.name.clone();
        let told = self.agent.change_endpoint(endpoint, &learnt(container)).await?;
        tracing::info!(endpoint, container = name, known = told.is_some(), "container found late");
        Ok(true)
    }

    async fn ask_until_told(&self, network: &str, endpoint: &str, mut listing: Option<Listing>) -> Container {
        loop {
            match self.container_of(network, endpoint, listing.take()).await {
                Ok(Some(container)) => return container,
                Ok(None) => {}
                Err(error) => tracing::debug!(endpoint, %error, "Docker does not tell the container"),
            }
            tokio::time::sleep(JOIN_PAUSE).await;
        }
    }

    /// Docker is asked for the container only if the listing is not there yet or does not have it: the endpoint of a
    /// running container, for one.
    async fn container_of(
        &self,
        network: &str,
        endpoint: &str,
        listing: Option<Listing>,
    ) -> Result<Option<Container>, DockerError> {
        let Some(wanted) = self.docker.container_ref(network, endpoint).await? else { return Ok(None) };
        let listed = match (listing, &wanted) {
            (Some(listing), ContainerRef::Name(name)) if listing.is_finished() => {
                let listed = listing.await.unwrap_or_default();
                listed.into_iter().find(|container| container.name == *name)
            }
            _ => None,
        };
        match listed {
            Some(container) => Ok(Some(container)),
            None => self.docker.container(&wanted).await,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the agent is told of an endpoint's container.
pub(crate) fn learnt(container: Container) -> EndpointChange {
    EndpointChange {
        container_id: Some(container.id),
        container_name: Some(container.name),
        container_labels: Some(container.labels),
        ..EndpointChange::default()
    }
}

#[cfg(test)]
mod tests;

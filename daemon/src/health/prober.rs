//! Probes one node after the other, spread over the interval, and publishes what it finds.

use super::results::{Found, NodeResult, PathResult, Results};
use super::schedule::Schedule;
use super::targets::{self, End, Local, Target};
use super::{Health, Settings, probe};
use crate::node::Node;
use futures::future::join_all;
use jiff::Timestamp;
use model::EndpointId;
use state::{EndpointView, NodeName, Outputs, RemoteNode};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests to probe now that may wait.
const REQUESTS: usize = 16;

pub struct Prober {
    settings: Settings,
    local: Local,
    outputs: watch::Receiver<Arc<Outputs>>,
    requests: mpsc::Receiver<oneshot::Sender<()>>,
    results: watch::Sender<Arc<Results>>,
    schedule: Schedule,
    /// Of which the schedule was made.
    nodes: Option<Arc<BTreeMap<NodeName, RemoteNode>>>,
    /// Among which this node's own is looked for.
    endpoints: Option<Arc<BTreeMap<EndpointId, Arc<EndpointView>>>>,
    /// This node's addresses when it was probed last.
    own: Option<Target>,
    running: JoinSet<Probed>,
    waiting: Vec<Waiting>,
}

/// A node that was probed.
struct Probed {
    name: NodeName,
    begun: Instant,
    result: NodeResult,
}

/// Somebody who waits until all these were probed after he asked.
struct Waiting {
    since: Instant,
    missing: BTreeSet<NodeName>,
    done: oneshot::Sender<()>,
}

impl Prober {
    pub fn new(settings: Settings, node: &Node, outputs: watch::Receiver<Arc<Outputs>>) -> (Prober, Health) {
        let (results, found) = watch::channel(Arc::default());
        let (sender, requests) = mpsc::channel(REQUESTS);
        let own = node.ipv4.map(IpAddr::V4).into_iter().chain(node.ipv6.map(IpAddr::V6));
        let prober = Prober {
            settings,
            local: Local {
                name: NodeName { cluster: node.cluster.clone(), name: node.name.clone() },
                addresses: own.collect(),
            },
            outputs,
            requests,
            results,
            schedule: Schedule::new(settings.interval),
            nodes: None,
            endpoints: None,
            own: None,
            running: JoinSet::new(),
            waiting: Vec::new(),
        };
        (prober, Health { results: found, requests: sender })
    }

    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.follow();
            self.begin_due();
            let next = self.schedule.next();
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.outputs.changed() => if changed.is_err() { return },
                Some(done) = self.requests.recv() => self.ask(done),
                Some(probed) = self.running.join_next(), if !self.running.is_empty() => match probed {
                    Ok(probed) => self.take(probed),
                    Err(error) => tracing::error!(%error, "a probe did not end properly"),
                },
                () = until(next), if next.is_some() => {}
            }
        }
    }

    /// Takes note of the nodes that there are.
    fn follow(&mut self) {
        let outputs = Arc::clone(&self.outputs.borrow_and_update());
        self.follow_own(&outputs);
        let nodes = &outputs.view.nodes;
        if self.nodes.as_ref().is_some_and(|known| Arc::ptr_eq(known, nodes)) {
            return;
        }
        let now = Instant::now();
        let before = self.nodes.replace(Arc::clone(nodes));
        self.schedule.set_nodes(targets::names(&self.local, &outputs.view), now);
        for (name, node) in before.iter().flat_map(|before| before.iter()) {
            if nodes.get(name).is_some_and(|news| news != node) {
                self.schedule.now(name, now);
            }
        }
        let names: BTreeSet<&NodeName> = targets::names(&self.local, &outputs.view).collect();
        let interval = self.schedule.interval();
        self.results.send_modify(|results| {
            let results = Arc::make_mut(results);
            results.interval = interval;
            results.nodes.retain(|name, _| names.contains(name));
            for name in &names {
                if !results.nodes.contains_key(*name)
                    && let Some(target) = targets::target(&self.local, name, &outputs.view)
                {
                    results.nodes.insert((*name).clone(), Arc::new(NodeResult::of(&target)));
                }
            }
        });
        for waiting in &mut self.waiting {
            waiting.missing.retain(|name| names.contains(name));
        }
        self.answer();
    }

    /// Takes note of this node's own endpoint.
    fn follow_own(&mut self, outputs: &Outputs) {
        let endpoints = &outputs.view.endpoints;
        if self.endpoints.as_ref().is_some_and(|known| Arc::ptr_eq(known, endpoints)) {
            return;
        }
        self.endpoints = Some(Arc::clone(endpoints));
        let own = targets::target(&self.local, &self.local.name, &outputs.view);
        if self.own != own {
            self.own = own;
            self.schedule.now(&self.local.name, Instant::now());
        }
    }

    fn begin_due(&mut self) {
        let now = Instant::now();
        while let Some(name) = self.schedule.take(now) {
            let outputs = Arc::clone(&self.outputs.borrow());
            let Some(target) = targets::target(&self.local, &name, &outputs.view) else {
                self.schedule.done(&name, true, now);
                continue;
            };
            let believed = |(end, address): &(End, IpAddr)| {
                targets::is_believed(&self.local, &target.name, *end, *address, &outputs.view)
            };
            let believed = target.addresses.iter().map(believed).collect();
            self.running.spawn(probe_node(target, believed, self.settings.port, now));
        }
    }

    fn ask(&mut self, done: oneshot::Sender<()>) {
        let now = Instant::now();
        self.schedule.all_now(now);
        let outputs = Arc::clone(&self.outputs.borrow());
        let missing = targets::names(&self.local, &outputs.view).cloned().collect();
        self.waiting.push(Waiting { since: now, missing, done });
    }

    fn take(&mut self, probed: Probed) {
        let Probed { name, begun, result } = probed;
        self.schedule.done(&name, result.is_well(), Instant::now());
        self.results.send_if_modified(|results| {
            // One that went meanwhile is not told of any more.
            let Some(before) = results.nodes.get(&name).cloned() else { return false };
            tell(&name, &before, &result);
            Arc::make_mut(results).nodes.insert(name.clone(), Arc::new(result.after(&before)));
            true
        });
        for waiting in self.waiting.iter_mut().filter(|waiting| begun >= waiting.since) {
            waiting.missing.remove(&name);
        }
        self.answer();
    }

    /// Answers those who need not wait any longer.
    fn answer(&mut self) {
        let (done, missing) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.missing.is_empty());
        self.waiting = missing;
        let done: Vec<Waiting> = done;
        for waiting in done {
            // Whoever has gone meanwhile wants no answer.
            let _ = waiting.done.send(());
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Asks all of a node's addresses at the same time.
async fn probe_node(target: Target, believed: Vec<bool>, port: u16, begun: Instant) -> Probed {
    let paths = target.addresses.into_iter().zip(believed).map(|((end, address), believed)| async move {
        if !believed {
            let found = Found::not_believed(Timestamp::now());
            return PathResult { end, address, icmp: found.clone(), http: found };
        }
        let at = Timestamp::now();
        let (icmp, http) = tokio::join!(probe::icmp(address), probe::http(SocketAddr::new(address, port)));
        PathResult { end, address, icmp: Found::of(icmp, at), http: Found::of(http, at) }
    });
    Probed { name: target.name, begun, result: NodeResult { paths: join_all(paths).await } }
}

/// One line in the log where a node's answer changed.
fn tell(name: &NodeName, before: &NodeResult, now: &NodeResult) {
    let failure = |result: &NodeResult| {
        let failing = |path: &PathResult| {
            let failure = path.icmp.failure.clone().or_else(|| path.http.failure.clone())?;
            Some((path.address, failure))
        };
        result.paths.iter().find_map(failing)
    };
    match (failure(before), failure(now)) {
        (None, Some((address, failure))) => {
            tracing::warn!(node = name.name, cluster = name.cluster, %address, failure, "the node does not answer to probes");
        }
        (Some(_), None) => tracing::info!(node = name.name, cluster = name.cluster, "the node answers to probes again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests;

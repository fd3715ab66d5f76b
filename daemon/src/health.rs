//! Whether the nodes of the cluster reach each other: this node answers to the others' probes, and probes them.
//!
//! Every node is asked by ICMP echo and by HTTP (`GET /hello` on one port), at its own addresses and at those of its
//! health endpoint, in both families. What is found is only told: nothing else in the agent depends on it.

pub mod endpoint;
mod probe;
mod prober;
mod responder;
mod results;
mod schedule;
mod targets;

pub use prober::Prober;
pub use responder::Responder;
pub use results::Results;

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Where a responder answers.
const HELLO: &str = "/hello";

/// How a node probes and answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// TCP port of all responders.
    pub port: u16,
    /// Time between two probes of a node, in a cluster of two; it grows with the logarithm of their number.
    pub interval: Duration,
}

/// What of the prober the API holds.
#[derive(Clone, Debug)]
pub struct Health {
    pub results: watch::Receiver<Arc<Results>>,
    requests: mpsc::Sender<oneshot::Sender<()>>,
}

/// How long a request to probe everybody now waits for the last of them.
const PROBE_NOW_LIMIT: Duration = Duration::from_secs(20);

impl Health {
    /// Has every node probed now, and waits until that is done or takes too long; results come as usual.
    pub async fn probe_now(&self) {
        let (done, waiting) = oneshot::channel();
        if self.requests.send(done).await.is_ok() {
            // Too late or never: what was found by then is told.
            let _ = tokio::time::timeout(PROBE_NOW_LIMIT, waiting).await;
        }
    }
}

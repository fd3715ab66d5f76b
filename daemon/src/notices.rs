//! What the agent did, told to whoever watches: one notice for each line that an endpoint's story gains.
//!
//! Reads successive snapshots; it decides nothing. It also counts how regenerations end, for the metrics.

use model::{EndpointId, EndpointState};
use state::{EndpointView, LogEntry, Outputs};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// How often endpoints became ready, and how often the kernel could not be made to hold one.
#[derive(Debug, Default)]
pub struct Regenerations {
    pub succeeded: AtomicU64,
    pub failed: AtomicU64,
}

pub struct Notices {
    pub outputs: watch::Receiver<Arc<Outputs>>,
    pub sender: broadcast::Sender<api::monitor::Record>,
    pub regenerations: Arc<Regenerations>,
}

type Endpoints = BTreeMap<EndpointId, Arc<EndpointView>>;

impl Notices {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut before = Arc::clone(&self.outputs.borrow_and_update().view.endpoints);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.outputs.changed() => if changed.is_err() { return },
            }
            let after = Arc::clone(&self.outputs.borrow_and_update().view.endpoints);
            if !Arc::ptr_eq(&before, &after) {
                self.compare(&before, &after);
                before = after;
            }
        }
    }

    fn compare(&self, before: &Endpoints, after: &Endpoints) {
        for (id, endpoint) in after {
            let known = before.get(id);
            if known.is_some_and(|known| Arc::ptr_eq(known, endpoint)) {
                continue;
            }
            for entry in news(known.map_or(&[], |known| &known.log), &endpoint.log) {
                self.count(entry);
                self.tell(endpoint, entry.message.clone());
            }
        }
        for (id, endpoint) in before {
            if !after.contains_key(id) {
                self.tell(endpoint, "Endpoint deleted".to_owned());
            }
        }
    }

    fn count(&self, entry: &LogEntry) {
        if entry.failed {
            self.regenerations.failed.fetch_add(1, Ordering::Relaxed);
        } else if entry.state == EndpointState::Ready {
            self.regenerations.succeeded.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tell(&self, endpoint: &EndpointView, message: String) {
        let name = endpoint.container_name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
        let record = api::monitor::Record::Agent { message, subject: format!("endpoint {}{name}", endpoint.id) };
        // Nobody listening is no failure.
        let _ = self.sender.send(record);
    }
}

/// The lines of `after` that come after the last one of `before`.
fn news<'a>(before: &[LogEntry], after: &'a [LogEntry]) -> &'a [LogEntry] {
    match before.last().and_then(|last| after.iter().rposition(|entry| entry == last)) {
        Some(position) => &after[position + 1..],
        None => after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::Timestamp;

    fn entry(at: u64) -> LogEntry {
        LogEntry { at: Timestamp(at), state: EndpointState::Ready, failed: false, message: at.to_string() }
    }

    #[test]
    fn only_new_lines_are_news() {
        let (a, b, c) = (entry(1), entry(2), entry(3));
        assert_eq!(news(&[], &[a.clone(), b.clone()]), [a.clone(), b.clone()]);
        assert_eq!(news(&[a.clone(), b.clone()], &[b.clone(), c.clone()]), std::slice::from_ref(&c));
        assert!(news(&[a.clone(), b.clone()], &[a.clone(), b.clone()]).is_empty());
        assert_eq!(news(&[a.clone(), a], &[b.clone(), c.clone()]), [b, c]);
    }
}

//! How far this node is with the policy, told to the cluster under its lease, and how far all nodes are, read back.
//!
//! ```text
//! cilium/state/policystatus/v1/<node>   {"revision": 7, "enforced": 6, "endpoints": 3, "failing": ["endpoint 2: ..."]}
//! ```

use crate::controllers::causes;
use api::policy::{NodeEnforcement, PolicyStatus};
use kvstore::session::Session;
use kvstore::{Backend, keys};
use model::Identity;
use serde::{Deserialize, Serialize};
use state::{Outputs, View};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The least time between two writes: while containers come and go the newest state is told, and not each.
const PAUSE: Duration = Duration::from_secs(1);
/// Most endpoints that are named.
const NAMED: usize = 16;

/// What a node tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Of the rules that it knows.
    revision: u64,
    /// What every endpoint enforces, or more.
    enforced: u64,
    endpoints: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    failing: Vec<String>,
}

impl Record {
    fn of(view: &View) -> Record {
        let revision = view.policy.revision;
        // The node's own endpoint for probes is no container.
        let containers = || view.endpoints.values().filter(|endpoint| endpoint.identity != Identity::HEALTH);
        let behind = containers().filter_map(|endpoint| {
            let reason = endpoint.failure.as_ref()?;
            Some(format!("endpoint {}: {reason}", endpoint.id))
        });
        Record {
            revision,
            enforced: containers().map(|endpoint| endpoint.policy_revision).min().unwrap_or(revision),
            endpoints: containers().count(),
            failing: view.policy.fault.iter().cloned().chain(behind).take(NAMED).collect(),
        }
    }
}

/// The task that tells.
pub struct Teller {
    pub session: Session,
    pub outputs: watch::Receiver<Arc<Outputs>>,
    pub node: String,
}

impl Teller {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let key = keys::policy_status(&self.node);
        let mut told = None;
        loop {
            let record = Record::of(&self.outputs.borrow_and_update().view);
            // Before the policy is known there is nothing to tell.
            if record.revision != 0 && told.as_ref() != Some(&record) {
                match serde_json::to_vec(&record).map(|value| self.session.publish_later(&key, value)) {
                    Ok(Ok(())) => told = Some(record),
                    Ok(Err(error)) => tracing::warn!(key, error = causes(&error), "the policy's state cannot be told"),
                    Err(error) => tracing::warn!(key, error = causes(&error), "the policy's state is no JSON"),
                }
            }
            let news = async {
                tokio::time::sleep(PAUSE).await;
                self.outputs.changed().await
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = news => if changed.is_err() { return },
            }
        }
    }
}

/// How far each node of the cluster is with `newest`, the revision that the store holds. Nodes that are known and tell
/// nothing are listed as such.
pub async fn gather(
    backend: &dyn Backend,
    view: &View,
    cluster: &str,
    newest: u64,
) -> Result<PolicyStatus, kvstore::Error> {
    let listing = backend.list(keys::POLICY_STATUS).await?;
    let known = view.nodes.keys().filter(|name| name.cluster == cluster).map(|name| (name.name.clone(), None));
    let mut records: BTreeMap<String, Option<Record>> = known.collect();
    for entry in listing.entries {
        let Some(node) = keys::parse_policy_status(&entry.key) else { continue };
        records.insert(node, serde_json::from_slice(&entry.value).ok());
    }
    Ok(PolicyStatus { revision: newest, nodes: records.into_iter().map(|(node, record)| row(node, record)).collect() })
}

fn row(node: String, record: Option<Record>) -> NodeEnforcement {
    let Some(Record { revision, enforced, endpoints, failing }) = record else {
        return NodeEnforcement { node, known: None, enforced: None, endpoints: 0, failing: Vec::new() };
    };
    NodeEnforcement { node, known: Some(revision), enforced: Some(enforced), endpoints, failing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Brain;
    use kvstore::{memory, session};
    use state::Input;

    #[tokio::test(start_paused = true)]
    async fn each_node_tells_and_all_are_listed() {
        let brain = Brain::begin().await;
        let backend = memory::open().0;
        let session = Session::start(Arc::clone(&backend), session::Options::default());
        let teller = Teller { session, outputs: brain.outputs.clone(), node: "n1".to_owned() };
        tokio::spawn(teller.run(brain.shutdown.clone()));
        brain.inputs.submit(Input::PolicyListed { revision: 7, rules: "[]".into() }).await.unwrap();
        let late = br#"{"revision": 6, "enforced": 5, "endpoints": 2, "failing": ["endpoint 2: no room"]}"#;
        backend.put(&keys::policy_status("n2"), late.to_vec(), None).await.unwrap();
        backend.put(&keys::policy_status("n3"), b"garbage".to_vec(), None).await.unwrap();
        let key = keys::policy_status("n1");
        while backend.get(&key).await.unwrap().is_none() {
            tokio::time::sleep(PAUSE).await;
        }
        let view = Arc::clone(&brain.outputs.borrow().view);
        let status = gather(backend.as_ref(), &view, "default", 7).await.unwrap();
        let row = |node: &str, known, enforced, endpoints, failing: &[&str]| NodeEnforcement {
            node: node.to_owned(),
            known,
            enforced,
            endpoints,
            failing: failing.iter().map(|text| (*text).to_owned()).collect(),
        };
        let wanted = [
            row("n1", Some(7), Some(7), 0, &[]),
            row("n2", Some(6), Some(5), 2, &["endpoint 2: no room"]),
            row("n3", None, None, 0, &[]),
        ];
        assert_eq!((status.revision, status.nodes.as_slice()), (7, wanted.as_slice()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_as_far_as_the_last_of_its_endpoints() {
        let brain = Brain::begin().await;
        brain.endpoint("e1", "10.15.0.5", ("id", "a")).await;
        brain.inputs.submit(Input::PolicyListed { revision: 7, rules: "[]".into() }).await.unwrap();
        let record = Record::of(&brain.outputs.borrow().view);
        assert_eq!((record.revision, record.enforced, record.endpoints), (7, 0, 1));
    }
}

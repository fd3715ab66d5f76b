//! How it goes with other clusters: noted by who follows them, read by whoever asks for the status.

use api::status::{ClusterMesh, MeshState, RemoteCluster};
use model::ClusterName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Report(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    folder: Option<String>,
    clusters: BTreeMap<String, Cluster>,
}

/// What is known of one cluster.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    /// Why its file is not used.
    fault: Option<String>,
    pub(super) id: Option<u8>,
    pub(super) state: Standing,
    pub(super) counts: Counts,
    failures: u64,
    last_failure: Option<(Instant, String)>,
    /// Whether all is known of it that is to be waited for.
    pub(super) has_spoken: bool,
}

#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(super) enum Standing {
    #[default]
    Connecting,
    Ready,
    Failing(String),
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub(super) struct Counts {
    pub(super) nodes: usize,
    pub(super) addresses: usize,
    pub(super) identities: usize,
}

/// The part of the report that is about one cluster.
#[derive(Clone, Debug)]
pub(super) struct OfCluster {
    report: Report,
    cluster: ClusterName,
}

impl OfCluster {
    pub(super) fn note(&self, change: impl FnOnce(&mut Cluster)) {
        change(self.report.known().clusters.entry(self.cluster.to_string()).or_default());
    }

    /// Counted when it is news.
    pub(super) fn stands(&self, standing: Standing) {
        self.note(|cluster| {
            if cluster.state == standing {
                return;
            }
            if let Standing::Failing(reason) = &standing {
                tracing::warn!(cluster = %self.cluster, reason, "another cluster is not followed: what is known of it stays");
                cluster.failures += 1;
                cluster.last_failure = Some((Instant::now(), reason.clone()));
            }
            cluster.state = standing;
        });
    }
}

impl Report {
    pub(super) fn of(&self, cluster: ClusterName) -> OfCluster {
        OfCluster { report: self.clone(), cluster }
    }

    /// Why the folder cannot be read, if it cannot.
    pub(super) fn folder(&self, fault: Option<String>) {
        let mut known = self.known();
        if fault.is_some() && known.folder != fault {
            tracing::warn!(fault, "the folder of other clusters cannot be read: what was in it stays");
        }
        known.folder = fault;
    }

    /// Why a file cannot be used, if it cannot.
    pub(super) fn fault(&self, name: &str, fault: Option<String>) {
        let mut known = self.known();
        if fault.is_none() && !known.clusters.contains_key(name) {
            return;
        }
        let cluster = known.clusters.entry(name.to_owned()).or_default();
        if fault.is_some() && cluster.fault != fault {
            tracing::warn!(name, fault, "the file of another cluster cannot be used");
            cluster.failures += 1;
            cluster.last_failure = fault.clone().map(|reason| (Instant::now(), reason));
        }
        cluster.fault = fault;
    }

    pub(super) fn keep_files(&self, is_there: impl Fn(&str) -> bool) {
        self.known().clusters.retain(|name, _| is_there(name));
    }

    pub(super) fn forget(&self, cluster: ClusterName) {
        self.known().clusters.remove(cluster.as_str());
    }

    /// Whether no cluster is to be waited for; one whose file cannot be used is not.
    pub(super) fn all_have_spoken(&self) -> bool {
        self.known().clusters.values().all(|cluster| cluster.has_spoken || cluster.fault.is_some())
    }

    pub fn report(&self) -> ClusterMesh {
        let known = self.known();
        let clusters = known.clusters.iter().map(|(name, cluster)| {
            let (state, reason) = match (&cluster.fault, &cluster.state) {
                (Some(fault), _) => (MeshState::Failing, Some(format!("its file cannot be used: {fault}"))),
                (None, Standing::Ready) => (MeshState::Ready, None),
                (None, Standing::Connecting) => (MeshState::Connecting, None),
                (None, Standing::Failing(reason)) => (MeshState::Failing, Some(reason.clone())),
            };
            RemoteCluster {
                name: name.clone(),
                id: cluster.id,
                state,
                reason,
                nodes: cluster.counts.nodes,
                endpoints: cluster.counts.addresses,
                identities: cluster.counts.identities,
                failures: cluster.failures,
                last_failure: cluster.last_failure.as_ref().map(|(at, _)| at.elapsed().as_secs()),
                last_failure_msg: cluster.last_failure.as_ref().map(|(_, reason)| reason.clone()),
            }
        });
        ClusterMesh { fault: known.folder.clone(), clusters: clusters.collect() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A few values, whole at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Other clusters: which there are is told by a folder with a file for each, how to reach its etcd. The files are looked at
//! again and again, so that one that is added, changed or removed takes effect while the agent runs.
//!
//! A file that cannot be used is refused whole and changes nothing: what it said before goes on. What is known of a
//! cluster stays for as long as its file does, whether its kvstore answers or not. Nothing is ever written there.

pub mod claim;
mod folder;
mod remote;
mod report;

use crate::memory::{Memory, RememberedCluster};
use crate::writer::Inputs;
use folder::File;
use kvstore::EtcdConfig;
use model::ClusterName;
use remote::Remote;
pub use report::Report;
use state::{Input, Source};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How many looks in a row must miss a file before it counts as removed: editors take it away for a moment.
const MISSES: u32 = 3;
/// How long clusters are waited for after the start before what the kernel has of them may go: less than anybody would
/// wait who wants this cluster's own things cleared away.
const START_PATIENCE: Duration = Duration::from_secs(60);

pub struct Mesh {
    pub folder: PathBuf,
    /// This cluster's own name: a file of that name is meant for others who share the folder.
    pub own: ClusterName,
    pub inputs: Inputs,
    /// How long what a node told is believed after its records went.
    pub grace: Duration,
    pub memory: Memory,
    /// What the last run knew.
    pub remembered: BTreeMap<ClusterName, RememberedCluster>,
    pub report: Report,
}

/// A cluster that is followed.
struct Followed {
    text: String,
    stop: CancellationToken,
    task: JoinHandle<Remote>,
    /// Looks that missed its file.
    missed: u32,
}

impl Mesh {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let began = Instant::now();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut followed: BTreeMap<ClusterName, Followed> = BTreeMap::new();
        let mut waiting = true;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = looks.tick() => {}
            }
            let folder = self.folder.clone();
            let own = self.own;
            let looked = tokio::task::spawn_blocking(move || folder::read(&folder, own)).await;
            match looked {
                Ok(Ok(files)) => self.compare(files, &mut followed).await,
                Ok(Err(error)) => self.report.folder(Some(error)),
                // The runtime ends.
                Err(_) => break,
            }
            if waiting && (self.report.all_have_spoken() || began.elapsed() >= START_PATIENCE) {
                waiting = false;
                self.inputs.tell(Input::Synced(Source::Mesh)).await;
            }
        }
        for (_, followed) in followed {
            followed.stop.cancel();
            // It ends at its next step; there is nothing to do for it any more.
            drop(followed.task.await);
        }
    }

    async fn compare(&mut self, files: BTreeMap<String, File>, followed: &mut BTreeMap<ClusterName, Followed>) {
        self.report.folder(None);
        self.report.keep_files(|name| {
            files.contains_key(name) || ClusterName::new(name).is_ok_and(|n| followed.contains_key(&n))
        });
        for (name, file) in &files {
            let cluster = ClusterName::new(name).map_err(|error| error.to_string());
            let text = cluster.and_then(|cluster| file.clone().map(|text| (cluster, text)));
            match text {
                Ok((cluster, text)) => self.follow(cluster, text, followed).await,
                Err(reason) => self.refuse(name, reason, followed).await,
            }
        }
        let mut gone = Vec::new();
        for (cluster, followed) in followed.iter_mut() {
            let there = files.contains_key(cluster.as_str());
            followed.missed = if there { 0 } else { followed.missed + 1 };
            if followed.missed >= MISSES {
                gone.push(*cluster);
            }
        }
        for cluster in gone {
            if let Some(followed) = followed.remove(&cluster) {
                tracing::info!(%cluster, "the file of the cluster is gone: it is one of the mesh no more");
                followed.stop.cancel();
                if let Ok(mut remote) = followed.task.await {
                    remote.leave().await;
                }
                self.report.forget(cluster);
            }
        }
        // Of clusters whose files were removed while no agent looked.
        for (cluster, remembered) in std::mem::take(&mut self.remembered) {
            let mut remote = self.remote(cluster);
            remote.recall(remembered).await;
            remote.leave().await;
            self.report.forget(cluster);
        }
    }

    fn remote(&self, cluster: ClusterName) -> Remote {
        Remote::new(cluster, self.inputs.clone(), self.memory.of_cluster(cluster), self.report.of(cluster), self.grace)
    }

    /// Notes that a file cannot be used. What the last run knew of its cluster stays for as long as it is there.
    async fn refuse(&mut self, name: &str, reason: String, all: &mut BTreeMap<ClusterName, Followed>) {
        self.report.fault(name, Some(reason));
        let Ok(cluster) = ClusterName::new(name) else { return };
        if let Some(remembered) = self.remembered.remove(&cluster) {
            let mut remote = self.remote(cluster);
            remote.recall(remembered).await;
            let stop = CancellationToken::new();
            let stopped = stop.clone();
            let task = tokio::spawn(async move {
                stopped.cancelled().await;
                remote
            });
            all.insert(cluster, Followed { text: String::new(), stop, task, missed: 0 });
        }
    }

    /// Follows a cluster as its file says from now on.
    async fn follow(&mut self, cluster: ClusterName, text: String, all: &mut BTreeMap<ClusterName, Followed>) {
        if all.get(&cluster).is_some_and(|followed| followed.text == text) {
            return self.report.fault(cluster.as_str(), None);
        }
        let config = EtcdConfig::of_client_file(&text).map_err(|error| error.to_string());
        let opened = match config {
            Ok(config) => {
                let opened = kvstore::connect(kvstore::Config::Etcd(config)).await;
                opened.map_err(|error| crate::controllers::causes(&error))
            }
            Err(error) => Err(error),
        };
        let backend = match opened {
            Ok(connection) => connection.backend,
            Err(reason) => return self.refuse(cluster.as_str(), reason, all).await,
        };
        self.report.fault(cluster.as_str(), None);
        let mut remote = match all.remove(&cluster) {
            Some(before) => {
                before.stop.cancel();
                match before.task.await {
                    Ok(remote) => remote,
                    // It panicked or the runtime ends: begin anew with what the state has.
                    Err(_) => self.remote(cluster),
                }
            }
            None => self.remote(cluster),
        };
        if let Some(remembered) = self.remembered.remove(&cluster) {
            remote.recall(remembered).await;
        }
        tracing::info!(%cluster, "following another cluster");
        let stop = CancellationToken::new();
        let task = tokio::spawn(remote.follow(Arc::clone(&backend), stop.clone()));
        all.insert(cluster, Followed { text, stop, task, missed: 0 });
    }
}

#[cfg(test)]
mod tests;

//! What the running agent's parts share: the way into the state, the snapshots, and how far the disk and the kernel are.
//!
//! Holds handles only. The API's handlers are written against it; what waits, waits here, and never without a limit.

use crate::config::Config;
use crate::controllers::Controllers;
use crate::health::Health;
use crate::kernel::Kernel;
use crate::policy_store::PolicyStore;
use crate::store::StoreStatus;
use crate::writer::{Accepted, Counters, Inputs, SubmitError};
use kvstore::Backend;
use model::desired::Status;
use state::{Input, Outputs};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

/// The longest that a call which Docker waits for may wait for disk and kernel together: Docker is to have its answer
/// within 2 s.
pub const PLUGIN_LIMIT: Duration = Duration::from_millis(1500);

pub struct Agent {
    pub config: Config,
    pub started: std::time::Instant,
    pub inputs: Inputs,
    pub counters: Arc<Counters>,
    pub outputs: watch::Receiver<Arc<Outputs>>,
    pub stored: watch::Receiver<StoreStatus>,
    /// `None` until the datapath has started.
    pub kernel: watch::Receiver<Option<Kernel>>,
    /// `None`: other nodes are not probed.
    pub health: Option<Health>,
    pub kvstore: Arc<dyn Backend>,
    /// This node's parts of subnets that it shares with others.
    pub blocks: crate::blocks::Blocks,
    pub contact: crate::contact::Contact,
    /// How it goes with other clusters; `None`: this one is in no mesh.
    pub mesh: Option<crate::mesh::Report>,
    pub kvstore_counters: crate::metered::Counters,
    pub policy: PolicyStore,
    pub services: crate::services::store::ServiceStore,
    pub plugin_calls: Arc<docker_plugin::CallStats>,
    pub controllers: Controllers,
    /// What the agent did: for `cilium monitor`.
    pub notices: broadcast::Sender<api::monitor::Record>,
    pub regenerations: Arc<crate::notices::Regenerations>,
    /// Things that were wrong at start and that an operator should look at.
    pub warnings: Vec<String>,
    /// This node's own address, as the rest of the cluster sees it, and its pools.
    pub node: crate::node::Node,
}

/// Why something is not on disk or not in the kernel yet.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    #[error("it could not be written to disk: {0}")]
    Disk(String),
    #[error("the disk did not answer within {0:?}")]
    DiskSlow(Duration),
    #[error("the kernel's part is not done after {limit:?}: {reason}")]
    KernelSlow { limit: Duration, reason: &'static str },
    #[error("the agent is stopping")]
    Stopping,
}

impl Agent {
    pub fn snapshot(&self) -> Arc<Outputs> {
        Arc::clone(&self.outputs.borrow())
    }

    /// Submits and waits until the records that follow are on disk.
    pub async fn submit_durably(&self, input: Input, limit: Duration) -> Result<Accepted, DurableError> {
        let accepted = self.inputs.submit(input).await?;
        match self.on_disk(accepted.outputs.records_revision, limit).await {
            Ok(()) => Ok(accepted),
            Err(error) => Err(DurableError::NotDurable { accepted: Box::new(accepted), source: error }),
        }
    }

    /// Waits until the local store has the records of `revision`, or has failed on them.
    pub async fn on_disk(&self, revision: u64, limit: Duration) -> Result<(), WaitError> {
        let mut stored = self.stored.clone();
        let reached = stored.wait_for(|status| status.realised >= revision || status.attempted >= revision);
        let status = match tokio::time::timeout(limit, reached).await {
            Err(_) => return Err(WaitError::DiskSlow(limit)),
            Ok(Err(_)) => return Err(WaitError::Stopping),
            Ok(Ok(status)) => status.clone(),
        };
        if status.realised >= revision {
            return Ok(());
        }
        Err(WaitError::Disk(status.failure.unwrap_or_else(|| "no reason is known".to_owned())))
    }

    /// Waits until the kernel has been brought to `revision`, each of its objects being there or failing.
    ///
    /// `None` stands for a snapshot that may not be published yet; the next one that may is then waited for.
    pub async fn in_kernel(&self, revision: Option<u64>, limit: Duration) -> Result<Arc<Status>, WaitError> {
        let deadline = Instant::now() + limit;
        let slow = |reason| WaitError::KernelSlow { limit, reason };
        let revision = match revision {
            Some(revision) => revision,
            None => {
                let mut outputs = self.outputs.clone();
                let published = outputs.wait_for(|outputs| outputs.datapath.is_some());
                let found = tokio::time::timeout_at(deadline, published).await;
                let found = found.map_err(|_| slow("the policy is not known yet"))?;
                found.map_err(|_| WaitError::Stopping)?.datapath_revision().unwrap_or_default()
            }
        };
        let mut status = self.kernel_status(deadline, limit).await?;
        let reached = tokio::time::timeout_at(deadline, status.wait_for(|status| status.realised >= revision)).await;
        let reached = reached.map_err(|_| slow("it is busy with this or earlier changes"))?;
        let status = reached.map_err(|_| WaitError::Stopping)?;
        Ok(Arc::clone(&status))
    }

    async fn kernel_status(
        &self,
        deadline: Instant,
        limit: Duration,
    ) -> Result<watch::Receiver<Arc<Status>>, WaitError> {
        let mut kernel = self.kernel.clone();
        let started = tokio::time::timeout_at(deadline, kernel.wait_for(Option::is_some)).await;
        let started = started
            .map_err(|_| WaitError::KernelSlow { limit, reason: "the datapath is still being started" })?
            .map_err(|_| WaitError::Stopping)?;
        started.as_ref().map(|kernel| kernel.status.clone()).ok_or(WaitError::Stopping)
    }
}

/// Why a change is not safely taken in.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// It was taken in and is not on disk; the caller decides whether to take it back.
    #[error("the change was not kept")]
    NotDurable { accepted: Box<Accepted>, source: WaitError },
}

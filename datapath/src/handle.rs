//! Starting the datapath, and what its owner holds of it afterwards.

use crate::events::Reader;
use crate::firewall::Rules;
use crate::gc::Collector;
use crate::kernel::Linux;
use crate::maps::runtime;
use crate::maps::{MapError, Maps};
use crate::netlink::NetlinkError;
use crate::plan::Settings;
use crate::programs::{self, LoadError};
use crate::reconcile::Reconciler;
use crate::tables::Tables;
use crate::worker::{self, Inputs};
use crate::{Config, Tunnel, clock, features};
use model::desired::{Datapath, Status};
use model::event::Event;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::sync::{broadcast, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Events that a slow listener may be behind before it misses some.
const EVENTS: usize = 8192;

/// Why the datapath could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("load the packet programs")]
    Load { source: LoadError },
    #[error("set how much the packet programs tell")]
    Monitor { source: MapError },
    #[error("read the events' ring buffer")]
    Events { source: aya::maps::MapError },
    #[error("speak to the kernel's network")]
    Netlink { source: NetlinkError },
    #[error("start a thread of the datapath")]
    Thread { source: io::Error },
    #[error("the datapath's thread ended while it started")]
    Ended,
}

/// A running datapath. It stops when the token given to `start` is cancelled, or when this is dropped; what it put into
/// the kernel stays and goes on working.
#[derive(Debug)]
pub struct Handle {
    /// What came of the newest snapshot.
    pub status: watch::Receiver<Arc<Status>>,
    /// What the packet programs tell, to each subscriber. Who is too slow is told how many it missed.
    pub events: broadcast::Sender<Arc<Event>>,
    pub tables: Tables,
    /// The way to other nodes, with nothing left to be found out.
    pub tunnel: Tunnel,
    shutdown: CancellationToken,
    stop: Arc<AtomicBool>,
    worker: Option<JoinHandle<io::Result<()>>>,
    helpers: Vec<JoinHandle<()>>,
}

/// Loads the programs, takes over what a former agent left, and begins to follow `desired`.
///
/// The datapath works in the network and mount namespace of the calling thread. Nothing of a former agent is taken down
/// before a snapshot contradicts it or says that it is settled.
pub async fn start(
    config: Config,
    desired: watch::Receiver<Arc<Datapath>>,
    shutdown: CancellationToken,
) -> Result<Handle, StartError> {
    let (ready, started) = oneshot::channel();
    let (status, statuses) = watch::channel(Arc::new(Status::default()));
    // A child: dropping the handle stops the datapath and nothing else.
    let shutdown = shutdown.child_token();
    let inputs = Inputs { desired, status, shutdown: shutdown.clone(), resync: config.resync };
    // A thread has the namespaces of the one that made it.
    let worker = spawn("datapath", move || {
        let started = prepare(&config);
        match started {
            Ok((reconciler, parts)) => match ready.send(Ok(parts)) {
                Ok(()) => worker::run(reconciler, inputs),
                Err(_) => Ok(()),
            },
            Err(error) => {
                let _ = ready.send(Err(error));
                Ok(())
            }
        }
    })?;
    let parts = started.await.map_err(|_| StartError::Ended)??;
    let stop = Arc::new(AtomicBool::new(false));
    let (events, _) = broadcast::channel(EVENTS);
    let malformed = Arc::new(AtomicU64::new(0));
    let mut handle = Handle {
        status: statuses,
        events: events.clone(),
        tables: Tables::new(parts.maps.clone(), parts.table_clock, parts.timeouts, malformed.clone()),
        tunnel: parts.tunnel,
        shutdown,
        stop: stop.clone(),
        worker: Some(worker),
        helpers: Vec::new(),
    };
    let reader = Reader::open(&parts.maps, events, malformed, stop.clone());
    let reader = reader.map_err(|source| StartError::Events { source })?;
    let collector = Collector::new(parts.maps, parts.collector_clock, parts.timeouts, stop);
    handle.helpers.push(spawn("datapath-events", move || reader.run())?);
    handle.helpers.push(spawn("datapath-flows", move || collector.run())?);
    Ok(handle)
}

/// What the other threads need of what the worker loaded.
struct Parts {
    maps: Arc<Maps>,
    table_clock: std::os::fd::OwnedFd,
    collector_clock: std::os::fd::OwnedFd,
    tunnel: Tunnel,
    timeouts: crate::Timeouts,
}

fn prepare(config: &Config) -> Result<(Reconciler<Linux>, Parts), StartError> {
    let config = &Config { tunnel: features::resolve(config.tunnel), ..config.clone() };
    let (programs, maps) = programs::load(config).map_err(|source| StartError::Load { source })?;
    runtime::set_monitor(&maps, config.monitor_aggregation).map_err(|source| StartError::Monitor { source })?;
    tracing::info!(tick = ?clock::tick(), directory = %maps.directory.display(), "packet programs are loaded");
    let maps = Arc::new(maps);
    let clock = || programs.clock().map_err(|source| StartError::Load { source: LoadError::Clock { source } });
    let (table_clock, collector_clock) = (clock()?, clock()?);
    let parts =
        Parts { maps: maps.clone(), table_clock, collector_clock, tunnel: config.tunnel, timeouts: config.timeouts };
    let kernel = Linux::new(maps, programs, Rules::beside(&config.native));
    let kernel = kernel.map_err(|source| StartError::Netlink { source })?.with_own(config.own.clone());
    let settings =
        Settings { masquerade: config.masquerade, tunnel: config.tunnel, node: config.node, sockets: config.sockets };
    Ok((Reconciler::new(kernel, settings), parts))
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|source| StartError::Thread { source })
}

impl Handle {
    /// Waits until the datapath has stopped; an error says why it stopped by itself.
    pub async fn stopped(mut self) -> io::Result<()> {
        let Some(worker) = self.worker.take() else { return Ok(()) };
        let result = tokio::task::spawn_blocking(move || worker.join()).await.map_err(io::Error::other)?;
        result.unwrap_or_else(|_| Err(io::Error::other("the datapath's thread panicked")))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.stop.store(true, Ordering::Relaxed);
        for helper in &self.helpers {
            helper.thread().unpark();
        }
        // Whoever starts the next datapath must not meet this one at the same maps. Each thread ends within a round.
        for helper in self.helpers.drain(..) {
            let _ = helper.join();
        }
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

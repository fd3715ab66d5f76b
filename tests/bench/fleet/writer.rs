//! Writes the fleet's records, from a thread of its own within the network that etcd is in.

use super::records;
use anyhow::{Context, Result, anyhow};
use kvstore::{Backend, Change, Config, MAX_STEPS, Txn};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Transactions under way at once.
const TOGETHER: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an endpoint that came stays.
const STAY: Duration = Duration::from_secs(1);

/// What the fleet tells of what it writes.
pub(super) enum Written {
    /// The writing of this address begins.
    Begun(IpAddr, Instant),
    /// The store has answered for one, after so long.
    Answered(Duration),
}

enum Task {
    Fill(mpsc::Sender<Result<()>>),
    Change { pace: u32, length: Duration, written: mpsc::Sender<Written> },
}

pub(super) struct Writer {
    tasks: mpsc::Sender<Task>,
}

impl Writer {
    /// Begins in the network namespace of a process.
    pub(super) fn start(process: i32) -> Result<Writer> {
        let (tasks, receiver) = mpsc::channel();
        let namespace = File::open(format!("/proc/{process}/ns/net"))?;
        std::thread::Builder::new().name("fleet".to_owned()).spawn(move || {
            if let Err(error) = work(&namespace, &receiver) {
                eprintln!("the fleet cannot write: {error:#}");
            }
        })?;
        Ok(Writer { tasks })
    }

    /// Writes everything.
    pub(super) fn fill(&self) -> Result<()> {
        let (sender, done) = mpsc::channel();
        self.tasks.send(Task::Fill(sender)).map_err(|_| anyhow!("the fleet's thread ended"))?;
        done.recv().context("the fleet's thread ended")?
    }

    /// Has endpoints come, and go a second later, so many changes a second together; tells those that come.
    pub(super) fn change(&self, pace: u32, length: Duration) -> Result<mpsc::Receiver<Written>> {
        let (written, receiver) = mpsc::channel();
        let task = Task::Change { pace, length, written };
        self.tasks.send(task).map_err(|_| anyhow!("the fleet's thread ended"))?;
        Ok(receiver)
    }
}

fn work(namespace: &File, tasks: &mpsc::Receiver<Task>) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the network")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let options = [format!("etcd.address={}", lab::ENDPOINTS)];
    let config = Config::parse("etcd", &options, Path::new("/nonexistent"))?;
    let store = runtime.block_on(kvstore::connect(config))?.backend;
    while let Ok(task) = tasks.recv() {
        match task {
            Task::Fill(done) => drop(done.send(runtime.block_on(fill(&store)))),
            Task::Change { pace, length, written } => runtime.block_on(change(&store, pace, length, written))?,
        }
    }
    Ok(())
}

async fn fill(store: &Arc<dyn Backend>) -> Result<()> {
    let mut running = JoinSet::new();
    let mut changes = records::all().peekable();
    while changes.peek().is_some() {
        if running.len() >= TOGETHER {
            running.join_next().await.context("nothing runs")???;
        }
        commit(&mut running, store, changes.by_ref().take(MAX_STEPS).collect());
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

async fn change(store: &Arc<dyn Backend>, pace: u32, length: Duration, written: mpsc::Sender<Written>) -> Result<()> {
    let mut running = JoinSet::new();
    // One that comes and one that goes at each tick.
    let mut tick = tokio::time::interval(Duration::from_secs(2) / pace);
    let staying = (STAY.as_secs_f64() * f64::from(pace) / 2.0) as u32;
    let (start, mut n) = (Instant::now(), 0);
    while start.elapsed() < length {
        tick.tick().await;
        let (address, change) = records::newcomer(n);
        // Whoever listens may have given up.
        let _ = written.send(Written::Begun(address, Instant::now()));
        commit(&mut running, store, vec![change]);
        if let Some(Change::Put { key, .. }) = n.checked_sub(staying).map(|n| records::newcomer(n).1) {
            commit(&mut running, store, vec![Change::Delete { key }]);
        }
        n += 1;
        while let Some(done) = running.try_join_next() {
            let _ = written.send(Written::Answered(done??));
        }
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok(())
}

/// Goes on trying: a store that is slow for once is slow in the figures, and no reason to end.
fn commit(running: &mut JoinSet<Result<Duration, kvstore::Error>>, store: &Arc<dyn Backend>, changes: Vec<Change>) {
    let store = Arc::clone(store);
    running.spawn(async move {
        let (txn, start) = (Txn { conditions: Vec::new(), changes }, Instant::now());
        loop {
            match store.commit(txn.clone()).await {
                Err(error) if start.elapsed() > PATIENCE => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                Ok(_) => return Ok(start.elapsed()),
            }
        }
    });
}

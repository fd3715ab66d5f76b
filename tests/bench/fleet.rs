//! One real agent in a cluster of a thousand nodes with a hundred endpoints each: the others' records are written into a
//! real etcd, and what they cause is looked for in the agent's maps.

mod records;
mod writer;

use crate::Effort;
use crate::table::{Goal, Table, median, percentile};
use anyhow::{Context, Result, bail, ensure};
use datapath::WatchedAddresses;
use lab::{Engine, Etcd, Nodes, World, eventually};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use writer::{Writer, Written};

/// Changes a second while single ones are timed.
const PACE: u32 = 500;
/// How long all that was written may take to arrive.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn measure(table: &mut Table, effort: Effort) -> Result<()> {
    let mut nodes = Nodes::start(&Engine::installed(), 1, &["--tunnel", "vxlan"])?;
    let fleet = Writer::start(nodes.hub.init())?;
    let world = &mut nodes.worlds[0];
    prepare(world)?;
    let watches = watches(&nodes.etcd)?;
    world.agent.stop()?;
    let start = Instant::now();
    fleet.fill()?;
    eprintln!("the fleet's records are written after {:?}", start.elapsed());

    let start = Instant::now();
    world.agent.relaunch()?;
    let maps = maps(world)?;
    let entries = arrived(&maps)?;
    let seconds = start.elapsed().as_secs_f64();
    let what = format!("fleet: agent's start to the last of {entries} map entries");
    table.figure(&what, "s", seconds, Goal::AtMost(10.0));
    world.agent.wait_ready()?;
    table.figure("fleet: agent's resident memory", "MiB", mebibytes(world)?, Goal::AtMost(400.0));

    changes(table, world, &fleet, &maps, effort)?;
    table.figure("fleet: the same after the changes", "MiB", mebibytes(world)?, Goal::AtMost(400.0));
    idle(table, world, effort)?;
    let more = self::watches(&nodes.etcd)? - watches;
    table.figure("fleet: watches at etcd, more than without a fleet", "", more, Goal::AtMost(0.0));
    Ok(())
}

/// Two endpoints and a policy about some of the fleet's.
fn prepare(world: &World) -> Result<()> {
    world.network()?;
    for name in ["aa", "bb"] {
        world.container(name)?;
    }
    world.endpoints_ready(2)?;
    let from = serde_json::json!({"matchLabels": {"team": "t1"}});
    let rules = serde_json::json!([{"endpointSelector": {}, "ingress": [{"fromEndpoints": [from]}]}]);
    world.agent.import(&rules).map(|_| ())
}

/// The agent's maps, once it has made them.
fn maps(world: &World) -> Result<WatchedAddresses> {
    let directory = format!("/proc/{}/root/sys/fs/bpf/cilium", world.machine.init());
    eventually(PATIENCE, "the agent's maps", || Ok(WatchedAddresses::open(Path::new(&directory))?))
}

/// Waits until all of the fleet stands in the map.
fn arrived(maps: &WatchedAddresses) -> Result<u64> {
    eventually(PATIENCE, "the fleet to be known", || {
        // A walk through all of them costs more than to ask for a few first.
        for address in records::samples() {
            ensure!(maps.identity(address)?.is_some(), "{address} is not there");
        }
        let count = maps.count()?;
        ensure!(count >= records::ENTRIES, "{count} of {}", records::ENTRIES);
        Ok(count)
    })
}

/// One endpoint comes, another goes, over and over; the time from the write to the map entry.
fn changes(table: &mut Table, world: &World, fleet: &Writer, maps: &WatchedAddresses, effort: Effort) -> Result<()> {
    let busy = world.agent.busy()?;
    let start = Instant::now();
    let length = Duration::from_secs_f64(effort.seconds * 10.0);
    let written = fleet.change(PACE, length)?;
    let mut pending: BTreeMap<IpAddr, Instant> = BTreeMap::new();
    let (mut millis, mut answers) = (Vec::new(), Vec::new());
    loop {
        loop {
            match written.try_recv() {
                Ok(Written::Begun(address, at)) => drop(pending.insert(address, at)),
                Ok(Written::Answered(time)) => answers.push(time.as_secs_f64() * 1e3),
                Err(std::sync::mpsc::TryRecvError::Empty) => break,
                Err(std::sync::mpsc::TryRecvError::Disconnected) if pending.is_empty() => {
                    let share = (world.agent.busy()? - busy) / start.elapsed().as_secs_f64();
                    return report(table, &millis, &answers, share);
                }
                Err(std::sync::mpsc::TryRecvError::Disconnected) => break,
            }
        }
        let mut late = None;
        for (address, at) in std::mem::take(&mut pending) {
            if maps.identity(address)?.is_some() {
                millis.push(at.elapsed().as_secs_f64() * 1e3);
            } else {
                late = late.or(Some(address)).filter(|_| at.elapsed() > PATIENCE);
                pending.insert(address, at);
            }
        }
        if let Some(address) = late {
            bail!("{address} was written and is not in the map");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn report(table: &mut Table, millis: &[f64], answers: &[f64], share: f64) -> Result<()> {
    ensure!(millis.len() > 100, "only {} changes were timed", millis.len());
    let what = format!("fleet: an endpoint added to its map entry, {PACE} changes a second");
    table.figure(&format!("{what}, median"), "ms", median(millis), Goal::AtMost(50.0));
    table.figure(&format!("{what}, p99"), "ms", percentile(millis, 99), Goal::AtMost(250.0));
    table.figure("fleet: of which etcd's answer to the writer, median", "ms", median(answers), Goal::None);
    table.figure("fleet: the same, p99", "ms", percentile(answers, 99), Goal::None);
    table.figure("fleet: processor meanwhile", "% of a core", share * 100.0, Goal::None);
    Ok(())
}

/// What the agent costs when nothing changes, from the moment that all notes are taken.
fn idle(table: &mut Table, world: &World, effort: Effort) -> Result<()> {
    let over = |window: Duration| -> Result<f64> {
        let (busy, start) = (world.agent.busy()?, Instant::now());
        std::thread::sleep(window);
        Ok((world.agent.busy()? - busy) / start.elapsed().as_secs_f64())
    };
    eventually(PATIENCE, "the agent to be done", || {
        let share = over(Duration::from_secs(1))?;
        ensure!(share < 0.05, "it is busy for {share} of the time");
        Ok(())
    })?;
    // Long enough that the regular looks at the kernel and the store are in it.
    let share = over(Duration::from_secs_f64(effort.seconds * 32.0))?;
    table.figure("fleet: processor when nothing changes", "% of a core", share * 100.0, Goal::AtMost(1.0));
    Ok(())
}

fn mebibytes(world: &World) -> Result<f64> {
    Ok(world.agent.resident()? as f64 / 1024.0)
}

/// How many watches etcd's members have together.
fn watches(etcd: &Etcd) -> Result<f64> {
    const NAME: &str = "etcd_debugging_mvcc_watcher_total ";
    let mut sum = 0.0;
    for member in 0..3 {
        let text = etcd.machine(member).run(&["curl", "-sS", "http://127.0.0.1:2379/metrics"])?;
        let line = text.lines().find_map(|line| line.strip_prefix(NAME)).context("etcd does not tell its watches")?;
        sum += line.parse::<f64>()?;
    }
    Ok(sum)
}

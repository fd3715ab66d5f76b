//! `lab-nodes`: the lab's nodes for people to type into, made by the means of the suite.
//!
//! `up` leaves a keeper behind, whose end is the lab's end: it holds everything as a test would.

#![allow(clippy::print_stdout, reason = "a command speaks to its user")]

use anyhow::{Context, Result, bail, ensure};
use lab::{Engine, Machine, Nodes, eventually};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const FOLDER: &str = "/run/cilium-lab";
const USAGE: &str = "usage: lab-nodes up [COUNT] [-- AGENT OPTION…] | exec NODE [--] COMMAND… | down";

/// What is up, for those who come later.
#[derive(Serialize, Deserialize)]
struct Lab {
    keeper: i32,
    /// Where the binaries are.
    bin: PathBuf,
    machines: BTreeMap<String, Entrance>,
}

/// How to get into a machine.
#[derive(Serialize, Deserialize)]
struct Entrance {
    /// Its first process.
    init: i32,
    /// The file by which to become one of its processes.
    processes: PathBuf,
}

impl Entrance {
    fn of(machine: &Machine) -> Entrance {
        Entrance { init: machine.init(), processes: machine.processes() }
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).filter(|word| *word != "--").collect();
    match words.as_slice() {
        ["up", rest @ ..] => up(rest),
        ["keep", count, options @ ..] => keep(count.parse().context(USAGE)?, options),
        ["exec", node, command @ ..] if !command.is_empty() => exec(node, command),
        ["down"] => down(),
        _ => bail!(USAGE),
    }
}

fn state() -> PathBuf {
    Path::new(FOLDER).join("lab.json")
}

/// The lab that is up, if its keeper lives.
fn running() -> Option<Lab> {
    let lab: Lab = serde_json::from_slice(&fs::read(state()).ok()?).ok()?;
    is_keeper(lab.keeper).then_some(lab)
}

fn is_keeper(pid: i32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    words.next().is_some_and(|program| program.ends_with(b"lab-nodes")) && words.next() == Some(b"keep")
}

fn up(rest: &[&str]) -> Result<()> {
    ensure!(running().is_none(), "the lab is up already: `down` first");
    fs::create_dir_all(FOLDER)?;
    let _ = fs::remove_file(state());
    let (count, options) = match rest.split_first() {
        Some((first, options)) if first.parse::<usize>().is_ok() => (*first, options),
        _ => ("3", rest),
    };
    let log = Path::new(FOLDER).join("keeper.log");
    let file = fs::File::create(&log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("keep").arg(count).args(options).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut keeper = command.process_group(0).spawn()?;
    wait_ready(&mut keeper, &log)?;
    let lab = running().context("the lab is not there")?;
    println!("up: {}", lab.machines.keys().cloned().collect::<Vec<_>>().join(" "));
    Ok(())
}

fn wait_ready(keeper: &mut Child, log: &Path) -> Result<()> {
    eventually(Duration::from_secs(300), "the lab to be up", || {
        ensure!(running().is_some() || keeper.try_wait()?.is_some(), "{}", fs::read_to_string(log).unwrap_or_default());
        Ok(())
    })?;
    ensure!(running().is_some(), "the lab could not be made:\n{}", fs::read_to_string(log).unwrap_or_default());
    Ok(())
}

/// Makes the lab and holds it until told to end.
fn keep(count: usize, options: &[&str]) -> Result<()> {
    let nodes = Nodes::start(&Engine::installed(), count, options)?;
    nodes.know_each_other()?;
    let mut machines = BTreeMap::from([("hub".to_owned(), Entrance::of(&nodes.hub))]);
    for member in 0..3 {
        machines.insert(lab::Etcd::name(member), Entrance::of(nodes.etcd.machine(member)));
    }
    for (n, world) in nodes.worlds.iter().enumerate() {
        machines.insert(format!("node{}", n + 1), Entrance::of(&world.machine));
    }
    let agent = lab::binary("cilium-agent")?;
    let bin = agent.parent().context("the agent is in no folder")?.to_owned();
    let lab = Lab { keeper: i32::try_from(std::process::id())?, bin, machines };
    // Not before everything is started: what is blocked here would be blocked in all of it.
    let mut signals = nix::sys::signal::SigSet::empty();
    signals.add(nix::sys::signal::Signal::SIGTERM);
    signals.thread_block()?;
    fs::write(state().with_extension("new"), serde_json::to_vec_pretty(&lab)?)?;
    fs::rename(state().with_extension("new"), state())?;
    signals.wait()?;
    let _ = fs::remove_file(state());
    drop(nodes);
    Ok(())
}

/// Becomes the command inside of the machine.
fn exec(name: &str, command: &[&str]) -> Result<()> {
    let lab = running().context("the lab is not up")?;
    let known = || lab.machines.keys().cloned().collect::<Vec<_>>().join(" ");
    let Entrance { init, processes } =
        lab.machines.get(name).with_context(|| format!("{name:?} is none of {}", known()))?;
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", lab.bin.display());
    fs::write(processes, "0").with_context(|| format!("join {}", processes.display()))?;
    let failed = Command::new("nsenter")
        .args(["-t", &init.to_string(), "--net", "--mount", "--uts", "--ipc", "--pid", "--cgroup"])
        .arg(format!("--wdns={}", folder().display()))
        .args(["--", "env", &format!("PATH={path}"), "ETCDCTL_API=3"])
        .arg(format!("ETCDCTL_ENDPOINTS={}", lab::ENDPOINTS))
        .args(command)
        .exec();
    Err(failed).context("enter the machine")
}

/// Where the command starts: where its user is, unless the machine has that folder for itself.
fn folder() -> PathBuf {
    let own = ["/run", "/var/run", "/proc", "/sys"];
    let here = std::env::current_dir().ok().filter(|here| !own.iter().any(|folder| here.starts_with(folder)));
    here.unwrap_or_else(|| PathBuf::from("/"))
}

fn down() -> Result<()> {
    let Some(lab) = running() else {
        println!("the lab is not up");
        return Ok(());
    };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(lab.keeper), nix::sys::signal::Signal::SIGTERM)?;
    eventually(Duration::from_secs(60), "the keeper to end", || {
        ensure!(!is_keeper(lab.keeper), "it goes on");
        Ok(())
    })
}

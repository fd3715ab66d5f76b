//! The real agent in a machine, and its command line.

use crate::{Machine, Process};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// The binary under test: in `CILIUM_BIN`, else beside the test executable.
pub fn binary(name: &str) -> Result<PathBuf> {
    let Some(dir) = std::env::var_os("CILIUM_BIN") else { return other_build(name) };
    let path = PathBuf::from(dir).join(name);
    ensure!(path.exists(), "{} is missing: build it first (make test does)", path.display());
    Ok(path)
}

/// Another build of the same program: cargo's own beside the test executable, linked dynamically, which is the one under
/// test where `CILIUM_BIN` names no other.
pub fn other_build(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let path = exe.parent().and_then(|deps| deps.parent()).context("the test has no folder")?.join(name);
    ensure!(path.exists(), "{} is missing: build it first (make test does)", path.display());
    Ok(path)
}

pub struct Agent {
    machine: Rc<Machine>,
    /// What it is started through (`nsenter …`), if anything.
    wrapper: Vec<String>,
    binary: PathBuf,
    options: Vec<String>,
    process: Process,
}

impl Agent {
    /// Starts the agent and waits until it is ready.
    pub fn start(machine: &Rc<Machine>, options: &[&str]) -> Result<Agent> {
        let mut agent = Agent::launch(machine, options.iter().map(|o| (*o).to_owned()).collect())?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts the agent; does not wait.
    pub fn launch(machine: &Rc<Machine>, options: Vec<String>) -> Result<Agent> {
        let binary = binary("cilium-agent")?;
        let process = launch(machine, &[], &binary, &options)?;
        Ok(Agent { machine: machine.clone(), wrapper: Vec::new(), binary, options, process })
    }

    /// The binary that is started from now on.
    pub fn replace_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// What the agent is started through from now on: a command that becomes it.
    pub fn wrap(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Stops its processor, or lets it go on.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        use nix::sys::signal::Signal;
        self.process.signal(if frozen { Signal::SIGSTOP } else { Signal::SIGCONT })
    }

    pub fn wait_ready(&mut self) -> Result<()> {
        crate::eventually(Duration::from_secs(60), "the agent to be ready", || {
            ensure!(self.process.running(), "the agent ended:\n{}", self.machine.log("agent.log"));
            self.cilium(&["status", "--brief"]).with_context(|| self.machine.log("agent.log"))
        })?;
        Ok(())
    }

    /// Runs `cilium ARGS…` and gives its standard output.
    pub fn cilium(&self, args: &[&str]) -> Result<String> {
        let binary = binary("cilium")?;
        self.machine.run(&[&[binary.to_str().context("path")?], args].concat())
    }

    pub fn cilium_json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let text = self.cilium(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("cilium {args:?} printed no JSON: {text}"))
    }

    /// Imports rules and waits until every endpoint enforces them.
    pub fn import(&self, rules: &serde_json::Value) -> Result<String> {
        let path = self.machine.dir().join("policy.json");
        std::fs::write(&path, serde_json::to_vec_pretty(rules)?)?;
        self.cilium(&["policy", "import", "--wait", path.to_str().context("path")?])
    }

    pub fn running(&mut self) -> bool {
        self.process.running()
    }

    pub fn log(&self) -> String {
        self.machine.log("agent.log")
    }

    /// Ends it without a chance to clean up.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    pub fn stop(&mut self) -> Result<()> {
        self.process.signal(nix::sys::signal::Signal::SIGTERM)?;
        let status = self.process.wait(Duration::from_secs(60))?;
        ensure!(status.success(), "the agent ended with {status}:\n{}", self.log());
        Ok(())
    }

    /// Starts it again after `kill` or `stop`, without waiting for it to be ready.
    pub fn relaunch(&mut self) -> Result<()> {
        self.process = launch(&self.machine, &self.wrapper, &self.binary, &self.options)?;
        Ok(())
    }

    pub fn restart(&mut self) -> Result<()> {
        self.relaunch()?;
        self.wait_ready()
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("no VmRSS")?;
        Ok(line.split_whitespace().nth(1).context("VmRSS")?.parse()?)
    }

    /// Seconds that a processor was busy for it so far.
    pub fn busy(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        // The name in brackets may have anything in it.
        let (_, rest) = stat.rsplit_once(") ").context("no name")?;
        let ticks = rest.split(' ').skip(11).take(2).map(str::parse::<f64>);
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
        Ok(ticks.sum::<Result<f64, _>>()? / per_second as f64)
    }

    /// The agent as the outside sees it.
    fn pid(&self) -> Result<String> {
        let parent = self.process.pid();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        Ok(children.split_whitespace().next().map_or(parent.to_string(), str::to_owned))
    }
}

fn launch(machine: &Rc<Machine>, wrapper: &[String], binary: &Path, options: &[String]) -> Result<Process> {
    let mut command = machine.command("env");
    command.args(wrapper).arg(binary).arg("--lib-dir").arg(machine.dir().join("lib")).args(options);
    machine.spawn("agent.log", command)
}

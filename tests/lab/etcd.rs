//! An etcd of three members, each in a machine of its own on the underlay: so that one can be killed, cut off, or started
//! again from a snapshot while the others go on.

use crate::nodes::Underlay;
use crate::{Machine, Process, eventually};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Where members answer, for agents and for `etcdctl`.
pub const ENDPOINTS: &str = "http://172.31.78.2:2379,http://172.31.78.3:2379,http://172.31.78.4:2379";
pub(crate) const MEMBERS: usize = 3;
/// How long a member may take to start, to be elected and to answer, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster. A member's number is its place, from 0; its name is `etcd1` to `etcd3`.
pub struct Etcd {
    members: Vec<Member>,
    underlay: Underlay,
}

struct Member {
    // Dropped before the machine that it is in.
    process: Option<Process>,
    machine: Rc<Machine>,
    /// It joins members that are there, instead of beginning with them.
    joins: bool,
}

impl Etcd {
    /// Members to be started on these machines, which have their addresses.
    pub(crate) fn new(machines: Vec<Rc<Machine>>, underlay: Underlay) -> Etcd {
        let member = |machine| Member { process: None, machine, joins: false };
        Etcd { members: machines.into_iter().map(member).collect(), underlay }
    }

    /// Where members answer, for agents and for `etcdctl`.
    pub fn endpoints(&self) -> String {
        endpoints(self.underlay)
    }

    pub fn machine(&self, member: usize) -> &Rc<Machine> {
        &self.members[member].machine
    }

    /// What the port of a member's machine is called at the hub, and the member too.
    pub fn name(member: usize) -> String {
        format!("etcd{}", member + 1)
    }

    /// Ends a member without a chance to hand anything over.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        match self.members[member].process.take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    pub fn kill_all(&mut self) -> Result<()> {
        (0..MEMBERS).try_for_each(|member| self.kill(member))
    }

    /// Starts a member with the data it has; does not wait.
    pub fn launch(&mut self, member: usize) -> Result<()> {
        let name = Etcd::name(member);
        let machine = &self.members[member].machine;
        let (peer, client) = (self.peer(member), url(self.underlay, member, 2379));
        let mut command = machine.command("etcd");
        // The cluster's data is worth nothing: no waiting for the disk.
        command.args(["--name", &name, "--unsafe-no-fsync", "--data-dir"]).arg(data(machine));
        command.args(["--listen-client-urls", &format!("{client},http://127.0.0.1:2379")]);
        command.args(["--advertise-client-urls", &client, "--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &self.cluster()]);
        command.args(["--initial-cluster-state", if self.members[member].joins { "existing" } else { "new" }]);
        let process = machine.spawn("etcd.log", command)?;
        self.members[member].process = Some(process);
        Ok(())
    }

    /// Starts those that are not running, and waits until all answer.
    pub fn start_all(&mut self) -> Result<()> {
        for member in 0..MEMBERS {
            if self.members[member].process.is_none() {
                self.launch(member)?;
            }
        }
        self.answers()
    }

    /// Waits until all members answer, each by way of the leader.
    pub fn answers(&self) -> Result<()> {
        eventually(PATIENCE, "etcd to answer", || {
            self.members.iter().enumerate().try_for_each(|(member, _)| {
                let health = self.ctl_of(member, &["endpoint", "health"]).map(|_| ());
                health.with_context(|| self.members[member].machine.log("etcd.log"))
            })
        })
    }

    /// The member that leads, if the one that is asked knows one.
    pub fn leader(&self) -> Result<usize> {
        eventually(PATIENCE, "etcd to have a leader", || {
            let asked = (0..MEMBERS).filter(|member| self.members[*member].process.is_some());
            asked.into_iter().find_map(|member| self.leads(member).ok()?.then_some(member)).context("nobody leads")
        })
    }

    fn leads(&self, member: usize) -> Result<bool> {
        let text = self.ctl_of(member, &["endpoint", "status", "-w", "json"])?;
        let status: serde_json::Value = serde_json::from_str(&text)?;
        let status = &status[0]["Status"];
        let leader = status["leader"].as_u64().context("no leader in the status")?;
        Ok(Some(leader) == status["header"]["member_id"].as_u64() && leader != 0)
    }

    /// Stops a member's processor, and lets it go on.
    pub fn freeze(&self, member: usize, frozen: bool) -> Result<()> {
        let process = self.members[member].process.as_ref().context("the member does not run")?;
        process.signal(if frozen { Signal::SIGSTOP } else { Signal::SIGCONT })
    }

    /// Runs `etcdctl ARGS…` on any member that answers, and gives its standard output.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        ctl(&self.members[0].machine, &self.endpoints(), args)
    }

    /// Runs `etcdctl ARGS…` on one member.
    pub fn ctl_of(&self, member: usize, args: &[&str]) -> Result<String> {
        ctl(&self.members[member].machine, "http://127.0.0.1:2379", args)
    }

    /// Saves all there is, for [`restore`](Etcd::restore).
    pub fn snapshot(&self) -> Result<PathBuf> {
        let path = self.members[0].machine.dir().join("snapshot.db");
        let _ = std::fs::remove_file(&path);
        self.ctl_of(0, &["snapshot", "save", path.to_str().context("path")?])?;
        Ok(path)
    }

    /// Kills all members, gives each the snapshot's data for its own, and starts them: revisions go back.
    pub fn restore(&mut self, snapshot: &std::path::Path) -> Result<()> {
        self.kill_all()?;
        for member in 0..MEMBERS {
            let machine = &self.members[member].machine;
            let data = data(machine);
            std::fs::remove_dir_all(&data)?;
            let arguments = ["snapshot", "restore", snapshot.to_str().context("path")?, "--name", &Etcd::name(member)];
            let place = ["--data-dir", data.to_str().context("path")?];
            let peers = ["--initial-cluster", &self.cluster(), "--initial-advertise-peer-urls", &self.peer(member)];
            ctl(machine, "http://127.0.0.1:2379", &[&arguments[..], &place, &peers].concat())?;
        }
        self.start_all()
    }

    /// A copy of the data of a member that does not run.
    pub fn copy_of(&self, member: usize) -> Result<PathBuf> {
        let (data, copy) = (data(&self.members[member].machine), self.members[member].machine.dir().join("etcd-copy"));
        copy_all(&data, &copy)?;
        Ok(copy)
    }

    /// Gives a member that does not run other data for its own.
    pub fn replace_data(&self, member: usize, copy: &Path) -> Result<()> {
        copy_all(copy, &data(&self.members[member].machine))
    }

    /// Whether a member's process has not ended.
    pub fn running(&mut self, member: usize) -> bool {
        self.members[member].process.as_mut().is_some_and(Process::running)
    }

    pub fn log(&self, member: usize) -> String {
        self.members[member].machine.log("etcd.log")
    }

    /// Has the others forget a member, and takes it in again without any data, which it gets from them. What `etcd` asks
    /// for where a member lost its own.
    pub fn replace_member(&mut self, member: usize) -> Result<()> {
        self.kill(member)?;
        let list: serde_json::Value = serde_json::from_str(&self.ctl(&["member", "list", "-w", "json"])?)?;
        let members = list["members"].as_array().context("no members")?;
        let found = members.iter().find(|row| row["name"] == Etcd::name(member).as_str());
        let id = found.and_then(|row| row["ID"].as_u64()).with_context(|| format!("no such member in {list}"))?;
        self.ctl(&["member", "remove", &format!("{id:x}")])?;
        std::fs::remove_dir_all(data(&self.members[member].machine))?;
        let urls = format!("--peer-urls={}", self.peer(member));
        // Until the others have noticed that they are fewer they refuse.
        eventually(PATIENCE, "the member to be taken in again", || {
            self.ctl(&["member", "add", &Etcd::name(member), &urls]).map(|_| ())
        })?;
        self.members[member].joins = true;
        self.launch(member)?;
        self.answers()
    }

    fn peer(&self, member: usize) -> String {
        url(self.underlay, member, 2380)
    }

    fn cluster(&self) -> String {
        (0..MEMBERS).map(|member| format!("{}={}", Etcd::name(member), self.peer(member))).collect::<Vec<_>>().join(",")
    }
}

fn ctl(machine: &Machine, endpoints: &str, args: &[&str]) -> Result<String> {
    machine.run(&[&["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", endpoints], args].concat())
}

fn data(machine: &Machine) -> PathBuf {
    machine.dir().join("etcd")
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    let status = std::process::Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(status.success(), "copy {} to {}: {status}", from.display(), to.display());
    Ok(())
}

/// The addresses of a member's machine.
pub(crate) fn addresses(underlay: Underlay, member: usize) -> Vec<String> {
    match underlay {
        Underlay::Both => vec![format!("172.31.78.{}", member + 2)],
        Underlay::Ipv6 => vec![format!("fd78::{}", member + 2)],
    }
}

/// Where the members answer.
pub(crate) fn endpoints(underlay: Underlay) -> String {
    (0..MEMBERS).map(|member| url(underlay, member, 2379)).collect::<Vec<_>>().join(",")
}

fn url(underlay: Underlay, member: usize, port: u16) -> String {
    match underlay {
        Underlay::Both => format!("http://172.31.78.{}:{port}", member + 2),
        Underlay::Ipv6 => format!("http://[fd78::{}]:{port}", member + 2),
    }
}

//! An etcd of three members, each in a machine of its own on the underlay: so that one can be killed, cut off, or started
//! again from a snapshot while the others go on.

use crate::{Machine, Process, eventually};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use std::path::PathBuf;
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
}

struct Member {
    // Dropped before the machine that it is in.
    process: Option<Process>,
    machine: Rc<Machine>,
}

impl Etcd {
    /// Members to be started on these machines, which have their addresses.
    pub(crate) fn new(machines: Vec<Rc<Machine>>) -> Etcd {
        Etcd { members: machines.into_iter().map(|machine| Member { process: None, machine }).collect() }
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
        let (peer, client) = (peer(member), client(member));
        let mut command = machine.command("etcd");
        // The cluster's data is worth nothing: no waiting for the disk.
        command.args(["--name", &name, "--unsafe-no-fsync", "--data-dir"]).arg(data(machine));
        command.args(["--listen-client-urls", &format!("{client},http://127.0.0.1:2379")]);
        command.args(["--advertise-client-urls", &client, "--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &cluster()]);
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
        ctl(&self.members[0].machine, ENDPOINTS, args)
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
            let peers = ["--initial-cluster", &cluster(), "--initial-advertise-peer-urls", &peer(member)];
            ctl(machine, "http://127.0.0.1:2379", &[&arguments[..], &place, &peers].concat())?;
        }
        self.start_all()
    }
}

fn ctl(machine: &Machine, endpoints: &str, args: &[&str]) -> Result<String> {
    machine.run(&[&["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", endpoints], args].concat())
}

fn data(machine: &Machine) -> PathBuf {
    machine.dir().join("etcd")
}

/// The IPv4 address of a member's machine.
pub(crate) fn address(member: usize) -> String {
    format!("172.31.78.{}", member + 2)
}

fn client(member: usize) -> String {
    format!("http://{}:2379", address(member))
}

fn peer(member: usize) -> String {
    format!("http://{}:2380", address(member))
}

fn cluster() -> String {
    (0..MEMBERS).map(|member| format!("{}={}", Etcd::name(member), peer(member))).collect::<Vec<_>>().join(",")
}

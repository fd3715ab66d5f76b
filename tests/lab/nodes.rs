//! Several nodes on one underlay, each a machine with its agent and its engine, and an etcd of three members beside them.
//!
//! | | IPv4 | IPv6 |
//! |---|---|---|
//! | the hub, which is the underlay's bridge | 172.31.78.1 | fd78::1 |
//! | etcd's members | 172.31.78.2 to .4 | – (fd78::2 to ::4 where the underlay has IPv6 alone) |
//! | node *n* | 172.31.78.1*n* | fd78::1*n* |
//! | pods | 10.64.0.0/16, a /24 each | fd64::/64, a /112 each |

use crate::etcd::{self, Etcd};
use crate::{Agent, Docker, Engine, Machine, World, eventually};
use anyhow::{Context, Result, ensure};
use std::rc::Rc;
use std::time::Duration;

/// The families that machines on the underlay have addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    Both,
    /// Nothing has an IPv4 address, etcd neither.
    Ipv6,
}

/// Options of a node's agent: what makes it one of this cluster, and what else it is given.
pub fn agent_options(number: usize, more: &[&str]) -> Vec<String> {
    options_on(Underlay::Both, number, more)
}

fn options_on(underlay: Underlay, number: usize, more: &[&str]) -> Vec<String> {
    let (address, name) = (format!("etcd.address={}", etcd::endpoints(underlay)), format!("node{number}"));
    let kvstore = ["--kvstore", "etcd", "--kvstore-opt", &address, "--node-name", &name];
    let pools = ["--cluster-pool-ipv4", "10.64.0.0/16", "--cluster-pool-ipv6", "fd64::/64"];
    kvstore.iter().chain(&pools).chain(more).map(|word| (*word).to_owned()).collect()
}

pub struct Nodes {
    // Dropped in this order: the nodes, etcd, the underlay.
    pub worlds: Vec<World>,
    pub etcd: Etcd,
    pub hub: Rc<Machine>,
    underlay: Underlay,
}

impl Nodes {
    /// Starts etcd and nodes 1 to `count` (9 at most), with these options for each agent beside those that make a cluster.
    pub fn start(engine: &Engine, count: usize, agent_options: &[&str]) -> Result<Nodes> {
        let mut nodes = Nodes::underlay()?;
        nodes.etcd.start_all()?;
        nodes.add(engine, &vec![agent_options; count])?;
        Ok(nodes)
    }

    /// The underlay with the machines of etcd's members, on which nothing runs yet.
    pub fn underlay() -> Result<Nodes> {
        Nodes::on(Underlay::Both)
    }

    /// Likewise, with machines that have addresses of these families.
    pub fn on(underlay: Underlay) -> Result<Nodes> {
        let hub = Rc::new(Machine::bare()?);
        hub.run(&["ip", "link", "add", "br0", "type", "bridge"])?;
        if underlay == Underlay::Both {
            hub.run(&["ip", "addr", "add", "172.31.78.1/24", "dev", "br0"])?;
        }
        hub.run(&["ip", "addr", "add", "fd78::1/64", "dev", "br0", "nodad"])?;
        hub.run(&["ip", "link", "set", "br0", "up"])?;
        let members =
            (0..etcd::MEMBERS).map(|member| machine(&hub, &Etcd::name(member), &etcd::addresses(underlay, member)));
        let etcd = Etcd::new(members.collect::<Result<_>>()?, underlay);
        Ok(Nodes { worlds: Vec::new(), etcd, hub, underlay })
    }

    /// Adds a node for each of these sets of options.
    pub fn add(&mut self, engine: &Engine, options: &[&[&str]]) -> Result<()> {
        let mut starting = Vec::new();
        for (number, options) in (self.worlds.len() + 1..).zip(options) {
            let machine = self.machine(number)?;
            let agent = Agent::launch(&machine, options_on(self.underlay, number, options))?;
            starting.push((machine, agent));
        }
        self.worlds.extend(worlds(starting, engine)?);
        Ok(())
    }

    /// The machine of a node, on which nothing runs yet.
    pub fn machine(&self, number: usize) -> Result<Rc<Machine>> {
        ensure!((1..=9).contains(&number), "there is no address for node {number}");
        let ipv4 = (self.underlay == Underlay::Both).then(|| format!("172.31.78.1{number}"));
        let addresses: Vec<String> = ipv4.into_iter().chain([format!("fd78::1{number}")]).collect();
        machine(&self.hub, &format!("node{number}"), &addresses)
    }

    /// Runs `etcdctl ARGS…` and gives its standard output.
    pub fn etcdctl(&self, args: &[&str]) -> Result<String> {
        self.etcd.ctl(args)
    }

    /// Cuts a machine (`node2`, `etcd1`) off from all others, or joins it again. Its own end notices nothing: the wire is
    /// there, but nothing comes through.
    pub fn cut(&self, name: &str, cut: bool) -> Result<()> {
        let state = if cut { "0" } else { "3" };
        self.hub.run(&["bridge", "link", "set", "dev", name, "state", state]).map(|_| ())
    }

    /// Takes etcd away from a node, which loses nothing else, or gives it back. Packets vanish without an answer.
    pub fn part_from_etcd(&self, node: usize, parted: bool) -> Result<()> {
        let change = if parted { "-I" } else { "-D" };
        let rule = ["OUTPUT", "-p", "tcp", "--dport", "2379", "-j", "DROP"];
        self.worlds[node].machine.run(&[&["iptables", "-w", change], &rule[..]].concat()).map(|_| ())
    }

    /// Waits until each node lists all of them.
    pub fn know_each_other(&self) -> Result<()> {
        for world in &self.worlds {
            eventually(Duration::from_secs(60), "the nodes to know each other", || {
                let list = world.agent.cilium_json(&["node", "list"])?;
                let known = list.as_array().context("no list")?.len();
                ensure!(known == self.worlds.len(), "{list}");
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// A machine on the underlay, with these addresses.
pub(crate) fn machine(hub: &Machine, port: &str, addresses: &[String]) -> Result<Rc<Machine>> {
    let machine = Rc::new(Machine::bare()?);
    hub.join(port, &machine, "eth0")?;
    hub.run(&["ip", "link", "set", port, "master", "br0", "up"])?;
    machine.run(&["ip", "link", "set", "eth0", "up"])?;
    for address in addresses {
        let v6 = address.contains(':');
        let (length, gateway) = if v6 { (64, "fd78::1") } else { (24, "172.31.78.1") };
        let prefix = format!("{address}/{length}");
        let flags: &[&str] = if v6 { &["nodad"] } else { &[] };
        machine.run(&[&["ip", "addr", "add", &prefix, "dev", "eth0"], flags].concat())?;
        machine.run(&["ip", if v6 { "-6" } else { "-4" }, "route", "add", "default", "via", gateway])?;
    }
    Ok(machine)
}

/// What becomes of machines whose agents are starting: an engine each. All agents and then all engines, each kind at once:
/// most of their start is waiting.
pub(crate) fn worlds(mut starting: Vec<(Rc<Machine>, Agent)>, engine: &Engine) -> Result<Vec<World>> {
    starting.iter_mut().try_for_each(|(_, agent)| agent.wait_ready())?;
    let launched = starting.iter().map(|(machine, _)| Docker::launch(machine, engine, &[]));
    let mut engines = launched.collect::<Result<Vec<_>>>()?;
    engines.iter_mut().try_for_each(Docker::finish_start)?;
    let worlds = starting.into_iter().zip(engines);
    Ok(worlds.map(|((machine, agent), docker)| World { docker, agent, machine }).collect())
}

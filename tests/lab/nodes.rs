//! Several nodes on one underlay, each a machine with its agent and its engine, and an etcd of three members beside them.
//!
//! | | IPv4 | IPv6 |
//! |---|---|---|
//! | the hub, which is the underlay's bridge | 172.31.78.1 | fd78::1 |
//! | etcd's members | 172.31.78.2 to .4 | – |
//! | node *n* | 172.31.78.1*n* | fd78::1*n* |
//! | pods | 10.64.0.0/16, a /24 each | fd64::/64, a /112 each |

use crate::etcd::{self, ENDPOINTS, Etcd};
use crate::{Agent, Docker, Engine, Machine, World, eventually};
use anyhow::{Context, Result, ensure};
use std::rc::Rc;
use std::time::Duration;

/// What makes an agent one of this cluster.
fn options(name: &str) -> Vec<String> {
    let address = format!("etcd.address={ENDPOINTS}");
    let kvstore = ["--kvstore", "etcd", "--kvstore-opt", &address, "--node-name", name];
    let pools = ["--cluster-pool-ipv4", "10.64.0.0/16", "--cluster-pool-ipv6", "fd64::/64"];
    kvstore.iter().chain(&pools).map(|word| (*word).to_owned()).collect()
}

pub struct Nodes {
    // Dropped in this order: the nodes, etcd, the underlay.
    pub worlds: Vec<World>,
    pub etcd: Etcd,
    pub hub: Rc<Machine>,
}

impl Nodes {
    /// Starts nodes 1 to `count` (9 at most), with these options for each agent beside those that make a cluster.
    pub fn start(engine: &Engine, count: usize, agent_options: &[&str]) -> Result<Nodes> {
        ensure!((1..=9).contains(&count), "{count} nodes are none or too many");
        let hub = Rc::new(Machine::bare()?);
        hub.run(&["ip", "link", "add", "br0", "type", "bridge"])?;
        hub.run(&["ip", "addr", "add", "172.31.78.1/24", "dev", "br0"])?;
        hub.run(&["ip", "addr", "add", "fd78::1/64", "dev", "br0", "nodad"])?;
        hub.run(&["ip", "link", "set", "br0", "up"])?;
        let members = (0..3).map(|member| machine(&hub, &Etcd::name(member), &[&etcd::address(member)]));
        let etcd = Etcd::start(members.collect::<Result<_>>()?)?;
        let machines = (1..=count).map(|number| {
            let addresses = [format!("172.31.78.1{number}"), format!("fd78::1{number}")];
            machine(&hub, &format!("node{number}"), &[&addresses[0], &addresses[1]])
        });
        let worlds = worlds(machines.collect::<Result<_>>()?, engine, agent_options)?;
        Ok(Nodes { worlds, etcd, hub })
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

    /// Waits until each node lists all of them.
    pub fn know_each_other(&self) -> Result<()> {
        for world in &self.worlds {
            eventually(Duration::from_secs(20), "the nodes to know each other", || {
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
fn machine(hub: &Machine, port: &str, addresses: &[&str]) -> Result<Rc<Machine>> {
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

/// Starts all agents and then all engines, each kind at once: most of their start is waiting.
fn worlds(machines: Vec<Rc<Machine>>, engine: &Engine, agent_options: &[&str]) -> Result<Vec<World>> {
    let mut agents = Vec::new();
    for (n, machine) in machines.iter().enumerate() {
        let mut options = options(&format!("node{}", n + 1));
        options.extend(agent_options.iter().map(|option| (*option).to_owned()));
        agents.push(Agent::launch(machine, options)?);
    }
    agents.iter_mut().try_for_each(Agent::wait_ready)?;
    let launched = machines.iter().map(|machine| Docker::launch(machine, engine, &[]));
    let mut engines = launched.collect::<Result<Vec<_>>>()?;
    engines.iter_mut().try_for_each(Docker::finish_start)?;
    let parts = machines.into_iter().zip(agents).zip(engines);
    Ok(parts.map(|((machine, agent), docker)| World { docker, agent, machine }).collect())
}

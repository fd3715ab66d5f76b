//! Several nodes on one underlay, each a machine with its agent and its engine, and one etcd beside them.
//!
//! | | IPv4 | IPv6 |
//! |---|---|---|
//! | the hub: etcd, and the underlay's bridge | 172.31.78.1 | fd78::1 |
//! | node *n* | 172.31.78.1*n* | fd78::1*n* |
//! | pods | 10.64.0.0/16, a /24 each | fd64::/64, a /112 each |

use crate::{Engine, Machine, Process, World, eventually};
use anyhow::{Context, Result, ensure};
use std::rc::Rc;
use std::time::Duration;

const ETCD: &str = "http://172.31.78.1:2379";
/// What makes an agent one of this cluster.
const OPTIONS: [&str; 8] = [
    "--kvstore",
    "etcd",
    "--kvstore-opt",
    "etcd.address=http://172.31.78.1:2379",
    "--cluster-pool-ipv4",
    "10.64.0.0/16",
    "--cluster-pool-ipv6",
    "fd64::/64",
];

pub struct Nodes {
    // Dropped in this order: the nodes, etcd, the underlay.
    pub worlds: Vec<World>,
    pub etcd: Process,
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
        let etcd = etcd(&hub)?;
        let mut nodes = Nodes { worlds: Vec::new(), etcd, hub };
        for number in 1..=count {
            let machine = nodes.machine(number)?;
            let name = format!("node{number}");
            let options = [&OPTIONS[..], &["--node-name", &name], agent_options].concat();
            nodes.worlds.push(World::on(machine, engine, &options)?);
        }
        Ok(nodes)
    }

    /// A machine on the underlay.
    fn machine(&self, number: usize) -> Result<Rc<Machine>> {
        let machine = Rc::new(Machine::bare()?);
        let port = format!("node{number}");
        self.hub.join(&port, &machine, "eth0")?;
        self.hub.run(&["ip", "link", "set", &port, "master", "br0", "up"])?;
        machine.run(&["ip", "addr", "add", &format!("172.31.78.1{number}/24"), "dev", "eth0"])?;
        machine.run(&["ip", "addr", "add", &format!("fd78::1{number}/64"), "dev", "eth0", "nodad"])?;
        machine.run(&["ip", "link", "set", "eth0", "up"])?;
        machine.run(&["ip", "route", "add", "default", "via", "172.31.78.1"])?;
        machine.run(&["ip", "-6", "route", "add", "default", "via", "fd78::1"])?;
        Ok(machine)
    }

    /// Runs `etcdctl ARGS…` and gives its standard output.
    pub fn etcdctl(&self, args: &[&str]) -> Result<String> {
        etcdctl(&self.hub, args)
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

fn etcd(hub: &Rc<Machine>) -> Result<Process> {
    let mut command = hub.command("etcd");
    command.arg("--data-dir").arg(hub.dir().join("etcd")).args(["--name", "lab", "--unsafe-no-fsync"]);
    command.args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]);
    let peer = "http://127.0.0.1:2380";
    command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
    command.arg("--initial-cluster").arg(format!("lab={peer}"));
    let etcd = hub.spawn("etcd.log", command)?;
    eventually(Duration::from_secs(20), "etcd to answer", || {
        etcdctl(hub, &["endpoint", "health"]).with_context(|| hub.log("etcd.log"))
    })?;
    Ok(etcd)
}

fn etcdctl(hub: &Machine, args: &[&str]) -> Result<String> {
    hub.run(&[&["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", ETCD], args].concat())
}

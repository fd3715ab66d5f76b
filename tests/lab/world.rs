//! The usual scene: a machine with the agent and a Docker engine.

use crate::{Agent, Container, Docker, Engine, Machine, Server};
use anyhow::{Context, Result, ensure};
use std::rc::Rc;
use std::time::Duration;

pub struct World {
    // Dropped in this order: the engine, the agent, the machine.
    pub docker: Docker,
    pub agent: Agent,
    pub machine: Rc<Machine>,
}

impl World {
    pub fn start(engine: &Engine) -> Result<World> {
        World::with_options(engine, &[])
    }

    pub fn with_options(engine: &Engine, agent_options: &[&str]) -> Result<World> {
        World::on(Rc::new(Machine::start()?), engine, agent_options)
    }

    /// The scene on a machine that is there already.
    pub fn on(machine: Rc<Machine>, engine: &Engine, agent_options: &[&str]) -> Result<World> {
        let agent = Agent::start(&machine, agent_options)?;
        let docker = Docker::start(&machine, engine, &[])?;
        Ok(World { docker, agent, machine })
    }

    /// Makes the network that most scenes use: `net`, both families, out of the node's own pool.
    pub fn network(&self) -> Result<()> {
        self.docker
            .docker(&["network", "create", "--driver", "cilium", "--ipam-driver", "cilium", "--ipv6", "net"])
            .map(|_| ())
    }

    /// A container with label `id=NAME` on `net`.
    pub fn container(&self, name: &str) -> Result<Container> {
        self.docker.sleeper(name, "net", name)
    }

    /// Serves ports in a container.
    pub fn serve(&self, container: &Container, ports: &[&str]) -> Result<Server> {
        Server::start(&self.machine, &container.enter(), ports)
    }

    /// Whether one request from `place` gets its answer within half a second.
    pub fn reaches(&self, place: &[String], protocol: &str, host: &str, port: u16) -> Result<bool> {
        let probe = crate::binary("lab-probe")?;
        let place: Vec<&str> = place.iter().map(String::as_str).collect();
        let target = format!("{host}:{port}");
        let argv = [&["env"], &place[..], &[probe.to_str().context("path")?, "ask", protocol, &target, "500"]].concat();
        Ok(self.machine.output(&argv)?.status.success())
    }

    /// Asserts on both address families of `to` whether `from` reaches its port.
    pub fn expect(&self, from: &Container, to: &Container, protocol: &str, port: u16, expected: bool) -> Result<()> {
        for host in to.hosts() {
            let reached = self.reaches(&from.enter(), protocol, &host, port)?;
            ensure!(
                reached == expected,
                "{} -> {} {host}:{port}/{protocol}: reached {reached}, expected {expected}\n{}\n{}",
                from.name,
                to.name,
                self.agent.cilium(&["endpoint", "list"])?,
                self.agent.cilium(&["bpf", "policy", "list"])?
            );
        }
        Ok(())
    }

    /// What of ours is in the kernel, as text that must be equal before and after a scene that leaves nothing behind.
    pub fn kernel_inventory(&self) -> Result<String> {
        let links = self.machine.links()?.join(" ");
        // What the kernel makes by itself comes in its own time: an anycast route when a device forwards, multicast when
        // it is up.
        let routes = |family: &str| {
            let ours = "grep -v '^local\\|^broadcast\\|^multicast\\|^anycast'";
            self.machine.run(&["sh", "-c", &format!("ip {family} route show table all | {ours} | sort")])
        };
        let (routes, routes6) = (routes("-4")?, routes("-6")?);
        let pins = self.machine.run(&["sh", "-c", "find /sys/fs/bpf | sort"])?;
        let neighbours = self.machine.run(&["sh", "-c", "ip neigh show nud permanent | sort"])?;
        let tables: Vec<String> = ["endpoint", "policy", "ipcache"]
            .iter()
            .map(|table| Ok(strip_counters(self.agent.cilium_json(&["bpf", table, "list"])?).to_string()))
            .collect::<Result<_>>()?;
        let ipam = self.agent.cilium_json(&["status"])?["ipam"]["allocations"].to_string();
        Ok([links, routes, routes6, pins, neighbours, tables.join("\n"), ipam].join("\n--\n"))
    }

    /// Waits until every endpoint is ready, and so many containers have one.
    pub fn endpoints_ready(&self, count: usize) -> Result<()> {
        crate::eventually(Duration::from_secs(30), "all endpoints to be ready", || {
            let list = self.agent.cilium_json(&["endpoint", "list"])?;
            let list = list.as_array().context("no list")?;
            let containers = list.iter().filter(|e| e["docker-endpoint-id"] != "health").count();
            ensure!(
                containers == count && list.iter().all(|e| e["state"] == "ready"),
                "{}",
                self.agent.cilium(&["endpoint", "list"])?
            );
            Ok(())
        })
    }
}

/// Policy rows without what differs from run to run: counters, and the version number of a policy.
fn strip_counters(mut table: serde_json::Value) -> serde_json::Value {
    for row in table.as_array_mut().into_iter().flatten() {
        if let Some(row) = row.as_object_mut() {
            for key in ["packets", "bytes", "policy"] {
                row.remove(key);
            }
        }
    }
    table
}

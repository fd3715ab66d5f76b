//! What happens when things break, under traffic between nodes: not one request fails that should not, and not one is let
//! through that should not. `docs/operations.md` lists what each scene holds.
//!
//! A theme a file. Here is what they share: a server on node 1, on node 2 a client that may talk to it and a stranger that
//! may not, and requests that go on through it all.

mod agents;
mod boot;
mod crowd;
mod departures;
mod etcd;
mod outage;

use anyhow::{Context, Result, ensure};
use lab::{Container, Engine, Hammer, Nodes, Server, World, eventually};
use serde_json::json;
use std::cell::Cell;
use std::time::Duration;

/// How long a condition may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(90);
/// The shortest lease there is.
const LEASE: [&str; 2] = ["--kvstore-lease-ttl", "10"];

struct Scene {
    nodes: Nodes,
    server: Container,
    client: Container,
    stranger: Container,
    _server: Server,
    told: Cell<u32>,
}

impl Scene {
    /// Starts a node for each of these sets of options, at least two.
    fn start(options: &[&[&str]]) -> Result<Scene> {
        let mut nodes = Nodes::underlay()?;
        nodes.etcd.start_all()?;
        // Calls to an etcd that is away give up soon.
        let options: Vec<_> =
            options.iter().map(|set| [&["--kvstore-opt", "etcd.timeout=1s"], *set].concat()).collect();
        nodes.add(&Engine::installed(), &options.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        nodes.know_each_other()?;
        nodes.worlds.iter().try_for_each(World::network)?;
        let server = nodes.worlds[0].container("server")?;
        let (client, stranger) = (nodes.worlds[1].container("client")?, nodes.worlds[1].container("stranger")?);
        let _server = nodes.worlds[0].serve(&server, &["tcp:80"])?;
        nodes.worlds[0].agent.import(&json!([{
            "endpointSelector": {"matchLabels": {"id": "server"}},
            "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "client"}}]}],
        }]))?;
        let scene = Scene { nodes, server, client, stranger, _server, told: Cell::new(0) };
        scene.is_enforced()?;
        Ok(scene)
    }

    /// Waits until the client reaches the server and the stranger does not.
    fn is_enforced(&self) -> Result<()> {
        eventually(PATIENCE, "the policy to be enforced between the nodes", || {
            self.nodes.worlds[1].expect(&self.client, &self.server, "tcp", 80, true)?;
            self.nodes.worlds[1].expect(&self.stranger, &self.server, "tcp", 80, false)
        })
    }

    /// Begins requests of all kinds in both families, allowed and denied ones.
    fn traffic(&self) -> Result<Traffic> {
        let start = |from: &Container, mode| {
            let machine = &self.nodes.worlds[1].machine;
            let hosts = self.server.hosts();
            hosts
                .iter()
                .map(|host| Hammer::start(machine, &from.enter(), mode, &format!("{host}:80")))
                .collect::<Result<Vec<_>>>()
        };
        let modes = [(&self.client, "keep"), (&self.client, "connect"), (&self.stranger, "denied")];
        let hammers = modes.into_iter().map(|(from, mode)| start(from, mode)).collect::<Result<Vec<_>>>()?;
        Ok(Traffic { hammers: hammers.into_iter().flatten().collect() })
    }

    /// Tells something new on one node, and waits until another one knows it: etcd and both sessions are well.
    fn news_travels(&self, from: usize, to: usize) -> Result<()> {
        self.told.set(self.told.get() + 1);
        let word = format!("news-{}", self.told.get());
        self.tell(from, &word)?;
        self.hears(to, &word)
    }

    /// Imports a rule about nobody, which others will hear of.
    fn tell(&self, node: usize, word: &str) -> Result<()> {
        let rules = json!([{"endpointSelector": {"matchLabels": {"id": word}}, "ingress": [{}]}]);
        // Between two leaders etcd refuses.
        eventually(PATIENCE, "a rule to be taken", || self.nodes.worlds[node].agent.import(&rules).map(|_| ()))
    }

    fn hears(&self, node: usize, word: &str) -> Result<()> {
        let what = format!("{word} to be heard of on node {}", node + 1);
        eventually(PATIENCE, &what, || self.has_heard(node, word, true))
    }

    fn has_heard(&self, node: usize, word: &str, expected: bool) -> Result<()> {
        let rules = self.nodes.worlds[node].agent.cilium_json(&["policy", "get"])?.to_string();
        ensure!(rules.contains(&format!("\"{word}\"")) == expected, "{rules}");
        Ok(())
    }

    /// Waits until a node's kernel has the address, or does not.
    fn kernel_knows(&self, node: usize, address: &str, expected: bool) -> Result<()> {
        let what = format!("{address} on node {}: {expected}", node + 1);
        eventually(PATIENCE, &what, || {
            let known = in_kernel(&self.nodes.worlds[node], address)?;
            ensure!(known == expected, "{}", self.nodes.worlds[node].agent.log());
            Ok(())
        })
    }
}

/// Waits until an agent whose etcd is away does all else.
fn goes_on(world: &World) -> Result<()> {
    let cilium = lab::binary("cilium")?;
    eventually(PATIENCE, "the agent to go on without etcd", || {
        // The command fails, as something is broken.
        let output = world.machine.output(&[cilium.to_str().context("path")?, "status", "-o", "json"])?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        ensure!(status["datapath"]["state"] == "Ok" && status["kvstore"]["state"] != "Ok", "{status}");
        Ok(())
    })
}

/// Whether a node's kernel has the address.
fn in_kernel(world: &World, address: &str) -> Result<bool> {
    let prefix = format!("{address}/{}", if address.contains(':') { 128 } else { 32 });
    let rows = world.agent.cilium_json(&["bpf", "ipcache", "list"])?;
    Ok(rows.as_array().context("no list")?.iter().any(|row| row["prefix"] == prefix.as_str()))
}

struct Traffic {
    hammers: Vec<Hammer>,
}

impl Traffic {
    /// Ends the requests and counts.
    fn finish(self) -> Result<()> {
        let tallies = self.hammers.into_iter().map(Hammer::finish).collect::<Result<Vec<_>>>()?;
        for tally in &tallies {
            ensure!(tally.requests > 3 && tally.failed == 0, "{tallies:#?}");
        }
        Ok(())
    }
}

//! The parts of a node start and stop in every order.

use super::{PATIENCE, Scene, goes_on};
use anyhow::{Context, Result, ensure};
use lab::{Agent, Docker, Engine, Nodes, World, agent_options, eventually};

/// A node that was never there before, while etcd is not: nothing hangs, and each part says what it waits for.
#[test]
#[ignore = "needs root: make test"]
fn a_new_node_waits_for_etcd_and_says_so() -> Result<()> {
    let mut nodes = Nodes::underlay()?;
    let machine = nodes.machine(1)?;
    let agent = Agent::launch(&machine, agent_options(1, &[]))?;
    let docker = Docker::start(&machine, &Engine::installed(), &[])?;
    let world = World { docker, agent, machine };
    eventually(PATIENCE, "the status to say what the agent waits for", || {
        let said = world.agent.cilium(&["status"]).err().context("all is well")?.to_string();
        ensure!(said.contains("waiting for the kvstore"), "{said}");
        Ok(())
    })?;
    let said = world.docker.refused(&["network", "create", "--driver", "cilium", "--ipam-driver", "cilium", "net"])?;
    ensure!(said.contains("waiting for the kvstore"), "{said}");
    nodes.etcd.start_all()?;
    nodes.worlds.push(world);
    nodes.worlds[0].agent.wait_ready()?;
    nodes.worlds[0].network()?;
    nodes.worlds[0].container("aa")?;
    nodes.worlds[0].endpoints_ready(1)
}

/// A node boots with containers that always run: Docker first, the agent first, etcd always last.
#[test]
#[ignore = "needs root: make test"]
fn a_node_boots_in_every_order() -> Result<()> {
    let mut scene = Scene::start(&[&[], &[]])?;
    let always = ["--net", "net", "-l", "id=client", "--restart", "always"];
    scene.nodes.worlds[1].docker.run("always", &always, &["sleep", "1000000"])?;
    for docker_first in [true, false] {
        scene.nodes.worlds[1].agent.kill()?;
        scene.nodes.worlds[1].docker.kill()?;
        scene.nodes.etcd.kill_all()?;
        let world = &mut scene.nodes.worlds[1];
        if docker_first {
            world.docker.relaunch()?;
            // It waits for its plugin, and finds it as soon as it is there.
            eventually(PATIENCE, "Docker to miss its plugin", || {
                ensure!(world.docker.log().contains("cilium.sock"), "{}", world.docker.log());
                Ok(())
            })?;
            world.agent.relaunch()?;
        } else {
            world.agent.relaunch()?;
            goes_on(world)?;
            world.docker.relaunch()?;
        }
        world.docker.wait_ready()?;
        goes_on(world)?;
        eventually(PATIENCE, "the container to run again", || {
            ensure!(world.docker.inspect("always")?["State"]["Running"] == true);
            Ok(())
        })?;
        // With etcd still away it has its identity, and may what it may.
        world.endpoints_ready(1)?;
        let client = world.docker.container("always")?;
        eventually(PATIENCE, "the container to reach the server of the other node", || {
            world.expect(&client, &scene.server, "tcp", 80, true)
        })?;
        scene.nodes.etcd.start_all()?;
        scene.news_travels(0, 1)?;
        scene.news_travels(1, 0)?;
    }
    Ok(())
}

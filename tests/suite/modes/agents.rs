//! Agents and engines end, are replaced and start again, under traffic that may go on and traffic that may not.

use super::{Lab, none_failed, only_the_client};
use anyhow::{Result, ensure};
use serde_json::json;

pub(super) fn killed(lab: &mut Lab) -> Result<()> {
    lab.import(&only_the_client())?;
    let traffic = lab.traffic(true)?;
    for round in 0..6 {
        let agent = &mut lab.nodes.worlds[round % 2].agent;
        agent.kill()?;
        agent.relaunch()?;
        // Some are killed again while they start.
        if round != 2 {
            agent.wait_ready()?;
        }
    }
    lab.nodes.worlds.iter_mut().try_for_each(|world| world.agent.wait_ready())?;
    lab.nodes.know_each_other()?;
    lab.holds(&lab.client, &lab.server, "udp", 53, true)?;
    lab.holds(&lab.stranger, &lab.server, "udp", 53, false)?;
    none_failed(traffic)
}

/// Another build takes over, which for the first of two nodes means something else by what is pinned: then no map is of
/// use to it, and it makes all anew beside what goes on judging. And back again.
pub(super) fn upgraded(lab: &mut Lab) -> Result<()> {
    lab.import(&only_the_client())?;
    let traffic = lab.traffic(true)?;
    for build in [lab::other_build("cilium-agent")?, lab::binary("cilium-agent")?] {
        for node in 0..2 {
            let world = &mut lab.nodes.worlds[node];
            world.agent.stop()?;
            let newer = world.machine.dir().join("cilium-agent-newer");
            let _ = std::fs::remove_file(&newer);
            std::fs::copy(&build, &newer)?;
            let before = maps(world)?;
            if node == 0 {
                world.machine.run(&["sh", "-c", "rmdir /sys/fs/bpf/cilium/abi_*"])?;
            }
            world.agent.replace_binary(newer);
            world.agent.restart()?;
            world.endpoints_ready(2)?;
            let same = maps(world)? == before;
            ensure!(same == (node == 1), "the maps of node {}: the same {same}", node + 1);
        }
        lab.nodes.know_each_other()?;
        lab.holds(&lab.client, &lab.server, "udp", 53, true)?;
        lab.holds(&lab.stranger, &lab.server, "udp", 53, false)?;
    }
    none_failed(traffic)
}

/// The numbers of the pinned maps' own inodes.
fn maps(world: &lab::World) -> Result<String> {
    world.machine.run(&["sh", "-c", "ls -i /sys/fs/bpf/cilium/ | grep cilium_lxc"])
}

/// With Docker's live restore, containers and their traffic outlive their engine.
pub(super) fn engines_restart(lab: &mut Lab) -> Result<()> {
    lab.import(&only_the_client())?;
    for world in &lab.nodes.worlds {
        world.docker.configure(&json!({"live-restore": true}))?;
    }
    let traffic = lab.traffic(true)?;
    for (node, world) in lab.nodes.worlds.iter_mut().enumerate() {
        if node == 0 {
            world.docker.terminate()?;
        } else {
            world.docker.kill()?;
        }
        world.docker.relaunch()?;
        world.docker.wait_ready()?;
        world.endpoints_ready(2)?;
    }
    // What starts afterwards is served as before.
    let twin = lab.two().docker.sleeper("twin", "net", "client")?;
    lab.expect(&twin, &lab.server, "tcp", 80, true)?;
    none_failed(traffic)
}

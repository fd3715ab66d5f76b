//! The agents die, are replaced by another version, and wake up in another time.

use super::{PATIENCE, Scene};
use anyhow::{Context, Result, ensure};
use lab::eventually;

#[test]
#[ignore = "needs root: make test"]
fn fifty_kills_and_an_upgrade_fail_no_request() -> Result<()> {
    let mut scene = Scene::start(&[&[], &[]])?;
    let traffic = scene.traffic()?;
    for round in 0..50 {
        let agent = &mut scene.nodes.worlds[round % 2].agent;
        agent.kill()?;
        agent.relaunch()?;
        // Some are killed again while they start, at one moment or another.
        if round % 5 > 1 {
            agent.wait_ready()?;
        }
    }
    for world in &mut scene.nodes.worlds {
        world.agent.wait_ready()?;
        // Politely this time; the new version is the same program by another name.
        world.agent.stop()?;
        let newer = world.machine.dir().join("cilium-agent-newer");
        std::fs::copy(lab::binary("cilium-agent")?, &newer)?;
        world.agent.replace_binary(newer);
        world.agent.restart()?;
    }
    scene.nodes.know_each_other()?;
    scene.news_travels(0, 1)?;
    scene.news_travels(1, 0)?;
    traffic.finish()
}

/// The clocks that agents go by jump between one start and the next. Nothing in the kernel is timed by them.
#[test]
#[ignore = "needs root: make test"]
fn clocks_may_jump_forth_and_back() -> Result<()> {
    let mut scene = Scene::start(&[&[], &[]])?;
    let traffic = scene.traffic()?;
    let machine = scene.nodes.worlds[0].machine.clone();
    let year = (365 * 86_400).to_string();
    let pid = machine.dir().join("time.pid");
    let note = format!("echo $$ > {} && exec sleep 1000000", pid.display());
    let mut command = machine.command("unshare");
    command.args(["--time", "--monotonic", &year, "--boottime", &year, "--fork", "--kill-child", "sh", "-c", &note]);
    let _holder = machine.spawn("time.log", command)?;
    let holder = eventually(PATIENCE, "a namespace with its own clocks", || {
        let pid: u32 = std::fs::read_to_string(&pid)?.trim().parse().with_context(|| machine.log("time.log"))?;
        Ok(pid)
    })?;
    let enter = format!("--time=/proc/{holder}/ns/time");
    // A year later, and back again.
    for wrapper in [&["nsenter", &enter][..], &[]] {
        let agent = &mut scene.nodes.worlds[0].agent;
        agent.kill()?;
        agent.wrap(wrapper);
        agent.restart()?;
        scene.nodes.know_each_other()?;
        scene.news_travels(0, 1)?;
        scene.news_travels(1, 0)?;
        scene.nodes.worlds[0].endpoints_ready(1)?;
        let late = scene.nodes.worlds[0].container("late")?;
        scene.kernel_knows(1, &late.ipv4, true)?;
        scene.nodes.worlds[0].docker.docker(&["rm", "-f", "late"])?;
        scene.kernel_knows(1, &late.ipv4, false)?;
    }
    scene.is_enforced()?;
    let status = scene.nodes.worlds[0].agent.cilium(&["status"])?;
    ensure!(status.contains("has-quorum=true"), "{status}");
    traffic.finish()
}

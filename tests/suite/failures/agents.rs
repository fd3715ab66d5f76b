//! The agents die, and wake up in another time.

use super::{LEASE, PATIENCE, Scene, in_kernel};
use anyhow::{Context, Result, ensure};
use lab::eventually;

#[test]
#[ignore = "needs root: make test"]
fn fifty_kills_fail_no_request() -> Result<()> {
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
    }
    scene.nodes.know_each_other()?;
    scene.news_travels(0, 1)?;
    scene.news_travels(1, 0)?;
    traffic.finish()
}

/// The clocks that agents go by jump: the steady ones between one start and the next, the wall clock while they run.
/// Nothing in the kernel is timed by them.
#[test]
#[ignore = "needs root: make test"]
fn clocks_may_jump_forth_and_back() -> Result<()> {
    let mut scene = Scene::start(&[&LEASE, &[&LEASE[..], &["--node-grace", "1"]].concat()])?;
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
    the_wall_clock_jumps(&mut scene)?;
    scene.is_enforced()?;
    let status = scene.nodes.worlds[0].agent.cilium(&["status"])?;
    ensure!(status.contains("has-quorum=true"), "{status}");
    traffic.finish()
}

/// Debian's libfaketime, which stands between a program and its libc.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// Hours forth and back under a running agent, whose lease is short: node 2, which forgets others at once, must not.
fn the_wall_clock_jumps(scene: &mut Scene) -> Result<()> {
    ensure!(std::path::Path::new(FAKETIME).exists(), "{FAKETIME} is missing: contrib/setup.sh installs it");
    let file = scene.nodes.worlds[0].machine.dir().join("wall-clock");
    let told = format!("FAKETIME_TIMESTAMP_FILE={}", file.display());
    let preload = format!("LD_PRELOAD={FAKETIME}");
    std::fs::write(&file, "+0")?;
    let agent = &mut scene.nodes.worlds[0].agent;
    agent.kill()?;
    agent.wrap(&["env", &preload, &told, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
    // One that is linked dynamically.
    agent.replace_binary(lab::other_build("cilium-agent")?);
    agent.restart()?;
    for jump in ["+5h", "-5h", "+400d", "-30d", "+0"] {
        std::fs::write(&file, jump)?;
        let renewed = remaining(scene)?;
        scene.news_travels(0, 1)?;
        scene.news_travels(1, 0)?;
        let late = scene.nodes.worlds[0].container("late")?;
        scene.kernel_knows(1, &late.ipv4, true)?;
        scene.nodes.worlds[0].docker.docker(&["rm", "-f", "late"])?;
        scene.kernel_knows(1, &late.ipv4, false)?;
        // The lease goes on being kept alive, at the same pace.
        eventually(PATIENCE, "the lease to be renewed", || {
            let now = remaining(scene)?;
            ensure!(now.0 == renewed.0, "another lease was taken: {renewed:?}, {now:?}");
            ensure!(now.1 >= 9, "{now:?}");
            Ok(())
        })?;
        ensure!(in_kernel(&scene.nodes.worlds[1], &scene.server.ipv4)?, "node 2 has given node 1 up");
    }
    Ok(())
}

/// The lease of node 1's record and the seconds that are left of it.
fn remaining(scene: &Scene) -> Result<(String, i64)> {
    let lease = super::etcd::lease_of(&scene.nodes, "node1")?;
    let text = scene.nodes.etcdctl(&["lease", "timetolive", &lease, "-w", "json"])?;
    let answer: serde_json::Value = serde_json::from_str(&text)?;
    let left = answer["ttl"].as_i64().with_context(|| format!("no ttl in {answer}"))?;
    Ok((lease, left))
}

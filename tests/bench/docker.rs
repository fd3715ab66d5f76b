//! What Docker's user waits for.

use crate::Effort;
use crate::table::{Goal, Table, median, percentile};
use anyhow::{Context, Result, ensure};
use lab::{Docker, Engine, Machine, World, eventually};
use serde_json::Value;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub fn measure(table: &mut Table, effort: Effort) -> Result<()> {
    starts(table, effort)?;
    init_packets(table)?;
    engine_start(table, effort)
}

/// Time in CreateEndpoint and Join, and from `docker run` to the first answer.
fn starts(table: &mut Table, effort: Effort) -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    // As ours is: a network of the user's, with both address families and Docker's name server in the container.
    world.docker.docker(&["network", "create", "--ipv6", "--subnet", "fd00:b::/64", "own"])?;
    let (mut ours, mut own, mut docker0, mut driver) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // The first start of each kind warms caches and is not counted.
    for round in 0..=effort.starts * 2 {
        let seconds = first_answer(&world, "net")?;
        let calls = world.agent.cilium_json(&["status"])?["plugin-calls"].clone();
        let (beside, plain) = (first_answer(&world, "own")?, first_answer(&world, "bridge")?);
        if round > 0 {
            driver.push((last_us(&calls, "CreateEndpoint")? + last_us(&calls, "Join")?) / 1000.0);
            ours.push(seconds * 1000.0);
            own.push(beside * 1000.0);
            docker0.push(plain * 1000.0);
        }
    }
    table.figure("CreateEndpoint + Join, median", "ms", median(&driver), Goal::AtMost(5.0));
    table.figure("CreateEndpoint + Join, 99th percentile", "ms", percentile(&driver, 99), Goal::AtMost(20.0));
    table.ratio(
        "docker run to first answer, median",
        "ms",
        median(&ours),
        ("a bridge network of Docker's, dual-stack too", median(&own)),
        Goal::AtMost(1.0),
    );
    table.ratio(
        "the same on docker0 (one family, no name server)",
        "ms",
        median(&docker0),
        ("a bridge network of Docker's", median(&own)),
        Goal::None,
    );
    Ok(())
}

fn last_us(calls: &Value, method: &str) -> Result<f64> {
    let call =
        calls.as_array().into_iter().flatten().find(|c| c["method"].as_str().is_some_and(|m| m.ends_with(method)));
    call.with_context(|| format!("no {method} in {calls}"))?["last_us"].as_f64().context("last_us")
}

fn first_answer(world: &World, network: &str) -> Result<f64> {
    let start = Instant::now();
    let container =
        world.docker.run("probe", &["--net", network, "-l", "id=probe"], &["httpd", "-f", "-p", "80", "-h", "/www"])?;
    eventually(Duration::from_secs(20), "the first answer", || {
        let address = format!("{}:80", container.ipv4).parse()?;
        // From the machine's own namespace, over and over.
        let probe = lab::binary("lab-probe")?;
        let _: std::net::SocketAddr = address;
        let output = world.machine.output(&[probe.to_str().context("path")?, "http", &format!("{address}")])?;
        ensure!(output.status.success());
        Ok(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    world.docker.docker(&["rm", "-f", "probe"])?;
    Ok(seconds)
}

/// Packets that any of 100 containers, started 20 at a time, sent before it had its identity.
fn init_packets(table: &mut Table) -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let server = world.docker.sleeper("server", "net", "server")?;
    world.docker.docker(&["exec", "-d", "server", "httpd", "-f", "-p", "80", "-h", "/www"])?;
    let mut command = world.machine.command(lab::binary("cilium")?.to_str().context("path")?);
    command.args(["monitor", "--json"]);
    let _monitor = world.machine.spawn("monitor.json", command)?;
    let script = format!(
        "for round in 1 2 3 4 5; do pids=; for n in $(seq 20); do
           docker run --rm --net net -l id=client lab curl -sS -m 5 -o /dev/null http://{}/ & pids=\"$pids $!\"
         done; wait $pids; done",
        server.ipv4
    );
    world.machine.run(&["sh", "-c", &script])?;
    let log = std::fs::read_to_string(world.machine.dir().join("monitor.json"))?;
    ensure!(log.lines().count() > 100, "the monitor saw nothing");
    let early = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|record| record["source_identity"] == 5 || record["destination_identity"] == 5)
        .count();
    table.figure("packets under reserved:init in 100 starts, 20 at a time", "packets", early as f64, Goal::AtMost(0.0));
    Ok(())
}

/// How long dockerd takes to come up with three containers that restart always, beside the same on its bridge.
fn engine_start(table: &mut Table, effort: Effort) -> Result<()> {
    let (mut ours, mut bridge) = (Vec::new(), Vec::new());
    let mut with_agent = World::start(&Engine::installed())?;
    with_agent.network()?;
    let plain = Rc::new(Machine::start()?);
    let mut plain_docker = Docker::start(&plain, &Engine::installed(), &[])?;
    for name in ["c1", "c2", "c3"] {
        let args = |network| ["--net", network, "--restart", "always"];
        with_agent.docker.run(name, &args("net"), &["httpd", "-f"])?;
        plain_docker.run(name, &args("bridge"), &["httpd", "-f"])?;
    }
    for _ in 0..effort.rounds.min(3) {
        ours.push(restart(&mut with_agent.docker)?);
        bridge.push(restart(&mut plain_docker)?);
    }
    let more = median(&ours) - median(&bridge);
    table.ratio(
        "dockerd start with 3 restart=always containers",
        "s",
        median(&ours),
        ("Docker bridge", median(&bridge)),
        Goal::None,
    );
    table.figure("the same: more than with bridge", "s", more, Goal::AtMost(1.0));
    Ok(())
}

fn restart(docker: &mut Docker) -> Result<f64> {
    docker.kill()?;
    let start = Instant::now();
    docker.relaunch()?;
    docker.wait_ready()?;
    let seconds = start.elapsed().as_secs_f64();
    for name in ["c1", "c2", "c3"] {
        eventually(Duration::from_secs(60), "a container that restarts always", || {
            ensure!(docker.inspect(name)?["State"]["Running"] == true);
            Ok(())
        })?;
    }
    Ok(seconds)
}

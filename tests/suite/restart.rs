//! The agent stops, dies and comes back while containers talk.

use anyhow::{Result, ensure};
use lab::{Engine, Hammer, World, eventually};
use serde_json::json;
use std::time::Duration;

fn allow(server: &str, client: &str) -> serde_json::Value {
    json!([{"endpointSelector": {"matchLabels": {"id": server}},
            "ingress": [{"fromEndpoints": [{"matchLabels": {"id": client}}]}]}])
}

fn hammers(world: &World, from: &lab::Container, to: &lab::Container) -> Result<Vec<Hammer>> {
    let mut hammers = Vec::new();
    for host in to.hosts() {
        for mode in ["keep", "connect"] {
            hammers.push(Hammer::start(&world.machine, &from.enter(), mode, &format!("{host}:80"))?);
        }
    }
    Ok(hammers)
}

fn finish(hammers: Vec<Hammer>) -> Result<()> {
    for hammer in hammers {
        let tally = hammer.finish()?;
        // A lost SYN would come again after one second.
        ensure!(tally.failed == 0 && tally.requests > 100 && tally.longest_ms < 900, "{tally:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: make test"]
fn twenty_kills_fail_no_request_and_open_no_hole() -> Result<()> {
    let mut world = World::start(&Engine::installed())?;
    world.network()?;
    let (server, client, stranger) =
        (world.container("server")?, world.container("client")?, world.container("stranger")?);
    let _server = world.serve(&server, &["tcp:80"])?;
    world.endpoints_ready(3)?;
    world.agent.import(&allow("server", "client"))?;
    world.expect(&stranger, &server, "tcp", 80, false)?;
    let before = world.kernel_inventory()?;
    let traffic = hammers(&world, &client, &server)?;
    for round in 0..20 {
        world.agent.kill()?;
        // Policy is enforced without an agent, for both who may and who may not.
        world.expect(&stranger, &server, "tcp", 80, false)?;
        world.expect(&client, &server, "tcp", 80, true)?;
        world.agent.relaunch()?;
        // Some rounds kill it again while it starts.
        if round % 3 != 0 {
            world.agent.wait_ready()?;
            world.expect(&stranger, &server, "tcp", 80, false)?;
        }
    }
    if !world.agent.running() {
        world.agent.relaunch()?;
    }
    world.agent.wait_ready()?;
    world.endpoints_ready(3)?;
    finish(traffic)?;
    eventually(Duration::from_secs(30), "the kernel to hold what it held before", || {
        let after = world.kernel_inventory()?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root: make test"]
fn what_went_while_the_agent_was_away_is_taken_down() -> Result<()> {
    let mut world = World::start(&Engine::installed())?;
    world.network()?;
    world.container("stays")?;
    world.endpoints_ready(1)?;
    let before = world.kernel_inventory()?;
    let gone = world.container("gone")?;
    world.endpoints_ready(2)?;
    world.agent.stop()?;
    // Without an agent the engine waits for each of its calls in vain, and then forgets the container.
    world.docker.docker(&["kill", "gone"])?;
    world.docker.docker(&["rm", "-f", "gone"])?;
    world.agent.restart()?;
    eventually(Duration::from_secs(40), "the gone container's endpoint and addresses to go", || {
        let after = world.kernel_inventory()?;
        ensure!(after == before, "{} is still known:\n{before}\n=>\n{after}", gone.ipv4);
        Ok(())
    })
}

#[test]
#[ignore = "needs root: make test"]
fn policies_networks_and_addresses_outlive_the_agent() -> Result<()> {
    let mut world = World::start(&Engine::installed())?;
    world.network()?;
    let (server, client) = (world.container("server")?, world.container("client")?);
    let _server = world.serve(&server, &["tcp:80"])?;
    world.agent.import(&allow("server", "client"))?;
    let policy = world.agent.cilium_json(&["policy", "get"])?;
    world.agent.kill()?;
    world.agent.restart()?;
    assert_eq!(world.agent.cilium_json(&["policy", "get"])?, policy);
    world.endpoints_ready(2)?;
    world.expect(&client, &server, "tcp", 80, true)?;
    // New containers on the old network get addresses of their own.
    let fresh = world.container("fresh")?;
    assert!(![&server.ipv4, &client.ipv4].contains(&&fresh.ipv4));
    world.expect(&fresh, &server, "tcp", 80, false)
}

#[test]
#[ignore = "needs root: make test"]
fn a_second_agent_on_the_same_state_is_refused() -> Result<()> {
    let world = World::start(&Engine::installed())?;
    let binary = lab::binary("cilium-agent")?;
    let lib = world.machine.dir().join("lib");
    let output = world.machine.output(&[&binary.display().to_string(), "--lib-dir", &lib.display().to_string()])?;
    ensure!(!output.status.success(), "a second agent runs");
    let said = lab::text(&output.stderr);
    ensure!(said.contains(&lib.display().to_string()), "{said}");
    world.agent.cilium(&["status", "--brief"]).map(|_| ())
}

#[test]
#[ignore = "needs root: make test"]
fn a_corrupt_state_file_is_set_aside_and_named() -> Result<()> {
    let mut world = World::start(&Engine::installed())?;
    world.network()?;
    world.container("aa")?;
    world.agent.stop()?;
    let lib = world.machine.dir().join("lib");
    let store = std::fs::read_dir(&lib)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "db"))
        .ok_or_else(|| anyhow::anyhow!("no store in {}", lib.display()))?;
    std::fs::write(&store, b"this is no store")?;
    world.agent.relaunch()?;
    eventually(Duration::from_secs(30), "the corrupt file to be set aside", || {
        let aside =
            std::fs::read_dir(&lib)?.flatten().any(|entry| entry.file_name().to_string_lossy().contains("corrupt"));
        ensure!(aside && world.agent.log().contains("corrupt"), "{}", world.agent.log());
        Ok(())
    })
}

//! A node dies and comes back, with the same address and with another.

use super::{LEASE, PATIENCE, Scene, in_kernel};
use anyhow::{Result, ensure};
use lab::{Container, eventually};
use std::time::Duration;

#[test]
#[ignore = "needs root: make test"]
fn a_dead_node_is_believed_in_until_the_grace_is_over() -> Result<()> {
    // Node 1 waits for ever, node 2 hardly at all.
    let (patient, hasty) =
        ([&LEASE[..], &["--node-grace", "86400"]].concat(), [&LEASE[..], &["--node-grace", "1"]].concat());
    let mut scene = Scene::start(&[&patient, &hasty, &patient])?;
    let far = scene.nodes.worlds[2].docker.sleeper("far", "net", "client")?;
    talks(&scene, &far)?;
    knows(&scene, 1, &far, true)?;
    let traffic = scene.traffic()?;

    // Its processes die and its wire is cut. As long as its lease lasts nobody minds.
    scene.nodes.worlds[2].agent.kill()?;
    scene.nodes.cut("node3", true)?;
    let known = in_kernel(&scene.nodes.worlds[1], &far.ipv4)?;
    ensure!(known || !has_lease(&scene)?, "given up before the lease ran out");
    eventually(PATIENCE, "the lease of node 3 to run out", || {
        ensure!(!has_lease(&scene)?);
        Ok(())
    })?;
    // The grace is over on node 2, and not on node 1, which knows that the lease is gone as well.
    knows(&scene, 1, &far, false)?;
    scene.news_travels(1, 0)?;
    for ip in [&far.ipv4, &far.ipv6] {
        ensure!(in_kernel(&scene.nodes.worlds[0], ip)?, "{ip} was given up on node 1");
    }

    // Back as it was.
    scene.nodes.cut("node3", false)?;
    scene.nodes.worlds[2].agent.restart()?;
    knows(&scene, 1, &far, true)?;
    talks(&scene, &far)?;

    // Back by other addresses, before anybody gave it up.
    scene.nodes.worlds[2].agent.kill()?;
    let machine = scene.nodes.worlds[2].machine.clone();
    for (family, old, new, gateway) in
        [("-4", "172.31.78.13/24", "172.31.78.23/24", "172.31.78.1"), ("-6", "fd78::13/64", "fd78::23/64", "fd78::1")]
    {
        machine.run(&["ip", "addr", "del", old, "dev", "eth0"])?;
        let flags: &[&str] = if family == "-6" { &["nodad"] } else { &[] };
        machine.run(&[&["ip", "addr", "add", new, "dev", "eth0"], flags].concat())?;
        machine.run(&["ip", family, "route", "replace", "default", "via", gateway])?;
    }
    scene.nodes.worlds[2].agent.restart()?;
    for world in &scene.nodes.worlds[..2] {
        eventually(PATIENCE, "the tunnel to go to the new address", || {
            let list = world.agent.cilium_json(&["bpf", "tunnel", "list"])?.to_string();
            ensure!(list.contains("172.31.78.23") && !list.contains("172.31.78.13"), "{list}");
            Ok(())
        })?;
    }
    knows(&scene, 1, &far, true)?;
    talks(&scene, &far)?;
    its_addresses_are_given_away(&mut scene, &far)?;
    traffic.finish()
}

/// A node that was out of touch for longer than `--block-grace` finds its part of the cluster's range with another: it
/// announces nothing of it any more, ends, and starts with another part.
fn its_addresses_are_given_away(scene: &mut Scene, far: &Container) -> Result<()> {
    scene.nodes.part_from_etcd(2, true)?;
    eventually(PATIENCE, "the lease of node 3 to run out", || {
        ensure!(!has_lease(scene)?);
        Ok(())
    })?;
    let claims = "cilium/state/blocks/v1/10.64.0.0%2F16/";
    let part = far.ipv4.rsplit_once('.').map(|(part, _)| part.to_owned()).unwrap_or_default();
    let claim = format!("{claims}{part}.0%2F24");
    let mine = scene.nodes.etcdctl(&["get", "--print-value-only", &claim])?;
    ensure!(mine.contains("\"node3\""), "{claim}: {mine}");
    scene.nodes.etcdctl(&["put", &claim, mine.trim().replace("node3", "node9").as_str()])?;
    scene.nodes.part_from_etcd(2, false)?;
    eventually(PATIENCE, "the agent of node 3 to notice and to end", || {
        ensure!(!has_lease(scene)?, "it announces what is another's");
        ensure!(!scene.nodes.worlds[2].agent.running());
        Ok(())
    })?;
    let log = scene.nodes.worlds[2].agent.log();
    ensure!(log.contains("is node node9 of default's by now"), "{log}");
    // What it had is not denied, allowed or sent to on the strength of what it was.
    knows(scene, 1, far, false)?;
    scene.nodes.worlds[2].agent.restart()?;
    let anew = scene.nodes.worlds[2].docker.sleeper("anew", "net", "client");
    let anew = match anew {
        Ok(anew) => anew,
        // The network is of the former part.
        Err(_) => {
            scene.nodes.worlds[2].docker.docker(&["rm", "-f", "far", "anew"])?;
            scene.nodes.worlds[2].docker.docker(&["network", "rm", "net"])?;
            scene.nodes.worlds[2].network()?;
            scene.nodes.worlds[2].docker.sleeper("anew", "net", "client")?
        }
    };
    ensure!(!anew.ipv4.starts_with(&format!("{part}.")), "{} is of the part that is another's", anew.ipv4);
    knows(scene, 1, &anew, true)?;
    talks(scene, &anew)?;
    let keys = scene.nodes.etcdctl(&["get", "--prefix", "--keys-only", "cilium/state/ip/"])?;
    ensure!(!keys.contains(&format!("/{}\n", far.ipv4)), "{keys}");
    Ok(())
}

fn knows(scene: &Scene, node: usize, container: &Container, expected: bool) -> Result<()> {
    [&container.ipv4, &container.ipv6].into_iter().try_for_each(|ip| scene.kernel_knows(node, ip, expected))
}

/// Waits until a container of node 3 reaches the server.
fn talks(scene: &Scene, container: &Container) -> Result<()> {
    eventually(Duration::from_secs(60), "node 3 to talk with node 1", || {
        scene.nodes.worlds[2].expect(container, &scene.server, "tcp", 80, true)
    })
}

fn has_lease(scene: &Scene) -> Result<bool> {
    let keys = scene.nodes.etcdctl(&["get", "--keys-only", "cilium/state/nodes/v1/default/node3"])?;
    Ok(!keys.trim().is_empty())
}

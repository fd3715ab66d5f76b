//! Containers, the host and the outside world.

use anyhow::{Result, ensure};
use lab::{Engine, MACHINE4, MACHINE6, Server, WORLD4, WORLD6, World};
use serde_json::json;

crate::on_each_engine!(containers_reach_host_and_world_and_the_host_reaches_them);

fn world_place() -> Vec<String> {
    vec!["nsenter".into(), "--net=/run/netns/world".into()]
}

fn containers_reach_host_and_world_and_the_host_reaches_them(engine: &Engine) -> Result<()> {
    let world = World::start(engine)?;
    world.network()?;
    let a = world.container("aa")?;
    let _outside = Server::start(&world.machine, &world_place(), &["tcp:80", "udp:53"])?;
    let _host = Server::start(&world.machine, &[], &["tcp:8000"])?;
    let _inside = world.serve(&a, &["tcp:80", "udp:53"])?;
    for (out, host, inside) in [(WORLD4, MACHINE4, a.ipv4.clone()), (WORLD6, MACHINE6, a.ipv6.clone())] {
        let url = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        for protocol in ["tcp", "udp"] {
            let port = if protocol == "tcp" { 80 } else { 53 };
            ensure!(world.reaches(&a.enter(), protocol, &url(out), port)?, "container -> {out} {protocol}");
            ensure!(world.reaches(&[], protocol, &url(&inside), port)?, "host -> {inside} {protocol}");
        }
        ensure!(world.reaches(&a.enter(), "tcp", &url(host), 8000)?, "container -> host {host}");
        a.run(&["ping", "-c1", "-W2", out])?;
        // More than one packet can carry, both ways.
        a.run(&["ping", "-c1", "-W2", "-s", "5000", out])?;
        world.machine.run(&["ping", "-c1", "-W2", "-s", "5000", &inside])?;
        world.machine.run(&["ping", "-c1", "-W2", &inside])?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: make test"]
fn policy_tells_host_and_world_apart() -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let a = world.container("aa")?;
    let _inside = world.serve(&a, &["tcp:80"])?;
    let _outside = Server::start(&world.machine, &world_place(), &["tcp:80", "tcp:81"])?;
    let select = json!({"matchLabels": {"id": "aa"}});
    world.agent.import(&json!([{"endpointSelector": select, "ingress": [{"fromEntities": ["world"]}]}]))?;
    for inside in a.hosts() {
        ensure!(!world.reaches(&[], "tcp", &inside, 80)?, "the host is not the world");
    }
    // The world reaches containers by their addresses when it has a route; it must not pass as the host.
    world.machine.run(&["ip", "-n", "world", "route", "add", &format!("{}/32", a.ipv4), "via", MACHINE4])?;
    world.machine.run(&["ip", "-n", "world", "-6", "route", "add", &format!("{}/128", a.ipv6), "via", MACHINE6])?;
    for inside in a.hosts() {
        ensure!(world.reaches(&world_place(), "tcp", &inside, 80)?, "the world is allowed to {inside}");
    }
    world.agent.cilium(&["policy", "delete", "--all"])?;
    world.agent.import(&json!([{"endpointSelector": select, "ingress": [{"fromEntities": ["host"]}]}]))?;
    for inside in a.hosts() {
        ensure!(world.reaches(&[], "tcp", &inside, 80)?, "the host is allowed to {inside}");
        ensure!(!world.reaches(&world_place(), "tcp", &inside, 80)?, "the world passes as the host to {inside}");
    }
    // CIDR: one address of the world, one port, with a hole.
    world.agent.cilium(&["policy", "delete", "--all"])?;
    world.agent.import(&json!([{"endpointSelector": select, "egress": [
        {"toCIDR": [format!("{WORLD4}/32")], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]},
        {"toCIDRSet": [{"cidr": "fd77::/64", "except": ["fd77::1/128"]}]},
    ]}]))?;
    ensure!(world.reaches(&a.enter(), "tcp", WORLD4, 80)?);
    ensure!(!world.reaches(&a.enter(), "tcp", WORLD4, 81)?);
    ensure!(!world.reaches(&a.enter(), "tcp", &format!("[{WORLD6}]"), 80)?);
    Ok(())
}

#[test]
#[ignore = "needs root: make test"]
fn path_errors_reach_the_container() -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let a = world.container("aa")?;
    let b = world.container("bb")?;
    // A hop limit that ends at this node is told, also between two containers of the node.
    for target in [WORLD4, &b.ipv4, WORLD6, &b.ipv6] {
        let said = lab::text(
            &world
                .machine
                .output(
                    &[
                        &a.enter().iter().map(String::as_str).collect::<Vec<_>>()[..],
                        &["ping", "-c1", "-W2", "-t1", target],
                    ]
                    .concat(),
                )?
                .stdout,
        );
        ensure!(said.contains("exceeded"), "ping -t1 {target}: {said}");
    }
    // A link further on carries less: the container learns it.
    world.machine.run(&["ip", "link", "set", "eth0", "mtu", "1300"])?;
    let said = a.run(&["sh", "-c", &format!("ping -c2 -W2 -M do -s 1400 {WORLD4} 2>&1 || true")])?;
    ensure!(said.contains("mtu") && said.contains("1300"), "{said}");
    let said = a.run(&["sh", "-c", &format!("ping -c2 -W2 -M do -s 1400 {WORLD6} 2>&1 || true")])?;
    ensure!(said.contains("mtu") && said.contains("1300"), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root: make test"]
fn a_container_cannot_speak_for_others() -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let (a, b) = (world.container("aa")?, world.container("bb")?);
    let _server = world.serve(&b, &["tcp:80"])?;
    world.agent.import(&json!([{"endpointSelector": {"matchLabels": {"id": "bb"}},
        "ingress": [{"fromEntities": ["host"]}, {"fromEndpoints": [{"matchLabels": {"id": "friend"}}]}]}]))?;
    let friend = world.container("friend")?;
    world.expect(&friend, &b, "tcp", 80, true)?;
    // a takes addresses that are not its own: the host's, the friend's.
    for address in [MACHINE4.to_owned(), friend.ipv4.clone()] {
        a.run(&["ip", "addr", "add", &format!("{address}/32"), "dev", "cilium0"])?;
        ensure!(a.run(&["ping", "-c1", "-W1", "-I", &address, &b.ipv4]).is_err(), "{address} was believed");
    }
    for address in [MACHINE6.to_owned(), friend.ipv6.clone()] {
        a.run(&["ip", "addr", "add", &format!("{address}/128"), "dev", "cilium0", "nodad"])?;
        ensure!(a.run(&["ping", "-c1", "-W1", "-I", &address, &b.ipv6]).is_err(), "{address} was believed");
    }
    let metrics = world.agent.cilium(&["bpf", "metrics", "list"])?;
    ensure!(metrics.contains("Invalid source ip"), "{metrics}");
    // Labels that would make it the host, or another identity, make nothing.
    let args = ["--net", "net", "-l", "reserved:host=", "-l", "io.cilium.fixed-identity=host", "-l", "reserved=host"];
    let evil = world.docker.run("evil", &args, &["sleep", "1000000"])?;
    world.expect(&evil, &b, "tcp", 80, false)?;
    let list = world.agent.cilium(&["endpoint", "list"])?;
    ensure!(!list.contains("reserved:host") && !list.contains("io.cilium"), "{list}");
    Ok(())
}

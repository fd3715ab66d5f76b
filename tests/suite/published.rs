//! Published ports: `docker run -p` on our networks, of the first of two nodes. The hub between them is the world.

use anyhow::{Context, Result, ensure};
use lab::{Container, Engine, Hammer, Machine, Nodes, World, eventually};
use serde_json::json;
use std::rc::Rc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const HOST: [&str; 2] = ["172.31.78.11", "[fd78::11]"];
const WORLD: [&str; 2] = ["172.31.78.1", "fd78::1"];

crate::on_each_engine!(ports_of_containers_are_the_hosts, compose_projects_work_unchanged);

/// A project as people have them, but for the network's drivers.
const PROJECT: &str = r#"
version: "2.4"
services:
  web:
    image: lab
    command: ["sh", "-c", "mkdir -p /www; echo from $$(hostname) >/www/index.html; exec httpd -f -p 80 -h /www"]
    hostname: web
    labels: {id: web}
    ports: ["8085:80", "127.0.0.1:8086:80"]
  worker:
    image: lab
    command: ["sleep", "1000000"]
    labels: {id: worker}
    depends_on: [web]
networks:
  default:
    driver: cilium
    enable_ipv6: true
    ipam: {driver: cilium}
"#;

fn compose_projects_work_unchanged(engine: &Engine) -> Result<()> {
    let nodes = Nodes::start(engine, 1, &[])?;
    let world = &nodes.worlds[0];
    let folder = world.machine.dir().join("shop");
    std::fs::create_dir(&folder)?;
    let file = folder.join("docker-compose.yml");
    std::fs::write(&file, PROJECT)?;
    let file = file.to_str().context("a path that is no text")?;
    let compose = |args: &[&str]| world.machine.run(&[&["docker-compose", "-f", file], args].concat());
    let get = |from_world: bool, url: &str| {
        let command = ["curl", "-sS", "-g", "-m", "5", url];
        if from_world { nodes.hub.run(&command) } else { world.machine.run(&command) }
    };
    let everybody_is_served = |ports: &[&str]| {
        for port in ports {
            for (from_world, host) in [(false, "127.0.0.1"), (false, HOST[0]), (true, HOST[0]), (true, HOST[1])] {
                let url = format!("http://{host}:{port}/");
                let what = format!("{url} to be answered, from the world: {from_world}");
                eventually(PATIENCE, &what, || {
                    ensure!(get(from_world, &url)?.trim() == "from web");
                    Ok(())
                })?;
            }
        }
        // By the name that the project gives it, of each worker.
        for index in ["1", "2"] {
            let said = compose(&["exec", "-T", "--index", index, "worker", "curl", "-sS", "-m", "5", "http://web/"])?;
            ensure!(said.trim() == "from web", "{said}");
        }
        Ok(())
    };
    compose(&["up", "-d", "--scale", "worker=2"])?;
    everybody_is_served(&["8085"])?;
    ensure!(get(false, "http://127.0.0.1:8086/")?.trim() == "from web");
    ensure!(get(true, &format!("http://{}:8086/", HOST[0])).is_err(), "that is for the host alone");
    compose(&["restart", "-t", "0", "web"])?;
    everybody_is_served(&["8085"])?;
    // Another container under the name. Not by --force-recreate, which this Compose cannot do with newer engines.
    compose(&["rm", "-f", "-s", "web"])?;
    compose(&["up", "-d", "--no-deps", "web"])?;
    everybody_is_served(&["8085"])?;
    let web = world.docker.docker(&["ps", "-q", "--filter", "label=id=web"])?;
    let ports = world.docker.docker(&["port", &web])?;
    ensure!(ports.is_empty() || ports.contains("8085"), "{ports}");
    compose(&["down", "-t", "0"])?;
    let left = world.docker.docker(&["network", "ls", "--filter", "driver=cilium", "-q"])?;
    ensure!(left.is_empty(), "{left}");
    ensure!(get(true, &format!("http://{}:8085/", HOST[0])).is_err(), "nobody is there any more");
    Ok(())
}

/// Whether one request is answered.
fn reaches(machine: &Machine, place: &[String], host: &str, port: u16) -> Result<bool> {
    let (probe, target) = (lab::binary("lab-probe")?, format!("{host}:{port}"));
    let protocol = if port == 5353 { "udp" } else { "tcp" };
    let command: Vec<&str> = place.iter().map(String::as_str).chain(probe.to_str()).collect();
    Ok(machine.output(&[&command[..], &["ask", protocol, &target, "500"]].concat())?.status.success())
}

fn publish(world: &World, name: &str) -> Result<Container> {
    let ports = ["-p", "8080:80", "-p", "127.0.0.1:9090:80", "-p", "5353:53/udp"];
    world.docker.run(name, &[&["--net", "net", "-l", "id=web"], &ports[..]].concat(), &["sleep", "1000000"])
}

fn ports_of_containers_are_the_hosts(engine: &Engine) -> Result<()> {
    let mut nodes = Nodes::start(engine, 2, &[])?;
    nodes.know_each_other()?;
    nodes.worlds.iter().try_for_each(World::network)?;
    let web = publish(&nodes.worlds[0], "web")?;
    let server = nodes.worlds[0].serve(&web, &["tcp:80", "udp:53"])?;
    everybody_asks(&nodes)?;
    policy_sees_who_asks(&nodes)?;
    let world = &nodes.worlds[0];
    let twin = ["run", "-d", "--name", "twin", "--net", "net", "-p", "8080:80", "lab", "sleep", "9"];
    let refused = world.docker.refused(&twin)?;
    ensure!(refused.contains("port is already allocated"), "{refused}");
    world.docker.docker(&["rm", "-f", "twin"])?;
    agents_come_and_go(&mut nodes)?;
    // With the container the port goes, and is another one's.
    let world = &nodes.worlds[0];
    drop(server);
    world.docker.docker(&["rm", "-f", "web"])?;
    for host in HOST {
        ensure!(!reaches(&nodes.hub, &[], host, 8080)?, "{host}");
    }
    let again = publish(world, "again")?;
    let _server = world.serve(&again, &["tcp:80", "udp:53"])?;
    for host in HOST {
        ensure!(reaches(&nodes.hub, &[], host, 8080)?, "{host}");
    }
    Ok(())
}

fn everybody_asks(nodes: &Nodes) -> Result<()> {
    let [world, other] = nodes.worlds.as_slice() else { anyhow::bail!("there are two nodes") };
    let (mate, far) = (world.container("mate")?, other.container("far")?);
    let stranger = world.docker.run("stranger", &[], &["sleep", "1000000"])?;
    let places: [(&str, &Rc<Machine>, Vec<String>); 5] = [
        ("the world", &nodes.hub, Vec::new()),
        ("the host", &world.machine, Vec::new()),
        ("the other host", &other.machine, Vec::new()),
        ("a container", &world.machine, mate.enter()),
        ("a container of the other node", &other.machine, far.enter()),
    ];
    let ask = |(name, machine, place): &(&str, &Rc<Machine>, Vec<String>), host: &str, port: u16, expected: bool| {
        ensure!(reaches(machine, place, host, port)? == expected, "{name} -> {host} {port}: not {expected}");
        Ok(())
    };
    for place in &places {
        for host in HOST {
            ask(place, host, 8080, true)?;
            ask(place, host, 5353, true)?;
            // That is the host's own, by its loopback address.
            ask(place, host, 9090, false)?;
        }
    }
    for (host, port) in [("127.0.0.1", 8080), ("127.0.0.1", 9090), ("[::1]", 8080)] {
        ask(&places[1], host, port, true)?;
    }
    // A container of another network of Docker's, by the host's address there and by another one.
    let stranger = ("a container on docker0", &world.machine, stranger.enter());
    for host in [HOST[0], "172.17.0.1"] {
        eventually(PATIENCE, "the program to be on docker0", || ask(&stranger, host, 8080, true))?;
    }
    let list = world.agent.cilium(&["service", "list"])?;
    ensure!(list.contains("0.0.0.0:8080/TCP") && list.contains("HostPort"), "{list}");
    Ok(())
}

fn policy_sees_who_asks(nodes: &Nodes) -> Result<()> {
    let world = &nodes.worlds[0];
    let expect = |host: &str, expected: bool| {
        eventually(PATIENCE, &format!("the world to reach {host}: {expected}"), || {
            ensure!(reaches(&nodes.hub, &[], host, 8080)? == expected);
            Ok(())
        })
    };
    let own = WORLD.map(|ip| format!("{ip}/{}", if ip.contains(':') { 128 } else { 32 }));
    let others = ["192.0.2.0/24", "2001:db8::/32"].map(str::to_owned);
    for (cidrs, expected) in [(own, true), (others, false)] {
        world.agent.cilium(&["policy", "delete", "--all"])?;
        let select = json!({"matchLabels": {"id": "web"}});
        world.agent.import(&json!([{"endpointSelector": select, "ingress": [{"fromCIDR": cidrs}]}]))?;
        HOST.iter().try_for_each(|host| expect(host, expected))?;
    }
    world.agent.cilium(&["policy", "delete", "--all"])?;
    HOST.iter().try_for_each(|host| expect(host, true))
}

fn agents_come_and_go(nodes: &mut Nodes) -> Result<()> {
    let mut hammers = Vec::new();
    for host in HOST {
        for mode in ["keep", "connect"] {
            hammers.push(Hammer::start(&nodes.hub, &[], mode, &format!("{host}:8080"))?);
        }
    }
    for _ in 0..3 {
        let agent = &mut nodes.worlds[0].agent;
        agent.kill()?;
        agent.relaunch()?;
        agent.wait_ready()?;
    }
    for hammer in hammers {
        let tally = hammer.finish()?;
        eprintln!("  {} requests, {} failed", tally.requests, tally.failed);
        ensure!(tally.requests > 3 && tally.failed == 0, "{tally:#?}");
    }
    Ok(())
}

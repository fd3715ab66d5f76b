//! Docker's side: networks, addresses and the life of containers, with the real client and engine.

use anyhow::{Context, Result, ensure};
use lab::{Engine, World, eventually};
use std::time::Duration;

crate::on_each_engine!(
    a_container_gets_addresses_and_talks,
    networks_have_their_own_subnets,
    fixed_addresses_are_kept_and_clashes_refused,
    a_full_pool_is_refused,
    a_container_on_two_networks,
    connect_and_disconnect_a_running_container,
    containers_and_engine_restart,
    unknown_options_are_refused_by_name,
    an_internal_network_has_no_world,
);

const CREATE: [&str; 6] = ["network", "create", "--driver", "cilium", "--ipam-driver", "cilium"];

fn create(world: &World, args: &[&str]) -> Result<()> {
    world.docker.docker(&[&CREATE[..], args].concat()).map(|_| ())
}

fn a_container_gets_addresses_and_talks(engine: &Engine) -> Result<()> {
    let world = World::start(engine)?;
    world.network()?;
    let (a, b) = (world.container("aa")?, world.container("bb")?);
    let network = world.docker.inspect("aa")?["NetworkSettings"]["Networks"]["net"].clone();
    assert_eq!(network["IPPrefixLen"], 32, "{network}");
    assert_eq!(network["GlobalIPv6PrefixLen"], 128, "{network}");
    let text = |key: &str| network[key].as_str().unwrap_or_default().to_owned();
    assert!(text("IPAddress").starts_with("10."), "{network}");
    assert!(text("GlobalIPv6Address").starts_with("f00d:"), "{network}");
    assert!(!text("IPv6Gateway").is_empty() && !text("Gateway").is_empty(), "{network}");
    assert_eq!(text("NetworkID").len(), 64, "{network}");
    assert_eq!(text("EndpointID").len(), 64, "{network}");
    assert_eq!(text("MacAddress").len(), 17, "{network}");

    let _server = world.serve(&b, &["tcp:80", "udp:53"])?;
    world.expect(&a, &b, "tcp", 80, true)?;
    world.expect(&a, &b, "udp", 53, true)?;
    a.run(&["ping", "-c1", "-W2", &b.ipv4])?;
    a.run(&["ping", "-c1", "-W2", &b.ipv6])?;
    // The gateway answers, and Docker's names resolve.
    a.run(&["ping", "-c1", "-W2", &text("Gateway")])?;
    a.run(&["ping", "-c1", "-W2", &text("IPv6Gateway")])?;
    world.docker.docker(&["exec", "aa", "ping", "-c1", "-W2", "bb"])?;
    Ok(())
}

fn networks_have_their_own_subnets(engine: &Engine) -> Result<()> {
    let world = World::start(engine)?;
    create(&world, &["--subnet", "10.99.0.0/16", "--gateway", "10.99.7.7", "--ip-range", "10.99.128.0/24", "one"])?;
    create(&world, &["--ipv6", "--subnet", "10.98.0.0/24", "--subnet", "fd98::/64", "--gateway", "fd98::77", "two"])?;
    let a = world.docker.sleeper("aa", "one", "aa")?;
    let b = world.docker.sleeper("bb", "two", "bb")?;
    assert!(a.ipv4.starts_with("10.99.128."), "{}", a.ipv4);
    assert!(b.ipv4.starts_with("10.98.0."), "{}", b.ipv4);
    assert!(b.ipv6.starts_with("fd98::"), "{}", b.ipv6);
    let settings = world.docker.inspect("aa")?["NetworkSettings"]["Networks"]["one"].clone();
    assert_eq!(settings["Gateway"], "10.99.7.7");
    let settings = world.docker.inspect("bb")?["NetworkSettings"]["Networks"]["two"].clone();
    assert_eq!(settings["IPv6Gateway"], "fd98::77");
    // One flat network: labels separate, not networks.
    let _server = world.serve(&b, &["tcp:80"])?;
    assert!(world.reaches(&a.enter(), "tcp", &b.ipv4, 80)?);
    // A subnet that is in use is refused, and names what is wrong.
    let said = world.docker.refused(&[&CREATE[..], &["--subnet", "10.99.3.0/24", "three"]].concat())?;
    assert!(said.contains("10.99."), "{said}");
    // The networks go, and their subnets are free again.
    world.docker.docker(&["rm", "-f", "aa", "bb"])?;
    world.docker.docker(&["network", "rm", "one", "two"])?;
    create(&world, &["--subnet", "10.99.3.0/24", "three"])
}

fn fixed_addresses_are_kept_and_clashes_refused(engine: &Engine) -> Result<()> {
    let world = World::start(engine)?;
    create(&world, &["--ipv6", "--subnet", "10.99.0.0/24", "--subnet", "fd99::/64", "net"])?;
    let fixed = ["--net", "net", "--ip", "10.99.0.42", "--ip6", "fd99::42", "--mac-address", "02:42:ac:11:65:43"];
    let a = world.docker.run("aa", &fixed, &["sleep", "1000000"])?;
    assert_eq!((a.ipv4.as_str(), a.ipv6.as_str()), ("10.99.0.42", "fd99::42"));
    assert_eq!(world.docker.inspect("aa")?["NetworkSettings"]["Networks"]["net"]["MacAddress"], "02:42:ac:11:65:43");
    assert!(a.run(&["ip", "link", "show", "cilium0"])?.contains("02:42:ac:11:65:43"));
    let b = world.docker.sleeper("bb", "net", "bb")?;
    b.run(&["ping", "-c1", "-W2", "10.99.0.42"])?;
    let said = world.docker.refused(&["run", "--rm", "--net", "net", "--ip", "10.99.0.42", "lab", "true"])?;
    assert!(said.contains("10.99.0.42"), "{said}");
    let said = world.docker.refused(&["run", "--rm", "--net", "net", "--ip", "10.99.0.1", "lab", "true"])?;
    assert!(said.contains("10.99.0.1"), "the gateway must be set aside: {said}");
    Ok(())
}

fn a_full_pool_is_refused(engine: &Engine) -> Result<()> {
    let world = World::start(engine)?;
    create(&world, &["--subnet", "10.99.0.0/29", "net"])?;
    // Eight addresses less network, broadcast and gateway.
    for name in ["c1", "c2", "c3", "c4", "c5"] {
        world.docker.sleeper(name, "net", name)?;
    }
    let said = world.docker.refused(&["run", "--rm", "--net", "net", "lab", "true"])?;
    assert!(said.contains("10.99.0.0/29"), "{said}");
    world.docker.docker(&["rm", "-f", "c3"])?;
    world.docker.sleeper("c6", "net", "c6").map(|_| ())
}

fn a_container_on_two_networks(engine: &Engine) -> Result<()> {
    let world = World::start(engine)?;
    create(&world, &["--subnet", "10.98.0.0/24", "one"])?;
    create(&world, &["--subnet", "10.99.0.0/24", "two"])?;
    let (a, b) = (world.docker.sleeper("aa", "one", "aa")?, world.docker.sleeper("bb", "two", "bb")?);
    world.docker.docker(&["create", "--name", "cc", "--net", "one", "-l", "id=cc", "lab", "sleep", "1000000"])?;
    world.docker.docker(&["network", "connect", "two", "cc"])?;
    world.docker.docker(&["start", "cc"])?;
    let c = world.docker.container("cc")?;
    let links = c.run(&["ip", "-br", "link"])?;
    assert!(links.contains("cilium0") && links.contains("cilium1"), "{links}");
    c.run(&["ping", "-c1", "-W2", &a.ipv4])?;
    c.run(&["ping", "-c1", "-W2", &b.ipv4])?;
    // And beside one of Docker's own networks.
    world.docker.docker(&["network", "create", "plain"])?;
    world.docker.docker(&["network", "connect", "plain", "cc"])?;
    c.run(&["ping", "-c1", "-W2", &a.ipv4])?;
    c.run(&["ping", "-c1", "-W2", &b.ipv4])?;
    world.docker.docker(&["network", "disconnect", "one", "cc"])?;
    c.run(&["ping", "-c1", "-W2", &b.ipv4])?;
    // Two networks out of the node's own pool, too.
    create(&world, &["flat1"])?;
    create(&world, &["flat2"])?;
    let d = world.docker.sleeper("dd", "flat1", "dd")?;
    world.docker.docker(&["network", "connect", "flat2", "dd"])?;
    d.run(&["ping", "-c1", "-W2", &a.ipv4]).map(|_| ())
}

fn connect_and_disconnect_a_running_container(engine: &Engine) -> Result<()> {
    let world = World::start(engine)?;
    world.network()?;
    let a = world.container("aa")?;
    world.docker.run("bb", &["-l", "id=bb"], &["sleep", "1000000"])?;
    world.docker.docker(&["network", "connect", "net", "bb"])?;
    world.endpoints_ready(2)?;
    let networks = world.docker.inspect("bb")?["NetworkSettings"]["Networks"].clone();
    let ip = networks["net"]["IPAddress"].as_str().context("no address")?.to_owned();
    a.run(&["ping", "-c1", "-W2", &ip])?;
    assert!(world.agent.cilium(&["endpoint", "list"])?.contains("container:id=bb"));
    world.docker.docker(&["network", "disconnect", "net", "bb"])?;
    world.endpoints_ready(1)?;
    ensure!(a.run(&["ping", "-c1", "-W1", &ip]).is_err(), "a disconnected container still answers");
    world.docker.docker(&["network", "connect", "net", "bb"])?;
    world.endpoints_ready(2)
}

fn containers_and_engine_restart(engine: &Engine) -> Result<()> {
    let mut world = World::start(engine)?;
    world.network()?;
    let a = world.container("aa")?;
    let always = ["--net", "net", "-l", "id=bb", "--restart", "always"];
    world.docker.run("bb", &always, &["httpd", "-f", "-p", "80"])?;
    let ping = |world: &World| -> Result<()> {
        let (a, b) = (world.docker.container("aa")?, world.docker.container("bb")?);
        for ip in [&b.ipv4, &b.ipv6] {
            a.run(&["ping", "-c1", "-W2", ip])?;
        }
        Ok(())
    };
    ping(&world)?;
    world.docker.docker(&["restart", "-t", "0", "aa"])?;
    world.endpoints_ready(2)?;
    ping(&world)?;
    drop(a);

    // The engine goes politely, and comes back with what must always run.
    world.docker.terminate()?;
    world.docker.relaunch()?;
    world.docker.wait_ready()?;
    eventually(Duration::from_secs(30), "bb to run again", || {
        ensure!(world.docker.inspect("bb")?["State"]["Running"] == true);
        Ok(())
    })?;
    world.docker.docker(&["start", "aa"])?;
    world.endpoints_ready(2)?;
    ping(&world)?;

    // And now without warning: what it forgets must not be left behind.
    world.docker.kill()?;
    world.docker.relaunch()?;
    world.docker.wait_ready()?;
    eventually(Duration::from_secs(30), "bb to run again", || {
        ensure!(world.docker.inspect("bb")?["State"]["Running"] == true);
        Ok(())
    })?;
    world.docker.docker(&["restart", "-t", "0", "aa"])?;
    eventually(Duration::from_secs(40), "stale endpoints to go", || {
        let list = world.agent.cilium_json(&["endpoint", "list"])?;
        ensure!(list.as_array().is_some_and(|l| l.len() == 2), "{list}");
        Ok(())
    })?;
    ping(&world)
}

fn unknown_options_are_refused_by_name(engine: &Engine) -> Result<()> {
    let world = World::start(engine)?;
    let before = world.kernel_inventory()?;
    let said = world.docker.refused(&[&CREATE[..], &["-o", "no.such.option=1", "net"]].concat())?;
    assert!(said.contains("no.such.option"), "{said}");
    let said = world.docker.refused(&[&CREATE[..], &["--ipam-opt", "colour=red", "net"]].concat())?;
    assert!(said.contains("colour"), "{said}");
    let said = world.docker.refused(&[&CREATE[..], &["-o", "mtu=12", "net"]].concat())?;
    assert!(said.contains("mtu"), "{said}");
    assert_eq!(world.kernel_inventory()?, before);
    create(&world, &["-o", "mtu=1400", "net"])?;
    let a = world.docker.sleeper("aa", "net", "aa")?;
    assert!(a.run(&["ip", "link", "show", "cilium0"])?.contains("mtu 1400"));
    Ok(())
}

fn an_internal_network_has_no_world(engine: &Engine) -> Result<()> {
    let world = World::start(engine)?;
    create(&world, &["--internal", "--subnet", "10.99.0.0/24", "net"])?;
    let (a, b) = (world.docker.sleeper("aa", "net", "aa")?, world.docker.sleeper("bb", "net", "bb")?);
    a.run(&["ping", "-c1", "-W2", &b.ipv4])?;
    ensure!(a.run(&["ping", "-c1", "-W1", lab::WORLD4]).is_err(), "an internal network reaches the world");
    // Nor when the container makes itself a way.
    a.run(&["ip", "route", "replace", "default", "via", "10.99.0.1", "dev", "cilium0"])?;
    ensure!(a.run(&["ping", "-c1", "-W1", lab::WORLD4]).is_err(), "an internal network reaches the world");
    Ok(())
}

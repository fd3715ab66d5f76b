//! Large packets, and a network between the nodes that takes only small ones.

use super::{Lab, PATIENCE, host};
use anyhow::{Context, Result, ensure};
use lab::{Container, Underlay, World, eventually};

/// So much that no packet carries it.
const MUCH: usize = 1 << 20;
/// A datagram of several fragments.
const DATAGRAM: usize = 9000;

pub(super) fn large_packets(lab: &mut Lab) -> Result<()> {
    let mtu = 1500 - overhead(lab);
    let (server, client) = (&lab.server, &lab.client);
    for ip in lab.ips(server) {
        let headers = if ip.contains(':') { 48 } else { 28 };
        let ping = |bytes: usize| client.run(&["ping", "-c1", "-W2", "-M", "do", "-s", &bytes.to_string(), ip]);
        ping(mtu - headers).with_context(|| format!("as large as the MTU of {mtu}"))?;
        ensure!(ping(mtu - headers + 1).is_err(), "larger than the MTU");
        // In pieces.
        client.run(&["ping", "-c1", "-W2", "-s", "8000", ip])?;
        carries(lab.two(), client, "tcp", ip, MUCH)?;
        carries(lab.two(), client, "udp", ip, DATAGRAM)?;
    }
    // The nodes themselves, to and from pods of the other.
    for ip in lab.ips(server) {
        let probe = lab::binary("lab-probe")?;
        let target = format!("{}:80", host(ip));
        let probe =
            [probe.to_str().context("path")?, "ask", "tcp", &target, "20000", &MUCH.to_string()].map(str::to_owned);
        lab.two().machine.run(&probe.iter().map(String::as_str).collect::<Vec<_>>())?;
        lab.two().machine.run(&["ping", "-c1", "-W2", "-s", "8000", ip])?;
    }
    for ip in lab.underlay_ips("11") {
        client.run(&["ping", "-c1", "-W2", "-s", "8000", &ip])?;
    }
    Ok(())
}

pub(super) fn smaller_underlay(lab: &mut Lab) -> Result<()> {
    let outcome = in_smaller_underlay(lab);
    set_mtu(lab, 1500)?;
    outcome?;
    // All who learned of the smaller one have forgotten it.
    for container in [&lab.server, &lab.mate, &lab.client, &lab.stranger] {
        container.run(&["ip", "route", "flush", "cache"])?;
        container.run(&["ip", "-6", "route", "flush", "cache"])?;
    }
    let back = 1500 - overhead(lab);
    has_mtu(lab, "restored", back)?;
    large_packets(lab)
}

fn in_smaller_underlay(lab: &Lab) -> Result<()> {
    const SMALL: usize = 1400;
    // Those who are there, on both sides.
    set_mtu(lab, SMALL)?;
    let mtu = SMALL - overhead(lab);
    has_mtu(lab, "small", mtu)?;
    let (server, client) = (&lab.server, &lab.client);
    for (from, to) in [(client, server), (server, client)] {
        for ip in lab.ips(to) {
            is_told(from, ip, mtu).with_context(|| format!("{} -> {ip}", from.name))?;
        }
    }
    for ip in lab.ips(server) {
        eventually(PATIENCE, "TCP to go on", || carries(lab.two(), client, "tcp", ip, MUCH))?;
        // Pieces of datagrams are not told of: both ends cut by what they were told before.
        eventually(PATIENCE, "datagrams to be cut smaller", || carries(lab.two(), client, "udp", ip, DATAGRAM))?;
    }
    Ok(())
}

/// Waits until a sender of too much is told how much it may be, and what is no more goes through.
fn is_told(from: &Container, ip: &str, mtu: usize) -> Result<()> {
    let headers = if ip.contains(':') { 48 } else { 28 };
    eventually(PATIENCE, "the sender to be told", || {
        let size = (mtu - headers + 20).to_string();
        let said = from.run(&["sh", "-c", &format!("ping -c2 -W2 -M do -s {size} {ip} 2>&1 || true")])?;
        ensure!(said.contains(&format!("mtu = {mtu}")) || said.contains(&format!("mtu={mtu}")), "{said}");
        Ok(())
    })?;
    from.run(&["ping", "-c1", "-W2", "-M", "do", "-s", &(mtu - headers).to_string(), ip]).map(drop)
}

/// Waits until new containers get this MTU, on both nodes: each finds out for itself.
fn has_mtu(lab: &Lab, name: &str, mtu: usize) -> Result<()> {
    for world in [lab.one(), lab.two()] {
        eventually(PATIENCE, "new containers to have the new MTU", || {
            // What is left of an attempt before.
            let _ = world.docker.docker(&["rm", "-f", name]);
            let link = world.container(name)?.run(&["ip", "link", "show", "cilium0"])?;
            ensure!(link.contains(&format!("mtu {mtu} ")), "{link}");
            Ok(())
        })?;
    }
    Ok(())
}

fn carries(world: &World, from: &Container, protocol: &str, ip: &str, bytes: usize) -> Result<()> {
    let port = if protocol == "tcp" { 80 } else { 53 };
    let (probe, target) = (lab::binary("lab-probe")?, format!("{}:{port}", host(ip)));
    let enter = from.enter();
    let enter: Vec<&str> = enter.iter().map(String::as_str).collect();
    let ask = ["ask", protocol, &target, "10000", &bytes.to_string()].map(str::to_owned);
    let ask: Vec<&str> = ask.iter().map(String::as_str).collect();
    world.machine.run(&[&enter[..], &[probe.to_str().context("path")?], &ask].concat()).map(drop)
}

/// The network between the nodes: their own devices, and the other ends of these.
fn set_mtu(lab: &Lab, mtu: usize) -> Result<()> {
    let mtu = mtu.to_string();
    for (world, port) in lab.nodes.worlds.iter().zip(["node1", "node2"]) {
        world.machine.run(&["ip", "link", "set", "eth0", "mtu", &mtu])?;
        lab.nodes.hub.run(&["ip", "link", "set", port, "mtu", &mtu])?;
    }
    Ok(())
}

/// What the outer headers take.
fn overhead(lab: &Lab) -> usize {
    match (lab.tunnel, lab.underlay) {
        (None, _) => 0,
        (Some(_), Underlay::Both) => 50,
        (Some(_), Underlay::Ipv6) => 70,
    }
}

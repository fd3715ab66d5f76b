//! Those who say that they are others.

use super::{Lab, PATIENCE, host, labelled};
use anyhow::{Context, Result, ensure};
use lab::{Server, Sink, Underlay, World, eventually};
use serde_json::json;
use std::net::IpAddr;

pub(super) fn by_a_container(lab: &mut Lab) -> Result<()> {
    lab.import(&json!([{"endpointSelector": labelled("server"),
        "ingress": [{"fromEndpoints": [labelled("client")]}, {"fromEntities": ["remote-node", "host"]}]}]))?;
    lab.holds(&lab.client, &lab.server, "icmp", 0, true)?;
    lab.holds(&lab.stranger, &lab.server, "icmp", 0, false)?;
    // A container with addresses of others: another one's of its node, one of the other node, both nodes'.
    let thief = lab.two().container("thief")?;
    lab.holds(&thief, &lab.server, "icmp", 0, false)?;
    let mut stolen = Vec::new();
    for container in [&lab.client, &lab.mate] {
        stolen.extend(lab.ips(container).into_iter().map(str::to_owned));
    }
    stolen.extend(["11", "12"].iter().flat_map(|last| lab.underlay_ips(last)));
    let before = dropped(lab.two(), "Invalid source ip")?;
    for ip in &stolen {
        let v6 = ip.contains(':');
        let prefix = format!("{ip}/{}", if v6 { 128 } else { 32 });
        let flags: &[&str] = if v6 { &["nodad"] } else { &[] };
        thief.run(&[&["ip", "addr", "add", &prefix, "dev", "cilium0"], flags].concat())?;
        let target = if v6 { &lab.server.ipv6 } else { &lab.server.ipv4 };
        ensure!(thief.run(&["ping", "-c1", "-W1", "-I", ip, target]).is_err(), "{ip} was believed");
    }
    let after = dropped(lab.two(), "Invalid source ip")?;
    ensure!(after >= before + stolen.len() as u64, "{before} drops before, {after} after {stolen:?}");

    // Nobody but nodes speaks to tunnels; other ports of the same machines are reached.
    let _server = Server::start(&lab.nodes.hub, &[], &["udp:8472", "udp:6081", "udp:8473"])?;
    for ip in lab.underlay_ips("1") {
        let reached = |port| lab.two().reaches(&lab.client.enter(), "udp", &host(&ip), port);
        ensure!(reached(8473)?, "{ip} is out of reach");
        for port in [8472, 6081] {
            ensure!(!reached(port)?, "a container speaks to port {port} of {ip}");
        }
    }
    // Labels that would make it another make nothing.
    let args = ["--net", "net", "-l", "reserved:host=", "-l", "io.cilium.fixed-identity=host", "-l", "reserved=host"];
    let evil = lab.two().docker.run("evil", &args, &["sleep", "1000000"])?;
    lab.holds(&evil, &lab.server, "icmp", 0, false)
}

/// What somebody on the underlay sends, who is no node.
struct Forged {
    said: &'static str,
    packet: Vec<u8>,
}

pub(super) fn by_an_outsider(lab: &mut Lab) -> Result<()> {
    lab.import(&json!([{"endpointSelector": labelled("server"),
        "ingress": [{"fromEndpoints": [labelled("client"), labelled("mate")]}]}]))?;
    let sink = Sink::start(&lab.one().machine, &lab.server.enter(), 9000)?;
    let identities = Identities {
        client: identity(lab.one(), "client")?,
        stranger: identity(lab.one(), "stranger")?,
        mate: identity(lab.one(), "mate")?,
    };
    for ipv4 in lab.families() {
        let (lies, truth) = match lab.tunnel {
            Some(tunnel) => through_the_tunnel(lab, tunnel, *ipv4, &identities)?,
            None => as_they_are(lab, *ipv4)?,
        };
        let before = sink.heard()?.len();
        for forged in &lies {
            send(lab, &forged.packet).with_context(|| forged.said)?;
        }
        // What can be told from a node's own word in no way is believed, as everything from a node is: so the forgeries
        // are well-formed, and those before it were refused for what they said.
        eventually(PATIENCE, "a good packet to come through", || {
            send(lab, &truth.packet)?;
            ensure!(sink.heard()?.len() > before);
            Ok(())
        })?;
        let heard = sink.heard()?.split_off(before);
        ensure!(heard.iter().all(|line| line == truth.said), "{heard:?}");
    }
    if lab.tunnel.is_some() {
        for reason in ["Unknown sender", "Invalid identity", "Invalid source ip"] {
            ensure!(dropped(lab.one(), reason)? > 0, "{reason} was not counted");
        }
    }
    Ok(())
}

struct Identities {
    client: u32,
    stranger: u32,
    mate: u32,
}

/// Lies in a tunnel's packets to the server, and one that is as node 2 would send it.
fn through_the_tunnel(lab: &Lab, tunnel: &str, ipv4: bool, ids: &Identities) -> Result<(Vec<Forged>, Forged)> {
    let of = |ip4: &str, ip6: &str| -> Result<IpAddr> { Ok(if ipv4 { ip4.parse()? } else { ip6.parse()? }) };
    let server = of(&lab.server.ipv4, &lab.server.ipv6)?;
    let client = of(&lab.client.ipv4, &lab.client.ipv6)?;
    let mate = of(&lab.mate.ipv4, &lab.mate.ipv6)?;
    let (hub, node1, node2): (IpAddr, IpAddr, IpAddr) =
        (lab.underlay_ips("1").swap_remove(0).parse()?, lab.vtep(1).parse()?, lab.vtep(2).parse()?);
    let nobody: IpAddr = if lab.underlay == Underlay::Both { "172.31.78.200" } else { "fd78::200" }.parse()?;
    let forge = |said: &'static str, from: IpAddr, identity: u32, source: IpAddr| {
        let inner = datagram(source, server, 40_000, 9000, said.as_bytes());
        Forged { said, packet: datagram(from, node1, 50_000, port(tunnel), &wrap(tunnel, identity, ipv4, &inner)) }
    };
    let lies = vec![
        forge("from the hub", hub, ids.client, client),
        forge("from an address that nobody has", nobody, ids.client, client),
        forge("from the node itself", node1, ids.client, client),
        forge("node 2 as this host", node2, 1, client),
        forge("node 2 for the world", node2, 2, client),
        forge("node 2 for the world's IPv4", node2, 9, client),
        forge("node 2 for nobody", node2, 0, client),
        forge("node 2 for a prefix", node2, 0x80_0001, client),
        forge("node 2 for an identity that nobody has", node2, 0xfff0, client),
        forge("node 2 for the stranger, by the client's address", node2, ids.stranger, client),
        forge("node 2 for a container of node 1", node2, ids.mate, mate),
        forge("node 2 from the server to itself", node2, ids.client, server),
    ];
    Ok((lies, forge("node 2 for the client", node2, ids.client, client)))
}

/// Without a tunnel an address is all there is to lie about. Whoever may send from a node's pods' addresses on the network
/// between the nodes is taken for them; nobody is taken for what this node knows better.
fn as_they_are(lab: &Lab, ipv4: bool) -> Result<(Vec<Forged>, Forged)> {
    let of = |ip4: &str, ip6: &str| -> Result<IpAddr> { Ok(if ipv4 { ip4.parse()? } else { ip6.parse()? }) };
    let server = of(&lab.server.ipv4, &lab.server.ipv6)?;
    let forge = |said: &'static str, from: IpAddr| Forged {
        said,
        packet: datagram(from, server, 40_000, 9000, said.as_bytes()),
    };
    let lies = vec![
        forge("a container of node 1", of(&lab.mate.ipv4, &lab.mate.ipv6)?),
        forge("the server itself", server),
        forge("node 1", of("172.31.78.11", "fd78::11")?),
        forge("node 2", of("172.31.78.12", "fd78::12")?),
        forge("the hub", of("172.31.78.1", "fd78::1")?),
        forge("the stranger", of(&lab.stranger.ipv4, &lab.stranger.ipv6)?),
        forge("nobody of node 2's", of("10.64.1.250", "fd64::1:fa")?),
    ];
    Ok((lies, forge("the client", of(&lab.client.ipv4, &lab.client.ipv6)?)))
}

/// Sends a packet from the hub to node 1, whatever it says of itself.
fn send(lab: &Lab, packet: &[u8]) -> Result<()> {
    let ipv4 = packet[0] >> 4 == 4;
    let hex: String = packet.iter().map(|byte| format!("{byte:02x}")).collect();
    let to = if ipv4 {
        IpAddr::from(<[u8; 4]>::try_from(&packet[16..20])?)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&packet[24..40])?)
    };
    let (to, hub) = (to.to_string(), &lab.nodes.hub);
    // Without a tunnel the hub needs a way to pods.
    let gateway = if ipv4 { "172.31.78.11" } else { "fd78::11" };
    let pods = to.starts_with("10.64.") || to.starts_with("fd64:");
    let family = if ipv4 { "-4" } else { "-6" };
    if pods {
        hub.run(&["ip", family, "route", "replace", &to, "via", gateway])?;
    }
    let probe = lab::binary("lab-probe")?;
    let sent = hub.run(&[probe.to_str().context("path")?, "packet", &to, &hex]);
    if pods {
        hub.run(&["ip", family, "route", "del", &to])?;
    }
    sent.map(drop)
}

fn identity(world: &World, id: &str) -> Result<u32> {
    let list = world.agent.cilium_json(&["identity", "list"])?;
    let label = format!("\"container:id={id}\"");
    let row = list.as_array().context("no list")?.iter().find(|row| row.to_string().contains(&label)).cloned();
    let row = row.with_context(|| format!("{label} is not in {list}"))?;
    Ok(u32::try_from(row["id"].as_u64().with_context(|| row.to_string())?)?)
}

/// Packets that a node dropped for this reason.
fn dropped(world: &World, reason: &str) -> Result<u64> {
    let rows = world.agent.cilium_json(&["bpf", "metrics", "list"])?;
    let rows =
        rows.as_array().context("no list")?.iter().filter(|row| row.to_string().contains(&format!("\"{reason}\"")));
    Ok(rows.filter_map(|row| row["packets"].as_u64()).sum())
}

fn port(tunnel: &str) -> u16 {
    if tunnel == "vxlan" { 8472 } else { 6081 }
}

/// The inner packet behind an Ethernet header and that of the tunnel.
fn wrap(tunnel: &str, identity: u32, ipv4: bool, inner: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if ipv4 { [0x08, 0] } else { [0x86, 0xdd] };
    let vni = (identity << 8).to_be_bytes();
    let header: [u8; 4] = if tunnel == "vxlan" { [0x08, 0, 0, 0] } else { [0, 0, 0x65, 0x58] };
    let ethernet = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]].concat();
    [&header[..], &vni, &ethernet, &kind, inner].concat()
}

/// A UDP datagram with its IP header.
fn datagram(from: IpAddr, to: IpAddr, source: u16, port: u16, text: &[u8]) -> Vec<u8> {
    let length = (8 + text.len()) as u16;
    let mut udp = [source, port, length, 0].map(u16::to_be_bytes).concat();
    udp.extend(text);
    let addresses = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => unreachable!("both ends of a packet are of one family"),
    };
    let pseudo = [&addresses[..], &[0, 17], &length.to_be_bytes(), &udp].concat();
    udp[6..8].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let mut header = if from.is_ipv4() {
        let total = (20 + length).to_be_bytes();
        let mut header = vec![0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, 17, 0, 0];
        header.extend(&addresses);
        let sum = checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        header
    } else {
        let length = length.to_be_bytes();
        let mut header = vec![0x60, 0, 0, 0, length[0], length[1], 17, 64];
        header.extend(&addresses);
        header
    };
    header.extend(udp);
    header
}

fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

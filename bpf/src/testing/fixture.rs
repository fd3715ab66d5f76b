//! Two containers on one node, one of which may call the other: what the benchmark's packets meet.
//!
//! Owns the numbers and the filled maps.

use super::node::Node;
use crate::abi;
use crate::names::map;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

pub const CALLER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
pub const CALLED: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const CALLER_SLOT: u32 = 1;
pub const CALLED_SLOT: u32 = 2;
pub const CALLER_IDENTITY: u32 = 1000;
pub const CALLED_IDENTITY: u32 = 2000;
/// The first port that may be called.
pub const PORT: u32 = 8000;

/// A service of which the called one is the only backend: each port leads to one of `ports`.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const SERVICE_PORT: u32 = 20_000;

/// Of the called one the next number.
pub const CALLER_POLICY: u32 = 11;
const CALLED_POLICY: u32 = 12;
/// Identities and addresses beside the two, so that tables are not empty.
const OTHERS: u32 = 1000;

/// The IPv6 address that belongs to an IPv4 one; the driver makes the same.
pub fn in_ipv6(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from(0xf00d_0000_u128 << 96 | u128::from(u32::from(address)))
}

pub fn ports() -> Range<u32> {
    PORT..PORT + 200
}

/// Fills the maps: endpoints, policies of 200 ports and 100 other entries, an address cache of 1000.
pub fn fill(node: &mut Node) -> anyhow::Result<()> {
    for (slot, address, identity, policy) in
        [(CALLER_SLOT, CALLER, CALLER_IDENTITY, CALLER_POLICY), (CALLED_SLOT, CALLED, CALLED_IDENTITY, CALLED_POLICY)]
    {
        node.set_endpoint(slot, endpoint(address, identity, policy))?;
        let entry = abi::IpcacheEntry { identity, slot: u16::try_from(slot)?, ..Default::default() };
        node.set_ipcache(ipcache_key(address.into()), 32, entry)?;
        node.set_ipcache(ipcache_key(in_ipv6(address).into()), 128, entry)?;
    }
    for n in 0..OTHERS {
        let key = ipcache_key(Ipv4Addr::from(0x0a80_0000 + n * 7).into());
        node.set_ipcache(key, 32, abi::IpcacheEntry { identity: 3000 + n, ..Default::default() })?;
    }
    fill_policies(node, CALLER_POLICY, ports())?;
    for n in 0..100 {
        for (policy, direction) in [(CALLER_POLICY, abi::POLICY_EGRESS), (CALLED_POLICY, abi::POLICY_INGRESS)] {
            allow(node, policy_key(policy, 3000 + n, 80 + n % 50, direction)?)?;
        }
    }
    node.set_runtime(abi::Runtime { ipcache_generation: 1, monitor: abi::MONITOR_MEDIUM, ..Default::default() })
}

/// Writes the services, and so many others.
pub fn fill_services(node: &mut Node, others: u32) -> anyhow::Result<()> {
    for (n, port) in (0..).zip(ports()) {
        let called = ipcache_key(CALLED.into());
        let (number, family) = (n + 1, called.family);
        let port = abi::Be16::new(u16::try_from(port)?);
        let backend = abi::LbBackend { number, port, family, address: called.address, ..Default::default() };
        node.set(map::LB_BACKENDS, number, backend)?;
        let mut row = abi::LbRow::default();
        row.backend[0] = number;
        node.set(map::LB_PLACES, number, row)?;
        put_service(node, number, SERVICE, SERVICE_PORT + n)?;
    }
    for n in 0..others {
        put_service(node, 1000 + n, Ipv4Addr::from(u32::from(SERVICE) + 1 + n / 50), 80 + n % 50)?;
    }
    Ok(())
}

fn put_service(node: &mut Node, number: u32, address: Ipv4Addr, port: u32) -> anyhow::Result<()> {
    let abi::IpcacheKey { family, address, .. } = ipcache_key(address.into());
    let port = abi::Be16::new(u16::try_from(port)?);
    node.set(map::LB_REVERSE, number, abi::LbReverse { number, port, family, address, ..Default::default() })?;
    // The others are as one of the first, so that a look-up that finds a wrong one still finds somebody.
    let first = ((number - 1) % 200 + 1) * abi::LB_ROW;
    let kind = abi::LB_CLUSTER_IP as u8;
    let service = abi::LbService { number, first: [first; 2], places: [1; 2], kind, ..Default::default() };
    node.put(map::LB_SERVICES, abi::LbKey { address, port, protocol: 6, family }, service)
}

/// Writes policies by which these ports may be called: `policy` of the caller, the next number of the called one.
pub fn fill_policies(node: &mut Node, policy: u32, ports: Range<u32>) -> anyhow::Result<()> {
    for (policy, subject, peer, direction) in [
        (policy, CALLER_IDENTITY, CALLED_IDENTITY, abi::POLICY_EGRESS),
        (policy + 1, CALLED_IDENTITY, CALLER_IDENTITY, abi::POLICY_INGRESS),
    ] {
        let mut header = abi::PolicyHeader { id: policy, identity: subject, ..Default::default() };
        header.classes[direction as usize][abi::POLICY_PEER as usize] = 1 << abi::POLICY_CLASS_EXACT;
        for port in ports.clone() {
            allow(node, policy_key(policy, peer, port, direction)?)?;
        }
        node.set_header(header)?;
    }
    Ok(())
}

/// Puts such policies in force.
pub fn use_policies(node: &mut Node, policy: u32) -> anyhow::Result<()> {
    for (slot, policy) in [(CALLER_SLOT, policy), (CALLED_SLOT, policy + 1)] {
        let endpoint = abi::Endpoint { policy, ..node.endpoint(slot)? };
        node.set_endpoint(slot, endpoint)?;
    }
    Ok(())
}

fn allow(node: &mut Node, key: abi::PolicyKey) -> anyhow::Result<()> {
    node.set_policy(key, abi::PolicyEntry { precedence: 1, ..Default::default() })
}

fn endpoint(address: Ipv4Addr, identity: u32, policy: u32) -> abi::Endpoint {
    abi::Endpoint {
        policy,
        identity,
        ipv4: address.into(),
        ipv6: in_ipv6(address).octets(),
        flags: abi::ENDPOINT_VALID as u16,
        mac: [2, 0, 0, 0, 0, 1],
        node_mac: [2, 0, 0, 0, 0, 2],
        ..Default::default()
    }
}

fn ipcache_key(address: IpAddr) -> abi::IpcacheKey {
    let mut key = abi::IpcacheKey::default();
    match address {
        IpAddr::V4(address) => {
            key.family = abi::FAMILY_IPV4 as u8;
            key.address[..4].copy_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            key.family = abi::FAMILY_IPV6 as u8;
            key.address = address.octets();
        }
    }
    key
}

fn policy_key(policy: u32, identity: u32, port: u32, direction: u32) -> anyhow::Result<abi::PolicyKey> {
    let egress = if direction == abi::POLICY_EGRESS { abi::POLICY_KEY_EGRESS } else { 0 };
    Ok(abi::PolicyKey {
        policy,
        identity,
        port: u16::try_from(port)?,
        protocol: 6,
        class_direction: (abi::POLICY_CLASS_EXACT | egress) as u8,
    })
}

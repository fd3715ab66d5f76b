//! What the nodes of the fleet have in etcd: nodes, addresses and identities, as agents write them.

use kvstore::{Change, keys};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const NODES: u16 = 1000;
/// Of each node, with an address of each family each.
const ENDPOINTS: u16 = 100;
/// Label sets of the whole cluster, and how many of them a node has.
const IDENTITIES: u32 = 3000;
const IDENTITIES_OF_NODE: u32 = 50;
/// What the fleet puts into the map: its endpoints' addresses, and of each node its own address and its routers'.
pub(super) const ENTRIES: u64 = NODES as u64 * (ENDPOINTS as u64 * 2 + 3);

/// The first address of a node's endpoints; those before are its own.
const FIRST_HOST: u16 = 2;

fn underlay(node: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0xac1e_0000 + u32::from(node) + 1))
}

fn pod4(node: u16, host: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a80_0000 + (u32::from(node) << 8) + u32::from(host)))
}

fn pod6(node: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd65, 0, 0, 0, 0, 0, node, host))
}

fn labels(identity: u32) -> String {
    format!("container:app=service-{identity};container:team=t{};", identity % 20)
}

fn number(identity: u32) -> u32 {
    20_000 + identity
}

fn identity_of(node: u16, endpoint: u16) -> u32 {
    (u32::from(node) * 7 + u32::from(endpoint) % IDENTITIES_OF_NODE) % IDENTITIES
}

fn put(key: String, value: Vec<u8>) -> Change {
    Change::Put { key, value, lease: None }
}

fn node(node: u16) -> Change {
    let name = format!("fleet{node}");
    let mask4 = "////AA==";
    let mask6 = "//////////////////8AAA==";
    let record = json!({
        "Name": name, "Cluster": "default",
        "IPAddresses": [
            {"Type": "InternalIP", "IP": underlay(node)},
            {"Type": "CiliumInternalIP", "IP": pod4(node, 1)},
            {"Type": "CiliumInternalIP", "IP": pod6(node, 1)},
        ],
        "IPv4AllocCIDR": {"IP": pod4(node, 0), "Mask": mask4},
        "IPv6AllocCIDR": {"IP": pod6(node, 0), "Mask": mask6},
        "ClusterID": 0, "Source": "local", "EncryptionKey": 0,
    });
    put(keys::node("default", &name), record.to_string().into_bytes())
}

fn address(node: u16, ip: IpAddr, identity: u32) -> Change {
    let record = json!({"IP": ip, "Mask": null, "HostIP": underlay(node), "ID": number(identity), "Key": 0,
        "Metadata": ""});
    put(keys::ip("default", ip), record.to_string().into_bytes())
}

/// Everything.
pub(super) fn all() -> impl Iterator<Item = Change> {
    let identities = (0..IDENTITIES)
        .map(|identity| put(format!("{}/id/{}", keys::IDENTITIES, number(identity)), labels(identity).into_bytes()));
    let users = (0..NODES).flat_map(|node| {
        (0..IDENTITIES_OF_NODE as u16).map(move |endpoint| {
            let identity = identity_of(node, endpoint);
            let key = format!("{}/value/{}/fleet{node}", keys::IDENTITIES, keys::escape(&labels(identity)));
            put(key, number(identity).to_string().into_bytes())
        })
    });
    let addresses = (0..NODES).flat_map(|node| {
        (0..ENDPOINTS).flat_map(move |endpoint| {
            let host = FIRST_HOST + endpoint;
            let identity = identity_of(node, endpoint);
            [pod4(node, host), pod6(node, host)].map(|ip| address(node, ip, identity))
        })
    });
    identities.chain(users).chain((0..NODES).map(node)).chain(addresses)
}

/// A few of the addresses, the last ones of all kinds of keys among them.
pub(super) fn samples() -> impl Iterator<Item = IpAddr> {
    let of = |node| [underlay(node), pod4(node, FIRST_HOST), pod4(node, 99), pod6(node, FIRST_HOST), pod6(node, 99)];
    [0, 9, 99, 500, NODES - 1].into_iter().flat_map(of)
}

/// The n-th of the endpoints that come later, and its record.
pub(super) fn newcomer(n: u32) -> (IpAddr, Change) {
    let node = (n % u32::from(NODES)) as u16;
    let host = FIRST_HOST + ENDPOINTS + ((n / u32::from(NODES)) % 100) as u16;
    let ip = if n.is_multiple_of(2) { pod4(node, host) } else { pod6(node, host) };
    (ip, address(node, ip, identity_of(node, host)))
}

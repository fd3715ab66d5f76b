//! What this node tells the cluster through the kvstore, in the forms that Cilium's tools read: itself, its endpoints'
//! addresses, and (in forms of our own) its endpoints and networks.

pub mod read;

use crate::Config;
use crate::endpoints::Endpoint;
use crate::input::{Network, Subnet};
use crate::ledger::Entries;
use crate::records::write;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnetwork::IpNetwork;
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address space that addresses are published in; there is but one.
const ADDRESS_SPACE: &str = "default";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeRecord<'a> {
    name: &'a str,
    cluster: &'a str,
    #[serde(rename = "IPAddresses")]
    addresses: Vec<NodeAddress>,
    #[serde(rename = "IPv4AllocCIDR")]
    ipv4_range: Option<Cidr>,
    #[serde(rename = "IPv6AllocCIDR")]
    ipv6_range: Option<Cidr>,
    #[serde(rename = "IPv4HealthIP", skip_serializing_if = "Option::is_none")]
    health_ipv4: Option<IpAddr>,
    #[serde(rename = "IPv6HealthIP", skip_serializing_if = "Option::is_none")]
    health_ipv6: Option<IpAddr>,
    #[serde(rename = "IPv4SecondaryAllocCIDRs", skip_serializing_if = "Vec::is_empty")]
    ipv4_blocks: Vec<Cidr>,
    #[serde(rename = "IPv6SecondaryAllocCIDRs", skip_serializing_if = "Vec::is_empty")]
    ipv6_blocks: Vec<Cidr>,
    #[serde(rename = "ClusterID")]
    cluster_id: u8,
    source: &'static str,
    encryption_key: u8,
}

#[derive(Serialize)]
struct NodeAddress {
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "IP")]
    ip: IpAddr,
}

/// A prefix as Go writes it: the mask is base64 of its bytes.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Cidr {
    #[serde(rename = "IP")]
    ip: IpAddr,
    mask: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct IpRecord {
    #[serde(rename = "IP")]
    ip: IpAddr,
    /// Single addresses have none.
    mask: Option<String>,
    #[serde(rename = "HostIP")]
    host_ip: Option<IpAddr>,
    #[serde(rename = "ID")]
    identity: u32,
    key: u8,
    metadata: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct EndpointRecord<'a> {
    id: u16,
    node: &'a str,
    docker_endpoint_id: &'a str,
    docker_network_id: &'a str,
    container_id: Option<&'a str>,
    container_name: Option<&'a str>,
    identity: u32,
    labels: Vec<String>,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct NetworkRecord<'a> {
    id: &'a str,
    ipv4: Option<Subnet>,
    ipv6: Option<Subnet>,
    internal: bool,
    mtu: Option<u32>,
}

/// The node, with the addresses of its own that its pools set aside (`routers`), those of its health endpoint, and what
/// it has of subnets that it shares with other nodes (`blocks`).
pub(crate) fn node(
    config: &Config,
    routers: impl Iterator<Item = IpAddr>,
    health: &[IpAddr],
    blocks: impl Iterator<Item = IpNetwork>,
) -> Entries {
    let (ipv4_blocks, ipv6_blocks): (Vec<_>, Vec<_>) = blocks.partition(IpNetwork::is_ipv4);
    let own = config.node_ipv4.map(IpAddr::V4).into_iter().chain(config.node_ipv6.map(IpAddr::V6));
    let addresses = own
        .map(|ip| NodeAddress { kind: "InternalIP", ip })
        .chain(routers.map(|ip| NodeAddress { kind: "CiliumInternalIP", ip }))
        .collect();
    let record = NodeRecord {
        name: &config.node,
        cluster: &config.cluster,
        addresses,
        ipv4_range: config.ipv4_range.map(|range| cidr(IpNetwork::V4(range))),
        ipv6_range: config.ipv6_range.map(|range| cidr(IpNetwork::V6(range))),
        health_ipv4: health.iter().copied().find(IpAddr::is_ipv4),
        health_ipv6: health.iter().copied().find(IpAddr::is_ipv6),
        ipv4_blocks: ipv4_blocks.into_iter().map(cidr).collect(),
        ipv6_blocks: ipv6_blocks.into_iter().map(cidr).collect(),
        cluster_id: config.cluster_id,
        source: "local",
        encryption_key: 0,
    };
    let key = format!("cilium/state/nodes/v1/{}/{}", config.cluster, config.node);
    write(&record).map(|text| (key, text)).into_iter().collect()
}

/// What the cluster tells of itself.
pub fn cluster(name: &str, id: u8) -> String {
    let capabilities = serde_json::json!({"maxConnectedClusters": read::MAX_CLUSTERS});
    serde_json::json!({"id": id, "name": name, "capabilities": capabilities}).to_string()
}

/// An endpoint, and those of its addresses that are to be told.
pub(crate) fn endpoint(config: &Config, endpoint: &Endpoint, tell: impl Fn(IpAddr) -> bool) -> Entries {
    let record = EndpointRecord {
        id: endpoint.id.0,
        node: &config.node,
        docker_endpoint_id: &endpoint.docker_endpoint_id,
        docker_network_id: &endpoint.docker_network_id,
        container_id: endpoint.container_id.as_deref(),
        container_name: endpoint.container_name.as_deref(),
        identity: endpoint.identity.0,
        labels: endpoint.identity_labels.iter().map(ToString::to_string).collect(),
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
    };
    let key = format!("cilium/state/endpoints/v1/{}/{}", config.node, endpoint.id);
    let host_ip = config.node_ipv4.map(IpAddr::V4).or(config.node_ipv6.map(IpAddr::V6));
    let addresses = endpoint.addresses().filter(|ip| tell(*ip)).filter_map(|ip| {
        let record = IpRecord { ip, mask: None, host_ip, identity: endpoint.identity.0, key: 0, metadata: "" };
        write(&record).map(|text| (format!("cilium/state/ip/v1/{ADDRESS_SPACE}/{ip}"), text))
    });
    write(&record).map(|text| (key, text)).into_iter().chain(addresses).collect()
}

pub(crate) fn network(network: &Network) -> Entries {
    let Network { id, ipv4, ipv6, internal, mtu } = network;
    let record = NetworkRecord { id, ipv4: *ipv4, ipv6: *ipv6, internal: *internal, mtu: *mtu };
    write(&record).map(|text| (format!("cilium/state/networks/v1/{id}"), text)).into_iter().collect()
}

fn cidr(prefix: IpNetwork) -> Cidr {
    let mask = match prefix.mask() {
        IpAddr::V4(mask) => STANDARD.encode(mask.octets()),
        IpAddr::V6(mask) => STANDARD.encode(mask.octets()),
    };
    Cidr { ip: prefix.network(), mask }
}

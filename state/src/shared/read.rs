//! Reads what nodes tell each other through the kvstore: the counterpart of `shared.rs`. Unknown fields are ignored, so
//! that records of a later build, and Cilium's own, can be read.

use crate::input::{NodeName, RemoteAddress, RemoteNode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnetwork::IpNetwork;
use model::{Identity, Labels};
use serde::Deserialize;
use std::net::IpAddr;

/// Why a record of another node says nothing.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("it is not the JSON of such a record")]
    Json(#[from] serde_json::Error),
    #[error("the record is one of {found}, and not of what its key names")]
    OtherKey { found: String },
    #[error("{0}")]
    Content(&'static str),
    #[error("it is not possible: {0}")]
    Faulty(String),
    #[error("it has {found} bytes, and no such record has more than {limit}")]
    TooLarge { found: usize, limit: usize },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NodeRecord {
    name: String,
    cluster: String,
    #[serde(rename = "IPAddresses", default)]
    addresses: Option<Vec<NodeAddress>>,
    #[serde(rename = "IPv4AllocCIDR")]
    ipv4_range: Option<Cidr>,
    #[serde(rename = "IPv6AllocCIDR")]
    ipv6_range: Option<Cidr>,
    #[serde(rename = "IPv4HealthIP")]
    health_ipv4: Option<IpAddr>,
    #[serde(rename = "IPv6HealthIP")]
    health_ipv6: Option<IpAddr>,
    #[serde(rename = "IPv4SecondaryAllocCIDRs", default)]
    ipv4_blocks: Option<Vec<Cidr>>,
    #[serde(rename = "IPv6SecondaryAllocCIDRs", default)]
    ipv6_blocks: Option<Vec<Cidr>>,
}

#[derive(Deserialize)]
struct NodeAddress {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "IP")]
    ip: IpAddr,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Cidr {
    #[serde(rename = "IP")]
    ip: IpAddr,
    mask: String,
}

#[derive(Deserialize)]
struct IpRecord {
    #[serde(rename = "IP")]
    ip: IpAddr,
    #[serde(rename = "HostIP")]
    host_ip: Option<IpAddr>,
    #[serde(rename = "ID")]
    identity: u32,
}

/// What a cluster tells of itself; other tools' records have no name in them.
#[derive(Deserialize)]
struct ClusterRecord {
    name: Option<String>,
    #[serde(default)]
    id: u32,
    capabilities: Option<Capabilities>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    max_connected_clusters: Option<u32>,
}

/// How many clusters can be one mesh: their ids have 8 bits.
pub(super) const MAX_CLUSTERS: u32 = 255;

/// Largest record of a cluster, and largest list of labels.
const MAX_CLUSTER: usize = 4 << 10;
const MAX_LABELS: usize = 64 << 10;
/// Largest record of a node, and of an address.
const MAX_NODE: usize = 64 << 10;
const MAX_ADDRESS: usize = 4 << 10;
/// Addresses that one node may have.
const MAX_ADDRESSES: usize = 64;

fn check_size(value: &[u8], limit: usize) -> Result<(), RecordError> {
    let found = value.len();
    if found > limit { Err(RecordError::TooLarge { found, limit }) } else { Ok(()) }
}

/// What can be the name of a node or a cluster: part of keys, of logs and of terminals.
fn is_name(name: &str) -> bool {
    (1..=253).contains(&name.len()) && !name.contains('/') && !name.chars().any(char::is_control)
}

/// Reads the record of the node that the key names.
pub fn node(name: NodeName, value: &[u8]) -> Result<RemoteNode, RecordError> {
    check_size(value, MAX_NODE)?;
    if !is_name(&name.name) || !is_name(&name.cluster) {
        return Err(RecordError::Content("its key names no possible node"));
    }
    let record: NodeRecord = serde_json::from_slice(value)?;
    if record.name != name.name || record.cluster != name.cluster {
        return Err(RecordError::OtherKey { found: format!("{:?} in cluster {:?}", record.name, record.cluster) });
    }
    let blocks = record.ipv4_blocks.into_iter().chain(record.ipv6_blocks).flatten();
    let ranges = record.ipv4_range.into_iter().chain(record.ipv6_range).chain(blocks);
    let prefixes = ranges.map(prefix).collect::<Option<_>>().ok_or(RecordError::Content("a range has a bad mask"))?;
    let addresses = record.addresses.unwrap_or_default();
    if addresses.len() > MAX_ADDRESSES {
        return Err(RecordError::Content("it has more addresses than a node may have"));
    }
    let of_kind = |wanted: &'static [&'static str]| {
        let matching = addresses.iter().filter(move |address| wanted.contains(&address.kind.as_str()));
        matching.map(|address| address.ip).collect()
    };
    Ok(RemoteNode {
        name,
        addresses: of_kind(&["InternalIP", "ExternalIP"]),
        routers: of_kind(&["CiliumInternalIP"]),
        health: record.health_ipv4.into_iter().chain(record.health_ipv6).collect(),
        prefixes,
    })
}

/// Reads who has the address that the key names.
pub fn address(address: IpAddr, value: &[u8]) -> Result<RemoteAddress, RecordError> {
    check_size(value, MAX_ADDRESS)?;
    let record: IpRecord = serde_json::from_slice(value)?;
    if record.ip != address {
        return Err(RecordError::OtherKey { found: record.ip.to_string() });
    }
    let node = record.host_ip.ok_or(RecordError::Content("it names no node"))?;
    Ok(RemoteAddress { identity: Identity(record.identity), node })
}

/// Reads the id of the cluster that the key names.
pub fn cluster(name: &str, value: &[u8]) -> Result<u8, RecordError> {
    check_size(value, MAX_CLUSTER)?;
    let record: ClusterRecord = serde_json::from_slice(value)?;
    if let Some(found) = record.name.filter(|found| found != name) {
        return Err(RecordError::OtherKey { found: format!("cluster {found:?}") });
    }
    if record.capabilities.is_some_and(|can| can.max_connected_clusters.is_some_and(|most| most != MAX_CLUSTERS)) {
        return Err(RecordError::Content("its identities have another place for the cluster's id"));
    }
    let id = u8::try_from(record.id).ok().filter(|id| *id != 0);
    id.ok_or(RecordError::Content("its id is none from 1 to 255"))
}

/// Reads which labels the number at the end of the key stands for.
pub fn identity(number: &str, value: &[u8]) -> Result<(Identity, Labels), RecordError> {
    check_size(value, MAX_LABELS)?;
    let identity: u32 = number.parse().map_err(|_| RecordError::Content("its key ends in no number"))?;
    if identity.to_string() != number {
        return Err(RecordError::Content("its key spells the number in another way"));
    }
    let text = std::str::from_utf8(value).map_err(|_| RecordError::Content("its labels are no text"))?;
    let labels = Labels::from_sorted_list(text).map_err(|_| RecordError::Content("its labels cannot be read"))?;
    Ok((Identity(identity), labels))
}

fn prefix(cidr: Cidr) -> Option<IpNetwork> {
    let bytes = STANDARD.decode(cidr.mask).ok()?;
    let mask = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes.as_slice()).ok()?),
    };
    (mask.is_ipv4() == cidr.ip.is_ipv4()).then_some(())?;
    IpNetwork::with_netmask(cidr.ip, mask).ok()
}

/// What must hold for whatever somebody wrote: no panic, and only what its key names is read. The first line is the last
/// part of the key, the rest is the record.
#[cfg(any(test, feature = "fuzz"))]
pub fn fuzz(data: &[u8]) {
    let (key, value) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    let value = value.strip_prefix(b"\n").unwrap_or(value);
    let Ok(key) = std::str::from_utf8(key) else { return };
    if let Ok(ip) = key.parse::<IpAddr>() {
        let _ = address(ip, value);
    }
    if let Ok(id) = cluster(key, value) {
        assert!(id > 0);
    }
    if let Ok((number, labels)) = identity(key, value) {
        assert_eq!(number.to_string(), key);
        assert!(labels.len() <= value.len());
    }
    let name = NodeName { cluster: "default".to_owned(), name: key.to_owned() };
    if let Ok(read) = node(name.clone(), value) {
        assert_eq!(read.name, name);
        assert!(is_name(key) && read.prefixes.len() <= 2 && read.addresses.len() <= MAX_ADDRESSES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> NodeName {
        NodeName { cluster: "default".to_owned(), name: "n2".to_owned() }
    }

    #[test]
    fn a_record_of_this_build_is_read_back() {
        let config = crate::Config {
            node: "n2".to_owned(),
            cluster: "default".to_owned(),
            cluster_id: 0,
            node_ipv4: "192.0.2.2".parse().ok(),
            node_ipv6: "2001:db8::2".parse().ok(),
            ipv4_range: "10.64.1.0/24".parse().ok(),
            ipv6_range: "fd64::1:0/112".parse().ok(),
            mtu: None,
            kvstore: std::collections::BTreeSet::new(),
            tunnel_overhead: None,
            direct_routes: false,
            label_filter: model::label_filter::LabelFilter::default(),
            policy: policy::Options::default(),
            shares_subnets: false,
            services: crate::services::Options::default(),
            quarantine: 0,
            docker_grace: 0,
        };
        let router = "10.64.1.1".parse().unwrap();
        let health = ["10.64.1.9", "fd64::1:9"].map(|ip| ip.parse().unwrap());
        let blocks = ["10.9.1.16/28", "fd09::7/128"].map(|block| block.parse().unwrap());
        let entries = crate::shared::node(&config, [router].into_iter(), &health, blocks.into_iter());
        let read = node(name(), entries[0].1.as_bytes()).unwrap();
        assert_eq!(read.addresses, ["192.0.2.2", "2001:db8::2"].map(|ip| ip.parse().unwrap()).into());
        assert_eq!(read.routers, [router].into());
        assert_eq!(read.health, health.into());
        assert_eq!(
            read.prefixes,
            ["10.64.1.0/24", "fd64::1:0/112", "10.9.1.16/28", "fd09::7/128"].map(|p| p.parse().unwrap()).into()
        );
    }

    #[test]
    fn what_contradicts_its_key_is_refused() {
        let text = br#"{"Name": "n3", "Cluster": "default"}"#;
        assert!(matches!(node(name(), text), Err(RecordError::OtherKey { .. })));
        let text = br#"{"IP": "10.64.1.7", "ID": 300, "HostIP": "192.0.2.2"}"#;
        assert!(matches!(address("10.64.1.8".parse().unwrap(), text), Err(RecordError::OtherKey { .. })));
        let text = br#"{"IP": "10.64.1.8", "ID": 300, "HostIP": null}"#;
        assert!(matches!(address("10.64.1.8".parse().unwrap(), text), Err(RecordError::Content(_))));
    }

    #[test]
    fn a_cluster_tells_its_id() {
        let own = crate::shared::cluster("a", 7);
        assert_eq!(cluster("a", own.as_bytes()).unwrap(), 7);
        assert!(matches!(cluster("b", own.as_bytes()), Err(RecordError::OtherKey { .. })));
        // As Cilium writes it.
        assert_eq!(cluster("a", br#"{"id":3,"capabilities":{"maxConnectedClusters":255}}"#).unwrap(), 3);
        for bad in ["", "{}", "[]", r#"{"id":0}"#, r#"{"id":256}"#, r#"{"id":-1}"#, r#"{"id":"3"}"#] {
            assert!(cluster("a", bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(cluster("a", br#"{"id":3,"capabilities":{"maxConnectedClusters":511}}"#).is_err());
    }

    #[test]
    fn identities_have_one_spelling() {
        let (number, labels) = identity("131372", b"container:id=a;").unwrap();
        assert_eq!((number, labels.to_string().as_str()), (Identity(131_372), "container:id=a"));
        for (number, text) in
            [("0300", "a:b=;"), ("x", "a:b=;"), ("4294967296", "a:b=;"), ("300", "a:=b;"), ("", "a:b=;")]
        {
            assert!(identity(number, text.as_bytes()).is_err(), "{number} {text}");
        }
    }

    #[test]
    fn bad_masks_are_refused() {
        for mask in ["", "/w==", "//8A/w==", "////////////////////AA=="] {
            let range = format!(r#"{{"IP": "10.0.0.0", "Mask": "{mask}"}}"#);
            let text = format!(r#"{{"Name": "n2", "Cluster": "default", "IPv4AllocCIDR": {range}}}"#);
            assert!(node(name(), text.as_bytes()).is_err(), "{mask}");
        }
    }

    #[test]
    fn every_kept_record_holds() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/record");
        let mut seen = 0;
        for file in std::fs::read_dir(&folder).unwrap() {
            let file = file.unwrap().path();
            println!("{}", file.display());
            fuzz(&std::fs::read(&file).unwrap());
            seen += 1;
        }
        assert!(seen >= 20, "{seen} records in {}", folder.display());
    }

    #[test]
    fn what_is_too_large_or_has_no_possible_name_is_refused() {
        let text = format!(r#"{{"Name": "n2", "Cluster": "default", "x": "{}"}}"#, "x".repeat(MAX_NODE));
        assert!(matches!(node(name(), text.as_bytes()), Err(RecordError::TooLarge { .. })));
        let many = vec![r#"{"Type": "InternalIP", "IP": "192.0.2.2"}"#; MAX_ADDRESSES + 1].join(",");
        let text = format!(r#"{{"Name": "n2", "Cluster": "default", "IPAddresses": [{many}]}}"#);
        assert!(matches!(node(name(), text.as_bytes()), Err(RecordError::Content(_))));
        for bad in ["", "../n2", "a\u{1b}[31m", &"n".repeat(254)] {
            let name = NodeName { cluster: "default".to_owned(), name: bad.to_owned() };
            assert!(matches!(node(name, b"{}"), Err(RecordError::Content(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = node(name(), text.as_bytes());
            let _ = address(IpAddr::from([10, 0, 0, 1]), text.as_bytes());
        }
    }
}

//! The whole key layout on one page: what is stored under which key, with a function that makes each key and, where
//! others' keys are read, one that takes it apart.
//!
//! ```text
//! cilium/cluster-config/<cluster>                        JSON id and capabilities of the cluster, which has several
//! cilium/.heartbeat                                      time of the last sign of life of any node (RFC 3339)
//! cilium/state/identities/v1/id/<number>                 labels text          no lease, see `allocator`
//! cilium/state/identities/v1/value/<labels>/<node>       number               leased
//! cilium/state/identities/v1/locks/<labels>/...          lock keys            leased
//! cilium/state/nodes/v1/<cluster>/<node>                 JSON node            leased
//! cilium/state/ip/v1/<cluster>/<ip>[/<length>]           JSON ip -> identity  leased
//! cilium/state/services/v1/<cluster>/<space>/<name>      JSON service
//! cilium/state/serviceids/v1/<cluster>/<number>          <space>/<name>, whose frontend has the number
//! cilium/state/policies/v1/<name>                        JSON rules
//! cilium/state/policystatus/v1/<node>                    JSON what the node enforces  leased
//! cilium/state/networks/v1/<network id>                  JSON Docker network
//! cilium/state/endpoints/v1/<node>/<endpoint id>         JSON endpoint
//! cilium/state/pools/v1/<node>/<pool>                    JSON address pool
//! cilium/state/ipam/v1/<node>/<pool>/<ip>                JSON who has the address
//! cilium/state/blocks/v1/<pool>/<block>                  JSON which node has the block
//! cilium/state/blocks/v1/turn                            who claimed a block last
//! ```
//!
//! The shapes of identities, nodes, ip and services are Cilium's; the rest is ours, beside them. The cluster of
//! `ip` keys is `default` unless the cluster has a name.
//!
//! Names come from users and from other nodes. A segment is written so that it cannot contain a `/`: `/`, `%` and
//! control characters become `%` and two hex digits, and the empty name becomes a lone `%`. Everything else stays
//! readable.

use std::net::IpAddr;

/// Above everything.
pub const ROOT: &str = "cilium/";
/// Time of the last sign of life of whichever node wrote one last.
pub const HEARTBEAT: &str = "cilium/.heartbeat";
/// What clusters of a mesh tell of themselves, each in its own kvstore.
pub const CLUSTER_CONFIGS: &str = "cilium/cluster-config/";
/// A key that is never written: asking for it asks for a quorum.
pub const PROBE: &str = "cilium/.probe";
/// Base of the identities' allocator (without a trailing `/`).
pub const IDENTITIES: &str = "cilium/state/identities/v1";
pub const NODES: &str = "cilium/state/nodes/v1/";
pub const IPS: &str = "cilium/state/ip/v1/";
pub const SERVICES: &str = "cilium/state/services/v1/";
pub const SERVICE_IDS: &str = "cilium/state/serviceids/v1/";
pub const POLICIES: &str = "cilium/state/policies/v1/";
pub const POLICY_STATUS: &str = "cilium/state/policystatus/v1/";
pub const NETWORKS: &str = "cilium/state/networks/v1/";
pub const ENDPOINTS: &str = "cilium/state/endpoints/v1/";
pub const POOLS: &str = "cilium/state/pools/v1/";
pub const IPAM: &str = "cilium/state/ipam/v1/";
pub const BLOCKS: &str = "cilium/state/blocks/v1/";

/// Writes a name as one segment of a key.
pub fn escape(name: &str) -> String {
    if name.is_empty() {
        return "%".to_owned();
    }
    let mut segment = String::with_capacity(name.len());
    for c in name.chars() {
        if c == '/' || c == '%' || c.is_ascii_control() {
            segment.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            segment.push(c);
        }
    }
    segment
}

/// Reads a segment back. `None` for what [`escape`] never writes, so that every name has exactly one key.
pub fn unescape(segment: &str) -> Option<String> {
    if segment == "%" {
        return Some(String::new());
    }
    let mut name = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some(at) = rest.find('%') {
        let (before, code) = rest.split_at(at);
        name.push_str(before);
        let code = code.get(1..3)?;
        name.push(char::from(u8::from_str_radix(code, 16).ok()?));
        rest = rest.get(at + 3..)?;
    }
    name.push_str(rest);
    (escape(&name) == segment).then_some(name)
}

fn join(base: &str, names: &[&str]) -> String {
    let mut key = base.to_owned();
    for (n, name) in names.iter().enumerate() {
        if n > 0 {
            key.push('/');
        }
        key.push_str(&escape(name));
    }
    key
}

/// The names below `base`, if there are exactly `N`.
fn split<const N: usize>(key: &str, base: &str) -> Option<[String; N]> {
    let names: Option<Vec<String>> = key.strip_prefix(base)?.split('/').map(unescape).collect();
    names?.try_into().ok()
}

/// What a cluster tells of itself.
pub fn cluster_config(cluster: &str) -> String {
    join(CLUSTER_CONFIGS, &[cluster])
}

pub fn parse_cluster_config(key: &str) -> Option<String> {
    split(key, CLUSTER_CONFIGS).map(|[cluster]| cluster)
}

/// One node's record.
pub fn node(cluster: &str, node: &str) -> String {
    join(NODES, &[cluster, node])
}

/// All nodes of one cluster.
pub fn nodes_of(cluster: &str) -> String {
    join(NODES, &[cluster]) + "/"
}

/// Cluster and name.
pub fn parse_node(key: &str) -> Option<(String, String)> {
    split(key, NODES).map(|[cluster, node]| (cluster, node))
}

/// What is known of one address.
pub fn ip(cluster: &str, ip: IpAddr) -> String {
    format!("{IPS}{}/{ip}", escape(cluster))
}

/// What is known of all addresses of a prefix, `length` in bits.
pub fn prefix(cluster: &str, network: IpAddr, length: u8) -> String {
    format!("{IPS}{}/{network}/{length}", escape(cluster))
}

/// All addresses and prefixes of one cluster.
pub fn ips_of(cluster: &str) -> String {
    join(IPS, &[cluster]) + "/"
}

/// Cluster, address, and the prefix length in bits unless it is one address.
pub fn parse_ip(key: &str) -> Option<(String, IpAddr, Option<u8>)> {
    let mut parts = key.strip_prefix(IPS)?.split('/');
    let cluster = unescape(parts.next()?)?;
    let text = parts.next()?;
    let ip: IpAddr = text.parse().ok()?;
    let length: Option<u8> = match parts.next() {
        Some(bits) => Some(bits.parse().ok()?),
        None => None,
    };
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let sound = parts.next().is_none() && length.is_none_or(|length| length <= longest) && ip.to_string() == text;
    sound.then_some((cluster, ip, length))
}

/// One service.
pub fn service(cluster: &str, space: &str, name: &str) -> String {
    join(SERVICES, &[cluster, space, name])
}

/// Cluster, space and name.
pub fn parse_service(key: &str) -> Option<(String, String, String)> {
    split(key, SERVICES).map(|[cluster, space, name]| (cluster, space, name))
}

/// All services of one cluster.
pub fn services_of(cluster: &str) -> String {
    join(SERVICES, &[cluster]) + "/"
}

/// Whose a number of a service is.
pub fn service_id(cluster: &str, id: u32) -> String {
    join(SERVICE_IDS, &[cluster, &id.to_string()])
}

/// All numbers of services of one cluster.
pub fn service_ids_of(cluster: &str) -> String {
    join(SERVICE_IDS, &[cluster]) + "/"
}

/// Cluster and number.
pub fn parse_service_id(key: &str) -> Option<(String, u32)> {
    let [cluster, text] = split(key, SERVICE_IDS)?;
    let id: u32 = text.parse().ok()?;
    (id.to_string() == text).then_some((cluster, id))
}

/// One set of policy rules.
pub fn policy(name: &str) -> String {
    join(POLICIES, &[name])
}

pub fn parse_policy(key: &str) -> Option<String> {
    split(key, POLICIES).map(|[name]| name)
}

/// Which policies a node enforces.
pub fn policy_status(node: &str) -> String {
    join(POLICY_STATUS, &[node])
}

pub fn parse_policy_status(key: &str) -> Option<String> {
    split(key, POLICY_STATUS).map(|[node]| node)
}

/// One Docker network.
pub fn network(id: &str) -> String {
    join(NETWORKS, &[id])
}

pub fn parse_network(key: &str) -> Option<String> {
    split(key, NETWORKS).map(|[id]| id)
}

/// One endpoint of a node.
pub fn endpoint(node: &str, id: &str) -> String {
    join(ENDPOINTS, &[node, id])
}

/// All endpoints of a node.
pub fn endpoints_of(node: &str) -> String {
    join(ENDPOINTS, &[node]) + "/"
}

/// Node and endpoint id.
pub fn parse_endpoint(key: &str) -> Option<(String, String)> {
    split(key, ENDPOINTS).map(|[node, id]| (node, id))
}

/// One address pool of a node.
pub fn pool(node: &str, pool: &str) -> String {
    join(POOLS, &[node, pool])
}

/// All pools of a node.
pub fn pools_of(node: &str) -> String {
    join(POOLS, &[node]) + "/"
}

/// Node and pool.
pub fn parse_pool(key: &str) -> Option<(String, String)> {
    split(key, POOLS).map(|[node, pool]| (node, pool))
}

/// One address that is given out.
pub fn address(node: &str, pool: &str, ip: IpAddr) -> String {
    join(IPAM, &[node, pool, &ip.to_string()])
}

/// All addresses that are given out of a pool.
pub fn addresses_of(node: &str, pool: &str) -> String {
    join(IPAM, &[node, pool]) + "/"
}

/// Node, pool and address.
pub fn parse_address(key: &str) -> Option<(String, String, IpAddr)> {
    let [node, pool, ip] = split(key, IPAM)?;
    Some((node, pool, ip.parse().ok()?))
}

/// A block of a pool that is shared between nodes.
pub fn block(pool: &str, block: &str) -> String {
    join(BLOCKS, &[pool, block])
}

/// All blocks of a pool.
pub fn blocks_of(pool: &str) -> String {
    join(BLOCKS, &[pool]) + "/"
}

/// Pool and block.
pub fn parse_block(key: &str) -> Option<(String, String)> {
    split(key, BLOCKS).map(|[pool, block]| (pool, block))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_readable() {
        assert_eq!(node("default", "n1"), "cilium/state/nodes/v1/default/n1");
        assert_eq!(ip("default", "10.0.0.1".parse().unwrap()), "cilium/state/ip/v1/default/10.0.0.1");
        assert_eq!(prefix("default", "10.0.0.0".parse().unwrap(), 8), "cilium/state/ip/v1/default/10.0.0.0/8");
        assert_eq!(address("n1", "p", "fd00::1".parse().unwrap()), "cilium/state/ipam/v1/n1/p/fd00::1");
    }

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(endpoint("../../nodes/v1", "a\n%"), "cilium/state/endpoints/v1/..%2F..%2Fnodes%2Fv1/a%0A%25");
        assert_eq!(policy(""), "cilium/state/policies/v1/%");
        assert_eq!(parse_endpoint("cilium/state/endpoints/v1/n1/a/b"), None);
    }

    #[test]
    fn only_our_own_spelling_is_read() {
        for foreign in ["%41", "%2f", "%zz", "%2", "a%", "%C3%A9", "", "a\n"] {
            assert_eq!(unescape(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn addresses_are_read_back() {
        let one = "10.0.0.1".parse().unwrap();
        assert_eq!(parse_ip(&ip("c", one)), Some(("c".to_owned(), one, None)));
        assert_eq!(parse_ip(&prefix("c", one, 32)), Some(("c".to_owned(), one, Some(32))));
        for foreign in ["c/10.0.0.1/33", "c/10.0.0.1/8/1", "c/x", "c", "c/0a00::1", "c/10.0.0.1/"] {
            assert_eq!(parse_ip(&format!("{IPS}{foreign}")), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn names_survive(a in any::<String>(), b in any::<String>(), c in any::<String>()) {
            prop_assert_eq!(parse_service(&service(&a, &b, &c)), Some((a.clone(), b.clone(), c)));
            prop_assert_eq!(parse_endpoint(&endpoint(&a, &b)), Some((a.clone(), b.clone())));
            prop_assert!(endpoint(&a, "x").starts_with(&endpoints_of(&a)));
            prop_assert_eq!(parse_cluster_config(&cluster_config(&a)), Some(a.clone()));
            prop_assert!(service(&a, &b, "x").starts_with(&services_of(&a)));
            prop_assert_eq!(parse_service_id(&service_id(&a, 7)), Some((a.clone(), 7)));
            prop_assert_eq!(parse_policy(&policy(&a)), Some(a));
        }

        #[test]
        fn reading_never_panics(segment in "[%0-9a-fA-Fé/]{0,12}") {
            if let Some(name) = unescape(&segment) {
                prop_assert_eq!(escape(&name), segment);
            }
        }
    }
}

//! Other nodes without a tunnel: whether the host routes to them itself, and where containers' addresses stay as they are.

use super::{Kvstore, Range, Reader, Tunnel};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use std::str::FromStr;

/// Of no meaning where there is a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Native {
    /// Routes to other nodes' pods lead to those nodes, which are on the same network.
    pub direct_routes: bool,
    /// What goes there from containers is not masqueraded.
    pub prefixes: Vec<IpNetwork>,
}

const DIRECT: &str = "auto-direct-node-routes";
const IPV4: &str = "ipv4-native-routing-cidr";
const IPV6: &str = "ipv6-native-routing-cidr";

impl Native {
    pub(super) fn read(
        reader: &mut Reader<'_>,
        tunnel: Tunnel,
        kvstore: &Kvstore,
        ranges: (Option<&Range<Ipv4Network>>, Option<&Range<Ipv6Network>>),
    ) -> Native {
        let direct_routes = reader.switch(DIRECT);
        if direct_routes && tunnel != Tunnel::Disabled {
            reader.fault(DIRECT, "it is for --tunnel=disabled: through a tunnel nodes need no such routes");
        } else if direct_routes && matches!(kvstore.shared, kvstore::Config::Embedded { .. }) {
            reader.fault(DIRECT, "it is for --kvstore=etcd: without it no other node is known");
        }
        let ipv4 = prefix::<Ipv4Network>(reader, IPV4, tunnel, |net| net.ip() == net.network());
        let ipv6 = prefix::<Ipv6Network>(reader, IPV6, tunnel, |net| net.ip() == net.network());
        let ipv4 = ipv4.or_else(|| cluster(ranges.0, tunnel)).map(IpNetwork::V4);
        let ipv6 = ipv6.or_else(|| cluster(ranges.1, tunnel)).map(IpNetwork::V6);
        Native { direct_routes, prefixes: ipv4.into_iter().chain(ipv6).collect() }
    }
}

/// Without a setting it is the range of the whole cluster's pods.
fn cluster<N: Copy>(range: Option<&Range<N>>, tunnel: Tunnel) -> Option<N> {
    match range {
        Some(Range::Claimed { cluster, .. }) if tunnel == Tunnel::Disabled => Some(*cluster),
        _ => None,
    }
}

fn prefix<N: FromStr + Copy>(
    reader: &mut Reader<'_>,
    name: &'static str,
    tunnel: Tunnel,
    is_whole: fn(N) -> bool,
) -> Option<N> {
    let text = reader.text(name);
    if text.is_empty() {
        return None;
    }
    if tunnel != Tunnel::Disabled {
        reader.fault(name, "it is for --tunnel=disabled: into a tunnel nothing is masqueraded");
    }
    match text.parse::<N>() {
        Ok(network) if is_whole(network) => Some(network),
        _ => {
            reader.fault(name, format!("{text:?} is no CIDR prefix of this family without host bits"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigError, Invocation, load};
    use std::ffi::OsString;

    fn of(arguments: &[&str]) -> Result<Native, String> {
        let etcd = ["cilium-agent", "--kvstore=etcd", "--kvstore-opt=etcd.address=http://127.0.0.1:2379"];
        match load(etcd.iter().chain(arguments).map(OsString::from), [], "n") {
            Ok(Invocation::Run(config)) => Ok(config.native),
            Err(ConfigError::Invalid(faults)) => {
                Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_clusters_range_is_routed_natively_unless_another_is_set() {
        let pools = ["--cluster-pool-ipv4=10.64.0.0/10", "--cluster-pool-ipv6=fd64::/64"];
        let prefixes = |arguments: &[&str]| {
            let native = of(&[&pools[..], arguments].concat()).unwrap();
            native.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(prefixes(&["--tunnel=vxlan"]), [""; 0]);
        assert_eq!(prefixes(&["--tunnel=disabled"]), ["10.64.0.0/10", "fd64::/64"]);
        assert_eq!(
            prefixes(&["--tunnel=disabled", "--ipv4-native-routing-cidr=10.0.0.0/8"]),
            ["10.0.0.0/8", "fd64::/64"]
        );
    }

    #[test]
    fn what_a_tunnel_makes_useless_is_refused() {
        let faults = of(&["--auto-direct-node-routes", "--ipv6-native-routing-cidr=fd64::1/64"]).unwrap_err();
        assert_eq!(faults.matches("--tunnel=disabled").count(), 2, "{faults}");
        assert!(faults.contains("without host bits"), "{faults}");
        assert!(of(&["--auto-direct-node-routes", "--tunnel=disabled"]).unwrap().direct_routes);
    }
}

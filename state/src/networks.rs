//! The Docker networks that are served, and what follows from a network for the endpoints on it.

use crate::Rejected;
use crate::input::{Network, Subnet};
use crate::ipam::{Pool, masked};
use crate::outputs::Timestamp;
use ipnetwork::IpNetwork;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Smallest MTU that every IPv4 host accepts (RFC 791) and that IPv6 asks of a link (RFC 8200).
const MIN_MTU_V4: u32 = 576;
const MIN_MTU_V6: u32 = 1280;
/// Largest packet that an IPv4 header can describe.
const MAX_MTU: u32 = 65_535;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Known {
    pub(crate) network: Network,
    /// When it was first put.
    pub(crate) since: Timestamp,
}

#[derive(Debug, Default)]
pub(crate) struct Networks {
    networks: BTreeMap<String, Known>,
    changed: BTreeSet<String>,
}

impl Networks {
    pub(crate) fn get(&self, id: &str) -> Option<&Network> {
        self.networks.get(id).map(|known| &known.network)
    }

    pub(crate) fn known(&self, id: &str) -> Option<&Known> {
        self.networks.get(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.networks.values()
    }

    pub(crate) fn put(&mut self, network: Network, now: Timestamp) -> Result<(), Rejected> {
        check(&network)?;
        let since = self.networks.get(&network.id).map_or(now, |known| known.since);
        let known = Known { network, since };
        if self.networks.get(&known.network.id) != Some(&known) {
            self.changed.insert(known.network.id.clone());
            self.networks.insert(known.network.id.clone(), known);
        }
        Ok(())
    }

    pub(crate) fn delete(&mut self, id: &str) {
        if self.networks.remove(id).is_some() {
            self.changed.insert(id.to_owned());
        }
    }

    /// Forgets the networks that are not in `listed` and older than `deadline`.
    pub(crate) fn keep_only(&mut self, listed: &BTreeSet<String>, deadline: Timestamp) {
        let gone: Vec<String> = self
            .networks
            .iter()
            .filter(|(id, known)| !listed.contains(*id) && known.since < deadline)
            .map(|(id, _)| id.clone())
            .collect();
        gone.iter().for_each(|id| self.delete(id));
    }

    /// How many networks take their addresses out of the pool.
    pub(crate) fn on_pool(&self, pool: &Pool) -> u32 {
        let on = |subnet: &Subnet| {
            let flat = pool.node_pool && subnet.subnet.prefix() == 0;
            masked(subnet.subnet) == pool.subnet || (flat && subnet.subnet.is_ipv4() == pool.subnet.is_ipv4())
        };
        let count = self.networks.values().filter(|known| subnets(&known.network).any(on)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The gateways that the networks name themselves.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.networks.values().flat_map(|known| subnets(&known.network)).filter_map(|subnet| subnet.gateway)
    }

    pub(crate) fn subnets(&self) -> impl Iterator<Item = &Subnet> {
        self.networks.values().flat_map(|known| subnets(&known.network))
    }

    /// Puts a network back as a record has it.
    pub(crate) fn restore(&mut self, known: Known) -> Result<(), Rejected> {
        check(&known.network)?;
        self.networks.insert(known.network.id.clone(), known);
        Ok(())
    }

    /// Ids of the networks that changed since the last call.
    pub(crate) fn take_changes(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }
}

fn subnets(network: &Network) -> impl Iterator<Item = &Subnet> {
    network.ipv4.iter().chain(&network.ipv6)
}

fn check(network: &Network) -> Result<(), Rejected> {
    let bad = |reason: String| Err(Rejected::BadNetwork { id: network.id.clone(), reason });
    if network.id.is_empty() || network.id.contains('/') {
        return bad("its id is empty or holds a '/'".to_owned());
    }
    for (family, subnet) in [("IPv4", &network.ipv4), ("IPv6", &network.ipv6)] {
        let Some(Subnet { subnet, gateway }) = subnet else { continue };
        if subnet.is_ipv4() != (family == "IPv4") {
            return bad(format!("{subnet} is not {family}"));
        }
        match gateway {
            Some(gateway) if gateway.is_ipv4() != subnet.is_ipv4() => return bad(format!("{gateway} is not {family}")),
            Some(gateway) if !is_usable(*gateway) => return bad(format!("{gateway} cannot be a gateway")),
            Some(gateway) if !subnet.contains(*gateway) => {
                return bad(format!("its gateway {gateway} is not in its subnet {subnet}"));
            }
            _ => {}
        }
    }
    let min = if network.ipv6.is_some() { MIN_MTU_V6 } else { MIN_MTU_V4 };
    match network.mtu {
        Some(mtu) if !(min..=MAX_MTU).contains(&mtu) => bad(format!("MTU {mtu} is not in {min}..={MAX_MTU}")),
        _ => Ok(()),
    }
}

/// Whether one host on a link can have the address.
pub(crate) fn is_usable(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !special
        && match address {
            IpAddr::V4(ip) => !ip.is_link_local() && ip.octets()[0] != 0 && ip.octets()[0] < 240,
            IpAddr::V6(ip) => !ip.is_unicast_link_local() && ip.to_ipv4_mapped().is_none(),
        }
}

/// Whether the prefix can be handed to the kernel as one of ours: it is not "everything".
pub(crate) fn is_definite(prefix: &IpNetwork) -> bool {
    prefix.prefix() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(id: &str, subnet: &str, gateway: Option<&str>) -> Network {
        let subnet = Subnet { subnet: subnet.parse().unwrap(), gateway: gateway.map(|g| g.parse().unwrap()) };
        let (ipv4, ipv6) = if subnet.subnet.is_ipv4() { (Some(subnet), None) } else { (None, Some(subnet)) };
        Network { id: id.to_owned(), ipv4, ipv6, internal: false, mtu: None }
    }

    #[test]
    fn impossible_networks_are_refused() {
        let mut small = network("n", "fd00::/64", None);
        small.mtu = Some(1279);
        let mut large = network("n", "10.1.0.0/16", None);
        large.mtu = Some(65_536);
        let mut crossed = network("n", "10.1.0.0/16", None);
        crossed.ipv6 = crossed.ipv4.take();
        for (bad, reason) in [
            (network("", "10.1.0.0/16", None), "its id is empty or holds a '/'"),
            (network("n", "10.1.0.0/16", Some("10.2.0.1")), "its gateway 10.2.0.1 is not in its subnet 10.1.0.0/16"),
            (network("n", "0.0.0.0/0", Some("127.0.0.1")), "127.0.0.1 cannot be a gateway"),
            (network("n", "10.1.0.0/16", Some("fd00::1")), "fd00::1 is not IPv4"),
            (crossed, "10.1.0.0/16 is not IPv6"),
            (small, "MTU 1279 is not in 1280..=65535"),
            (large, "MTU 65536 is not in 576..=65535"),
        ] {
            let refused = Networks::default().put(bad, Timestamp(0)).unwrap_err();
            assert!(refused.to_string().ends_with(reason), "{refused}");
        }
    }

    #[test]
    fn a_flat_network_is_on_the_nodes_pool() {
        let mut networks = Networks::default();
        networks.put(network("a", "0.0.0.0/0", Some("10.15.0.2")), Timestamp(0)).unwrap();
        networks.put(network("b", "10.15.0.0/16", None), Timestamp(0)).unwrap();
        networks.put(network("c", "::/0", None), Timestamp(0)).unwrap();
        let mut pool = Pool::new("node-ipv4".to_owned(), "10.15.0.0/16".parse().unwrap(), None).unwrap();
        pool.node_pool = true;
        assert_eq!(networks.on_pool(&pool), 2);
    }

    #[test]
    fn only_old_networks_are_forgotten() {
        let mut networks = Networks::default();
        for (id, at) in [("kept", 0), ("old", 0), ("young", 5)] {
            networks.put(network(id, "10.1.0.0/16", None), Timestamp(at)).unwrap();
        }
        networks.keep_only(&["kept".to_owned()].into(), Timestamp(5));
        let left: Vec<&str> = networks.iter().map(|known| known.network.id.as_str()).collect();
        assert_eq!(left, ["kept", "young"]);
    }
}

//! Networks without a subnet share the node's pool. Docker refuses to put a container on two networks when an address on
//! one is covered by a route of the other, so each of them keeps to a part of the pool as long as there is room in it,
//! and routes that part alone. Which part is a network's is told by its gateway, which lies in it.

use api::ipam::Pool;
use api::network::Network;
use ipnetwork::IpNetwork;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A pool has 64 parts: as many networks, with 1,022 addresses each in the usual /16.
const PART_BITS: u8 = 6;
/// Parts smaller than 64 addresses are none: such a pool is shared as it is.
const LEAST_HOST_BITS: u8 = 6;
/// Between a pool and its network there are milliseconds; a network that has not come by then never will.
const RESERVED: Duration = Duration::from_secs(30);
/// Stands between the agent's id of a pool and the part in the id that Docker gets.
const SEPARATOR: char = '+';

/// The parts that were given out and have no network yet.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    reserved: Mutex<BTreeMap<IpNetwork, Instant>>,
}

impl Parts {
    /// The first part that no network has, and where all are taken one that the fewest have; `None` when the pool has no
    /// parts.
    pub(super) fn choose(&self, pool: &Pool, networks: &[Arc<Network>], now: Instant) -> Option<IpNetwork> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        reserved.retain(|_, since| now.duration_since(*since) < RESERVED);
        let taken = |part: &IpNetwork| {
            let subnets = networks.iter().flat_map(|network| network.ipv4.iter().chain(&network.ipv6));
            subnets.filter(|subnet| subnet.subnet == *part).count() + usize::from(reserved.contains_key(part))
        };
        let part = all(pool.subnet).min_by_key(taken)?;
        reserved.insert(part, now);
        Some(part)
    }
}

/// The part that the address is in; `None` when the pool has no parts or another place.
pub(crate) fn part_of(pool: IpNetwork, address: IpAddr) -> Option<IpNetwork> {
    let length = part_length(pool)?;
    pool.contains(address).then(|| IpNetwork::new(address, length)).and_then(Result::ok).and_then(masked)
}

/// What Docker gets as the pool's id.
pub(super) fn id_with(pool: &str, part: Option<IpNetwork>) -> String {
    match part {
        Some(part) => format!("{pool}{SEPARATOR}{part}"),
        None => pool.to_owned(),
    }
}

/// The agent's id of a pool, and the part, out of what Docker got. A part that cannot be read is none.
pub(super) fn split(id: &str) -> (&str, Option<IpNetwork>) {
    match id.split_once(SEPARATOR) {
        Some((pool, part)) => (pool, part.parse().ok()),
        None => (id, None),
    }
}

fn all(pool: IpNetwork) -> impl Iterator<Item = IpNetwork> {
    let length = part_length(pool);
    let numbers = 0..length.map_or(0, |_| 1u128 << PART_BITS);
    numbers.filter_map(move |number| nth(pool, length?, number))
}

fn nth(pool: IpNetwork, length: u8, number: u128) -> Option<IpNetwork> {
    let bits = if pool.is_ipv4() { 32 } else { 128 };
    let offset = number << (bits - length);
    let address = match pool.network() {
        IpAddr::V4(base) => IpAddr::V4((u32::from(base) + u32::try_from(offset).ok()?).into()),
        IpAddr::V6(base) => IpAddr::V6((u128::from(base) + offset).into()),
    };
    IpNetwork::new(address, length).ok()
}

fn part_length(pool: IpNetwork) -> Option<u8> {
    let bits: u8 = if pool.is_ipv4() { 32 } else { 128 };
    let length = pool.prefix() + PART_BITS;
    (length + LEAST_HOST_BITS <= bits).then_some(length)
}

fn masked(network: IpNetwork) -> Option<IpNetwork> {
    IpNetwork::new(network.network(), network.prefix()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::ipam::Family;
    use api::network::Subnet;
    use proptest::prelude::*;

    fn pool(subnet: &str) -> Pool {
        let subnet: IpNetwork = subnet.parse().unwrap();
        let family = if subnet.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let (id, gateway) = ("node".to_owned(), subnet.ip());
        Pool { id, family, subnet, range: None, gateway, node_pool: true, references: 0, allocated: 0 }
    }

    fn on(part: IpNetwork) -> Arc<Network> {
        let subnet = Some(Subnet { subnet: part, gateway: None });
        Arc::new(Network { id: part.to_string(), ipv4: subnet, ipv6: None, internal: false, mtu: None })
    }

    #[test]
    fn each_network_gets_a_part_of_its_own_until_all_are_taken() {
        let (parts, pool, now) = (Parts::default(), pool("10.15.0.0/16"), Instant::now());
        let first = parts.choose(&pool, &[], now).unwrap();
        assert_eq!(first.to_string(), "10.15.0.0/22");
        assert_eq!(parts.choose(&pool, &[], now).unwrap().to_string(), "10.15.4.0/22");
        let later = now + RESERVED;
        assert_eq!(parts.choose(&pool, &[on(first)], later).unwrap().to_string(), "10.15.4.0/22");
        let full: Vec<_> = all(pool.subnet).map(on).collect();
        assert_eq!(full.len(), 64);
        assert!(parts.choose(&pool, &full, later + RESERVED).is_some());
    }

    #[test]
    fn a_small_pool_has_no_parts() {
        assert_eq!(Parts::default().choose(&pool("10.15.0.0/24"), &[], Instant::now()), None);
        assert_eq!(part_of("10.15.0.0/24".parse().unwrap(), "10.15.0.1".parse().unwrap()), None);
        let v6 = Parts::default().choose(&pool("f00d::a0f:0:0:0/96"), &[], Instant::now());
        assert_eq!(v6.unwrap().to_string(), "f00d::a0f:0:0:0/102");
    }

    #[test]
    fn an_id_tells_its_part() {
        let part: IpNetwork = "10.15.4.0/22".parse().unwrap();
        assert_eq!(split(&id_with("node-ipv4", Some(part))), ("node-ipv4", Some(part)));
        assert_eq!(split(&id_with("10.1.0.0/16", None)), ("10.1.0.0/16", None));
        assert_eq!(split("node-ipv4+nonsense"), ("node-ipv4", None));
    }

    proptest! {
        #[test]
        fn every_address_of_a_pool_is_in_the_part_that_it_tells(offset in 0u32..1 << 20, length in 8u8..=20) {
            let pool = IpNetwork::new("10.0.0.0".parse().unwrap(), length).unwrap();
            let address = IpAddr::V4((u32::from(std::net::Ipv4Addr::new(10, 0, 0, 0)) + offset).into());
            prop_assume!(pool.contains(address));
            let part = part_of(pool, address).unwrap();
            prop_assert!(part.contains(address));
            prop_assert_eq!(all(pool).filter(|other| *other == part).count(), 1);
        }
    }
}

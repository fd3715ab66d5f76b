//! `cilium_ipcache` and `cilium_ipcache_lpm`: address or prefix -> identity.
//!
//! Whole addresses stand in the hash alone, shorter prefixes in the trie alone.

use super::{LpmKey, MapError, Maps};
use bpf::abi;
use bpf::names::map::{IPCACHE, IPCACHE_LPM};
use ipnetwork::IpNetwork;
use model::desired::IpcacheEntry;
use model::{EndpointId, Identity, Ipcache};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Everything in both maps. `expected` is what should be there: if it is, the answer is a copy of it, which a cluster's
/// table is found to be much sooner than it is made anew.
pub fn read(maps: &Maps, expected: &Ipcache) -> Result<Ipcache, MapError> {
    let mut entries = Vec::with_capacity(expected.len());
    let host = |key: &abi::IpcacheKey, value: &abi::IpcacheEntry| {
        entries.extend(address(key).map(|ip| (IpNetwork::from(ip), decode(value))));
    };
    maps.ipcache.for_each(host).map_err(|source| MapError::Read { map: IPCACHE, source })?;
    let prefix = |key: &LpmKey, value: &abi::IpcacheEntry| {
        entries.extend(prefix_of(key).map(|network| (network, decode(value))));
    };
    maps.ipcache_lpm.for_each(prefix).map_err(|source| MapError::Read { map: IPCACHE_LPM, source })?;
    entries.sort_unstable_by_key(|(prefix, _)| *prefix);
    let is_expected = entries.iter().map(|(prefix, entry)| (prefix, entry)).eq(expected.iter());
    Ok(if is_expected { expected.clone() } else { entries.into_iter().collect() })
}

/// Writes entries; one answer for all of each map.
pub fn put(maps: &Maps, entries: &[(IpNetwork, IpcacheEntry)]) -> Result<(), MapError> {
    let (mut hosts, mut host_values, mut prefixes, mut prefix_values) = (vec![], vec![], vec![], vec![]);
    for (network, entry) in entries {
        match encode_key(*network) {
            Key::Host(key) => {
                hosts.push(key);
                host_values.push(encode(entry));
            }
            Key::Prefix(key) => {
                prefixes.push(key);
                prefix_values.push(encode(entry));
            }
        }
    }
    let result = maps.ipcache.put_all(&hosts, &host_values);
    result.map_err(|source| MapError::Write { map: IPCACHE, source })?;
    let result = maps.ipcache_lpm.put_all(&prefixes, &prefix_values);
    result.map_err(|source| MapError::Write { map: IPCACHE_LPM, source })
}

/// Deletes entries; absent ones are no error.
pub fn remove(maps: &Maps, networks: &[IpNetwork]) -> Result<(), MapError> {
    let (mut hosts, mut prefixes) = (Vec::new(), Vec::new());
    for network in networks {
        match encode_key(*network) {
            Key::Host(key) => hosts.push(key),
            Key::Prefix(key) => prefixes.push(key),
        }
    }
    maps.ipcache.delete_all(&hosts).map_err(|source| MapError::Write { map: IPCACHE, source })?;
    maps.ipcache_lpm.delete_all(&prefixes).map_err(|source| MapError::Write { map: IPCACHE_LPM, source })
}

enum Key {
    Host(abi::IpcacheKey),
    Prefix(LpmKey),
}

fn encode_key(network: IpNetwork) -> Key {
    let whole = if network.is_ipv4() { 32 } else { 128 };
    if network.prefix() == whole { Key::Host(key_of(network.ip())) } else { Key::Prefix(trie_key(network)) }
}

/// An address as key of a hash.
pub(crate) fn key_of(ip: IpAddr) -> abi::IpcacheKey {
    let mut key = abi::IpcacheKey::default();
    let (family, octets): (u32, &[u8]) = match ip {
        IpAddr::V4(ip) => (abi::FAMILY_IPV4, &ip.octets()),
        IpAddr::V6(ip) => (abi::FAMILY_IPV6, &ip.octets()),
    };
    key.family = family as u8;
    key.address[..octets.len()].copy_from_slice(octets);
    key
}

/// A prefix as key of a trie.
pub(super) fn trie_key(network: IpNetwork) -> LpmKey {
    LpmKey::new(abi::IPCACHE_LPM_FAMILY_BITS + u32::from(network.prefix()), key_of(network.network()))
}

/// The prefix that a trie's key means.
pub(super) fn prefix_of(key: &LpmKey) -> Option<IpNetwork> {
    let length = key.prefix_len().checked_sub(abi::IPCACHE_LPM_FAMILY_BITS).and_then(|n| u8::try_from(n).ok())?;
    IpNetwork::new(address(&key.data())?, length).ok()
}

pub(super) fn address(key: &abi::IpcacheKey) -> Option<IpAddr> {
    match u32::from(key.family) {
        abi::FAMILY_IPV4 => {
            let [a, b, c, d, ..] = key.address;
            Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        abi::FAMILY_IPV6 => Some(IpAddr::V6(Ipv6Addr::from(key.address))),
        _ => None,
    }
}

fn encode(entry: &IpcacheEntry) -> abi::IpcacheEntry {
    abi::IpcacheEntry { identity: entry.identity.0, slot: entry.endpoint.map_or(0, |id| id.0), ..Default::default() }
}

fn decode(value: &abi::IpcacheEntry) -> IpcacheEntry {
    IpcacheEntry { identity: Identity(value.identity), endpoint: Some(EndpointId(value.slot)).filter(|id| id.0 != 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_addresses_and_prefixes_go_to_their_maps() {
        for (text, length) in
            [("10.0.0.1/32", None), ("f00d::1/128", None), ("10.0.0.0/8", Some(40)), ("::/0", Some(32))]
        {
            let network: IpNetwork = text.parse().unwrap();
            match (encode_key(network), length) {
                (Key::Host(key), None) => assert_eq!(address(&key), Some(network.ip())),
                (Key::Prefix(key), Some(length)) => {
                    assert_eq!(key.prefix_len(), length);
                    assert_eq!(address(&key.data()), Some(network.ip()));
                }
                _ => panic!("{text} is in the wrong map"),
            }
        }
    }

    #[test]
    fn host_bits_do_not_reach_the_trie() {
        let Key::Prefix(key) = encode_key("10.1.2.3/8".parse().unwrap()) else { panic!("a prefix") };
        assert_eq!(address(&key.data()), Some("10.0.0.0".parse().unwrap()));
    }
}

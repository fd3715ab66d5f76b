//! `cilium_snat_external`: for whom this node speaks to other nodes' backends, by its ports.
//!
//! Only the programs write it. A port without a flow is one that may be given to another client; it makes room for others
//! as the kernel sees fit.

use super::{MapError, Maps, runtime};
use crate::clock;
use crate::syscall::Cursor;
use bpf::abi;
use bpf::names::map::SNAT;
use model::Protocol;
use std::net::{IpAddr, SocketAddr};

/// A port of this node's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatRow {
    pub protocol: Protocol,
    /// Who asked.
    pub client: SocketAddr,
    /// What the backend sees in its place; `None`: this node has no address of that family (any more).
    pub translated: Option<SocketAddr>,
    pub backend: SocketAddr,
    /// Seconds since the port was taken.
    pub age: u32,
}

/// Reads at most `limit` ports.
pub fn read(maps: &Maps, limit: usize, jiffies: u32) -> Result<Vec<NatRow>, MapError> {
    let own = runtime::read_snat_sources(maps)?;
    let mut rows = Vec::new();
    let mut cursor = Cursor::default();
    let failed = |source| MapError::Read { map: SNAT, source };
    while rows.len() < limit
        && let Some(batch) = maps.snat.next_batch(&mut cursor).map_err(failed)?
    {
        let room = limit - rows.len();
        let of = |ipv4| if ipv4 { own.v4.map(IpAddr::V4) } else { own.v6.map(IpAddr::V6) };
        rows.extend(
            batch.keys.iter().zip(&batch.values).filter_map(|(key, entry)| decode(key, entry, &of, jiffies)).take(room),
        );
    }
    Ok(rows)
}

fn decode(
    key: &abi::SnatKey,
    entry: &abi::SnatEntry,
    own: &impl Fn(bool) -> Option<IpAddr>,
    jiffies: u32,
) -> Option<NatRow> {
    let address = |bytes: [u8; 16]| match u32::from(key.family) {
        abi::FAMILY_IPV4 => {
            let [a, b, c, d, ..] = bytes;
            Some(IpAddr::from([a, b, c, d]))
        }
        abi::FAMILY_IPV6 => Some(IpAddr::from(bytes)),
        _ => None,
    };
    let backend = SocketAddr::new(address(key.backend)?, key.backend_port.get());
    Some(NatRow {
        protocol: Protocol(key.protocol),
        client: SocketAddr::new(address(entry.client)?, entry.client_port.get()),
        translated: own(backend.is_ipv4()).map(|ip| SocketAddr::new(ip, key.port.get())),
        backend,
        age: clock::seconds(u32::try_from(jiffies.wrapping_sub((entry.claim >> 32) as u32) as i32).unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::abi::Be16;

    #[test]
    fn a_port_is_somebodys() {
        let mut key = abi::SnatKey {
            backend_port: Be16::new(80),
            port: Be16::new(2000),
            protocol: 6,
            family: abi::FAMILY_IPV4 as u8,
            ..Default::default()
        };
        key.backend[..4].copy_from_slice(&[10, 0, 0, 2]);
        let now = clock::ticks(std::time::Duration::from_secs(10));
        let mut entry = abi::SnatEntry { claim: 7, client_port: Be16::new(4000), ..Default::default() };
        entry.client[..4].copy_from_slice(&[192, 0, 2, 1]);
        let own = |_| Some(IpAddr::from([172, 31, 0, 1]));
        let row = decode(&key, &entry, &own, now).unwrap();
        let text = |address: Option<SocketAddr>| address.unwrap().to_string();
        assert_eq!(
            (row.client.to_string().as_str(), row.backend.to_string().as_str()),
            ("192.0.2.1:4000", "10.0.0.2:80")
        );
        assert_eq!((text(row.translated).as_str(), row.age), ("172.31.0.1:2000", 10));
        // Taken after the clock was read; of no family.
        assert_eq!(decode(&key, &abi::SnatEntry { claim: 20 << 32, ..entry }, &own, 0).unwrap().age, 0);
        key.family = 0;
        assert_eq!(decode(&key, &entry, &own, now), None);
    }
}

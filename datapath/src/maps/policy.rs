//! `cilium_policy` and `cilium_policies`: the entries and the header of each policy version.
//!
//! A version that was removed leaves a headstone in `cilium_policies`: its id with no identity. Its place is only taken
//! by a later id, so the largest id there is the largest that was ever in force, and none is given out twice.

use super::{MapError, Maps};
use crate::current::{Policy, PolicyId};
use bpf::abi;
use bpf::names::map::{POLICIES, POLICY};
use model::{Direction, Identity, PolicyEntry, PolicyKey, PolicyMap, Protocol};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All versions, and the largest id that was ever given out.
pub struct Versions {
    pub policies: BTreeMap<PolicyId, Policy>,
    pub last: u32,
}

pub fn read(maps: &Maps) -> Result<Versions, MapError> {
    let mut contents: BTreeMap<PolicyId, PolicyMap> = BTreeMap::new();
    let entry = |key: &abi::PolicyKey, value: &abi::PolicyEntry| {
        contents.entry(PolicyId(key.policy)).or_default().entries.insert(decode_key(key), decode(value));
    };
    maps.policy.for_each(entry).map_err(|source| MapError::Read { map: POLICY, source })?;
    let mut headers = BTreeMap::new();
    let mut last = contents.keys().next_back().map_or(0, |id| id.0);
    let header = |_: &u32, value: &abi::PolicyHeader| {
        last = last.max(value.id);
        if value.identity != 0 {
            headers.insert(PolicyId(value.id), *value);
        }
    };
    maps.policies.for_each(header).map_err(|source| MapError::Read { map: POLICIES, source })?;
    let mut policies = BTreeMap::new();
    for (id, map) in contents {
        policies.insert(id, Policy { identity: None, map: Arc::new(map) });
    }
    for (id, header) in headers {
        let policy = policies.entry(id).or_insert_with(|| Policy { identity: None, map: Arc::default() });
        // A header over other entries than its own is as good as none.
        if header.classes == classes(&policy.map) {
            policy.identity = Some(Identity(header.identity));
        }
    }
    Ok(Versions { policies, last })
}

/// Writes a version: entries first, then the header. On failure it takes away again what it wrote.
pub fn write(maps: &Maps, id: PolicyId, identity: Identity, map: &PolicyMap) -> Result<(), MapError> {
    let keys: Vec<_> = map.entries.keys().map(|key| encode_key(id, key)).collect();
    let values: Vec<_> = map.entries.values().map(encode).collect();
    if let Err(source) = maps.policy.put_all(&keys, &values) {
        let _ = maps.policy.delete_all(&keys);
        return Err(MapError::Write { map: POLICY, source });
    }
    let header =
        abi::PolicyHeader { id: id.0, identity: identity.0, classes: classes(map), ..abi::PolicyHeader::default() };
    put_header(maps, id, &header)
}

/// Removes a version that no slot names.
pub fn remove(maps: &Maps, id: PolicyId, map: &PolicyMap) -> Result<(), MapError> {
    put_header(maps, id, &headstone(id))?;
    let keys: Vec<_> = map.entries.keys().map(|key| encode_key(id, key)).collect();
    maps.policy.delete_all(&keys).map_err(|source| MapError::Write { map: POLICY, source })
}

/// Has ids begin after `last`, for maps that follow others.
pub fn begin_after(maps: &Maps, last: u32) -> Result<(), MapError> {
    if last == 0 { Ok(()) } else { put_header(maps, PolicyId(last), &headstone(PolicyId(last))) }
}

/// A key of a version, what it says, and the packets and bytes that it decided so far.
pub type Row = (PolicyKey, PolicyEntry, (u64, u64));

/// All rows of a version, by key.
pub fn rows(maps: &Maps, id: PolicyId) -> Result<Vec<Row>, MapError> {
    let mut rows = Vec::new();
    let visit = |key: &abi::PolicyKey, value: &abi::PolicyEntry| {
        if key.policy == id.0 {
            rows.push((decode_key(key), decode(value), (value.packets, value.bytes)));
        }
    };
    maps.policy.for_each(visit).map_err(|source| MapError::Read { map: POLICY, source })?;
    rows.sort_by_key(|(key, ..)| *key);
    Ok(rows)
}

fn headstone(id: PolicyId) -> abi::PolicyHeader {
    abi::PolicyHeader { id: id.0, ..abi::PolicyHeader::default() }
}

fn put_header(maps: &Maps, id: PolicyId, header: &abi::PolicyHeader) -> Result<(), MapError> {
    let place = id.0 % abi::POLICY_SLOTS;
    maps.policies.put(&place, header).map_err(|source| MapError::Write { map: POLICIES, source })
}

/// Which classes of keys occur, by direction and whose.
fn classes(map: &PolicyMap) -> [[u32; 2]; 2] {
    let mut classes = [[0; 2]; 2];
    for key in map.entries.keys() {
        let whose = if key.identity == Identity::UNKNOWN { abi::POLICY_ANY_PEER } else { abi::POLICY_PEER };
        classes[direction(key.direction) as usize][whose as usize] |= 1 << key.class();
    }
    classes
}

fn direction(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => abi::POLICY_INGRESS,
        Direction::Egress => abi::POLICY_EGRESS,
    }
}

fn encode_key(id: PolicyId, key: &PolicyKey) -> abi::PolicyKey {
    let egress = if key.direction == Direction::Egress { abi::POLICY_KEY_EGRESS as u8 } else { 0 };
    abi::PolicyKey {
        policy: id.0,
        identity: key.identity.0,
        port: key.port,
        protocol: key.protocol.map_or(0, |protocol| protocol.0),
        class_direction: key.class() | egress,
    }
}

fn decode_key(key: &abi::PolicyKey) -> PolicyKey {
    let egress = u32::from(key.class_direction) & abi::POLICY_KEY_EGRESS != 0;
    let class = key.class_direction & !(abi::POLICY_KEY_EGRESS as u8);
    let any = class == PolicyKey::CLASS_ANY_PROTOCOL;
    PolicyKey {
        direction: if egress { Direction::Egress } else { Direction::Ingress },
        identity: Identity(key.identity),
        protocol: (!any).then_some(Protocol(key.protocol)),
        prefix: if any { 0 } else { class },
        port: key.port,
    }
}

fn encode(entry: &PolicyEntry) -> abi::PolicyEntry {
    abi::PolicyEntry {
        flags: if entry.deny { abi::POLICY_DENY as u8 } else { 0 },
        precedence: entry.precedence,
        proxy_port: entry.proxy_port,
        ..abi::PolicyEntry::default()
    }
}

fn decode(value: &abi::PolicyEntry) -> PolicyEntry {
    PolicyEntry {
        deny: u32::from(value.flags) & abi::POLICY_DENY != 0,
        proxy_port: value.proxy_port,
        precedence: value.precedence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::policy_map::port_mask;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = PolicyKey> {
        (any::<bool>(), any::<u32>(), any::<Option<u8>>(), 0u8..=16, any::<u16>()).prop_map(
            |(egress, identity, protocol, prefix, port)| {
                let prefix = if protocol.is_some() { prefix } else { 0 };
                PolicyKey {
                    direction: if egress { Direction::Egress } else { Direction::Ingress },
                    identity: Identity(identity),
                    protocol: protocol.map(Protocol),
                    prefix,
                    port: port & port_mask(prefix),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn keys_and_entries_survive(key in key(), deny: bool, proxy_port: u16, precedence: u8) {
            prop_assert_eq!(decode_key(&encode_key(PolicyId(9), &key)), key);
            let entry = PolicyEntry { deny, proxy_port, precedence };
            prop_assert_eq!(decode(&encode(&entry)), entry);
        }
    }

    #[test]
    fn classes_tell_direction_and_whose() {
        let mut map = PolicyMap::allow_all();
        map.entries
            .insert(PolicyKey::one_port(Direction::Ingress, Identity(300), Protocol::TCP, 80), PolicyEntry::ALLOW);
        assert_eq!(classes(&map), [[1 << 16, 1 << 17], [0, 1 << 17]]);
    }
}

//! `cilium_policy` and `cilium_policies`: the entries and the header of each policy version.
//!
//! A version that was removed leaves a headstone in `cilium_policies`: its id with no identity. Its place is only taken
//! by a later id, so the largest id there is the largest that was ever in force, and none is given out twice.

use super::{MapError, Maps};
use crate::current::{Policy, PolicyId};
use bpf::abi;
use bpf::names::map::{POLICIES, POLICY};
use model::{Column, Direction, Identity, PolicyEntry, PolicyKey, PolicyMap, Protocol};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All versions, and the largest id that was ever given out.
pub struct Versions {
    pub policies: BTreeMap<PolicyId, Policy>,
    pub last: u32,
}

pub fn read(maps: &Maps) -> Result<Versions, MapError> {
    let mut contents: BTreeMap<PolicyId, Vec<(PolicyKey, PolicyEntry)>> = BTreeMap::new();
    let entry = |key: &abi::PolicyKey, value: &abi::PolicyEntry| {
        contents.entry(PolicyId(key.policy)).or_default().push((decode_key(key), decode(value)));
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
        policies.insert(id, Policy { identity: None, map: Arc::new(map.into_iter().collect()) });
    }
    for (id, header) in headers {
        let policy = policies.entry(id).or_insert_with(|| Policy { identity: None, map: Arc::default() });
        // A header that does not announce entries that are there is as good as none.
        if union(header.classes, classes(&policy.map)) == header.classes {
            policy.identity = Some(Identity(header.identity));
        }
    }
    Ok(Versions { policies, last })
}

/// Writes a version: entries first, then the header. On failure it takes away again what it wrote.
pub fn write(maps: &Maps, id: PolicyId, identity: Identity, map: &PolicyMap) -> Result<(), MapError> {
    let (keys, values): (Vec<_>, Vec<_>) =
        map.iter().map(|(key, entry)| (encode_key(id, &key), encode(&entry))).unzip();
    if let Err(source) = maps.policy.put_all(&keys, &values) {
        let _ = maps.policy.delete_all(&keys);
        return Err(refused(maps, keys.len(), source));
    }
    let header =
        abi::PolicyHeader { id: id.0, identity: identity.0, classes: classes(map), ..abi::PolicyHeader::default() };
    put_header(maps, id, &header)
}

/// Makes a version say `map` where it says `former`: first the header announces the classes of keys that come, then they
/// come, then the others go. Classes that no longer occur stay announced; they cost a look-up in vain. On failure what
/// was there is there again.
fn amend(maps: &Maps, id: PolicyId, former: &PolicyMap, map: &PolicyMap) -> Result<(), MapError> {
    let mut changes = Changes::default();
    former.differences(map, |identity, here, there| changes.note(id, identity, here, there));
    widen(maps, id, map)?;
    if let Err(source) = maps.policy.put_all(&changes.keys, &changes.values) {
        let _ = maps.policy.delete_all(&changes.added);
        let _ = maps.policy.put_all(&changes.replaced, &changes.restored);
        return Err(refused(maps, changes.added.len(), source));
    }
    maps.policy.delete_all(&changes.gone).map_err(|source| MapError::Write { map: POLICY, source })
}

/// A version, what it says, and what it is to say.
pub type Amendment<'a> = (PolicyId, &'a PolicyMap, &'a PolicyMap);

/// Amends many versions, with as few calls to the kernel as one takes; where that fails, one after the other.
pub fn amend_all(maps: &Maps, amendments: &[Amendment<'_>]) -> Vec<Result<(), MapError>> {
    let one = |(id, former, map): &Amendment<'_>| amend(maps, *id, former, map);
    let together = || {
        let mut changes = Changes::default();
        for (id, former, map) in amendments {
            former.differences(map, |identity, here, there| changes.note(*id, identity, here, there));
            widen(maps, *id, map)?;
        }
        let failed = |source| MapError::Write { map: POLICY, source };
        maps.policy.put_all(&changes.keys, &changes.values).map_err(failed)?;
        maps.policy.delete_all(&changes.gone).map_err(failed)
    };
    match amendments {
        [only] => vec![one(only)],
        // What is written by then is written again, or taken back where it is at fault.
        _ => match together() {
            Ok(()) => amendments.iter().map(|_| Ok(())).collect(),
            Err(_) => amendments.iter().map(one).collect(),
        },
    }
}

/// The elements that an amendment writes and deletes.
#[derive(Default)]
struct Changes {
    keys: Vec<abi::PolicyKey>,
    values: Vec<abi::PolicyEntry>,
    /// Of `keys` those that were not there.
    added: Vec<abi::PolicyKey>,
    /// Of `keys` those that were, and what they said.
    replaced: Vec<abi::PolicyKey>,
    restored: Vec<abi::PolicyEntry>,
    gone: Vec<abi::PolicyKey>,
}

impl Changes {
    fn note(&mut self, id: PolicyId, identity: Identity, here: Option<&Column>, there: Option<&Column>) {
        for (key, entry) in there.into_iter().flat_map(|column| column.of(identity)) {
            let encoded = encode_key(id, &key);
            match here.and_then(|column| column.get(&key)) {
                Some(before) if *before == entry => continue,
                Some(before) => {
                    self.replaced.push(encoded);
                    self.restored.push(encode(before));
                }
                None => self.added.push(encoded),
            }
            self.keys.push(encoded);
            self.values.push(encode(&entry));
        }
        let stays = |key: &PolicyKey| there.is_some_and(|column| column.get(key).is_some());
        let before = here.into_iter().flat_map(|column| column.of(identity));
        self.gone.extend(before.filter(|(key, _)| !stays(key)).map(|(key, _)| encode_key(id, &key)));
    }
}

/// Has the header of a version announce the classes of keys that occur in `map` beside those that it does.
fn widen(maps: &Maps, id: PolicyId, map: &PolicyMap) -> Result<(), MapError> {
    let place = id.0 % abi::POLICY_SLOTS;
    let held = maps.policies.get(&place).map_err(|source| MapError::Read { map: POLICIES, source })?;
    let held = held.filter(|held| held.id == id.0 && held.identity != 0);
    let mut header = held.ok_or(MapError::NoVersion { map: POLICIES, id: id.0 })?;
    let wanted = union(header.classes, classes(map));
    if wanted == header.classes {
        return Ok(());
    }
    header.classes = wanted;
    put_header(maps, id, &header)
}

fn refused(maps: &Maps, entries: usize, source: std::io::Error) -> MapError {
    if source.raw_os_error() == Some(libc::E2BIG) {
        return MapError::Full { map: POLICY, room: maps.policy.info().max_entries, entries };
    }
    MapError::Write { map: POLICY, source }
}

/// Removes a version that no slot names.
pub fn remove(maps: &Maps, id: PolicyId, map: &PolicyMap) -> Result<(), MapError> {
    put_header(maps, id, &headstone(id))?;
    let keys: Vec<_> = map.keys().map(|key| encode_key(id, &key)).collect();
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
    for way in Direction::BOTH {
        let of_direction = &mut classes[direction(way) as usize];
        of_direction[abi::POLICY_PEER as usize] = map.classes(way, false);
        of_direction[abi::POLICY_ANY_PEER as usize] = map.classes(way, true);
    }
    classes
}

fn union(a: [[u32; 2]; 2], b: [[u32; 2]; 2]) -> [[u32; 2]; 2] {
    [0, 1].map(|direction: usize| [0, 1].map(|whose: usize| a[direction][whose] | b[direction][whose]))
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
        map.insert(PolicyKey::one_port(Direction::Ingress, Identity(300), Protocol::TCP, 80), PolicyEntry::ALLOW);
        assert_eq!(classes(&map), [[1 << 16, 1 << 17], [0, 1 << 17]]);
    }
}

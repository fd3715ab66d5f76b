//! A resolved policy in the form that the kernel looks things up in.

use crate::{Direction, Identity, IdentityMap, Protocol};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a packet is looked up by. More specific keys are found first; see `lookup`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PolicyKey {
    pub direction: Direction,
    /// The peer; `Identity::UNKNOWN` (0) stands for any.
    pub identity: Identity,
    /// `None`: any protocol, and then `prefix` and `port` are 0.
    pub protocol: Option<Protocol>,
    /// How many leading bits of the port must be equal: 16 = this port, 0 = every port of the protocol.
    pub prefix: u8,
    /// Destination port, host order; for ICMP the type. Bits beyond `prefix` are 0.
    pub port: u16,
}

impl PolicyKey {
    /// Every protocol and port of `identity`.
    pub fn any_port(direction: Direction, identity: Identity) -> PolicyKey {
        PolicyKey { direction, identity, protocol: None, prefix: 0, port: 0 }
    }

    pub fn one_port(direction: Direction, identity: Identity, protocol: Protocol, port: u16) -> PolicyKey {
        PolicyKey { direction, identity, protocol: Some(protocol), prefix: 16, port }
    }

    /// The probe class of this key: 0..=16 for a protocol with that port prefix, 17 for any protocol.
    ///
    /// The kernel holds for each policy a mask of the classes that occur, and probes only those.
    pub fn class(&self) -> u8 {
        if self.protocol.is_some() { self.prefix } else { PolicyKey::CLASS_ANY_PROTOCOL }
    }

    pub const CLASS_ANY_PROTOCOL: u8 = 17;

    /// Whether every packet that `other` matches is matched by this key too.
    pub fn covers(&self, other: &PolicyKey) -> bool {
        self.direction == other.direction
            && (self.identity == Identity::UNKNOWN || self.identity == other.identity)
            && match (self.protocol, other.protocol) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(a), Some(b)) => {
                    a == b && self.prefix <= other.prefix && self.port == other.port & port_mask(self.prefix)
                }
            }
    }
}

/// The mask of the `prefix` (0..=16) leading bits of a port.
pub fn port_mask(prefix: u8) -> u16 {
    if prefix == 0 { 0 } else { u16::MAX << (16 - prefix.min(16)) }
}

/// What happens to a packet that a key matches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PolicyEntry {
    pub deny: bool,
    /// 0: none. Otherwise the packet goes to the proxy that listens there.
    pub proxy_port: u16,
    /// The larger one wins where two keys match (Cilium: 255 deny, 254..=129 redirects by priority, 2 redirect, 1 allow).
    pub precedence: u8,
}

impl PolicyEntry {
    pub const ALLOW: PolicyEntry = PolicyEntry { deny: false, proxy_port: 0, precedence: 1 };
    pub const DENY: PolicyEntry = PolicyEntry { deny: true, proxy_port: 0, precedence: 255 };
}

/// What a policy says about one peer, or about any peer: entries by their keys, in which the identity is 0. Peers of
/// whom the same is said share one.
#[derive(Clone)]
pub struct Column(Arc<[(PolicyKey, PolicyEntry)]>);

impl Column {
    /// The identities of the keys are of no account; of two entries with one key the last counts.
    pub fn new(entries: impl IntoIterator<Item = (PolicyKey, PolicyEntry)>) -> Column {
        let entries = entries.into_iter().map(|(key, entry)| (PolicyKey { identity: Identity::UNKNOWN, ..key }, entry));
        let entries: Vec<(PolicyKey, PolicyEntry)> = entries.collect();
        if entries.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Column(entries.into());
        }
        let entries: BTreeMap<PolicyKey, PolicyEntry> = entries.into_iter().collect();
        Column(entries.into_iter().collect())
    }

    pub fn get(&self, key: &PolicyKey) -> Option<&PolicyEntry> {
        let key = PolicyKey { identity: Identity::UNKNOWN, ..*key };
        let found = self.0.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        self.0.get(found).map(|(_, entry)| entry)
    }

    /// The entries as they are, by key.
    pub fn entries(&self) -> &[(PolicyKey, PolicyEntry)] {
        &self.0
    }

    /// The entries under the identity that they are about.
    pub fn of(&self, identity: Identity) -> impl Iterator<Item = (PolicyKey, PolicyEntry)> + '_ {
        self.0.iter().map(move |(key, entry)| (PolicyKey { identity, ..*key }, *entry))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Column {
    fn eq(&self, other: &Column) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Column {}

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(key, entry)| (key, entry))).finish()
    }
}

const DIRECTIONS: usize = 2;
/// Of `PolicyKey::class`.
const CLASSES: usize = 18;

/// The whole policy of one subject identity. Default deny: what no key matches is refused (a direction that is not
/// enforced has an allow-everything key). Computed by `policy`, written by `datapath`.
///
/// A clone costs nothing and shares what neither side changes; `differences` between the two skips what they share.
#[derive(Clone, Default)]
pub struct PolicyMap {
    /// None is empty. That of any peer stands under `Identity::UNKNOWN`.
    columns: IdentityMap<Column>,
    /// How many entries all columns have.
    len: usize,
    /// How many entries of named peers are of each class.
    classes: [[u32; CLASSES]; DIRECTIONS],
    /// Whether the direction is enforced at all; what `endpoint list` shows.
    pub enforced_ingress: bool,
    pub enforced_egress: bool,
}

impl PolicyMap {
    /// The policy of an endpoint that nothing restricts.
    pub fn allow_all() -> PolicyMap {
        Direction::BOTH.map(|d| (PolicyKey::any_port(d, Identity::UNKNOWN), PolicyEntry::ALLOW)).into_iter().collect()
    }

    /// The same entries, with these directions enforced.
    #[must_use]
    pub fn enforcing(self, ingress: bool, egress: bool) -> PolicyMap {
        PolicyMap { enforced_ingress: ingress, enforced_egress: egress, ..self }
    }

    pub fn enforced(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.enforced_ingress,
            Direction::Egress => self.enforced_egress,
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, key: &PolicyKey) -> Option<&PolicyEntry> {
        self.columns.get(&key.identity)?.get(key)
    }

    /// Every entry, by identity and then by key.
    pub fn iter(&self) -> impl Iterator<Item = (PolicyKey, PolicyEntry)> + '_ {
        self.columns.iter().flat_map(|(identity, column)| column.of(identity))
    }

    pub fn keys(&self) -> impl Iterator<Item = PolicyKey> + '_ {
        self.iter().map(|(key, _)| key)
    }

    /// What is said about each peer; about any peer under `Identity::UNKNOWN`.
    pub fn columns(&self) -> &IdentityMap<Column> {
        &self.columns
    }

    /// Says something else about a peer; an empty column is none.
    pub fn set_column(&mut self, identity: Identity, column: Option<Column>) {
        let column = column.filter(|column| !column.is_empty());
        if let Some(column) = &column {
            self.count(identity, column, |count| count.wrapping_add(1));
            self.len += column.len();
        }
        let before = match column {
            Some(column) => self.columns.insert(identity, column),
            None => self.columns.remove(&identity),
        };
        if let Some(before) = before {
            self.count(identity, &before, |count| count.wrapping_sub(1));
            self.len -= before.len();
        }
    }

    pub fn insert(&mut self, key: PolicyKey, entry: PolicyEntry) {
        let held = self.columns.get(&key.identity).into_iter().flat_map(|column| column.entries().iter().copied());
        let column = Column::new(held.chain([(key, entry)]));
        self.set_column(key.identity, Some(column));
    }

    pub fn remove(&mut self, key: &PolicyKey) {
        let held = self.columns.get(&key.identity).into_iter().flat_map(|column| column.of(key.identity));
        let column = Column::new(held.filter(|(held, _)| held != key));
        self.set_column(key.identity, Some(column));
    }

    /// Which classes of keys occur in a direction, a bit for each: of keys that name a peer, or of those for any peer.
    pub fn classes(&self, direction: Direction, any_peer: bool) -> u32 {
        if any_peer {
            let column = self.columns.get(&Identity::UNKNOWN);
            let keys = column.into_iter().flat_map(|column| column.entries().iter().map(|(key, _)| key));
            return keys.filter(|key| key.direction == direction).fold(0, |mask, key| mask | 1 << key.class());
        }
        let counts = self.classes[direction as usize].iter().enumerate();
        counts.filter(|(_, count)| **count > 0).fold(0, |mask, (class, _)| mask | 1 << class)
    }

    fn count(&mut self, identity: Identity, column: &Column, step: fn(u32) -> u32) {
        for (key, _) in column.entries().iter().filter(|_| identity != Identity::UNKNOWN) {
            if let Some(count) = self.classes[key.direction as usize].get_mut(usize::from(key.class())) {
                *count = step(*count);
            }
        }
    }

    /// Visits each peer of whom the two say different things, with what this map and what `other` says.
    pub fn differences(&self, other: &PolicyMap, visit: impl FnMut(Identity, Option<&Column>, Option<&Column>)) {
        self.columns.differences(&other.columns, visit);
    }

    /// Whether both have the same entries.
    pub fn has_same_entries(&self, other: &PolicyMap) -> bool {
        self.len == other.len && self.columns == other.columns
    }

    /// The look-up exactly as the kernel does it: the most specific key of the peer and the most specific key of "any
    /// peer"; of the two the one with the larger precedence, on a tie deny, then the longer match. `None`: refused by
    /// default.
    pub fn lookup(&self, direction: Direction, peer: Identity, protocol: Protocol, port: u16) -> Option<PolicyEntry> {
        let best = |identity: Identity| {
            let column = self.columns.get(&identity)?;
            let with_port = (0..=16).rev().map(|prefix| PolicyKey {
                direction,
                identity,
                protocol: Some(protocol),
                prefix,
                port: port & port_mask(prefix),
            });
            with_port
                .chain([PolicyKey::any_port(direction, identity)])
                .enumerate()
                .find_map(|(rank, key)| column.get(&key).map(|entry| (rank, *entry)))
        };
        match (best(peer), if peer == Identity::UNKNOWN { None } else { best(Identity::UNKNOWN) }) {
            (None, None) => None,
            (Some((_, entry)), None) | (None, Some((_, entry))) => Some(entry),
            (Some((rank, specific)), Some((wild_rank, wild))) => {
                let wild_wins = (wild.precedence, wild.deny) > (specific.precedence, specific.deny)
                    || ((wild.precedence, wild.deny) == (specific.precedence, specific.deny) && wild_rank < rank);
                Some(if wild_wins { wild } else { specific })
            }
        }
    }
}

/// Nothing is enforced.
impl FromIterator<(PolicyKey, PolicyEntry)> for PolicyMap {
    fn from_iter<I: IntoIterator<Item = (PolicyKey, PolicyEntry)>>(entries: I) -> PolicyMap {
        let mut columns: BTreeMap<Identity, Vec<(PolicyKey, PolicyEntry)>> = BTreeMap::new();
        for (key, entry) in entries {
            columns.entry(key.identity).or_default().push((key, entry));
        }
        let mut map = PolicyMap::default();
        for (identity, entries) in columns {
            map.set_column(identity, Some(Column::new(entries)));
        }
        map
    }
}

impl PartialEq for PolicyMap {
    fn eq(&self, other: &PolicyMap) -> bool {
        (self.enforced_ingress, self.enforced_egress) == (other.enforced_ingress, other.enforced_egress)
            && self.has_same_entries(other)
    }
}

impl Eq for PolicyMap {}

impl fmt::Debug for PolicyMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyMap")
            .field("columns", &self.columns)
            .field("enforced_ingress", &self.enforced_ingress)
            .field("enforced_egress", &self.enforced_egress)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering_follows_port_bits() {
        let range = PolicyKey {
            direction: Direction::Ingress,
            identity: Identity(0),
            protocol: Some(Protocol::TCP),
            prefix: 13,
            port: 80,
        };
        assert!(range.covers(&PolicyKey::one_port(Direction::Ingress, Identity(300), Protocol::TCP, 87)));
        assert!(!range.covers(&PolicyKey::one_port(Direction::Ingress, Identity(300), Protocol::TCP, 88)));
        assert!(!range.covers(&PolicyKey::any_port(Direction::Ingress, Identity(300))));
    }

    #[test]
    fn a_broad_deny_beats_a_narrow_allow() {
        let mut map = PolicyMap::default();
        map.insert(PolicyKey::one_port(Direction::Ingress, Identity(300), Protocol::TCP, 80), PolicyEntry::ALLOW);
        map.insert(PolicyKey::any_port(Direction::Ingress, Identity::UNKNOWN), PolicyEntry::DENY);
        assert_eq!(map.lookup(Direction::Ingress, Identity(300), Protocol::TCP, 80), Some(PolicyEntry::DENY));
    }

    #[test]
    fn nothing_found_is_none() {
        assert_eq!(PolicyMap::default().lookup(Direction::Egress, Identity(300), Protocol::UDP, 53), None);
        assert_eq!(
            PolicyMap::allow_all().lookup(Direction::Egress, Identity(300), Protocol(47), 0),
            Some(PolicyEntry::ALLOW)
        );
    }

    #[test]
    fn classes_and_sizes_follow_every_change() {
        let key = |identity, port| PolicyKey::one_port(Direction::Ingress, Identity(identity), Protocol::TCP, port);
        let mut map = PolicyMap::allow_all();
        map.insert(key(300, 80), PolicyEntry::ALLOW);
        map.insert(key(300, 80), PolicyEntry::DENY);
        map.insert(key(300, 81), PolicyEntry::DENY);
        map.insert(key(301, 81), PolicyEntry::DENY);
        let masks = |map: &PolicyMap| {
            Direction::BOTH.map(|direction| [false, true].map(|any_peer| map.classes(direction, any_peer)))
        };
        assert_eq!((map.len(), masks(&map)), (5, [[1 << 16, 1 << 17], [0, 1 << 17]]));
        map.set_column(Identity(300), None);
        assert_eq!((map.len(), masks(&map)), (3, [[1 << 16, 1 << 17], [0, 1 << 17]]));
        map.set_column(Identity(301), Some(Column::new([])));
        assert_eq!((map.len(), masks(&map)), (2, [[0, 1 << 17], [0, 1 << 17]]));
        assert_eq!(map, PolicyMap::allow_all());
    }
}

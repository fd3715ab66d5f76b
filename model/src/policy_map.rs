//! A resolved policy in the form that the kernel looks things up in.

use crate::{Direction, Identity, Protocol};
use std::collections::BTreeMap;

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

/// The whole policy of one subject identity. Default deny: what no key matches is refused (a direction that is not
/// enforced has an allow-everything key). Computed by `policy`, written by `datapath`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicyMap {
    pub entries: BTreeMap<PolicyKey, PolicyEntry>,
    /// Whether the direction is enforced at all; what `endpoint list` shows.
    pub enforced_ingress: bool,
    pub enforced_egress: bool,
}

impl PolicyMap {
    /// The policy of an endpoint that nothing restricts.
    pub fn allow_all() -> PolicyMap {
        let entries = Direction::BOTH
            .map(|d| (PolicyKey::any_port(d, Identity::UNKNOWN), PolicyEntry::ALLOW))
            .into_iter()
            .collect();
        PolicyMap { entries, enforced_ingress: false, enforced_egress: false }
    }

    pub fn enforced(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.enforced_ingress,
            Direction::Egress => self.enforced_egress,
        }
    }

    /// The look-up exactly as the kernel does it: the most specific key of the peer and the most specific key of "any
    /// peer"; of the two the one with the larger precedence, on a tie deny, then the longer match. `None`: refused by
    /// default.
    pub fn lookup(&self, direction: Direction, peer: Identity, protocol: Protocol, port: u16) -> Option<PolicyEntry> {
        let best = |identity: Identity| {
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
                .find_map(|(rank, key)| self.entries.get(&key).map(|entry| (rank, *entry)))
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
        map.entries
            .insert(PolicyKey::one_port(Direction::Ingress, Identity(300), Protocol::TCP, 80), PolicyEntry::ALLOW);
        map.entries.insert(PolicyKey::any_port(Direction::Ingress, Identity::UNKNOWN), PolicyEntry::DENY);
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
}

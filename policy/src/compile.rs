//! From filters (these peers, these ports, this outcome) to the entries of a policy map, in a form in which the kernel's
//! look-up gives the right answer: port ranges become aligned prefixes, and no key is left that a broader one overrules
//! or makes superfluous.
//!
//! The kernel takes, for the peer and for "any peer", the most specific key that it finds, and of the two the one with
//! the higher precedence. That is right only if, of two keys of which one covers the other, the narrower has at least
//! the precedence of the broader; `finish` sees to it.

use model::policy_map::port_mask;
use model::{Direction, Identity, PolicyEntry, PolicyKey, Protocol};
use std::collections::BTreeMap;

/// The identities that a filter is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PeerSet {
    /// Every identity there is or will be; one key with the identity 0.
    Everyone,
    /// Ascending, without 0.
    These(Vec<Identity>),
}

/// The traffic that a filter is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Traffic {
    Everything,
    /// Destination ports of a protocol, both ends included; for ICMP its types.
    Ports {
        protocol: Protocol,
        first: u16,
        last: u16,
    },
}

/// Collects the filters of one subject.
#[derive(Default)]
pub(crate) struct Compiler {
    candidates: Vec<(PolicyKey, PolicyEntry)>,
}

impl Compiler {
    pub(crate) fn add(&mut self, direction: Direction, peers: &PeerSet, traffic: Traffic, entry: PolicyEntry) {
        let identities = match peers {
            PeerSet::Everyone => &[Identity::UNKNOWN][..],
            PeerSet::These(identities) => identities,
        };
        match traffic {
            Traffic::Everything => {
                let keys = identities.iter().map(|identity| PolicyKey::any_port(direction, *identity));
                self.candidates.extend(keys.map(|key| (key, entry)));
            }
            Traffic::Ports { protocol, first, last } => {
                for (port, prefix) in port_prefixes(first, last) {
                    let keys = identities.iter().map(|identity| PolicyKey {
                        direction,
                        identity: *identity,
                        protocol: Some(protocol),
                        prefix,
                        port,
                    });
                    self.candidates.extend(keys.map(|key| (key, entry)));
                }
            }
        }
    }

    /// The entries that are needed, and no others.
    pub(crate) fn finish(self) -> BTreeMap<PolicyKey, PolicyEntry> {
        let merged = merge(self.candidates);
        let classes = Classes::of(&merged);
        let is_needed = |key: &PolicyKey, entry: &PolicyEntry| {
            !classes.covering(key).any(|cover| merged.get(&cover).is_some_and(|broader| overrules(broader, entry)))
        };
        if merged.keys().all(|key| classes.covering(key).next().is_none()) {
            return merged;
        }
        merged.iter().filter(|(key, entry)| is_needed(key, entry)).map(|(key, entry)| (*key, *entry)).collect()
    }
}

/// One entry a key: the one with the highest precedence, of several redirects the one to the lowest proxy port.
fn merge(mut candidates: Vec<(PolicyKey, PolicyEntry)>) -> BTreeMap<PolicyKey, PolicyEntry> {
    let rank = |entry: &PolicyEntry| (std::cmp::Reverse(entry.precedence), !entry.deny, entry.proxy_port);
    candidates.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| rank(&a.1).cmp(&rank(&b.1))));
    candidates.dedup_by_key(|(key, _)| *key);
    candidates.into_iter().collect()
}

/// Whether a key that is covered by one with the entry `broader` must not, or need not, be there.
fn overrules(broader: &PolicyEntry, entry: &PolicyEntry) -> bool {
    let same = broader.precedence == entry.precedence && broader.deny == entry.deny;
    let redirects = broader.proxy_port != 0 || entry.proxy_port != 0;
    broader.precedence > entry.precedence || same && !redirects
}

/// Which kinds of keys occur, so that only those are looked for: for each direction one mask for "any peer" and one
/// for named peers, with a bit for each `PolicyKey::class`.
#[derive(Default)]
struct Classes {
    masks: [[u32; 2]; 2],
}

impl Classes {
    fn of(entries: &BTreeMap<PolicyKey, PolicyEntry>) -> Classes {
        let mut classes = Classes::default();
        for key in entries.keys() {
            let named = usize::from(key.identity != Identity::UNKNOWN);
            classes.masks[key.direction as usize][named] |= 1 << key.class();
        }
        classes
    }

    /// The keys that may be in the map, cover `key` and are not `key` itself.
    fn covering(&self, key: &PolicyKey) -> impl Iterator<Item = PolicyKey> {
        let key = *key;
        let masks = self.masks[key.direction as usize];
        let named = key.identity != Identity::UNKNOWN;
        let own = (key.identity, masks[usize::from(named)]);
        let any = (Identity::UNKNOWN, if named { masks[0] } else { 0 });
        [own, any].into_iter().flat_map(move |(identity, mask)| {
            let any_port = PolicyKey { identity, protocol: None, prefix: 0, port: 0, ..key };
            let any_port = (mask & 1 << PolicyKey::CLASS_ANY_PROTOCOL != 0).then_some(any_port);
            let widest = if key.protocol.is_some() { Some(key.prefix) } else { None };
            let ports = widest.into_iter().flat_map(|prefix| 0..=prefix).filter(move |prefix| mask & 1 << prefix != 0);
            let ports =
                ports.map(move |prefix| PolicyKey { identity, prefix, port: key.port & port_mask(prefix), ..key });
            ports.chain(any_port).filter(move |cover| *cover != key)
        })
    }
}

/// The fewest aligned blocks (first port, number of leading bits) that make up `first..=last`.
pub(crate) fn port_prefixes(first: u16, last: u16) -> Vec<(u16, u8)> {
    const BITS: u32 = u16::BITS;
    let (mut next, end) = (u32::from(first), u32::from(last) + 1);
    let mut blocks = Vec::new();
    while next < end {
        let aligned = if next == 0 { BITS } else { next.trailing_zeros() };
        let fitting = (end - next).ilog2();
        let size = aligned.min(fitting);
        // Both are below 2^16 and at most 16: the loop ends at 65536.
        if let (Ok(port), Ok(prefix)) = (u16::try_from(next), u8::try_from(BITS - size)) {
            blocks.push((port, prefix));
        }
        next += 1 << size;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Identity = Identity(300);
    const INGRESS: Direction = Direction::Ingress;

    fn only(identity: Identity) -> PeerSet {
        PeerSet::These(vec![identity])
    }

    fn tcp(first: u16, last: u16) -> Traffic {
        Traffic::Ports { protocol: Protocol::TCP, first, last }
    }

    fn compiled(filters: &[(PeerSet, Traffic, PolicyEntry)]) -> Vec<(PolicyKey, PolicyEntry)> {
        let mut compiler = Compiler::default();
        for (peers, traffic, entry) in filters {
            compiler.add(INGRESS, peers, *traffic, *entry);
        }
        compiler.finish().into_iter().collect()
    }

    #[test]
    fn ranges_are_made_of_aligned_blocks() {
        assert_eq!(port_prefixes(80, 90), [(80, 13), (88, 15), (90, 16)]);
        assert_eq!(port_prefixes(80, 444).len(), 9);
        assert_eq!(port_prefixes(1, 65535).len(), 16);
        assert_eq!(port_prefixes(0, 65535), [(0, 0)]);
        assert_eq!(port_prefixes(443, 443), [(443, 16)]);
        assert_eq!(port_prefixes(65535, 65535), [(65535, 16)]);
        assert_eq!(port_prefixes(1, 65534).len(), 30);
    }

    #[test]
    fn an_allow_under_a_broad_deny_is_not_in_the_map() {
        let map = compiled(&[
            (only(A), tcp(80, 80), PolicyEntry::ALLOW),
            (PeerSet::Everyone, tcp(0, 65535), PolicyEntry::DENY),
        ]);
        let deny =
            PolicyKey { prefix: 0, port: 0, ..PolicyKey::one_port(INGRESS, Identity::UNKNOWN, Protocol::TCP, 0) };
        assert_eq!(map, [(deny, PolicyEntry::DENY)]);
    }

    #[test]
    fn a_narrow_deny_is_a_hole_in_a_broad_allow() {
        let map =
            compiled(&[(only(A), Traffic::Everything, PolicyEntry::ALLOW), (only(A), tcp(80, 80), PolicyEntry::DENY)]);
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn a_deny_takes_the_place_of_an_allow_with_the_same_key() {
        let map = compiled(&[(only(A), tcp(80, 80), PolicyEntry::DENY), (only(A), tcp(80, 80), PolicyEntry::ALLOW)]);
        assert_eq!(map, [(PolicyKey::one_port(INGRESS, A, Protocol::TCP, 80), PolicyEntry::DENY)]);
    }

    #[test]
    fn a_plain_allow_under_a_redirect_is_absorbed() {
        let redirect = PolicyEntry { deny: false, proxy_port: 9000, precedence: 2 };
        let map = compiled(&[(PeerSet::Everyone, tcp(80, 87), redirect), (only(A), tcp(85, 85), PolicyEntry::ALLOW)]);
        assert_eq!(map.len(), 1);
        let map =
            compiled(&[(only(A), Traffic::Everything, PolicyEntry::ALLOW), (PeerSet::Everyone, tcp(80, 80), redirect)]);
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn of_two_redirects_the_lower_port_is_taken() {
        let redirect = |proxy_port| PolicyEntry { deny: false, proxy_port, precedence: 2 };
        let map = compiled(&[(only(A), tcp(80, 80), redirect(9001)), (only(A), tcp(80, 80), redirect(9000))]);
        assert_eq!(map, [(PolicyKey::one_port(INGRESS, A, Protocol::TCP, 80), redirect(9000))]);
    }

    #[test]
    fn what_a_broader_allow_allows_is_left_out() {
        let map = compiled(&[
            (PeerSet::Everyone, tcp(0, 65535), PolicyEntry::ALLOW),
            (PeerSet::Everyone, tcp(80, 80), PolicyEntry::ALLOW),
            (only(A), tcp(80, 90), PolicyEntry::ALLOW),
            (only(A), Traffic::Everything, PolicyEntry::ALLOW),
        ]);
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn an_icmp_type_0_is_one_type() {
        let traffic = Traffic::Ports { protocol: Protocol::ICMP, first: 0, last: 0 };
        let map = compiled(&[(PeerSet::Everyone, traffic, PolicyEntry::ALLOW)]);
        assert_eq!(map, [(PolicyKey::one_port(INGRESS, Identity::UNKNOWN, Protocol::ICMP, 0), PolicyEntry::ALLOW)]);
    }

    proptest! {
        #[test]
        fn blocks_make_up_exactly_the_range(first: u16, length in 0u16..3000) {
            let last = first.saturating_add(length);
            let blocks = port_prefixes(first, last);
            prop_assert!(blocks.len() <= 30);
            let mut next = u32::from(first);
            for (port, prefix) in blocks {
                prop_assert_eq!(u32::from(port), next);
                prop_assert_eq!(port & !port_mask(prefix), 0);
                next += 1 << (16 - prefix);
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }
}

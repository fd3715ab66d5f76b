//! From filters (these ports, this outcome) to the entries of a policy map, in a form in which the kernel's look-up gives
//! the right answer: port ranges become aligned prefixes, and no key is left that a broader one overrules or makes
//! superfluous.
//!
//! The kernel takes, for the peer and for "any peer", the most specific key that it finds, and of the two the one with
//! the higher precedence. That is right only if, of two keys of which one covers the other, the narrower has at least
//! the precedence of the broader; `tight` sees to it. A key is only ever covered by keys of the same peer and of any
//! peer, so each peer's column can be made by itself once that of any peer is known.

use model::policy_map::port_mask;
use model::{Column, Direction, Identity, PolicyEntry, PolicyKey, Protocol};

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

impl Traffic {
    /// Protocol, first and last port.
    pub(crate) fn ports(self) -> Option<(Protocol, u16, u16)> {
        match self {
            Traffic::Everything => None,
            Traffic::Ports { protocol, first, last } => Some((protocol, first, last)),
        }
    }

    /// The keys that together match this traffic and nothing else, without a peer.
    pub(crate) fn keys(self, direction: Direction) -> Vec<PolicyKey> {
        const ANY: Identity = Identity::UNKNOWN;
        match self {
            Traffic::Everything => vec![PolicyKey::any_port(direction, ANY)],
            Traffic::Ports { protocol, first, last } => {
                let blocks = port_prefixes(first, last).into_iter();
                let key =
                    |(port, prefix)| PolicyKey { direction, identity: ANY, protocol: Some(protocol), prefix, port };
                blocks.map(key).collect()
            }
        }
    }
}

/// What is said about any peer, with what the columns of named peers ask of it.
#[derive(Debug)]
pub(crate) struct AnyPeer {
    column: Column,
    classes: Classes,
}

impl AnyPeer {
    pub(crate) fn new(candidates: Vec<(PolicyKey, PolicyEntry)>) -> AnyPeer {
        let column = Column::new(tight(&merge(candidates), None));
        AnyPeer { classes: Classes::of(column.entries()), column }
    }

    pub(crate) fn column(&self) -> &Column {
        &self.column
    }

    /// The entries about one peer that are needed beside these, and no others.
    pub(crate) fn beside(&self, candidates: Vec<(PolicyKey, PolicyEntry)>) -> Column {
        Column::new(tight(&merge(candidates), Some(self)))
    }
}

fn tight(merged: &[(PolicyKey, PolicyEntry)], any: Option<&AnyPeer>) -> Vec<(PolicyKey, PolicyEntry)> {
    let own = Classes::of(merged);
    let held = |key: &PolicyKey| {
        let found = merged.binary_search_by_key(key, |(key, _)| *key).ok()?;
        merged.get(found).map(|(_, entry)| entry)
    };
    let is_needed = |(key, entry): &&(PolicyKey, PolicyEntry)| {
        let by_own = own.covering(key).filter(|cover| cover != key).filter_map(|cover| held(&cover));
        let by_any = any.into_iter().flat_map(|any| any.classes.covering(key).filter_map(|c| any.column.get(&c)));
        !by_own.chain(by_any).any(|broader| overrules(broader, entry))
    };
    merged.iter().filter(is_needed).copied().collect()
}

/// One entry a key, by key: the one with the highest precedence, of several redirects the one to the lowest proxy port.
fn merge(mut candidates: Vec<(PolicyKey, PolicyEntry)>) -> Vec<(PolicyKey, PolicyEntry)> {
    let rank = |entry: &PolicyEntry| (std::cmp::Reverse(entry.precedence), !entry.deny, entry.proxy_port);
    candidates.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| rank(&a.1).cmp(&rank(&b.1))));
    candidates.dedup_by_key(|(key, _)| *key);
    candidates
}

/// Whether a key that is covered by one with the entry `broader` must not, or need not, be there.
fn overrules(broader: &PolicyEntry, entry: &PolicyEntry) -> bool {
    let same = broader.precedence == entry.precedence && broader.deny == entry.deny;
    let redirects = broader.proxy_port != 0 || entry.proxy_port != 0;
    broader.precedence > entry.precedence || same && !redirects
}

/// Which kinds of keys occur in each direction, so that only those are looked for: a bit for each `PolicyKey::class`.
#[derive(Default, Debug)]
struct Classes([u32; 2]);

impl Classes {
    fn of(entries: &[(PolicyKey, PolicyEntry)]) -> Classes {
        let mut classes = Classes::default();
        for (key, _) in entries {
            classes.0[key.direction as usize] |= 1 << key.class();
        }
        classes
    }

    /// The keys that may be there and cover `key`; the key itself may be among them.
    fn covering(&self, key: &PolicyKey) -> impl Iterator<Item = PolicyKey> + use<> {
        let (key, mask) = (*key, self.0[key.direction as usize]);
        let any_port = PolicyKey { protocol: None, prefix: 0, port: 0, ..key };
        let any_port = (mask & 1 << PolicyKey::CLASS_ANY_PROTOCOL != 0).then_some(any_port);
        let widest = if key.protocol.is_some() { Some(key.prefix) } else { None };
        let ports = widest.into_iter().flat_map(|prefix| 0..=prefix).filter(move |prefix| mask & 1 << prefix != 0);
        ports.map(move |prefix| PolicyKey { prefix, port: key.port & port_mask(prefix), ..key }).chain(any_port)
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

    /// Whom a filter of these tests is about.
    #[derive(Clone, Copy, PartialEq)]
    enum Whom {
        Everyone,
        A,
    }
    use Whom::Everyone;

    fn tcp(first: u16, last: u16) -> Traffic {
        Traffic::Ports { protocol: Protocol::TCP, first, last }
    }

    fn compiled(filters: &[(Whom, Traffic, PolicyEntry)]) -> Vec<(PolicyKey, PolicyEntry)> {
        let about = |whom: Whom| {
            let filters = filters.iter().filter(move |(about, ..)| *about == whom);
            filters.flat_map(|(_, traffic, entry)| traffic.keys(INGRESS).into_iter().map(|key| (key, *entry))).collect()
        };
        let any = AnyPeer::new(about(Everyone));
        let peer = any.beside(about(Whom::A));
        any.column().of(Identity::UNKNOWN).chain(peer.of(A)).collect()
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
        let map = compiled(&[(Whom::A, tcp(80, 80), PolicyEntry::ALLOW), (Everyone, tcp(0, 65535), PolicyEntry::DENY)]);
        let deny =
            PolicyKey { prefix: 0, port: 0, ..PolicyKey::one_port(INGRESS, Identity::UNKNOWN, Protocol::TCP, 0) };
        assert_eq!(map, [(deny, PolicyEntry::DENY)]);
    }

    #[test]
    fn a_narrow_deny_is_a_hole_in_a_broad_allow() {
        let map =
            compiled(&[(Whom::A, Traffic::Everything, PolicyEntry::ALLOW), (Whom::A, tcp(80, 80), PolicyEntry::DENY)]);
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn a_deny_takes_the_place_of_an_allow_with_the_same_key() {
        let map = compiled(&[(Whom::A, tcp(80, 80), PolicyEntry::DENY), (Whom::A, tcp(80, 80), PolicyEntry::ALLOW)]);
        assert_eq!(map, [(PolicyKey::one_port(INGRESS, A, Protocol::TCP, 80), PolicyEntry::DENY)]);
    }

    #[test]
    fn a_plain_allow_under_a_redirect_is_absorbed() {
        let redirect = PolicyEntry { deny: false, proxy_port: 9000, precedence: 2 };
        let map = compiled(&[(Everyone, tcp(80, 87), redirect), (Whom::A, tcp(85, 85), PolicyEntry::ALLOW)]);
        assert_eq!(map.len(), 1);
        let map = compiled(&[(Whom::A, Traffic::Everything, PolicyEntry::ALLOW), (Everyone, tcp(80, 80), redirect)]);
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn of_two_redirects_the_lower_port_is_taken() {
        let redirect = |proxy_port| PolicyEntry { deny: false, proxy_port, precedence: 2 };
        let map = compiled(&[(Whom::A, tcp(80, 80), redirect(9001)), (Whom::A, tcp(80, 80), redirect(9000))]);
        assert_eq!(map, [(PolicyKey::one_port(INGRESS, A, Protocol::TCP, 80), redirect(9000))]);
    }

    #[test]
    fn what_a_broader_allow_allows_is_left_out() {
        let map = compiled(&[
            (Everyone, tcp(0, 65535), PolicyEntry::ALLOW),
            (Everyone, tcp(80, 80), PolicyEntry::ALLOW),
            (Whom::A, tcp(80, 90), PolicyEntry::ALLOW),
            (Whom::A, Traffic::Everything, PolicyEntry::ALLOW),
        ]);
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn an_icmp_type_0_is_one_type() {
        let traffic = Traffic::Ports { protocol: Protocol::ICMP, first: 0, last: 0 };
        let map = compiled(&[(Everyone, traffic, PolicyEntry::ALLOW)]);
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

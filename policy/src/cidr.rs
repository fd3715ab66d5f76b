//! Address prefixes: reading them, which of them contains which, the labels of the node-local identity that stands for
//! one, and which of them a set of rules mentions. Who gets which number is settled elsewhere (`state`).
//!
//! An address has exactly one identity: that of the longest mentioned prefix that holds it. A rule for a broad prefix
//! therefore selects the identities of all narrower mentioned prefixes too.

use crate::rule::Rule;
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use model::labels::{SOURCE_CIDR, SOURCE_RESERVED};
use model::{Label, Labels};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether a text may leave the prefix length out, and then means one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Length {
    Optional,
    Required,
}

/// Every IPv4 address, and every IPv6 address.
pub(crate) const EVERYTHING: [IpNetwork; 2] = [
    IpNetwork::V4(Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0).expect("0 is a prefix length")),
    IpNetwork::V6(Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0).expect("0 is a prefix length")),
];

/// Reads `address[/length]`; bits beyond the prefix are set to 0. The error says what is wrong with the text.
pub(crate) fn parse(text: &str, length: Length) -> Result<IpNetwork, String> {
    if text.is_empty() {
        return Err("an address prefix must be given".to_owned());
    }
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None if length == Length::Required => {
            return Err(format!("{text:?} has no prefix length: write {text}/32 or the like"));
        }
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| format!("{address:?} is not an IP address"))?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => max,
        Some(bits) => {
            parse_length(bits, max).ok_or_else(|| format!("prefix length {bits:?} is not from 0 to {max}"))?
        }
    };
    let prefix = IpNetwork::new(address, bits).map_err(|error| error.to_string())?;
    Ok(masked(prefix))
}

/// Only plain decimals: neither a sign nor leading zeros, nor a netmask.
fn parse_length(text: &str, max: u8) -> Option<u8> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|bits| plain && *bits <= max)
}

/// The prefix with all bits beyond its length 0.
pub fn masked(prefix: IpNetwork) -> IpNetwork {
    match prefix {
        IpNetwork::V4(net) => Ipv4Network::new_checked(net.network(), net.prefix()).map_or(prefix, IpNetwork::V4),
        IpNetwork::V6(net) => Ipv6Network::new_checked(net.network(), net.prefix()).map_or(prefix, IpNetwork::V6),
    }
}

/// Whether every address of `inner` is in `outer`; a prefix contains itself.
pub fn contains(outer: IpNetwork, inner: IpNetwork) -> bool {
    match (outer, inner) {
        (IpNetwork::V4(outer), IpNetwork::V4(inner)) => outer.prefix() <= inner.prefix() && outer.contains(inner.ip()),
        (IpNetwork::V6(outer), IpNetwork::V6(inner)) => outer.prefix() <= inner.prefix() && outer.contains(inner.ip()),
        _ => false,
    }
}

/// The labels of the identity that stands for `prefix`: `cidr:<prefix>` and `reserved:world`.
///
/// In the label an IPv6 prefix has `-` for `:`, with a `0` put where the text would begin or end with `-`
/// (`2001:db8::/32` becomes `2001-db8--0/32`), as Cilium writes it.
pub fn cidr_labels(prefix: IpNetwork) -> Labels {
    let prefix = masked(prefix);
    let key = match prefix {
        IpNetwork::V4(_) => prefix.to_string(),
        IpNetwork::V6(net) => {
            let address = net.ip().to_string().replace(':', "-");
            let head = if address.starts_with('-') { "0" } else { "" };
            let tail = if address.ends_with('-') { "0" } else { "" };
            format!("{head}{address}{tail}/{}", net.prefix())
        }
    };
    [Label::new(SOURCE_CIDR, key, ""), Label::reserved("world")].into_iter().collect()
}

/// Reads the key of a `cidr:` label.
pub(crate) fn parse_label_key(key: &str) -> Option<IpNetwork> {
    let text = if key.contains('.') && !key.contains("--") { key.to_owned() } else { key.replace('-', ":") };
    parse(&text, Length::Optional).ok()
}

/// The prefix that an identity with these labels stands for. `None` for managed endpoints, nodes and the host, whatever
/// their addresses, and for a world of no family.
pub(crate) fn of_labels(labels: &Labels) -> Option<IpNetwork> {
    for (name, everything) in ["world-ipv4", "world-ipv6"].into_iter().zip(EVERYTHING) {
        if labels.has_reserved(name) {
            return Some(everything);
        }
    }
    let label = labels.iter().find(|label| label.source == SOURCE_CIDR)?;
    let inside = ["host", "remote-node", "health", "init", "ingress"];
    let managed = labels.iter().any(|l| l.source == SOURCE_RESERVED && inside.contains(&l.key.as_str()));
    if managed { None } else { parse_label_key(&label.key) }
}

/// Every prefix that the rules mention, `except`s included. Each needs an identity of its own with `cidr_labels`; the
/// whole of a family has one already: `world-ipv4`, `world-ipv6`.
pub fn mentioned_prefixes<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> BTreeSet<IpNetwork> {
    let mut prefixes = BTreeSet::new();
    for entry in rules.into_iter().flat_map(Rule::all_entries) {
        prefixes.extend(entry.cidr.iter().flatten().map(|cidr| cidr.value));
        for set in entry.cidr_set.iter().flatten() {
            prefixes.extend(set.cidr.iter().map(|cidr| cidr.value));
            prefixes.extend(set.except.iter().flatten().map(|cidr| cidr.value));
        }
    }
    prefixes.retain(|prefix| prefix.prefix() > 0);
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_masked_and_a_missing_length_means_one_address() {
        assert_eq!(parse("10.1.2.3/8", Length::Required), Ok(net("10.0.0.0/8")));
        assert_eq!(parse("10.1.2.3", Length::Optional), Ok(net("10.1.2.3/32")));
        assert_eq!(parse("2001:db8::1", Length::Optional), Ok(net("2001:db8::1/128")));
        assert!(parse("10.1.2.3", Length::Required).is_err());
    }

    #[test]
    fn only_plain_prefixes_are_read() {
        for text in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/255.0.0.0",
            "10.0.0/8",
            "::1/129",
            "fe80::1%eth0/64",
            " 10.0.0.0/8",
            "NODE/32",
            "010.0.0.0/8",
        ] {
            assert!(parse(text, Length::Optional).is_err(), "{text}");
        }
    }

    #[test]
    fn containment_is_of_one_family_and_includes_itself() {
        assert!(contains(net("10.0.0.0/8"), net("10.1.0.0/16")));
        assert!(contains(net("10.0.0.0/8"), net("10.0.0.0/8")));
        assert!(!contains(net("10.1.0.0/16"), net("10.0.0.0/8")));
        assert!(!contains(net("10.0.0.0/8"), net("11.0.0.0/8")));
        assert!(!contains(net("0.0.0.0/0"), net("::/0")));
        assert!(contains(net("::/0"), net("::ffff:10.0.0.1/128")));
    }

    #[test]
    fn labels_are_written_as_cilium_writes_them() {
        let text = |prefix: &str| cidr_labels(net(prefix)).to_string();
        assert_eq!(text("10.1.2.3/8"), "cidr:10.0.0.0/8,reserved:world");
        assert_eq!(text("0.0.0.0/0"), "cidr:0.0.0.0/0,reserved:world");
        assert_eq!(text("2001:db8::/32"), "cidr:2001-db8--0/32,reserved:world");
        assert_eq!(text("::/0"), "cidr:0--0/0,reserved:world");
        assert_eq!(text("::1/128"), "cidr:0--1/128,reserved:world");
    }

    #[test]
    fn nodes_stand_for_no_prefix() {
        let mut labels = cidr_labels(net("10.0.0.1/32"));
        assert_eq!(of_labels(&labels), Some(net("10.0.0.1/32")));
        labels.0.insert(Label::reserved("kube-apiserver"));
        assert_eq!(of_labels(&labels), Some(net("10.0.0.1/32")));
        labels.0.insert(Label::reserved("remote-node"));
        assert_eq!(of_labels(&labels), None);
    }

    proptest! {
        #[test]
        fn labels_of_any_prefix_are_read_back(v4: u32, v6: u128, len4 in 0u8..=32, len6 in 0u8..=128) {
            for prefix in [
                IpNetwork::V4(Ipv4Network::new(v4.into(), len4).unwrap()),
                IpNetwork::V6(Ipv6Network::new(v6.into(), len6).unwrap()),
                IpNetwork::V6(Ipv6Network::new((0xffff_0000_0000 | u128::from(v4)).into(), len6).unwrap()),
            ] {
                prop_assert_eq!(of_labels(&cidr_labels(prefix)), Some(masked(prefix)));
            }
        }

        #[test]
        fn reading_never_panics(text in "\\PC{0,40}") {
            let _ = parse(&text, Length::Optional);
            let _ = parse_label_key(&text);
        }
    }
}

//! One end of a connection in question: who it is, what is enforced for it, and how its ports are called.

use crate::peer::Peer;
use model::{Identity, Labels, Protocol};
use std::collections::{BTreeMap, BTreeSet};

/// Which rules can apply to an end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Enforces {
    /// Those with an `endpointSelector`.
    Endpoint,
    /// Those with a `nodeSelector`, where the host has a firewall.
    Host,
    /// None: it is outside, or another node's.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    pub peer: Peer<'a>,
    pub enforces: Enforces,
    pub port_names: &'a PortNames,
}

impl<'a> Side<'a> {
    pub fn of_peer(peer: Peer<'a>) -> Side<'a> {
        let enforces = match peer.identity {
            Identity::HOST => Enforces::Host,
            _ if peer.is_endpoint() => Enforces::Endpoint,
            _ => Enforces::Nothing,
        };
        Side { peer, enforces, port_names: PortNames::NONE }
    }

    /// An end of which only the labels are given.
    pub fn from_labels(labels: &'a Labels) -> Side<'a> {
        Side::of_peer(Peer::from_labels(labels))
    }
}

/// Names of ports, with the number that each has for a protocol.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortNames(BTreeMap<(String, Protocol), BTreeSet<u16>>);

impl PortNames {
    pub const NONE: &'static PortNames = &PortNames(BTreeMap::new());

    pub fn add(&mut self, name: &str, protocol: Protocol, port: u16) {
        self.0.entry((name.to_ascii_lowercase(), protocol)).or_default().insert(port);
    }

    pub fn extend(&mut self, others: &PortNames) {
        for ((name, protocol), ports) in &others.0 {
            self.0.entry((name.clone(), *protocol)).or_default().extend(ports);
        }
    }

    /// The number of a name; `None` if it has none, or two.
    pub fn number(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let ports = self.0.get(&(name.to_ascii_lowercase(), protocol))?;
        ports.first().copied().filter(|_| ports.len() == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_two_numbers_has_none() {
        let mut all = PortNames::default();
        all.add("HTTP", Protocol::TCP, 80);
        assert_eq!(all.number("http", Protocol::TCP), Some(80));
        assert_eq!((all.number("http", Protocol::UDP), all.number("https", Protocol::TCP)), (None, None));
        let mut other = PortNames::default();
        other.add("http", Protocol::TCP, 80);
        all.extend(&other);
        assert_eq!(all.number("http", Protocol::TCP), Some(80));
        other.add("http", Protocol::TCP, 8080);
        all.extend(&other);
        assert_eq!(all.number("http", Protocol::TCP), None);
    }
}

//! The number that stands for a set of labels.

use std::fmt;
use std::ops::RangeInclusive;

/// Where in a number the id of its cluster begins.
const CLUSTER_SHIFT: u32 = 16;

/// A security identity. Numbers below 256 are reserved (Cilium `pkg/identity/numericidentity.go`), 256..=65535 are
/// allocated for sets of labels through the kvstore, with the id of the cluster that allocates in bits 16 to 23, and
/// `1 << 24 ..` are local to this node: one for each CIDR prefix that a loaded policy mentions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Identity(pub u32);

impl Identity {
    /// No identity; in policy-map keys: any identity.
    pub const UNKNOWN: Identity = Identity(0);
    pub const HOST: Identity = Identity(1);
    pub const WORLD: Identity = Identity(2);
    pub const UNMANAGED: Identity = Identity(3);
    pub const HEALTH: Identity = Identity(4);
    /// An endpoint whose labels are not known yet.
    pub const INIT: Identity = Identity(5);
    pub const REMOTE_NODE: Identity = Identity(6);
    pub const KUBE_APISERVER: Identity = Identity(7);
    pub const INGRESS: Identity = Identity(8);
    pub const WORLD_IPV4: Identity = Identity(9);
    pub const WORLD_IPV6: Identity = Identity(10);

    /// The first and the last number that a cluster without an id allocates for labels; with one these are the lower 16
    /// bits.
    pub const MIN_ALLOCATED: u32 = 256;
    pub const MAX_ALLOCATED: u32 = 65_535;
    /// The first number that stands for a CIDR prefix on this node.
    pub const FIRST_LOCAL: u32 = 1 << 24;

    /// Reserved numbers with their label key (source `reserved`).
    pub const RESERVED: [(Identity, &'static str); 11] = [
        (Identity::UNKNOWN, "unknown"),
        (Identity::HOST, "host"),
        (Identity::WORLD, "world"),
        (Identity::UNMANAGED, "unmanaged"),
        (Identity::HEALTH, "health"),
        (Identity::INIT, "init"),
        (Identity::REMOTE_NODE, "remote-node"),
        (Identity::KUBE_APISERVER, "kube-apiserver"),
        (Identity::INGRESS, "ingress"),
        (Identity::WORLD_IPV4, "world-ipv4"),
        (Identity::WORLD_IPV6, "world-ipv6"),
    ];

    pub fn is_reserved(self) -> bool {
        self.0 < Identity::MIN_ALLOCATED
    }

    /// Allocated through the kvstore of some cluster for a set of labels.
    pub fn is_allocated(self) -> bool {
        self.0 < Identity::FIRST_LOCAL && self.0 & Identity::MAX_ALLOCATED >= Identity::MIN_ALLOCATED
    }

    /// Of an allocated identity the id of the cluster that gives it; 0: one without an id.
    pub fn cluster_id(self) -> u8 {
        (self.0 >> CLUSTER_SHIFT) as u8
    }

    /// The numbers that a cluster allocates for labels.
    pub fn allocated_by(cluster_id: u8) -> RangeInclusive<u32> {
        let base = u32::from(cluster_id) << CLUSTER_SHIFT;
        base | Identity::MIN_ALLOCATED..=base | Identity::MAX_ALLOCATED
    }

    /// Local to this node: stands for a CIDR prefix.
    pub fn is_cidr(self) -> bool {
        self.0 >= Identity::FIRST_LOCAL
    }

    /// The key of the reserved label, if this is a reserved identity with a name.
    pub fn reserved_name(self) -> Option<&'static str> {
        Identity::RESERVED.iter().find(|(id, _)| *id == self).map(|(_, name)| *name)
    }

    pub fn from_reserved_name(name: &str) -> Option<Identity> {
        Identity::RESERVED.iter().find(|(_, n)| *n == name).map(|(id, _)| *id)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cluster_allocates_numbers_of_its_own_that_a_tunnel_can_carry() {
        for id in 0..=255 {
            let range = Identity::allocated_by(id);
            for number in [*range.start(), *range.end()] {
                let identity = Identity(number);
                assert!(identity.is_allocated() && !identity.is_reserved() && !identity.is_cidr(), "{number}");
                assert_eq!(identity.cluster_id(), id);
            }
            assert!(!Identity(range.start() - 1).is_allocated() && !Identity(range.end() + 1).is_allocated());
        }
        assert_eq!(*Identity::allocated_by(255).end(), Identity::FIRST_LOCAL - 1);
    }
}

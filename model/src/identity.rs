//! The number that stands for a set of labels.

use std::fmt;

/// A security identity. Numbers below 256 are reserved (Cilium `pkg/identity/numericidentity.go`), 256..=65535 are
/// allocated for sets of labels through the kvstore, and `1 << 24 ..` are local to this node: one for each CIDR prefix
/// that a loaded policy mentions.
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

    /// The first and the last number that is allocated for labels.
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

    /// Allocated through the kvstore for a set of labels.
    pub fn is_allocated(self) -> bool {
        (Identity::MIN_ALLOCATED..=Identity::MAX_ALLOCATED).contains(&self.0)
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

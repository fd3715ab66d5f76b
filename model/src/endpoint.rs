//! What names an endpoint and the states of its life.

use std::fmt;

/// An endpoint on this node: 1..=65535. It is also the endpoint's slot in the kernel's `cilium_lxc` array, and the
/// number of its host-side network device is `LXC_IFINDEX_BASE` (`bpf/abi.h`) plus this, so that a packet's device
/// tells its endpoint without a look-up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct EndpointId(pub u16);

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Names as in Cilium's API (`EndpointState`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// Asked for; nothing in the kernel yet.
    Creating,
    /// In the kernel under `reserved:init`: its labels, or the number for them, are not known yet.
    WaitingForIdentity,
    /// Identity known, the kernel does not enforce its policy yet.
    Regenerating,
    /// Read back from the state folder, not yet compared with the kernel.
    Restoring,
    Ready,
    /// The kernel could not be made to hold it; retried.
    NotReady,
    Disconnecting,
    Disconnected,
}

impl EndpointState {
    pub fn as_str(self) -> &'static str {
        match self {
            EndpointState::Creating => "creating",
            EndpointState::WaitingForIdentity => "waiting-for-identity",
            EndpointState::Regenerating => "regenerating",
            EndpointState::Restoring => "restoring",
            EndpointState::Ready => "ready",
            EndpointState::NotReady => "not-ready",
            EndpointState::Disconnecting => "disconnecting",
            EndpointState::Disconnected => "disconnected",
        }
    }
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

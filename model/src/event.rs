//! What the kernel told us about one packet, decoded: the vocabulary of `cilium monitor`.

use crate::drop_reason::DropReason;
use crate::{Direction, EndpointId, Identity, Protocol};
use std::net::IpAddr;

/// Conntrack's opinion of the packet (numbers as in Cilium's trace reasons).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CtState {
    New,
    Established,
    Reply,
    Related,
    Unknown,
}

/// Where the packet was going when it was seen (Cilium's observation points, those that exist here).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObservationPoint {
    ToEndpoint,
    ToHost,
    ToStack,
    /// Into the tunnel to another node.
    ToOverlay,
    FromEndpoint,
    FromHost,
    FromStack,
    /// Out of the tunnel.
    FromOverlay,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum EventKind {
    Drop {
        reason: DropReason,
    },
    Trace {
        point: ObservationPoint,
        state: CtState,
    },
    /// The verdict on the first packet of a flow. Drops have one of their own and no verdict beside it.
    PolicyVerdict {
        allowed: bool,
    },
}

/// One record of the kernel's ring buffer.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// Nanoseconds of CLOCK_MONOTONIC when the kernel wrote it.
    pub timestamp: u64,
    pub cpu: u16,
    #[serde(flatten)]
    pub kind: EventKind,
    /// Direction as seen by the endpoint that decided.
    pub direction: Direction,
    /// The endpoint whose device the packet passed; `None` if it is none of ours.
    pub source_endpoint: Option<EndpointId>,
    pub destination_endpoint: Option<EndpointId>,
    pub source_identity: Identity,
    pub destination_identity: Identity,
    pub ifindex: u32,
    /// Bytes of the whole packet.
    pub length: u32,
    /// What the captured head of the packet says; `None` when it is no IP packet.
    pub packet: Option<PacketSummary>,
    /// The captured head itself, Ethernet header first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capture: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct PacketSummary {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    /// Ports for TCP, UDP, SCTP; for ICMP type and code; absent in later fragments.
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    pub icmp: Option<(u8, u8)>,
    pub tcp_flags: Option<u8>,
}

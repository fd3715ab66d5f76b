//! Events for tests: app3 asks app1 for port 80.

use api::event::{CtState, Event, EventKind, ObservationPoint, PacketSummary};
use api::monitor::NamedEvent;
use api::{Direction, DropReason, EndpointId, Identity, Protocol};

fn named(kind: EventKind) -> NamedEvent {
    let mut capture = vec![2, 0, 0, 0, 0, 1, 2, 0x42, 10, 15, 1, 2, 8, 0, 0x45, 0];
    capture.extend(b"hi\x1b");
    NamedEvent {
        event: Event {
            timestamp: 12_000_000_345,
            cpu: 1,
            kind,
            direction: Direction::Ingress,
            source_endpoint: Some(EndpointId(17)),
            destination_endpoint: Some(EndpointId(4521)),
            source_identity: Identity(262),
            destination_identity: Identity(261),
            ifindex: 9,
            length: 74,
            packet: Some(PacketSummary {
                source: [10, 15, 1, 2].into(),
                destination: [10, 15, 1, 1].into(),
                protocol: Protocol::TCP,
                source_port: Some(44382),
                destination_port: Some(80),
                icmp: None,
                tcp_flags: Some(2),
            }),
            capture,
        },
        source_labels: vec!["container:id=app3".into(), "container:x".into()],
        destination_labels: vec!["container:id=app1".into()],
    }
}

pub fn drop() -> NamedEvent {
    named(EventKind::Drop { reason: DropReason::POLICY_DENIED })
}

pub fn trace(point: ObservationPoint) -> NamedEvent {
    named(EventKind::Trace { point, state: CtState::New })
}

pub fn verdict(allowed: bool) -> NamedEvent {
    named(EventKind::PolicyVerdict { allowed })
}

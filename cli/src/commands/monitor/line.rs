//! Events as lines of text.

use super::packet;
use crate::render::{BOLD, CYAN, Cell, GREEN, Page, RED, YELLOW};
use api::event::{CtState, Event, EventKind, ObservationPoint};
use api::monitor::NamedEvent;
use api::{Direction, EndpointId, Identity};

/// One line, for example
/// `xx drop (Policy denied) flow 0x1f to endpoint 5, identity 262 [a:b] -> 261 [c:d]: 10.1.0.2:4 -> 10.1.0.1:80 tcp SYN`.
pub fn short(named: &NamedEvent) -> Cell {
    let event = &named.event;
    let flow = packet::flow(event);
    let (identities, packet) = (identities(named), packet::summary(event));
    match event.kind {
        EventKind::Drop { reason } => Cell::styled("xx drop", RED)
            .then_styled(&format!(" ({reason})"), RED)
            .then(&format!(" flow {flow:#x}{}, {identities}: {packet}", target(event))),
        EventKind::Trace { point, state } => Cell::styled(&observed(point, event), CYAN).then(&format!(
            " flow {flow:#x} {identities} state {} ifindex {}: {packet}",
            ct_state(state),
            event.ifindex
        )),
        EventKind::PolicyVerdict { allowed } => Cell::styled("Policy verdict", BOLD)
            .then(&format!(" flow {flow:#x}{}, ", decided_by(event)))
            .then_styled(if allowed { "allowed" } else { "denied" }, if allowed { GREEN } else { RED })
            .then(&format!(", {identities}: {packet}")),
    }
}

/// Several lines with everything that is known.
pub fn detailed(named: &NamedEvent, page: &mut Page) {
    let event = &named.event;
    let flow = packet::flow(event);
    let from = event.source_endpoint.map_or(0, |id| id.0);
    let head = format!("CPU {:02}: MARK {flow:#x} FROM {from} ", event.cpu);
    let what = match event.kind {
        EventKind::Drop { reason } => Cell::styled(&format!("DROP: {} bytes, reason {reason}", event.length), RED),
        EventKind::Trace { point, state } => Cell::styled(
            &format!("TRACE: {} bytes, {}, state {}", event.length, observed(point, event), ct_state(state)),
            CYAN,
        ),
        EventKind::PolicyVerdict { allowed } => {
            let (text, style) = if allowed { ("allowed", GREEN) } else { ("denied", RED) };
            Cell::styled(&format!("VERDICT: {} bytes, {text}", event.length), style)
        }
    };
    let (seconds, nanoseconds) = (event.timestamp / 1_000_000_000, event.timestamp % 1_000_000_000);
    page.line(Cell::from(head).join(what).then(&format!(", {}{}", identities(named), target_after_comma(event))));
    page.line(format!(
        "  at {seconds}.{nanoseconds:09} s since boot, ifindex {}, {}{}",
        event.ifindex,
        direction(event.direction),
        decider(event).map(|id| format!(" by endpoint {id}")).unwrap_or_default()
    ));
    packet::layers(event).for_each(|layer| page.line(format!("  {layer}")));
}

/// `>> Endpoint regenerated: …`
pub fn agent(message: &str, subject: &str) -> Cell {
    let cell = Cell::styled(">> ", GREEN).then(message);
    if subject.is_empty() { cell } else { cell.then(": ").then(subject) }
}

pub fn lost(events: u64) -> Cell {
    Cell::styled(&format!("Lost {events} events"), YELLOW)
}

fn identities(named: &NamedEvent) -> String {
    let source = side(named.event.source_identity, &named.source_labels);
    let destination = side(named.event.destination_identity, &named.destination_labels);
    format!("identity {source} -> {destination}")
}

/// Number and labels. The agent knows none for an address that nobody has, nor for an identity that is gone already.
fn side(identity: Identity, labels: &[String]) -> String {
    match (labels, identity.reserved_name()) {
        ([], Some(name)) => format!("{identity} [reserved:{name}]"),
        ([], None) => format!("{identity} [labels unknown]"),
        (labels, _) => format!("{identity} [{}]", labels.join(" ")),
    }
}

/// ` to endpoint N`, or where the packet came from when it was for none of ours.
fn target(event: &Event) -> String {
    match (event.destination_endpoint, event.source_endpoint) {
        (Some(id), _) => format!(" to endpoint {id}"),
        (None, Some(id)) => format!(" from endpoint {id}"),
        (None, None) => String::new(),
    }
}

fn target_after_comma(event: &Event) -> String {
    let target = target(event);
    if target.is_empty() { target } else { format!(",{target}") }
}

/// ` by endpoint N (ingress)`: whose policy decided.
fn decided_by(event: &Event) -> String {
    match decider(event) {
        Some(id) => format!(" by endpoint {id} ({})", direction(event.direction)),
        None => format!(" ({})", direction(event.direction)),
    }
}

fn decider(event: &Event) -> Option<EndpointId> {
    match event.direction {
        Direction::Ingress => event.destination_endpoint,
        Direction::Egress => event.source_endpoint,
    }
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn observed(point: ObservationPoint, event: &Event) -> String {
    let endpoint = |arrow: &str, id: Option<EndpointId>| format!("{arrow} endpoint {}", id.map_or(0, |id| id.0));
    match point {
        ObservationPoint::ToEndpoint => endpoint("->", event.destination_endpoint),
        ObservationPoint::FromEndpoint => endpoint("<-", event.source_endpoint),
        ObservationPoint::ToHost => "-> host".to_owned(),
        ObservationPoint::FromHost => "<- host".to_owned(),
        ObservationPoint::ToStack => "-> stack".to_owned(),
        ObservationPoint::ToOverlay => "-> overlay".to_owned(),
        ObservationPoint::FromOverlay => "<- overlay".to_owned(),
        ObservationPoint::FromStack => "<- stack".to_owned(),
    }
}

fn ct_state(state: CtState) -> &'static str {
    match state {
        CtState::New => "new",
        CtState::Established => "established",
        CtState::Reply => "reply",
        CtState::Related => "related",
        CtState::Unknown => "unknown",
    }
}

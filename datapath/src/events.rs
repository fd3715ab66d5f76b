//! Ring buffer -> `model::event::Event`, to whoever listens.
//!
//! Owns decoding and the loop that reads. It never blocks the kernel: who is too slow misses events, and the programs
//! count what found the buffer full. What the captured bytes say is `packet`'s.

mod packet;

use crate::maps::Maps;
use aya::maps::{MapData, MapError, RingBuf};
use bpf::abi;
use bpf::names::map::EVENTS;
use model::drop_reason::DropReason;
use model::event::{CtState, Event, EventKind, ObservationPoint};
use model::{Direction, EndpointId, Identity};
use std::mem::{offset_of, size_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::broadcast;

/// How often the buffer is looked at: the programs wake nobody, which is what makes an event cheap. At the buffer's 4 MiB
/// and the largest records this keeps up with a million events a second.
const PERIOD: Duration = Duration::from_millis(20);
/// The same while nobody listens: what finds the buffer full then is missed by nobody.
const LEISURE: Duration = Duration::from_millis(250);

/// Reads the ring buffer on a thread of its own.
pub struct Reader {
    ring: RingBuf<MapData>,
    events: broadcast::Sender<Arc<Event>>,
    /// Records that could not be decoded.
    malformed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    pub fn open(
        maps: &Maps,
        events: broadcast::Sender<Arc<Event>>,
        malformed: Arc<AtomicU64>,
        stop: Arc<AtomicBool>,
    ) -> Result<Reader, MapError> {
        let map = aya::maps::Map::from_map_data(MapData::from_pin(maps.directory.join(EVENTS))?)?;
        Ok(Reader { ring: RingBuf::try_from(map)?, events, malformed, stop })
    }

    /// Reads until it is stopped; wakes when its thread is unparked.
    pub fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            self.drain();
            std::thread::park_timeout(if self.events.receiver_count() == 0 { LEISURE } else { PERIOD });
        }
    }

    /// Hands on what is in the buffer. With nobody listening it is only emptied.
    fn drain(&mut self) {
        while let Some(record) = self.ring.next() {
            if self.events.receiver_count() == 0 {
                continue;
            }
            match decode(&record) {
                // Fails when the last listener just left.
                Some(event) => drop(self.events.send(Arc::new(event))),
                None => drop(self.malformed.fetch_add(1, Ordering::Relaxed)),
            }
        }
    }
}

/// Reads one record; `None`: it is none that this build knows.
pub fn decode(record: &[u8]) -> Option<Event> {
    let field = Fields(record);
    let head = offset_of!(abi::Event, packet);
    let captured = usize::from(field.u16(offset_of!(abi::Event, captured))?);
    let capture = record.get(head..)?.get(..captured.min(size_of::<abi::Event>() - head))?;
    let family = u32::from(field.u8(offset_of!(abi::Event, family))?);
    let endpoint = |at| field.u16(at).map(|slot| Some(EndpointId(slot)).filter(|id| id.0 != 0));
    Some(Event {
        timestamp: field.u64(offset_of!(abi::Event, timestamp))?,
        cpu: field.u16(offset_of!(abi::Event, cpu))?,
        kind: kind(&field)?,
        direction: direction(field.u8(offset_of!(abi::Event, direction))?),
        source_endpoint: endpoint(offset_of!(abi::Event, source_slot))?,
        destination_endpoint: endpoint(offset_of!(abi::Event, destination_slot))?,
        source_identity: Identity(field.u32(offset_of!(abi::Event, source_identity))?),
        destination_identity: Identity(field.u32(offset_of!(abi::Event, destination_identity))?),
        ifindex: field.u32(offset_of!(abi::Event, ifindex))?,
        length: field.u32(offset_of!(abi::Event, length))?,
        packet: if family == 0 { None } else { packet::summary(capture) },
        capture: capture.to_vec(),
    })
}

fn kind(field: &Fields<'_>) -> Option<EventKind> {
    Some(match u32::from(field.u8(offset_of!(abi::Event, kind))?) {
        abi::EVENT_DROP => EventKind::Drop { reason: DropReason(field.u8(offset_of!(abi::Event, reason))?) },
        abi::EVENT_VERDICT => EventKind::PolicyVerdict { allowed: true },
        abi::EVENT_TRACE => EventKind::Trace {
            point: point(u32::from(field.u8(offset_of!(abi::Event, point))?))?,
            state: state(u32::from(field.u8(offset_of!(abi::Event, ct_state))?)),
        },
        _ => return None,
    })
}

fn point(number: u32) -> Option<ObservationPoint> {
    Some(match number {
        abi::POINT_TO_ENDPOINT => ObservationPoint::ToEndpoint,
        abi::POINT_TO_HOST => ObservationPoint::ToHost,
        abi::POINT_TO_STACK => ObservationPoint::ToStack,
        abi::POINT_TO_OVERLAY => ObservationPoint::ToOverlay,
        abi::POINT_FROM_OVERLAY => ObservationPoint::FromOverlay,
        abi::POINT_FROM_ENDPOINT => ObservationPoint::FromEndpoint,
        _ => return None,
    })
}

fn state(number: u32) -> CtState {
    match number {
        abi::CT_NEW => CtState::New,
        abi::CT_ESTABLISHED => CtState::Established,
        abi::CT_REPLY => CtState::Reply,
        abi::CT_RELATED => CtState::Related,
        _ => CtState::Unknown,
    }
}

/// An event about both verdicts of a packet between two endpoints is told by the receiving one.
fn direction(bits: u8) -> Direction {
    if u32::from(bits) & abi::DIRECTION_INGRESS != 0 { Direction::Ingress } else { Direction::Egress }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_ne_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_ne_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(kind: u32, captured: u16) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<abi::Event>()];
        bytes[offset_of!(abi::Event, kind)] = kind as u8;
        bytes[offset_of!(abi::Event, reason)] = 133;
        bytes[offset_of!(abi::Event, direction)] = 3;
        bytes[offset_of!(abi::Event, source_slot)..][..2].copy_from_slice(&7u16.to_ne_bytes());
        bytes[offset_of!(abi::Event, captured)..][..2].copy_from_slice(&captured.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_drop_names_its_reason_and_endpoint() {
        let event = decode(&record(abi::EVENT_DROP, 60)).unwrap();
        assert_eq!(event.kind, EventKind::Drop { reason: DropReason::POLICY_DENIED });
        assert_eq!((event.source_endpoint, event.destination_endpoint), (Some(EndpointId(7)), None));
        assert_eq!((event.direction, event.capture.len(), event.packet), (Direction::Ingress, 60, None));
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        assert_eq!(decode(&record(99, 0)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0u8..8) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.get_mut(offset_of!(abi::Event, kind)) {
                *byte = kind;
            }
            if let Some(event) = decode(&bytes) {
                prop_assert!(event.capture.len() <= bytes.len());
            }
        }
    }
}

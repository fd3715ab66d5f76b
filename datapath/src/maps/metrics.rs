//! `cilium_metrics`: packets and bytes by reason and direction, summed over the processors.

use super::{MapError, Maps};
use crate::syscall::{bytes, get_per_cpu};
use bpf::abi;
use bpf::names::map::METRICS;
use model::Direction;
use model::drop_reason::DropReason;
use std::io;

/// One counter that is not zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Metric {
    pub reason: DropReason,
    /// `None`: packets that were judged in neither direction.
    pub direction: Option<Direction>,
    pub packets: u64,
    pub bytes: u64,
}

/// Keys and values as bytes.
pub type RawEntries = Vec<(Vec<u8>, Vec<u8>)>;

/// Every counter that is not zero, by reason.
pub fn read(maps: &Maps) -> Result<Vec<Metric>, MapError> {
    let cpus = possible_cpus().map_err(failed)?;
    let mut metrics = Vec::new();
    for reason in (0..=u8::MAX).filter(|reason| u32::from(*reason) != abi::REASON_EVENT_LOST) {
        let sum = sum(maps, u32::from(reason), cpus)?;
        for (bits, (packets, bytes)) in sum.packets.into_iter().zip(sum.bytes).enumerate() {
            if packets != 0 {
                let direction = match bits as u32 {
                    abi::DIRECTION_INGRESS => Some(Direction::Ingress),
                    abi::DIRECTION_EGRESS => Some(Direction::Egress),
                    _ => None,
                };
                metrics.push(Metric { reason: DropReason(reason), direction, packets, bytes });
            }
        }
    }
    Ok(metrics)
}

/// How many events found the ring buffer full.
pub fn lost_events(maps: &Maps) -> Result<u64, MapError> {
    let cpus = possible_cpus().map_err(failed)?;
    Ok(sum(maps, abi::REASON_EVENT_LOST, cpus)?.packets.iter().sum())
}

/// The counters as they stand: the number of the reason, and the values of all CPUs; at most `limit` that are not zero.
pub fn raw(maps: &Maps, limit: usize) -> Result<RawEntries, MapError> {
    let cpus = possible_cpus().map_err(failed)?;
    let mut entries = Vec::new();
    for reason in 0..maps.metrics.info().max_entries {
        let values: Vec<abi::Metric> = get_per_cpu(maps.metrics.fd(), reason, cpus).map_err(failed)?;
        let value = values.iter().flat_map(bytes).collect::<Vec<u8>>();
        if entries.len() < limit && value.iter().any(|byte| *byte != 0) {
            entries.push((bytes(&reason), value));
        }
    }
    Ok(entries)
}

fn sum(maps: &Maps, reason: u32, cpus: usize) -> Result<abi::Metric, MapError> {
    let values: Vec<abi::Metric> = get_per_cpu(maps.metrics.fd(), reason, cpus).map_err(failed)?;
    let add = |mut sum: abi::Metric, value: abi::Metric| {
        sum.packets.iter_mut().zip(value.packets).for_each(|(a, b)| *a = a.wrapping_add(b));
        sum.bytes.iter_mut().zip(value.bytes).for_each(|(a, b)| *a = a.wrapping_add(b));
        sum
    };
    Ok(values.into_iter().fold(abi::Metric::default(), add))
}

fn failed(source: io::Error) -> MapError {
    MapError::Read { map: METRICS, source }
}

/// How many processors the kernel keeps values for: one more than the last number in lists such as `0-3,8`.
fn possible_cpus() -> io::Result<usize> {
    aya::util::nr_cpus().map_err(|(_, error)| error)
}

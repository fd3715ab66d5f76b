//! `cilium_runtime`: what changes while the programs run.

use super::{MapError, Maps};
use crate::config::Aggregation;
use bpf::abi;
use bpf::names::map::RUNTIME;

/// Tells flows with one end elsewhere to look again who is at that end.
pub fn raise_generation(maps: &Maps) -> Result<(), MapError> {
    change(maps, |runtime| runtime.ipcache_generation = runtime.ipcache_generation.wrapping_add(1))
}

/// How much the programs tell.
pub fn set_monitor(maps: &Maps, aggregation: Aggregation) -> Result<(), MapError> {
    let level = match aggregation {
        Aggregation::DropsOnly => abi::MONITOR_DROPS,
        Aggregation::Verdicts => abi::MONITOR_VERDICTS,
        Aggregation::Medium => abi::MONITOR_MEDIUM,
        Aggregation::None => abi::MONITOR_ALL,
    };
    change(maps, |runtime| runtime.monitor = level)
}

fn change(maps: &Maps, change: impl FnOnce(&mut abi::Runtime)) -> Result<(), MapError> {
    let held = maps.runtime.get(&0).map_err(|source| MapError::Read { map: RUNTIME, source })?;
    let mut runtime = held.unwrap_or_default();
    change(&mut runtime);
    maps.runtime.put(&0, &runtime).map_err(|source| MapError::Write { map: RUNTIME, source })
}

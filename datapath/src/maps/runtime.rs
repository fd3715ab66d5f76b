//! `cilium_runtime`: what changes while the programs run.

use super::{MapError, Maps};
use crate::NodeAddresses;
use crate::config::Aggregation;
use bpf::abi;
use bpf::names::map::RUNTIME;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Tells flows with one end elsewhere to look again who is at that end.
pub fn raise_generation(maps: &Maps) -> Result<(), MapError> {
    change(maps, |runtime| runtime.ipcache_generation = runtime.ipcache_generation.wrapping_add(1))
}

/// What this node's packets have as outer source where programs write it.
pub fn read_tunnel_sources(maps: &Maps) -> Result<NodeAddresses, MapError> {
    let held = maps.runtime.get(&0).map_err(|source| MapError::Read { map: RUNTIME, source })?.unwrap_or_default();
    Ok(addresses(Ipv4Addr::from(held.tunnel4), Ipv6Addr::from(held.tunnel6)))
}

pub fn set_tunnel_sources(maps: &Maps, sources: NodeAddresses) -> Result<(), MapError> {
    change(maps, |runtime| {
        runtime.tunnel4 = sources.v4.unwrap_or(Ipv4Addr::UNSPECIFIED).into();
        runtime.tunnel6 = sources.v6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets();
    })
}

/// What this node's packets for others have as source.
pub fn read_snat_sources(maps: &Maps) -> Result<NodeAddresses, MapError> {
    let held = maps.runtime.get(&0).map_err(|source| MapError::Read { map: RUNTIME, source })?.unwrap_or_default();
    Ok(addresses(Ipv4Addr::from(held.node4), Ipv6Addr::from(held.node6)))
}

pub fn set_snat_sources(maps: &Maps, sources: NodeAddresses) -> Result<(), MapError> {
    change(maps, |runtime| {
        runtime.node4 = sources.v4.unwrap_or(Ipv4Addr::UNSPECIFIED).into();
        runtime.node6 = sources.v6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets();
    })
}

fn addresses(v4: Ipv4Addr, v6: Ipv6Addr) -> NodeAddresses {
    NodeAddresses { v4: (!v4.is_unspecified()).then_some(v4), v6: (!v6.is_unspecified()).then_some(v6) }
}

/// The largest packet that the tunnel takes; 0: not known.
pub fn read_tunnel_mtu(maps: &Maps) -> Result<u32, MapError> {
    let held = maps.runtime.get(&0).map_err(|source| MapError::Read { map: RUNTIME, source })?;
    Ok(held.map_or(0, |runtime| runtime.tunnel_mtu))
}

pub fn set_tunnel_mtu(maps: &Maps, mtu: u32) -> Result<(), MapError> {
    change(maps, |runtime| runtime.tunnel_mtu = mtu)
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

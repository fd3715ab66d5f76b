//! `cilium_lb_*`: what is asked for, who answers, and how one of those is chosen.
//!
//! Owns the words' way to bytes and back. Which numbers and places there are is `plan::services`'.

use super::{MapError, open};
use crate::current::services::{BackendNumber, Frontend, Numbers, Places, ServiceNumber, Services};
use crate::operation::Operation;
use crate::syscall::{Cursor, Map};
use bpf::abi::{self, Be16};
use bpf::names::map;
use ipnetwork::IpNetwork;
use model::service::{Algorithm, ServiceType};
use model::{L4Address, Protocol, ServiceId};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The maps of services, open.
#[derive(Debug)]
pub struct ServiceMaps {
    pub services: Map<abi::LbKey, abi::LbService>,
    pub places: Map<u32, abi::LbRow>,
    pub backends: Map<u32, abi::LbBackend>,
    pub reverse: Map<u32, abi::LbReverse>,
    pub affinity: Map<abi::LbClient, abi::LbAffinity>,
    pub members: Map<abi::LbMember, u32>,
    pub sources: Map<abi::LbSource, u32>,
    backends_extent: Extent,
    reverse_extent: Extent,
}

impl ServiceMaps {
    /// Opens what is pinned in `directory`.
    pub fn open(directory: &Path) -> Result<ServiceMaps, MapError> {
        Ok(ServiceMaps {
            services: open(directory, map::LB_SERVICES)?,
            places: open(directory, map::LB_PLACES)?,
            backends: open(directory, map::LB_BACKENDS)?,
            reverse: open(directory, map::LB_REVERSE)?,
            affinity: open(directory, map::LB_AFFINITY)?,
            members: open(directory, map::LB_AFFINITY_MATCH)?,
            sources: open(directory, map::LB_SOURCE_RANGE)?,
            backends_extent: Extent::default(),
            reverse_extent: Extent::default(),
        })
    }
}

/// How many elements of an array may hold anything: all, until it was read once; then those up to the last that did, or
/// that was written since. There is room for hundreds of thousands, and a regular look at a few is to cost no more.
#[derive(Debug)]
pub struct Extent(AtomicU32);

impl Default for Extent {
    fn default() -> Extent {
        Extent(AtomicU32::new(u32::MAX))
    }
}

impl Extent {
    fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Of what was read the index of the last element that is in use.
    fn is_up_to(&self, last: Option<u32>) {
        self.0.store(last.map_or(0, |last| last + 1), Ordering::Relaxed);
    }

    fn covers(&self, index: u32) {
        self.0.fetch_max(index + 1, Ordering::Relaxed);
    }
}

/// Everything in the maps.
pub fn read(maps: &ServiceMaps) -> Result<Services, MapError> {
    let failed = |map| move |source| MapError::Read { map, source };
    let mut services = Services::new(maps.places.info().max_entries);
    let backends = first(&maps.backends, map::LB_BACKENDS, maps.backends_extent.get())?;
    maps.backends_extent.is_up_to(last_in_use(&backends, |value| value.number));
    for value in &backends {
        if let Some(ip) = ip(value.family, &value.address) {
            services.note_backend(BackendNumber(value.number), SocketAddr::new(ip, value.port.get()));
        }
    }
    services.backends.last = backends.iter().map(|value| value.number).max().unwrap_or(0);
    let reverse = first(&maps.reverse, map::LB_REVERSE, maps.reverse_extent.get())?;
    maps.reverse_extent.is_up_to(last_in_use(&reverse, |value| value.number));
    for value in &reverse {
        if let Some(ip) = ip(value.family, &value.address) {
            services.reverse.insert(value.number, SocketAddr::new(ip, value.port.get()));
        }
    }
    services.reverse.last = reverse.iter().map(|value| value.number).max().unwrap_or(0);
    let member = |key: &abi::LbMember, _: &u32| {
        services.members.insert((ServiceNumber(key.service), BackendNumber(key.backend)));
    };
    maps.members.for_each(member).map_err(failed(map::LB_AFFINITY_MATCH))?;
    let mut sources = Vec::new();
    let source = |key: &abi::LbSource, _: &u32| sources.push(*key);
    maps.sources.for_each(source).map_err(failed(map::LB_SOURCE_RANGE))?;
    // Of which family they are the service's address says.
    let prefixes = sources.iter().filter_map(|key| decode_source(&services.reverse, key));
    let prefixes: Vec<(ServiceNumber, IpNetwork)> = prefixes.collect();
    services.sources.extend(prefixes);
    let mut entries = Vec::new();
    let entry = |key: &abi::LbKey, value: &abi::LbService| entries.push((*key, *value));
    maps.services.for_each(entry).map_err(failed(map::LB_SERVICES))?;
    let rows = read_places(maps, &entries)?;
    for (key, value) in entries {
        let Some(address) = decode_key(&key) else { continue };
        let frontend = decode(&services, &value, &rows);
        frontend.places.iter().filter(|places| !places.backends.is_empty()).for_each(|p| services.note_places(p));
        services.note_frontend(address, frontend);
    }
    services.complete();
    Ok(services)
}

/// Has numbers begin after these, for maps that follow others.
pub fn begin_after(maps: &ServiceMaps, service: u32, backend: u32) -> Result<(), MapError> {
    if service != 0 {
        let gone = abi::LbReverse { number: service, ..Default::default() };
        let entry = std::iter::once((service % abi::LB_SERVICES, gone));
        put_at(&maps.reverse, map::LB_REVERSE, &maps.reverse_extent, entry)?;
    }
    if backend != 0 {
        let gone = abi::LbBackend { number: backend, ..Default::default() };
        let entry = std::iter::once((backend % abi::LB_BACKENDS, gone));
        put_at(&maps.backends, map::LB_BACKENDS, &maps.backends_extent, entry)?;
    }
    Ok(())
}

/// The rows up to the last one that is in use.
fn read_places(maps: &ServiceMaps, entries: &[(abi::LbKey, abi::LbService)]) -> Result<Vec<abi::LbRow>, MapError> {
    let ends = entries.iter().flat_map(|(_, value)| (0..2).map(|at| value.first[at].saturating_add(value.places[at])));
    first(&maps.places, map::LB_PLACES, ends.max().unwrap_or(0).div_ceil(abi::LB_ROW))
}

/// The elements of an array from its first on: as many as are wanted or there are, and perhaps some more.
fn first<V: aya::Pod>(table: &Map<u32, V>, map: &'static str, wanted: u32) -> Result<Vec<V>, MapError> {
    let wanted = wanted.min(table.info().max_entries) as usize;
    let mut values = Vec::with_capacity(wanted);
    let mut cursor = Cursor::default();
    while values.len() < wanted {
        let batch = table.next_batch(&mut cursor).map_err(|source| MapError::Read { map, source })?;
        let Some(batch) = batch else { break };
        values.extend(batch.values);
    }
    Ok(values)
}

/// The index of the last element with a number.
fn last_in_use<V>(values: &[V], number: impl Fn(&V) -> u32) -> Option<u32> {
    values.iter().rposition(|value| number(value) != 0).map(|index| index as u32)
}

/// Carries out operations on services, those of one kind that follow each other in as few calls as it can. Where those
/// fail, one by one, to find the ones at fault.
pub fn apply(maps: &ServiceMaps, operations: &[Operation]) -> Vec<Result<(), MapError>> {
    let mut results = Vec::with_capacity(operations.len());
    let runs = operations.chunk_by(|a, b| std::mem::discriminant(a) == std::mem::discriminant(b));
    for run in runs {
        if write(maps, run).is_ok() {
            results.extend(run.iter().map(|_| Ok(())));
        } else {
            results.extend(run.iter().map(|operation| write(maps, std::slice::from_ref(operation))));
        }
    }
    results
}

/// Writes what operations of one kind say.
fn write(maps: &ServiceMaps, run: &[Operation]) -> Result<(), MapError> {
    match run.first() {
        Some(Operation::PutBackend(..) | Operation::RemoveBackend(_)) => {
            put_at(&maps.backends, map::LB_BACKENDS, &maps.backends_extent, run.iter().filter_map(backend))
        }
        Some(Operation::PutReverse(..) | Operation::RemoveReverse(..)) => {
            put_at(&maps.reverse, map::LB_REVERSE, &maps.reverse_extent, run.iter().filter_map(reverse))
        }
        Some(Operation::WritePlaces(..)) => put(&maps.places, map::LB_PLACES, run.iter().flat_map(places)),
        Some(Operation::PutMember(..)) => put(&maps.members, map::LB_AFFINITY_MATCH, run.iter().filter_map(member)),
        Some(Operation::RemoveMember(..)) => {
            delete(&maps.members, map::LB_AFFINITY_MATCH, run.iter().filter_map(member))
        }
        Some(Operation::PutSource(..)) => put(&maps.sources, map::LB_SOURCE_RANGE, run.iter().filter_map(source)),
        Some(Operation::RemoveSource(..)) => delete(&maps.sources, map::LB_SOURCE_RANGE, run.iter().filter_map(source)),
        Some(Operation::PutService(..)) => put(&maps.services, map::LB_SERVICES, run.iter().filter_map(service)),
        Some(Operation::RemoveService(_)) => delete(&maps.services, map::LB_SERVICES, run.iter().filter_map(service)),
        _ => Ok(()),
    }
}

/// Writes elements of an array of which only an extent is looked at.
fn put_at<V: aya::Pod>(
    table: &Map<u32, V>,
    map: &'static str,
    extent: &Extent,
    entries: impl Iterator<Item = (u32, V)>,
) -> Result<(), MapError> {
    put(table, map, entries.inspect(|(index, _)| extent.covers(*index)))
}

fn put<K: aya::Pod, V: aya::Pod>(
    table: &Map<K, V>,
    map: &'static str,
    entries: impl Iterator<Item = (K, V)>,
) -> Result<(), MapError> {
    let (keys, values): (Vec<K>, Vec<V>) = entries.unzip();
    table.put_all(&keys, &values).map_err(|source| match source.raw_os_error() {
        Some(libc::E2BIG | libc::ENOSPC) => MapError::Full { map, room: table.info().max_entries, entries: keys.len() },
        _ => MapError::Write { map, source },
    })
}

fn delete<K: aya::Pod, V: aya::Pod>(
    table: &Map<K, V>,
    map: &'static str,
    entries: impl Iterator<Item = (K, V)>,
) -> Result<(), MapError> {
    let keys: Vec<K> = entries.map(|(key, _)| key).collect();
    table.delete_all(&keys).map_err(|source| MapError::Write { map, source })
}

fn backend(operation: &Operation) -> Option<(u32, abi::LbBackend)> {
    let (number, value) = match operation {
        Operation::PutBackend(_, number, at) => {
            let (family, address) = bytes_of(at.ip());
            let value = abi::LbBackend { port: Be16::new(at.port()), family, address, ..Default::default() };
            (number.0, value)
        }
        Operation::RemoveBackend(number) => (number.0, abi::LbBackend::default()),
        _ => return None,
    };
    Some((number % abi::LB_BACKENDS, abi::LbBackend { number, ..value }))
}

fn reverse(operation: &Operation) -> Option<(u32, abi::LbReverse)> {
    let (number, value) = match operation {
        Operation::PutReverse(frontend, number) => {
            let (family, address) = bytes_of(frontend.ip);
            let value = abi::LbReverse { port: Be16::new(frontend.port), family, address, ..Default::default() };
            (number.0, value)
        }
        Operation::RemoveReverse(_, number) => (number.0, abi::LbReverse::default()),
        _ => return None,
    };
    Some((number % abi::LB_SERVICES, abi::LbReverse { number, ..value }))
}

fn places(operation: &Operation) -> Vec<(u32, abi::LbRow)> {
    let Operation::WritePlaces(_, places) = operation else { return Vec::new() };
    let rows = places.backends.chunks(abi::LB_ROW as usize).map(|chunk| {
        let mut row = abi::LbRow::default();
        row.backend.iter_mut().zip(chunk).for_each(|(place, number)| *place = number.0);
        row
    });
    (places.row..).zip(rows).collect()
}

fn member(operation: &Operation) -> Option<(abi::LbMember, u32)> {
    match operation {
        Operation::PutMember(_, service, backend) | Operation::RemoveMember(_, service, backend) => {
            Some((abi::LbMember { service: service.0, backend: backend.0 }, 1))
        }
        _ => None,
    }
}

fn source(operation: &Operation) -> Option<(abi::LbSource, u32)> {
    match operation {
        Operation::PutSource(_, service, prefix) | Operation::RemoveSource(_, service, prefix) => {
            let (_, address) = bytes_of(prefix.network());
            let length = abi::LB_SOURCE_SERVICE_BITS + u32::from(prefix.prefix());
            Some((abi::LbSource { prefix: length, service: service.0, address }, 1))
        }
        _ => None,
    }
}

fn service(operation: &Operation) -> Option<(abi::LbKey, abi::LbService)> {
    match operation {
        Operation::PutService(address, frontend) => Some((encode_key(address), encode(address, frontend))),
        Operation::RemoveService(address) => Some((encode_key(address), abi::LbService::default())),
        _ => None,
    }
}

fn bytes_of(ip: IpAddr) -> (u8, [u8; 16]) {
    let mut address = [0; 16];
    match ip {
        IpAddr::V4(ip) => {
            address[..4].copy_from_slice(&ip.octets());
            (abi::FAMILY_IPV4 as u8, address)
        }
        IpAddr::V6(ip) => (abi::FAMILY_IPV6 as u8, ip.octets()),
    }
}

fn ip(family: u8, address: &[u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = *address;
    match u32::from(family) {
        abi::FAMILY_IPV4 => Some(Ipv4Addr::new(a, b, c, d).into()),
        abi::FAMILY_IPV6 => Some(Ipv6Addr::from(*address).into()),
        _ => None,
    }
}

fn encode_key(address: &L4Address) -> abi::LbKey {
    let (family, bytes) = bytes_of(address.ip);
    abi::LbKey { address: bytes, port: Be16::new(address.port), protocol: address.protocol.0, family }
}

fn decode_key(key: &abi::LbKey) -> Option<L4Address> {
    let ip = ip(key.family, &key.address)?;
    Some(L4Address { ip, port: key.port.get(), protocol: Protocol(key.protocol) })
}

fn decode_source(reverse: &Numbers, key: &abi::LbSource) -> Option<(ServiceNumber, IpNetwork)> {
    let of = reverse.get(key.service);
    let family = if of.is_some_and(|address| address.is_ipv6()) { abi::FAMILY_IPV6 } else { abi::FAMILY_IPV4 };
    let length = key.prefix.checked_sub(abi::LB_SOURCE_SERVICE_BITS).and_then(|n| u8::try_from(n).ok())?;
    Some((ServiceNumber(key.service), IpNetwork::new(ip(family as u8, &key.address)?, length).ok()?))
}

fn encode(address: &L4Address, frontend: &Frontend) -> abi::LbService {
    let kind = match frontend.kind {
        ServiceType::ClusterIp => abi::LB_CLUSTER_IP,
        ServiceType::NodePort => abi::LB_NODE_PORT,
        ServiceType::ExternalIp => abi::LB_EXTERNAL_IP,
        ServiceType::LoadBalancer => abi::LB_LOAD_BALANCER,
        ServiceType::HostPort => abi::LB_HOST_PORT,
    };
    let maglev = |at: u32| if frontend.by[at as usize] == Algorithm::Maglev { abi::LB_MAGLEV << at } else { 0 };
    let ranges = if frontend.sources.is_some() { abi::LB_SOURCE_RANGES } else { 0 };
    let loopback = if address.ip.is_loopback() { abi::LB_LOOPBACK } else { 0 };
    abi::LbService {
        number: frontend.number.0,
        first: frontend.places.each_ref().map(|places| places.row * abi::LB_ROW),
        places: frontend.places.each_ref().map(|places| places.backends.len() as u32),
        affinity: frontend.affinity,
        kind: kind as u8,
        flags: (maglev(abi::LB_INTERNAL) | maglev(abi::LB_EXTERNAL) | ranges | loopback) as u8,
        id: frontend.id.0,
        ..Default::default()
    }
}

/// What an entry says, with the places that it names; where those are not all there, they are none.
fn decode(services: &Services, value: &abi::LbService, rows: &[abi::LbRow]) -> Frontend {
    let number = ServiceNumber(value.number);
    let kind = match u32::from(value.kind) {
        abi::LB_NODE_PORT => ServiceType::NodePort,
        abi::LB_EXTERNAL_IP => ServiceType::ExternalIp,
        abi::LB_LOAD_BALANCER => ServiceType::LoadBalancer,
        abi::LB_HOST_PORT => ServiceType::HostPort,
        _ => ServiceType::ClusterIp,
    };
    let flags = u32::from(value.flags);
    let by = |at: u32| if flags & abi::LB_MAGLEV << at == 0 { Algorithm::Random } else { Algorithm::Maglev };
    let places = [0, 1].map(|at| {
        let row = value.first[at] / abi::LB_ROW;
        let rows = rows.iter().skip(row as usize).flat_map(|row| row.backend);
        let backends: Arc<[BackendNumber]> = rows.take(value.places[at] as usize).map(BackendNumber).collect();
        Places { row: if backends.is_empty() { 0 } else { row }, backends }
    });
    let sources = (flags & abi::LB_SOURCE_RANGES != 0).then(|| services.sources_of(number).collect());
    let mut frontend = Frontend {
        number,
        id: ServiceId(value.id),
        kind,
        by: [by(abi::LB_INTERNAL), by(abi::LB_EXTERNAL)],
        places,
        affinity: value.affinity,
        sources,
        backends: Arc::default(),
    };
    frontend.backends = frontend.placed().into_iter().collect();
    frontend
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<u32>(), 1u16..).prop_map(|(ip, port)| SocketAddr::new(Ipv4Addr::from(ip).into(), port)),
            (any::<u128>(), 1u16..).prop_map(|(ip, port)| SocketAddr::new(Ipv6Addr::from(ip).into(), port)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            at in address(), number in 1u32..1 << 31, id: u32, maglev: [bool; 2], affinity: u32,
            sizes in proptest::array::uniform2(0usize..40), ranged: bool,
        ) {
            let frontend_address = L4Address { ip: at.ip(), port: at.port(), protocol: Protocol::UDP };
            prop_assert_eq!(decode_key(&encode_key(&frontend_address)), Some(frontend_address));
            let row_of = [0, 3];
            let places = [0, 1].map(|n| Places {
                row: if sizes[n] == 0 { 0 } else { row_of[n] },
                backends: (0..sizes[n] as u32).map(|b| BackendNumber(b * 7 % 5 + 1)).collect(),
            });
            let by = maglev.map(|yes| if yes { Algorithm::Maglev } else { Algorithm::Random });
            let mut frontend = Frontend {
                number: ServiceNumber(number), id: ServiceId(id), kind: ServiceType::ExternalIp, by, places, affinity,
                sources: ranged.then(Arc::default), backends: Arc::default(),
            };
            frontend.backends = frontend.placed().into_iter().collect();
            let mut rows = vec![abi::LbRow::default(); 6];
            for places_of in frontend.places.iter().filter(|p| !p.backends.is_empty()) {
                for (row, value) in super::places(&Operation::WritePlaces(frontend_address, places_of.clone())) {
                    rows[row as usize] = value;
                }
            }
            let value = encode(&frontend_address, &frontend);
            prop_assert_eq!(decode(&Services::new(6), &value, &rows), frontend);
        }
    }
}

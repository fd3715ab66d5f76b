//! A table's bytes as they stand in the kernel, for who debugs the programs.

use super::{TableError, Tables};
use crate::maps::{MapError, metrics};
use crate::syscall::{Cursor, Map, bytes};
use bpf::names::map;

type Entries = metrics::RawEntries;

impl Tables {
    /// At most `limit` elements of a map; of arrays only those that are not all zeroes. A per-CPU value is the values of
    /// all CPUs, one after the other. `None`: there is no such map, or it is none of keys and values.
    pub fn dump(&self, name: &str, limit: usize) -> Result<Option<Entries>, TableError> {
        let maps = &self.maps;
        let entries = match name {
            map::LXC => walk(&maps.lxc, map::LXC, limit, Zeroes::AreEmpty),
            map::POLICIES => walk(&maps.policies, map::POLICIES, limit, Zeroes::Count),
            map::POLICY => walk(&maps.policy, map::POLICY, limit, Zeroes::Count),
            map::IPCACHE => walk(&maps.ipcache, map::IPCACHE, limit, Zeroes::Count),
            map::IPCACHE_LPM => walk(&maps.ipcache_lpm, map::IPCACHE_LPM, limit, Zeroes::Count),
            map::CT4 => walk(&maps.ct4, map::CT4, limit, Zeroes::Count),
            map::CT6 => walk(&maps.ct6, map::CT6, limit, Zeroes::Count),
            map::FRAG4 => walk(&maps.frag4, map::FRAG4, limit, Zeroes::Count),
            map::FRAG6 => walk(&maps.frag6, map::FRAG6, limit, Zeroes::Count),
            map::LB_SERVICES => walk(&maps.services.services, map::LB_SERVICES, limit, Zeroes::Count),
            map::LB_PLACES => walk(&maps.services.places, map::LB_PLACES, limit, Zeroes::AreEmpty),
            map::LB_BACKENDS => walk(&maps.services.backends, map::LB_BACKENDS, limit, Zeroes::AreEmpty),
            map::LB_REVERSE => walk(&maps.services.reverse, map::LB_REVERSE, limit, Zeroes::AreEmpty),
            map::LB_AFFINITY => walk(&maps.services.affinity, map::LB_AFFINITY, limit, Zeroes::Count),
            map::LB_AFFINITY_MATCH => walk(&maps.services.members, map::LB_AFFINITY_MATCH, limit, Zeroes::Count),
            map::LB_SOURCE_RANGE => walk(&maps.services.sources, map::LB_SOURCE_RANGE, limit, Zeroes::Count),
            map::RUNTIME => walk(&maps.runtime, map::RUNTIME, limit, Zeroes::AreEmpty),
            map::METRICS => metrics::raw(maps, limit),
            _ => return Ok(None),
        };
        Ok(Some(entries?))
    }
}

/// Whether a value of zeroes is an element.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zeroes {
    Count,
    AreEmpty,
}

fn walk<K: aya::Pod, V: aya::Pod>(
    table: &Map<K, V>,
    name: &'static str,
    limit: usize,
    zeroes: Zeroes,
) -> Result<Entries, MapError> {
    let failed = |source| MapError::Read { map: name, source };
    let mut entries = Entries::new();
    let mut cursor = Cursor::default();
    while let Some(batch) = table.next_batch(&mut cursor).map_err(failed)? {
        for (key, value) in batch.keys.iter().zip(&batch.values) {
            let value = bytes(value);
            if entries.len() < limit && (zeroes == Zeroes::Count || value.iter().any(|byte| *byte != 0)) {
                entries.push((bytes(key), value));
            }
        }
        if entries.len() >= limit {
            break;
        }
    }
    Ok(entries)
}

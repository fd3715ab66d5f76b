//! Pinned maps of another layout than this build's make room for new ones.
//!
//! Programs that are attached hold the former maps and go on judging by them until they are replaced, which happens only
//! after the new maps are filled: enforcement has no gap. The maps that together say who may what go together, so that
//! no program sees some of each. Flows are copied where only the size changed.

use super::LoadError;
use crate::maps::Maps;
use crate::syscall::{Map, MapInfo, map_info, open_pin};
use aya_obj::maps::PinningType;
use bpf::names::map;
use bpf::{abi, names};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Maps that are only of use together.
const VERDICTS: [&str; 9] = [
    map::LXC,
    map::POLICIES,
    map::POLICY,
    map::IPCACHE,
    map::IPCACHE_LPM,
    map::IDENTITIES,
    map::TUNNEL,
    map::NODES,
    map::RUNTIME,
];

/// Likewise: they name each other by number.
const SERVICES: [&str; 8] = [
    map::LB_SERVICES,
    map::LB_PLACES,
    map::LB_BACKENDS,
    map::LB_REVERSE,
    map::LB_AFFINITY,
    map::LB_AFFINITY_MATCH,
    map::LB_SOURCE_RANGE,
    map::LB_REVERSE_SK,
];

/// What is kept of maps that made room.
#[derive(Debug, Default)]
pub struct Former {
    /// The largest policy id that was given out; flows are stamped with ids.
    pub last_policy: u32,
    /// The largest numbers of services and backends; flows remember them.
    pub last_service: u32,
    pub last_backend: u32,
    ct4: Option<OwnedFd>,
    ct6: Option<OwnedFd>,
}

/// Unpins every map that this build cannot go on with.
pub fn make_room(directory: &Path, entries: &[(&str, u32)]) -> Result<Former, LoadError> {
    let wanted = wanted(entries)?;
    let mut pinned = BTreeMap::new();
    for name in wanted.keys() {
        match open_pin(&directory.join(name)) {
            Ok(fd) => drop(pinned.insert(name.clone(), fd)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(LoadError::Replace { map: name.clone(), source }),
        }
    }
    let same_meaning = marked(directory)?;
    let mut leaving: Vec<String> = Vec::new();
    for (name, fd) in &pinned {
        let info = map_info(fd.as_fd()).map_err(|source| LoadError::Replace { map: name.clone(), source })?;
        if !same_meaning || (MapInfo { id: 0, ..info }) != wanted[name] {
            leaving.push(name.clone());
        }
    }
    for together in [&VERDICTS[..], &SERVICES] {
        if together.iter().any(|name| leaving.iter().any(|l| l == name)) {
            leaving.extend(together.iter().filter(|name| pinned.contains_key(**name)).map(|name| (*name).to_owned()));
            leaving.sort();
            leaving.dedup();
        }
    }
    let mut former = Former::default();
    for name in leaving {
        tracing::info!(map = name, "a pinned map has another layout; a new one takes its place");
        std::fs::remove_file(directory.join(&name))
            .map_err(|source| LoadError::Replace { map: name.clone(), source })?;
        if let Some(fd) = pinned.remove(&name).filter(|_| same_meaning) {
            former.keep(&name, fd);
        }
    }
    mark(directory)?;
    Ok(former)
}

/// The maps of this build, as the kernel would describe them.
fn wanted(entries: &[(&str, u32)]) -> Result<BTreeMap<String, MapInfo>, LoadError> {
    let parse = |object| aya_obj::Object::parse(object).map_err(|source| LoadError::Parse { source });
    let objects = [parse(bpf::CONTAINER)?, parse(bpf::SOCKETS)?];
    let pinned = objects.iter().flat_map(|object| &object.maps);
    let pinned = pinned.filter(|(_, map)| map.pinning() == PinningType::ByName);
    let info = |name: &str, map: &aya_obj::Map| MapInfo {
        kind: map.map_type(),
        id: 0,
        key_size: map.key_size(),
        value_size: map.value_size(),
        max_entries: entries.iter().find(|(n, _)| *n == name).map_or(map.max_entries(), |(_, size)| *size),
        flags: map.map_flags(),
    };
    Ok(pinned.map(|(name, map)| (name.clone(), info(name, map))).collect())
}

fn marker() -> String {
    format!("abi_{}", abi::ABI_VERSION)
}

/// Whether what is pinned means what this build means by it.
fn marked(directory: &Path) -> Result<bool, LoadError> {
    let path = directory.join(marker());
    path.try_exists().map_err(|source| LoadError::Directory { path, source })
}

fn mark(directory: &Path) -> Result<(), LoadError> {
    let failed = |source| LoadError::Directory { path: directory.to_owned(), source };
    let ours = marker();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("abi_") && name != ours.as_str() {
            std::fs::remove_dir(entry.path()).map_err(failed)?;
        }
    }
    match std::fs::create_dir(directory.join(ours)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(()),
    }
}

impl Former {
    fn keep(&mut self, name: &str, fd: OwnedFd) {
        match name {
            map::POLICIES => self.last_policy = last_policy(fd),
            map::LB_REVERSE => self.last_service = last::<abi::LbReverse>(fd, |reverse| reverse.number),
            map::LB_BACKENDS => self.last_backend = last::<abi::LbBackend>(fd, |backend| backend.number),
            map::CT4 => self.ct4 = Some(fd),
            map::CT6 => self.ct6 = Some(fd),
            _ => {}
        }
    }

    /// Copies flows as far as their layout is the same. What cannot be copied is judged anew with its next packet.
    pub fn copy_flows(self, maps: &Maps) {
        if let Some(fd) = self.ct4 {
            copy(fd, &maps.ct4, names::map::CT4);
        }
        if let Some(fd) = self.ct6 {
            copy(fd, &maps.ct6, names::map::CT6);
        }
    }
}

fn last_policy(fd: OwnedFd) -> u32 {
    last::<abi::PolicyHeader>(fd, |header| header.id)
}

/// The largest number of an array's elements.
fn last<V: aya::Pod>(fd: OwnedFd, number: impl Fn(&V) -> u32) -> u32 {
    let mut last = 0;
    if let Ok(elements) = Map::<u32, V>::new(fd) {
        // What was read before an error counts all the same.
        let _ = elements.for_each(|_, element| last = last.max(number(element)));
    }
    last
}

fn copy<K: aya::Pod>(from: OwnedFd, to: &Map<K, abi::CtEntry>, map: &str) {
    let copied = Map::<K, abi::CtEntry>::new(from).and_then(|from| {
        let mut cursor = Default::default();
        while let Some(batch) = from.next_batch(&mut cursor)? {
            to.put_all(&batch.keys, &batch.values)?;
        }
        Ok(())
    });
    if let Err(error) = copied {
        tracing::warn!(%error, map, "not every flow could be carried over; those left out are judged anew");
    }
}

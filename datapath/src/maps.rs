//! The pinned maps, opened with the types of their keys and values.
//!
//! Owns the set; a file below each map's name owns what an element means. Who makes and pins them is `programs`.

pub mod conntrack;
pub mod endpoints;
pub mod identities;
pub mod ipcache;
pub mod metrics;
pub mod policy;
pub mod runtime;
pub mod services;
pub mod snat;
pub mod tunnel;

use crate::syscall::{Map, MapInfo, map_info, open_pin};
use aya::maps::lpm_trie;
use bpf::{abi, names};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("open the pinned map {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("read map {map}")]
    Read { map: &'static str, source: io::Error },
    #[error("write map {map}")]
    Write { map: &'static str, source: io::Error },
    #[error("map {map} is full: it has room for {room} entries, and these are {entries} more")]
    Full { map: &'static str, room: u32, entries: usize },
    #[error("map {map}: version {id} of a policy is not there")]
    NoVersion { map: &'static str, id: u32 },
}

pub type LpmKey = lpm_trie::Key<abi::IpcacheKey>;

/// Every map of the programs.
#[derive(Debug)]
pub struct Maps {
    pub directory: PathBuf,
    pub lxc: Map<u32, abi::Endpoint>,
    pub policies: Map<u32, abi::PolicyHeader>,
    pub policy: Map<abi::PolicyKey, abi::PolicyEntry>,
    pub ipcache: Map<abi::IpcacheKey, abi::IpcacheEntry>,
    pub ipcache_lpm: Map<LpmKey, abi::IpcacheEntry>,
    pub identities: Map<u32, u32>,
    pub tunnel: Map<LpmKey, abi::Vtep>,
    pub nodes: Map<abi::IpcacheKey, u32>,
    pub ct4: Map<abi::Ct4Key, abi::CtEntry>,
    pub ct6: Map<abi::Ct6Key, abi::CtEntry>,
    pub frag4: Map<abi::Frag4Key, abi::FragEntry>,
    pub frag6: Map<abi::Frag6Key, abi::FragEntry>,
    pub services: services::ServiceMaps,
    pub snat: Map<abi::SnatKey, abi::SnatEntry>,
    pub metrics: Map<u32, abi::Metric>,
    pub runtime: Map<u32, abi::Runtime>,
    pub events: (OwnedFd, MapInfo),
}

impl Maps {
    /// Opens what is pinned in `directory`.
    pub fn open(directory: &Path) -> Result<Maps, MapError> {
        Ok(Maps {
            directory: directory.to_owned(),
            lxc: open(directory, names::map::LXC)?,
            policies: open(directory, names::map::POLICIES)?,
            policy: open(directory, names::map::POLICY)?,
            ipcache: open(directory, names::map::IPCACHE)?,
            ipcache_lpm: open(directory, names::map::IPCACHE_LPM)?,
            identities: open(directory, names::map::IDENTITIES)?,
            tunnel: open(directory, names::map::TUNNEL)?,
            nodes: open(directory, names::map::NODES)?,
            ct4: open(directory, names::map::CT4)?,
            ct6: open(directory, names::map::CT6)?,
            frag4: open(directory, names::map::FRAG4)?,
            frag6: open(directory, names::map::FRAG6)?,
            services: services::ServiceMaps::open(directory)?,
            snat: open(directory, names::map::SNAT)?,
            metrics: open(directory, names::map::METRICS)?,
            runtime: open(directory, names::map::RUNTIME)?,
            events: {
                let path = directory.join(names::map::EVENTS);
                let fd = open_pin(&path).map_err(|source| MapError::Open { path: path.clone(), source })?;
                let info = map_info(fd.as_fd()).map_err(|source| MapError::Open { path, source })?;
                (fd, info)
            },
        })
    }

    /// Name and kernel facts of each map.
    pub fn infos(&self) -> [(&'static str, MapInfo); 23] {
        use names::map;
        [
            (map::LXC, self.lxc.info()),
            (map::POLICIES, self.policies.info()),
            (map::POLICY, self.policy.info()),
            (map::IPCACHE, self.ipcache.info()),
            (map::IPCACHE_LPM, self.ipcache_lpm.info()),
            (map::IDENTITIES, self.identities.info()),
            (map::TUNNEL, self.tunnel.info()),
            (map::NODES, self.nodes.info()),
            (map::CT4, self.ct4.info()),
            (map::CT6, self.ct6.info()),
            (map::FRAG4, self.frag4.info()),
            (map::FRAG6, self.frag6.info()),
            (map::LB_SERVICES, self.services.services.info()),
            (map::LB_PLACES, self.services.places.info()),
            (map::LB_BACKENDS, self.services.backends.info()),
            (map::LB_REVERSE, self.services.reverse.info()),
            (map::LB_AFFINITY, self.services.affinity.info()),
            (map::LB_AFFINITY_MATCH, self.services.members.info()),
            (map::LB_SOURCE_RANGE, self.services.sources.info()),
            (map::SNAT, self.snat.info()),
            (map::METRICS, self.metrics.info()),
            (map::RUNTIME, self.runtime.info()),
            (map::EVENTS, self.events.1),
        ]
    }
}

pub(crate) fn open<K: aya::Pod, V: aya::Pod>(directory: &Path, name: &str) -> Result<Map<K, V>, MapError> {
    let path = directory.join(name);
    open_pin(&path).and_then(Map::new).map_err(|source| MapError::Open { path, source })
}

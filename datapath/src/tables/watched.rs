//! Single look-ups in the pinned table of identities, from outside of the agent: for whoever measures how soon something
//! stands there.

use super::TableError;
use crate::maps::{self, MapError, ipcache};
use crate::syscall::Map;
use bpf::abi;
use bpf::names::map::IPCACHE;
use model::Identity;
use std::net::IpAddr;
use std::path::Path;

/// The whole addresses of the table.
#[derive(Debug)]
pub struct WatchedAddresses {
    map: Map<abi::IpcacheKey, abi::IpcacheEntry>,
}

impl WatchedAddresses {
    /// Opens what an agent has pinned in `directory`.
    pub fn open(directory: &Path) -> Result<WatchedAddresses, TableError> {
        Ok(WatchedAddresses { map: maps::open(directory, IPCACHE)? })
    }

    /// Who has the address.
    pub fn identity(&self, address: IpAddr) -> Result<Option<Identity>, TableError> {
        let found = self.map.get(&ipcache::key_of(address));
        let found = found.map_err(|source| MapError::Read { map: IPCACHE, source })?;
        Ok(found.map(|entry| Identity(entry.identity)))
    }

    pub fn count(&self) -> Result<u64, TableError> {
        Ok(super::count(&self.map, IPCACHE)?)
    }
}

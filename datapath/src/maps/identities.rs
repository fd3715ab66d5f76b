//! `cilium_identities`: of whom a packet through the tunnel may be.

use super::{MapError, Maps};
use bpf::names::map::IDENTITIES;
use model::{Identity, IdentitySet};

pub fn read(maps: &Maps) -> Result<IdentitySet, MapError> {
    let mut identities = IdentitySet::new();
    let read = maps.identities.for_each(|key, _| {
        identities.insert(Identity(*key), ());
    });
    read.map_err(|source| MapError::Read { map: IDENTITIES, source })?;
    Ok(identities)
}

/// Writes them; one answer for all.
pub fn put(maps: &Maps, identities: &[u32]) -> Result<(), MapError> {
    let written = maps.identities.put_all(identities, &vec![1; identities.len()]);
    written.map_err(|source| MapError::Write { map: IDENTITIES, source })
}

/// What is absent is no error.
pub fn remove(maps: &Maps, identity: Identity) -> Result<(), MapError> {
    maps.identities.delete(&identity.0).map_err(|source| MapError::Write { map: IDENTITIES, source })
}

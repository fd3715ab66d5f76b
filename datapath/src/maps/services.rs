//! `cilium_lb_*`: what is asked for, who answers, and how one of those is chosen.
//!
//! Owns the words' way to bytes and back. Which numbers and places there are is `plan::services`'.

use super::{MapError, open};
use crate::syscall::Map;
use bpf::{abi, names::map};
use std::path::Path;

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
        })
    }
}

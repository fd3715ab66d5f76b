//! What the programs' tables say, for people: read when asked, each time from the kernel.

mod dump;
mod watched;

pub use watched::WatchedAddresses;

use crate::current::services::Frontend;
use crate::links::ifindex;
use crate::maps::conntrack::{self, Flow};
use crate::maps::metrics::{self, Metric};
use crate::maps::snat::{self, NatRow};
use crate::maps::{MapError, Maps, endpoints, ipcache, policy, services, tunnel};
use crate::syscall::{Cursor, Map, test_run};
use crate::{Timeouts, clock};
use ipnetwork::IpNetwork;
use model::service::{Algorithm, ServiceType};
use model::{Direction, EndpointId, Identity, L4Address, Mac, PolicyEntry, PolicyKey, Protocol, ServiceId};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("read the kernel's clock")]
    Clock { source: io::Error },
}

/// Reads the tables. Cheap to clone; calls block for as long as a table is large.
#[derive(Debug, Clone)]
pub struct Tables {
    maps: Arc<Maps>,
    clock: Arc<OwnedFd>,
    timeouts: Timeouts,
    malformed: Arc<AtomicU64>,
}

/// An endpoint as the programs know it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct EndpointRow {
    pub id: EndpointId,
    pub ifindex: u32,
    /// Version of the policy in force.
    pub policy: u32,
    pub identity: Identity,
    pub internal: bool,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub mac: Mac,
    pub node_mac: Mac,
}

#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct IpcacheRow {
    pub prefix: IpNetwork,
    pub identity: Identity,
    pub endpoint: Option<EndpointId>,
}

/// Where packets to a prefix go through the tunnel.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct TunnelRow {
    pub prefix: IpNetwork,
    /// Underlay address of the node, also for its other ones.
    pub vtep: IpAddr,
}

/// What the programs have of services.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadBalancerTable {
    /// In the order of their frontends.
    pub services: Vec<ServiceRow>,
    /// Backends by their numbers.
    pub backends: Vec<(u32, SocketAddr)>,
    /// What flows asked for, by the numbers of the services.
    pub revnat: Vec<(u32, SocketAddr)>,
    /// From where others than the cluster may ask, by the numbers of the services.
    pub source_ranges: Vec<(u32, IpNetwork)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceRow {
    pub frontend: L4Address,
    pub number: u32,
    pub id: ServiceId,
    pub kind: ServiceType,
    /// Seconds for which a client stays with its backend; 0: it does not.
    pub affinity: u32,
    /// For flows that begin on a node, and for those from elsewhere.
    pub places: [PlacesRow; 2],
}

/// Whom new flows are given to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlacesRow {
    pub by: Algorithm,
    /// Numbers of backends, and how many of the equally likely places each has.
    pub shares: BTreeMap<u32, u32>,
}

/// The policy in force of one endpoint.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct PolicyTable {
    pub version: u32,
    pub identity: Identity,
    pub rows: Vec<PolicyRow>,
}

#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct PolicyRow {
    pub direction: Direction,
    /// The peer; 0: any.
    pub identity: Identity,
    /// `None`: any.
    pub protocol: Option<Protocol>,
    /// For ICMP the type.
    pub port: u16,
    /// Leading bits of the port that count; 16: this port, 0: every port.
    pub port_prefix: u8,
    pub deny: bool,
    pub proxy_port: u16,
    pub precedence: u8,
    /// Packets that the row decided.
    pub packets: u64,
    pub bytes: u64,
}

/// A pinned map.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct MapInfo {
    pub name: String,
    /// The kernel's name of the type, in lower case.
    #[serde(rename = "type")]
    pub kind: String,
    pub id: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    /// How many are in use; `None` where all always are.
    pub entries: Option<u64>,
    pub path: PathBuf,
}

impl Tables {
    pub(crate) fn new(maps: Arc<Maps>, clock: OwnedFd, timeouts: Timeouts, malformed: Arc<AtomicU64>) -> Tables {
        Tables { maps, clock: Arc::new(clock), timeouts, malformed }
    }

    /// At most `limit` flows, IPv4 first.
    pub fn conntrack(&self, limit: usize) -> Result<Vec<Flow>, TableError> {
        let jiffies = test_run(self.clock.as_fd()).map_err(|source| TableError::Clock { source })?;
        Ok(conntrack::read(&self.maps, limit, &self.timeouts, jiffies)?)
    }

    /// Forgets every flow: each is judged anew with its next packet. Tells how many there were.
    pub fn conntrack_flush(&self) -> Result<usize, TableError> {
        Ok(conntrack::flush(&self.maps)?)
    }

    pub fn ipcache(&self) -> Result<Vec<IpcacheRow>, TableError> {
        let entries = ipcache::read(&self.maps, &model::Ipcache::default())?;
        let row = |(prefix, entry): (&IpNetwork, &model::desired::IpcacheEntry)| IpcacheRow {
            prefix: *prefix,
            identity: entry.identity,
            endpoint: entry.endpoint,
        };
        Ok(entries.iter().map(row).collect())
    }

    /// Which prefixes are behind which nodes.
    pub fn tunnel(&self) -> Result<Vec<TunnelRow>, TableError> {
        let vteps = tunnel::read_vteps(&self.maps)?.into_iter();
        Ok(vteps.map(|(prefix, vtep)| TunnelRow { prefix, vtep: vtep.address }).collect())
    }

    /// What the kernel has of services.
    pub fn load_balancer(&self) -> Result<LoadBalancerTable, TableError> {
        let held = services::read(&self.maps.services)?;
        let row = |(frontend, held): (&L4Address, &Frontend)| ServiceRow {
            frontend: *frontend,
            number: held.number.0,
            id: held.id,
            kind: held.kind,
            affinity: clock::seconds(held.affinity),
            places: [0, 1].map(|at| {
                let mut shares = BTreeMap::new();
                held.places[at].backends.iter().for_each(|number| *shares.entry(number.0).or_default() += 1);
                PlacesRow { by: held.by[at], shares }
            }),
        };
        Ok(LoadBalancerTable {
            services: held.frontends.iter().map(row).collect(),
            backends: held.backends.iter().collect(),
            revnat: held.reverse.iter().collect(),
            source_ranges: held.sources.iter().map(|(service, prefix)| (service.0, *prefix)).collect(),
        })
    }

    /// Whose the ports are under which this node sends on for others, at most `limit` of them, by what they are sent to.
    pub fn nat(&self, limit: usize) -> Result<Vec<NatRow>, TableError> {
        let jiffies = test_run(self.clock.as_fd()).map_err(|source| TableError::Clock { source })?;
        Ok(snat::read(&self.maps, limit, jiffies)?)
    }

    /// The policy in force of an endpoint, with what each row decided so far; `None`: there is no such endpoint.
    pub fn policy(&self, endpoint: EndpointId) -> Result<Option<PolicyTable>, TableError> {
        let Some(slot) = endpoints::read_one(&self.maps, endpoint)? else { return Ok(None) };
        let rows = policy::rows(&self.maps, slot.policy)?;
        let rows = rows.into_iter().map(|(key, entry, counters)| PolicyRow::new(key, entry, counters)).collect();
        Ok(Some(PolicyTable { version: slot.policy.0, identity: slot.identity, rows }))
    }

    pub fn endpoints(&self) -> Result<Vec<EndpointRow>, TableError> {
        let slots: BTreeMap<_, _> = endpoints::read(&self.maps)?;
        let row = |(id, slot): (EndpointId, crate::current::Slot)| EndpointRow {
            id,
            ifindex: ifindex(id),
            policy: slot.policy.0,
            identity: slot.identity,
            internal: slot.internal,
            ipv4: slot.ipv4,
            ipv6: slot.ipv6,
            mac: slot.mac,
            node_mac: slot.node_mac,
        };
        Ok(slots.into_iter().map(row).collect())
    }

    /// Packets and bytes by reason and direction; what is zero is left out.
    pub fn metrics(&self) -> Result<Vec<Metric>, TableError> {
        Ok(metrics::read(&self.maps)?)
    }

    /// Events that found the ring buffer full.
    pub fn lost_events(&self) -> Result<u64, TableError> {
        Ok(metrics::lost_events(&self.maps)?)
    }

    /// Size of the events' ring buffer.
    pub fn ring_bytes(&self) -> u64 {
        u64::from(self.maps.events.1.max_entries)
    }

    /// Records of the ring buffer that could not be decoded since start.
    pub fn malformed_events(&self) -> u64 {
        self.malformed.load(Ordering::Relaxed)
    }

    /// Every map, with how full it is.
    pub fn maps(&self) -> Result<Vec<MapInfo>, TableError> {
        let used = self.entries()?;
        let describe = |(name, info): (&'static str, crate::syscall::MapInfo)| MapInfo {
            name: name.to_owned(),
            kind: kind(info.kind),
            id: info.id,
            key_size: info.key_size,
            value_size: info.value_size,
            max_entries: info.max_entries,
            entries: used.get(name).copied(),
            path: self.maps.directory.join(name),
        };
        Ok(self.maps.infos().into_iter().map(describe).collect())
    }

    fn entries(&self) -> Result<BTreeMap<&'static str, u64>, MapError> {
        use bpf::names::map;
        let maps = &self.maps;
        Ok(BTreeMap::from([
            (map::LXC, endpoints::read(maps)?.len() as u64),
            (map::POLICY, count(&maps.policy, map::POLICY)?),
            (map::IPCACHE, count(&maps.ipcache, map::IPCACHE)?),
            (map::IPCACHE_LPM, count(&maps.ipcache_lpm, map::IPCACHE_LPM)?),
            (map::IDENTITIES, count(&maps.identities, map::IDENTITIES)?),
            (map::TUNNEL, count(&maps.tunnel, map::TUNNEL)?),
            (map::NODES, count(&maps.nodes, map::NODES)?),
            (map::CT4, count(&maps.ct4, map::CT4)?),
            (map::CT6, count(&maps.ct6, map::CT6)?),
            (map::FRAG4, count(&maps.frag4, map::FRAG4)?),
            (map::FRAG6, count(&maps.frag6, map::FRAG6)?),
            (map::LB_SERVICES, count(&maps.services.services, map::LB_SERVICES)?),
            (map::LB_AFFINITY, count(&maps.services.affinity, map::LB_AFFINITY)?),
            (map::LB_AFFINITY_MATCH, count(&maps.services.members, map::LB_AFFINITY_MATCH)?),
            (map::LB_SOURCE_RANGE, count(&maps.services.sources, map::LB_SOURCE_RANGE)?),
            (map::SNAT, count(&maps.snat, map::SNAT)?),
        ]))
    }
}

impl PolicyRow {
    fn new(key: PolicyKey, entry: PolicyEntry, (packets, bytes): (u64, u64)) -> PolicyRow {
        PolicyRow {
            direction: key.direction,
            identity: key.identity,
            protocol: key.protocol,
            port: key.port,
            port_prefix: key.prefix,
            deny: entry.deny,
            proxy_port: entry.proxy_port,
            precedence: entry.precedence,
            packets,
            bytes,
        }
    }
}

fn count<K: aya::Pod, V: aya::Pod>(map: &Map<K, V>, name: &'static str) -> Result<u64, MapError> {
    let mut cursor = Cursor::default();
    let mut count = 0;
    while let Some(batch) = map.next_batch(&mut cursor).map_err(|source| MapError::Read { map: name, source })? {
        count += batch.keys.len() as u64;
    }
    Ok(count)
}

/// `enum bpf_map_type`, those that occur.
fn kind(number: u32) -> String {
    match number {
        1 => "hash".to_owned(),
        2 => "array".to_owned(),
        6 => "percpu_array".to_owned(),
        9 => "lru_hash".to_owned(),
        10 => "lru_percpu_hash".to_owned(),
        11 => "lpm_trie".to_owned(),
        27 => "ringbuf".to_owned(),
        other => format!("type {other}"),
    }
}

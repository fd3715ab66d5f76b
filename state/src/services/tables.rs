//! Whom new flows of a frontend are given to: which backends count, by their state and place, and the tables of those.

use super::Options;
use super::definition::{Backend, BackendState, Service, TrafficPolicy};
use super::maglev;
use super::places::{Weighted, by_weight};
use model::service::{Algorithm, ServiceType, Table};
use model::{L4Address, Protocol};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// What frontends of one port, protocol and family have in common.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Port {
    name: String,
    protocol: Protocol,
    is_ipv4: bool,
}

/// Backends, and the tables of two kinds of askers.
#[derive(Clone, Debug)]
pub(super) struct Balance {
    pub(super) backends: Arc<[L4Address]>,
    pub(super) internal: Table,
    pub(super) external: Table,
}

/// A Maglev table and what it was made of.
#[derive(Clone, Debug)]
struct Made {
    of: Vec<(L4Address, u16)>,
    table: Arc<[u16]>,
}

/// The tables of a service's frontends. They are made once for all frontends that have them in common, and a Maglev table,
/// which is large, is kept as long as it is made of the same.
#[derive(Debug, Default)]
pub(super) struct Tables {
    ready: Vec<((Port, ServiceType), Balance)>,
    maglev: Vec<((Port, bool), Made)>,
}

/// What tables are made of beside the service.
pub(super) struct Place<'a> {
    pub(super) options: &'a Options,
    pub(super) near: &'a BTreeSet<IpAddr>,
}

impl Tables {
    /// What is worth keeping for the same service after a change.
    pub(super) fn into_next(self) -> Tables {
        Tables { ready: Vec::new(), maglev: self.maglev }
    }

    pub(super) fn balance(&mut self, service: &Service, frontend: usize, place: &Place<'_>) -> Option<Balance> {
        let frontend = service.frontends.get(frontend)?;
        let L4Address { ip, protocol, .. } = frontend.address;
        let port = Port { name: frontend.port.clone(), protocol, is_ipv4: ip.is_ipv4() };
        let key = (port.clone(), frontend.kind);
        if let Some((_, ready)) = self.ready.iter().find(|(held, _)| *held == key) {
            return Some(ready.clone());
        }
        let balance = self.make(service, frontend.kind, &port, place);
        self.ready.push((key, balance.clone()));
        Some(balance)
    }

    fn make(&mut self, service: &Service, kind: ServiceType, port: &Port, place: &Place<'_>) -> Balance {
        let of_port = |backend: &&Backend| {
            backend.port == port.name
                && backend.address.protocol == port.protocol
                && backend.address.ip.is_ipv4() == port.is_ipv4
        };
        let mut backends: Vec<&Backend> = service.backends.iter().filter(of_port).collect();
        backends.sort_by_key(|backend| backend.address);
        let addresses: Arc<[L4Address]> = backends.iter().map(|backend| backend.address).collect();
        let choose =
            |policy: TrafficPolicy| chosen(&backends, policy == TrafficPolicy::Local, service.prefer_local, place);
        // From inside of the cluster an outer address is asked as if it was the inner one of all nodes.
        let policy = if kind == ServiceType::ClusterIp { service.internal } else { TrafficPolicy::Cluster };
        let internal = Table { by: Algorithm::Random, places: by_weight(&choose(policy)) };
        let external = match kind {
            // Nobody comes from elsewhere for it.
            ServiceType::ClusterIp => Table::default(),
            _ => {
                let by = service.algorithm.unwrap_or(place.options.algorithm);
                let weighted = choose(service.external);
                let places = match by {
                    Algorithm::Random if service.external == policy => internal.places.clone(),
                    Algorithm::Random => by_weight(&weighted),
                    Algorithm::Maglev => self.maglev(port, service.external, &weighted, &addresses, place.options),
                };
                Table { by, places }
            }
        };
        Balance { backends: addresses, internal, external }
    }

    fn maglev(
        &mut self,
        port: &Port,
        policy: TrafficPolicy,
        weighted: &[Weighted],
        addresses: &[L4Address],
        options: &Options,
    ) -> Arc<[u16]> {
        // The table holds indices: it is the same only if all backends are.
        let weight =
            |n: usize| weighted.iter().find(|(index, _)| usize::from(*index) == n).map_or(0, |(_, weight)| *weight);
        let of: Vec<(L4Address, u16)> = match weighted.len() == addresses.len() {
            true => addresses.iter().copied().zip(weighted.iter().map(|(_, weight)| *weight)).collect(),
            false => addresses.iter().copied().enumerate().map(|(n, address)| (address, weight(n))).collect(),
        };
        let key = (port.clone(), policy == TrafficPolicy::Local);
        if let Some((_, made)) = self.maglev.iter().find(|(held, made)| *held == key && made.of == of) {
            return made.table.clone();
        }
        let table = maglev::table(weighted, addresses, options.maglev_size, options.maglev_seed);
        self.maglev.retain(|(held, _)| *held != key);
        self.maglev.push((key, Made { of, table: table.clone() }));
        table
    }
}

/// The backends that get new flows, by their index. `only_local`: those of other nodes count as not there.
fn chosen(backends: &[&Backend], only_local: bool, prefer_local: bool, place: &Place<'_>) -> Vec<Weighted> {
    let is_near = |backend: &Backend| place.near.contains(&backend.address.ip);
    let scope = || {
        let all = (0_u16..=u16::MAX).zip(backends.iter().copied());
        all.filter(|(_, backend)| backend.weight > 0 && (!only_local || is_near(backend)))
    };
    let weighted = |(index, backend): (u16, &Backend)| (index, backend.weight);
    let is_active = |(_, backend): &(u16, &Backend)| backend.state == BackendState::Active;
    if prefer_local {
        let near: Vec<Weighted> = scope().filter(is_active).filter(|(_, b)| is_near(b)).map(weighted).collect();
        if !near.is_empty() {
            return near;
        }
    }
    let active: Vec<Weighted> = scope().filter(is_active).map(weighted).collect();
    if !active.is_empty() {
        return active;
    }
    let serves = |(_, backend): &(u16, &Backend)| backend.state == BackendState::Terminating { serves: true };
    scope().filter(serves).map(weighted).collect()
}

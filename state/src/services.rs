//! Services: who wants which address and port to be answered by whom, which of those get it, and what the kernel should do
//! with each. Definitions come out of the kvstore and, for published ports, from this node's endpoints.
//!
//! There may be a hundred thousand, so that nothing here goes through all of them: what was said marks its owner as stale,
//! an owner is taken apart into the concrete addresses that it asks for, and only those addresses are settled anew.

pub mod definition;
pub(crate) mod maglev;
mod places;
mod published;
pub mod record;
mod settle;
mod tables;

use definition::{Service, ServiceName};
use ipnetwork::IpNetwork;
pub use maglev::{DEFAULT_SEED, DEFAULT_SIZE, SIZES, seed};
use model::service::{Algorithm, ServiceType};
use model::{EndpointId, L4Address, LoadBalancer, ServiceId, SharedMap};
pub use published::Published;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use tables::Tables;

/// What stays the same for a whole life.
#[derive(Clone, Debug)]
pub struct Options {
    /// For those who come from outside of the cluster.
    pub algorithm: Algorithm,
    /// Places of a Maglev table: one of `SIZES`.
    pub maglev_size: u32,
    pub maglev_seed: u64,
    /// The ports that services may have on every address of the nodes.
    pub node_ports: RangeInclusive<u16>,
    /// Of the host's addresses those in these prefixes answer to node ports and published ones; empty: all.
    pub node_port_addresses: Vec<IpNetwork>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            algorithm: Algorithm::Random,
            maglev_size: maglev::DEFAULT_SIZE,
            maglev_seed: maglev::seed(maglev::DEFAULT_SEED),
            node_ports: 30_000..=32_767,
            node_port_addresses: Vec::new(),
        }
    }
}

/// Who wants frontends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Owner {
    /// An endpoint of this node, for the ports that it publishes.
    Endpoint(EndpointId),
    Record(Arc<ServiceName>),
}

/// That somebody wants an address. Of several the first in order gets it: what this node publishes itself, and else the
/// lowest number, which is the same on all nodes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Claim {
    is_record: bool,
    id: ServiceId,
    owner: Owner,
    /// Of the owner's service.
    frontend: usize,
}

/// A frontend as readers are shown it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceView {
    pub service: Arc<Service>,
    /// Which of its frontends.
    pub frontend: usize,
    /// Why it is not answered.
    pub refused: Option<String>,
}

impl ServiceView {
    pub fn frontend(&self) -> Option<&definition::Frontend> {
        self.service.frontends.get(self.frontend)
    }
}

/// What an owner asked for when it was last taken apart.
#[derive(Debug, Default)]
struct Demand {
    addresses: Vec<L4Address>,
    ids: Vec<ServiceId>,
    /// Addresses of which it matters whether they are on this node.
    located: Vec<IpAddr>,
    /// Whether it has ports of the host.
    on_host: bool,
    tables: Tables,
}

/// What of the rest of the state matters to services.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Surroundings {
    /// Addresses of this node's endpoints and of its host: backends there are local.
    pub(crate) near: BTreeSet<IpAddr>,
    /// Addresses of the host's own.
    pub(crate) host: BTreeSet<IpAddr>,
    /// Where containers' addresses are from.
    pub(crate) pools: BTreeSet<IpNetwork>,
    /// Where the kvstore is.
    pub(crate) kvstore: BTreeSet<IpAddr>,
}

#[derive(Debug, Default)]
pub(crate) struct Services {
    options: Options,
    records: BTreeMap<Arc<ServiceName>, Arc<Service>>,
    /// Records that say nothing, and why.
    unreadable: BTreeMap<ServiceName, String>,
    /// What endpoints of this node publish.
    published: BTreeMap<EndpointId, Arc<Service>>,
    around: Surroundings,
    demands: BTreeMap<Owner, Demand>,
    /// In order.
    claims: BTreeMap<L4Address, Vec<Claim>>,
    /// Who claims to be the service of a number, in order.
    ids: BTreeMap<ServiceId, Vec<(Owner, usize)>>,
    /// For whom it matters whether an address is on this node.
    located: BTreeMap<IpAddr, BTreeSet<Owner>>,
    on_host: BTreeSet<Owner>,
    /// Claims that nothing came of, by address and frontend, and why.
    refusals: BTreeMap<Owner, BTreeMap<(L4Address, usize), String>>,
    stale: BTreeSet<Owner>,
    /// Addresses to be settled although nobody who claims them is stale.
    unsettled: BTreeSet<L4Address>,
    frontends: SharedMap<L4Address, Arc<LoadBalancer>>,
    views: SharedMap<ServiceId, Arc<ServiceView>>,
}

/// How many refusals of services readers are shown.
const TOLD: usize = 64;

impl Services {
    pub(crate) fn new(options: Options) -> Services {
        Services { options, ..Services::default() }
    }

    /// What the kernel should answer.
    pub(crate) fn frontends(&self) -> &SharedMap<L4Address, Arc<LoadBalancer>> {
        &self.frontends
    }

    pub(crate) fn views(&self) -> &SharedMap<ServiceId, Arc<ServiceView>> {
        &self.views
    }

    /// What of the records is not done, and why; the first few.
    pub(crate) fn doubts(&self) -> impl Iterator<Item = (String, String)> {
        let unreadable = self.unreadable.iter().map(|(name, why)| (format!("service {name}"), why.clone()));
        let refused = self.refusals.iter().flat_map(|(owner, addresses)| {
            let title = move |address: &L4Address| match owner {
                Owner::Endpoint(id) => format!("published port {address} of endpoint {id}"),
                Owner::Record(name) => format!("service {name} at {address}"),
            };
            addresses.iter().map(move |((address, _), why)| (title(address), why.clone()))
        });
        unreadable.take(TOLD).chain(refused.take(TOLD))
    }

    /// Whether that was news.
    pub(crate) fn put(&mut self, service: Service) -> bool {
        let readable = self.unreadable.remove(&service.name).is_some();
        let held = self.records.get_key_value(&service.name);
        if held.is_some_and(|(_, held)| **held == service) {
            return readable;
        }
        let name = held.map_or_else(|| Arc::new(service.name.clone()), |(name, _)| name.clone());
        self.records.insert(name.clone(), Arc::new(service));
        self.stale.insert(Owner::Record(name));
        true
    }

    /// A record that says nothing takes nothing away that another record says, but what it said before is gone.
    pub(crate) fn refuse(&mut self, name: ServiceName, why: String) -> bool {
        self.remove(&name);
        self.unreadable.insert(name, why.clone()) != Some(why)
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, name: &ServiceName) -> bool {
        let was_unreadable = self.unreadable.remove(name).is_some();
        let removed = self.records.remove_entry(name);
        let was_there = removed.is_some();
        self.stale.extend(removed.map(|(name, _)| Owner::Record(name)));
        was_there || was_unreadable
    }

    /// What an endpoint publishes from now on; `None`: nothing.
    pub(crate) fn publish(&mut self, endpoint: EndpointId, service: Option<Service>) {
        let before = self.published.get(&endpoint).map(|service| &**service);
        if before == service.as_ref() {
            return;
        }
        match service {
            Some(service) => drop(self.published.insert(endpoint, Arc::new(service))),
            None => drop(self.published.remove(&endpoint)),
        }
        self.stale.insert(Owner::Endpoint(endpoint));
    }

    /// Takes over what is around, and marks those to whom it matters.
    pub(crate) fn look_around(&mut self, around: Surroundings) {
        if around == self.around {
            return;
        }
        let before = std::mem::replace(&mut self.around, around);
        for address in before.near.symmetric_difference(&self.around.near) {
            self.stale.extend(self.located.get(address).into_iter().flatten().cloned());
        }
        if before.host != self.around.host {
            self.stale.extend(self.on_host.iter().cloned());
        }
        let singles = |one: &BTreeSet<IpAddr>, other: &BTreeSet<IpAddr>| -> Vec<(IpAddr, IpAddr)> {
            one.symmetric_difference(other).map(|address| (*address, *address)).collect()
        };
        let pools = before.pools.symmetric_difference(&self.around.pools);
        let mut touched: Vec<_> = pools.map(|pool| (pool.network(), pool.broadcast())).collect();
        touched.extend(singles(&before.host, &self.around.host));
        touched.extend(singles(&before.kvstore, &self.around.kvstore));
        for (first, last) in touched {
            let within = self.claims.range(lowest(first)..=highest(last));
            self.unsettled.extend(within.map(|(address, _)| *address));
        }
    }

    fn service(&self, owner: &Owner) -> Option<&Arc<Service>> {
        match owner {
            Owner::Endpoint(id) => self.published.get(id),
            Owner::Record(name) => self.records.get(name),
        }
    }
}

fn lowest(ip: IpAddr) -> L4Address {
    L4Address { ip, port: 0, protocol: model::Protocol(0) }
}

fn highest(ip: IpAddr) -> L4Address {
    L4Address { ip, port: u16::MAX, protocol: model::Protocol(u8::MAX) }
}

/// An address whatever is asked for there, as `bpf/abi.h` has it in cilium_lb_services.
fn whole(ip: IpAddr) -> L4Address {
    lowest(ip)
}

fn is_whole(address: &L4Address) -> bool {
    *address == whole(address.ip)
}

/// Whether a service of that kind has its frontend on addresses of the host.
fn is_of_host(kind: ServiceType) -> bool {
    matches!(kind, ServiceType::NodePort | ServiceType::HostPort)
}

#[cfg(test)]
mod tests;

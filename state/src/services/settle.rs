//! Brings frontends up to date: takes stale owners apart into the addresses that they claim, and decides for each address
//! that somebody claims or claimed who gets it.

use super::definition::{Frontend, Service};
use super::tables::Place;
use super::{Claim, Demand, Owner, ServiceView, Services, Surroundings, is_of_host, is_whole, whole};
use model::service::{ServiceType, Table};
use model::{L4Address, LoadBalancer, ServiceId};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Up to so many frontends, debug builds hold them against all definitions after each change.
#[cfg(debug_assertions)]
const MOST_COMPARED: usize = 500;

impl Services {
    /// Whether anything came out otherwise, here or for readers.
    pub(crate) fn refresh(&mut self) -> bool {
        let (mut touched, mut shown) = (std::mem::take(&mut self.unsettled), BTreeSet::new());
        let before = (self.frontends.clone(), self.views.clone());
        let mut stale = std::mem::take(&mut self.stale);
        // Who has a number in common with one of them may get it, or lose it.
        let rivals: Vec<Owner> = stale.iter().flat_map(|owner| self.rivals(owner)).collect();
        stale.extend(rivals);
        for owner in stale {
            self.withdraw(&owner, &mut touched, &mut shown);
            self.demand(&owner, &mut touched, &mut shown);
        }
        for address in touched {
            self.settle(address, &mut shown);
        }
        for id in shown {
            self.show(id);
        }
        #[cfg(debug_assertions)]
        if self.frontends.len() <= MOST_COMPARED {
            self.compare();
        }
        !before.0.is_same(&self.frontends) || !before.1.is_same(&self.views)
    }

    fn rivals(&self, owner: &Owner) -> BTreeSet<Owner> {
        let now = self.service(owner).into_iter().flat_map(|service| &service.frontends).map(|frontend| frontend.id);
        let before = self.demands.get(owner).into_iter().flat_map(|demand| demand.ids.iter().copied());
        let others = now.chain(before).filter_map(|id| self.ids.get(&id)).flatten().map(|(other, _)| other);
        others.filter(|other| *other != owner).cloned().collect()
    }

    fn withdraw(&mut self, owner: &Owner, touched: &mut BTreeSet<L4Address>, shown: &mut BTreeSet<ServiceId>) {
        let Some(demand) = self.demands.get_mut(owner) else { return };
        let Demand { addresses, ids, located, on_host, .. } = std::mem::take(demand);
        for address in addresses {
            if let Some(claims) = self.claims.get_mut(&address) {
                claims.retain(|claim| claim.owner != *owner);
                if claims.is_empty() {
                    self.claims.remove(&address);
                }
            }
            touched.insert(address);
        }
        for id in ids {
            if let Some(owners) = self.ids.get_mut(&id) {
                owners.retain(|(other, _)| other != owner);
                if owners.is_empty() {
                    self.ids.remove(&id);
                }
            }
            shown.insert(id);
        }
        for address in located {
            if let Some(owners) = self.located.get_mut(&address) {
                owners.remove(owner);
                if owners.is_empty() {
                    self.located.remove(&address);
                }
            }
        }
        if on_host {
            self.on_host.remove(owner);
        }
        self.refusals.remove(owner);
    }

    fn demand(&mut self, owner: &Owner, touched: &mut BTreeSet<L4Address>, shown: &mut BTreeSet<ServiceId>) {
        let kept = self.demands.remove(owner).map(|demand| demand.tables.into_next()).unwrap_or_default();
        let Some(service) = self.service(owner).cloned() else { return };
        let mut demand = Demand { tables: kept, ..Demand::default() };
        for (n, frontend) in service.frontends.iter().enumerate() {
            demand.ids.push(frontend.id);
            demand.on_host |= is_of_host(frontend.kind);
            add(self.ids.entry(frontend.id).or_default(), (owner.clone(), n));
            shown.insert(frontend.id);
            let is_record = matches!(owner, Owner::Record(_));
            for address in self.expand(frontend) {
                let claim = Claim { is_record, id: frontend.id, owner: owner.clone(), frontend: n };
                add(self.claims.entry(address).or_default(), claim);
                demand.addresses.push(address);
                touched.insert(address);
            }
        }
        if depends_on_places(&service) {
            demand.located = service.backends.iter().map(|backend| backend.address.ip).collect();
            for address in &demand.located {
                self.located.entry(*address).or_default().insert(owner.clone());
            }
        }
        if demand.on_host {
            self.on_host.insert(owner.clone());
        }
        self.demands.insert(owner.clone(), demand);
    }

    /// The concrete addresses that a frontend stands for. An address that is nothing but services' is claimed as a whole
    /// too: what is asked for there and is none is refused.
    fn expand(&self, frontend: &Frontend) -> Vec<L4Address> {
        let wanted = frontend.address;
        if !wanted.ip.is_unspecified() {
            let whole = (!is_of_host(frontend.kind)).then(|| whole(wanted.ip));
            return [wanted].into_iter().chain(whole).collect();
        }
        let loopback: IpAddr = match wanted.ip {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let own = self.around.host.iter().filter(|ip| self.is_asked(**ip) && ip.is_ipv4() == wanted.ip.is_ipv4());
        let all = own.copied().chain([loopback, wanted.ip]);
        all.map(|ip| L4Address { ip, ..wanted }).collect()
    }

    /// Whether an address of the host answers to node ports.
    fn is_asked(&self, ip: IpAddr) -> bool {
        let local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let chosen = &self.options.node_port_addresses;
        let is_chosen = chosen.is_empty() || chosen.iter().any(|prefix| prefix.contains(ip));
        !local && !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified() && is_chosen
    }

    /// Gives the address to the first who may have it.
    fn settle(&mut self, address: L4Address, shown: &mut BTreeSet<ServiceId>) {
        if is_whole(&address) {
            return self.settle_whole(address);
        }
        let claims: Vec<Claim> = self.claims.get(&address).into_iter().flatten().cloned().collect();
        let mut winner: Option<&Claim> = None;
        for claim in &claims {
            let refused = match winner {
                Some(winner) => Some(format!("service {} has it already", winner.id)),
                None => self.objection(claim, &address),
            };
            if refused.is_none() {
                winner = Some(claim);
            }
            self.note_refusal(claim, address, refused, shown);
        }
        let balancer = winner.and_then(|claim| self.balancer(claim, &address));
        match balancer {
            Some(balancer) if self.frontends.get(&address).is_some_and(|held| **held == balancer) => {}
            Some(balancer) => drop(self.frontends.insert(address, Arc::new(balancer))),
            None => drop(self.frontends.remove(&address)),
        }
    }

    /// An address as a whole is as many services' as have ports of it. Of the host's own the other ports are the host's.
    fn settle_whole(&mut self, address: L4Address) {
        let claims = self.claims.get(&address).into_iter().flatten();
        let mut may = claims.filter(|claim| self.objection(claim, &address).is_none());
        let owned = self.around.host.contains(&address.ip);
        let kind_of = |claim: &Claim| Some(self.service(&claim.owner)?.frontends.get(claim.frontend)?.kind);
        let claim = may.next().filter(|_| !owned).and_then(|claim| Some((claim.id, kind_of(claim)?)));
        match claim {
            Some((id, kind)) => {
                let balancer = LoadBalancer {
                    id,
                    kind,
                    backends: Arc::new([]),
                    internal: Table::default(),
                    external: Table::default(),
                    affinity: None,
                    source_ranges: None,
                };
                if self.frontends.get(&address).is_none_or(|held| **held != balancer) {
                    self.frontends.insert(address, Arc::new(balancer));
                }
            }
            None => drop(self.frontends.remove(&address)),
        }
    }

    fn note_refusal(
        &mut self,
        claim: &Claim,
        address: L4Address,
        refused: Option<String>,
        shown: &mut BTreeSet<ServiceId>,
    ) {
        let at = (address, claim.frontend);
        let held = self.refusals.get(&claim.owner).and_then(|refusals| refusals.get(&at));
        if held == refused.as_ref() {
            return;
        }
        shown.insert(claim.id);
        match refused {
            Some(why) => drop(self.refusals.entry(claim.owner.clone()).or_default().insert(at, why)),
            None => {
                if let Some(refusals) = self.refusals.get_mut(&claim.owner) {
                    refusals.remove(&at);
                    if refusals.is_empty() {
                        self.refusals.remove(&claim.owner);
                    }
                }
            }
        }
    }

    /// Why a claim cannot be met, whoever else claims the address.
    fn objection(&self, claim: &Claim, address: &L4Address) -> Option<String> {
        let first = self.ids.get(&claim.id).and_then(|owners| owners.first());
        if let Some((other, _)) = first.filter(|(owner, n)| *owner != claim.owner || *n != claim.frontend) {
            let whose = match other {
                Owner::Endpoint(id) => format!("a port of endpoint {id}"),
                Owner::Record(name) => format!("service {name}"),
            };
            return Some(format!("its number {} is that of {whose}", claim.id));
        }
        let kind = self.service(&claim.owner)?.frontends.get(claim.frontend)?.kind;
        let Surroundings { host, pools, kvstore, .. } = &self.around;
        let taken = |what: &str| Some(format!("{} is {what}", address.ip));
        match kind {
            ServiceType::HostPort => None,
            ServiceType::NodePort => {
                let range = &self.options.node_ports;
                let inside = range.contains(&address.port);
                (!inside)
                    .then(|| format!("port {} is not in the range {}-{}", address.port, range.start(), range.end()))
            }
            _ if kvstore.contains(&address.ip) => taken("the kvstore's address"),
            _ if pools.iter().any(|pool| pool.contains(address.ip)) => taken("out of containers' addresses"),
            ServiceType::ClusterIp if host.contains(&address.ip) => taken("an address of this host"),
            ServiceType::ClusterIp | ServiceType::ExternalIp | ServiceType::LoadBalancer => None,
        }
    }

    fn balancer(&mut self, claim: &Claim, address: &L4Address) -> Option<LoadBalancer> {
        let service = self.service(&claim.owner)?.clone();
        let kind = service.frontends.get(claim.frontend)?.kind;
        let guard = address.ip.is_unspecified();
        let ranges = (kind == ServiceType::LoadBalancer && !service.source_ranges.is_empty())
            .then(|| service.source_ranges.iter().copied().filter(|range| range.is_ipv4() == address.ip.is_ipv4()))
            .map(Iterator::collect);
        let mut balancer = LoadBalancer {
            id: claim.id,
            kind,
            backends: Arc::new([]),
            internal: Table::default(),
            external: Table::default(),
            affinity: service.affinity,
            source_ranges: ranges,
        };
        if !guard {
            let place = Place { options: &self.options, near: &self.around.near };
            let balance = self.demands.get_mut(&claim.owner)?.tables.balance(&service, claim.frontend, &place)?;
            (balancer.backends, balancer.internal) = (balance.backends, balance.internal);
            // Nobody comes from elsewhere for a loopback address.
            balancer.external = if address.ip.is_loopback() { Table::default() } else { balance.external };
        }
        Some(balancer)
    }

    fn show(&mut self, id: ServiceId) {
        let view = self.ids.get(&id).and_then(|owners| owners.first()).and_then(|(owner, n)| {
            let service = self.service(owner)?.clone();
            let address = service.frontends.get(*n)?.address;
            let refused = self.refusals.get(owner).and_then(|refusals| refusals.get(&(address, *n))).cloned();
            Some(ServiceView { service, frontend: *n, refused })
        });
        match view {
            Some(view) if self.views.get(&id).is_some_and(|held| **held == view) => {}
            Some(view) => drop(self.views.insert(id, Arc::new(view))),
            None => drop(self.views.remove(&id)),
        }
    }

    /// Holds everything against what follows from all definitions together.
    #[cfg(debug_assertions)]
    fn compare(&self) {
        let mut anew = Services::new(self.options.clone());
        anew.around = self.around.clone();
        anew.records = self.records.clone();
        anew.published = self.published.clone();
        let owners = anew.records.keys().cloned().map(Owner::Record);
        let owners: Vec<Owner> = owners.chain(anew.published.keys().copied().map(Owner::Endpoint)).collect();
        let (mut touched, mut shown) = (BTreeSet::new(), BTreeSet::new());
        owners.iter().for_each(|owner| anew.demand(owner, &mut touched, &mut shown));
        touched.into_iter().for_each(|address| anew.settle(address, &mut shown));
        shown.into_iter().for_each(|id| anew.show(id));
        debug_assert!(anew.frontends == self.frontends, "a frontend was not brought up to date");
        debug_assert!(anew.views == self.views, "a service was not brought up to date for readers");
        debug_assert!(anew.refusals == self.refusals, "a refusal was not brought up to date");
    }
}

/// Adds to a list in order.
fn add<T: Ord>(list: &mut Vec<T>, item: T) {
    if let Err(at) = list.binary_search(&item) {
        list.insert(at, item);
    }
}

/// Whether it matters which backends are on this node.
fn depends_on_places(service: &Service) -> bool {
    use super::definition::TrafficPolicy::Local;
    service.prefer_local || service.external == Local || service.internal == Local
}

//! Address management: pools, and who holds which address of them. An address belongs to at most one pool, and to at
//! most one holder.
//!
//! It does not decide which addresses endpoints may use beyond that (`endpoints.rs`), nor what the kernel makes of a
//! gateway. What endpoints and the host hold is passed in (`Holders`), since both may hold addresses without having asked
//! here.

mod pool;
#[cfg(test)]
mod tests;

pub(crate) use pool::{Pool, masked, only_address, overlap, single};

use crate::Rejected;
use crate::input::{AddressRequest, Family, PoolRequest, Purpose};
use crate::outputs::Timestamp;
use ipnetwork::IpNetwork;
use model::EndpointId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Who else holds addresses.
#[derive(Clone, Copy)]
pub(crate) struct Holders<'a> {
    pub(crate) endpoints: &'a BTreeMap<IpAddr, EndpointId>,
    pub(crate) host: &'a BTreeSet<IpAddr>,
}

/// An address that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Allocation {
    pub(crate) owner: String,
    pub(crate) purpose: Purpose,
    pub(crate) since: Timestamp,
    /// Released while its endpoint lived: goes with the endpoint.
    pub(crate) released: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Ipam {
    pools: BTreeMap<String, Pool>,
    addresses: BTreeMap<IpAddr, Allocation>,
    /// Released addresses and when.
    resting: BTreeMap<IpAddr, Timestamp>,
    /// Milliseconds that an address rests for.
    quarantine: u64,
    /// Whether pools other than the node's own are shared with other nodes.
    shares: bool,
    changed_pools: BTreeSet<String>,
    changed_addresses: BTreeSet<IpAddr>,
}

/// The id of the node's own pool of a family.
pub(crate) fn node_pool_id(family: Family) -> &'static str {
    match family {
        Family::V4 => "node-ipv4",
        Family::V6 => "node-ipv6",
    }
}

impl Ipam {
    pub(crate) fn new(quarantine: u64, node_ranges: &[IpNetwork], shares: bool) -> Result<Ipam, Rejected> {
        let mut ipam = Ipam { quarantine, shares, ..Ipam::default() };
        for range in node_ranges {
            let id = node_pool_id(Family::of_network(range));
            let pool = Pool { node_pool: true, ..Pool::new(id.to_owned(), *range, None)? };
            ipam.pools.insert(id.to_owned(), pool);
        }
        Ok(ipam)
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.values()
    }

    pub(crate) fn addresses(&self) -> &BTreeMap<IpAddr, Allocation> {
        &self.addresses
    }

    /// The pool whose subnet holds the address.
    pub(crate) fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.pools.values().find(|pool| pool.subnet.contains(address))
    }

    /// The pool with just this subnet; one of length 0 stands for the node's own.
    pub(crate) fn pool_of_subnet(&self, subnet: IpNetwork) -> Option<&Pool> {
        if subnet.prefix() == 0 {
            return self.pools.get(node_pool_id(Family::of_network(&subnet)));
        }
        let subnet = masked(subnet);
        self.pools.values().find(|pool| pool.subnet == subnet)
    }

    /// Counts a request of a pool, which is made if it does not exist.
    pub(crate) fn request_pool(
        &mut self,
        request: &PoolRequest,
        holders: Holders<'_>,
        now: Timestamp,
    ) -> Result<&Pool, Rejected> {
        let family = request.family;
        for (what, network) in [("subnet", request.subnet), ("range", request.range)] {
            if let Some(network) = network.filter(|network| Family::of_network(network) != family) {
                return Err(Rejected::WrongFamily { what, network, family });
            }
        }
        let existing = match request.subnet {
            None => Some(self.node_pool(family)?),
            Some(subnet) => self.pool_of_subnet(subnet),
        };
        if let Some(pool) = existing {
            check_range_is_the_same(pool, request.range)?;
        }
        let id = match (existing.map(|pool| pool.id.clone()), request.subnet) {
            (None, Some(subnet)) => self.make_pool(subnet, request.range, holders, now)?,
            (Some(id), _) => id,
            (None, None) => return Err(Rejected::FamilyOff(family)),
        };
        let Some(pool) = self.pools.get_mut(&id) else { return Err(Rejected::UnknownPool(id)) };
        pool.references = pool.references.saturating_add(1);
        pool.since = now;
        self.changed_pools.insert(pool.id.clone());
        Ok(pool)
    }

    /// Takes a request of a pool back. The pool goes with the last one, or with its last endpoint if that is later.
    pub(crate) fn release_pool(&mut self, id: &str, holders: Holders<'_>, now: Timestamp) {
        if let Some(pool) = self.pools.get_mut(id) {
            pool.references = pool.references.saturating_sub(1);
            self.changed_pools.insert(pool.id.clone());
        }
        self.drop_unused_pools(holders, now);
    }

    /// Gives out an address.
    pub(crate) fn request_address(
        &mut self,
        request: &AddressRequest,
        network_known: bool,
        holders: Holders<'_>,
        now: Timestamp,
    ) -> Result<IpAddr, Rejected> {
        let pool = self.pools.get(&request.pool).ok_or_else(|| Rejected::UnknownPool(request.pool.clone()))?;
        let mut purpose = request.purpose;
        let address = match (request.purpose, request.address) {
            (Purpose::Gateway, None) if !pool.node_pool => return Ok(pool.gateway),
            (Purpose::Gateway, Some(wanted)) => {
                self.check_fixed(pool, wanted, holders, Gateway::Wanted)?;
                if wanted == pool.gateway || self.may_choose_gateway(pool, holders) {
                    self.choose_gateway(&request.pool, wanted);
                    return Ok(wanted);
                }
                wanted
            }
            (_, Some(wanted)) => {
                self.check_fixed(pool, wanted, holders, Gateway::NotWanted)?;
                if purpose == Purpose::Endpoint && !network_known {
                    purpose = Purpose::Reserved;
                }
                if !pool.owns(wanted) && request.may_claim {
                    let reserved = purpose != Purpose::Endpoint;
                    return Err(Rejected::ClaimNeeded { subnet: pool.subnet, address: wanted, reserved });
                }
                wanted
            }
            (_, None) => {
                let span = pool.span_within(request.part)?;
                let full = match request.may_claim && pool.blocks.is_some() {
                    true => Rejected::BlockNeeded { subnet: pool.subnet, range: pool.range },
                    false => Rejected::PoolFull(request.part.map_or(pool.subnet, masked)),
                };
                let may_rest = !request.may_claim || pool.blocks.is_none();
                self.next_free(pool, span, holders, now, may_rest).ok_or(full)?
            }
        };
        if let Some(pool) = self.pools.get_mut(&request.pool).filter(|_| request.address.is_none()) {
            pool.cursor = Some(pool::number(address));
        }
        let allocation = Allocation { owner: request.owner.clone(), purpose, since: now, released: false };
        self.put(address, allocation);
        Ok(address)
    }

    /// Takes an address back; the address of a living endpoint goes with it.
    pub(crate) fn release_address(&mut self, pool: &str, address: IpAddr, holders: Holders<'_>, now: Timestamp) {
        if self.pool_of(address).is_none_or(|found| found.id != pool) {
            return;
        }
        if holders.endpoints.contains_key(&address) {
            if let Some(allocation) = self.addresses.get_mut(&address) {
                allocation.released = true;
                self.changed_addresses.insert(address);
            }
        } else {
            self.free(address, now);
        }
    }

    /// An endpoint now has the address: from here on the allocation is its.
    pub(crate) fn endpoint_took(&mut self, address: IpAddr, now: Timestamp) {
        if self.pool_of(address).is_none() {
            return;
        }
        let fresh =
            || Allocation { owner: "docker".to_owned(), purpose: Purpose::Endpoint, since: now, released: false };
        let mut allocation = self.addresses.get(&address).cloned().unwrap_or_else(fresh);
        allocation.purpose = Purpose::Endpoint;
        allocation.released = false;
        self.put(address, allocation);
    }

    /// The endpoint that had the address is gone (and no longer in `holders`).
    pub(crate) fn endpoint_left(&mut self, address: IpAddr, release: Release, holders: Holders<'_>, now: Timestamp) {
        let released = self.addresses.get(&address).is_some_and(|allocation| allocation.released);
        if released || release == Release::Now {
            self.free(address, now);
        }
        self.drop_unused_pools(holders, now);
    }

    /// Frees what was asked for an endpoint before `deadline` and no endpoint took.
    pub(crate) fn free_untaken(&mut self, deadline: Timestamp, holders: Holders<'_>, now: Timestamp) -> Vec<IpAddr> {
        let untaken = |(address, allocation): &(&IpAddr, &Allocation)| {
            allocation.purpose == Purpose::Endpoint
                && allocation.since < deadline
                && !holders.endpoints.contains_key(address)
        };
        self.free_all(untaken, now)
    }

    /// Makes the references of networks' pools what Docker's networks say, and drops the pools, gateways and reserved
    /// addresses that no network uses. What was asked for after `deadline` is left alone. `uses` counts the networks
    /// on a pool, `gateways` are those of all networks.
    pub(crate) fn keep_only_used(
        &mut self,
        uses: impl Fn(&Pool) -> u32,
        gateways: &BTreeSet<IpAddr>,
        deadline: Timestamp,
        holders: Holders<'_>,
        now: Timestamp,
    ) {
        for pool in self.pools.values_mut().filter(|pool| pool.since < deadline) {
            let references = uses(pool);
            if pool.references != references {
                pool.references = references;
                self.changed_pools.insert(pool.id.clone());
            }
        }
        let on_unused_pool: BTreeSet<IpAddr> = self
            .addresses
            .keys()
            .filter(|address| self.pool_of(**address).is_some_and(|pool| uses(pool) == 0))
            .copied()
            .collect();
        let unused = |(address, allocation): &(&IpAddr, &Allocation)| {
            allocation.since < deadline
                && match allocation.purpose {
                    Purpose::Endpoint => false,
                    Purpose::Gateway => !gateways.contains(address),
                    Purpose::Reserved => on_unused_pool.contains(address) && !holders.endpoints.contains_key(address),
                }
        };
        self.free_all(unused, now);
        self.drop_unused_pools(holders, now);
    }

    /// Puts a pool back as a record has it. Fails when it overlaps one that is there.
    pub(crate) fn restore_pool(&mut self, mut pool: Pool) -> Result<(), Rejected> {
        self.check_overlap(&pool)?;
        pool.blocks = self.shares.then(|| pool.blocks.unwrap_or_default());
        self.pools.insert(pool.id.clone(), pool);
        Ok(())
    }

    /// Puts back what a record tells of the node's own pool.
    pub(crate) fn restore_references(&mut self, id: &str, references: u32, since: Timestamp) {
        if let Some(pool) = self.pools.get_mut(id) {
            (pool.references, pool.since) = (references, since);
        }
    }

    /// Puts addresses back as the records have them, those that a pool holds; the search for free ones goes on after
    /// the newest.
    pub(crate) fn restore_addresses(&mut self, addresses: BTreeMap<IpAddr, Allocation>) {
        let mut newest: BTreeMap<String, (Timestamp, IpAddr)> = BTreeMap::new();
        for (address, allocation) in addresses {
            let Some(pool) = self.pool_of(address) else { continue };
            let latest = newest.entry(pool.id.clone()).or_insert((allocation.since, address));
            *latest = (*latest).max((allocation.since, address));
            // Given out before the subnet was shared: what is in use is claimed address by address.
            let id = pool.id.clone();
            if !pool.owns(address) && allocation.purpose == Purpose::Endpoint {
                self.pools
                    .get_mut(&id)
                    .and_then(|pool| pool.blocks.as_mut())
                    .map(|blocks| blocks.insert(single(address)));
            }
            self.put(address, allocation);
        }
        for (id, (_, address)) in newest {
            if let Some(pool) = self.pools.get_mut(&id) {
                pool.cursor = Some(pool::number(address));
            }
        }
    }

    /// Ids of the pools and addresses that changed since the last call.
    pub(crate) fn take_changes(&mut self) -> (BTreeSet<String>, BTreeSet<IpAddr>) {
        (std::mem::take(&mut self.changed_pools), std::mem::take(&mut self.changed_addresses))
    }

    pub(crate) fn pool(&self, id: &str) -> Option<&Pool> {
        self.pools.get(id)
    }

    fn node_pool(&self, family: Family) -> Result<&Pool, Rejected> {
        self.pools.get(node_pool_id(family)).ok_or(Rejected::FamilyOff(family))
    }

    /// Adds a block to those of a pool.
    pub(crate) fn take_block(&mut self, id: &str, block: IpNetwork) -> Result<(), Rejected> {
        let Some(pool) = self.pools.get_mut(id) else { return Ok(()) };
        let block = masked(block);
        if !pool.subnet.contains(block.ip()) || block.prefix() < pool.subnet.prefix() {
            return Err(Rejected::BadBlock { block, subnet: pool.subnet });
        }
        if let Some(blocks) = &mut pool.blocks
            && blocks.insert(block)
        {
            self.changed_pools.insert(id.to_owned());
        }
        Ok(())
    }

    pub(crate) fn lose_block(&mut self, id: &str, block: IpNetwork) {
        let blocks = self.pools.get_mut(id).and_then(|pool| pool.blocks.as_mut());
        if blocks.is_some_and(|blocks| blocks.remove(&masked(block))) {
            self.changed_pools.insert(id.to_owned());
        }
    }

    /// The blocks of shared subnets that are this node's.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = IpNetwork> {
        self.pools.values().filter_map(|pool| pool.blocks.as_ref()).flatten().copied()
    }

    /// Endpoints that have addresses of the new pool already (their network was learnt late) keep them.
    fn make_pool(
        &mut self,
        subnet: IpNetwork,
        range: Option<IpNetwork>,
        holders: Holders<'_>,
        now: Timestamp,
    ) -> Result<String, Rejected> {
        let id = masked(subnet).to_string();
        let mut pool = Pool::new(id.clone(), subnet, range)?;
        pool.blocks = self.shares.then(BTreeSet::new);
        self.check_overlap(&pool)?;
        while holders.endpoints.contains_key(&pool.gateway) {
            let next = pool::number(pool.gateway) + 1;
            let address = pool::address(pool.family(), next);
            if !pool.subnet.contains(address) || pool.not_a_host(next).is_some() {
                return Err(Rejected::PoolFull(pool.subnet));
            }
            pool.gateway = address;
        }
        let present: Vec<IpAddr> = holders.endpoints.keys().filter(|a| pool.subnet.contains(**a)).copied().collect();
        self.pools.insert(id.clone(), pool);
        present.into_iter().for_each(|address| self.endpoint_took(address, now));
        Ok(id)
    }

    fn check_overlap(&self, pool: &Pool) -> Result<(), Rejected> {
        match self.pools.values().find(|other| other.overlaps(&pool.subnet)) {
            None => Ok(()),
            Some(other) => Err(Rejected::Overlap {
                subnet: pool.subnet,
                other: other.subnet,
                by: if other.node_pool { "the node's own pool" } else { "another network" },
            }),
        }
    }

    fn check_fixed(
        &self,
        pool: &Pool,
        address: IpAddr,
        holders: Holders<'_>,
        gateway: Gateway,
    ) -> Result<(), Rejected> {
        if !pool.subnet.contains(address) {
            return Err(Rejected::OutsideSubnet { address, subnet: pool.subnet });
        }
        let aside = match gateway {
            Gateway::Wanted => pool.not_a_host(pool::number(address)),
            Gateway::NotWanted => pool.set_aside(address),
        };
        if let Some(what) = aside {
            return Err(Rejected::SetAside { address, what });
        }
        if let Some(id) = holders.endpoints.get(&address) {
            return Err(Rejected::Taken { address, owner: format!("endpoint {id}") });
        }
        if let Some(allocation) = self.addresses.get(&address) {
            return Err(Rejected::Taken { address, owner: allocation.describe() });
        }
        // A gateway sits on a device of the host, and may still do so from an earlier network.
        if gateway == Gateway::NotWanted && holders.host.contains(&address) {
            return Err(Rejected::SetAside { address, what: "an address of the host itself" });
        }
        Ok(())
    }

    /// Only the first network on a pool chooses its gateway, and before there are endpoints that use it.
    fn may_choose_gateway(&self, pool: &Pool, holders: Holders<'_>) -> bool {
        !pool.node_pool
            && !pool.gateway_chosen
            && pool.references <= 1
            && !holders.endpoints.keys().any(|address| pool.subnet.contains(*address))
    }

    fn choose_gateway(&mut self, id: &str, gateway: IpAddr) {
        if let Some(pool) = self.pools.get_mut(id) {
            pool.gateway = gateway;
            // That of the node is what the configuration makes it.
            pool.gateway_chosen = !pool.node_pool;
            self.changed_pools.insert(pool.id.clone());
        }
    }

    /// The next address in the span that is ours to give, that nobody has and that does not rest; if there is none, the
    /// one that rests longest.
    fn next_free(
        &self,
        pool: &Pool,
        span: (u128, u128),
        holders: Holders<'_>,
        now: Timestamp,
        may_rest: bool,
    ) -> Option<IpAddr> {
        let family = pool.family();
        let held = |address: IpAddr| {
            pool.set_aside(address).is_some()
                || self.addresses.contains_key(&address)
                || holders.endpoints.contains_key(&address)
                || holders.host.contains(&address)
        };
        let resting =
            |address: IpAddr| self.resting.get(&address).is_some_and(|since| now.since(*since) < self.quarantine);
        let spans = pool.own_spans(span);
        let fresh = spans.iter().find_map(|(low, high)| {
            let start = pool.start_within((*low, *high));
            (start..=*high)
                .chain(*low..start)
                .map(|number| pool::address(family, number))
                .find(|address| !held(*address) && !resting(*address))
        });
        fresh.or_else(|| {
            let inside = |number: u128| spans.iter().any(|(low, high)| (*low..=*high).contains(&number));
            let spare = self.resting.iter().filter(|(address, _)| {
                may_rest
                    && address.is_ipv4() == (family == Family::V4)
                    && inside(pool::number(**address))
                    && !held(**address)
            });
            spare.min_by_key(|(address, since)| (**since, **address)).map(|(address, _)| *address)
        })
    }

    fn put(&mut self, address: IpAddr, allocation: Allocation) {
        self.resting.remove(&address);
        self.addresses.insert(address, allocation);
        self.changed_addresses.insert(address);
    }

    fn free(&mut self, address: IpAddr, now: Timestamp) {
        if self.addresses.remove(&address).is_some() {
            self.changed_addresses.insert(address);
            let quarantine = self.quarantine;
            self.resting.retain(|_, since| now.since(*since) < quarantine);
            self.resting.insert(address, now);
        }
    }

    fn free_all(&mut self, which: impl Fn(&(&IpAddr, &Allocation)) -> bool, now: Timestamp) -> Vec<IpAddr> {
        let addresses: Vec<IpAddr> = self.addresses.iter().filter(which).map(|(address, _)| *address).collect();
        addresses.iter().for_each(|address| self.free(*address, now));
        addresses
    }

    fn drop_unused_pools(&mut self, holders: Holders<'_>, now: Timestamp) {
        let unused = |pool: &&Pool| {
            !pool.node_pool
                && pool.references == 0
                && !holders.endpoints.keys().any(|address| pool.subnet.contains(*address))
        };
        let pools: Vec<Pool> = self.pools.values().filter(unused).cloned().collect();
        for pool in pools {
            self.free_all(|(address, _)| pool.subnet.contains(**address), now);
            self.pools.remove(&pool.id);
            self.changed_pools.insert(pool.id);
        }
    }
}

fn check_range_is_the_same(pool: &Pool, range: Option<IpNetwork>) -> Result<(), Rejected> {
    if pool.range == range.map(masked).filter(|range| *range != pool.subnet) {
        return Ok(());
    }
    let used = match pool.range {
        Some(range) => format!("the range {range}"),
        None => "all of it as the range".to_owned(),
    };
    Err(Rejected::OtherRange { subnet: pool.subnet, used })
}

impl Allocation {
    fn describe(&self) -> String {
        match self.purpose {
            Purpose::Endpoint => self.owner.clone(),
            Purpose::Gateway => format!("{} as a gateway", self.owner),
            Purpose::Reserved => format!("{} as a reserved address", self.owner),
        }
    }
}

/// Whether an address is checked for a gateway.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gateway {
    Wanted,
    NotWanted,
}

/// When the address of a deleted endpoint is released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Release {
    Now,
    /// Docker releases it by a request of its own.
    WhenAsked,
}

//! The node's own endpoint, `reserved:health`: other nodes see by it whether containers of this one can be reached. It
//! lives as others do, but no container is behind it: the datapath holds its end of the link, and Docker knows nothing of
//! it.

use crate::endpoints::Endpoint;
use crate::input::{AddressRequest, EndpointCreate, Family, Purpose};
use crate::ipam::{Holders, Release, node_pool_id};
use crate::ledger::Object;
use crate::outputs::Timestamp;
use crate::{Rejected, State};
use model::{EndpointId, Identity, Labels};
use std::net::IpAddr;
use std::sync::Arc;

/// Stands where others have Docker's endpoint id, which is never as short.
pub(crate) const HEALTH: &str = "health";

impl Endpoint {
    /// Whether it is the node's own one.
    pub(crate) fn is_health(&self) -> bool {
        self.docker_endpoint_id == HEALTH
    }
}

impl State {
    /// Makes the node's own endpoint with an address out of each of the node's pools, or takes it down. One whose addresses
    /// are of former pools is made anew.
    pub(crate) fn want_health(&mut self, wanted: bool, now: Timestamp) -> Result<(), Rejected> {
        self.check_restored()?;
        if let Some(endpoint) = self.endpoints.by_docker_id(HEALTH) {
            if wanted && self.is_of_all_pools(endpoint) {
                return Ok(());
            }
            let id = endpoint.id;
            self.delete_endpoint(id, Release::Now, now);
            self.announce_node = true;
        }
        if wanted {
            self.make_health(now)?;
            self.announce_node = true;
        }
        Ok(())
    }

    /// Its addresses, for other nodes to find it.
    pub(crate) fn health_addresses(&self) -> Vec<IpAddr> {
        self.endpoints.by_docker_id(HEALTH).map(|endpoint| endpoint.addresses().collect()).unwrap_or_default()
    }

    /// Takes note of what follows for the node's record.
    pub(crate) fn take_announcement(&mut self) -> Option<Object> {
        std::mem::take(&mut self.announce_node).then_some(Object::Node)
    }

    fn families(&self) -> impl Iterator<Item = Family> {
        let v4 = self.config.ipv4_range.map(|_| Family::V4);
        v4.into_iter().chain(self.config.ipv6_range.map(|_| Family::V6))
    }

    fn is_of_all_pools(&self, endpoint: &Endpoint) -> bool {
        let inside = |family: Family| {
            let mut addresses = endpoint.addresses().filter(|address| Family::of(address) == family);
            addresses.any(|address| self.ipam.pool_of(address).is_some_and(|pool| pool.node_pool))
        };
        endpoint.addresses().count() == self.families().count() && self.families().all(inside)
    }

    fn make_health(&mut self, now: Timestamp) -> Result<EndpointId, Rejected> {
        let mut addresses = Vec::new();
        let made = self.take_addresses(&mut addresses, now).and_then(|()| self.link_health(&addresses, now));
        if made.is_err() {
            for address in addresses {
                let holders = Holders { endpoints: self.endpoints.by_address(), host: &self.host };
                let pool = node_pool_id(Family::of(&address));
                self.ipam.release_address(pool, address, holders, now);
            }
        }
        made
    }

    fn take_addresses(&mut self, taken: &mut Vec<IpAddr>, now: Timestamp) -> Result<(), Rejected> {
        let families: Vec<Family> = self.families().collect();
        for family in families {
            let request = AddressRequest {
                may_claim: false,
                pool: node_pool_id(family).to_owned(),
                address: None,
                part: None,
                owner: HEALTH.to_owned(),
                purpose: Purpose::Endpoint,
            };
            let holders = Holders { endpoints: self.endpoints.by_address(), host: &self.host };
            taken.push(self.ipam.request_address(&request, true, holders, now)?);
        }
        Ok(())
    }

    fn link_health(&mut self, addresses: &[IpAddr], now: Timestamp) -> Result<EndpointId, Rejected> {
        let ipv4 = addresses.iter().find_map(|address| if let IpAddr::V4(ip) = address { Some(*ip) } else { None });
        let ipv6 = addresses.iter().find_map(|address| if let IpAddr::V6(ip) = address { Some(*ip) } else { None });
        let id = self.insert_endpoint(
            EndpointCreate {
                docker_endpoint_id: HEALTH.to_owned(),
                // None: it is on no network of Docker's, and so has no way to the world.
                docker_network_id: String::new(),
                ipv4,
                ipv6,
                mac: None,
            },
            now,
        )?;
        if let Some(endpoint) = self.endpoints.change(id) {
            endpoint.identify(Identity::HEALTH, Arc::new(Labels::reserved("health")), now);
        }
        Ok(id)
    }
}

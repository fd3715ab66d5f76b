//! The endpoints of this node, by number, address and Docker's id. How one lives is `life.rs`, what its network and its
//! identity mean for it is decided where those are known (`desired.rs`).

mod life;
mod link;

pub(crate) use life::{Awaited, Realised};
pub(crate) use link::{Link, is_unicast};

use crate::input::EndpointCreate;
use crate::outputs::{EndpointRef, LogEntry, Timestamp, names_endpoint};
use crate::services::Published;
use crate::{Rejected, ipam};
use ipnetwork::IpNetwork;
use model::desired::LinkIntent;
use model::{EndpointId, EndpointState, Identity, Labels, Mac};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: EndpointId,
    pub(crate) docker_endpoint_id: String,
    pub(crate) docker_network_id: String,
    pub(crate) container_id: Option<String>,
    pub(crate) container_name: Option<String>,
    pub(crate) container_labels: Option<BTreeMap<String, String>>,
    pub(crate) sandbox: Option<String>,
    /// Those of the container's labels that make the identity.
    pub(crate) labels: Option<Arc<Labels>>,
    /// What it has now, and what that stands for: `reserved:init`, or a number for `labels`, or for earlier labels.
    pub(crate) identity: Identity,
    pub(crate) identity_labels: Arc<Labels>,
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) ipv6: Option<Ipv6Addr>,
    pub(crate) link: Link,
    pub(crate) mtu: u32,
    pub(crate) created: Timestamp,
    pub(crate) state: EndpointState,
    pub(crate) failure: Option<String>,
    pub(crate) awaited: Option<Awaited>,
    pub(crate) policy_revision: u64,
    /// Ports of the host that are its.
    pub(crate) published: Vec<Published>,
    pub(crate) log: Arc<Vec<LogEntry>>,
}

impl Endpoint {
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNetwork> {
        self.addresses().map(ipam::single)
    }

    pub(crate) fn link_intent(&self) -> LinkIntent {
        match (self.is_health(), &self.sandbox) {
            (true, _) => LinkIntent::Own,
            (false, Some(_)) => LinkIntent::Keep,
            (false, None) => LinkIntent::Create,
        }
    }

    /// What people call it: its container's name, or the head of Docker's id.
    pub(crate) fn title(&self) -> String {
        self.container_name.clone().unwrap_or_else(|| self.docker_endpoint_id.chars().take(12).collect())
    }

    fn is_named_by(&self, wanted: &EndpointRef) -> bool {
        let container_id = self.container_id.as_deref();
        let container_name = self.container_name.as_deref();
        names_endpoint(wanted, self.id, &self.docker_endpoint_id, container_id, container_name, self.addresses())
    }
}

#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    by_id: BTreeMap<EndpointId, Endpoint>,
    by_address: BTreeMap<IpAddr, EndpointId>,
    by_docker: BTreeMap<String, EndpointId>,
    /// Numbers of deleted endpoints and when: not given out again at once, since the kernel may still know them.
    resting: BTreeMap<EndpointId, Timestamp>,
    quarantine: u64,
    changed: BTreeSet<EndpointId>,
}

impl Endpoints {
    pub(crate) fn new(quarantine: u64) -> Endpoints {
        Endpoints { quarantine, ..Endpoints::default() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.by_id.values()
    }

    /// For what no record holds; what a record holds is changed through `change`.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Endpoint> {
        self.by_id.values_mut()
    }

    pub(crate) fn get(&self, id: EndpointId) -> Option<&Endpoint> {
        self.by_id.get(&id)
    }

    pub(crate) fn by_address(&self) -> &BTreeMap<IpAddr, EndpointId> {
        &self.by_address
    }

    pub(crate) fn by_docker_id(&self, id: &str) -> Option<&Endpoint> {
        self.by_docker.get(id).and_then(|id| self.by_id.get(id))
    }

    /// The one endpoint that is named.
    pub(crate) fn find(&self, wanted: &EndpointRef) -> Result<EndpointId, Rejected> {
        let quick = match wanted {
            EndpointRef::Id(id) => Some(id).filter(|id| self.by_id.contains_key(id)),
            EndpointRef::Docker(docker) => self.by_docker.get(docker),
            EndpointRef::Address(address) => self.by_address.get(address),
            EndpointRef::ContainerId(_) | EndpointRef::ContainerName(_) => None,
        };
        if let Some(id) = quick {
            return Ok(*id);
        }
        let mut named = self.by_id.values().filter(|endpoint| endpoint.is_named_by(wanted));
        match (named.next(), named.next()) {
            (Some(endpoint), None) => Ok(endpoint.id),
            (None, _) => Err(Rejected::UnknownEndpoint(wanted.clone())),
            (Some(_), Some(_)) => Err(Rejected::AmbiguousEndpoint(wanted.clone())),
        }
    }

    /// Makes an endpoint of a request that was checked. Fails when there is no number left; `is_reserved` numbers are
    /// not given out.
    pub(crate) fn create(
        &mut self,
        request: EndpointCreate,
        mtu: u32,
        is_reserved: impl Fn(EndpointId) -> bool,
        now: Timestamp,
    ) -> Result<EndpointId, Rejected> {
        let id = self.free_id(is_reserved, now).ok_or(Rejected::EndpointsFull)?;
        let mut link = self.free_link(&request.docker_endpoint_id, id, now);
        link.mac = request.mac.unwrap_or(link.mac);
        let mut endpoint = Endpoint {
            id,
            docker_endpoint_id: request.docker_endpoint_id,
            docker_network_id: request.docker_network_id,
            container_id: None,
            container_name: None,
            container_labels: None,
            sandbox: None,
            labels: None,
            identity: Identity::INIT,
            identity_labels: Arc::new(Labels::reserved("init")),
            ipv4: request.ipv4,
            ipv6: request.ipv6,
            link,
            mtu,
            created: now,
            state: EndpointState::Creating,
            failure: None,
            awaited: None,
            policy_revision: 0,
            published: Vec::new(),
            log: Arc::default(),
        };
        let addresses: Vec<String> = endpoint.addresses().map(|address| address.to_string()).collect();
        endpoint.note(now, format!("created with {}", addresses.join(" and ")));
        self.resting.remove(&id);
        self.insert(endpoint);
        Ok(id)
    }

    /// Changes what a record holds of an endpoint.
    pub(crate) fn change(&mut self, id: EndpointId) -> Option<&mut Endpoint> {
        self.changed.insert(id);
        self.by_id.get_mut(&id)
    }

    pub(crate) fn delete(&mut self, id: EndpointId, now: Timestamp) -> Option<Endpoint> {
        let endpoint = self.by_id.remove(&id)?;
        tracing::info!(endpoint = %id, "deleted");
        for address in endpoint.addresses() {
            self.by_address.remove(&address);
        }
        self.by_docker.remove(&endpoint.docker_endpoint_id);
        self.changed.insert(id);
        let quarantine = self.quarantine;
        self.resting.retain(|_, since| now.since(*since) < quarantine);
        self.resting.insert(id, now);
        Some(endpoint)
    }

    /// Puts an endpoint back as a record has it. Fails when it shares with another what only one can have.
    pub(crate) fn restore(&mut self, endpoint: Endpoint) -> Result<(), String> {
        if let Some(other) = self.by_docker.get(&endpoint.docker_endpoint_id) {
            return Err(format!("endpoint {other} has the same docker-endpoint-id"));
        }
        for address in endpoint.addresses() {
            if let Some(other) = self.by_address.get(&address) {
                return Err(format!("endpoint {other} has the same address {address}"));
            }
        }
        if let Some(other) = self.by_id.values().find(|other| other.link.ifname == endpoint.link.ifname) {
            return Err(format!("endpoint {} has the same ifname", other.id));
        }
        self.insert(endpoint);
        Ok(())
    }

    /// Numbers of the endpoints whose record changed since the last call.
    pub(crate) fn take_changes(&mut self) -> BTreeSet<EndpointId> {
        std::mem::take(&mut self.changed)
    }

    fn insert(&mut self, endpoint: Endpoint) {
        self.changed.insert(endpoint.id);
        for address in endpoint.addresses() {
            self.by_address.insert(address, endpoint.id);
        }
        self.by_docker.insert(endpoint.docker_endpoint_id.clone(), endpoint.id);
        self.by_id.insert(endpoint.id, endpoint);
    }

    /// The lowest number that nobody has and that does not rest; if there is none, the one that rests longest.
    fn free_id(&self, is_reserved: impl Fn(EndpointId) -> bool, now: Timestamp) -> Option<EndpointId> {
        let free = |id: &EndpointId| !self.by_id.contains_key(id) && !is_reserved(*id);
        let rested = |id: &EndpointId| self.resting.get(id).is_none_or(|since| now.since(*since) >= self.quarantine);
        let lowest = (1..=u16::MAX).map(EndpointId).find(|id| free(id) && rested(id));
        lowest.or_else(|| {
            let spare = self.resting.iter().filter(|(id, _)| free(id));
            spare.min_by_key(|(id, since)| (**since, **id)).map(|(id, _)| *id)
        })
    }

    fn free_link(&self, docker_endpoint_id: &str, id: EndpointId, now: Timestamp) -> Link {
        let taken = |link: &Link| self.by_id.values().any(|other| other.link.ifname == link.ifname);
        let mut attempt = 0;
        loop {
            let link = Link::new(docker_endpoint_id, id, now, attempt);
            // 48 bits of digest against at most 65535 names: the second attempt is all but never needed.
            if !taken(&link) {
                return link;
            }
            attempt += 1;
        }
    }
}

/// The MAC address of an endpoint that Docker or the user named.
pub(crate) fn check_mac(docker_endpoint_id: &str, mac: Option<Mac>) -> Result<(), Rejected> {
    match mac {
        Some(mac) if !is_unicast(mac) => Err(Rejected::BadMac { id: docker_endpoint_id.to_owned(), mac }),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn request(docker: &str, last: u8) -> EndpointCreate {
        EndpointCreate {
            docker_endpoint_id: docker.to_owned(),
            docker_network_id: "n1".to_owned(),
            ipv4: Some(Ipv4Addr::new(10, 15, 0, last)),
            ipv6: None,
            mac: None,
        }
    }

    pub(crate) fn endpoint(last: u8) -> Endpoint {
        let mut endpoints = Endpoints::new(0);
        let id = endpoints.create(request("e", last), 1500, |_| false, Timestamp(0)).unwrap();
        endpoints.get(id).unwrap().clone()
    }

    fn create(endpoints: &mut Endpoints, docker: &str, last: u8, now: u64) -> u16 {
        endpoints.create(request(docker, last), 1500, |id| id == EndpointId(2), Timestamp(now)).unwrap().0
    }

    #[test]
    fn numbers_are_the_lowest_free_and_rest_after_use() {
        let mut endpoints = Endpoints::new(30);
        assert_eq!([create(&mut endpoints, "a", 1, 0), create(&mut endpoints, "b", 2, 0)], [1, 3]);
        endpoints.delete(EndpointId(1), Timestamp(10)).unwrap();
        assert_eq!(create(&mut endpoints, "c", 3, 39), 4);
        assert_eq!(create(&mut endpoints, "d", 4, 40), 1);
    }

    #[test]
    fn every_way_to_name_an_endpoint_finds_it() {
        let mut endpoints = Endpoints::new(30);
        let id = EndpointId(create(&mut endpoints, "a", 7, 0));
        let full = "0123456789abcdef";
        endpoints.change(id).unwrap().name(Some(full.to_owned()), Some("app1".to_owned()));
        for wanted in [
            EndpointRef::Id(id),
            EndpointRef::Docker("a".to_owned()),
            EndpointRef::Address("10.15.0.7".parse().unwrap()),
            EndpointRef::ContainerId(full.to_owned()),
            EndpointRef::ContainerId("0123456789ab".to_owned()),
            EndpointRef::ContainerName("app1".to_owned()),
        ] {
            assert_eq!(endpoints.find(&wanted), Ok(id), "{wanted}");
        }
        for unknown in [EndpointRef::ContainerId("0123".to_owned()), EndpointRef::Docker(String::new())] {
            assert!(matches!(endpoints.find(&unknown), Err(Rejected::UnknownEndpoint(_))), "{unknown}");
        }
    }

    #[test]
    fn a_container_on_two_networks_is_ambiguous() {
        let mut endpoints = Endpoints::new(30);
        for (docker, last) in [("a", 7), ("b", 8)] {
            let id = EndpointId(create(&mut endpoints, docker, last, 0));
            endpoints.change(id).unwrap().name(None, Some("app1".to_owned()));
        }
        let found = endpoints.find(&EndpointRef::ContainerName("app1".to_owned()));
        assert!(matches!(found, Err(Rejected::AmbiguousEndpoint(_))));
    }

    #[test]
    fn nothing_of_a_deleted_endpoint_stays() {
        let mut endpoints = Endpoints::new(30);
        let id = EndpointId(create(&mut endpoints, "a", 7, 0));
        endpoints.delete(id, Timestamp(0)).unwrap();
        assert!(endpoints.by_address().is_empty() && endpoints.by_docker_id("a").is_none());
        assert!(endpoints.delete(id, Timestamp(0)).is_none());
    }
}

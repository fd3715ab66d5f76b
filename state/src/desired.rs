//! What the kernel should hold: the tables put together for the datapath. What each entry says follows from the tables;
//! here is decided what an endpoint's network means for it.

use crate::State;
use crate::endpoints::Endpoint;
use crate::input::{Family, Source};
use crate::ipam::{masked, overlap};
use crate::networks::is_definite;
use crate::outputs::SyncState;
use crate::services::Surroundings;
use crate::view::keep;
use ipnetwork::IpNetwork;
use model::desired::{self, Datapath};
use model::{Identity, IdentitySet, PolicyMap};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

impl State {
    /// Whether enough is known that a snapshot does not open what was closed, nor close what was open.
    pub(crate) fn is_publishable(&self) -> bool {
        let known = |source| self.sync_of(source) != SyncState::Waiting;
        known(Source::Records) && known(Source::Identities) && self.policies.is_known()
    }

    /// Whether all sources have told all they know.
    pub(crate) fn is_settled(&self) -> bool {
        Source::ALL.iter().all(|source| self.sync_of(*source) == SyncState::Synced)
    }

    /// The whole desired state, with `revision` 0.
    pub(crate) fn datapath(&self, policies: &BTreeMap<Identity, Arc<PolicyMap>>) -> Datapath {
        let believed = &self.believed;
        let before = self.outputs.datapath.clone().unwrap_or_default();
        let (tunnelled, routed) = (self.config.tunnel_overhead.is_some(), self.routes_directly());
        Datapath {
            revision: 0,
            settled: self.is_settled(),
            endpoints: self.endpoints.iter().map(|endpoint| (endpoint.id, self.desired_endpoint(endpoint))).collect(),
            ipcache: self.ipcache.entries().clone(),
            policies: policies.clone(),
            identities: self.believed_identities(),
            gateways: self.gateways(),
            pools: self.pools(),
            vteps: keep(&before.vteps, if tunnelled { believed.vteps() } else { BTreeMap::new() }),
            tunnel_mtu: self.config.tunnel_overhead.and(self.uplink_mtu).map(|_| self.default_mtu()),
            hops: keep(&before.hops, if routed { believed.hops() } else { BTreeMap::new() }),
            nodes: keep(&before.nodes, believed.nodes()),
            cluster_id: self.config.cluster_id,
            clusters: keep(&before.clusters, believed.other_clusters(self.config.cluster_id)),
            services: self.services.frontends().clone(),
        }
    }

    pub(crate) fn routes_directly(&self) -> bool {
        self.config.direct_routes && self.config.tunnel_overhead.is_none()
    }

    /// Of whom packets through the tunnel may be: everybody whom policies know.
    pub(crate) fn believed_identities(&self) -> IdentitySet {
        if self.config.tunnel_overhead.is_some() { self.identities.shared().clone() } else { IdentitySet::new() }
    }

    /// The gateways of an endpoint, by family.
    pub(crate) fn gateways_of(&self, endpoint: &Endpoint) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let gateways = endpoint.addresses().filter_map(|address| self.gateway_of(endpoint, address));
        gateways.fold((None, None), |(v4, v6), gateway| match gateway {
            IpAddr::V4(ip) => (Some(ip), v6),
            IpAddr::V6(ip) => (v4, Some(ip)),
        })
    }

    /// Nothing to or from the world: as long as the network is not known, it may be an internal one.
    pub(crate) fn is_internal(&self, endpoint: &Endpoint) -> bool {
        self.networks.get(&endpoint.docker_network_id).is_none_or(|network| network.internal)
    }

    /// The gateway of one of an endpoint's addresses: its network's, or that of the pool the address is from.
    fn gateway_of(&self, endpoint: &Endpoint, address: IpAddr) -> Option<IpAddr> {
        let network = self.networks.get(&endpoint.docker_network_id);
        let subnet = network.and_then(|network| match Family::of(&address) {
            Family::V4 => network.ipv4,
            Family::V6 => network.ipv6,
        });
        let named = subnet.and_then(|subnet| subnet.gateway);
        named.or_else(|| self.ipam.pool_of(address).map(|pool| pool.gateway))
    }

    fn desired_endpoint(&self, endpoint: &Endpoint) -> desired::Endpoint {
        let (gateway4, gateway6) = self.gateways_of(endpoint);
        desired::Endpoint {
            id: endpoint.id,
            ifname: endpoint.link.ifname.clone(),
            peer_ifname: endpoint.link.peer_ifname.clone(),
            link: endpoint.link_intent(),
            mac: endpoint.link.mac,
            node_mac: endpoint.link.node_mac,
            mtu: endpoint.mtu,
            ipv4: endpoint.ipv4,
            ipv6: endpoint.ipv6,
            gateway4,
            gateway6,
            identity: endpoint.identity,
            internal: self.is_internal(endpoint),
        }
    }

    /// The gateways of the node's pools, of all networks, and of all endpoints.
    pub(crate) fn gateways(&self) -> BTreeSet<IpAddr> {
        let routers = self.ipam.pools().filter(|pool| pool.node_pool).map(|pool| pool.gateway);
        let of_pools = self.networks.subnets().filter(|subnet| subnet.gateway.is_none());
        let of_pools = of_pools.filter_map(|subnet| self.ipam.pool_of_subnet(subnet.subnet)).map(|pool| pool.gateway);
        let of_endpoints = self.endpoints.iter().flat_map(|endpoint| {
            endpoint.addresses().filter_map(|address| self.gateway_of(endpoint, address)).collect::<Vec<_>>()
        });
        routers.chain(of_pools).chain(self.networks.gateways()).chain(of_endpoints).collect()
    }

    /// The same, but of subnets that are shared with other nodes only what is this node's.
    pub(crate) fn own_prefixes(&self) -> BTreeSet<IpNetwork> {
        let shared: BTreeSet<IpNetwork> =
            self.ipam.pools().filter(|pool| pool.blocks.is_some()).map(|pool| pool.subnet).collect();
        let held = self.endpoints.iter().flat_map(Endpoint::prefixes);
        self.pools().difference(&shared).copied().chain(self.ipam.blocks()).chain(held).collect()
    }

    /// What of all this matters to services.
    pub(crate) fn surroundings(&self) -> Surroundings {
        Surroundings {
            near: self.endpoints.by_address().keys().chain(&self.host).copied().collect(),
            host: self.host.clone(),
            pools: self.pools(),
            kvstore: self.config.kvstore.clone(),
        }
    }

    /// All prefixes that endpoints' addresses come from; those that another address management chose are among them.
    pub(crate) fn pools(&self) -> BTreeSet<IpNetwork> {
        let mut pools: BTreeSet<IpNetwork> = self.ipam.pools().map(|pool| pool.subnet).collect();
        let inside = |pools: &BTreeSet<IpNetwork>, prefix: &IpNetwork| pools.iter().any(|pool| overlap(pool, prefix));
        let subnets = self.networks.subnets().map(|subnet| subnet.subnet).filter(is_definite).map(masked);
        let addresses = self.endpoints.iter().flat_map(Endpoint::prefixes);
        for prefix in subnets.chain(addresses) {
            if !inside(&pools, &prefix) {
                pools.insert(prefix);
            }
        }
        pools
    }
}

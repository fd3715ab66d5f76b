//! What each input changes: one function for each, which checks all of it before it changes anything. How a table keeps
//! what it is told is the table's business; what the kernel and the readers get of it follows in `State::outputs`.

use crate::endpoints::{Endpoint, check_mac};
use crate::health::HEALTH;
use crate::input::{
    AddressRequest, EndpointChange, EndpointCreate, Input, NodeName, PoolRequest, Purpose, RemoteAddress, RemoteNode,
    Source,
};
use crate::ipam::{Holders, Release};
use crate::ledger::Object;
use crate::networks::is_usable;
use crate::outputs::{EndpointRef, SyncState, Timestamp};
use crate::policies::Freshness;
use crate::{Dirty, Rejected, Reply, State, records};
use model::{EndpointId, Identity, Labels};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// What an endpoint gets when nobody told the uplink's.
const DEFAULT_MTU: u32 = 1500;
/// What a host must be able to take in whole, and what each link must have for IPv6.
const LEAST_MTU: u32 = 576;
const LEAST_MTU_V6: u32 = 1280;

impl State {
    pub(crate) fn take_in(&mut self, input: Input, now: Timestamp) -> Result<Reply, Rejected> {
        match input {
            Input::Restore(records) => self.restore(records, now)?,
            Input::HostAddresses(addresses) => self.host = addresses,
            Input::UplinkMtu(mtu) => self.uplink_mtu = Some(mtu),
            Input::Datapath(status) => self.status = status,
            Input::PolicyDocument { revision, rules } => self.put_policy(revision, rules, Freshness::Event)?,
            Input::PolicyListed { revision, rules } => self.put_policy(revision, rules, Freshness::Listing)?,
            Input::Enforcement(enforcement) => self.policies.enforce(enforcement),
            Input::IdentityKnown { identity, labels } => self.confirm_identity(identity, labels, now)?,
            Input::IdentityRemembered { identity, labels } => self.remember_identity(identity, labels, now)?,
            Input::IdentityGone { identity } => self.unconfirm_identity(identity, now),
            Input::NodeKnown(node) if self.is_of_mesh(&node.name) => {
                tracing::warn!(node = ?node.name, "only its own cluster tells of a node: ignored");
            }
            Input::NodeKnown(node) => self.put_remote_node(node),
            Input::NodeGone(name) if self.is_of_mesh(&name) => {}
            Input::NodeGone(name) => self.remove_remote_node(&name),
            Input::AddressKnown { address, record } => {
                self.put_remote_address(self.config.cluster_id, address, record);
            }
            Input::AddressGone { address } => self.remove_remote_address(self.config.cluster_id, address),
            Input::Mesh { cluster, fact } => self.hear_of_mesh(cluster, fact, now)?,
            Input::ServiceKnown(service) => {
                let news = self.services.put(service);
                self.dirty_if(news, Dirty::Services);
            }
            Input::ServiceRefused { name, reason } => {
                let news = self.services.refuse(name, reason);
                self.dirty_if(news, Dirty::Services);
            }
            Input::ServiceGone(name) => {
                let news = self.services.remove(&name);
                self.dirty_if(news, Dirty::Services);
            }
            Input::Synced(source) => {
                self.set_sync(source, SyncState::Synced);
                self.forget_identities();
            }
            Input::Away(source) => self.set_away(source),
            Input::DockerEndpoints(listed) => self.keep_docker_endpoints(&listed, now)?,
            Input::DockerNetworks(listed) => self.keep_docker_networks(&listed, now)?,
            Input::PoolRequest(request) => return self.request_pool(&request, now),
            Input::PoolRelease { pool } => self.release_pool(&pool, now)?,
            Input::AddressRequest(request) => return self.request_address(&request, now),
            Input::BlockTaken { pool, block } => {
                self.check_restored()?;
                self.ipam.take_block(&pool, block)?;
            }
            Input::BlockLost { pool, block } => self.ipam.lose_block(&pool, block),
            Input::AddressRelease { pool, address } => self.release_address(&pool, address, now)?,
            Input::NetworkPut(network) => {
                self.check_restored()?;
                self.networks.put(network, now)?;
            }
            Input::NetworkDelete { id } => {
                self.check_restored()?;
                self.networks.delete(&id);
            }
            Input::HealthEndpoint(wanted) => self.want_health(wanted, now)?,
            Input::EndpointCreate(request) => return self.create_endpoint(request, now),
            Input::EndpointChange { endpoint, change } => return self.change_endpoint(&endpoint, change, now),
            Input::EndpointDelete { endpoint } => self.delete_named_endpoint(&endpoint, now)?,
        }
        Ok(Reply::Done)
    }

    pub(crate) fn dirty_if(&mut self, news: bool, dirty: Dirty) {
        if news {
            self.dirty = self.dirty.max(dirty);
        }
    }

    pub(crate) fn sync_of(&self, source: Source) -> SyncState {
        self.sync.get(&source).copied().unwrap_or(SyncState::Waiting)
    }

    pub(crate) fn set_sync(&mut self, source: Source, state: SyncState) {
        self.sync.insert(source, state);
    }

    /// What was known stays known.
    fn set_away(&mut self, source: Source) {
        if self.sync_of(source) == SyncState::Waiting {
            self.set_sync(source, SyncState::Away);
        }
        if source == Source::Policy {
            self.policies.use_cached();
            self.policy_changed();
        }
    }

    pub(crate) fn check_restored(&self) -> Result<(), Rejected> {
        if self.sync_of(Source::Records) == SyncState::Synced { Ok(()) } else { Err(Rejected::NotRestored) }
    }

    fn put_policy(&mut self, revision: u64, rules: Arc<str>, freshness: Freshness) -> Result<(), Rejected> {
        let put = self.policies.put(revision, rules, freshness);
        if put.is_ok() {
            self.set_sync(Source::Policy, SyncState::Synced);
        }
        self.policy_changed();
        put
    }

    fn policy_changed(&mut self) {
        if let Some(repository) = self.policies.repository() {
            self.identities.keep_prefixes(&repository.mentioned_prefixes());
        }
    }

    fn confirm_identity(&mut self, identity: Identity, labels: Labels, now: Timestamp) -> Result<(), Rejected> {
        self.check_own_identity(identity, &labels)?;
        self.identities.confirm(identity, labels)?;
        self.assign_identities(now);
        Ok(())
    }

    fn remember_identity(&mut self, identity: Identity, labels: Labels, now: Timestamp) -> Result<(), Rejected> {
        self.check_own_identity(identity, &labels)?;
        self.identities.remember(identity, labels)?;
        self.assign_identities(now);
        Ok(())
    }

    fn unconfirm_identity(&mut self, identity: Identity, now: Timestamp) {
        if self.is_mesh_identity(identity) {
            return;
        }
        self.identities.unconfirm(identity);
        self.assign_identities(now);
    }

    /// Gives each endpoint the number of its labels. One whose labels have none yet keeps what it has, as long as that
    /// means what it meant.
    pub(crate) fn assign_identities(&mut self, now: Timestamp) {
        let mut assigned: Vec<(EndpointId, Option<Identity>)> = Vec::new();
        for endpoint in self.endpoints.iter() {
            let wanted = endpoint.labels.as_deref().and_then(|labels| self.identities.number(labels));
            let means = self.identities.labels(endpoint.identity);
            let changed_its_meaning = means != Some(&endpoint.identity_labels);
            match wanted {
                Some(identity) if identity != endpoint.identity || changed_its_meaning => {
                    assigned.push((endpoint.id, Some(identity)));
                }
                None if changed_its_meaning => assigned.push((endpoint.id, None)),
                _ => {}
            }
        }
        if !assigned.is_empty() {
            self.dirty = Dirty::Tables;
        }
        for (id, identity) in assigned {
            let labels = identity.and_then(|identity| self.identities.labels(identity)).cloned();
            match (self.endpoints.change(id), identity, labels) {
                (Some(endpoint), Some(identity), Some(labels)) => endpoint.identify(identity, labels, now),
                (Some(endpoint), _, _) => endpoint.lose_identity(now),
                (None, _, _) => {}
            }
        }
        self.forget_identities();
    }

    /// Forgets the numbers that the kvstore no longer has and nobody has here or elsewhere; before all were listed, it may
    /// have those that are remembered.
    pub(crate) fn forget_identities(&mut self) {
        if self.sync_of(Source::Identities) != SyncState::Synced || !self.identities.has_remembered() {
            return;
        }
        let used: BTreeSet<Identity> = self.endpoints.iter().map(|endpoint| endpoint.identity).collect();
        let remote = &self.remote;
        self.identities.forget_unused(|identity| used.contains(&identity) || remote.mentions(identity));
    }

    pub(crate) fn put_remote_node(&mut self, node: RemoteNode) {
        let news = self.remote.put_node(node);
        self.dirty_if(news, Dirty::Tables);
    }

    pub(crate) fn remove_remote_node(&mut self, name: &NodeName) {
        let news = self.remote.remove_node(name);
        self.dirty_if(news, Dirty::Tables);
    }

    /// `teller` is the id of the cluster that says so.
    pub(crate) fn put_remote_address(&mut self, teller: u8, address: IpAddr, record: RemoteAddress) {
        if !self.remote.put_address(teller, address, record) {
            return;
        }
        self.dirty_if(true, Dirty::Identities);
        if !self.may_give(teller, record.identity) {
            let RemoteAddress { identity, node } = record;
            tracing::warn!(%address, %identity, %node, "a node claims an identity that it may not have: ignored");
        }
        self.forget_identities();
    }

    pub(crate) fn remove_remote_address(&mut self, teller: u8, address: IpAddr) {
        let news = self.remote.remove_address(teller, address);
        self.dirty_if(news, Dirty::Identities);
        self.forget_identities();
    }

    fn keep_docker_endpoints(&mut self, listed: &BTreeSet<String>, now: Timestamp) -> Result<(), Rejected> {
        self.check_restored()?;
        let deadline = self.docker_deadline(now);
        let gone: Vec<EndpointId> = self
            .endpoints
            .iter()
            .filter(|endpoint| {
                !endpoint.is_health() && !listed.contains(&endpoint.docker_endpoint_id) && endpoint.created < deadline
            })
            .map(|endpoint| endpoint.id)
            .collect();
        for id in gone {
            tracing::info!(endpoint = %id, "docker does not have it any more");
            self.delete_endpoint(id, Release::Now, now);
        }
        let holders = Holders { endpoints: self.endpoints.by_address(), host: &self.host };
        for address in self.ipam.free_untaken(deadline, holders, now) {
            tracing::info!(%address, "released: no endpoint took it");
        }
        self.set_sync(Source::Docker, SyncState::Synced);
        Ok(())
    }

    fn keep_docker_networks(&mut self, listed: &BTreeSet<String>, now: Timestamp) -> Result<(), Rejected> {
        self.check_restored()?;
        let deadline = self.docker_deadline(now);
        self.networks.keep_only(listed, deadline);
        // A network that is not known yet may be the one that uses a pool.
        if listed.iter().all(|id| self.networks.get(id).is_some()) {
            let gateways = self.networks.gateways().collect();
            let networks = &self.networks;
            let holders = Holders { endpoints: self.endpoints.by_address(), host: &self.host };
            self.ipam.keep_only_used(|pool| networks.on_pool(pool), &gateways, deadline, holders, now);
        }
        Ok(())
    }

    fn docker_deadline(&self, now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_sub(self.config.docker_grace))
    }

    fn request_pool(&mut self, request: &PoolRequest, now: Timestamp) -> Result<Reply, Rejected> {
        self.check_restored()?;
        let holders = Holders { endpoints: self.endpoints.by_address(), host: &self.host };
        let pool = self.ipam.request_pool(request, holders, now)?.clone();
        Ok(Reply::Pool(self.pool_view(&pool)))
    }

    fn release_pool(&mut self, pool: &str, now: Timestamp) -> Result<(), Rejected> {
        self.check_restored()?;
        let holders = Holders { endpoints: self.endpoints.by_address(), host: &self.host };
        self.ipam.release_pool(pool, holders, now);
        Ok(())
    }

    fn request_address(&mut self, request: &AddressRequest, now: Timestamp) -> Result<Reply, Rejected> {
        self.check_restored()?;
        let network_known = self.ipam.pool(&request.pool).is_some_and(|pool| self.networks.on_pool(pool) > 0);
        let holders = Holders { endpoints: self.endpoints.by_address(), host: &self.host };
        let address = self.ipam.request_address(request, network_known, holders, now)?;
        Ok(Reply::Address { pool: request.pool.clone(), address })
    }

    fn release_address(&mut self, pool: &str, address: IpAddr, now: Timestamp) -> Result<(), Rejected> {
        self.check_restored()?;
        let holders = Holders { endpoints: self.endpoints.by_address(), host: &self.host };
        self.ipam.release_address(pool, address, holders, now);
        Ok(())
    }

    /// The uplink's MTU less what the tunnel takes, but not less than the families need.
    pub(crate) fn default_mtu(&self) -> u32 {
        let least = if self.config.ipv6_range.is_some() { LEAST_MTU_V6 } else { LEAST_MTU };
        let uplink = self.uplink_mtu.unwrap_or(DEFAULT_MTU);
        match self.config.tunnel_overhead {
            Some(overhead) => uplink.saturating_sub(overhead).max(least.min(uplink)),
            None => uplink,
        }
    }

    fn create_endpoint(&mut self, request: EndpointCreate, now: Timestamp) -> Result<Reply, Rejected> {
        self.check_restored()?;
        if let Some(id) = self.same_endpoint(&request)? {
            return Ok(Reply::Endpoint(id));
        }
        self.check_endpoint(&request)?;
        self.insert_endpoint(request, now).map(Reply::Endpoint)
    }

    /// Makes an endpoint of a request that was checked.
    pub(crate) fn insert_endpoint(&mut self, request: EndpointCreate, now: Timestamp) -> Result<EndpointId, Rejected> {
        let mtu = self.networks.get(&request.docker_network_id).and_then(|network| network.mtu);
        let mtu = mtu.or(self.config.mtu).unwrap_or_else(|| self.default_mtu());
        // The number of a record that cannot be read may be that of an endpoint that the kernel still has.
        let bad = &self.bad_records;
        let is_reserved = |id| records::key(&Object::Endpoint(id)).is_some_and(|key| bad.contains_key(&key));
        let id = self.endpoints.create(request, mtu, is_reserved, now)?;
        if let Some(endpoint) = self.endpoints.get(id) {
            endpoint.addresses().for_each(|address| self.ipam.endpoint_took(address, now));
        }
        Ok(id)
    }

    /// The endpoint that such a request has already made.
    fn same_endpoint(&self, request: &EndpointCreate) -> Result<Option<EndpointId>, Rejected> {
        let Some(known) = self.endpoints.by_docker_id(&request.docker_endpoint_id) else { return Ok(None) };
        let differs = |field| Err(Rejected::EndpointDiffers { id: request.docker_endpoint_id.clone(), field });
        if known.docker_network_id != request.docker_network_id {
            return differs("network");
        }
        if (known.ipv4, known.ipv6) != (request.ipv4, request.ipv6) {
            return differs("address");
        }
        if request.mac.is_some_and(|mac| mac != known.link.mac) {
            return differs("MAC address");
        }
        Ok(Some(known.id))
    }

    fn check_endpoint(&self, request: &EndpointCreate) -> Result<(), Rejected> {
        let bad = |reason| Err(Rejected::BadEndpoint { id: request.docker_endpoint_id.clone(), reason });
        if request.docker_endpoint_id.is_empty() {
            return bad("it has no id");
        }
        if request.docker_endpoint_id == HEALTH {
            return bad("that id is of the node's own endpoint");
        }
        if request.ipv4.is_none() && request.ipv6.is_none() {
            return bad("it has no address");
        }
        check_mac(&request.docker_endpoint_id, request.mac)?;
        for address in request.ipv4.map(IpAddr::V4).into_iter().chain(request.ipv6.map(IpAddr::V6)) {
            self.check_endpoint_address(address)?;
        }
        Ok(())
    }

    fn check_endpoint_address(&self, address: IpAddr) -> Result<(), Rejected> {
        let aside = |what| Err(Rejected::SetAside { address, what });
        if let Some(id) = self.endpoints.by_address().get(&address) {
            return Err(Rejected::Taken { address, owner: format!("endpoint {id}") });
        }
        if !is_usable(address) {
            return aside("not one that a container can have");
        }
        let is_gateway = |purpose| purpose == Purpose::Gateway;
        let allocated = self.ipam.addresses().get(&address).map(|allocation| allocation.purpose);
        if allocated.is_some_and(is_gateway) || self.networks.gateways().any(|gateway| gateway == address) {
            return aside("the gateway of a network");
        }
        if let Some(what) = self.ipam.pool_of(address).and_then(|pool| pool.set_aside(address)) {
            return aside(what);
        }
        if self.host.contains(&address) {
            return aside("an address of the host itself");
        }
        Ok(())
    }

    fn change_endpoint(
        &mut self,
        wanted: &EndpointRef,
        change: EndpointChange,
        now: Timestamp,
    ) -> Result<Reply, Rejected> {
        self.check_restored()?;
        let id = self.endpoints.find(wanted)?;
        self.check_is_a_containers(id)?;
        let filter = &self.config.label_filter;
        let labels = change.container_labels.map(|raw| (filter.container_labels(&raw), raw));
        let published = change.published.map(|ports| self.check_published(id, ports)).transpose()?;
        if let Some(endpoint) = self.endpoints.change(id) {
            endpoint.name(change.container_id, change.container_name);
            if let Some(sandbox) = change.sandbox.filter(|sandbox| endpoint.sandbox.as_ref() != Some(sandbox)) {
                endpoint.join(&sandbox, now);
            }
            match labels {
                Some((_, raw)) if endpoint.container_labels.as_ref() == Some(&raw) => {}
                Some((labels, raw)) => endpoint.label(raw, labels, now),
                None => {}
            }
            if let Some(published) = published {
                endpoint.published = published;
            }
        }
        self.publish_ports();
        self.assign_identities(now);
        Ok(Reply::Endpoint(id))
    }

    fn delete_named_endpoint(&mut self, wanted: &EndpointRef, now: Timestamp) -> Result<(), Rejected> {
        self.check_restored()?;
        match self.endpoints.find(wanted) {
            Ok(id) => {
                self.check_is_a_containers(id)?;
                self.delete_endpoint(id, Release::WhenAsked, now);
            }
            Err(Rejected::UnknownEndpoint(_)) => {}
            Err(refused) => return Err(refused),
        }
        Ok(())
    }

    /// The node's own endpoint is nobody else's to change.
    fn check_is_a_containers(&self, id: EndpointId) -> Result<(), Rejected> {
        let health = self.endpoints.get(id).is_some_and(Endpoint::is_health);
        if health { Err(Rejected::NodesOwn(id)) } else { Ok(()) }
    }

    pub(crate) fn delete_endpoint(&mut self, id: EndpointId, release: Release, now: Timestamp) {
        let Some(endpoint) = self.endpoints.delete(id, now) else { return };
        for address in endpoint.addresses() {
            let holders = Holders { endpoints: self.endpoints.by_address(), host: &self.host };
            self.ipam.endpoint_left(address, release, holders, now);
        }
        self.publish_ports();
        self.assign_identities(now);
    }
}

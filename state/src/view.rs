//! What readers are shown of the tables. A part that came out as before is the same `Arc`, so that the comparison of two
//! snapshots is one of pointers.

use crate::State;
use crate::endpoints::Endpoint;
use crate::ipam::{Allocation, Pool};
use crate::outputs::{AddressView, EndpointView, IdentityView, PoolView, View};
use model::desired::Names;
use model::label_filter::container_label;
use model::{EndpointId, Identity, IdentityMap, Label, Labels, PolicyMap, labels};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// `new`, or `old` when they are equal.
pub(crate) fn keep<T: PartialEq>(old: &Arc<T>, new: T) -> Arc<T> {
    if **old == new { old.clone() } else { Arc::new(new) }
}

impl State {
    /// The view after `old`.
    pub(crate) fn view(&mut self, old: &Arc<View>, changed: &BTreeSet<Identity>) -> Arc<View> {
        let view = View {
            endpoints: self.endpoint_views(old),
            identities: self.identity_views(&old.identities, changed),
            ips: self.ipcache.rows().clone(),
            nodes: if old.nodes == *self.remote.nodes() { old.nodes.clone() } else { self.remote.nodes().clone() },
            pools: keep(&old.pools, self.ipam.pools().map(|pool| (pool.id.clone(), self.pool_view(pool))).collect()),
            addresses: keep(&old.addresses, self.address_views()),
            networks: keep(&old.networks, self.network_views()),
            policy: keep(&old.policy, self.policies.view()),
            sync: keep(&old.sync, self.sync.clone()),
            bad_records: keep(&old.bad_records, self.bad_records()),
            doubts: keep(&old.doubts, self.all_doubts()),
            services: self.services.views().clone(),
        };
        keep(old, view)
    }

    /// The view after `old`, if only the lives of endpoints went on.
    pub(crate) fn view_of_lives(&self, old: &Arc<View>) -> Arc<View> {
        let endpoints = self.endpoint_views(old);
        if Arc::ptr_eq(&endpoints, &old.endpoints) {
            return old.clone();
        }
        Arc::new(View { endpoints, ..View::clone(old) })
    }

    /// The view after `old`, if only these identities changed, other nodes' addresses, and with them the lives of endpoints.
    pub(crate) fn view_of_identities(&mut self, old: &Arc<View>, changed: &BTreeSet<Identity>) -> Arc<View> {
        let identities = self.identity_views(&old.identities, changed);
        let ips = self.ipcache.rows().clone();
        let (doubts, services) = (keep(&old.doubts, self.all_doubts()), self.services.views().clone());
        let view = View { endpoints: self.endpoint_views(old), identities, ips, doubts, services, ..View::clone(old) };
        keep(old, view)
    }

    /// The view after `old`, if only services changed, and with them the lives of endpoints.
    pub(crate) fn view_of_services(&self, old: &Arc<View>) -> Arc<View> {
        let (doubts, services) = (keep(&old.doubts, self.all_doubts()), self.services.views().clone());
        keep(old, View { endpoints: self.endpoint_views(old), doubts, services, ..View::clone(old) })
    }

    /// What others tell and is not done.
    fn all_doubts(&self) -> BTreeMap<String, String> {
        let mut doubts = self.doubts();
        doubts.extend(self.services.doubts());
        doubts
    }

    pub(crate) fn names(&self, old: &Arc<Names>) -> Arc<Names> {
        let names = Names {
            identities: self.identities.all().clone(),
            endpoints: self.endpoints.iter().map(|endpoint| (endpoint.id, endpoint.title())).collect(),
        };
        keep(old, names)
    }

    pub(crate) fn wanted_identities(&self, old: &Arc<BTreeSet<Labels>>) -> Arc<BTreeSet<Labels>> {
        let wanted = self.endpoints.iter().filter_map(|endpoint| endpoint.labels.as_deref().cloned());
        keep(old, wanted.collect())
    }

    pub(crate) fn pool_view(&self, pool: &Pool) -> PoolView {
        let taken = |address: &&IpAddr| pool.hands_out(**address);
        let foreign = self.endpoints.by_address().keys().filter(|a| !self.ipam.addresses().contains_key(a));
        let allocated = self.ipam.addresses().keys().filter(taken).count() + foreign.filter(taken).count();
        PoolView {
            id: pool.id.clone(),
            family: pool.family(),
            subnet: pool.subnet,
            range: pool.range,
            gateway: pool.gateway,
            node_pool: pool.node_pool,
            blocks: pool.blocks.clone(),
            references: pool.references,
            allocated: allocated as u64,
            capacity: pool.capacity(),
        }
    }

    fn endpoint_views(&self, old: &View) -> Arc<BTreeMap<EndpointId, Arc<EndpointView>>> {
        let views = self.endpoints.iter().map(|endpoint| {
            let view = self.endpoint_view(endpoint);
            let view = match old.endpoints.get(&endpoint.id) {
                Some(old) => keep(old, view),
                None => Arc::new(view),
            };
            (endpoint.id, view)
        });
        keep(&old.endpoints, views.collect())
    }

    fn endpoint_view(&self, endpoint: &Endpoint) -> EndpointView {
        let policy = self.policies.map(endpoint.identity);
        let (gateway4, gateway6) = self.gateways_of(endpoint);
        EndpointView {
            id: endpoint.id,
            docker_endpoint_id: endpoint.docker_endpoint_id.clone(),
            docker_network_id: endpoint.docker_network_id.clone(),
            network_known: self.networks.get(&endpoint.docker_network_id).is_some(),
            internal: self.is_internal(endpoint),
            container_id: endpoint.container_id.clone(),
            container_name: endpoint.container_name.clone(),
            sandbox: endpoint.sandbox.clone(),
            state: endpoint.state,
            failure: endpoint.failure.clone(),
            identity: endpoint.identity,
            identity_labels: endpoint.identity_labels.clone(),
            labels: endpoint.labels.clone(),
            disabled_labels: Arc::new(disabled_labels(endpoint)),
            ipv4: endpoint.ipv4,
            ipv6: endpoint.ipv6,
            gateway4,
            gateway6,
            mac: endpoint.link.mac,
            node_mac: endpoint.link.node_mac,
            ifname: endpoint.link.ifname.clone(),
            peer_ifname: endpoint.link.peer_ifname.clone(),
            link: endpoint.link_intent(),
            mtu: endpoint.mtu,
            policy_revision: endpoint.policy_revision,
            enforced_ingress: policy.is_some_and(|map| map.enforced_ingress),
            enforced_egress: policy.is_some_and(|map| map.enforced_egress),
            created: endpoint.created,
            published: endpoint.published.clone(),
            log: endpoint.log.clone(),
        }
    }

    /// The identities as they are, made of what was shown before and of what changed.
    fn identity_views(
        &mut self,
        old: &IdentityMap<IdentityView>,
        changed: &BTreeSet<Identity>,
    ) -> IdentityMap<IdentityView> {
        let mut references: BTreeMap<Identity, u32> = BTreeMap::new();
        self.endpoints.iter().for_each(|endpoint| *references.entry(endpoint.identity).or_default() += 1);
        let before = std::mem::replace(&mut self.references, references);
        let counted = before.keys().chain(self.references.keys());
        let differs = |identity: &&Identity| before.get(identity) != self.references.get(identity);
        let mut views = old.clone();
        for identity in changed.iter().chain(counted.filter(differs)) {
            match self.identities.labels(*identity) {
                Some(labels) => {
                    let references = self.references.get(identity).copied().unwrap_or_default();
                    views.insert(*identity, IdentityView { labels: labels.clone(), references });
                }
                None => drop(views.remove(identity)),
            }
        }
        views
    }

    fn address_views(&self) -> BTreeMap<IpAddr, AddressView> {
        let endpoint = |address: &IpAddr| -> Option<EndpointId> { self.endpoints.by_address().get(address).copied() };
        let view = |(address, allocation): (&IpAddr, &Allocation)| {
            let view = AddressView {
                pool: self.ipam.pool_of(*address).map(|pool| pool.id.clone()).unwrap_or_default(),
                owner: allocation.owner.clone(),
                purpose: allocation.purpose,
                endpoint: endpoint(address),
                since: allocation.since,
            };
            (*address, view)
        };
        self.ipam.addresses().iter().map(view).collect()
    }

    fn network_views(&self) -> BTreeMap<String, crate::Network> {
        self.networks.iter().map(|known| (known.network.id.clone(), known.network.clone())).collect()
    }

    /// Those that were not overwritten meanwhile.
    fn bad_records(&self) -> BTreeMap<String, String> {
        let untouched = |key: &String, text: &Arc<str>| self.records.entries().get(key) == Some(text);
        let bad = self.bad_records.iter().filter(|(key, (text, _))| untouched(key, text));
        bad.map(|(key, (_, reason))| (key.clone(), reason.clone())).collect()
    }

    /// What is wrong with an endpoint in the kernel.
    pub(crate) fn failure_of(&self, endpoint: &Endpoint) -> Option<String> {
        use model::desired::Object;
        let failing = &self.status.failing;
        let of_policy = failing.get(&Object::Policy(endpoint.identity));
        if let Some(failure) = of_policy.filter(|failure| failure.full) {
            return Some(self.overflow_of(endpoint, &failure.message));
        }
        let of_endpoint = failing.get(&Object::Endpoint(endpoint.id));
        let of_addresses = || endpoint.prefixes().find_map(|prefix| failing.get(&Object::Ipcache(prefix)));
        of_endpoint.or(of_policy).or_else(of_addresses).map(|failure| failure.message.clone())
    }

    /// Why there was no room for an endpoint's policy: the rules that take most of it.
    fn overflow_of(&self, endpoint: &Endpoint, reason: &str) -> String {
        let (id, title, identity) = (endpoint.id, endpoint.title(), endpoint.identity);
        let entries = self.policies.map(identity).map_or(0, PolicyMap::len);
        let repository = self.policies.repository();
        let place = |rule: &Arc<policy::Rule>| {
            repository.and_then(|repository| repository.rules().iter().position(|held| Arc::ptr_eq(held, rule)))
        };
        let filling = self.policies.shares(identity).into_iter().take(FILLING_RULES).map(|share| {
            let place = place(&share.rule).map(|place| format!("[{place}]")).unwrap_or_default();
            let labels: Vec<String> = share.rule.rule_labels().map(|label| label.to_string()).collect();
            format!("rule {place} {} ({})", labels.join(","), share.entries).replace("  ", " ")
        });
        let filling: Vec<String> = filling.collect();
        format!(
            "endpoint {id} ({title}) keeps its former policy: the {entries} entries of the one of identity {identity} \
             find no room; {reason}; most are of {}",
            filling.join(", ")
        )
    }

    /// Whether the endpoint has the identity that its labels have.
    pub(crate) fn is_identified(&self, endpoint: &Endpoint) -> bool {
        let labels = endpoint.labels.as_deref();
        endpoint.is_health() || labels.is_some_and(|labels| self.identities.number(labels) == Some(endpoint.identity))
    }
}

/// How many rules are named when there is no room for a policy.
const FILLING_RULES: usize = 3;

/// The container's labels that the filter left out.
fn disabled_labels(endpoint: &Endpoint) -> Labels {
    let raw = endpoint.container_labels.iter().flatten();
    // What can be no label of an endpoint is shown as it came.
    let all = raw.map(|(key, value)| {
        container_label(key, value).unwrap_or_else(|| Label::new(labels::SOURCE_CONTAINER, key, value))
    });
    let used = endpoint.labels.as_deref();
    all.filter(|label| used.is_none_or(|used| !used.0.contains(label))).collect()
}

//! Makes the snapshot: puts the tables together, tells the endpoints what they wait for, and writes the records of what
//! changed. What each part says is decided in the files of the parts.

use crate::endpoints::{Awaited, Endpoint, Realised};
use crate::ledger::{Entries, Object};
use crate::outputs::Outputs;
use crate::{Dirty, State, records, shared};
use ipnetwork::IpNetwork;
use model::desired::Datapath;
use model::{EndpointId, Identity};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Objects whose record may have changed.
#[derive(Default)]
struct Changes {
    endpoints: BTreeSet<EndpointId>,
    others: BTreeSet<Object>,
}

impl State {
    /// The snapshot after all inputs so far; the same `Arc` as last time when nothing changed.
    pub fn outputs(&mut self) -> Arc<Outputs> {
        let old = self.outputs.clone();
        let revision = old.revision + 1;
        let new = match std::mem::replace(&mut self.dirty, Dirty::Nothing) {
            Dirty::Nothing => return old,
            Dirty::Lives => self.with_lives(&old),
            Dirty::Services => self.with_services(&old, revision),
            Dirty::Identities => self.with_identities(&old, revision),
            Dirty::Tables => self.with_tables(&old, revision),
        };
        if !is_same(&old, &new) {
            self.outputs = Arc::new(Outputs { revision, ..new });
        }
        self.outputs.clone()
    }

    /// The old snapshot, but for what the kernel's report changes.
    fn with_lives(&mut self, old: &Outputs) -> Outputs {
        let datapath = old.datapath.as_deref();
        self.conclude_lives(datapath, datapath);
        Outputs { view: self.view_of_lives(&old.view), ..old.clone() }
    }

    /// The old snapshot, but for what services there are.
    fn with_services(&mut self, old: &Outputs, revision: u64) -> Outputs {
        let mut new = old.clone();
        self.services.refresh();
        let services = self.services.frontends();
        if let Some(old) = old.datapath.as_ref().filter(|old| !old.services.is_same(services)) {
            let services = services.clone();
            new.datapath = Some(Arc::new(Datapath { revision, services, ..Datapath::clone(old) }));
        }
        self.conclude_lives(old.datapath.as_deref(), new.datapath.as_deref());
        new.view = self.view_of_services(&old.view);
        new
    }

    /// The old snapshot, but for who there is and what policies say of them. No endpoint changed its identity.
    fn with_identities(&mut self, old: &Outputs, revision: u64) -> Outputs {
        let changed = self.identities.take_changed();
        let subjects = self.endpoints.iter().map(|endpoint| endpoint.identity).collect();
        let policies = self.policies.resolve(&self.identities, &changed, &subjects);
        self.refresh_remote_rows(&changed);
        self.services.refresh();
        let mut new = old.clone();
        let (identities, ipcache) = (self.believed_identities(), self.ipcache.entries());
        let services = self.services.frontends();
        let same = |old: &Datapath| {
            old.policies == *policies
                && old.identities == identities
                && old.ipcache == *ipcache
                && old.services.is_same(services)
        };
        if let Some(old) = old.datapath.as_ref().filter(|old| !same(old)) {
            let (policies, ipcache, services) = (BTreeMap::clone(&policies), ipcache.clone(), services.clone());
            let rest = Datapath::clone(old);
            new.datapath = Some(Arc::new(Datapath { revision, policies, identities, ipcache, services, ..rest }));
        }
        self.conclude_lives(old.datapath.as_deref(), new.datapath.as_deref());
        self.write_changes(&mut new, revision);
        new.names = self.names(&old.names);
        new.view = self.view_of_identities(&old.view, &changed);
        new
    }

    fn with_tables(&mut self, old: &Outputs, revision: u64) -> Outputs {
        let changed = self.identities.take_changed();
        let subjects: BTreeSet<Identity> = self.endpoints.iter().map(|endpoint| endpoint.identity).collect();
        let policies = self.policies.resolve(&self.identities, &changed, &subjects);
        self.refresh_rows(&changed);
        self.publish_ports();
        self.services.look_around(self.surroundings());
        self.services.refresh();
        let mut new = old.clone();
        if self.is_publishable() {
            new.datapath = Some(kept_or_newer(old.datapath.as_ref(), self.datapath(&policies), revision));
        }
        self.conclude_lives(old.datapath.as_deref(), new.datapath.as_deref());
        self.write_changes(&mut new, revision);
        new.wanted_identities = self.wanted_identities(&old.wanted_identities);
        new.names = self.names(&old.names);
        new.view = self.view(&old.view, &changed);
        new
    }

    /// The records of what changed.
    fn write_changes(&mut self, new: &mut Outputs, revision: u64) {
        let changes = self.take_changes();
        if self.write_records(&changes) {
            (new.records, new.records_revision) = (self.records.entries().clone(), revision);
        }
        if self.write_shared(&changes) {
            (new.shared, new.shared_revision) = (self.shared.entries().clone(), revision);
        }
    }

    /// Tells each endpoint what it waits for, and how far the kernel is.
    fn conclude_lives(&mut self, old: Option<&Datapath>, new: Option<&Datapath>) {
        let Some(new) = new else { return };
        let policy = self.policies.revision();
        let lives: Vec<(EndpointId, Option<Awaited>, Option<String>, bool)> = self
            .endpoints
            .iter()
            .map(|endpoint| {
                let awaited = awaited(endpoint, old, new, policy);
                (endpoint.id, awaited, self.failure_of(endpoint), self.is_identified(endpoint))
            })
            .collect();
        let (revision, now) = (self.status.realised, self.now);
        for (endpoint, (id, awaited, failure, identified)) in self.endpoints.iter_mut().zip(lives) {
            debug_assert_eq!(endpoint.id, id);
            if let Some(awaited) = awaited {
                endpoint.wait_for(awaited);
            }
            endpoint.conclude(&Realised { revision, failure: failure.as_deref(), identified }, now);
        }
    }

    fn take_changes(&mut self) -> Changes {
        let mut changes = Changes { endpoints: self.endpoints.take_changes(), others: BTreeSet::new() };
        let (pools, addresses) = self.ipam.take_changes();
        if !pools.is_empty() && self.config.shares_subnets {
            // It tells which blocks of subnets it has, and endpoints what of these they have.
            changes.others.insert(Object::Node);
            changes.endpoints.extend(self.endpoints.iter().map(|endpoint| endpoint.id));
        }
        changes.others.extend(pools.into_iter().map(Object::Pool));
        changes.others.extend(addresses.into_iter().map(Object::Address));
        changes.others.extend(self.networks.take_changes().into_iter().map(Object::Network));
        changes.others.extend(self.identities.take_changed_prefixes().into_iter().map(Object::Prefix));
        if self.policies.take_changed() {
            changes.others.insert(Object::Policy);
        }
        changes.others.extend(self.take_announcement());
        if std::mem::take(&mut self.rewrite_records) {
            changes.endpoints.extend(self.endpoints.iter().map(|endpoint| endpoint.id));
            changes.others.extend(self.ipam.pools().map(|pool| Object::Pool(pool.id.clone())));
            changes.others.extend(self.ipam.addresses().keys().map(|address| Object::Address(*address)));
            changes.others.extend(self.networks.iter().map(|known| Object::Network(known.network.id.clone())));
            changes.others.extend(self.identities.prefixes().keys().map(|prefix| Object::Prefix(*prefix)));
            changes.others.insert(Object::Policy);
            changes.others.insert(Object::Node);
        }
        changes
    }

    /// Whether any record changed.
    fn write_records(&mut self, changes: &Changes) -> bool {
        let endpoints = changes.endpoints.iter().map(|id| Object::Endpoint(*id));
        let objects = endpoints.chain(changes.others.iter().cloned());
        let written = objects.map(|object| {
            let entries = self.record(&object);
            (object, entries)
        });
        let written = written.collect();
        self.records.write(written);
        self.records.take_changed()
    }

    fn record(&self, object: &Object) -> Entries {
        let text = match object {
            Object::Node => None,
            Object::Endpoint(id) => self.endpoints.get(*id).and_then(records::encode_endpoint),
            Object::Pool(id) => self.ipam.pool(id).and_then(records::encode_pool),
            Object::Address(address) => self.ipam.addresses().get(address).and_then(records::encode_address),
            Object::Network(id) => self.networks.known(id).and_then(records::encode_network),
            Object::Prefix(prefix) => self.identities.prefixes().get(prefix).copied().and_then(records::encode_prefix),
            Object::Policy => self.policies.to_cache().and_then(records::encode_policy),
        };
        records::key(object).zip(text).into_iter().collect()
    }

    /// Whether an endpoint's address is told to others: nodes that share subnets tell of what is out of their own parts
    /// alone. The key is the address, so it may be another node's endpoint's by now, which the block went to.
    fn is_announced(&self, address: IpAddr) -> bool {
        let ranges =
            self.config.ipv4_range.map(IpNetwork::V4).into_iter().chain(self.config.ipv6_range.map(IpNetwork::V6));
        !self.config.shares_subnets || ranges.chain(self.ipam.blocks()).any(|part| part.contains(address))
    }

    /// Whether anything that other nodes read changed.
    fn write_shared(&mut self, changes: &Changes) -> bool {
        let mut written: Vec<(Object, Entries)> = Vec::new();
        for id in &changes.endpoints {
            let endpoint = self.endpoints.get(*id);
            let tell = |address| self.is_announced(address);
            let entries = endpoint.map(|endpoint| shared::endpoint(&self.config, endpoint, tell)).unwrap_or_default();
            written.push((Object::Endpoint(*id), entries));
        }
        for object in &changes.others {
            let entries = match object {
                Object::Network(id) => self.networks.get(id).map(shared::network).unwrap_or_default(),
                Object::Node => {
                    let routers = self.ipam.pools().filter(|pool| pool.node_pool).map(|pool| pool.gateway);
                    shared::node(&self.config, routers, &self.health_addresses(), self.ipam.blocks())
                }
                Object::Endpoint(_) | Object::Pool(_) | Object::Address(_) | Object::Prefix(_) | Object::Policy => {
                    continue;
                }
            };
            written.push((object.clone(), entries));
        }
        self.shared.write(written);
        self.shared.take_changed()
    }
}

/// The old snapshot if the new one says the same.
fn kept_or_newer(old: Option<&Arc<Datapath>>, mut new: Datapath, revision: u64) -> Arc<Datapath> {
    if let Some(old) = old {
        new.revision = old.revision;
        if **old == new {
            return old.clone();
        }
    }
    new.revision = revision;
    Arc::new(new)
}

/// What an endpoint has to wait for from now on; `None`: for what it did already.
fn awaited(endpoint: &Endpoint, old: Option<&Datapath>, new: &Datapath, policy: u64) -> Option<Awaited> {
    let same = |old: &Datapath| {
        let policy_of = |datapath: &Datapath| datapath.policies.get(&endpoint.identity).cloned();
        old.endpoints.get(&endpoint.id) == new.endpoints.get(&endpoint.id) && policy_of(old) == policy_of(new)
    };
    let known = endpoint.awaited.filter(|awaited| awaited.policy == policy);
    let datapath = match known {
        Some(_) if old.is_some_and(same) => return None,
        Some(_) | None => new.revision,
    };
    Some(Awaited { datapath, policy })
}

fn is_same(old: &Outputs, new: &Outputs) -> bool {
    let same_datapath = match (&old.datapath, &new.datapath) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        (None, None) => true,
        _ => false,
    };
    same_datapath
        && Arc::ptr_eq(&old.records, &new.records)
        && Arc::ptr_eq(&old.shared, &new.shared)
        && Arc::ptr_eq(&old.wanted_identities, &new.wanted_identities)
        && Arc::ptr_eq(&old.names, &new.names)
        && Arc::ptr_eq(&old.view, &new.view)
}

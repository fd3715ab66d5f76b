//! Reads the local records back at start. A record that cannot be read, or that contradicts one that was, is reported
//! and left as it is; all others count. Times that lie in the future (the clock was set back meanwhile) become now, so
//! that nothing counts as young for ever.

use crate::endpoints::Endpoint;
use crate::input::Source;
use crate::ipam::{self, Allocation, Pool};
use crate::outputs::{SyncState, Timestamp};
use crate::records::{self, PoolRecord, Record};
use crate::{Rejected, State};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A key, its text, and what the text says.
struct Read<T> {
    key: String,
    text: Arc<str>,
    what: T,
}

#[derive(Default)]
struct Sorted {
    endpoints: Vec<Read<Endpoint>>,
    pools: Vec<Read<(String, PoolRecord)>>,
    addresses: BTreeMap<IpAddr, Allocation>,
}

impl State {
    pub(crate) fn restore(&mut self, records: BTreeMap<String, Arc<str>>, now: Timestamp) -> Result<(), Rejected> {
        if self.sync_of(Source::Records) == SyncState::Synced {
            return Err(Rejected::RestoredAlready);
        }
        let mut sorted = Sorted::default();
        for (key, text) in records {
            match records::decode(&key, &text, &self.config.label_filter) {
                Ok(record) => self.sort(&mut sorted, key, text, record),
                Err(reason) => self.note_bad(key, text, reason),
            }
        }
        // Pools before addresses, and both before the endpoints that have them.
        sorted.pools.into_iter().for_each(|pool| self.restore_pool(pool));
        self.ipam.restore_addresses(sorted.addresses);
        sorted.endpoints.into_iter().for_each(|endpoint| self.restore_endpoint(endpoint, now));
        self.assign_identities(now);
        self.records.restore(self.bad_records.iter().map(|(key, (text, _))| (key.clone(), text.clone())).collect());
        self.rewrite_records = true;
        self.set_sync(Source::Records, SyncState::Synced);
        Ok(())
    }

    /// Takes in what depends on nothing else, and puts the rest where it waits for its turn.
    fn sort(&mut self, sorted: &mut Sorted, key: String, text: Arc<str>, record: Record) {
        let taken = match record {
            Record::Endpoint(endpoint) => {
                sorted.endpoints.push(Read { key, text, what: *endpoint });
                return;
            }
            Record::Pool(id, pool) => {
                sorted.pools.push(Read { key, text, what: (id, pool) });
                return;
            }
            Record::Address(address, mut allocation) => {
                allocation.since = allocation.since.min(self.now);
                sorted.addresses.insert(address, allocation);
                return;
            }
            Record::Network(mut known) => {
                known.since = known.since.min(self.now);
                self.networks.restore(known)
            }
            Record::Prefix(prefix, identity) => self.identities.restore_prefix(prefix, identity),
            Record::Policy(document) => {
                self.policies.restore(document);
                Ok(())
            }
        };
        if let Err(refused) = taken {
            self.note_bad(key, text, refused.to_string());
        }
    }

    /// The node's own pool is what the configuration says; if that has changed, the former one stays as a pool that only
    /// its endpoints hold.
    fn restore_pool(&mut self, read: Read<(String, PoolRecord)>) {
        let Read { key, text, what: (id, record) } = read;
        let subnet = ipam::masked(record.subnet);
        if record.node_pool && self.ipam.pool(&id).is_some_and(|pool| pool.subnet == subnet) {
            self.ipam.restore_references(&id, record.references, record.since.min(self.now));
            return;
        }
        let id = if record.node_pool { subnet.to_string() } else { id };
        let restored = Pool::new(id, subnet, record.range).and_then(|pool| {
            self.ipam.restore_pool(Pool {
                gateway: record.gateway,
                gateway_chosen: record.gateway_chosen,
                references: if record.node_pool { 0 } else { record.references },
                since: record.since.min(self.now),
                blocks: record.blocks,
                ..pool
            })
        });
        match restored {
            Err(refused) if record.node_pool => tracing::warn!(%subnet, %refused, "the node's former pool is dropped"),
            Err(refused) => self.note_bad(key, text, refused.to_string()),
            Ok(()) => {}
        }
    }

    fn restore_endpoint(&mut self, read: Read<Endpoint>, now: Timestamp) {
        let Read { key, text, what: mut endpoint } = read;
        if endpoint.identity.is_allocated()
            && let Err(refused) = self.identities.remember(endpoint.identity, (*endpoint.identity_labels).clone())
        {
            return self.note_bad(key, text, refused.to_string());
        }
        endpoint.created = endpoint.created.min(now);
        endpoint.note(now, "restored".to_owned());
        let addresses: Vec<IpAddr> = endpoint.addresses().collect();
        match self.endpoints.restore(endpoint) {
            Err(reason) => self.note_bad(key, text, reason),
            Ok(()) => {
                let missing = |address: &&IpAddr| !self.ipam.addresses().contains_key(address);
                let missing: Vec<IpAddr> = addresses.iter().filter(missing).copied().collect();
                missing.into_iter().for_each(|address| self.ipam.endpoint_took(address, now));
            }
        }
    }

    fn note_bad(&mut self, key: String, text: Arc<str>, reason: String) {
        tracing::warn!(key, reason, "a record of the last run cannot be used; it is left as it is");
        self.bad_records.insert(key, (text, reason));
    }
}

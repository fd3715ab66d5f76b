//! Who lives at each address: the rows that endpoints, the host, other nodes and rules put together. Of two rows for one
//! prefix the one with the more trustworthy source is believed; other nodes have their place between the host and the
//! rules.
//!
//! A cluster has more addresses than can be gone through for each that changes. So the rows are kept, and made anew where
//! something was said; snapshots share the others.

use crate::State;
use crate::ipam;
use crate::outputs::{IpRow, IpSource};
use ipnetwork::IpNetwork;
use model::desired::IpcacheEntry;
use model::{EndpointId, Identity, SharedMap};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Up to so many rows, debug builds hold them against all tables after each change.
const MOST_COMPARED: usize = 1000;

/// The rows, as readers and as the kernel should have them.
#[derive(Debug, Default)]
pub(crate) struct Ipcache {
    rows: SharedMap<IpNetwork, IpRow>,
    entries: model::Ipcache,
    /// What the tables of this node put in.
    local: BTreeMap<IpNetwork, IpRow>,
}

impl Ipcache {
    pub(crate) fn rows(&self) -> &SharedMap<IpNetwork, IpRow> {
        &self.rows
    }

    pub(crate) fn entries(&self) -> &model::Ipcache {
        &self.entries
    }

    /// Takes over what the tables of this node say now; returns the prefixes of which they say something else.
    fn replace_local(&mut self, local: BTreeMap<IpNetwork, IpRow>) -> BTreeSet<IpNetwork> {
        let before = std::mem::replace(&mut self.local, local);
        let prefixes = before.keys().chain(self.local.keys());
        prefixes.filter(|prefix| before.get(prefix) != self.local.get(prefix)).copied().collect()
    }

    fn put(&mut self, prefix: IpNetwork, row: Option<IpRow>) {
        if self.rows.get(&prefix) == row.as_ref() {
            return;
        }
        match row {
            Some(row) => {
                self.rows.insert(prefix, row);
                self.entries.insert(prefix, IpcacheEntry { identity: row.identity, endpoint: row.endpoint });
            }
            None => {
                self.rows.remove(&prefix);
                self.entries.remove(&prefix);
            }
        }
    }
}

/// Rows of this node's own tables.
#[derive(Debug, Default)]
struct Local {
    rows: BTreeMap<IpNetwork, IpRow>,
}

impl Local {
    fn endpoint(&mut self, address: IpAddr, identity: Identity, endpoint: EndpointId) {
        let row = IpRow { identity, source: IpSource::Endpoint, endpoint: Some(endpoint), node: None };
        self.put(ipam::single(address), row);
    }

    /// An address of the host's devices, or a gateway. Loopback and IPv6 link-local ones are not told apart by address
    /// from those of others, and are left out.
    fn host(&mut self, address: IpAddr) {
        let local = match address {
            IpAddr::V4(ip) => ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
        };
        if !local && !address.is_unspecified() && !address.is_multicast() {
            let row = IpRow { identity: Identity::HOST, source: IpSource::Host, endpoint: None, node: None };
            self.put(ipam::single(address), row);
        }
    }

    /// A prefix that a rule mentions.
    fn mentioned(&mut self, prefix: IpNetwork, identity: Identity) {
        self.put(prefix, IpRow { identity, source: IpSource::Policy, endpoint: None, node: None });
    }

    fn put(&mut self, prefix: IpNetwork, row: IpRow) {
        let before = self.rows.get(&prefix).copied();
        self.rows.extend(believed(before, Some(row)).map(|row| (prefix, row)));
    }
}

/// The row of two that is believed.
fn believed(one: Option<IpRow>, other: Option<IpRow>) -> Option<IpRow> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.source > one.source { other } else { one }),
        (one, other) => one.or(other),
    }
}

impl State {
    /// Brings the rows up to date after changes of other nodes' addresses and of identities alone.
    pub(crate) fn refresh_remote_rows(&mut self, identities: &BTreeSet<Identity>) {
        let mut stale = self.remote.take_changed();
        identities.iter().for_each(|identity| stale.extend(self.remote.with_identity(*identity)));
        self.refresh(stale);
    }

    /// Brings the rows up to date after any change.
    pub(crate) fn refresh_rows(&mut self, identities: &BTreeSet<Identity>) {
        let now = self.whom_to_believe();
        let before = std::mem::replace(&mut self.believed, now);
        let mut stale = self.ipcache.replace_local(self.local_rows());
        stale.extend(self.remote.take_changed());
        stale.extend(self.remote.concerned(&before, &self.believed));
        identities.iter().for_each(|identity| stale.extend(self.remote.with_identity(*identity)));
        self.refresh(stale);
    }

    fn refresh(&mut self, stale: BTreeSet<IpNetwork>) {
        for prefix in stale {
            let row = self.row(prefix);
            self.ipcache.put(prefix, row);
        }
        debug_assert!(
            self.ipcache.rows.len() > MOST_COMPARED || self.is_as_made_anew(),
            "a row was not brought up to date"
        );
    }

    fn row(&self, prefix: IpNetwork) -> Option<IpRow> {
        let remote = ipam::only_address(prefix).and_then(|address| self.remote_row(address));
        believed(self.ipcache.local.get(&prefix).copied(), remote)
    }

    fn remote_row(&self, address: IpAddr) -> Option<IpRow> {
        let (identity, node) = self.remote_holder(address)?;
        Some(IpRow { identity, source: IpSource::Kvstore, endpoint: None, node: Some(node) })
    }

    fn local_rows(&self) -> BTreeMap<IpNetwork, IpRow> {
        let mut local = Local::default();
        for endpoint in self.endpoints.iter() {
            endpoint.addresses().for_each(|address| local.endpoint(address, endpoint.identity, endpoint.id));
        }
        self.host.iter().copied().chain(self.gateways()).for_each(|address| local.host(address));
        for (prefix, identity) in self.identities.prefixes() {
            local.mentioned(*prefix, *identity);
        }
        local.rows
    }

    /// Whether the rows are those that follow from all tables, gone through one by one.
    fn is_as_made_anew(&self) -> bool {
        let mut rows = self.local_rows();
        let told = self.believed.addresses().chain(self.remote.addresses());
        for address in told.collect::<BTreeSet<IpAddr>>() {
            let prefix = ipam::single(address);
            let row = believed(rows.get(&prefix).copied(), self.remote_row(address));
            rows.extend(row.map(|row| (prefix, row)));
        }
        rows.iter().eq(self.ipcache.rows.iter()) && self.believed == self.whom_to_believe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: IpSource) -> Option<IpRow> {
        Some(IpRow { identity: Identity(300), source, endpoint: None, node: None })
    }

    #[test]
    fn the_more_trustworthy_source_is_believed_in_any_order() {
        let sources = [IpSource::Policy, IpSource::Kvstore, IpSource::Host, IpSource::Endpoint];
        for (n, less) in sources.into_iter().enumerate() {
            for more in sources.into_iter().skip(n) {
                assert_eq!(believed(row(less), row(more)), row(more));
                assert_eq!(believed(row(more), row(less)), row(more));
            }
            assert_eq!(believed(row(less), None), row(less));
            assert_eq!(believed(None, row(less)), row(less));
        }
    }

    #[test]
    fn addresses_that_every_host_has_are_left_out() {
        let mut local = Local::default();
        for address in ["127.0.0.1", "::1", "fe80::1", "0.0.0.0", "ff02::1", "192.0.2.1", "2001:db8::1"] {
            local.host(address.parse().unwrap());
        }
        let rows: Vec<String> = local.rows.keys().map(ToString::to_string).collect();
        assert_eq!(rows, ["192.0.2.1/32", "2001:db8::1/128"]);
    }
}

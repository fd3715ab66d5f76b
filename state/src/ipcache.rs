//! Who lives at which prefix: endpoints of this node, the host, and the prefixes that rules mention, merged so that for
//! each prefix the most trustworthy source is believed. Other nodes' addresses have their place between the host and
//! the rules.

use crate::ipam;
use crate::outputs::{IpRow, IpSource};
use ipnetwork::IpNetwork;
use model::{EndpointId, Identity};
use std::collections::BTreeMap;
use std::net::IpAddr;

#[derive(Debug, Default)]
pub(crate) struct Ipcache {
    rows: BTreeMap<IpNetwork, IpRow>,
}

impl Ipcache {
    pub(crate) fn into_rows(self) -> BTreeMap<IpNetwork, IpRow> {
        self.rows
    }

    pub(crate) fn endpoint(&mut self, address: IpAddr, identity: Identity, endpoint: EndpointId) {
        let row = IpRow { identity, source: IpSource::Endpoint, endpoint: Some(endpoint), node: None };
        self.put(ipam::single(address), row);
    }

    /// An address of the host's devices, or a gateway. Loopback and IPv6 link-local ones are not told apart by address
    /// from those of others, and are left out.
    pub(crate) fn host(&mut self, address: IpAddr) {
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
    pub(crate) fn mentioned(&mut self, prefix: IpNetwork, identity: Identity) {
        self.put(prefix, IpRow { identity, source: IpSource::Policy, endpoint: None, node: None });
    }

    /// An address of another node, or of an endpoint there. Of two the first is believed.
    pub(crate) fn remote(&mut self, address: IpAddr, identity: Identity, node: IpAddr) {
        let row = IpRow { identity, source: IpSource::Kvstore, endpoint: None, node: Some(node) };
        self.put(ipam::single(address), row);
    }

    fn put(&mut self, prefix: IpNetwork, row: IpRow) {
        let before = self.rows.get(&prefix);
        if before.is_none_or(|before| before.source < row.source) {
            self.rows.insert(prefix, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_trustworthy_source_is_believed_in_any_order() {
        let address: IpAddr = "10.15.0.7".parse().unwrap();
        let puts: [fn(&mut Ipcache, IpAddr); 4] = [
            |ipcache, ip| ipcache.endpoint(ip, Identity(300), EndpointId(1)),
            |ipcache, ip| ipcache.host(ip),
            |ipcache, ip| ipcache.mentioned(ipam::single(ip), Identity(1 << 24)),
            |ipcache, ip| ipcache.remote(ip, Identity(400), IpAddr::from([192, 0, 2, 2])),
        ];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [1, 3, 2, 0]] {
            let mut ipcache = Ipcache::default();
            order.into_iter().for_each(|n: usize| puts[n](&mut ipcache, address));
            let rows = ipcache.into_rows();
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[&ipam::single(address)].source, IpSource::Endpoint);
        }
    }

    #[test]
    fn addresses_that_every_host_has_are_left_out() {
        let mut ipcache = Ipcache::default();
        for address in ["127.0.0.1", "::1", "fe80::1", "0.0.0.0", "ff02::1", "192.0.2.1", "2001:db8::1"] {
            ipcache.host(address.parse().unwrap());
        }
        let rows: Vec<String> = ipcache.into_rows().keys().map(ToString::to_string).collect();
        assert_eq!(rows, ["192.0.2.1/32", "2001:db8::1/128"]);
    }
}

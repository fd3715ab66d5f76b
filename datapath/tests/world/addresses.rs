//! The node's own addresses and its uplink are followed.

use crate::lab::{PATIENCE, World, in_node, ip};
use std::collections::BTreeSet;
use std::net::IpAddr;
use tokio_util::sync::CancellationToken;

#[test]
#[ignore = "needs root: make test"]
fn addresses_and_the_uplinks_mtu_are_followed() {
    in_node(async |_bpffs| {
        let shutdown = CancellationToken::new();
        let mut watched = datapath::addresses::watch(None, shutdown.clone()).unwrap();
        assert_eq!((watched.addresses.borrow().len(), *watched.uplink_mtu.borrow()), (0, None));
        let _world = World::new();
        let wanted: BTreeSet<IpAddr> = [World::NODE4.into(), World::NODE6.into()].into();
        tokio::time::timeout(PATIENCE, watched.addresses.wait_for(|held| *held == wanted)).await.unwrap().unwrap();
        tokio::time::timeout(PATIENCE, watched.uplink_mtu.wait_for(|mtu| *mtu == Some(1500))).await.unwrap().unwrap();
        ip("link set uplink0 mtu 1400");
        tokio::time::timeout(PATIENCE, watched.uplink_mtu.wait_for(|mtu| *mtu == Some(1400))).await.unwrap().unwrap();
        ip(&format!("addr del {}/24 dev uplink0", World::NODE4));
        tokio::time::timeout(PATIENCE, watched.addresses.wait_for(|held| held.len() == 1)).await.unwrap().unwrap();
        shutdown.cancel();
        // The node's address tells which of several uplinks counts, whatever the default route says.
        ip("link add backbone type veth peer name away");
        ip("link set backbone mtu 9000 up");
        ip("addr add 172.31.99.1/24 dev backbone");
        ip("addr add 172.31.98.1/32 dev lo");
        for (node, mtu) in [("172.31.99.1", 9000), ("172.31.98.1", 1400), ("172.31.97.1", 1400)] {
            let watched = datapath::addresses::watch(node.parse().ok(), CancellationToken::new()).unwrap();
            assert_eq!(*watched.uplink_mtu.borrow(), Some(mtu), "{node}");
        }
    });
}

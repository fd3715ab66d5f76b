//! The node's own addresses and the MTU of its uplink, followed as they change.

use crate::links::{self, Device};
use crate::netlink::{Netlink, NetlinkError};
use crate::notices::{ADDRESSES, LINKS, Notices, ROUTES};
use crate::routes;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Changes come in bursts; they are looked at together.
const SETTLE: Duration = Duration::from_millis(100);

/// The number of the loopback device in every namespace.
const LOOPBACK: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("listen to changes of addresses")]
    Listen { source: io::Error },
    #[error("read the node's addresses")]
    Read { source: NetlinkError },
}

/// What is followed.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Every address of the node that another machine or a container could use: no loopback, no link-local one.
    pub addresses: watch::Receiver<BTreeSet<IpAddr>>,
    /// MTU in bytes of the device that has the node's address, else of the one that the default route leaves by; `None`:
    /// there is neither.
    pub uplink_mtu: watch::Receiver<Option<u32>>,
}

/// Follows the calling thread's network namespace until shutdown, by a task of the current tokio runtime. `node` is the
/// address by which other nodes reach this one.
pub fn watch(node: Option<IpAddr>, shutdown: CancellationToken) -> Result<Watched, WatchError> {
    let groups = [&[LINKS][..], &ADDRESSES, &ROUTES].concat();
    // Listens before it reads: no change falls in between.
    let notices = Notices::open(NETLINK_ROUTE, &groups).map_err(|source| WatchError::Listen { source })?;
    let mut netlink = Netlink::open().map_err(|source| WatchError::Read { source })?;
    let (addresses, mtu) = read(&mut netlink, node).map_err(|source| WatchError::Read { source })?;
    let (addresses, watched_addresses) = watch::channel(addresses);
    let (mtu, uplink_mtu) = watch::channel(mtu);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = notices.next() => {}
            }
            let settled = tokio::time::sleep(SETTLE);
            tokio::pin!(settled);
            loop {
                tokio::select! {
                    () = &mut settled => break,
                    _ = notices.next() => {}
                }
            }
            match read(&mut netlink, node) {
                Ok((now, now_mtu)) => {
                    addresses.send_if_modified(|held| {
                        held != &now && {
                            *held = now;
                            true
                        }
                    });
                    mtu.send_if_modified(|held| {
                        *held != now_mtu && {
                            *held = now_mtu;
                            true
                        }
                    });
                }
                Err(error) => tracing::warn!(%error, "the node's addresses could not be read"),
            }
        }
    });
    Ok(Watched { addresses: watched_addresses, uplink_mtu })
}

fn read(netlink: &mut Netlink, node: Option<IpAddr>) -> Result<(BTreeSet<IpAddr>, Option<u32>), NetlinkError> {
    let entries = netlink.dump(routes::list_addresses())?;
    let addresses = entries.iter().filter_map(|entry| match entry {
        RouteNetlinkMessage::NewAddress(message) => routes::decode_address(message),
        _ => None,
    });
    let addresses: Vec<(u32, IpAddr)> = addresses.filter(|(_, ip)| is_reachable(*ip)).collect();
    let mut uplink = addresses.iter().find(|(_, ip)| Some(*ip) == node).map(|(device, _)| *device);
    // An address on the loopback device is announced, and reached by any other.
    uplink = uplink.filter(|device| *device != LOOPBACK);
    let addresses = addresses.into_iter().map(|(_, ip)| ip).collect();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        uplink = match uplink {
            None => default_device(netlink, family)?,
            found => found,
        };
    }
    let mtu = match uplink {
        Some(ifindex) => device_mtu(netlink, ifindex)?,
        None => None,
    };
    Ok((addresses, mtu))
}

/// Whether other machines may know the address.
pub(crate) fn is_reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// The device of the default route with the least metric.
fn default_device(netlink: &mut Netlink, family: AddressFamily) -> Result<Option<u32>, NetlinkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    let entries = match netlink.dump(RouteNetlinkMessage::GetRoute(message)) {
        // The kernel does not speak that family.
        Err(NetlinkError::Dump { .. }) => return Ok(None),
        entries => entries?,
    };
    let best = entries.iter().filter_map(|entry| match entry {
        RouteNetlinkMessage::NewRoute(message) => default_route(message),
        _ => None,
    });
    Ok(best.min().map(|(_, device)| device))
}

/// Metric and device of a default route of the main table.
fn default_route(message: &RouteMessage) -> Option<(u32, u32)> {
    let header = &message.header;
    let is_default = header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast;
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    let device = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    });
    device.filter(|_| is_default).map(|device| (metric.unwrap_or(0), device))
}

fn device_mtu(netlink: &mut Netlink, ifindex: u32) -> Result<Option<u32>, NetlinkError> {
    let decode = |message: &LinkMessage| Device::decode(message);
    let entries = netlink.dump(links::list())?;
    Ok(entries.iter().find_map(|entry| match entry {
        RouteNetlinkMessage::NewLink(message) => Some(decode(message)).filter(|d| d.ifindex == ifindex).map(|d| d.mtu),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_link_local_addresses_are_nobodys() {
        for (ip, wanted) in
            [("127.0.0.1", false), ("::1", false), ("fe80::1", false), ("10.0.0.1", true), ("fd00::1", true)]
        {
            assert_eq!(is_reachable(ip.parse().unwrap()), wanted, "{ip}");
        }
    }
}

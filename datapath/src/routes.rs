//! Addresses, routes and neighbours as route netlink messages.
//!
//! Every route of ours carries `PROTOCOL`, by which it is known again. Devices are `links`'s.

use crate::links::{TUNNEL, ifindex};
use crate::netlink::Request;
use ipnetwork::IpNetwork;
use model::{EndpointId, Mac};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

/// The origin that our routes tell; the numbers from 193 on are nobody's in iproute2's table of origins.
pub const PROTOCOL: RouteProtocol = RouteProtocol::Other(0xc1);
/// Metric of the unreachable routes of pools: whoever routes a pool elsewhere is stronger.
const POOL_METRIC: u32 = 0x7fff_ff00;

/// To an endpoint's address by its device, in place of what is there.
pub fn to_endpoint(id: EndpointId, ip: IpAddr, source: Option<IpAddr>) -> Request {
    let mut message = route(IpNetwork::from(ip), RouteType::Unicast);
    message.attributes.push(RouteAttribute::Oif(ifindex(id)));
    message.attributes.extend(source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    Request::replace(RouteNetlinkMessage::NewRoute(message))
}

pub fn remove_to_endpoint(id: EndpointId, ip: IpAddr) -> Request {
    let mut message = route(IpNetwork::from(ip), RouteType::Unicast);
    message.attributes.push(RouteAttribute::Oif(ifindex(id)));
    Request::change(RouteNetlinkMessage::DelRoute(message))
}

/// Makes a prefix unreachable, weaker than every other route.
pub fn unreachable(prefix: IpNetwork) -> Request {
    Request::replace(RouteNetlinkMessage::NewRoute(pool(prefix)))
}

pub fn remove_unreachable(prefix: IpNetwork) -> Request {
    Request::change(RouteNetlinkMessage::DelRoute(pool(prefix)))
}

/// Into the tunnel, to pods of another node.
pub fn into_tunnel(prefix: IpNetwork, source: Option<IpAddr>) -> Request {
    let mut message = tunnel(prefix);
    message.attributes.extend(source.map(|ip| RouteAttribute::PrefSource(ip.into())));
    Request::replace(RouteNetlinkMessage::NewRoute(message))
}

pub fn remove_into_tunnel(prefix: IpNetwork) -> Request {
    Request::change(RouteNetlinkMessage::DelRoute(tunnel(prefix)))
}

/// To pods of another node, by an address of that node.
pub fn by_node(prefix: IpNetwork, node: IpAddr) -> Request {
    let mut message = hop(prefix);
    message.attributes.push(RouteAttribute::Gateway(node.into()));
    Request::replace(RouteNetlinkMessage::NewRoute(message))
}

pub fn remove_by_node(prefix: IpNetwork) -> Request {
    Request::change(RouteNetlinkMessage::DelRoute(hop(prefix)))
}

pub fn neighbour(id: EndpointId, ip: IpAddr, mac: Mac) -> Request {
    let mut message = at(id, ip);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Protocol(PROTOCOL));
    Request::replace(RouteNetlinkMessage::NewNeighbour(message))
}

pub fn remove_neighbour(id: EndpointId, ip: IpAddr) -> Request {
    Request::change(RouteNetlinkMessage::DelNeighbour(at(id, ip)))
}

/// A whole address, usable at once: nobody else on that device could have it. It brings no route of its own.
pub fn add_address(ifindex: u32, ip: IpAddr) -> Request {
    let mut message = address(ifindex, ip);
    message.header.flags = AddressHeaderFlags::Nodad | AddressHeaderFlags::Permanent;
    message
        .attributes
        .push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Permanent | AddressFlags::Noprefixroute));
    Request::create(RouteNetlinkMessage::NewAddress(message))
}

pub fn remove_address(ifindex: u32, ip: IpAddr) -> Request {
    Request::change(RouteNetlinkMessage::DelAddress(address(ifindex, ip)))
}

/// To a prefix that is on the link of a device.
pub fn on_link(ifindex: u32, prefix: IpNetwork) -> Request {
    let mut message = route(prefix, RouteType::Unicast);
    message.attributes.push(RouteAttribute::Oif(ifindex));
    Request::replace(RouteNetlinkMessage::NewRoute(message))
}

/// Everything else by a gateway.
pub fn default_by(ifindex: u32, gateway: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = PROTOCOL;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(ifindex)];
    Request::replace(RouteNetlinkMessage::NewRoute(message))
}

pub fn list_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// Device and address of a listed entry.
pub fn decode_address(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    // On a point-to-point device IFA_ADDRESS is the other side's; IFA_LOCAL, where given, is always one's own.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    local.or(any).map(|ip| (message.header.index, ip))
}

pub fn list_routes(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.protocol = PROTOCOL;
    RouteNetlinkMessage::GetRoute(message)
}

/// A route of ours.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    Endpoint { ifindex: u32, ip: IpAddr, source: Option<IpAddr> },
    Pool(IpNetwork),
    Node { prefix: IpNetwork, node: IpAddr },
    Tunnel { prefix: IpNetwork, source: Option<IpAddr> },
}

/// What a listed route is to us; `None`: it is not ours.
pub fn decode_route(message: &RouteMessage) -> Option<Route> {
    if message.header.protocol != PROTOCOL {
        return None;
    }
    let (mut destination, mut oif, mut source, mut gateway) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address),
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip_of(address),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            _ => {}
        }
    }
    let prefix = IpNetwork::new(destination?, message.header.destination_prefix_length).ok()?;
    if let (RouteType::Unicast, Some(node)) = (message.header.kind, gateway) {
        return Some(Route::Node { prefix, node });
    }
    match (message.header.kind, oif) {
        (RouteType::Unreachable, _) => Some(Route::Pool(prefix)),
        (RouteType::Unicast, Some(oif)) if oif == ifindex(TUNNEL) => Some(Route::Tunnel { prefix, source }),
        (RouteType::Unicast, Some(ifindex)) => Some(Route::Endpoint { ifindex, ip: prefix.ip(), source }),
        _ => None,
    }
}

pub fn list_neighbours() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())
}

/// Device, address and hardware address of a permanent neighbour.
pub fn decode_neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, Mac)> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some((message.header.ifindex, ip?, mac?))
}

pub fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route(prefix: IpNetwork, kind: RouteType) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(prefix.ip());
    message.header.destination_prefix_length = prefix.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = PROTOCOL;
    message.header.kind = kind;
    // IPv6 knows no scopes; an IPv4 route by a device alone reaches what is on that link.
    message.header.scope = match (kind, prefix) {
        (RouteType::Unicast, IpNetwork::V4(_)) => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    message.attributes.push(RouteAttribute::Destination(prefix.network().into()));
    message
}

fn pool(prefix: IpNetwork) -> RouteMessage {
    let mut message = route(prefix, RouteType::Unreachable);
    message.attributes.push(RouteAttribute::Priority(POOL_METRIC));
    message
}

fn tunnel(prefix: IpNetwork) -> RouteMessage {
    let mut message = route(prefix, RouteType::Unicast);
    message.attributes.push(RouteAttribute::Oif(ifindex(TUNNEL)));
    message
}

fn hop(prefix: IpNetwork) -> RouteMessage {
    let mut message = route(prefix, RouteType::Unicast);
    message.header.scope = RouteScope::Universe;
    message
}

fn at(id: EndpointId, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = ifindex(id);
    message.attributes.push(NeighbourAttribute::Destination(match ip {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    }));
    message
}

fn address(ifindex: u32, ip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = if ip.is_ipv4() { 32 } else { 128 };
    message.header.index = ifindex;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

//! Network devices of endpoints as route netlink messages: a veth pair each, and the `cilium_host` pair of the node.
//!
//! Owns names, numbers, groups and settings of devices. Who asks for which is `plan`'s; sending is `netlink`'s.

use crate::current::{Link, TunnelLink};
use crate::netlink::Request;
use crate::operation::{LinkSpec, TunnelKind, TunnelSpec};
use bpf::abi::LXC_IFINDEX_BASE;
use model::{EndpointId, Mac};
use rtnetlink::packet_core::{DefaultNla, Emitable};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoGeneve, InfoKind, InfoVeth, InfoVxlan,
    LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

/// The group of every device that this crate makes, "ci" in ASCII: firewall rules name devices by it.
pub const GROUP: u32 = 0x6369;
/// The group of devices of ours that are to be deleted, "cd".
pub const DOOMED: u32 = 0x6364;
/// Carries the gateway addresses.
pub const HOST_DEVICE: &str = "cilium_host";
/// Its other end; a veth comes in pairs, and unlike a dummy device it needs no kernel module of its own.
pub const HOST_PEER: &str = "cilium_net";

/// Carries packets from and to all other nodes.
const VXLAN_DEVICE: &str = "cilium_vxlan";
const GENEVE_DEVICE: &str = "cilium_geneve";
/// The other end of `cilium_geneve` where that is one of a pair.
pub const TUNNEL_PEER: &str = "cilium_geneve_p";
/// Stands for the tunnel device in what it has in common with those of endpoints: its number is that of an endpoint 0, and
/// there is no such endpoint.
pub const TUNNEL: EndpointId = EndpointId(0);

const IPV4_DEVCONF_FORWARDING: u16 = 1;
const IPV4_DEVCONF_PROXY_ARP: u16 = 3;
const IPV4_DEVCONF_SEND_REDIRECTS: u16 = 6;
const IPV4_DEVCONF_RP_FILTER: u16 = 8;
const IFLA_INET_CONF: u16 = 1;

/// The number of an endpoint's host-side device.
pub fn ifindex(id: EndpointId) -> u32 {
    LXC_IFINDEX_BASE + u32::from(id.0)
}

/// Whose host-side device has this number.
pub fn endpoint_of(ifindex: u32) -> Option<EndpointId> {
    let id = ifindex.checked_sub(LXC_IFINDEX_BASE)?;
    u16::try_from(id).ok().filter(|id| *id != 0).map(EndpointId)
}

/// A new pair, both ends down; then the settings that a device cannot be made with.
pub fn create(id: EndpointId, spec: &LinkSpec, ipv6: bool) -> [Request; 2] {
    let mut pair = veth(&spec.name, spec.node_mac, &spec.peer_name, spec.mac, Some(spec.mtu));
    pair.header.index = ifindex(id);
    let mut settings = settings(ifindex(id), ipv6);
    settings.attributes.push(LinkAttribute::IfAlias(format!("cilium endpoint {id}")));
    [Request::create(RouteNetlinkMessage::NewLink(pair)), Request::change(RouteNetlinkMessage::SetLink(settings))]
}

/// Gives the host's end the wanted address and MTU.
pub fn adjust(id: EndpointId, spec: &LinkSpec) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex(id);
    message.attributes = vec![LinkAttribute::Address(spec.node_mac.0.to_vec()), LinkAttribute::Mtu(spec.mtu)];
    Request::change(RouteNetlinkMessage::SetLink(message))
}

pub fn raise(ifindex: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Request::change(RouteNetlinkMessage::SetLink(message))
}

/// Takes a device down for good: nothing passes it any more, the kernel drops its routes, and the undertaker may have it.
pub fn doom(id: EndpointId) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex(id);
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![LinkAttribute::Group(DOOMED)];
    Request::change(RouteNetlinkMessage::SetLink(message))
}

/// Deletes every doomed device.
pub fn delete_doomed() -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::Group(DOOMED)];
    Request::change(RouteNetlinkMessage::DelLink(message))
}

pub fn delete(ifindex: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    Request::change(RouteNetlinkMessage::DelLink(message))
}

/// The `cilium_host` pair, down.
pub fn create_host_pair(host: Mac, peer: Mac) -> Request {
    Request::create(RouteNetlinkMessage::NewLink(veth(HOST_DEVICE, host, HOST_PEER, peer, None)))
}

/// Settings of an end of the `cilium_host` pair, and up. Nothing is ever sent on it, so it resolves no address.
pub fn configure_host_end(ifindex: u32, ipv6: bool) -> [Request; 2] {
    let mut settings = settings(ifindex, ipv6);
    settings.attributes.push(LinkAttribute::Group(GROUP));
    settings.header.flags = LinkFlags::Noarp;
    settings.header.change_mask = LinkFlags::Noarp;
    [Request::change(RouteNetlinkMessage::SetLink(settings)), raise(ifindex)]
}

/// What the tunnel device is called.
pub fn tunnel_name(kind: TunnelKind) -> &'static str {
    match kind {
        TunnelKind::Vxlan { .. } => VXLAN_DEVICE,
        TunnelKind::Geneve { .. } | TunnelKind::Pair => GENEVE_DEVICE,
    }
}

/// The tunnel device, down, and its settings. Where a packet goes and whose it is stands in each packet's tunnel key; on the
/// device itself there is nobody to resolve. Of IPv6 outer headers those without a checksum are taken too: what is inside
/// has its own. A pair's other end gets its settings by `configure_host_end`.
pub fn create_tunnel(spec: TunnelSpec, [mac, peer]: [Mac; 2], ipv6: bool) -> [Request; 2] {
    let name = tunnel_name(spec.kind);
    let mut message = match spec.kind {
        TunnelKind::Vxlan { port } => {
            let settings = vec![
                InfoVxlan::CollectMetadata(true),
                InfoVxlan::Learning(false),
                InfoVxlan::Port(port),
                InfoVxlan::UDPZeroCsumRX(true),
            ];
            tunnel(name, mac, InfoKind::Vxlan, InfoData::Vxlan(settings))
        }
        TunnelKind::Geneve { port } => {
            let settings = vec![InfoGeneve::CollectMetadata, InfoGeneve::Port(port), InfoGeneve::UdpZeroCsum6Rx(true)];
            tunnel(name, mac, InfoKind::Geneve, InfoData::Geneve(settings))
        }
        TunnelKind::Pair => veth(name, mac, TUNNEL_PEER, peer, Some(spec.mtu)),
    };
    message.header.index = ifindex(TUNNEL);
    if spec.kind != TunnelKind::Pair {
        message.attributes.push(LinkAttribute::Mtu(spec.mtu));
    }
    let mut settings = settings(ifindex(TUNNEL), ipv6);
    settings.header.flags = LinkFlags::Noarp;
    settings.header.change_mask = LinkFlags::Noarp;
    [Request::create(RouteNetlinkMessage::NewLink(message)), Request::change(RouteNetlinkMessage::SetLink(settings))]
}

fn tunnel(name: &str, mac: Mac, kind: InfoKind, settings: InfoData) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::Group(GROUP),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(settings)]),
    ];
    message
}

pub fn adjust_tunnel(spec: TunnelSpec) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = ifindex(TUNNEL);
    message.attributes = vec![LinkAttribute::Mtu(spec.mtu)];
    Request::change(RouteNetlinkMessage::SetLink(message))
}

pub fn list() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

/// A device as listed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub ifindex: u32,
    pub name: String,
    pub group: u32,
    pub mac: Mac,
    pub mtu: u32,
    pub up: bool,
    pub veth: bool,
    pub ethernet: bool,
    /// It takes its peers from the packets.
    pub tunnel_kind: Option<TunnelKind>,
}

impl Device {
    pub fn decode(message: &LinkMessage) -> Device {
        let mut device = Device { ifindex: message.header.index, ..Device::default() };
        device.up = message.header.flags.contains(LinkFlags::Up);
        device.ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name.clone_from(name),
                LinkAttribute::Group(group) => device.group = *group,
                LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
                LinkAttribute::Address(bytes) => {
                    device.mac = bytes.as_slice().try_into().map(Mac).unwrap_or_default();
                }
                LinkAttribute::LinkInfo(info) => {
                    device.veth = info.contains(&LinkInfo::Kind(InfoKind::Veth));
                    device.tunnel_kind = tunnel_kind(info);
                }
                _ => {}
            }
        }
        device
    }

    /// The endpoint whose host-side device it is.
    pub fn endpoint(&self) -> Option<EndpointId> {
        endpoint_of(self.ifindex).filter(|_| self.group == GROUP && self.veth)
    }

    /// It was ours and is to be deleted.
    pub fn is_doomed(&self) -> bool {
        self.veth && self.group == DOOMED && endpoint_of(self.ifindex).is_some()
    }

    /// The tunnel device, if it is that.
    pub fn tunnel(&self) -> Option<TunnelLink> {
        let ours = self.ifindex == ifindex(TUNNEL) && self.group == GROUP;
        let kind = self.tunnel_kind.or(self.veth.then_some(TunnelKind::Pair)).filter(|_| ours)?;
        Some(TunnelLink { kind, mtu: self.mtu, up: self.up })
    }

    pub fn into_link(self) -> Link {
        Link { name: self.name, mac: self.mac, mtu: self.mtu, up: self.up }
    }
}

fn tunnel_kind(info: &[LinkInfo]) -> Option<TunnelKind> {
    info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(settings)) if settings.contains(&InfoVxlan::CollectMetadata(true)) => {
            settings.iter().find_map(|setting| match setting {
                InfoVxlan::Port(port) => Some(TunnelKind::Vxlan { port: *port }),
                _ => None,
            })
        }
        LinkInfo::Data(InfoData::Geneve(settings)) if settings.contains(&InfoGeneve::CollectMetadata) => {
            settings.iter().find_map(|setting| match setting {
                InfoGeneve::Port(port) => Some(TunnelKind::Geneve { port: *port }),
                _ => None,
            })
        }
        _ => None,
    })
}

/// Hardware addresses are given, not left to the kernel: what the kernel draws, udev may replace later.
fn veth(name: &str, mac: Mac, peer: &str, peer_mac: Mac, mtu: Option<u32>) -> LinkMessage {
    let mtu = mtu.map(LinkAttribute::Mtu);
    let mut other = LinkMessage::default();
    other.attributes = vec![LinkAttribute::IfName(peer.to_owned()), LinkAttribute::Address(peer_mac.0.to_vec())];
    other.attributes.extend(mtu.clone());
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::Group(GROUP),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]),
    ];
    message.attributes.extend(mtu);
    message
}

/// Forwarding on; the source check is the program's, so none by route; no link-local address, whose duplicate detection
/// and multicast reports would be all that is ever heard of it (solicitations are answered in BPF).
fn settings(ifindex: u32, ipv6: bool) -> LinkMessage {
    let conf = [
        (IPV4_DEVCONF_FORWARDING, 1),
        (IPV4_DEVCONF_PROXY_ARP, 0),
        (IPV4_DEVCONF_SEND_REDIRECTS, 0),
        (IPV4_DEVCONF_RP_FILTER, 0),
    ];
    let mut families = vec![AfSpecUnspec::Inet(vec![AfSpecInet::Other(nested(IFLA_INET_CONF, &conf))])];
    if ipv6 {
        families.push(AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]));
    }
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes = vec![LinkAttribute::AfSpecUnspec(families)];
    message
}

/// Device settings are listed as an array but set as attributes, one for each setting.
fn nested(kind: u16, values: &[(u16, u32)]) -> DefaultNla {
    let attributes: Vec<_> =
        values.iter().map(|(kind, value)| DefaultNla::new(*kind, value.to_ne_bytes().to_vec())).collect();
    let mut bytes = vec![0; attributes.as_slice().buffer_len()];
    attributes.as_slice().emit(&mut bytes);
    DefaultNla::new(kind, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_name_endpoints() {
        assert_eq!(endpoint_of(ifindex(EndpointId(7))), Some(EndpointId(7)));
        assert_eq!(endpoint_of(ifindex(EndpointId(u16::MAX))), Some(EndpointId(u16::MAX)));
        for stranger in [0, 2, LXC_IFINDEX_BASE, LXC_IFINDEX_BASE + 65_536] {
            assert_eq!(endpoint_of(stranger), None);
        }
    }

    #[test]
    fn a_device_in_our_range_is_ours_only_by_group_and_kind() {
        let ours = Device { ifindex: ifindex(EndpointId(9)), group: GROUP, veth: true, ..Device::default() };
        assert_eq!(ours.endpoint(), Some(EndpointId(9)));
        assert_eq!(Device { group: 0, ..ours }.endpoint(), None);
    }
}

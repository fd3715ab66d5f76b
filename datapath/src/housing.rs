//! The inside of an endpoint that no container is behind: its end of the link in a network namespace of this process, with
//! its addresses and the way to its gateways.
//!
//! The namespace is pinned nowhere and goes with the process, and the pair of devices with it: whoever comes next makes
//! both anew. What listens in there is its owner's.

use crate::links;
use crate::netlink::{Netlink, NetlinkError, Refused, Request};
use crate::netns::{Namespace, NetnsError};
use crate::routes;
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// What the inside should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HousingSpec {
    /// The container's end.
    pub peer_name: String,
    /// Each with its gateway, which is on the link.
    pub addresses: Vec<(IpAddr, Option<IpAddr>)>,
}

#[derive(Debug, thiserror::Error)]
pub enum HousingError {
    #[error("this datapath was given no namespace for endpoints of its own")]
    NoNamespace,
    #[error("there is no device {name}")]
    NoDevice { name: String },
    #[error("work in the namespace of the endpoint {name}")]
    Namespace { name: String, source: NetnsError },
    #[error("set up the inside of the endpoint with {name}")]
    Refused { name: String, source: Refused },
    #[error("set up the inside of the endpoint with {name}")]
    Conversation { name: String, source: NetlinkError },
}

const LOOPBACK: u32 = 1;

/// Moves the container's end into the namespace and sets it up. The devices have just been made, both ends down.
pub fn house(
    netlink: &mut Netlink,
    namespace: Option<&Namespace>,
    spec: &HousingSpec,
    ipv6: bool,
) -> Result<(), HousingError> {
    let namespace = namespace.ok_or(HousingError::NoNamespace)?;
    let name = || spec.peer_name.clone();
    let mut message = LinkMessage::default();
    message.header.index = number_of(&spec.peer_name)?;
    message.attributes.push(LinkAttribute::NetNsFd(namespace.file().as_raw_fd()));
    execute(netlink, vec![Request::change(RouteNetlinkMessage::SetLink(message))], &spec.peer_name)?;
    let inside = namespace.run(|| {
        let mut netlink = Netlink::open().map_err(|source| HousingError::Conversation { name: name(), source })?;
        let requests = requests(number_of(&spec.peer_name)?, spec, ipv6);
        execute(&mut netlink, requests, &spec.peer_name)
    });
    inside.map_err(|source| HousingError::Namespace { name: name(), source })?
}

/// Names of the devices in the namespace.
pub fn housed(namespace: &Namespace) -> Result<BTreeSet<String>, NetnsError> {
    let names = || nix::net::if_::if_nameindex().map(|all| all.iter().map(|one| name_of(one.name())).collect());
    Ok(namespace.run(names)?.unwrap_or_default())
}

fn name_of(name: &std::ffi::CStr) -> String {
    name.to_string_lossy().into_owned()
}

fn requests(index: u32, spec: &HousingSpec, ipv6: bool) -> Vec<Request> {
    let mut requests = Vec::new();
    if ipv6 {
        // No address by which it would look for routers: there are none.
        let mut message = LinkMessage::default();
        message.header.index = index;
        let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![none]));
        requests.push(Request::change(RouteNetlinkMessage::SetLink(message)));
    }
    requests.extend(spec.addresses.iter().map(|(ip, _)| routes::add_address(index, *ip)));
    requests.extend([LOOPBACK, index].map(links::raise));
    for gateway in spec.addresses.iter().filter_map(|(_, gateway)| *gateway) {
        requests.push(routes::on_link(index, IpNetwork::from(gateway)));
        requests.push(routes::default_by(index, gateway));
    }
    requests
}

fn number_of(name: &str) -> Result<u32, HousingError> {
    nix::net::if_::if_nametoindex(name).map_err(|_| HousingError::NoDevice { name: name.to_owned() })
}

fn execute(netlink: &mut Netlink, requests: Vec<Request>, name: &str) -> Result<(), HousingError> {
    let answers = netlink.execute(requests);
    let answers = answers.map_err(|source| HousingError::Conversation { name: name.to_owned(), source })?;
    let refused = answers.into_iter().find_map(Result::err);
    refused.map_or(Ok(()), |source| Err(HousingError::Refused { name: name.to_owned(), source }))
}

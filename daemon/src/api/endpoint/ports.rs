//! Which ports of the host a container gets: those that were asked for, or free ones of a range. Whether a port is free is
//! known for certain by binding it: processes of the host have theirs by that, and are not to lose them.

use super::Refusal;
use ::api::endpoint::PublishedPort;
use hyper::StatusCode;
use model::service::ServiceType;
use model::{L4Address, Protocol, ServiceId};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use state::services::{Published, record};
use state::{EndpointView, Outputs};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// How many free ports are tried where any will do.
const TRIES: usize = 64;

/// The ports as the state is to have them, and the sockets that keep others from binding them until it has.
pub(super) struct Chosen {
    pub(super) ports: Vec<Published>,
    _held: Vec<OwnedFd>,
}

/// Chooses a port of the host for each that is asked for.
pub(super) fn choose(wanted: &[PublishedPort], endpoint: &EndpointView, outputs: &Outputs) -> Result<Chosen, Refusal> {
    let (mut ports, mut held) = (Vec::new(), Vec::new());
    for port in wanted {
        let (found, sockets) = choose_one(port, endpoint, outputs, &ports)?;
        ports.extend(found);
        held.extend(sockets);
    }
    Ok(Chosen { ports, _held: held })
}

fn choose_one(
    wanted: &PublishedPort,
    endpoint: &EndpointView,
    outputs: &Outputs,
    others: &[Published],
) -> Result<(Vec<Published>, Vec<OwnedFd>), Refusal> {
    let protocol = record::protocol(&wanted.protocol).ok_or_else(|| {
        let message = format!("{:?} is none of TCP, UDP and SCTP", wanted.protocol);
        Refusal::new(StatusCode::BAD_REQUEST, message)
    })?;
    let addresses: Vec<IpAddr> = match wanted.address {
        Some(address) => vec![address],
        None => {
            let v4 = endpoint.ipv4.map(|_| IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            v4.into_iter().chain(endpoint.ipv6.map(|_| IpAddr::V6(Ipv6Addr::UNSPECIFIED))).collect()
        }
    };
    let last = wanted.host_port_end.max(wanted.host_port);
    let own: Vec<u16> = endpoint
        .published
        .iter()
        .filter(|own| own.container_port == wanted.container_port)
        .map(|own| own.host_port)
        .collect();
    let fits = |port: &u16| wanted.host_port == 0 || (wanted.host_port..=last).contains(port);
    // What the endpoint has already is its own, and may be bound to nobody.
    let kept = own.into_iter().filter(fits);
    let asked = (wanted.host_port..=last).filter(|port| *port > 0);
    let any = std::iter::repeat_n(0, if wanted.host_port == 0 { TRIES } else { 0 });
    let mut failure = None;
    for candidate in kept.chain(asked).chain(any) {
        match take(candidate, &addresses, protocol, endpoint, outputs, others) {
            Ok((port, sockets)) => {
                let published = |address: &IpAddr| Published {
                    address: *address,
                    host_port: port,
                    protocol,
                    container_port: wanted.container_port,
                    id: ServiceId(0),
                };
                return Ok((addresses.iter().map(published).collect(), sockets));
            }
            Err(refusal) => failure = Some(refusal),
        }
    }
    Err(failure.unwrap_or_else(|| {
        Refusal::new(StatusCode::BAD_REQUEST, "the container has no address for which a port could be published")
    }))
}

/// The port on all of the addresses, 0 standing for any.
fn take(
    port: u16,
    addresses: &[IpAddr],
    protocol: Protocol,
    endpoint: &EndpointView,
    outputs: &Outputs,
    others: &[Published],
) -> Result<(u16, Vec<OwnedFd>), Refusal> {
    let (mut port, mut sockets) = (port, Vec::new());
    for ip in addresses {
        let wanted = L4Address { ip: *ip, port, protocol };
        let is_own = |own: &&Published| (own.address, own.host_port, own.protocol) == (*ip, port, protocol);
        if port > 0 && is_taken(&wanted, endpoint, outputs, others) {
            return Err(taken(&wanted));
        }
        if port > 0 && endpoint.published.iter().any(|own| is_own(&own)) {
            continue;
        }
        if let Some((socket, bound)) = bind(&wanted)? {
            port = bound;
            sockets.push(socket);
        }
        if is_taken(&L4Address { port, ..wanted }, endpoint, outputs, others) {
            return Err(taken(&L4Address { port, ..wanted }));
        }
    }
    if port == 0 {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "a port of the host has to be named for this protocol"));
    }
    Ok((port, sockets))
}

/// Whether another container's port or a service of the cluster has it.
fn is_taken(wanted: &L4Address, endpoint: &EndpointView, outputs: &Outputs, others: &[Published]) -> bool {
    let meets = |ip: IpAddr, port: u16, protocol: Protocol| {
        let same = port == wanted.port && protocol == wanted.protocol && ip.is_ipv4() == wanted.ip.is_ipv4();
        same && (ip == wanted.ip || ip.is_unspecified() || wanted.ip.is_unspecified())
    };
    let of_endpoints = outputs.view.endpoints.values().filter(|other| other.id != endpoint.id);
    let of_endpoints = of_endpoints.flat_map(|other| &other.published);
    let published = of_endpoints.chain(others).any(|port| meets(port.address, port.host_port, port.protocol));
    let any: IpAddr = if wanted.ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let node_port =
        outputs.datapath.as_ref().and_then(|datapath| datapath.services.get(&L4Address { ip: any, ..*wanted }));
    published || node_port.is_some_and(|balancer| balancer.kind == ServiceType::NodePort)
}

/// In Docker's own words, which its users and their scripts know.
fn taken(address: &L4Address) -> Refusal {
    let message = format!("Bind for {}:{} failed: port is already allocated", host(address.ip), address.port);
    Refusal::new(StatusCode::CONFLICT, message)
}

fn host(ip: IpAddr) -> String {
    if ip.is_ipv4() { ip.to_string() } else { format!("[{ip}]") }
}

/// A socket that has the address, and its port. `None`: the kernel knows no such sockets, or it is SCTP, of which no socket
/// is made here (that would load a module of the kernel): a process that listens there loses it.
fn bind(wanted: &L4Address) -> Result<Option<(OwnedFd, u16)>, Refusal> {
    let failed = |what: &str, errno: Errno| {
        let address = format!("{}:{}/{}", host(wanted.ip), wanted.port, wanted.protocol);
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{what} to see whether {address} is free: {errno}"))
    };
    if wanted.protocol == Protocol::SCTP {
        return Ok(None);
    }
    let family = if wanted.ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = if wanted.protocol == Protocol::UDP { SockType::Datagram } else { SockType::Stream };
    let opened = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None);
    let socket = match opened {
        Ok(socket) => socket,
        Err(Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT) => return Ok(None),
        Err(errno) => return Err(failed("open a socket", errno)),
    };
    if family == AddressFamily::Inet6 {
        socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true).map_err(|errno| failed("prepare a socket", errno))?;
    }
    if kind == SockType::Stream {
        // Connections that ended a moment ago are in nobody's way.
        socket::setsockopt(&socket, sockopt::ReuseAddr, &true).map_err(|errno| failed("prepare a socket", errno))?;
    }
    let address = SockaddrStorage::from(SocketAddr::new(wanted.ip, wanted.port));
    match socket::bind(socket.as_raw_fd(), &address) {
        Ok(()) => {}
        Err(Errno::EADDRINUSE) => return Err(taken(wanted)),
        Err(Errno::EADDRNOTAVAIL) => {
            let message = format!("Bind for {}:{} failed: the host has no such address", host(wanted.ip), wanted.port);
            return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
        }
        Err(errno) => return Err(failed("bind a socket", errno)),
    }
    if kind == SockType::Stream {
        // With the address reused, only one who listens keeps others away.
        let backlog = socket::Backlog::new(1).map_err(|errno| failed("prepare a socket", errno))?;
        match socket::listen(&socket, backlog) {
            Ok(()) => {}
            Err(Errno::EADDRINUSE) => return Err(taken(wanted)),
            Err(errno) => return Err(failed("listen on a socket", errno)),
        }
    }
    let bound: SockaddrStorage =
        socket::getsockname(socket.as_raw_fd()).map_err(|errno| failed("read a socket's address", errno))?;
    let port = match (bound.as_sockaddr_in(), bound.as_sockaddr_in6()) {
        (Some(v4), _) => v4.port(),
        (None, Some(v6)) => v6.port(),
        (None, None) => wanted.port,
    };
    Ok(Some((socket, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, protocol: Protocol) -> L4Address {
        let address: SocketAddr = text.parse().unwrap();
        L4Address { ip: address.ip(), port: address.port(), protocol }
    }

    #[test]
    fn what_a_process_has_is_taken() {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            let (_held, port) = bind(&at("127.0.0.1:0", protocol)).unwrap().unwrap();
            assert!(port > 0);
            for ip in ["127.0.0.1", "0.0.0.0"] {
                let refused = bind(&at(&format!("{ip}:{port}"), protocol)).unwrap_err();
                assert_eq!(refused.status, StatusCode::CONFLICT);
                assert_eq!(refused.body.error, format!("Bind for {ip}:{port} failed: port is already allocated"));
            }
        }
    }

    #[test]
    fn both_families_have_a_port_each() {
        let (_v4, port) = bind(&at("0.0.0.0:0", Protocol::TCP)).unwrap().unwrap();
        if let Some((_v6, other)) = bind(&at(&format!("[::]:{port}"), Protocol::TCP)).unwrap() {
            assert_eq!(port, other);
        }
    }

    #[test]
    fn an_address_that_the_host_has_not_is_said_to_be_that() {
        let refused = bind(&at("192.0.2.77:8080", Protocol::TCP)).unwrap_err();
        assert_eq!(refused.body.error, "Bind for 192.0.2.77:8080 failed: the host has no such address");
    }
}

//! What an endpoint's container gets as its way out: the answer to `Join`.
//!
//! The gateway is an address that is nowhere near: the container's address is a single one (/32, /128), so the gateway
//! needs a route of its own on the interface. The network's subnet goes by way of the gateway beside the default route,
//! because a second network (a bridge, say) may take the default route away, and peers must not be sought there. It is
//! the network's own subnet and no more: Docker refuses to give a container an address that an existing route covers. A
//! default route among these routes, instead of in `Gateway`, would clash with other networks and stops containers from
//! starting on newer engines. IPv6 parts go only to endpoints with an IPv6 address: elsewhere the kernel refuses them.

use crate::protocol::{InterfaceName, Joined, StaticRoute};
use api::endpoint::Endpoint;
use api::network::{Network, Subnet};
use std::net::IpAddr;

/// Interfaces in containers are called `cilium0`, `cilium1`…
const PREFIX: &str = "cilium";

pub(super) fn joined(network: &Network, endpoint: &Endpoint) -> Joined {
    let v4 = endpoint.ipv4.and(endpoint.gateway4).map(IpAddr::V4);
    let v6 = endpoint.ipv6.and(endpoint.gateway6).map(IpAddr::V6);
    let mut static_routes = Vec::new();
    for (gateway, subnet) in [(v4, &network.ipv4), (v6, &network.ipv6)] {
        if let Some(gateway) = gateway {
            static_routes.extend(routes(gateway, subnet.as_ref()));
        }
    }
    // An internal network has no way out, but its own subnet is reached like any other.
    let default = |gateway: Option<IpAddr>| {
        gateway.filter(|_| !network.internal).map(|gateway| gateway.to_string()).unwrap_or_default()
    };
    let (gateway, gateway_ipv6) = (default(v4), default(v6));
    Joined {
        interface_name: InterfaceName { src_name: endpoint.peer_interface_name.clone(), dst_prefix: PREFIX.to_owned() },
        // Without an IPv4 gateway Docker would add a second interface on a bridge of its own, past every policy.
        disable_gateway_service: gateway.is_empty(),
        gateway,
        gateway_ipv6,
        static_routes,
    }
}

fn routes(gateway: IpAddr, subnet: Option<&Subnet>) -> Vec<StaticRoute> {
    let length = if gateway.is_ipv4() { 32 } else { 128 };
    let on_link = StaticRoute { destination: format!("{gateway}/{length}"), route_type: 1, next_hop: String::new() };
    let subnet = subnet.map(|subnet| subnet.subnet).filter(|subnet| (1..length).contains(&subnet.prefix()));
    let to_peers = subnet.map(|subnet| StaticRoute {
        destination: format!("{}/{}", subnet.network(), subnet.prefix()),
        route_type: 0,
        next_hop: gateway.to_string(),
    });
    std::iter::once(on_link).chain(to_peers).collect()
}

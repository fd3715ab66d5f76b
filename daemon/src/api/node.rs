//! `GET /v1/node`: this node, and the others as their records tell.

use super::{Refusal, answer};
use crate::agent::Agent;
use crate::api::query::Query;
use crate::server::Body;
use ::api::node as shape;
use hyper::Response;
use ipnetwork::IpNetwork;
use state::RemoteNode;
use std::collections::BTreeSet;
use std::net::IpAddr;

pub fn list(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let node = &agent.node;
    let own = shape::Node {
        name: node.name.clone(),
        cluster: node.cluster.clone(),
        ipv4: node.ipv4.map(|address| address.to_string()),
        ipv6: node.ipv6.map(|address| address.to_string()),
        ipv4_alloc_cidr: node.ipv4_range.map(|range| range.to_string()),
        ipv6_alloc_cidr: node.ipv6_range.map(|range| range.to_string()),
        local: true,
    };
    let outputs = agent.snapshot();
    let others = outputs
        .view
        .nodes
        .values()
        .filter(|other| (&other.name.name, &other.name.cluster) != (&own.name, &own.cluster));
    let rows: Vec<_> = others.map(shape_of).collect();
    answer(query, &[vec![own.clone()], rows].concat())
}

/// One address and one range of each family.
fn shape_of(node: &RemoteNode) -> shape::Node {
    let address = |wanted: fn(&IpAddr) -> bool| node.addresses.iter().find(|ip| wanted(ip)).map(ToString::to_string);
    let first = |prefixes: &BTreeSet<IpNetwork>, wanted: fn(&IpNetwork) -> bool| {
        prefixes.iter().find(|prefix| wanted(prefix)).map(ToString::to_string)
    };
    shape::Node {
        name: node.name.name.clone(),
        cluster: node.name.cluster.clone(),
        ipv4: address(IpAddr::is_ipv4),
        ipv6: address(IpAddr::is_ipv6),
        ipv4_alloc_cidr: first(&node.prefixes, IpNetwork::is_ipv4),
        ipv6_alloc_cidr: first(&node.prefixes, IpNetwork::is_ipv6),
        local: false,
    }
}

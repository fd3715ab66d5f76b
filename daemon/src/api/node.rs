//! `GET /v1/node`: this node and, once a cluster is joined, the others.

use super::{Refusal, answer};
use crate::agent::Agent;
use crate::api::query::Query;
use crate::server::Body;
use ::api::node as shape;
use hyper::Response;

pub fn list(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let node = &agent.node;
    let row = shape::Node {
        name: node.name.clone(),
        cluster: node.cluster.clone(),
        ipv4: node.ipv4.map(|address| address.to_string()),
        ipv6: node.ipv6.map(|address| address.to_string()),
        ipv4_alloc_cidr: node.ipv4_range.map(|range| range.to_string()),
        ipv6_alloc_cidr: node.ipv6_range.map(|range| range.to_string()),
        local: true,
    };
    answer(query, &[row])
}

//! `/v1/health…`: whether the nodes of the cluster reach each other.

use super::{Refusal, answer};
use crate::agent::Agent;
use crate::api::query::Query;
use crate::server::Body;
use ::api::health as shape;
use hyper::Response;
use state::NodeName;

/// `GET /v1/health`
pub fn get(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    answer(query, &gather(agent))
}

/// `PUT /v1/health/probe`: answered when all were probed, or the slowest take too long.
pub async fn probe(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    if let Some(health) = &agent.health {
        health.probe_now().await;
    }
    answer(query, &gather(agent))
}

pub fn gather(agent: &Agent) -> shape::Health {
    let local = NodeName { cluster: agent.node.cluster.clone(), name: agent.node.name.clone() };
    match &agent.health {
        Some(health) => health.results.borrow().show(&local),
        None => shape::Health { local: shape::Local { name: local.name }, ..shape::Health::default() },
    }
}

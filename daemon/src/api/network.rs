//! `/v1/network…`: the Docker networks that we serve.

use super::{Refusal, Request, answer, done};
use crate::agent::{Agent, DurableError, PLUGIN_LIMIT};
use crate::api::query::Query;
use crate::server::{Body, json};
use ::api::network as shape;
use hyper::{Response, StatusCode};
use state::{Input, Network, Subnet};

/// `GET /v1/network`
pub fn list(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let outputs = agent.snapshot();
    answer(query, &outputs.view.networks.values().map(shape_of).collect::<Vec<_>>())
}

/// `PUT /v1/network/{id}`: answered when it is on disk.
pub async fn put(agent: &Agent, mut request: Request) -> Result<Response<Body>, Refusal> {
    let id = request.parameter();
    let body: shape::Network = request.json()?;
    request.query.finish()?;
    if body.id != id {
        let message = format!("the path names network {id:?}, the body {:?}", body.id);
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    }
    let before = agent.snapshot().view.networks.get(&id).cloned();
    let network = state_of(body);
    match agent.submit_durably(Input::NetworkPut(network.clone()), PLUGIN_LIMIT).await {
        Ok(_) => Ok(json(StatusCode::OK, &shape_of(&network))),
        Err(DurableError::NotDurable { source, .. }) => {
            agent.inputs.tell(before.map_or(Input::NetworkDelete { id }, Input::NetworkPut)).await;
            Err(source.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// `DELETE /v1/network/{id}`
pub async fn delete(agent: &Agent, id: String) -> Result<Response<Body>, Refusal> {
    match agent.submit_durably(Input::NetworkDelete { id }, PLUGIN_LIMIT).await {
        Ok(_) => Ok(done()),
        Err(DurableError::NotDurable { source, .. }) => {
            tracing::warn!(error = %source, "a network is forgotten though the disk does not know yet");
            Ok(done())
        }
        Err(error) => Err(error.into()),
    }
}

fn shape_of(network: &Network) -> shape::Network {
    let subnet = |subnet: Subnet| shape::Subnet { subnet: subnet.subnet, gateway: subnet.gateway };
    shape::Network {
        id: network.id.clone(),
        ipv4: network.ipv4.map(subnet),
        ipv6: network.ipv6.map(subnet),
        internal: network.internal,
        mtu: network.mtu,
    }
}

fn state_of(network: shape::Network) -> Network {
    let subnet = |subnet: shape::Subnet| Subnet { subnet: subnet.subnet, gateway: subnet.gateway };
    Network {
        id: network.id,
        ipv4: network.ipv4.map(subnet),
        ipv6: network.ipv6.map(subnet),
        internal: network.internal,
        mtu: network.mtu,
    }
}

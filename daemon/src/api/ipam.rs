//! `/v1/ipam…`: pools and addresses. Nothing is answered before it is on disk, so that no crash forgets what Docker was
//! told; what cannot be kept is given back.

use super::{Refusal, Request, answer, done};
use crate::agent::{Agent, DurableError, PLUGIN_LIMIT};
use crate::api::query::Query;
use crate::server::{Body, json};
use ::api::ipam as shape;
use hyper::{Response, StatusCode};
use state::{AddressRequest, Family, Input, PoolRequest, PoolView, Purpose, Reply};
use std::net::IpAddr;

/// `GET /v1/ipam/pool`
pub fn pools(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let outputs = agent.snapshot();
    answer(query, &outputs.view.pools.values().map(shape_of).collect::<Vec<_>>())
}

/// `POST /v1/ipam/pool`
pub async fn request_pool(agent: &Agent, request: Request) -> Result<Response<Body>, Refusal> {
    let body: shape::PoolRequest = request.json()?;
    request.query.finish()?;
    let family = match body.family {
        shape::Family::Ipv4 => Family::V4,
        shape::Family::Ipv6 => Family::V6,
    };
    let wanted = PoolRequest { family, subnet: body.subnet, range: body.range };
    match keep(agent, Input::PoolRequest(wanted)).await? {
        Reply::Pool(pool) => Ok(json(StatusCode::OK, &shape_of(&pool))),
        other => Err(unexpected(&other)),
    }
}

/// `DELETE /v1/ipam/pool/{id}`
pub async fn release_pool(agent: &Agent, pool: String) -> Result<Response<Body>, Refusal> {
    release(agent, Input::PoolRelease { pool }).await
}

/// `POST /v1/ipam/address`
pub async fn request_address(agent: &Agent, request: Request) -> Result<Response<Body>, Refusal> {
    let body: shape::AddressRequest = request.json()?;
    request.query.finish()?;
    let purpose = if body.gateway { Purpose::Gateway } else { Purpose::Endpoint };
    let (pool, owner) = (body.pool, body.owner);
    let wanted = AddressRequest { pool, address: body.address, part: body.part, owner, purpose };
    match keep(agent, Input::AddressRequest(wanted)).await? {
        Reply::Address { pool, address } => Ok(json(StatusCode::OK, &shape::Address { address, pool })),
        other => Err(unexpected(&other)),
    }
}

/// `DELETE /v1/ipam/address/{pool}/{address}`
pub async fn release_address(agent: &Agent, mut request: Request) -> Result<Response<Body>, Refusal> {
    let (pool, text) = (request.parameter(), request.parameter());
    let address = text.parse::<IpAddr>();
    let address = address.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, format!("{text:?} is no IP address")))?;
    release(agent, Input::AddressRelease { pool, address }).await
}

/// Takes something in and waits until it is on disk; otherwise takes it back.
async fn keep(agent: &Agent, input: Input) -> Result<Reply, Refusal> {
    match agent.submit_durably(input, PLUGIN_LIMIT).await {
        Ok(accepted) => Ok(accepted.reply),
        Err(DurableError::NotDurable { accepted, source }) => {
            let back = match accepted.reply {
                Reply::Pool(pool) => Some(Input::PoolRelease { pool: pool.id }),
                Reply::Address { pool, address } => Some(Input::AddressRelease { pool, address }),
                Reply::Done | Reply::Endpoint(_) => None,
            };
            if let Some(back) = back {
                agent.inputs.tell(back).await;
            }
            Err(source.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives something back. Docker ignores failures and does not ask again: what the disk does not know yet is written as
/// soon as it can be.
async fn release(agent: &Agent, input: Input) -> Result<Response<Body>, Refusal> {
    match agent.submit_durably(input, PLUGIN_LIMIT).await {
        Ok(_) => Ok(done()),
        Err(DurableError::NotDurable { source, .. }) => {
            tracing::warn!(error = %source, "something was given back though the disk does not know yet");
            Ok(done())
        }
        Err(error) => Err(error.into()),
    }
}

fn unexpected(reply: &Reply) -> Refusal {
    tracing::error!(?reply, "the state answered an address request with something else");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the state answered something unexpected")
}

fn shape_of(pool: &PoolView) -> shape::Pool {
    shape::Pool {
        id: pool.id.clone(),
        family: match pool.family {
            Family::V4 => shape::Family::Ipv4,
            Family::V6 => shape::Family::Ipv6,
        },
        subnet: pool.subnet,
        range: pool.range,
        gateway: pool.gateway,
        node_pool: pool.node_pool,
        references: pool.references,
        allocated: pool.allocated,
    }
}

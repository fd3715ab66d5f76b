//! `/v1/ipam…`: pools and addresses. Nothing is answered before it is on disk, so that no crash forgets what Docker was
//! told; what cannot be kept is given back.

use super::{Refusal, Request, answer, done};
use crate::agent::{Agent, DurableError, PLUGIN_LIMIT};
use crate::api::query::Query;
use crate::blocks::{ClaimError, Want};
use crate::controllers::causes;
use crate::server::{Body, json};
use crate::writer::{Accepted, SubmitError};
use ::api::ipam as shape;
use hyper::{Response, StatusCode};
use ipnetwork::IpNetwork;
use state::{AddressRequest, Family, Input, PoolRequest, PoolView, Purpose, Rejected, Reply};
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
    let wanted = AddressRequest { pool, address: body.address, part: body.part, owner, purpose, may_claim: true };
    let (pool, address) = match claim_and_keep(agent, wanted).await? {
        Reply::Address { pool, address } => (pool, address),
        other => return Err(unexpected(&other)),
    };
    if body.gateway
        && let Err(refusal) = set_aside(agent, &pool, address).await
    {
        agent.inputs.tell(Input::AddressRelease { pool, address }).await;
        return Err(refusal);
    }
    Ok(json(StatusCode::OK, &shape::Address { address, pool }))
}

/// Claims of a subnet that other nodes share what the request needs, as often as it takes: a block may hold only
/// addresses that are no endpoint's.
async fn claim_and_keep(agent: &Agent, mut wanted: AddressRequest) -> Result<Reply, Refusal> {
    for _ in 0..CLAIMS {
        let refused = match agent.inputs.submit(Input::AddressRequest(wanted.clone())).await {
            Ok(accepted) => return kept(agent, accepted).await,
            Err(SubmitError::Rejected(refused)) => refused,
            Err(error) => return Err(error.into()),
        };
        let (subnet, want) = match refused {
            Rejected::BlockNeeded { subnet, range } => {
                // What is left is not given out as a block, or what rests would never be used again.
                (subnet, Want::Block { range: wanted.part.or(range).unwrap_or(subnet) })
            }
            Rejected::ClaimNeeded { subnet, address, reserved: true } => (subnet, Want::Aside(address)),
            Rejected::ClaimNeeded { subnet, address, reserved: false } => (subnet, Want::Address(address)),
            other => return Err(SubmitError::Rejected(other).into()),
        };
        match claim(agent, subnet, want).await {
            Ok(_) if matches!(want, Want::Aside(_)) => wanted.may_claim = false,
            Ok(block) => drop(keep(agent, Input::BlockTaken { pool: wanted.pool.clone(), block }).await?),
            Err(Claiming::Failed(ClaimError::NothingLeft { .. })) => wanted.may_claim = false,
            Err(error) => return Err(error.into()),
        }
    }
    wanted.may_claim = false;
    keep(agent, Input::AddressRequest(wanted)).await
}

/// How many blocks one request may take.
const CLAIMS: usize = 4;

/// Makes sure that no node gives the gateway of a shared subnet to an endpoint.
async fn set_aside(agent: &Agent, pool: &str, address: IpAddr) -> Result<(), Refusal> {
    let shared = agent.snapshot().view.pools.get(pool).filter(|pool| pool.blocks.is_some()).map(|pool| pool.subnet);
    if let Some(subnet) = shared {
        claim(agent, subnet, Want::Aside(address)).await?;
    }
    Ok(())
}

/// Why nothing was claimed.
#[derive(Debug, thiserror::Error)]
enum Claiming {
    #[error(transparent)]
    Failed(#[from] ClaimError),
    #[error(
        "the kvstore did not confirm a claim on {subnet} within {PLUGIN_LIMIT:?}; other nodes may have addresses of it"
    )]
    Slow { subnet: IpNetwork },
}

impl From<Claiming> for Refusal {
    fn from(error: Claiming) -> Refusal {
        let status = match &error {
            Claiming::Failed(ClaimError::Taken { .. } | ClaimError::NothingLeft { .. }) => StatusCode::CONFLICT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refusal::new(status, causes(&error))
    }
}

async fn claim(agent: &Agent, subnet: IpNetwork, want: Want) -> Result<IpNetwork, Claiming> {
    let taken = tokio::time::timeout(PLUGIN_LIMIT, agent.blocks.take(subnet, want)).await;
    Ok(taken.map_err(|_| Claiming::Slow { subnet })??)
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
    let accepted = agent.inputs.submit(input).await?;
    kept(agent, accepted).await
}

async fn kept(agent: &Agent, accepted: Accepted) -> Result<Reply, Refusal> {
    match agent.on_disk(accepted.outputs.records_revision, PLUGIN_LIMIT).await {
        Ok(()) => Ok(accepted.reply),
        Err(source) => {
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

//! `/v1/healthz`, `/v1/version`, `/v1/metrics`.

use super::{Refusal, answer};
use crate::agent::Agent;
use crate::api::query::Query;
use crate::server::{Body, whole, with_type};
use ::api::status::Version;
use hyper::{Response, StatusCode};

/// `GET /v1/healthz`: 200 also when something is wrong; the body says what.
pub async fn health(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    answer(query, &crate::status::gather(agent).await)
}

/// `GET /v1/version`
pub fn version(query: Query) -> Result<Response<Body>, Refusal> {
    answer(query, &Version { version: crate::VERSION.to_owned(), revision: crate::REVISION.to_owned() })
}

/// `GET /v1/metrics`
pub async fn metrics(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    query.finish()?;
    let text = crate::metrics::gather(agent).await;
    Ok(with_type(StatusCode::OK, "text/plain; version=0.0.4", whole(text)))
}

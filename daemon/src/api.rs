//! The API: which request is answered by which handler, and what a refusal looks like.
//!
//! Paths are those of `api::routes::ALL`, and only those; the handlers are one file for each resource. Until the agent
//! has read back its state a request waits for a moment and is then told to come again.

mod config;
mod datapath;
mod debuginfo;
mod docker;
mod endpoint;
pub mod health;
mod identity;
mod ipam;
mod kvstore;
mod monitor;
mod network;
mod node;
mod policy;
mod query;
mod service;
mod status;

use crate::agent::{Agent, DurableError, WaitError};
use crate::server::{Body, Call, Service, json, whole, with_type};
use crate::writer::SubmitError;
use ::api::{ErrorBody, Fault};
use bytes::Bytes;
use hyper::{Response, StatusCode, header};
use query::Query;
use serde::de::DeserializeOwned;
use state::RejectedKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a request waits for an agent that is just starting.
const START_LIMIT: Duration = Duration::from_millis(1200);

/// How far the start is.
#[derive(Clone)]
pub enum Stage {
    /// With what it is busy, for people.
    Starting(&'static str),
    Ready(Arc<Agent>),
}

/// Answers every call.
pub struct Api {
    pub stage: watch::Receiver<Stage>,
}

impl Service for Api {
    async fn answer(&self, call: Call) -> Response<Body> {
        match self.dispatch(call).await {
            Ok(response) => response,
            Err(refusal) => refusal.response(),
        }
    }
}

impl Api {
    async fn dispatch(&self, call: Call) -> Result<Response<Body>, Refusal> {
        let request = Request::recognise(call)?;
        let agent = self.agent().await?;
        handle(&agent, request).await
    }

    async fn agent(&self) -> Result<Arc<Agent>, Refusal> {
        let mut stage = self.stage.clone();
        let ready = stage.wait_for(|stage| matches!(stage, Stage::Ready(_)));
        if let Ok(Ok(stage)) = tokio::time::timeout(START_LIMIT, ready).await
            && let Stage::Ready(agent) = &*stage
        {
            return Ok(Arc::clone(agent));
        }
        let what = match &*self.stage.borrow() {
            Stage::Starting(what) => *what,
            Stage::Ready(agent) => return Ok(Arc::clone(agent)),
        };
        Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("the agent is still starting ({what}): try again")))
    }
}

/// A request whose path and method are known.
struct Request {
    method: &'static str,
    pattern: &'static str,
    /// What stands in the places of the pattern's `{parameters}`.
    parameters: Vec<String>,
    query: Query,
    body: Bytes,
}

impl Request {
    fn recognise(call: Call) -> Result<Request, Refusal> {
        let segments = query::segments(&call.path)?;
        let mut allowed = Vec::new();
        for (method, pattern, _) in ::api::routes::ALL {
            let Some(parameters) = matching(pattern, &segments) else { continue };
            if *method != call.method.as_str() {
                allowed.push(*method);
                continue;
            }
            let query = Query::parse(call.query.as_deref())?;
            return Ok(Request { method, pattern, parameters, query, body: call.body });
        }
        if allowed.is_empty() {
            return Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", call.path)));
        }
        let allowed = allowed.join(", ");
        let message = format!("{} is not possible at {}: only {allowed} is", call.method, call.path);
        Err(Refusal { allow: Some(allowed), ..Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message) })
    }

    /// The first parameter of the path.
    fn parameter(&mut self) -> String {
        if self.parameters.is_empty() { String::new() } else { self.parameters.remove(0) }
    }

    /// The body as JSON of a known shape. An empty one reads as `null`.
    fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let body: &[u8] = if self.body.is_empty() { b"null" } else { &self.body };
        serde_json::from_slice(body).map_err(|error| {
            let fault =
                Fault { path: format!("line {} column {}", error.line(), error.column()), message: error.to_string() };
            let message = format!("the body of {} {} is not what it should be: {error}", self.method, self.pattern);
            Refusal {
                body: ErrorBody { error: message, details: vec![fault] },
                ..Refusal::new(StatusCode::BAD_REQUEST, "")
            }
        })
    }
}

/// The parameters, if the segments fit the pattern. An empty segment is no parameter.
fn matching(pattern: &str, segments: &[String]) -> Option<Vec<String>> {
    let parts: Vec<&str> = pattern.trim_start_matches('/').split('/').collect();
    if parts.len() != segments.len() {
        return None;
    }
    let mut parameters = Vec::new();
    for (part, segment) in parts.iter().zip(segments) {
        if part.starts_with('{') && !segment.is_empty() {
            parameters.push(segment.clone());
        } else if part != segment {
            return None;
        }
    }
    Some(parameters)
}

async fn handle(agent: &Arc<Agent>, mut request: Request) -> Result<Response<Body>, Refusal> {
    match (request.method, request.pattern) {
        ("GET", "/v1/healthz") => status::health(agent, request.query).await,
        ("GET", "/v1/version") => status::version(request.query),
        ("GET", "/v1/metrics") => status::metrics(agent, request.query).await,
        ("GET", "/v1/config") => config::get(agent, request.query),
        ("PATCH", "/v1/config") => config::change(agent, request).await,
        ("GET", "/v1/debuginfo") => debuginfo::get(agent, request.query).await,
        ("PUT", "/v1/docker/endpoints") => docker::list(agent, request).await,
        ("GET", "/v1/endpoint") => endpoint::list(agent, request.query),
        ("PUT", "/v1/endpoint") => endpoint::create(agent, request).await,
        ("GET", "/v1/endpoint/{id}") => endpoint::get(agent, &request.parameter()),
        ("PATCH", "/v1/endpoint/{id}") => endpoint::change(agent, request).await,
        ("DELETE", "/v1/endpoint/{id}") => endpoint::delete(agent, &request.parameter()).await,
        ("GET", "/v1/endpoint/{id}/log") => endpoint::log(agent, &request.parameter()),
        ("GET", "/v1/endpoint/{id}/healthz") => endpoint::health(agent, &request.parameter()),
        ("GET", "/v1/health") => health::get(agent, request.query),
        ("PUT", "/v1/health/probe") => health::probe(agent, request.query).await,
        ("GET", "/v1/identity") => identity::list(agent, request.query),
        ("GET", "/v1/identity/{id}") => identity::get(agent, &request.parameter()),
        ("GET", "/v1/ip") => identity::ips(agent, request.query),
        ("GET", "/v1/ipam/pool") => ipam::pools(agent, request.query),
        ("POST", "/v1/ipam/pool") => ipam::request_pool(agent, request).await,
        ("DELETE", "/v1/ipam/pool/{id}") => ipam::release_pool(agent, request.parameter()).await,
        ("POST", "/v1/ipam/address") => ipam::request_address(agent, request).await,
        ("DELETE", "/v1/ipam/address/{pool}/{address}") => ipam::release_address(agent, request).await,
        ("GET", "/v1/kvstore") => kvstore::get(agent, request.query).await,
        ("PUT", "/v1/kvstore") => kvstore::put(agent, request).await,
        ("DELETE", "/v1/kvstore") => kvstore::delete(agent, request.query).await,
        ("GET", "/v1/map") => datapath::maps(agent, request.query).await,
        ("GET", "/v1/map/{name}") => datapath::map(agent, request).await,
        ("GET", "/v1/bpf/endpoint") => datapath::endpoints(agent, request.query).await,
        ("GET", "/v1/bpf/policy") => datapath::policies(agent, request.query).await,
        ("GET", "/v1/bpf/ct") => datapath::flows(agent, request.query).await,
        ("DELETE", "/v1/bpf/ct") => datapath::flush_flows(agent, request.query).await,
        ("GET", "/v1/bpf/nat") => datapath::nat(agent, request.query).await,
        ("GET", "/v1/bpf/lb") => datapath::load_balancer(agent, request.query).await,
        ("GET", "/v1/bpf/tunnel") => datapath::tunnel(agent, request.query).await,
        ("GET", "/v1/bpf/ipcache") => datapath::addresses(agent, request.query).await,
        ("GET", "/v1/bpf/metrics") => datapath::metrics(agent, request.query).await,
        ("GET", "/v1/monitor") => monitor::stream(agent, request.query),
        ("GET", "/v1/network") => network::list(agent, request.query),
        ("PUT", "/v1/network/{id}") => network::put(agent, request).await,
        ("DELETE", "/v1/network/{id}") => network::delete(agent, request.parameter()).await,
        ("GET", "/v1/node") => node::list(agent, request.query),
        ("GET", "/v1/openapi.json") => answer(request.query, &::api::openapi::document()),
        ("GET", "/v1/policy") => policy::get(agent, request.query),
        ("PUT", "/v1/policy") => policy::import(agent, request).await,
        ("DELETE", "/v1/policy") => policy::delete(agent, request).await,
        ("GET", "/v1/policy/status") => policy::status(agent, request.query).await,
        ("POST", "/v1/policy/trace") => policy::trace(agent, &request),
        ("GET", "/v1/policy/wait") => policy::progress(agent, request.query),
        ("GET", "/v1/service") => service::list(agent, request.query).await,
        ("PUT", "/v1/service") => service::import(agent, request).await,
        ("GET", "/v1/service/{id}") => service::get(agent, request).await,
        ("PUT", "/v1/service/{id}") => service::put(agent, request).await,
        ("DELETE", "/v1/service/{id}") => service::delete(agent, request).await,
        (method, pattern) => {
            Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, format!("{method} {pattern} is not part of this build")))
        }
    }
}

/// 200 with a JSON body, once it is sure that no parameter was misspelt.
fn answer(query: Query, body: &impl serde::Serialize) -> Result<Response<Body>, Refusal> {
    query.finish()?;
    Ok(json(StatusCode::OK, body))
}

/// 200 with nothing to say.
fn done() -> Response<Body> {
    with_type(StatusCode::OK, "application/json", whole("null"))
}

/// An answer that is no success.
#[derive(Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub body: ErrorBody,
    /// For 405: what would be allowed.
    allow: Option<String>,
}

impl Refusal {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Refusal {
        Refusal { status, body: ErrorBody { error: error.into(), details: Vec::new() }, allow: None }
    }

    pub fn with_faults(status: StatusCode, error: impl Into<String>, details: Vec<Fault>) -> Refusal {
        Refusal { status, body: ErrorBody { error: error.into(), details }, allow: None }
    }

    fn response(self) -> Response<Body> {
        let mut response = json(self.status, &self.body);
        if let Some(allow) = self.allow.and_then(|allow| header::HeaderValue::from_str(&allow).ok()) {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Refusal {
        let status = match &error {
            SubmitError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            SubmitError::Rejected(rejected) => match rejected.kind() {
                RejectedKind::Invalid => StatusCode::BAD_REQUEST,
                RejectedKind::NotFound => StatusCode::NOT_FOUND,
                RejectedKind::Conflict | RejectedKind::Exhausted => StatusCode::CONFLICT,
                RejectedKind::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            },
        };
        Refusal::new(status, error.to_string())
    }
}

impl From<WaitError> for Refusal {
    fn from(error: WaitError) -> Refusal {
        let status = match error {
            WaitError::Disk(_) => StatusCode::INSUFFICIENT_STORAGE,
            WaitError::DiskSlow(_) | WaitError::KernelSlow { .. } => StatusCode::GATEWAY_TIMEOUT,
            WaitError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refusal::new(status, error.to_string())
    }
}

impl From<DurableError> for Refusal {
    fn from(error: DurableError) -> Refusal {
        match error {
            DurableError::Submit(error) => error.into(),
            DurableError::NotDurable { source, .. } => source.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Method;

    fn call(method: &str, path: &str) -> Call {
        Call {
            method: Method::from_bytes(method.as_bytes()).unwrap(),
            path: path.to_owned(),
            query: None,
            body: Bytes::new(),
        }
    }

    #[test]
    fn every_documented_route_is_recognised() {
        for (method, pattern, _) in ::api::routes::ALL {
            let path =
                pattern.replace("{id}", "7").replace("{pool}", "p").replace("{address}", "::1").replace("{name}", "m");
            let request = Request::recognise(call(method, &path)).unwrap();
            assert_eq!((request.method, request.pattern), (*method, *pattern));
        }
    }

    #[test]
    fn every_documented_route_has_a_handler() {
        let source = include_str!("api.rs");
        for (method, pattern, _) in ::api::routes::ALL {
            assert!(source.contains(&format!("(\"{method}\", \"{pattern}\") =>")), "{method} {pattern}");
        }
    }

    #[test]
    fn unknown_paths_and_methods_are_told_apart() {
        let status = |method, path| {
            Request::recognise(call(method, path)).err().map(|refusal| (refusal.status.as_u16(), refusal.allow))
        };
        assert_eq!(status("GET", "/v1/nothing"), Some((404, None)));
        assert_eq!(status("GET", "/"), Some((404, None)));
        assert_eq!(status("GET", "/v1/endpoint/"), Some((404, None)));
        assert_eq!(status("POST", "/v1/endpoint"), Some((405, Some("GET, PUT".to_owned()))));
        assert_eq!(status("OPTIONS", "/v1/healthz"), Some((405, Some("GET".to_owned()))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_starting_agent_says_with_what_it_is_busy() {
        let (_sender, stage) = watch::channel(Stage::Starting("opening the store"));
        let refusal = Api { stage }.dispatch(call("GET", "/v1/healthz")).await.err().unwrap();
        assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refusal.body.error.contains("opening the store"));
    }
}

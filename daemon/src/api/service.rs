//! `/v1/service…`: services are listed, made, changed and deleted, one by its number or several out of a file.
//!
//! A change is answered when the kvstore has it and this node knows it; what the kernel has of it is told by the next
//! question.

mod document;

use super::{Refusal, Request, answer, done};
use crate::agent::Agent;
use crate::api::query::Query;
use crate::controllers::causes;
use crate::server::{Body, json};
use crate::services::store::StoreError;
use ::api::Fault;
use ::api::service as shape;
use hyper::{Response, StatusCode};
use model::desired::{Object, Status};
use model::service::ServiceType;
use model::{L4Address, LoadBalancer, ServiceId};
use state::Outputs;
use state::services::ServiceView;
use state::services::definition::{Backend, BackendState, Frontend, Service, ServiceFault, TrafficPolicy};
use state::services::record;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a question waits for the kernel to be as the state is.
const KERNEL_LIMIT: Duration = Duration::from_millis(500);
/// How long a change waits until this node knows of it.
const KNOWN_LIMIT: Duration = Duration::from_secs(3);
/// Largest number of services in one file.
const MAX_IMPORTED: usize = 10_000;

/// What the kernel has of a snapshot: nothing is said of one that it has not come to.
struct Realised {
    outputs: Arc<Outputs>,
    status: Option<Arc<Status>>,
    failure: Option<String>,
}

impl Realised {
    async fn now(agent: &Agent) -> Realised {
        let outputs = agent.snapshot();
        let status = agent.in_kernel(outputs.datapath_revision(), KERNEL_LIMIT).await;
        let failure = status.as_ref().err().map(ToString::to_string);
        Realised { outputs, status: status.ok(), failure }
    }

    fn service(&self, id: ServiceId, view: &ServiceView) -> Option<shape::Service> {
        let frontend = view.frontend()?;
        let spec = spec(id, &view.service, frontend);
        let balancer = self.balancer(id, frontend.address);
        let failing = self.status.as_ref().and_then(|status| self.failure(status, id, frontend.address));
        let failure = view.refused.clone().or(failing).or_else(|| self.failure.clone());
        let in_kernel = self.status.is_some() && failure.is_none();
        let realized = balancer.filter(|_| in_kernel).map(|balancer| {
            let of_table = |backend: &shape::BackendAddress| {
                let protocol = frontend.address.protocol;
                let address = L4Address { ip: backend.ip, port: backend.port, protocol };
                frontend.address.ip.is_unspecified() || balancer.backends.binary_search(&address).is_ok()
            };
            shape::ServiceSpec {
                backend_addresses: spec.backend_addresses.iter().filter(|b| of_table(b)).cloned().collect(),
                ..spec.clone()
            }
        });
        Some(shape::Service { spec, status: shape::ServiceStatus { realized, failure } })
    }

    /// What the kernel was told to do at the frontend.
    fn balancer(&self, id: ServiceId, address: L4Address) -> Option<&Arc<LoadBalancer>> {
        let services = &self.outputs.datapath.as_ref()?.services;
        services.get(&address).filter(|balancer| balancer.id == id)
    }

    /// Why the kernel could not, at the frontend or at an address that it stands for.
    fn failure(&self, status: &Status, id: ServiceId, address: L4Address) -> Option<String> {
        let services = &self.outputs.datapath.as_ref()?.services;
        status.failing.iter().find_map(|(object, failure)| match object {
            Object::Service(failing)
                if failing.port == address.port && services.get(failing).is_some_and(|held| held.id == id) =>
            {
                Some(format!("{object}: {}", failure.message))
            }
            _ => None,
        })
    }
}

/// A frontend as the API shows it.
fn spec(id: ServiceId, service: &Service, frontend: &Frontend) -> shape::ServiceSpec {
    let of_port = |backend: &&Backend| {
        backend.port == frontend.port
            && backend.address.protocol == frontend.address.protocol
            && backend.address.ip.is_ipv4() == frontend.address.ip.is_ipv4()
    };
    let backend = |backend: &Backend| shape::BackendAddress {
        ip: backend.address.ip,
        port: backend.address.port,
        protocol: backend.address.protocol.to_string(),
        weight: backend.weight,
        state: backend.state.to_string(),
        node_name: backend.node.clone(),
    };
    let policy = |policy| match policy {
        TrafficPolicy::Cluster => "Cluster".to_owned(),
        TrafficPolicy::Local => "Local".to_owned(),
    };
    shape::ServiceSpec {
        id: id.0,
        frontend_address: shape::FrontendAddress {
            ip: frontend.address.ip,
            protocol: frontend.address.protocol.to_string(),
            port: frontend.address.port,
        },
        backend_addresses: service.backends.iter().filter(of_port).map(backend).collect(),
        flags: shape::ServiceFlags {
            kind: frontend.kind.to_string(),
            ext_traffic_policy: policy(service.external),
            int_traffic_policy: policy(service.internal),
            session_affinity: service.affinity.unwrap_or_default(),
            source_ranges: service.source_ranges.iter().map(ToString::to_string).collect(),
            prefer_same_node: service.prefer_local,
            algorithm: service.algorithm.map(|algorithm| record::algorithm_name(algorithm).to_owned()),
            name: service.name.name.clone(),
            namespace: service.name.space.clone(),
        },
    }
}

/// `GET /v1/service`
pub async fn list(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let realised = Realised::now(agent).await;
    let services = &realised.outputs.view.services;
    let all: Vec<_> = services.iter().filter_map(|(id, view)| realised.service(*id, view)).collect();
    answer(query, &all)
}

/// `GET /v1/service/{id}`
pub async fn get(agent: &Agent, mut request: Request) -> Result<Response<Body>, Refusal> {
    let id = number(&request.parameter())?;
    let realised = Realised::now(agent).await;
    let view = realised.outputs.view.services.get(&id);
    match view.and_then(|view| realised.service(id, view)) {
        Some(service) => answer(request.query, &service),
        None => Err(refusal(StoreError::NotFound(id))),
    }
}

/// `PUT /v1/service/{id}`
pub async fn put(agent: &Agent, mut request: Request) -> Result<Response<Body>, Refusal> {
    let id = number(&request.parameter())?;
    let body: shape::ServiceSpec = request.json()?;
    request.query.finish()?;
    let written = agent.services.put_numbered(read(agent, id, &body)?).await.map_err(refusal)?;
    let service = written.service;
    let known = |outputs: &Outputs| outputs.view.services.get(&id).is_some_and(|view| *view.service == service);
    wait_until(agent, known).await;
    let realised = Realised::now(agent).await;
    let shown = realised.outputs.view.services.get(&id).and_then(|view| realised.service(id, view));
    let shown = shown.or_else(|| {
        let spec = spec(id, &service, service.frontends.first()?);
        let failure = Some("this node has not heard of it yet".to_owned());
        Some(shape::Service { spec, status: shape::ServiceStatus { realized: None, failure } })
    });
    tracing::info!(service = %id, created = written.created, changed = written.changed, "a service was written");
    Ok(json(if written.created { StatusCode::CREATED } else { StatusCode::OK }, &shown))
}

/// `DELETE /v1/service/{id}`
pub async fn delete(agent: &Agent, mut request: Request) -> Result<Response<Body>, Refusal> {
    let id = number(&request.parameter())?;
    request.query.finish()?;
    if id.0 >= state::services::definition::LOCAL_IDS {
        let message = format!("service {id} is a published port of a container: it goes with that");
        return Err(Refusal::new(StatusCode::CONFLICT, message));
    }
    agent.services.delete(id).await.map_err(refusal)?;
    wait_until(agent, |outputs| !outputs.view.services.contains_key(&id)).await;
    tracing::info!(service = %id, "a service was deleted");
    Ok(done())
}

/// `PUT /v1/service`: the services of documents. Nothing is written unless all of them are sound; each is then written by
/// itself.
pub async fn import(agent: &Agent, request: Request) -> Result<Response<Body>, Refusal> {
    let documents: Vec<serde_json::Value> = request.json()?;
    request.query.finish()?;
    let services = document::read(&documents, &agent.node.cluster).map_err(faulty)?;
    if services.len() > MAX_IMPORTED {
        let message = format!("the file has {} services, and one may have {MAX_IMPORTED}", services.len());
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    document::check_against(&services, &agent.snapshot().view).map_err(faulty)?;
    let mut imported = Vec::new();
    let mut last = None;
    for service in services {
        let name = service.name.clone();
        let written = agent.services.put_named(service).await.map_err(|error| {
            let refusal = refusal(error);
            let done = imported.len();
            let message = format!("service {name}: {}; {done} services before it were written", refusal.body.error);
            Refusal::with_faults(refusal.status, message, refusal.body.details)
        })?;
        imported.push(shape::ImportedService {
            namespace: name.space,
            name: name.name,
            ids: written.service.frontends.iter().map(|frontend| frontend.id.0).collect(),
            created: written.created,
            changed: written.changed,
        });
        last = Some(written.service);
    }
    if let Some(service) = last {
        let known = |outputs: &Outputs| {
            let ids = service.frontends.iter().map(|frontend| frontend.id);
            ids.into_iter().all(|id| outputs.view.services.get(&id).is_some_and(|v| v.service.name == service.name))
        };
        wait_until(agent, known).await;
    }
    Ok(json(StatusCode::OK, &shape::Imported { services: imported }))
}

/// What is written is known here a moment later, by the watch; a node that hears nothing answers all the same.
async fn wait_until(agent: &Agent, holds: impl Fn(&Outputs) -> bool) {
    let mut outputs = agent.outputs.clone();
    let _ = tokio::time::timeout(KNOWN_LIMIT, outputs.wait_for(|outputs| holds(outputs))).await;
}

fn number(text: &str) -> Result<ServiceId, Refusal> {
    match text.parse::<u32>() {
        Ok(id) if id > 0 => Ok(ServiceId(id)),
        _ => Err(Refusal::new(StatusCode::BAD_REQUEST, format!("{text:?} is no number of a service"))),
    }
}

/// Cilium's codes for a frontend and for a backend that cannot be one.
const BAD_FRONTEND: u16 = 460;
const BAD_BACKEND: u16 = 461;

fn code(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST)
}

/// The service that a body is, with all that is wrong with it.
fn read(agent: &Agent, id: ServiceId, body: &shape::ServiceSpec) -> Result<Service, Refusal> {
    let mut faults: Vec<Fault> = Vec::new();
    let mut bad_backend = false;
    let mut fault = |path: String, message: String| faults.push(Fault { path, message });
    if body.id != 0 && body.id != id.0 {
        fault("id".to_owned(), format!("it is {}, and that of the path is {id}", body.id));
    }
    let flags = &body.flags;
    let kind = record::kind(&flags.kind);
    if kind.is_none() {
        fault("flags.type".to_owned(), format!("{:?} is no type of service", flags.kind));
    }
    let protocol = record::protocol(&body.frontend_address.protocol);
    if protocol.is_none() {
        let message = format!("{:?} is none of TCP, UDP and SCTP", body.frontend_address.protocol);
        fault("frontend-address.protocol".to_owned(), message);
    }
    let mut policy = |path: &str, text: &str| match text {
        "Cluster" => TrafficPolicy::Cluster,
        "Local" => TrafficPolicy::Local,
        _ => {
            fault(format!("flags.{path}"), format!("{text:?} is neither Cluster nor Local"));
            TrafficPolicy::Cluster
        }
    };
    let external = policy("extTrafficPolicy", &flags.ext_traffic_policy);
    let internal = policy("intTrafficPolicy", &flags.int_traffic_policy);
    let mut source_ranges = Vec::new();
    for (n, text) in flags.source_ranges.iter().enumerate() {
        match text.parse() {
            Ok(range) => source_ranges.push(range),
            Err(_) => fault(format!("flags.sourceRanges[{n}]"), format!("{text:?} is no CIDR prefix")),
        }
    }
    let algorithm = flags.algorithm.as_deref().and_then(|text| {
        let known = record::algorithm(text);
        if known.is_none() {
            fault("flags.algorithm".to_owned(), format!("{text:?} is neither random nor maglev"));
        }
        known
    });
    let protocol = protocol.unwrap_or(model::Protocol::TCP);
    let mut backends = Vec::new();
    for (n, given) in body.backend_addresses.iter().enumerate() {
        let state = BackendState::parse(&given.state);
        let family = given.ip.is_ipv4() == body.frontend_address.ip.is_ipv4();
        let before = faults.len();
        let mut fault = |what: &str, message: String| {
            faults.push(Fault { path: format!("backend-addresses[{n}]{what}"), message });
        };
        if !family {
            fault(".ip", format!("{} and {} are of two families", given.ip, body.frontend_address.ip));
        }
        if record::protocol(&given.protocol) != Some(protocol) {
            fault(".protocol", format!("{:?} is not the frontend's", given.protocol));
        }
        if state.is_none() {
            fault(".state", format!("{:?} is no state of a backend", given.state));
        }
        let backend = Backend {
            address: L4Address { ip: given.ip, port: given.port, protocol },
            port: String::new(),
            weight: given.weight,
            state: state.unwrap_or_default(),
            node: given.node_name.clone(),
        };
        if let Some(message) = backend.fault() {
            fault("", message);
        }
        bad_backend |= faults.len() > before;
        backends.push(backend);
    }
    let address = L4Address { ip: body.frontend_address.ip, port: body.frontend_address.port, protocol };
    let kind = kind.unwrap_or(ServiceType::ClusterIp);
    let service = Service {
        name: agent.services.name_by_number(id),
        frontends: vec![Frontend { id, kind, address, port: String::new() }],
        backends,
        external,
        internal,
        affinity: (flags.session_affinity > 0).then_some(flags.session_affinity),
        source_ranges,
        prefer_local: flags.prefer_same_node,
        algorithm,
    };
    if faults.is_empty() {
        faults.extend(service.faults().into_iter().map(fault_of));
        bad_backend = faults.first().is_some_and(|fault| fault.path.starts_with("backends"));
    }
    let (taken, message) = (taken(agent, id, address), "the frontend is another service's");
    if let Some(other) = taken.filter(|_| faults.is_empty()) {
        let fault = Fault { path: "frontend-address".to_owned(), message: format!("{address} is service {other}'s") };
        return Err(Refusal::with_faults(code(BAD_FRONTEND), message, vec![fault]));
    }
    if faults.is_empty() {
        return Ok(service);
    }
    let status = code(if bad_backend { BAD_BACKEND } else { BAD_FRONTEND });
    Err(Refusal::with_faults(status, "the service is not possible", faults))
}

/// The other service that has the frontend, as far as this node knows.
fn taken(agent: &Agent, id: ServiceId, address: L4Address) -> Option<ServiceId> {
    let outputs = agent.snapshot();
    let held = outputs.datapath.as_ref()?.services.get(&address)?;
    (held.id != id).then_some(held.id)
}

fn fault_of(fault: ServiceFault) -> Fault {
    Fault { path: fault.path, message: fault.message }
}

fn faulty(faults: Vec<Fault>) -> Refusal {
    Refusal::with_faults(StatusCode::BAD_REQUEST, "the services are not possible; nothing was changed", faults)
}

fn refusal(error: StoreError) -> Refusal {
    let status = match &error {
        StoreError::NotFound(_) => StatusCode::NOT_FOUND,
        StoreError::OtherFrontend { .. } => code(BAD_FRONTEND),
        StoreError::OfFile { .. }
        | StoreError::NumberTaken { .. }
        | StoreError::Record { .. }
        | StoreError::Exhausted
        | StoreError::Contended => StatusCode::CONFLICT,
        StoreError::Faulty(_) => StatusCode::BAD_REQUEST,
        StoreError::TooMany { .. } | StoreError::Store(kvstore::Error::Invalid { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
        StoreError::Encode(_) => StatusCode::INTERNAL_SERVER_ERROR,
        StoreError::Store(kvstore::Error::Storage { .. }) => StatusCode::INSUFFICIENT_STORAGE,
        StoreError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let message = causes(&error);
    match error {
        StoreError::Faulty(faults) => Refusal::with_faults(status, message, faults.into_iter().map(fault_of).collect()),
        _ => Refusal::new(status, message),
    }
}

/// For the unspecified address of a family.
fn unspecified(ipv4: bool) -> IpAddr {
    if ipv4 { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

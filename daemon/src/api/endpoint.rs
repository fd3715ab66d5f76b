//! `/v1/endpoint…`: endpoints are made, told what was learnt about them, shown, and taken down.
//!
//! Docker waits for the answers to PUT, PATCH and DELETE: each ends within the plugin's limit.

mod ports;

use super::{Refusal, Request, answer, done};
use crate::agent::{Agent, DurableError, PLUGIN_LIMIT, WaitError};
use crate::api::query::Query;
use crate::server::{Body, json};
use crate::writer::Accepted;
use ::api::endpoint as shape;
use hyper::{Response, StatusCode};
use model::desired::{Object, Status};
use model::{EndpointId, EndpointState};
use state::services::Published;
use state::{EndpointChange, EndpointCreate, EndpointRef, EndpointView, Input, Outputs, Reply};
use std::time::Duration;
use tokio::time::Instant;

/// How long a DELETE whose record is on disk already waits for the kernel as well.
const REMOVAL_WAIT: Duration = Duration::from_millis(500);
/// How long PATCH waits for the kernel when the request does not say.
const DEFAULT_WAIT: Duration = Duration::from_millis(1000);

/// `GET /v1/endpoint`
pub fn list(agent: &Agent, mut query: Query) -> Result<Response<Body>, Refusal> {
    let wanted = super::identity::selectors(&query.all("label"))?;
    let outputs = agent.snapshot();
    let endpoints: Vec<_> = outputs
        .view
        .endpoints
        .values()
        .filter(|endpoint| super::identity::has_all(&endpoint.identity_labels, &wanted))
        .map(|endpoint| shape_of(endpoint))
        .collect();
    answer(query, &endpoints)
}

/// `GET /v1/endpoint/{id}`
pub fn get(agent: &Agent, id: &str) -> Result<Response<Body>, Refusal> {
    let outputs = agent.snapshot();
    Ok(json(StatusCode::OK, &shape_of(find(&outputs, id)?)))
}

/// `GET /v1/endpoint/{id}/log`
pub fn log(agent: &Agent, id: &str) -> Result<Response<Body>, Refusal> {
    let outputs = agent.snapshot();
    let entries: Vec<_> = find(&outputs, id)?.log.iter().map(log_entry).collect();
    Ok(json(StatusCode::OK, &entries))
}

pub fn log_entry(entry: &state::LogEntry) -> shape::LogEntry {
    shape::LogEntry {
        timestamp: timestamp(entry.at),
        code: if entry.failed { "failed" } else { "ok" }.to_owned(),
        message: entry.message.clone(),
        state: entry.state.to_string(),
    }
}

/// RFC 3339 with milliseconds, UTC.
fn timestamp(at: state::Timestamp) -> String {
    let milliseconds = i64::try_from(at.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(milliseconds) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => milliseconds.to_string(),
    }
}

/// `GET /v1/endpoint/{id}/healthz`
pub fn health(agent: &Agent, id: &str) -> Result<Response<Body>, Refusal> {
    let outputs = agent.snapshot();
    let endpoint = find(&outputs, id)?;
    let word = match endpoint.state {
        EndpointState::Ready => "OK",
        EndpointState::Creating | EndpointState::WaitingForIdentity | EndpointState::Restoring => "Bootstrap",
        EndpointState::Regenerating => "Pending",
        EndpointState::NotReady => "Failure",
        EndpointState::Disconnecting | EndpointState::Disconnected => "Disabled",
    };
    let in_kernel = agent.kernel.borrow().as_ref().map(|kernel| {
        let status = kernel.status.borrow();
        (
            status.failing.contains_key(&Object::Endpoint(endpoint.id)),
            status.failing.contains_key(&Object::Policy(endpoint.identity)),
        )
    });
    let part = |failing: bool| if failing { "Failure" } else { word };
    let (bpf, policy) = match in_kernel {
        None => ("Bootstrap", "Bootstrap"),
        Some((bpf, policy)) => (part(bpf), part(policy)),
    };
    let health = shape::EndpointHealth {
        overall_health: word.to_owned(),
        bpf: bpf.to_owned(),
        policy: policy.to_owned(),
        connected: endpoint.sandbox.is_some(),
    };
    Ok(json(StatusCode::OK, &health))
}

/// `PUT /v1/endpoint`: answered when the endpoint is on disk and in the kernel. What cannot be made is taken back.
pub async fn create(agent: &Agent, request: Request) -> Result<Response<Body>, Refusal> {
    let body: shape::EndpointCreate = request.json()?;
    request.query.finish()?;
    let reference = EndpointRef::Docker(body.docker_endpoint_id.clone());
    let known_before = agent.snapshot().view.find(&reference).is_some();
    let deadline = Instant::now() + PLUGIN_LIMIT;
    let input = Input::EndpointCreate(EndpointCreate {
        docker_endpoint_id: body.docker_endpoint_id,
        docker_network_id: body.docker_network_id,
        ipv4: body.ipv4,
        ipv6: body.ipv6,
        mac: body.mac,
    });
    let accepted = agent.inputs.submit(input).await?;
    let id = endpoint_of(&accepted)?;
    match made(agent, &accepted, id, deadline).await {
        Ok(()) => shown(agent, id, StatusCode::OK),
        Err(error) => {
            if !known_before {
                take_back(agent, id).await;
            }
            let message = format!("endpoint {reference} cannot be made: {}", error.body.error);
            Err(Refusal::new(error.status, message))
        }
    }
}

fn endpoint_of(accepted: &Accepted) -> Result<EndpointId, Refusal> {
    match &accepted.reply {
        Reply::Endpoint(id) => Ok(*id),
        Reply::Done | Reply::Pool(_) | Reply::Address { .. } => {
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the state answered something else than an endpoint"))
        }
    }
}

/// Waits for disk and kernel together, and says what the kernel could not do.
async fn made(agent: &Agent, accepted: &Accepted, id: EndpointId, deadline: Instant) -> Result<(), Refusal> {
    let left = deadline.saturating_duration_since(Instant::now());
    let outputs = &accepted.outputs;
    let (disk, kernel) =
        tokio::join!(agent.on_disk(outputs.records_revision, left), agent.in_kernel(outputs.datapath_revision(), left));
    disk?;
    match failure_of(&*kernel?, outputs, id) {
        None => Ok(()),
        Some(message) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message)),
    }
}

/// What keeps this endpoint from working; other objects' failures are no concern of its.
fn failure_of(status: &Status, outputs: &Outputs, id: EndpointId) -> Option<String> {
    let identity = outputs.view.endpoints.get(&id).map(|endpoint| endpoint.identity);
    let objects = [Some(Object::Endpoint(id)), identity.map(Object::Policy), Some(Object::Node("programs"))];
    objects.iter().flatten().find_map(|object| status.failing.get(object).map(|f| format!("{object}: {}", f.message)))
}

/// Nothing is left of an endpoint that could not be made; what cannot be undone now is undone by the reconcilers later.
async fn take_back(agent: &Agent, id: EndpointId) {
    let input = Input::EndpointDelete { endpoint: EndpointRef::Id(id) };
    if let Err(error) = agent.inputs.submit(input).await {
        tracing::warn!(endpoint = %id, %error, "an endpoint that could not be made could not be taken back");
    }
}

/// `PATCH /v1/endpoint/{id}`: answered when what was learnt is on disk, and, when it makes an identity, the kernel
/// enforces that; or after `wait-ms` with the state so far.
pub async fn change(agent: &Agent, mut request: Request) -> Result<Response<Body>, Refusal> {
    let reference = reference(&request.parameter())?;
    let body: shape::EndpointChange = request.json()?;
    request.query.finish()?;
    let wait = body.wait_ms.map_or(DEFAULT_WAIT, Duration::from_millis).min(PLUGIN_LIMIT);
    let deadline = Instant::now() + wait;
    let labelled = body.container_labels.is_some();
    let chosen = match &body.published {
        Some(wanted) => {
            let outputs = agent.snapshot();
            let unknown = || Refusal::new(StatusCode::NOT_FOUND, format!("there is no endpoint {reference}"));
            let endpoint = outputs.view.find(&reference).ok_or_else(unknown)?;
            Some(ports::choose(wanted, endpoint, &outputs)?)
        }
        None => None,
    };
    let change = EndpointChange {
        container_id: body.container_id,
        container_name: body.container_name,
        container_labels: body.container_labels,
        sandbox: body.sandbox,
        published: chosen.as_ref().map(|chosen| chosen.ports.clone()),
    };
    let accepted = agent.submit_durably(Input::EndpointChange { endpoint: reference, change }, PLUGIN_LIMIT).await?;
    let id = endpoint_of(&accepted)?;
    if chosen.as_ref().is_some_and(|chosen| !chosen.ports.is_empty()) {
        // Docker says that the port is there when this is answered.
        let left = deadline.max(Instant::now()).saturating_duration_since(Instant::now());
        agent.in_kernel(accepted.outputs.datapath_revision(), left).await?;
    }
    drop(chosen);
    if labelled {
        enforced(agent, id, deadline).await;
    }
    shown(agent, id, StatusCode::OK)
}

/// Waits until the endpoint enforces the policy of the identity its labels make, or cannot, or the time is up.
async fn enforced(agent: &Agent, id: EndpointId, deadline: Instant) {
    let mut outputs = agent.outputs.clone();
    let settled = outputs.wait_for(|outputs| match outputs.view.endpoints.get(&id) {
        None => true,
        Some(endpoint) => matches!(endpoint.state, EndpointState::Ready | EndpointState::NotReady),
    });
    // Running out of time is no failure: the answer says which state was reached.
    let _ = tokio::time::timeout_at(deadline, settled).await;
}

/// `DELETE /v1/endpoint/{id}`: an endpoint that is not there is a success. Docker ignores a failure and never asks
/// again, so what takes longer goes on after the answer.
pub async fn delete(agent: &Agent, id: &str) -> Result<Response<Body>, Refusal> {
    let input = Input::EndpointDelete { endpoint: reference(id)? };
    let accepted = match agent.submit_durably(input, PLUGIN_LIMIT).await {
        Ok(accepted) => accepted,
        Err(DurableError::NotDurable { accepted, source: source @ (WaitError::Disk(_) | WaitError::DiskSlow(_)) }) => {
            tracing::warn!(endpoint = id, error = %source, "an endpoint is taken down though the disk does not know yet");
            *accepted
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(revision) = accepted.outputs.datapath_revision()
        && let Err(error) = agent.in_kernel(Some(revision), REMOVAL_WAIT).await
    {
        tracing::debug!(endpoint = id, %error, "an endpoint's removal from the kernel goes on after the answer");
    }
    Ok(done())
}

fn shown(agent: &Agent, id: EndpointId, status: StatusCode) -> Result<Response<Body>, Refusal> {
    let outputs = agent.snapshot();
    match outputs.view.endpoints.get(&id) {
        Some(endpoint) => Ok(json(status, &shape_of(endpoint))),
        None => Err(Refusal::new(StatusCode::NOT_FOUND, format!("endpoint {id} was taken down meanwhile"))),
    }
}

fn find<'a>(outputs: &'a Outputs, id: &str) -> Result<&'a EndpointView, Refusal> {
    let reference = reference(id)?;
    match outputs.view.find(&reference) {
        Some(endpoint) => Ok(endpoint),
        None => Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no endpoint {reference}"))),
    }
}

/// Reads an endpoint id in one of its forms; a plain number is the agent's own.
pub fn reference(text: &str) -> Result<EndpointRef, Refusal> {
    let bad = |why: &str| Err(Refusal::new(StatusCode::BAD_REQUEST, format!("{text:?} is no endpoint id: {why}")));
    let (prefix, value) = text.split_once(':').unwrap_or(("cilium-local", text));
    if value.is_empty() {
        return bad("nothing follows the colon");
    }
    match prefix {
        "cilium-local" => match value.parse::<u16>() {
            Ok(number) if number > 0 => Ok(EndpointRef::Id(EndpointId(number))),
            _ => bad("a number from 1 to 65535 is needed"),
        },
        "docker-endpoint" => Ok(EndpointRef::Docker(value.to_owned())),
        "container-id" => Ok(EndpointRef::ContainerId(value.to_owned())),
        "container-name" => Ok(EndpointRef::ContainerName(value.trim_start_matches('/').to_owned())),
        "ipv4" => match value.parse::<std::net::Ipv4Addr>() {
            Ok(address) => Ok(EndpointRef::Address(address.into())),
            Err(_) => bad("an IPv4 address is needed"),
        },
        "ipv6" => match value.parse::<std::net::Ipv6Addr>() {
            Ok(address) => Ok(EndpointRef::Address(address.into())),
            Err(_) => bad("an IPv6 address is needed"),
        },
        _ => bad("known prefixes are cilium-local, docker-endpoint, container-id, container-name, ipv4, ipv6"),
    }
}

/// An endpoint as the API shows it.
pub fn shape_of(endpoint: &EndpointView) -> shape::Endpoint {
    let texts = |labels: &model::Labels| labels.iter().map(ToString::to_string).collect::<Vec<_>>();
    let enabled = match (endpoint.enforced_ingress, endpoint.enforced_egress) {
        (false, false) => "none",
        (true, false) => "ingress",
        (false, true) => "egress",
        (true, true) => "both",
    };
    shape::Endpoint {
        id: endpoint.id.0,
        docker_endpoint_id: endpoint.docker_endpoint_id.clone(),
        docker_network_id: endpoint.docker_network_id.clone(),
        container_id: endpoint.container_id.clone(),
        container_name: endpoint.container_name.clone(),
        state: endpoint.state,
        failure: endpoint.failure.clone(),
        identity: shape::EndpointIdentity { id: endpoint.identity, labels: texts(&endpoint.identity_labels) },
        labels: shape::EndpointLabels {
            security_relevant: endpoint.labels.as_deref().map(texts).unwrap_or_default(),
            disabled: texts(&endpoint.disabled_labels),
        },
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
        gateway4: endpoint.gateway4,
        gateway6: endpoint.gateway6,
        mac: endpoint.mac,
        node_mac: endpoint.node_mac,
        interface_name: endpoint.ifname.clone(),
        peer_interface_name: endpoint.peer_ifname.clone(),
        mtu: endpoint.mtu,
        policy: shape::EndpointPolicy { enabled: enabled.to_owned(), revision: endpoint.policy_revision },
        created: endpoint.created.0 / 1000,
        published: endpoint.published.iter().map(published).collect(),
    }
}

fn published(port: &Published) -> shape::PublishedPort {
    shape::PublishedPort {
        address: Some(port.address),
        host_port: port.host_port,
        host_port_end: 0,
        protocol: port.protocol.to_string(),
        container_port: port.container_port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_id_is_read() {
        let ok = |text: &str| reference(text).unwrap().to_string();
        assert_eq!(ok("7"), "7");
        assert_eq!(ok("cilium-local:7"), "7");
        assert_eq!(ok("docker-endpoint:abc"), "docker-endpoint:abc");
        assert_eq!(ok("container-name:/app1"), "container-name:app1");
        assert_eq!(ok("ipv6:f00d::1"), "ipv6:f00d::1");
    }

    #[test]
    fn other_ids_are_refused() {
        for text in ["", "0", "65536", "-1", "x", "pod-name:a", "ipv4:f00d::1", "docker-endpoint:", "ipv6:1.2.3.4"] {
            assert!(reference(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(state::Timestamp(1_500)), "1970-01-01T00:00:01.500Z");
    }
}

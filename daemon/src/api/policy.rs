//! `/v1/policy…`: rules are imported and deleted as a whole or not at all, shown, waited for and asked.

use super::{Refusal, Request, answer};
use crate::agent::Agent;
use crate::api::query::Query;
use crate::controllers::causes;
use crate::policy_store::{Edit, EditError};
use crate::server::{Body, json};
use ::api::Fault;
use ::api::policy as shape;
use hyper::{Response, StatusCode};
use model::labels::SOURCE_ANY;
use model::{EndpointState, Label};
use state::{Input, Outputs};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The longest that `?wait=true` waits for all endpoints.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// `GET /v1/policy[?label=…]`: the rules that have all of the labels.
pub fn get(agent: &Agent, mut query: Query) -> Result<Response<Body>, Refusal> {
    let labels = labels(&query.all("label"))?;
    let outputs = agent.snapshot();
    let view = &outputs.view.policy;
    let found = view.repository.get(&labels);
    if found.is_empty() && !labels.is_empty() {
        let message = policy::repository::NotFound(labels).to_string();
        return Err(Refusal::new(StatusCode::NOT_FOUND, message));
    }
    let found: Vec<&policy::Rule> = found.into_iter().map(AsRef::as_ref).collect();
    let rules = serde_json::to_value(found).map_err(|error| internal(&error))?;
    answer(query, &shape::Policy { revision: view.revision, rules })
}

/// `GET /v1/policy/status`: of all nodes.
pub async fn status(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let newest = agent.policy.current().await.map_err(refusal)?;
    let outputs = agent.snapshot();
    let (view, cluster) = (&outputs.view, &agent.node.cluster);
    let status = crate::enforcement::gather(agent.kvstore.as_ref(), view, cluster, newest.revision).await;
    answer(query, &status.map_err(|error| refusal(error.into()))?)
}

fn internal(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, causes(error))
}

fn faults(errors: policy::Errors) -> Vec<Fault> {
    errors.0.into_iter().map(|fault| Fault { path: fault.path, message: fault.message }).collect()
}

/// `PUT /v1/policy`: all of the rules or none. Every fault is told with its path.
pub async fn import(agent: &Agent, mut request: Request) -> Result<Response<Body>, Refusal> {
    let (replace, wait) = (request.query.flag("replace")?, request.query.flag("wait")?);
    let text = std::str::from_utf8(&request.body)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the policy is not UTF-8 text: {error}")))?;
    let refuse = |what: &str, errors| Refusal::with_faults(StatusCode::BAD_REQUEST, what, faults(errors));
    let rules = policy::parse_rules_within(text, &policy::Limits::default())
        .map_err(|errors| refuse("the policy is not valid", errors))?;
    policy::check_supported(&rules).map_err(|errors| refuse("the policy cannot be enforced by this build", errors))?;
    request.query.finish()?;
    change(agent, if replace { Edit::Replace(rules) } else { Edit::Add(rules) }, wait).await
}

/// `DELETE /v1/policy?label=…` or `?all=true`, with `?wait=true` as well.
pub async fn delete(agent: &Agent, mut request: Request) -> Result<Response<Body>, Refusal> {
    let (all, wait) = (request.query.flag("all")?, request.query.flag("wait")?);
    let labels = labels(&request.query.all("label"))?;
    request.query.finish()?;
    let edit = match (all, labels.is_empty()) {
        (true, true) => Edit::DeleteAll,
        (false, false) => Edit::Delete(labels),
        (true, false) => return Err(Refusal::new(StatusCode::BAD_REQUEST, "either labels or all=true, not both")),
        (false, true) => {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "which rules? give labels, or all=true for every rule"));
        }
    };
    change(agent, edit, wait).await
}

async fn change(agent: &Agent, edit: Edit, wait: bool) -> Result<Response<Body>, Refusal> {
    let in_force = agent.snapshot().view.policy.revision;
    let (change, document) = agent.policy.edit(&edit, in_force).await.map_err(refusal)?;
    let input = Input::PolicyDocument { revision: document.revision, rules: document.rules };
    agent.inputs.submit(input).await?;
    let _ = agent.notices.send(::api::monitor::Record::Agent {
        message: format!("Policy updated: {} rules added, {} removed", change.added, change.removed),
        subject: format!("revision {}", change.revision),
    });
    tracing::info!(
        revision = change.revision,
        added = change.added,
        removed = change.removed,
        "the policy was changed"
    );
    let enforced = if wait { Some(enforced(agent, change.revision).await) } else { None };
    let body =
        shape::PolicyChange { revision: change.revision, added: change.added, removed: change.removed, enforced };
    Ok(json(StatusCode::OK, &body))
}

fn refusal(error: EditError) -> Refusal {
    let status = match &error {
        EditError::NotFound(_) => StatusCode::NOT_FOUND,
        EditError::Document { .. } | EditError::Contended => StatusCode::CONFLICT,
        EditError::Encode(_) => StatusCode::INTERNAL_SERVER_ERROR,
        EditError::Store(kvstore::Error::Invalid { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
        EditError::Store(kvstore::Error::Storage { .. }) => StatusCode::INSUFFICIENT_STORAGE,
        EditError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Refusal::new(status, causes(&error))
}

/// Waits until every endpoint enforces the revision or cannot, and says which are which.
async fn enforced(agent: &Agent, revision: u64) -> shape::Enforced {
    let deadline = Instant::now() + WAIT_LIMIT;
    let mut outputs = agent.outputs.clone();
    let settled = outputs.wait_for(|outputs| {
        let mut endpoints = outputs.view.endpoints.values();
        endpoints.all(|endpoint| endpoint.policy_revision >= revision || endpoint.state == EndpointState::NotReady)
    });
    // What is not settled when the time is up is named among the failing.
    let _ = tokio::time::timeout_at(deadline, settled).await;
    let outputs = agent.snapshot();
    let behind = outputs.view.endpoints.values().filter(|endpoint| endpoint.policy_revision < revision);
    let describe = |endpoint: &Arc<state::EndpointView>| {
        let reason = endpoint.failure.clone().unwrap_or_else(|| format!("still {}", endpoint.state));
        format!("endpoint {}: {reason}", endpoint.id)
    };
    shape::Enforced {
        endpoints: at_revision(&outputs, revision),
        failing: behind.map(describe).chain(outputs.view.policy.fault.clone()).collect(),
    }
}

fn at_revision(outputs: &Outputs, revision: u64) -> usize {
    outputs.view.endpoints.values().filter(|endpoint| endpoint.policy_revision >= revision).count()
}

/// `GET /v1/policy/wait?revision=N`: how far the endpoints are; without a revision, the newest is meant.
pub fn progress(agent: &Agent, mut query: Query) -> Result<Response<Body>, Refusal> {
    let outputs = agent.snapshot();
    let revision = match query.one("revision")? {
        None => outputs.view.policy.revision,
        Some(text) => text
            .parse()
            .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, format!("{text:?} is no policy revision")))?,
    };
    let body = shape::WaitState {
        revision: outputs.view.policy.revision,
        at_revision: at_revision(&outputs, revision),
        endpoints: outputs.view.endpoints.len(),
    };
    answer(query, &body)
}

/// Labels of rules as users write them; without a source any source is meant.
fn labels(texts: &[String]) -> Result<Vec<Label>, Refusal> {
    let parse = |text: &String| {
        Label::parse(text, SOURCE_ANY).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))
    };
    texts.iter().map(parse).collect()
}

/// `POST /v1/policy/trace`: what the rules in force say about a new connection.
pub fn trace(agent: &Agent, request: &Request) -> Result<Response<Body>, Refusal> {
    let body: shape::TraceRequest = request.json()?;
    let bad = |error: &dyn std::error::Error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string());
    let side =
        |texts: &[String]| policy::trace::parse_labels(texts.iter().map(String::as_str)).map_err(|error| bad(&error));
    let (from, to) = (side(&body.from)?, side(&body.to)?);
    let dports: Vec<policy::trace::Dport> = body
        .dports
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()
        .map_err(|error: policy::trace::DportError| bad(&error))?;
    let outputs = agent.snapshot();
    let question =
        policy::trace::Question { from: &from, to: &to, dports: &dports, request: None, verbose: body.verbose };
    let options = policy::Options {
        enforcement: outputs.view.policy.enforcement,
        allow_localhost: agent.config.allow_localhost,
        cluster: agent.config.cluster.in_mesh(),
    };
    let answer = policy::trace::trace(&outputs.view.policy.repository, options, question);
    Ok(json(StatusCode::OK, &shape::TraceResult { log: answer.log, verdict: answer.verdict.to_string() }))
}

//! `GET /v1/debuginfo`: everything that a report of a fault needs, and no secret.

use super::{Refusal, answer};
use crate::agent::Agent;
use crate::api::query::Query;
use crate::server::Body;
use hyper::Response;
use serde_json::{Value, json};
use state::Outputs;

pub async fn get(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let outputs = agent.snapshot();
    let kernel = super::datapath::everything(agent).await;
    let report = json!({
        "version": {"version": crate::VERSION, "revision": crate::REVISION},
        "machine": machine(),
        "configuration": super::config::configuration(agent),
        "status": crate::status::gather(agent).await,
        "endpoints": endpoints(&outputs),
        "identities": super::identity::shapes(&outputs),
        "policy": {"revision": outputs.view.policy.revision, "rules": rules(&outputs), "fault": outputs.view.policy.fault},
        "bad-records": *outputs.view.bad_records,
        "kernel": kernel,
    });
    answer(query, &report)
}

fn machine() -> Value {
    match nix::sys::utsname::uname() {
        Ok(name) => json!({
            "kernel": name.release().to_string_lossy(),
            "version": name.version().to_string_lossy(),
            "architecture": name.machine().to_string_lossy(),
        }),
        Err(error) => json!({"error": error.to_string()}),
    }
}

fn endpoints(outputs: &Outputs) -> Value {
    let endpoint = |endpoint: &std::sync::Arc<state::EndpointView>| {
        json!({
            "endpoint": super::endpoint::shape_of(endpoint),
            "log": endpoint.log.iter().map(super::endpoint::log_entry).collect::<Vec<_>>(),
        })
    };
    outputs.view.endpoints.values().map(endpoint).collect()
}

fn rules(outputs: &Outputs) -> Value {
    serde_json::from_str(&outputs.view.policy.rules).unwrap_or(Value::Null)
}

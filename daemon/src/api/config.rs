//! `/v1/config`: what the agent was started with, and the one thing that can be changed while it runs.

use super::{Refusal, Request, answer};
use crate::agent::Agent;
use crate::api::query::Query;
use crate::server::Body;
use ::api::config as shape;
use hyper::{Response, StatusCode};
use policy::Enforcement;
use state::Input;

/// `GET /v1/config`
pub fn get(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    answer(query, &configuration(agent))
}

/// What is shown; also part of `debuginfo`.
pub fn configuration(agent: &Agent) -> shape::Configuration {
    let options = agent.config.printable.iter().map(|(name, value, _)| (name.clone(), value.clone()));
    shape::Configuration {
        policy_enforcement: agent.snapshot().view.policy.enforcement.to_string(),
        options: options.filter(|(name, _)| name != "enable-policy").collect(),
    }
}

/// `PATCH /v1/config`: holds until the agent is started anew.
pub async fn change(agent: &Agent, request: Request) -> Result<Response<Body>, Refusal> {
    let body: shape::ConfigurationChange = request.json()?;
    if let Some(text) = body.policy_enforcement {
        let enforcement = text.parse::<Enforcement>();
        let enforcement = enforcement.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
        agent.inputs.submit(Input::Enforcement(enforcement)).await?;
        tracing::info!(%enforcement, "the policy enforcement mode was changed");
    }
    answer(request.query, &configuration(agent))
}

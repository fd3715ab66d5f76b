//! `PUT /v1/docker/endpoints`: Docker's own list, which tells what of ours is stale.

use super::{Refusal, Request, done};
use crate::agent::{Agent, PLUGIN_LIMIT};
use crate::server::Body;
use ::api::docker::DockerEndpoints;
use hyper::Response;
use state::Input;

pub async fn list(agent: &Agent, request: Request) -> Result<Response<Body>, Refusal> {
    let body: DockerEndpoints = request.json()?;
    request.query.finish()?;
    // Networks first: an endpoint on a network that is gone is stale whatever the other list says.
    agent.inputs.submit(Input::DockerNetworks(body.docker_network_ids)).await?;
    agent.submit_durably(Input::DockerEndpoints(body.docker_endpoint_ids), PLUGIN_LIMIT).await?;
    Ok(done())
}

//! Follows Docker's API: notices that it comes and goes, compares its whole list of networks and endpoints with the
//! agent's whenever it came back and every so often, and takes its events as hints to look sooner. Nothing is concluded
//! from silence: a list that could not be read completely is not handed on.

use crate::Config;
use crate::call::Plugin;
use crate::docker::{self, Attachment, Docker, DockerError};
use crate::networks::is_ours;
use crate::refusal::Refusal;
use crate::stats::CallStats;
use api::docker::DockerEndpoints;
use api::endpoint::EndpointChange;
use bollard::models::{EventMessage, NetworkInspect};
use futures::StreamExt;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pause between two tries to reach Docker.
const RECONNECT: Duration = Duration::from_millis(250);
/// A Docker that takes longer to tell its version is starting.
const ANSWER_BOUND: Duration = Duration::from_secs(1);
/// Second look after Docker came back: for what happened before its events were followed.
const SETTLE: Duration = Duration::from_secs(2);
/// Next try after a list could not be read or handed on.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("read Docker's list: {0}")]
    Read(#[from] DockerError),
    #[error("hand Docker's list on: {0}")]
    Tell(#[from] Refusal),
}

/// Runs until `shutdown`.
pub(crate) async fn watch(plugin: &Plugin, config: &Config, stats: Arc<CallStats>, shutdown: CancellationToken) {
    shutdown.run_until_cancelled(follow_forever(plugin, config, &stats)).await;
}

async fn follow_forever(plugin: &Plugin, config: &Config, stats: &CallStats) {
    let docker = plugin.networks.docker();
    loop {
        let answered = tokio::time::timeout(ANSWER_BOUND, docker.version()).await;
        let why = match answered {
            Ok(Ok(version)) => {
                tracing::info!(version, "Docker answers");
                stats.docker_answers(version);
                plugin.resolver.docker_is(true);
                let why = follow(plugin, config, docker).await;
                tracing::info!(why, "Docker went away");
                why
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ANSWER_BOUND:?}"),
        };
        plugin.resolver.docker_is(false);
        stats.docker_away(why);
        tokio::time::sleep(RECONNECT).await;
    }
}

/// Until Docker's events end; returns why.
async fn follow(plugin: &Plugin, config: &Config, docker: &Docker) -> String {
    let mut events = std::pin::pin!(docker.events());
    let (mut next, mut settled) = (Instant::now(), false);
    let mut told = BTreeSet::new();
    loop {
        tokio::select! {
            biased;
            event = events.next() => match event {
                Some(Ok(event)) => noticed(plugin, event).await,
                Some(Err(error)) => return error.to_string(),
                None => return "its events ended".to_owned(),
            },
            () = tokio::time::sleep_until(next) => match sync(plugin, docker, &mut told).await {
                Ok(()) => {
                    next = Instant::now() + if settled { config.sync_every } else { SETTLE };
                    settled = true;
                }
                Err(error) => {
                    tracing::warn!(%error, "Docker's list is not compared");
                    next = Instant::now() + RETRY;
                }
            },
        }
    }
}

async fn noticed(plugin: &Plugin, event: EventMessage) {
    plugin.resolver.ask_again();
    if event.action.as_deref() == Some("rename")
        && let Some(actor) = event.actor
        && let (Some(id), Some(attributes)) = (actor.id, actor.attributes)
        && let Some(name) = attributes.get("name")
        && let Err(error) = rename(plugin, &id, name).await
    {
        tracing::warn!(container = id, name, %error, "a new name is not told");
    }
}

async fn rename(plugin: &Plugin, container: &str, name: &str) -> Result<(), Refusal> {
    let endpoints = plugin.agent.endpoints().await?;
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.container_id.as_deref() == Some(container)) {
        let name = name.trim_start_matches('/').to_owned();
        let change = EndpointChange { container_name: Some(name), ..EndpointChange::default() };
        plugin.agent.change_endpoint(&endpoint.docker_endpoint_id, &change).await?;
    }
    Ok(())
}

/// `told`: endpoints that the operator was told of already.
async fn sync(plugin: &Plugin, docker: &Docker, told: &mut BTreeSet<String>) -> Result<(), SyncError> {
    let ours = read_networks(docker).await?;
    learn_unknown(plugin, &ours).await?;
    let attached: Vec<(&str, Attachment)> = ours
        .iter()
        .flat_map(|(id, network)| docker::attachments(network).into_iter().map(move |found| (id.as_str(), found)))
        .collect();
    let all = DockerEndpoints {
        docker_endpoint_ids: attached.iter().map(|(_, attachment)| attachment.endpoint_id.clone()).collect(),
        docker_network_ids: ours.iter().map(|(id, _)| id.clone()).collect(),
    };
    plugin.agent.put_docker_endpoints(&all).await?;
    // The agent may have forgotten networks just now.
    plugin.networks.refresh().await?;
    compare_containers(plugin, docker, &attached, told).await?;
    tracing::debug!(networks = ours.len(), endpoints = attached.len(), "Docker's list is compared");
    Ok(())
}

/// All networks of our driver, with their endpoints. One that goes away meanwhile has none.
async fn read_networks(docker: &Docker) -> Result<Vec<(String, NetworkInspect)>, DockerError> {
    let mut ours = Vec::new();
    let listed = docker.networks().await?.into_iter().filter(|network| is_ours(network.driver.as_deref()));
    for id in listed.filter_map(|network| network.id) {
        if let Some(network) = docker.network(&id).await? {
            ours.push((id, network));
        }
    }
    Ok(ours)
}

async fn learn_unknown(plugin: &Plugin, ours: &[(String, NetworkInspect)]) -> Result<(), Refusal> {
    plugin.networks.refresh().await?;
    for (id, network) in ours.iter().filter(|(id, _)| !plugin.networks.knows(id)) {
        // One network that cannot be learnt must not keep the others from being compared.
        if let Err(error) = plugin.networks.learn(id, network).await {
            tracing::warn!(network = id, %error, "a network of Docker's cannot be learnt");
        }
    }
    Ok(())
}

/// Endpoints whose container the agent does not know are sought; endpoints that the agent does not know at all are
/// beyond help, so the operator is told.
async fn compare_containers(
    plugin: &Plugin,
    docker: &Docker,
    attached: &[(&str, Attachment)],
    told: &mut BTreeSet<String>,
) -> Result<(), SyncError> {
    let endpoints = plugin.agent.endpoints().await?;
    for (network, Attachment { endpoint_id, name, .. }) in attached {
        match endpoints.iter().find(|endpoint| endpoint.docker_endpoint_id == *endpoint_id) {
            Some(endpoint) if endpoint.container_id.is_none() => plugin.resolver.later(network, endpoint_id),
            Some(_) => {}
            // It may have gone since the list was read.
            None => {
                let there = docker.container_of(network, endpoint_id).await?.is_some();
                if there && told.insert(endpoint_id.clone()) {
                    let (endpoint, container) = (endpoint_id, name);
                    tracing::warn!(endpoint, container, "unknown to the agent: restart the container to connect it");
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

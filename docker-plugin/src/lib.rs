//! Docker's side of the agent: libnetwork's remote network driver and remote IPAM driver on a Unix socket, and the
//! watcher that learns from Docker which container an endpoint belongs to.
//!
//! The crate is a client of the agent's own socket that happens to speak Docker. It keeps no state that matters: what
//! Docker asks for is asked of the agent, which writes it down before it answers. What an endpoint may do, how its
//! packets travel and which of its labels count is none of this crate's business.

mod agent;
mod call;
mod containers;
mod docker;
mod driver;
mod ipam;
mod listener;
mod network;
mod networks;
mod protocol;
mod refusal;
mod stats;
mod sync;

#[cfg(test)]
mod fake_agent;
#[cfg(test)]
mod fake_docker;
#[cfg(test)]
mod rig;

pub use listener::{BindError, Listener};
pub use stats::CallStats;

use agent::Agent;
use call::Plugin;
use containers::Resolver;
use docker::{Docker, DockerError};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The name by which Docker knows both drivers: that of the socket file.
pub const DRIVER: &str = "cilium";

/// What the plugin has to know beyond the agent's socket.
#[derive(Clone, Debug)]
pub struct Config {
    /// Docker's API socket, with or without `unix://`.
    pub docker_socket: String,
    /// How often Docker's whole list is compared with the agent's, beside every time that Docker comes back.
    pub sync_every: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config { docker_socket: "/var/run/docker.sock".to_owned(), sync_every: Duration::from_secs(60) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("talk to Docker at {socket}")]
    Docker { socket: String, source: DockerError },
    #[error("accept Docker's connections on {socket}")]
    Accept { socket: String, source: std::io::Error },
}

/// Answers Docker on `listener` and follows Docker's own API until `shutdown`, then lets the calls in flight end and
/// removes the socket.
///
/// Neither the agent nor Docker needs to be up: calls wait for the agent within their bound, and Docker is tried again
/// until it answers.
pub async fn serve(
    listener: Listener,
    config: Config,
    client: api::Client,
    stats: Arc<CallStats>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let docker = Docker::new(&config.docker_socket)
        .map_err(|source| ServeError::Docker { socket: config.docker_socket.clone(), source })?;
    let agent = Agent::new(client);
    let resolver = Arc::new(Resolver::new(agent.clone(), docker.clone(), stats.clone()));
    let plugin = Arc::new(Plugin::new(agent.clone(), docker.clone(), resolver.clone()));
    let removals = agent.retry_removals(shutdown.clone());
    let pending = resolver.run(shutdown.clone());
    let watch = sync::watch(&plugin, &config, stats.clone(), shutdown.clone());
    let accept = driver::serve(listener, plugin.clone(), stats.clone(), shutdown.clone());
    let (accepted, (), (), ()) = tokio::join!(accept, removals, pending, watch);
    accepted
}

//! This node's health endpoint: has the state make it, and answers in it.
//!
//! The namespace is made anew by each agent and ends with it: nobody answers for an agent that is not there.

use super::{Settings, responder};
use crate::controllers::{Controllers, causes};
use crate::run::Tasks;
use crate::writer::Inputs;
use datapath::netns::{Namespace, NetnsError};
use state::Input;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const CONTROLLER: &str = "health-endpoint";
/// When it is tried again, such as when a pool was full.
const RETRY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum EndpointError {
    #[error("make a network namespace for the health endpoint")]
    Namespace(#[from] NetnsError),
    #[error("listen on port {port} in the health endpoint")]
    Listen { port: u16, source: io::Error },
}

/// The inside of the endpoint, with somebody who listens.
struct HealthEndpoint {
    namespace: Arc<Namespace>,
    listener: TcpListener,
}

impl HealthEndpoint {
    /// Listens before there is a link: what arrives first is answered.
    fn open(port: u16) -> Result<HealthEndpoint, EndpointError> {
        let namespace = Arc::new(Namespace::create()?);
        let failed = |source| EndpointError::Listen { port, source };
        // A socket stays in the namespace that it was made in.
        let listener = namespace.run(|| listen(port))?.and_then(TcpListener::from_std).map_err(failed)?;
        Ok(HealthEndpoint { namespace, listener })
    }

    /// Answers until shutdown.
    async fn run(self, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(responder::MAX_CONNECTIONS));
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = responder::accept(&self.listener, &slots) => {}
        }
    }
}

/// For both families where there are both.
fn listen(port: u16) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Makes the inside of this node's health endpoint and has the state make the rest, or has it taken away where it is not
/// wanted or cannot be. A node without one still serves its containers.
pub fn begin(
    settings: Option<Settings>,
    inputs: Inputs,
    controllers: Controllers,
    working: &mut Tasks,
) -> Option<Arc<Namespace>> {
    let opened = settings.map(|settings| HealthEndpoint::open(settings.port)).transpose();
    let opened = opened.unwrap_or_else(|error| {
        tracing::warn!(error = causes(&error), "this node has no health endpoint");
        controllers.failure(CONTROLLER, causes(&error));
        None
    });
    let namespace = opened.as_ref().map(|endpoint| Arc::clone(&endpoint.namespace));
    let wanted = opened.is_some();
    if let Some(endpoint) = opened {
        working.spawn_infallible("health endpoint", |shutdown| endpoint.run(shutdown));
    }
    working
        .spawn_infallible("health endpoint's announcement", |shutdown| announce(wanted, inputs, controllers, shutdown));
    namespace
}

/// Tells the state whether there is to be an endpoint, until it is so.
async fn announce(wanted: bool, inputs: Inputs, controllers: Controllers, shutdown: CancellationToken) {
    loop {
        let outcome = inputs.submit(Input::HealthEndpoint(wanted)).await;
        match if wanted { controllers.book(CONTROLLER, outcome) } else { outcome } {
            Ok(_) => return shutdown.cancelled().await,
            Err(error) => {
                tracing::warn!(error = causes(&error), "the health endpoint is not as wanted; it is tried again")
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

//! What the plugin asks of the agent, one function a request. An agent that is still starting is waited for within a
//! bound. Removals live in [`removals`]: they must never make Docker wait.

mod removals;

pub(crate) use removals::Removal;

use crate::refusal::Refusal;
use api::docker::DockerEndpoints;
use api::endpoint::{Endpoint, EndpointChange, EndpointCreate};
use api::ipam::{Address, AddressRequest, Pool, PoolRequest};
use api::network::Network;
use api::{Client, ClientError, routes};
use removals::Removals;
use serde::de::IgnoredAny;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a call waits for an agent that does not listen yet, or does not know its own state yet.
const START_BOUND: Duration = Duration::from_millis(1500);
/// Pause between two tries of that.
const START_PAUSE: Duration = Duration::from_millis(20);
/// Requests that change nothing, or that may be repeated.
const QUICK: Duration = Duration::from_millis(1500);
/// Requests that make something. Docker is answered long before this; but when the agent's answer comes after all, what
/// it made can be taken away again.
const PATIENT: Duration = Duration::from_secs(20);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Agent {
    quick: Client,
    patient: Client,
    removals: Arc<Removals>,
}

impl Agent {
    pub(crate) fn new(client: Client) -> Agent {
        let quick = client.with_limit(QUICK);
        Agent { patient: client.with_limit(PATIENT), removals: Arc::new(Removals::new(quick.clone())), quick }
    }

    pub(crate) async fn networks(&self) -> Result<Vec<Network>, Refusal> {
        started(|| self.quick.get(routes::NETWORK)).await.map_err(refused(|| "list networks".to_owned()))
    }

    pub(crate) async fn put_network(&self, network: &Network) -> Result<(), Refusal> {
        let path = below(routes::NETWORK, &network.id);
        let put = started(|| self.patient.put::<_, IgnoredAny>(&path, network)).await;
        put.map(drop).map_err(refused(|| format!("make network {} known", network.id)))
    }

    pub(crate) async fn pools(&self) -> Result<Vec<Pool>, Refusal> {
        started(|| self.quick.get(routes::IPAM_POOL)).await.map_err(refused(|| "list pools".to_owned()))
    }

    pub(crate) async fn request_pool(&self, request: &PoolRequest) -> Result<Pool, Refusal> {
        started(|| self.patient.post(routes::IPAM_POOL, request)).await.map_err(refused(|| match request.subnet {
            Some(subnet) => format!("pool {subnet}"),
            None => "the node's pool".to_owned(),
        }))
    }

    pub(crate) async fn request_address(&self, request: &AddressRequest) -> Result<Address, Refusal> {
        started(|| self.patient.post(routes::IPAM_ADDRESS, request)).await.map_err(refused(|| match request.address {
            Some(address) => format!("address {address}"),
            None => format!("an address of pool {}", request.pool),
        }))
    }

    /// A failure may leave the endpoint half made, or made after all: the caller removes it.
    pub(crate) async fn create_endpoint(&self, request: &EndpointCreate) -> Result<Endpoint, Refusal> {
        let made = started(|| self.patient.put(routes::ENDPOINT, request)).await;
        made.map_err(refused(|| format!("make endpoint {}", request.docker_endpoint_id)))
    }

    /// `None`: the agent does not know the endpoint.
    pub(crate) async fn change_endpoint(
        &self,
        docker_id: &str,
        change: &EndpointChange,
    ) -> Result<Option<Endpoint>, Refusal> {
        let path = endpoint(docker_id);
        let changed = started(|| self.quick.patch(&path, change)).await;
        present(changed).map_err(refused(|| format!("change endpoint {docker_id}")))
    }

    /// `None`: the agent does not know the endpoint.
    pub(crate) async fn endpoint(&self, docker_id: &str) -> Result<Option<Endpoint>, Refusal> {
        let path = endpoint(docker_id);
        present(started(|| self.quick.get(&path)).await).map_err(refused(|| format!("read endpoint {docker_id}")))
    }

    pub(crate) async fn endpoints(&self) -> Result<Vec<Endpoint>, Refusal> {
        started(|| self.quick.get(routes::ENDPOINT)).await.map_err(refused(|| "list endpoints".to_owned()))
    }

    pub(crate) async fn put_docker_endpoints(&self, all: &DockerEndpoints) -> Result<(), Refusal> {
        let put = started(|| self.patient.put::<_, IgnoredAny>(routes::DOCKER_ENDPOINTS, all)).await;
        put.map(drop).map_err(refused(|| "hand on Docker's list".to_owned()))
    }

    /// Removes now when the agent answers, else as soon as it does; both are a success, as is absence.
    pub(crate) async fn remove(&self, removal: Removal) -> Result<(), Refusal> {
        let operation = removal.to_string();
        self.removals.remove(removal).await.map_err(refused(|| operation))
    }

    /// Goes on with removals that had to wait, until `shutdown`.
    pub(crate) fn retry_removals(&self, shutdown: CancellationToken) -> impl Future<Output = ()> + use<> {
        let removals = self.removals.clone();
        async move { removals.run(shutdown).await }
    }
}

/// Repeats `request` while the agent is starting, as long as another try like the last one has its time: an agent that
/// says what it waits for has waited itself, and its word is worth more than our own running out of time.
async fn started<T, F: Future<Output = Result<T, ClientError>>>(request: impl Fn() -> F) -> Result<T, ClientError> {
    let deadline = Instant::now() + START_BOUND;
    loop {
        let began = Instant::now();
        match request().await {
            Err(error) if starting(&error) && Instant::now() + began.elapsed() < deadline => {
                tokio::time::sleep(START_PAUSE).await;
            }
            done => return done,
        }
    }
}

/// The agent did nothing: it does not listen, or says that it is not ready for requests.
fn starting(error: &ClientError) -> bool {
    matches!(error, ClientError::Connect { .. }) || error.status().is_some_and(|status| status.as_u16() == 503)
}

fn absent(error: &ClientError) -> bool {
    error.status().is_some_and(|status| status.as_u16() == 404)
}

fn present<T>(answer: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match answer {
        Err(error) if absent(&error) => Ok(None),
        other => other.map(Some),
    }
}

fn refused(operation: impl FnOnce() -> String) -> impl FnOnce(ClientError) -> Refusal {
    move |source| Refusal::Agent { operation: operation(), source }
}

fn endpoint(docker_id: &str) -> String {
    below(routes::ENDPOINT, &format!("docker-endpoint:{docker_id}"))
}

/// `base/name`, the name being one segment whatever it holds.
fn below(base: &str, name: &str) -> String {
    let mut path = format!("{base}/");
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' => path.push(byte.into()),
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_one_segment() {
        assert_eq!(below("/v1/ipam/pool", "10.1.0.0/16 ?"), "/v1/ipam/pool/10.1.0.0%2F16%20%3F");
        assert_eq!(endpoint("ab"), "/v1/endpoint/docker-endpoint:ab");
    }
}

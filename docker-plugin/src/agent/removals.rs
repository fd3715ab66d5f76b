//! Taking things away on Docker's word. Docker ignores what we answer and never asks again, so a removal that cannot be
//! done at once is kept and done in order as soon as the agent answers. What is lost with the process is found again by
//! comparing with Docker's list.

use super::{absent, below, starting};
use api::{Client, ClientError, routes};
use serde::de::IgnoredAny;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Something of the agent's that is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Docker's endpoint id.
    Endpoint(String),
    /// Docker's network id.
    Network(String),
    /// One of the requests that hold the pool.
    Pool(String),
    Address {
        pool: String,
        address: IpAddr,
    },
}

impl Removal {
    fn path(&self) -> String {
        match self {
            Removal::Endpoint(id) => super::endpoint(id),
            Removal::Network(id) => below(routes::NETWORK, id),
            Removal::Pool(id) => below(routes::IPAM_POOL, id),
            Removal::Address { pool, address } => below(&below(routes::IPAM_ADDRESS, pool), &address.to_string()),
        }
    }

    /// Whether doing it twice is the same as doing it once. Endpoints and networks have names that never come back; an
    /// address may have a new owner, a pool another holder.
    fn repeatable(&self) -> bool {
        matches!(self, Removal::Endpoint(_) | Removal::Network(_))
    }

    /// Whether to try again after `error`.
    fn again(&self, error: &ClientError) -> bool {
        starting(error) || (self.repeatable() && error.status().is_none())
    }
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Removal::Endpoint(id) => write!(f, "take endpoint {id} down"),
            Removal::Network(id) => write!(f, "forget network {id}"),
            Removal::Pool(id) => write!(f, "give pool {id} back"),
            Removal::Address { pool, address } => write!(f, "give address {address} of pool {pool} back"),
        }
    }
}

pub(super) struct Removals {
    client: Client,
    sender: mpsc::UnboundedSender<Removal>,
    /// Taken by the one task that runs.
    receiver: Mutex<mpsc::UnboundedReceiver<Removal>>,
    /// Kept ones that are not done yet: while there are any, later ones queue up behind them.
    waiting: AtomicUsize,
}

impl Removals {
    pub(super) fn new(client: Client) -> Removals {
        let (sender, receiver) = mpsc::unbounded_channel();
        Removals { client, sender, receiver: Mutex::new(receiver), waiting: AtomicUsize::new(0) }
    }

    pub(super) async fn remove(&self, removal: Removal) -> Result<(), ClientError> {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.keep(removal);
            return Ok(());
        }
        match self.once(&removal).await {
            Err(error) if removal.again(&error) => {
                tracing::info!(%removal, %error, "the agent does not answer: done later");
                self.keep(removal);
                Ok(())
            }
            done => done,
        }
    }

    pub(super) async fn run(&self, shutdown: CancellationToken) {
        let mut receiver = self.receiver.lock().await;
        while let Some(Some(removal)) = shutdown.run_until_cancelled(receiver.recv()).await {
            if shutdown.run_until_cancelled(self.persist(&removal)).await.is_none() {
                return;
            }
            self.waiting.fetch_sub(1, Ordering::Release);
        }
    }

    fn keep(&self, removal: Removal) {
        self.waiting.fetch_add(1, Ordering::Release);
        // The receiver lives as long as the sender: both are ours.
        if self.sender.send(removal).is_err() {
            self.waiting.fetch_sub(1, Ordering::Release);
        }
    }

    async fn persist(&self, removal: &Removal) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.once(removal).await {
                Ok(()) => return tracing::debug!(%removal, "done at last"),
                Err(error) if removal.again(&error) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return tracing::warn!(%removal, %error, "refused"),
            }
        }
    }

    async fn once(&self, removal: &Removal) -> Result<(), ClientError> {
        match self.client.delete::<IgnoredAny>(&removal.path()).await {
            Err(error) if absent(&error) => Ok(()),
            other => other.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_agents() {
        let address = Removal::Address { pool: "10.1.0.0/16".to_owned(), address: "10.1.0.7".parse().unwrap() };
        assert_eq!(address.path(), "/v1/ipam/address/10.1.0.0%2F16/10.1.0.7");
        assert_eq!(Removal::Endpoint("ab".to_owned()).path(), "/v1/endpoint/docker-endpoint:ab");
        let v6 = Removal::Address { pool: "p".to_owned(), address: "f00d::1".parse().unwrap() };
        assert_eq!(v6.path(), "/v1/ipam/address/p/f00d::1");
    }

    #[tokio::test]
    async fn what_the_agent_cannot_hear_is_kept_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let removals = Removals::new(Client::new(&socket, Duration::from_secs(1)));
        let address = Removal::Address { pool: "p".to_owned(), address: "10.1.0.7".parse().unwrap() };
        removals.remove(Removal::Endpoint("ab".to_owned())).await.unwrap();
        removals.remove(address.clone()).await.unwrap();

        let agent = crate::fake_agent::FakeAgent::start(&socket);
        let shutdown = CancellationToken::new();
        let all_done = async {
            while removals.waiting.load(Ordering::Acquire) > 0 {
                tokio::task::yield_now().await;
            }
            shutdown.cancel();
        };
        tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(removals.run(shutdown.clone()), all_done) })
            .await
            .unwrap();
        let deleted = agent.requests().into_iter().filter(|request| request.starts_with("DELETE")).collect::<Vec<_>>();
        assert_eq!(
            deleted,
            ["DELETE /v1/endpoint/docker-endpoint:ab".to_owned(), format!("DELETE {}", address.path())]
        );
    }

    #[test]
    fn an_address_whose_fate_is_unknown_is_not_released_twice() {
        let timeout = ClientError::Timeout {
            method: "DELETE".parse().unwrap(),
            path: String::new(),
            limit: Duration::from_secs(1),
        };
        assert!(Removal::Endpoint("ab".to_owned()).again(&timeout));
        assert!(!Removal::Address { pool: "p".to_owned(), address: "10.1.0.7".parse().unwrap() }.again(&timeout));
    }
}

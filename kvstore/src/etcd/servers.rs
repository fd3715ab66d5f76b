//! The servers of a cluster: which one is asked, what happens when it does not answer, and when to give up. One client
//! is kept for each address; the one that answered last is asked first.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::reply::{Kind, Reply, kind};
use crate::{Error, EtcdConfig, Operation};

/// How often a live connection is probed, and how long the answer may take. etcd forbids probes closer than 5 s.
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBE_ANSWER: Duration = Duration::from_secs(5);
/// The most that connecting to one address may take while others are left.
const CONNECT: Duration = Duration::from_secs(2);

/// When a call that failed may be made again, at another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Always: twice is as good as once.
    Freely,
    /// Only if the first one surely did nothing.
    IfNotSent,
}

/// All servers of one cluster.
pub(super) struct Servers {
    config: EtcdConfig,
    all: Vec<Server>,
    // Index of the one to ask first.
    first: AtomicUsize,
}

struct Server {
    address: String,
    client: Mutex<Option<Client>>,
}

/// How one server is.
pub(super) struct Health {
    pub(super) up: bool,
    pub(super) text: String,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Servers {
    pub(super) fn new(config: EtcdConfig) -> Result<Servers, Error> {
        tls(&config)?;
        let server = |address: &String| Server { address: address.clone(), client: Mutex::new(None) };
        let all = config.addresses.iter().map(server).collect();
        Ok(Servers { config, all, first: AtomicUsize::new(0) })
    }

    /// The most that one call takes.
    pub(super) fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// Makes a call at one server after the other until one answers, within the time-out.
    pub(super) async fn call<T, C, F>(
        &self,
        operation: Operation,
        key: &str,
        repeat: Repeat,
        call: C,
    ) -> Result<T, Error>
    where
        C: Fn(Client) -> F + Send + Sync,
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        let deadline = Instant::now() + self.config.timeout;
        let first = self.first.load(Ordering::Relaxed);
        let mut failed = None;
        for n in 0..self.all.len() {
            let index = (first + n) % self.all.len();
            let server = &self.all[index];
            let left = deadline.saturating_duration_since(Instant::now());
            // What may be repeated leaves time to do so.
            let budget = match repeat {
                Repeat::Freely => left / u32::try_from(self.all.len() - n).unwrap_or(1),
                Repeat::IfNotSent => left,
            };
            let (kind, reply) = match timeout(budget, self.ask(server, &call)).await {
                Ok(Ok(answer)) => {
                    self.first.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) => (kind(&error), Some(Reply::from_error(&server.address, &error))),
                Err(_) => (Kind::Broken, None),
            };
            if !matches!(kind, Kind::NotSent | Kind::Broken) {
                return Err(reply.unwrap_or_else(|| Reply::new(&server.address, "")).error(kind, operation, key));
            }
            // A new connection next time, and another server first.
            server.client.lock().await.take();
            self.first.store((index + 1) % self.all.len(), Ordering::Relaxed);
            let timed_out = || Error::TimedOut { operation, key: key.to_owned(), after: self.config.timeout };
            failed = Some(reply.map_or_else(timed_out, |reply| reply.error(kind, operation, key)));
            if kind == Kind::Broken && repeat == Repeat::IfNotSent {
                break;
            }
        }
        Err(failed.unwrap_or_else(|| Reply::new("etcd", "no address").error(Kind::NotSent, operation, key)))
    }

    async fn ask<T, C, F>(&self, server: &Server, call: &C) -> Result<T, etcd_client::Error>
    where
        C: Fn(Client) -> F,
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let client = self.client(server).await?;
        call(client).await
    }

    async fn client(&self, server: &Server) -> Result<Client, etcd_client::Error> {
        let mut slot = server.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        // Read again each time, so that renewed certificates are taken up.
        let tls = tls(&self.config).map_err(|error| etcd_client::Error::EndpointError(error.chain()))?;
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT.min(self.config.timeout))
            .with_keep_alive(PROBE_EVERY, PROBE_ANSWER)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = tls {
            options = options.with_tls(tls);
        }
        if let Some((user, password)) = &self.config.user {
            options = options.with_user(user, password);
        }
        let client = Client::connect([&server.address], Some(options)).await?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// Asks every server how it is, all at once.
    pub(super) async fn status(&self) -> Vec<Health> {
        futures::future::join_all(self.all.iter().map(|server| self.health(server))).await
    }

    async fn health(&self, server: &Server) -> Health {
        let call = |mut client: Client| async move { client.status().await };
        let address = &server.address;
        match timeout(self.config.timeout, self.ask(server, &call)).await {
            Ok(Ok(status)) => {
                let leads = status.header().is_some_and(|header| header.member_id() == status.leader());
                let role = if leads { " (Leader)" } else { "" };
                Health { up: true, text: format!("{address} - {}{role}", status.version()) }
            }
            Ok(Err(error)) => {
                server.client.lock().await.take();
                Health { up: false, text: Reply::from_error(address, &error).to_string() }
            }
            Err(_) => Health { up: false, text: format!("{address}: no answer within {:?}", self.config.timeout) },
        }
    }
}

fn tls(config: &EtcdConfig) -> Result<Option<TlsOptions>, Error> {
    if config.ca.is_none() && config.identity.is_none() {
        return Ok(None);
    }
    let mut options = TlsOptions::new();
    if let Some(ca) = &config.ca {
        options = options.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    if let Some((cert, key)) = &config.identity {
        options = options.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(Some(options))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|cause| Error::Storage {
        operation: Operation::Open,
        key: path.display().to_string(),
        source: Arc::new(cause),
    })
}

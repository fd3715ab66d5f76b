//! Answers to probes: `GET /hello` on the port of health, and nothing else.
//!
//! Whoever reaches the port may ask, containers too; so there is nothing to learn from it, and what it costs is bounded.

use super::HELLO;
use crate::controllers::{Controllers, causes};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Most connections at once; more wait in the socket's queue.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a whole conversation may take.
const LIMIT: Duration = Duration::from_secs(5);
/// An address may come later than the agent.
const RETRY: Duration = Duration::from_secs(2);

/// Answers on these addresses.
pub struct Responder {
    pub addresses: Vec<SocketAddr>,
    pub controllers: Controllers,
}

#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for the probes of other nodes")]
struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

impl Responder {
    pub async fn run(self, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let one = |address| answer(address, &self.controllers, &slots);
        tokio::select! {
            () = shutdown.cancelled() => {}
            // A node without an address has nothing to answer on, and goes on all the same.
            _ = futures::future::join_all(self.addresses.iter().copied().map(one)), if !self.addresses.is_empty() => {}
        }
    }
}

/// Answers on one address as soon as it is there.
async fn answer(address: SocketAddr, controllers: &Controllers, slots: &Arc<Semaphore>) {
    let name = format!("health-responder-{}", address.ip());
    let mut told = false;
    let listener = loop {
        let bound = TcpListener::bind(address).await.map_err(|source| ListenError { address, source });
        match controllers.book(&name, bound) {
            Ok(listener) => break listener,
            Err(error) if !told => {
                told = true;
                tracing::warn!(error = causes(&error), "other nodes will find this one unreachable; it is tried again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    };
    accept(&listener, slots).await;
}

/// Serves whoever connects; never ends.
pub async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) {
    loop {
        let Ok(slot) = Arc::clone(slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(async move {
                converse(stream).await;
                drop(slot);
            })),
            Err(error) => {
                // Out of file descriptors, most likely: a pause instead of a busy loop.
                tracing::debug!(%error, "a probe could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream) {
    let service = service_fn(|request: Request<Incoming>| async move { Ok::<_, Infallible>(respond(&request)) });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(LIMIT).keep_alive(false).max_buf_size(8192);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(LIMIT, connection).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a probe broke off"),
    }
}

fn respond<B>(request: &Request<B>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = match (request.method(), request.uri().path()) {
        (&Method::GET, HELLO) => StatusCode::OK,
        (_, HELLO) => StatusCode::METHOD_NOT_ALLOWED,
        _ => StatusCode::NOT_FOUND,
    };
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::probe::{self, ProbeError};

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn a_probe_is_answered() {
        let (listener, address) = listener().await;
        let slots = Arc::new(Semaphore::new(1));
        tokio::select! {
            () = accept(&listener, &slots) => panic!("the responder ended"),
            () = async { for _ in 0..3 { probe::http(address).await.unwrap(); } } => {}
        }
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_told_from_silence() {
        let (listener, address) = listener().await;
        drop(listener);
        assert!(matches!(probe::http(address).await, Err(ProbeError::Connect(_))));
    }

    #[test]
    fn there_is_one_thing_to_ask_for() {
        let status = |method: Method, path: &str| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            *request.uri_mut() = path.parse().unwrap();
            respond(&request).status().as_u16()
        };
        assert_eq!(status(Method::GET, "/hello"), 200);
        assert_eq!(status(Method::POST, "/hello"), 405);
        assert_eq!(status(Method::GET, "/hello/../v1/healthz"), 404);
        assert_eq!(status(Method::GET, "/v1/healthz"), 404);
    }
}

//! HTTP on the API's socket: connections, limits, time-outs, and the bytes of requests and answers.
//!
//! What a request means is `api.rs`' business. The Host header is ignored (a Unix socket has no host), nothing is
//! answered to a browser's cross-origin questions, and no request can hold the server for ever.

use crate::socket::Admission;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Largest body that is read: a policy document with tens of thousands of rules fits.
const MAX_BODY: usize = 16 << 20;
/// Most connections served at once; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 512;
/// How long a client may take over the head of a request, and over its body.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
const BODY_LIMIT: Duration = Duration::from_secs(30);
/// How long running requests are waited for at the end.
const DRAIN_LIMIT: Duration = Duration::from_millis(1500);

/// A request, read whole.
pub struct Call {
    pub method: Method,
    /// Without the query.
    pub path: String,
    pub query: Option<String>,
    pub body: Bytes,
}

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What answers calls.
pub trait Service: Send + Sync + 'static {
    fn answer(&self, call: Call) -> impl Future<Output = Response<Body>> + Send;
}

/// A body that is there already.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// Serves until `shutdown`, then lets running requests end for a moment.
pub async fn serve(
    listener: UnixListener,
    admission: Admission,
    service: Arc<impl Service>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = tokio_util::task::TaskTracker::new();
    let own_user = nix::unistd::geteuid().as_raw();
    loop {
        let slot = tokio::select! {
            () = shutdown.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot.map_err(|_| ServeError::Closed)?,
        };
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: a pause instead of a busy loop.
                    tracing::warn!(%error, "a connection to the API could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let admitted = stream.peer_cred().is_ok_and(|peer| admission.admits(peer.uid(), own_user));
        if !admitted {
            tracing::warn!("a user who is neither root nor in the group cilium was refused at the API's socket");
            continue;
        }
        let (service, shutdown) = (Arc::clone(&service), shutdown.clone());
        connections.spawn(async move {
            converse(stream, service, shutdown).await;
            drop(slot);
        });
    }
    connections.close();
    if tokio::time::timeout(DRAIN_LIMIT, connections.wait()).await.is_err() {
        tracing::info!(open = connections.len(), "API requests were still running at the end");
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Cannot happen while the server holds its own semaphore.
    #[error("the API's connection slots were closed")]
    Closed,
}

/// One connection, with as many requests as the client likes.
async fn converse(stream: UnixStream, service: Arc<impl Service>, shutdown: CancellationToken) {
    let handle = service_fn(|request: Request<Incoming>| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(exchange(request, service).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    let connection = builder.serve_connection(TokioIo::new(stream), handle);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the API broke");
    }
}

async fn exchange(request: Request<Incoming>, service: Arc<impl Service>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let read = tokio::time::timeout(BODY_LIMIT, Limited::new(body, MAX_BODY).collect()).await;
    let body = match read {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {MAX_BODY} bytes"));
        }
        Ok(Err(_)) => return refusal(StatusCode::BAD_REQUEST, "the body broke off".to_owned()),
        Err(_) => return refusal(StatusCode::REQUEST_TIMEOUT, format!("the body took longer than {BODY_LIMIT:?}")),
    };
    let call = Call {
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        method: head.method,
        body,
    };
    // In a task of its own: a client that hangs up does not stop a change half way, nor does a bug take the
    // connection's other requests with it.
    match tokio::spawn(async move { service.answer(call).await }).await {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(%error, "an API handler did not end properly");
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "the agent failed on this request; its log says more".to_owned())
        }
    }
}

fn refusal(status: StatusCode, error: String) -> Response<Body> {
    json(status, &api::ErrorBody { error, details: Vec::new() })
}

/// An answer with a JSON body.
pub fn json(status: StatusCode, body: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(body) {
        Ok(bytes) => with_type(status, "application/json", whole(bytes)),
        Err(error) => {
            tracing::warn!(%error, "an answer could not be written as JSON");
            let text = r#"{"error":"the answer could not be written as JSON"}"#;
            with_type(StatusCode::INTERNAL_SERVER_ERROR, "application/json", whole(text))
        }
    }
}

/// An answer of another type.
pub fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;

//! HTTP/1.1 on the plugin's socket: one task a connection, the method chosen by the path. Each call is answered, or
//! refused with a reason, within [`BOUND`]: Docker itself waits for ever.

use crate::ServeError;
use crate::agent::Removal;
use crate::call::{Answer, Plugin};
use crate::listener::Listener;
use crate::protocol::Method;
use crate::refusal::Refusal;
use crate::stats::CallStats;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After this a call has failed. Docker is to hear within 2 s; the rest is for the way.
const BOUND: Duration = Duration::from_millis(1800);
/// Requests of Docker are a few hundred bytes.
const LARGEST_BODY: usize = 1 << 20;
const JSON: HeaderValue = HeaderValue::from_static("application/vnd.docker.plugins.v1.2+json");
/// Pause after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Failures to accept in a row after which the socket is given up.
const ACCEPT_FAILURES: u32 = 100;

/// Serves until `shutdown`; then answers what is in flight and returns.
pub(crate) async fn serve(
    listener: Listener,
    plugin: Arc<Plugin>,
    stats: Arc<CallStats>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let connections = TaskTracker::new();
    let mut failures = 0;
    let ended = loop {
        match shutdown.run_until_cancelled(listener.accept()).await {
            None => break Ok(()),
            Some(Ok(stream)) => {
                failures = 0;
                connections.spawn(connection(stream, plugin.clone(), stats.clone(), shutdown.clone()));
            }
            Some(Err(source)) if failures >= ACCEPT_FAILURES => {
                break Err(ServeError::Accept { socket: listener.path().display().to_string(), source });
            }
            Some(Err(error)) => {
                failures += 1;
                tracing::warn!(%error, "plugin socket: a connection is lost");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    drop(listener);
    connections.close();
    connections.wait().await;
    ended
}

async fn connection(stream: UnixStream, plugin: Arc<Plugin>, stats: Arc<CallStats>, shutdown: CancellationToken) {
    let service = service_fn(|request| {
        let (plugin, stats) = (plugin.clone(), stats.clone());
        async move { Ok::<_, Infallible>(answer(request, plugin, stats).await) }
    });
    let mut connection =
        std::pin::pin!(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "plugin socket: a connection broke");
    }
}

async fn answer(request: Request<Incoming>, plugin: Arc<Plugin>, stats: Arc<CallStats>) -> Response<Full<Bytes>> {
    let Some(method) = Method::from_path(request.uri().path()) else {
        return failure(StatusCode::NOT_FOUND, &format!("there is no method {}", request.uri().path()));
    };
    if request.method() != hyper::Method::POST {
        return failure(StatusCode::METHOD_NOT_ALLOWED, &format!("{} wants POST", method.path()));
    }
    let began = Instant::now();
    let answered = tokio::time::timeout_at(began + BOUND, called(request, method, plugin)).await;
    let answered = answered.unwrap_or(Err(Refusal::TooLate { limit: BOUND }));
    let took = began.elapsed();
    stats.called(method, took, answered.is_err());
    match answered {
        Ok(body) => {
            tracing::debug!(method = method.path(), ?took, "answered");
            respond(StatusCode::OK, body)
        }
        Err(refusal) => {
            match refusal.is_trouble() {
                true => tracing::warn!(method = method.path(), ?took, %refusal, "failed"),
                false => tracing::info!(method = method.path(), ?took, %refusal, "refused"),
            }
            failure(StatusCode::INTERNAL_SERVER_ERROR, &refusal.to_string())
        }
    }
}

/// The call runs in a task of its own: when nobody waits for it any more it still ends, and what it made is taken away.
async fn called(request: Request<Incoming>, method: Method, plugin: Arc<Plugin>) -> Result<Bytes, Refusal> {
    let body = Limited::new(request.into_body(), LARGEST_BODY).collect().await;
    let body = body.map_err(|_| Refusal::Body { limit: LARGEST_BODY })?.to_bytes();
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        let done = plugin.call(method, &body).await;
        if let Err(Ok(Answer { undo: Some(removal), .. })) = sender.send(done) {
            undo(&plugin, method, removal).await;
        }
    });
    let answer = receiver.await.map_err(|_| Refusal::Broken)??;
    Ok(answer.body.to_string().into())
}

async fn undo(plugin: &Plugin, method: Method, removal: Removal) {
    tracing::warn!(method = method.path(), %removal, "done too late for Docker: taken back");
    if let Err(error) = plugin.agent.remove(removal).await {
        tracing::warn!(method = method.path(), %error, "not taken back");
    }
}

/// Network drivers' errors are under one name, IPAM drivers' under the other; with both, every engine finds it.
fn failure(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    respond(status, json!({"Err": message, "Error": message}).to_string().into())
}

fn respond(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

#[cfg(test)]
mod tests;

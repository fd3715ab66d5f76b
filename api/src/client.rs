//! A client of the agent's socket: one short connection a request, typed bodies both ways.

use crate::ErrorBody;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;

/// Largest answer that is read whole.
const MAX_ANSWER: usize = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach the agent at {socket}: is cilium-agent running?")]
    Connect { socket: PathBuf, source: std::io::Error },
    #[error("{method} {path}: the connection to the agent broke")]
    Transport { method: Method, path: String, source: hyper::Error },
    #[error("{method} {path}: no answer within {limit:?}")]
    Timeout { method: Method, path: String, limit: Duration },
    /// The agent said no. `body.error` is a sentence for people.
    #[error("{}", .body.error)]
    Refused { status: StatusCode, body: ErrorBody },
    #[error("{method} {path}: the answer is not what was expected")]
    Decode { method: Method, path: String, source: serde_json::Error },
    #[error("{method} {path}: the request cannot be written")]
    Encode { method: Method, path: String, source: serde_json::Error },
    #[error("{path:?} is no request path")]
    Path { path: String, source: http::Error },
    #[error("{method} {path}: the answer is too large or broke off")]
    Body { method: Method, path: String, source: Box<dyn std::error::Error + Send + Sync> },
}

impl ClientError {
    /// The agent's status code, when it answered.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            ClientError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// Cheap to clone; holds no connection.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    limit: Duration,
}

impl Client {
    /// Requests give up after `limit`.
    pub fn new(socket: impl AsRef<Path>, limit: Duration) -> Client {
        Client { socket: socket.as_ref().to_owned(), limit }
    }

    /// The same agent, with another limit.
    pub fn with_limit(&self, limit: Duration) -> Client {
        Client { socket: self.socket.clone(), limit }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    pub async fn put<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        self.call(Method::PUT, path, Some(body)).await
    }

    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(body)).await
    }

    pub async fn patch<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        self.call(Method::PATCH, path, Some(body)).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::DELETE, path, None::<&()>).await
    }

    /// The answer as text (metrics).
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let bytes = self.exchange(Method::GET, path, Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends `body` as it stands (a policy document keeps the user's text) and decodes the answer.
    pub async fn put_raw<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<T, ClientError> {
        let answer = self.exchange(Method::PUT, path, body).await?;
        decode(Method::PUT, path, &answer)
    }

    async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, ClientError> {
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|source| ClientError::Encode {
                method: method.clone(),
                path: path.to_owned(),
                source,
            })?,
            None => Vec::new(),
        };
        let answer = self.exchange(method.clone(), path, bytes.into()).await?;
        decode(method, path, &answer)
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        match tokio::time::timeout(self.limit, self.unbounded(method.clone(), path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout { method, path: path.to_owned(), limit: self.limit }),
        }
    }

    async fn unbounded(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let response = self.send(method.clone(), path, body).await?;
        let status = response.status();
        let collected = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let bytes = collected.map_err(|source| ClientError::Body { method, path: path.to_owned(), source })?.to_bytes();
        if status.is_success() { Ok(bytes) } else { Err(refusal(status, &bytes)) }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<http::Response<hyper::body::Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { socket: self.socket.clone(), source })?;
        let broken = |source| ClientError::Transport { method: method.clone(), path: path.to_owned(), source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|source| ClientError::Path { path: path.to_owned(), source })?;
        sender.send_request(request).await.map_err(broken)
    }

    /// Opens a stream of JSON lines. The time limit holds for the opening alone.
    pub async fn stream(&self, path: &str) -> Result<Lines, ClientError> {
        let opening = self.send(Method::GET, path, Bytes::new());
        let response = match tokio::time::timeout(self.limit, opening).await {
            Ok(response) => response?,
            Err(_) => {
                return Err(ClientError::Timeout { method: Method::GET, path: path.to_owned(), limit: self.limit });
            }
        };
        if !response.status().is_success() {
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            return Err(refusal(status, &body.map(|b| b.to_bytes()).unwrap_or_default()));
        }
        let data =
            futures::StreamExt::filter_map(http_body_util::BodyStream::new(response.into_body()), |frame| async move {
                match frame {
                    Ok(frame) => frame.into_data().ok().map(Ok),
                    Err(error) => Some(Err(std::io::Error::other(error))),
                }
            });
        let reader = tokio_util::io::StreamReader::new(Box::pin(data) as Frames);
        Ok(Lines { path: path.to_owned(), reader: BufReader::new(reader) })
    }
}

type Frames = std::pin::Pin<Box<dyn futures::Stream<Item = std::io::Result<Bytes>> + Send>>;

/// An open stream of JSON lines.
pub struct Lines {
    path: String,
    reader: BufReader<tokio_util::io::StreamReader<Frames, Bytes>>,
}

impl Lines {
    /// The next record; `None` when the agent closed the stream.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line).await.map_err(|source| ClientError::Body {
            method: Method::GET,
            path: self.path.clone(),
            source: source.into(),
        })?;
        if read == 0 { Ok(None) } else { decode(Method::GET, &self.path, line.as_bytes()).map(Some) }
    }
}

fn refusal(status: StatusCode, bytes: &[u8]) -> ClientError {
    let body = serde_json::from_slice(bytes)
        .unwrap_or_else(|_| ErrorBody { error: String::from_utf8_lossy(bytes).into_owned(), details: Vec::new() });
    ClientError::Refused { status, body }
}

fn decode<T: DeserializeOwned>(method: Method, path: &str, bytes: &[u8]) -> Result<T, ClientError> {
    let bytes = if bytes.is_empty() { b"null" } else { bytes };
    serde_json::from_slice(bytes).map_err(|source| ClientError::Decode { method, path: path.to_owned(), source })
}

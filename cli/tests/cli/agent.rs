//! An agent in the test's own process: a Unix socket that answers each request from a table and keeps what it was asked.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;

/// What was asked: `GET /v1/x?y=z` and the body.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub line: String,
    pub body: String,
}

#[derive(Default)]
struct Table {
    answers: Mutex<HashMap<String, (u16, String)>>,
    asked: Mutex<Vec<Asked>>,
}

/// Listens until dropped; the folder of its socket goes with it.
pub struct FakeAgent {
    folder: tempfile::TempDir,
    table: Arc<Table>,
    _runtime: tokio::runtime::Runtime,
}

impl FakeAgent {
    pub fn start() -> FakeAgent {
        let folder = tempfile::tempdir().unwrap();
        let table = Arc::new(Table::default());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = {
            let _in_runtime = runtime.enter();
            UnixListener::bind(folder.path().join("cilium.sock")).unwrap()
        };
        runtime.spawn(serve(listener, table.clone()));
        FakeAgent { folder, table, _runtime: runtime }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("cilium.sock")
    }

    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// From now on `GET /v1/…` is answered with 200 and `body`.
    pub fn answer(&self, line: &str, body: &Value) -> &FakeAgent {
        self.answer_raw(line, 200, &body.to_string())
    }

    pub fn answer_raw(&self, line: &str, status: u16, body: &str) -> &FakeAgent {
        self.table.answers.lock().unwrap().insert(line.to_owned(), (status, body.to_owned()));
        self
    }

    pub fn refuse(&self, line: &str, status: u16, error: &str) -> &FakeAgent {
        self.answer_raw(line, status, &serde_json::json!({"error": error}).to_string())
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.table.asked.lock().unwrap().clone()
    }
}

async fn serve(listener: UnixListener, table: Arc<Table>) {
    while let Ok((stream, _)) = listener.accept().await {
        let table = table.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, table.clone()));
            // A client that hangs up in the middle of a stream is what some tests are about.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, table: Arc<Table>) -> Result<Response<Full<Bytes>>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    table.asked.lock().unwrap().push(Asked { line: line.clone(), body });
    let found = table.answers.lock().unwrap().get(&line).cloned();
    let (status, text) =
        found.unwrap_or_else(|| (404, format!(r#"{{"error": "the test knows no answer to {line}"}}"#)));
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    Ok(response)
}

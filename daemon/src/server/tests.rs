//! Limits and bad requests, over a real socket.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Echo;

impl Service for Echo {
    async fn answer(&self, call: Call) -> Response<Body> {
        assert_ne!(call.path, "/panic", "asked to");
        json(StatusCode::OK, &format!("{} {} {:?} {}", call.method, call.path, call.query, call.body.len()))
    }
}

struct World {
    path: std::path::PathBuf,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), ServeError>>,
    _dir: tempfile::TempDir,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let listener = crate::socket::bind(&path, None).unwrap();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve(listener, Admission::default(), Arc::new(Echo), shutdown.clone()));
    World { path, shutdown, server, _dir: dir }
}

/// Sends raw bytes and returns everything that comes back until the server closes.
async fn say(world: &World, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(&world.path).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_host_header_may_be_empty_or_anything() {
    let world = world();
    for host in ["", "evil.example", "localhost:1"] {
        let request = format!("GET /v1/x?a=b HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = say(&world, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("GET /v1/x Some(\\\"a=b\\\") 0"), "{answer}");
    }
}

#[tokio::test]
async fn an_oversized_body_is_refused() {
    let world = world();
    let head =
        format!("PUT /v1/policy HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", MAX_BODY + 1);
    let mut stream = UnixStream::connect(&world.path).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b' '; 1 << 20];
    // The server may close before all is sent; that is its right.
    for _ in 0..=16 {
        if stream.write_all(&chunk).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_handlers_panic_is_an_answer() {
    let world = world();
    let answer = say(&world, b"GET /panic HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    let answer = say(&world, b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn garbage_ends_the_connection_only() {
    let world = world();
    let answer = say(&world, b"\x16\x03\x01 nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_the_server() {
    let world = world();
    let mut idle = UnixStream::connect(&world.path).await.unwrap();
    world.shutdown.cancel();
    assert!(world.server.await.unwrap().is_ok());
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

//! The stores that tests run on, and waiting for things to become true.

use std::sync::Arc;
use std::time::Duration;

use kvstore::{Backend, Config, connect, memory};
use tokio::time::Instant;

use crate::cluster::Server;

/// Longest wait for something that must happen, on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A store to test, gone when dropped.
pub struct World {
    pub backend: Arc<dyn Backend>,
    server: Option<Server>,
    // After the backend, which has it open.
    _folder: Option<tempfile::TempDir>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Memory,
    Embedded,
    Etcd,
}

impl World {
    pub async fn new(kind: Kind) -> World {
        match kind {
            Kind::Memory => World { backend: memory::open().0, server: None, _folder: None },
            Kind::Embedded => {
                let folder = tempfile::tempdir().expect("temporary folder");
                let connection = connect(Config::Embedded { path: folder.path().join("store") }).await.expect("open");
                World { backend: connection.backend, server: None, _folder: Some(folder) }
            }
            Kind::Etcd => {
                let server = Server::start().await;
                World { backend: server.connect(), server: Some(server), _folder: None }
            }
        }
    }

    /// Another node's handle on the same store; the same one where only one process can have it.
    pub fn other_node(&self) -> Arc<dyn Backend> {
        self.server.as_ref().map_or_else(|| self.backend.clone(), Server::connect)
    }
}

/// Polls until it is so.
pub async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Fails rather than hangs.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

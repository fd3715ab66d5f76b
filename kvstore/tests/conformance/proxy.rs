//! A wire between client and server that can be cut, or fall silent while it stays connected.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Whole,
    /// Connections break, new ones are closed at once.
    Cut,
    /// Connections stay, nothing comes through.
    Silent,
}

pub struct Proxy {
    pub port: u16,
    wire: Arc<watch::Sender<Wire>>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub async fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let own = listener.local_addr().expect("address").port();
        let wire = Arc::new(watch::channel(Wire::Whole).0);
        let state = wire.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { return };
                tokio::spawn(carry(near, port, state.subscribe()));
            }
        });
        Proxy { port: own, wire, task }
    }

    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.wire.send_replace(Wire::Cut);
    }
}

async fn carry(near: TcpStream, port: u16, wire: watch::Receiver<Wire>) {
    if *wire.borrow() == Wire::Cut {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::select! {
        () = copy(near_in, far_out, wire.clone()) => {}
        () = copy(far_in, near_out, wire) => {}
    }
}

async fn copy(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut wire: watch::Receiver<Wire>,
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let state = *wire.borrow_and_update();
        let read = tokio::select! {
            changed = wire.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
            read = from.read(&mut bytes), if state == Wire::Whole => read,
            () = std::future::ready(()), if state == Wire::Cut => return,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if to.write_all(&bytes[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

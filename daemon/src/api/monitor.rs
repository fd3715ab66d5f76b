//! `GET /v1/monitor`: what the kernel and the agent report, as JSON lines, until the client hangs up.
//!
//! A reader that is too slow loses events and is told how many; it never slows anybody else.

use super::Refusal;
use crate::agent::Agent;
use crate::api::query::Query;
use crate::server::{Body, with_type};
use ::api::monitor::{NamedEvent, Record};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use model::Identity;
use model::desired::Names;
use model::event::Event;
use state::Outputs;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, watch};

/// Readers at once.
const MAX_READERS: usize = 64;
/// Chunks on their way to one reader, and bytes that make a chunk full.
const CHUNKS: usize = 16;
const CHUNK: usize = 32 << 10;

static READERS: AtomicUsize = AtomicUsize::new(0);

/// Counts one reader for as long as it lives.
struct Seat;

impl Seat {
    fn take() -> Option<Seat> {
        let taken = READERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < MAX_READERS).then_some(n + 1));
        taken.is_ok().then_some(Seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        READERS.fetch_sub(1, Ordering::Relaxed);
    }
}

pub fn stream(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    query.finish()?;
    let kernel = agent.kernel.borrow().clone();
    let Some(kernel) = kernel else {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the datapath is still being started: try again"));
    };
    let Some(seat) = Seat::take() else {
        let message = format!("{MAX_READERS} monitors are open already");
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message));
    };
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    let reader = Reader {
        events: kernel.events.subscribe(),
        notices: agent.notices.subscribe(),
        outputs: agent.outputs.clone(),
        chunks,
        _seat: seat,
    };
    let hello = Record::Hello { cpus: kernel.cpus, buffer: kernel.ring_bytes };
    tokio::spawn(reader.run(hello));
    let frames =
        tokio_stream::wrappers::ReceiverStream::new(receiver).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    Ok(with_type(StatusCode::OK, "application/x-ndjson", StreamBody::new(frames).boxed_unsync()))
}

struct Reader {
    events: broadcast::Receiver<Arc<Event>>,
    notices: broadcast::Receiver<Record>,
    outputs: watch::Receiver<Arc<Outputs>>,
    chunks: mpsc::Sender<Bytes>,
    _seat: Seat,
}

impl Reader {
    /// Ends when the client is gone or the agent stops.
    async fn run(mut self, hello: Record) {
        let mut chunk = Vec::new();
        append(&mut chunk, &hello);
        loop {
            if self.chunks.send(std::mem::take(&mut chunk).into()).await.is_err() {
                return;
            }
            tokio::select! {
                () = self.chunks.closed() => return,
                event = self.events.recv() => match event {
                    Ok(event) => self.packet(&mut chunk, &event),
                    Err(RecvError::Lagged(events)) => append(&mut chunk, &Record::Lost { events }),
                    Err(RecvError::Closed) => return,
                },
                notice = self.notices.recv() => match notice {
                    Ok(record) => append(&mut chunk, &record),
                    Err(RecvError::Lagged(events)) => append(&mut chunk, &Record::Lost { events }),
                    Err(RecvError::Closed) => return,
                },
            }
            self.fill(&mut chunk);
        }
    }

    /// Takes along what is there already: one write for many events.
    fn fill(&mut self, chunk: &mut Vec<u8>) {
        while chunk.len() < CHUNK {
            match self.events.try_recv() {
                Ok(event) => self.packet(chunk, &event),
                Err(TryRecvError::Lagged(events)) => append(chunk, &Record::Lost { events }),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn packet(&self, chunk: &mut Vec<u8>, event: &Event) {
        let outputs = self.outputs.borrow();
        append(chunk, &Record::Packet(Box::new(named(event, &outputs.names))));
    }
}

/// The event with the labels of both sides, as far as they are known.
fn named(event: &Event, names: &Names) -> NamedEvent {
    let labels = |identity: Identity| -> Vec<String> {
        let labels = names.identities.get(&identity);
        labels.map(|labels| labels.iter().map(ToString::to_string).collect()).unwrap_or_default()
    };
    NamedEvent {
        source_labels: labels(event.source_identity),
        destination_labels: labels(event.destination_identity),
        event: event.clone(),
    }
}

fn append(chunk: &mut Vec<u8>, record: &Record) {
    let before = chunk.len();
    match serde_json::to_writer(&mut *chunk, record) {
        Ok(()) => chunk.push(b'\n'),
        Err(error) => {
            tracing::warn!(%error, "an event could not be written as JSON");
            chunk.truncate(before);
        }
    }
}

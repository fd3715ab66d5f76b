//! The one task that owns the state: takes facts and requests in batches, applies them, publishes the snapshot that
//! follows, and then answers who asked.
//!
//! It does no input or output of its own; everything it knows comes through `Inputs`, everything it says is a snapshot.

use state::{Input, Outputs, Rejected, Reply, State, Timestamp};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Inputs that may wait; more make their senders wait.
const QUEUE: usize = 1024;
/// Most inputs that become one snapshot.
const BATCH: usize = 256;

struct Submission {
    input: Input,
    answer: Option<oneshot::Sender<Result<Accepted, Rejected>>>,
}

/// An input that was taken in.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub reply: Reply,
    /// The first snapshot that has it in.
    pub outputs: Arc<Outputs>,
}

#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error("the agent is stopping")]
    Stopping,
}

/// The way in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Inputs {
    sender: mpsc::Sender<Submission>,
}

impl Inputs {
    /// Asks for something, and waits until it is in a published snapshot (not until anybody made it true).
    pub async fn submit(&self, input: Input) -> Result<Accepted, SubmitError> {
        let (answer, answered) = oneshot::channel();
        let submission = Submission { input, answer: Some(answer) };
        self.sender.send(submission).await.map_err(|_| SubmitError::Stopping)?;
        Ok(answered.await.map_err(|_| SubmitError::Stopping)??)
    }

    /// Tells a fact. The writer logs it if the state will not have it.
    pub async fn tell(&self, input: Input) {
        if self.sender.send(Submission { input, answer: None }).await.is_err() {
            tracing::debug!("a fact came after the writer had ended");
        }
    }
}

/// How much the writer did: for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    pub inputs: AtomicU64,
    pub rejected: AtomicU64,
    pub batches: AtomicU64,
}

/// The task to run, and the two ends that the rest of the process uses.
pub struct Writer {
    state: State,
    queue: mpsc::Receiver<Submission>,
    outputs: watch::Sender<Arc<Outputs>>,
    counters: Arc<Counters>,
}

impl Writer {
    pub fn new(mut state: State) -> (Writer, Inputs, watch::Receiver<Arc<Outputs>>, Arc<Counters>) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let (outputs, reader) = watch::channel(state.outputs());
        let counters = Arc::new(Counters::default());
        let writer = Writer { state, queue, outputs, counters: Arc::clone(&counters) };
        (writer, Inputs { sender }, reader, counters)
    }

    /// Runs until `shutdown`, or until nobody can submit any more.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                received = self.queue.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
            }
            self.process(batch.drain(..));
        }
    }

    fn process(&mut self, batch: impl Iterator<Item = Submission>) {
        let now = now();
        let mut answers = Vec::new();
        for Submission { input, answer } in batch {
            self.counters.inputs.fetch_add(1, Ordering::Relaxed);
            let outcome = self.state.apply(input, now);
            if let Err(rejected) = &outcome {
                self.counters.rejected.fetch_add(1, Ordering::Relaxed);
                if answer.is_none() {
                    tracing::warn!(reason = %rejected, "a fact was not taken in");
                }
            }
            if let Some(answer) = answer {
                answers.push((answer, outcome));
            }
        }
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        let outputs = self.state.outputs();
        self.outputs.send_if_modified(|published| {
            let changed = !Arc::ptr_eq(published, &outputs);
            *published = Arc::clone(&outputs);
            changed
        });
        for (answer, outcome) in answers {
            // Whoever asked may have given up; what was asked for is done all the same.
            let _ = answer.send(outcome.map(|reply| Accepted { reply, outputs: Arc::clone(&outputs) }));
        }
    }
}

/// The clock that the state is told.
pub fn now() -> Timestamp {
    static CLOCK: LazyLock<Clock> = LazyLock::new(|| Clock { wall: SystemTime::now(), steady: Instant::now() });
    CLOCK.at(Instant::now())
}

/// The wall clock, read once and counted on from there: whoever sets it while we run neither ages nor rejuvenates what
/// waits its time.
struct Clock {
    wall: SystemTime,
    steady: Instant,
}

impl Clock {
    fn at(&self, steady: Instant) -> Timestamp {
        let since = self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let since = since + steady.saturating_duration_since(self.steady);
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_goes_on_from_what_the_wall_clock_was_at_the_start() {
        let clock = Clock { wall: SystemTime::UNIX_EPOCH + Duration::from_secs(5), steady: Instant::now() };
        assert_eq!(clock.at(clock.steady), Timestamp(5000));
        assert_eq!(clock.at(clock.steady + Duration::from_millis(1500)), Timestamp(6500));
    }
}

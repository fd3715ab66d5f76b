//! How this agent's contact with the kvstore is: what it follows there and how far, its lease, and the heartbeat that
//! shows whether what one node writes reaches the others. It only looks; who follows and who leases does so elsewhere.

use crate::controllers::{Controllers, causes};
use api::status::{Heartbeat, KvstoreContact, Lease, Watch};
use kvstore::session::{Health, Session};
use kvstore::watch::Progress;
use kvstore::{Backend, keys};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio_util::sync::CancellationToken;

const CONTROLLER: &str = "kvstore-heartbeat";
/// How old the heartbeat may be before this node writes the next one. Whoever comes first does.
const BEAT: Duration = Duration::from_secs(30);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
struct Known {
    follows: Vec<Arc<Progress>>,
    health: Option<tokio::sync::watch::Receiver<Health>>,
    beat: Option<Beat>,
}

#[derive(Clone, Debug)]
struct Beat {
    revision: u64,
    /// When it was first seen.
    seen: Instant,
    /// As who wrote it says.
    text: String,
    round_trip: Duration,
}

/// Cheap to clone; all clones share what is known.
#[derive(Clone, Debug, Default)]
pub struct Contact(Arc<Mutex<Known>>);

impl Contact {
    pub fn follows(&self, progress: Arc<Progress>) {
        self.known().follows.push(progress);
    }

    pub fn leases(&self, session: &Session) {
        self.known().health = Some(session.health());
    }

    pub fn report(&self) -> KvstoreContact {
        let known = self.known();
        let watch = |progress: &Arc<Progress>| Watch {
            prefix: progress.prefix().to_owned(),
            revision: progress.revision(),
            in_contact: progress.is_in_contact(),
        };
        let heartbeat = |beat: &Beat| Heartbeat {
            written: beat.text.clone(),
            age: beat.seen.elapsed().as_secs(),
            round_trip_us: u64::try_from(beat.round_trip.as_micros()).unwrap_or(u64::MAX),
        };
        KvstoreContact {
            watches: known.follows.iter().map(watch).collect(),
            lease: known.health.as_ref().map(|health| lease(&health.borrow())),
            heartbeat: known.beat.as_ref().map(heartbeat),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A list and a few numbers, whole at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task: looks at the heartbeat, and writes it where nobody did for a while.
    pub async fn beat(self, backend: Arc<dyn Backend>, controllers: Controllers, shutdown: CancellationToken) {
        loop {
            let outcome = controllers.book(CONTROLLER, self.look(backend.as_ref()).await);
            let pause = match outcome {
                Ok(()) => BEAT,
                Err(error) => {
                    tracing::debug!(error = causes(&error), "no heartbeat");
                    RETRY
                }
            };
            // A little earlier or later each time: one of many nodes is the first.
            let pause = pause.mul_f64(0.75 + rand::random::<f64>() / 2.0);
            if tokio::time::timeout(pause, shutdown.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    async fn look(&self, backend: &dyn Backend) -> Result<(), kvstore::Error> {
        let begin = Instant::now();
        let entry = backend.get(keys::HEARTBEAT).await?;
        let round_trip = begin.elapsed();
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let before = self.known().beat.clone();
        let is_old = before.is_some_and(|beat| beat.revision == revision && beat.seen.elapsed() >= BEAT / 2);
        if revision != 0 && !is_old {
            let text = entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()).unwrap_or_default();
            self.note(revision, text, round_trip);
            return Ok(());
        }
        let text = jiff::Timestamp::now().to_string();
        if let kvstore::Attempt::Done(revision) =
            backend.compare_and_swap(keys::HEARTBEAT, revision, text.clone().into_bytes(), None).await?
        {
            self.note(revision, text, round_trip);
        }
        Ok(())
    }

    fn note(&self, revision: u64, text: String, round_trip: Duration) {
        let mut known = self.known();
        let same = known.beat.take().filter(|beat| beat.revision == revision);
        let seen = same.map_or_else(Instant::now, |beat| beat.seen);
        known.beat = Some(Beat { revision, seen, text, round_trip });
    }
}

fn lease(health: &Health) -> Lease {
    let age = |at: SystemTime| at.elapsed().unwrap_or_default().as_secs();
    Lease {
        id: health.lease.map(|lease| lease.to_string()),
        confirmed: health.confirmed.map(age),
        keys: health.owned,
        pending: health.pending,
        trouble: health.trouble.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvstore::{memory, session, watch};

    #[tokio::test]
    async fn one_heartbeat_serves_all_who_look() {
        let backend = memory::open().0;
        let (first, second) = (Contact::default(), Contact::default());
        first.look(backend.as_ref()).await.unwrap();
        let written = backend.get(keys::HEARTBEAT).await.unwrap().unwrap();
        second.look(backend.as_ref()).await.unwrap();
        second.look(backend.as_ref()).await.unwrap();
        assert_eq!(backend.get(keys::HEARTBEAT).await.unwrap().unwrap(), written);
        let told = |contact: &Contact| contact.report().heartbeat.map(|beat| beat.written);
        assert_eq!(told(&first), told(&second));
        assert_eq!(told(&first), String::from_utf8(written.value).ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_followed_and_leased_is_reported() {
        let (backend, power) = memory::open();
        let contact = Contact::default();
        let mut feed = watch::follow(Arc::clone(&backend), "cilium/", watch::Options::default());
        contact.follows(feed.progress());
        let session = Session::start(Arc::clone(&backend), session::Options::default());
        contact.leases(&session);
        session.publish("cilium/x", "1").await.unwrap();
        while !contact.report().watches[0].in_contact || contact.report().watches[0].revision == 0 {
            feed.next().await.unwrap();
        }
        let lease = contact.report().lease.unwrap();
        assert_eq!((lease.id.is_some(), lease.keys, lease.pending, lease.trouble), (true, 1, 0, None));
        power.off();
        while contact.report().watches[0].in_contact {
            feed.next().await.unwrap();
        }
    }
}

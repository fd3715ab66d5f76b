//! The kvstore's policy document, followed and fed to the state.
//!
//! What the store says when everything is listed is the truth; single changes may be older than what an import of this
//! node has fed already, so those go in as such. A store that does not answer at start is declared away: the state then
//! goes on with the copy in its records.

use crate::contact::Contact;
use crate::controllers::{Controllers, causes};
use crate::policy_store::{Document, key};
use crate::writer::Inputs;
use kvstore::Backend;
use kvstore::watch::{self, Feed, Update};
use state::{Input, Outputs, Source};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const CONTROLLER: &str = "kvstore-policy";
/// How long the store may take at start before the state goes on without it: the second where there is something to go on
/// with, since Docker waits no longer for a container.
const START_PATIENCE: Duration = Duration::from_secs(3);
pub const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// The one or the other.
pub fn patience(has_memory: bool) -> Duration {
    if has_memory { SHORT_PATIENCE } else { START_PATIENCE }
}

pub struct PolicyFeed {
    pub backend: Arc<dyn Backend>,
    pub inputs: Inputs,
    pub outputs: tokio::sync::watch::Receiver<Arc<Outputs>>,
    pub controllers: Controllers,
    pub contact: Contact,
    pub patience: Duration,
}

/// What the store was last seen to hold.
enum Seen {
    Nothing,
    Document(Document),
    Unreadable,
}

impl PolicyFeed {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut feed = watch::follow(Arc::clone(&self.backend), key(), watch::Options::default());
        self.contact.follows(feed.progress());
        let mut seen = Seen::Nothing;
        let mut listing = true;
        if self.first_listing(&mut feed, &mut seen, &mut listing, &shutdown).await.is_none() {
            return;
        }
        loop {
            let updates = tokio::select! {
                () = shutdown.cancelled() => return,
                updates = feed.next() => updates,
            };
            let Some(updates) = updates else { return };
            self.take_in(updates, &mut seen, &mut listing).await;
        }
    }

    /// Waits for the first complete listing, and declares the store away if that takes too long. `None`: shut down.
    async fn first_listing(
        &self,
        feed: &mut Feed,
        seen: &mut Seen,
        listing: &mut bool,
        shutdown: &CancellationToken,
    ) -> Option<()> {
        let patience = tokio::time::sleep(self.patience);
        tokio::pin!(patience);
        while *listing {
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = &mut patience => {
                    tracing::warn!("the kvstore does not answer: the policy of the last run stays in force");
                    self.controllers.failure(CONTROLLER, "the kvstore does not answer");
                    self.inputs.tell(Input::Away(Source::Policy)).await;
                    return Some(());
                }
                updates = feed.next() => self.take_in(updates?, seen, listing).await,
            }
        }
        Some(())
    }

    async fn take_in(&self, updates: Vec<Update>, seen: &mut Seen, listing: &mut bool) {
        for update in updates {
            match update {
                Update::Reset => *listing = true,
                Update::Put(entry) if entry.key == key() => {
                    *seen = self.decode(&entry.value);
                    if !*listing {
                        self.changed(seen).await;
                    }
                }
                Update::Delete { key: gone } if gone == key() => {
                    *seen = Seen::Nothing;
                    if !*listing {
                        self.changed(seen).await;
                    }
                }
                // Another key that begins alike.
                Update::Put(_) | Update::Delete { .. } => {}
                Update::Synced { .. } => {
                    *listing = false;
                    self.listed(seen).await;
                }
            }
        }
    }

    fn decode(&self, bytes: &[u8]) -> Seen {
        match self.controllers.book(CONTROLLER, Document::decode(bytes)) {
            Ok(document) => Seen::Document(document),
            Err(error) => {
                tracing::warn!(
                    key = key(),
                    error = causes(&error),
                    "the policy document in the kvstore cannot be read: the rules in force stay"
                );
                Seen::Unreadable
            }
        }
    }

    /// One change. What goes back in the count of revisions is either late or a store that was restored.
    async fn changed(&self, seen: &Seen) {
        match seen {
            Seen::Document(document) if document.revision >= self.in_force() => {
                let input = Input::PolicyDocument { revision: document.revision, rules: Arc::clone(&document.rules) };
                self.feed(input).await;
            }
            Seen::Document(_) | Seen::Nothing => self.listed(seen).await,
            Seen::Unreadable => {}
        }
    }

    /// What the store holds, whatever its revision. A listing may be older than what an import of this node has fed
    /// since: one that goes back is read once more.
    async fn listed(&self, seen: &Seen) {
        let mut document = match seen {
            Seen::Document(document) => document.clone(),
            Seen::Nothing => Document::empty(),
            Seen::Unreadable => return self.inputs.tell(Input::Away(Source::Policy)).await,
        };
        if document.revision < self.in_force()
            && let Ok(entry) = self.backend.get(&key()).await
        {
            let stored = entry.map_or_else(|| Ok(Document::empty()), |entry| Document::decode(&entry.value));
            document = stored.unwrap_or(document);
        }
        self.feed(Input::PolicyListed { revision: document.revision, rules: document.rules }).await;
    }

    fn in_force(&self) -> u64 {
        self.outputs.borrow().view.policy.revision
    }

    async fn feed(&self, input: Input) {
        let outcome = self.inputs.submit(input).await;
        if let Err(error) = self.controllers.book(CONTROLLER, outcome) {
            tracing::warn!(%error, "the policy document of the kvstore was not taken in: the rules in force stay");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Brain;
    use kvstore::memory::{self, Power};
    use state::SyncState;

    const RULES: &str = r#"[{"endpointSelector": {}, "ingress": [{}]}]"#;

    fn document(revision: u64, rules: &str) -> Vec<u8> {
        format!(r#"{{"revision": {revision}, "rules": {rules}}}"#).into_bytes()
    }

    async fn world() -> (Brain, Arc<dyn Backend>, Power) {
        let (backend, power) = memory::open();
        (Brain::begin().await, backend, power)
    }

    fn begin(brain: &Brain, backend: &Arc<dyn Backend>) -> Controllers {
        let controllers = Controllers::default();
        let feed = PolicyFeed {
            backend: Arc::clone(backend),
            inputs: brain.inputs.clone(),
            outputs: brain.outputs.clone(),
            controllers: controllers.clone(),
            contact: Contact::default(),
            patience: START_PATIENCE,
        };
        tokio::spawn(feed.run(brain.shutdown.clone()));
        controllers
    }

    async fn revision(brain: &Brain, revision: u64) {
        brain.until(&format!("revision {revision}"), |outputs| outputs.view.policy.revision == revision).await;
    }

    #[tokio::test]
    async fn no_document_is_the_empty_policy() {
        let (brain, backend, _power) = world().await;
        begin(&brain, &backend);
        revision(&brain, 1).await;
    }

    #[tokio::test]
    async fn what_others_write_and_delete_is_followed() {
        let (brain, backend, _power) = world().await;
        backend.put(&key(), document(4, RULES), None).await.unwrap();
        begin(&brain, &backend);
        revision(&brain, 4).await;
        backend.put(&key(), document(5, "[]"), None).await.unwrap();
        revision(&brain, 5).await;
        // Somebody restored an older state: the store is right.
        backend.put(&key(), document(2, RULES), None).await.unwrap();
        revision(&brain, 2).await;
        backend.delete(&key()).await.unwrap();
        revision(&brain, 1).await;
    }

    #[tokio::test]
    async fn an_unreadable_document_leaves_the_rules_in_force() {
        let (brain, backend, _power) = world().await;
        backend.put(&key(), document(4, RULES), None).await.unwrap();
        let controllers = begin(&brain, &backend);
        revision(&brain, 4).await;
        backend.put(&key(), b"garbage".to_vec(), None).await.unwrap();
        backend.put(&key(), document(6, r#"[{"endpointSelector": {}, "colour": 1}]"#), None).await.unwrap();
        brain.until("the fault is shown", |outputs| outputs.view.policy.fault.is_some()).await;
        assert_eq!(brain.outputs.borrow().view.policy.revision, 4);
        assert!(controllers.report().iter().any(|row| row.failure_count > 0));
        backend.put(&key(), document(7, "[]"), None).await.unwrap();
        revision(&brain, 7).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_declared_away_and_heard_when_it_comes_back() {
        let (brain, backend, power) = world().await;
        backend.put(&key(), document(4, RULES), None).await.unwrap();
        power.off();
        begin(&brain, &backend);
        let away = |outputs: &Outputs| outputs.view.sync.get(&Source::Policy) == Some(&SyncState::Away);
        brain.until("declared away", away).await;
        assert!(brain.outputs.borrow().datapath.is_none(), "nothing is published without a policy");
        power.on();
        revision(&brain, 4).await;
    }
}

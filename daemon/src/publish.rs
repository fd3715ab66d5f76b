//! What this node shows the others: the records of the newest snapshot, kept in the kvstore for as long as the agent's
//! session lives there.
//!
//! The session does the writing, the leases and the trying again; this only tells it what has changed.

use crate::controllers::Controllers;
use kvstore::session::{Health, Session};
use state::Outputs;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const CONTROLLER: &str = "kvstore-publish";

pub struct Publisher {
    pub session: Session,
    pub outputs: watch::Receiver<Arc<Outputs>>,
    pub controllers: Controllers,
}

type Shared = BTreeMap<String, Arc<str>>;

impl Publisher {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut published = Arc::<Shared>::default();
        let mut health = self.session.health();
        loop {
            let wanted = Arc::clone(&self.outputs.borrow_and_update().shared);
            if !Arc::ptr_eq(&wanted, &published) {
                self.tell(&published, &wanted).await;
                published = wanted;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.outputs.changed() => if changed.is_err() { return },
                changed = health.changed() => if changed.is_err() { return },
            }
            self.book(&health.borrow_and_update());
        }
    }

    async fn tell(&self, published: &Shared, wanted: &Shared) {
        for (key, value) in wanted {
            if published.get(key) != Some(value) {
                // Refused only when the key or value breaks a limit that holds for every store.
                if let Err(error) = self.session.publish_later(key, value.as_bytes()) {
                    tracing::warn!(key, %error, "a record cannot be shared");
                }
            }
        }
        for key in published.keys().filter(|key| !wanted.contains_key(*key)) {
            // The session goes on trying by itself when the store is away.
            if let Err(error) = self.session.withdraw(key).await {
                tracing::debug!(key, %error, "a shared record could not be withdrawn at once");
            }
        }
    }

    fn book(&self, health: &Health) {
        match &health.trouble {
            Some(trouble) => self.controllers.failure(CONTROLLER, trouble.clone()),
            None if health.pending == 0 => self.controllers.success(CONTROLLER),
            None => {}
        }
    }
}

//! The services of the cluster, followed in the kvstore and fed to the state.
//!
//! Records of users have no lease: what goes was deleted, and goes at once. What the last run knew is fed first; what the
//! first full listing does not have of it is gone then. A record that cannot be read is told to the state with its name and
//! the reason, and says nothing.

use super::name_of;
use crate::contact::Contact;
use crate::controllers::{Controllers, causes};
use crate::feed;
use crate::memory::Memory;
use crate::writer::Inputs;
use kvstore::watch::{self, Update};
use kvstore::{Backend, keys};
use state::services::definition::{Service, ServiceName};
use state::services::record;
use state::{Input, Source};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

const CONTROLLER: &str = "kvstore-services";
/// More than these are not taken in: whoever can write to the kvstore must not fill this node's memory.
const MAX_SERVICES: usize = 262_144;

pub struct ServiceFeed {
    pub backend: Arc<dyn Backend>,
    pub inputs: Inputs,
    pub controllers: Controllers,
    pub contact: Contact,
    pub cluster: String,
    /// Where what is known is noted for the next run.
    pub memory: Memory,
    /// What the last run knew.
    pub remembered: Vec<Service>,
}

/// What the store has, as far as it was told.
#[derive(Default)]
struct Known {
    names: BTreeSet<ServiceName>,
    /// Of an earlier run or of before contact was lost: not listed again yet.
    unconfirmed: BTreeSet<ServiceName>,
    /// Whether the state was told that all is listed, or that the kvstore is away.
    announced: bool,
}

impl ServiceFeed {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let prefix = keys::services_of(&self.cluster);
        let mut feed = watch::follow(Arc::clone(&self.backend), prefix, watch::Options::default());
        self.contact.follows(feed.progress());
        let patience = tokio::time::sleep(feed::patience(!self.remembered.is_empty()));
        tokio::pin!(patience);
        let mut known = Known::default();
        for service in std::mem::take(&mut self.remembered) {
            known.names.insert(service.name.clone());
            known.unconfirmed.insert(service.name.clone());
            self.inputs.tell(Input::ServiceKnown(service)).await;
        }
        let mut waiting = true;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                updates = feed.next() => match updates {
                    Some(updates) => self.take_in(updates, &mut known).await,
                    None => return,
                },
                () = &mut patience, if waiting => {
                    waiting = false;
                    self.lose_patience(&mut known).await;
                }
            }
        }
    }

    async fn take_in(&self, updates: Vec<Update>, known: &mut Known) {
        for update in updates {
            match update {
                Update::Reset => known.unconfirmed = known.names.clone(),
                Update::Put(entry) => {
                    let Some(name) = name_of(&entry.key, &self.cluster) else {
                        self.complain(&entry.key, "its key names no service");
                        continue;
                    };
                    known.unconfirmed.remove(&name);
                    if known.names.len() >= MAX_SERVICES && !known.names.contains(&name) {
                        self.complain(&entry.key, "there are too many services");
                        continue;
                    }
                    known.names.insert(name.clone());
                    let input = match record::decode(name.clone(), &entry.value) {
                        Ok(service) => {
                            self.memory.service(&name, Some(&entry.value));
                            Input::ServiceKnown(service)
                        }
                        Err(error) => {
                            let reason = causes(&error);
                            self.complain(&entry.key, &reason);
                            self.memory.service(&name, None);
                            Input::ServiceRefused { name, reason }
                        }
                    };
                    self.inputs.tell(input).await;
                }
                Update::Delete { key } => {
                    if let Some(name) = name_of(&key, &self.cluster) {
                        known.unconfirmed.remove(&name);
                        self.forget(name, known).await;
                    }
                }
                Update::Synced { .. } => {
                    for name in std::mem::take(&mut known.unconfirmed) {
                        self.forget(name, known).await;
                    }
                    known.announced = true;
                    self.controllers.success(CONTROLLER);
                    self.inputs.tell(Input::Synced(Source::Services)).await;
                }
            }
        }
    }

    async fn forget(&self, name: ServiceName, known: &mut Known) {
        known.names.remove(&name);
        self.memory.service(&name, None);
        self.inputs.tell(Input::ServiceGone(name)).await;
    }

    async fn lose_patience(&self, known: &mut Known) {
        if !known.announced {
            known.announced = true;
            tracing::warn!("the kvstore does not answer: the services that were last known stay");
            self.controllers.failure(CONTROLLER, "the kvstore does not answer");
            self.inputs.tell(Input::Away(Source::Services)).await;
        }
    }

    fn complain(&self, key: &str, reason: &str) {
        tracing::warn!(key, reason, "a record of a service cannot be used");
        self.controllers.failure(CONTROLLER, format!("{key}: {reason}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Brain;
    use kvstore::memory::{self, Power};
    use model::service::ServiceType;
    use model::{L4Address, Protocol, ServiceId};
    use state::services::definition::Frontend;
    use state::{Outputs, SyncState};

    fn service(name: &str, id: u32) -> Service {
        let address = L4Address { ip: [10, 96, 0, 10].into(), port: 80, protocol: Protocol::TCP };
        let name = ServiceName { cluster: "default".to_owned(), space: "s".to_owned(), name: name.to_owned() };
        let frontend = Frontend { id: ServiceId(id), kind: ServiceType::ClusterIp, address, port: String::new() };
        Service::new(name, vec![frontend], Vec::new())
    }

    async fn put(backend: &Arc<dyn Backend>, service: &Service) {
        let value = record::encode(service).unwrap();
        backend.put(&super::super::key_of(&service.name), value, None).await.unwrap();
    }

    async fn begin(remembered: Vec<Service>) -> (Brain, Arc<dyn Backend>, Power) {
        let (brain, (backend, power)) = (Brain::begin().await, memory::open());
        let feed = ServiceFeed {
            backend: Arc::clone(&backend),
            inputs: brain.inputs.clone(),
            controllers: Controllers::default(),
            contact: Contact::default(),
            cluster: "default".to_owned(),
            memory: Memory::default(),
            remembered,
        };
        tokio::spawn(feed.run(brain.shutdown.clone()));
        (brain, backend, power)
    }

    fn has(outputs: &Outputs, id: u32) -> bool {
        outputs.view.services.contains_key(&ServiceId(id))
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_store_has_is_known_and_goes_when_it_is_deleted() {
        let (brain, backend, _power) = begin(Vec::new()).await;
        put(&backend, &service("a", 1)).await;
        brain.until("the service is known", |outputs| has(outputs, 1)).await;
        backend.delete(&super::super::key_of(&service("a", 1).name)).await.unwrap();
        brain.until("the service is gone", |outputs| !has(outputs, 1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_cannot_be_read_is_named_and_hurts_no_other() {
        let (brain, backend, _power) = begin(Vec::new()).await;
        put(&backend, &service("a", 1)).await;
        brain.until("the service is known", |outputs| has(outputs, 1)).await;
        let key = super::super::key_of(&service("bad", 2).name);
        backend.put(&key, b"{\"cluster\": 7}".to_vec(), None).await.unwrap();
        brain.until("it is told", |outputs| outputs.view.doubts.contains_key("service s/bad")).await;
        assert!(has(&brain.outputs.borrow(), 1));
        put(&backend, &Service { frontends: Vec::new(), ..service("bad", 2) }).await;
        brain.until("it is well", |outputs| outputs.view.doubts.is_empty()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_known_stays_while_the_store_is_away_and_is_compared_when_it_is_back() {
        let (brain, backend, power) = begin(vec![service("old", 7)]).await;
        power.off();
        let sync = |wanted| move |outputs: &Outputs| outputs.view.sync.get(&Source::Services) == Some(&wanted);
        // Either it was listed before the power went, or it is away: remembered services are there from the start.
        brain.until("the remembered one is known", |outputs| has(outputs, 7)).await;
        power.on();
        put(&backend, &service("new", 8)).await;
        brain.until("all is listed", sync(SyncState::Synced)).await;
        brain.until("the new one is known, the old one gone", |outputs| has(outputs, 8) && !has(outputs, 7)).await;
    }
}

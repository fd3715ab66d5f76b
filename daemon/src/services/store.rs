//! Services as users make, change and delete them: records in the kvstore, each written together with the keys by which
//! the numbers of its frontends are its own in the whole cluster.
//!
//! ```text
//! cilium/state/services/v1/<cluster>/<space>/<name>     the record
//! cilium/state/serviceids/v1/<cluster>/<number>         <space>/<name>: of which service the number is
//! ```
//!
//! One transaction writes the record and its numbers, on condition that the record is as it was read and that each new
//! number is nobody's. So a node may die at any moment and leave nothing half done, and no number means two frontends.

use super::key_of;
use kvstore::{Backend, Condition, MAX_STEPS, Outcome, Txn, keys};
use model::ServiceId;
use state::services::definition::{LOCAL_IDS, Service, ServiceFault, ServiceName};
use state::services::record;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How often a change is tried again because somebody else was quicker.
const ATTEMPTS: u32 = 32;
/// Numbers that one transaction can take or give back, beside the record.
const MOST_NUMBERS: usize = MAX_STEPS - 2;
/// The space of services that were made by their number.
pub const BY_NUMBER: &str = "id";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no service {0}")]
    NotFound(ServiceId),
    #[error("service {id} is registered to {held} already: choose another id")]
    OtherFrontend { id: ServiceId, held: String },
    #[error("service {id} is part of {name}, which was made from a file: change it there")]
    OfFile { id: ServiceId, name: ServiceName },
    #[error("the number {id} is that of {owner} already")]
    NumberTaken { id: ServiceId, owner: String },
    #[error("the service is not possible")]
    Faulty(Vec<ServiceFault>),
    #[error("{changes} numbers of frontends change at once, and {MOST_NUMBERS} may")]
    TooMany { changes: usize },
    #[error("all numbers of services are taken")]
    Exhausted,
    #[error("the record under {key} of the kvstore cannot be read; delete it to begin anew")]
    Record { key: String, source: state::shared_records::RecordError },
    #[error("the record cannot be written as JSON")]
    Encode(#[from] serde_json::Error),
    #[error("services cannot be changed")]
    Store(#[from] kvstore::Error),
    #[error("others changed the service at the same time {ATTEMPTS} times in a row: try again")]
    Contended,
}

/// What a change came to.
#[derive(Debug, PartialEq)]
pub struct Written {
    pub service: Service,
    pub created: bool,
    pub changed: bool,
}

#[derive(Clone, Debug)]
pub struct ServiceStore {
    backend: Arc<dyn Backend>,
    cluster: String,
}

impl ServiceStore {
    pub fn new(backend: Arc<dyn Backend>, cluster: &str) -> ServiceStore {
        ServiceStore { backend, cluster: cluster.to_owned() }
    }

    /// The name of a service that has one frontend and was made by its number.
    pub fn name_by_number(&self, id: ServiceId) -> ServiceName {
        ServiceName { cluster: self.cluster.clone(), space: BY_NUMBER.to_owned(), name: id.to_string() }
    }

    /// Whose a number is.
    async fn owner(&self, id: ServiceId) -> Result<Option<ServiceName>, StoreError> {
        let entry = self.backend.get(&keys::service_id(&self.cluster, id.0)).await?;
        Ok(entry.and_then(|entry| self.named(&entry.value)))
    }

    fn named(&self, value: &[u8]) -> Option<ServiceName> {
        let (space, name) = std::str::from_utf8(value).ok()?.split_once('/')?;
        Some(ServiceName { cluster: self.cluster.clone(), space: space.to_owned(), name: name.to_owned() })
    }

    async fn read(&self, name: &ServiceName) -> Result<(u64, Option<Service>), StoreError> {
        let key = key_of(name);
        match self.backend.get(&key).await? {
            None => Ok((0, None)),
            Some(entry) => match record::decode(name.clone(), &entry.value) {
                Ok(service) => Ok((entry.revision, Some(service))),
                Err(source) => Err(StoreError::Record { key, source }),
            },
        }
    }

    /// Makes the service of a number, or gives it these backends and settings. The frontend of one that is there stays.
    pub async fn put_numbered(&self, wanted: Service) -> Result<Written, StoreError> {
        let Some(frontend) = wanted.frontends.first().cloned() else { return Err(StoreError::Faulty(Vec::new())) };
        let id = frontend.id;
        if let Some(name) = self.owner(id).await?.filter(|owner| *owner != wanted.name) {
            return Err(StoreError::OfFile { id, name });
        }
        let same = |held: &Service| match held.frontends.first() {
            Some(held) if held.address != frontend.address => {
                Err(StoreError::OtherFrontend { id, held: held.address.to_string() })
            }
            _ => Ok(()),
        };
        self.put(wanted, same).await
    }

    /// Makes or replaces a service of which the frontends have no numbers yet (0): those that are there keep theirs, by
    /// their address, the others get the lowest that are free.
    pub async fn put_named(&self, wanted: Service) -> Result<Written, StoreError> {
        for _ in 0..ATTEMPTS {
            let (_, held) = self.read(&wanted.name).await?;
            let mut service = wanted.clone();
            let mut taken: Option<BTreeSet<u32>> = None;
            for frontend in &mut service.frontends {
                let held = held.iter().flat_map(|held| &held.frontends).find(|held| held.address == frontend.address);
                if let Some(held) = held {
                    frontend.id = held.id;
                    continue;
                }
                let taken = match &mut taken {
                    Some(taken) => taken,
                    None => taken.insert(self.numbers().await?),
                };
                let free = (1..LOCAL_IDS).find(|id| !taken.contains(id)).ok_or(StoreError::Exhausted)?;
                taken.insert(free);
                frontend.id = ServiceId(free);
            }
            match self.put(service, |_| Ok(())).await {
                // Somebody took one of the free numbers meanwhile.
                Err(StoreError::NumberTaken { .. }) => {}
                done => return done,
            }
        }
        Err(StoreError::Contended)
    }

    async fn numbers(&self) -> Result<BTreeSet<u32>, StoreError> {
        let listing = self.backend.list(&keys::service_ids_of(&self.cluster)).await?;
        Ok(listing.entries.iter().filter_map(|entry| keys::parse_service_id(&entry.key)).map(|(_, id)| id).collect())
    }

    async fn put(
        &self,
        wanted: Service,
        check: impl Fn(&Service) -> Result<(), StoreError>,
    ) -> Result<Written, StoreError> {
        let faults = wanted.faults();
        if !faults.is_empty() {
            return Err(StoreError::Faulty(faults));
        }
        for _ in 0..ATTEMPTS {
            let (revision, held) = self.read(&wanted.name).await?;
            if let Some(held) = &held {
                check(held)?;
                if same(held, &wanted) {
                    return Ok(Written { service: wanted, created: false, changed: false });
                }
            }
            let txn = Txn::new().put(key_of(&wanted.name), record::encode(&wanted)?, None);
            if self.commit(txn, &wanted.name, revision, held.as_ref(), Some(&wanted)).await? {
                return Ok(Written { service: wanted, created: held.is_none(), changed: true });
            }
        }
        Err(StoreError::Contended)
    }

    /// Deletes a frontend, and with the last one its service.
    pub async fn delete(&self, id: ServiceId) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            let Some(name) = self.owner(id).await? else { return Err(StoreError::NotFound(id)) };
            let (revision, held) = match self.read(&name).await {
                Ok(read) => read,
                // What cannot be read is deleted whole.
                Err(StoreError::Record { key, .. }) => {
                    let txn = Txn::new().delete(key).delete(keys::service_id(&self.cluster, id.0));
                    self.backend.commit(txn).await?;
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let Some(held) = held else {
                // A number without a service: nobody can have it until it goes.
                self.backend.delete(&keys::service_id(&self.cluster, id.0)).await?;
                return Ok(());
            };
            let mut left = held.clone();
            left.frontends.retain(|frontend| frontend.id != id);
            let key = key_of(&name);
            let (txn, left) = match left.frontends.is_empty() {
                true => (Txn::new().delete(key), None),
                false => (Txn::new().put(key, record::encode(&left)?, None), Some(left)),
            };
            if self.commit(txn, &name, revision, Some(&held), left.as_ref()).await? {
                return Ok(());
            }
        }
        Err(StoreError::Contended)
    }

    /// False if others were quicker.
    async fn commit(
        &self,
        txn: Txn,
        name: &ServiceName,
        revision: u64,
        before: Option<&Service>,
        after: Option<&Service>,
    ) -> Result<bool, StoreError> {
        let ids = |service: Option<&Service>| -> BTreeSet<ServiceId> {
            service.into_iter().flat_map(|service| &service.frontends).map(|frontend| frontend.id).collect()
        };
        let (before, after) = (ids(before), ids(after));
        let key = key_of(name);
        let mut txn = txn.when(match revision {
            0 => Condition::Absent { key },
            revision => Condition::Revision { key, revision },
        });
        let new: Vec<ServiceId> = after.difference(&before).copied().collect();
        let gone: Vec<ServiceId> = before.difference(&after).copied().collect();
        let changes = new.len() + gone.len();
        if changes > MOST_NUMBERS {
            return Err(StoreError::TooMany { changes });
        }
        for id in &new {
            let key = keys::service_id(&self.cluster, id.0);
            txn = txn.when(Condition::Absent { key: key.clone() }).put(key, name.to_string(), None);
        }
        for id in &gone {
            txn = txn.delete(keys::service_id(&self.cluster, id.0));
        }
        match self.backend.commit(txn).await? {
            Outcome::Committed { .. } => Ok(true),
            Outcome::Refused { found } => {
                // The first condition is the record's.
                for (id, entry) in new.iter().zip(found.into_iter().skip(1)) {
                    if let Some(owner) = entry.map(|entry| self.named(&entry.value))
                        && owner.as_ref() != Some(name)
                    {
                        let owner = owner.map_or("nobody who can be read".to_owned(), |owner| owner.to_string());
                        return Err(StoreError::NumberTaken { id: *id, owner });
                    }
                }
                Ok(false)
            }
        }
    }
}

/// Whether two records say the same, in whatever order.
fn same(one: &Service, other: &Service) -> bool {
    record::encode(one).ok() == record::encode(other).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::service::ServiceType;
    use model::{L4Address, Protocol};
    use state::services::definition::{Backend as Answerer, BackendState, Frontend};

    fn store() -> (ServiceStore, Arc<dyn Backend>) {
        let backend = kvstore::memory::open().0;
        (ServiceStore::new(Arc::clone(&backend), "default"), backend)
    }

    fn at(last: u8, port: u16) -> L4Address {
        L4Address { ip: [10, 96, 0, last].into(), port, protocol: Protocol::TCP }
    }

    fn named(name: &str, frontends: &[(u32, u8)]) -> Service {
        let frontend = |(id, last): &(u32, u8)| Frontend {
            id: ServiceId(*id),
            kind: ServiceType::ClusterIp,
            address: at(*last, 80),
            port: String::new(),
        };
        Service::new(
            ServiceName { cluster: "default".to_owned(), space: "s".to_owned(), name: name.to_owned() },
            frontends.iter().map(frontend).collect(),
            Vec::new(),
        )
    }

    fn numbered(store: &ServiceStore, id: u32, last: u8) -> Service {
        Service { name: store.name_by_number(ServiceId(id)), ..named("", &[(id, last)]) }
    }

    fn ids(written: &Written) -> Vec<u32> {
        written.service.frontends.iter().map(|frontend| frontend.id.0).collect()
    }

    #[tokio::test]
    async fn a_numbered_service_is_made_changed_and_deleted() {
        let (store, backend) = store();
        let mut service = numbered(&store, 7, 10);
        let written = store.put_numbered(service.clone()).await.unwrap();
        assert!(written.created && written.changed);
        let entry = backend.get("cilium/state/services/v1/default/id/7").await.unwrap().unwrap();
        assert_eq!(record::decode(service.name.clone(), &entry.value).unwrap(), service);
        assert!(entry.lease.is_none());
        assert!(!store.put_numbered(service.clone()).await.unwrap().changed);
        let answerer = Answerer {
            address: L4Address { ip: [10, 15, 0, 2].into(), port: 80, protocol: Protocol::TCP },
            port: String::new(),
            weight: 100,
            state: BackendState::Active,
            node: None,
        };
        service.backends.push(answerer);
        let written = store.put_numbered(service.clone()).await.unwrap();
        assert!(!written.created && written.changed);
        let elsewhere = numbered(&store, 7, 11);
        assert!(matches!(store.put_numbered(elsewhere).await, Err(StoreError::OtherFrontend { .. })));
        store.delete(ServiceId(7)).await.unwrap();
        assert!(backend.list("cilium/").await.unwrap().entries.is_empty());
        assert!(matches!(store.delete(ServiceId(7)).await, Err(StoreError::NotFound(_))));
    }

    #[tokio::test]
    async fn numbers_are_the_lowest_free_ones_and_stay() {
        let (store, backend) = store();
        store.put_numbered(numbered(&store, 2, 99)).await.unwrap();
        let written = store.put_named(named("a", &[(0, 1), (0, 2)])).await.unwrap();
        assert_eq!(ids(&written), [1, 3]);
        // One goes, one stays, one comes.
        let written = store.put_named(named("a", &[(0, 2), (0, 3)])).await.unwrap();
        assert_eq!(ids(&written), [3, 4]);
        assert!(backend.get(&keys::service_id("default", 1)).await.unwrap().is_none());
        let error = store.put_numbered(numbered(&store, 3, 50)).await;
        assert!(matches!(error, Err(StoreError::OfFile { .. })), "{error:?}");
        store.delete(ServiceId(3)).await.unwrap();
        store.delete(ServiceId(4)).await.unwrap();
        assert!(backend.get("cilium/state/services/v1/default/s/a").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn nodes_that_ask_at_once_get_different_numbers() {
        let (store, backend) = store();
        let tasks = (0..16_u8).map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.put_named(named(&format!("n{n}"), &[(0, n), (0, n + 100)])).await })
        });
        let mut all = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            all.extend(ids(&task.await.unwrap().unwrap()));
        }
        all.sort_unstable();
        assert_eq!(all, (1..=32).collect::<Vec<_>>());
        assert_eq!(backend.list("cilium/state/serviceids/v1/default/").await.unwrap().entries.len(), 32);
    }

    #[tokio::test]
    async fn what_is_not_possible_is_not_written() {
        let (store, backend) = store();
        let mut service = named("a", &[(1, 1), (2, 1)]);
        service.affinity = Some(0);
        let Err(StoreError::Faulty(faults)) = store.put_named(service).await else { panic!("taken") };
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(backend.list("cilium/").await.unwrap().entries.is_empty());
    }

    #[tokio::test]
    async fn an_unreadable_record_is_kept_until_it_is_deleted_on_purpose() {
        let (store, backend) = store();
        store.put_numbered(numbered(&store, 7, 10)).await.unwrap();
        backend.put("cilium/state/services/v1/default/id/7", b"garbage".to_vec(), None).await.unwrap();
        assert!(matches!(store.put_numbered(numbered(&store, 7, 10)).await, Err(StoreError::Record { .. })));
        store.delete(ServiceId(7)).await.unwrap();
        assert!(store.put_numbered(numbered(&store, 7, 10)).await.unwrap().created);
    }
}

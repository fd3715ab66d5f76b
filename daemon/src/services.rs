//! The cluster's services in the kvstore: followed and fed to the state (`feed`), and changed by users (`store`). What a
//! record says is read by the state's own reader; what comes of it is decided there.

pub mod feed;
pub mod store;

use kvstore::keys;
use state::services::definition::ServiceName;

/// The service that a key is of, if it is one of this cluster.
pub fn name_of(key: &str, cluster: &str) -> Option<ServiceName> {
    let (of, space, name) = keys::parse_service(key)?;
    (of == cluster).then_some(ServiceName { cluster: of, space, name })
}

/// The key of a service's record.
pub fn key_of(name: &ServiceName) -> String {
    keys::service(&name.cluster, &name.space, &name.name)
}

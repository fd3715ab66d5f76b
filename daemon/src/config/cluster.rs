//! Which cluster this is, and where others are told of.

use super::{Kvstore, Reader};
use model::ClusterName;
use std::path::PathBuf;

/// This cluster among several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// 0: there is but one.
    pub id: u8,
    /// `None` only where the configuration is faulty.
    name: Option<ClusterName>,
    /// The folder with a file for each other cluster.
    pub others: PathBuf,
}

impl Cluster {
    pub(super) fn read(reader: &mut Reader<'_>, kvstore: &Kvstore) -> Cluster {
        let text = reader.text("cluster-name");
        let name = match ClusterName::new(&text) {
            Ok(name) => Some(name),
            Err(error) => {
                reader.fault("cluster-name", error.to_string());
                None
            }
        };
        let id = u8::try_from(reader.number("cluster-id", 0..=255)).unwrap_or_default();
        if id != 0 && text == ClusterName::DEFAULT {
            reader.fault(
                "cluster-name",
                "a cluster with a --cluster-id needs a name of its own, so that others can tell it",
            );
        }
        if id != 0 && matches!(kvstore.shared, kvstore::Config::Embedded { .. }) {
            reader.fault("cluster-id", "other clusters need an etcd to read: give --kvstore=etcd");
        }
        Cluster { id, name, others: reader.path("clustermesh-config") }
    }

    /// Its name, where it is one of several.
    pub fn in_mesh(&self) -> Option<ClusterName> {
        self.name.filter(|_| self.id != 0)
    }
}

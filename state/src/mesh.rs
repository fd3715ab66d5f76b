//! The other clusters of the mesh: which there are, and what each of them may say.
//!
//! A cluster has its name and its id to itself. It speaks of its own nodes, and of addresses behind those; the identities
//! that it gives are those with its id, and say in their labels that they are its own. Whatever else it says is not taken
//! in, and is told as a doubt: whoever writes to the kvstore of one cluster must not speak for another.

use crate::identities::check_labels;
use crate::input::{MeshFact, NodeName};
use crate::outputs::Timestamp;
use crate::{Dirty, Rejected, State};
use model::{CLUSTER_LABEL, ClusterName, Identity, Labels};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How many of what a cluster may not say are named.
const TOLD_DOUBTS: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Mesh {
    clusters: BTreeMap<ClusterName, Member>,
}

#[derive(Debug)]
struct Member {
    id: u8,
    /// What it said and may not, by what it is about.
    doubts: BTreeMap<String, String>,
}

impl Mesh {
    fn member(&self, id: u8) -> Option<(&ClusterName, &Member)> {
        self.clusters.iter().find(|(_, member)| member.id == id)
    }

    /// What was said and is not believed, by whom or about what.
    pub(crate) fn doubts(&self) -> impl Iterator<Item = (String, String)> {
        self.clusters.iter().flat_map(|(cluster, member)| {
            member.doubts.iter().map(move |(what, why)| (format!("cluster {cluster}, {what}"), why.clone()))
        })
    }

    /// Whether that was news.
    fn doubt(&mut self, cluster: ClusterName, what: String, why: Option<String>) -> bool {
        let Some(Member { doubts, .. }) = self.clusters.get_mut(&cluster) else { return false };
        match why {
            None => doubts.remove(&what).is_some(),
            Some(_) if doubts.len() >= TOLD_DOUBTS && !doubts.contains_key(&what) => false,
            Some(why) => {
                tracing::warn!(%cluster, what, why, "what another cluster tells is not believed");
                doubts.insert(what, why.clone()) != Some(why)
            }
        }
    }
}

impl State {
    /// The id of a cluster of which nodes are believed in.
    pub(crate) fn id_of_cluster(&self, name: &str) -> Option<u8> {
        if name == self.config.cluster {
            return Some(self.config.cluster_id);
        }
        let name = ClusterName::new(name).ok()?;
        self.mesh.clusters.get(&name).map(|member| member.id)
    }

    /// Whether another cluster speaks for the node.
    pub(crate) fn is_of_mesh(&self, node: &NodeName) -> bool {
        node.cluster != self.config.cluster && self.id_of_cluster(&node.cluster).is_some()
    }

    /// Whether another cluster speaks for the identity.
    pub(crate) fn is_mesh_identity(&self, identity: Identity) -> bool {
        identity.is_allocated() && self.mesh.member(identity.cluster_id()).is_some()
    }

    /// Whether the cluster with the id may say that an address of its own has the identity. Of reserved ones these two
    /// are everybody's, others are this node's to tell.
    pub(crate) fn may_give(&self, teller: u8, identity: Identity) -> bool {
        let own = self.config.cluster_id;
        let in_rights = match identity.cluster_id() {
            id if id == teller => true,
            // Nodes of this cluster may not have been told of its id yet, or this one not.
            id if teller == own => own == 0 || id == 0,
            _ => false,
        };
        identity.is_allocated() && in_rights || identity == Identity::INIT || identity == Identity::HEALTH
    }

    /// What this cluster's own kvstore may say of a number.
    pub(crate) fn check_own_identity(&self, identity: Identity, labels: &Labels) -> Result<(), Rejected> {
        let bad = |reason| Err(Rejected::BadIdentity { identity, labels: labels.to_string(), reason });
        if identity.is_allocated() && !self.may_give(self.config.cluster_id, identity) {
            return bad("it has the id of another cluster");
        }
        if self.config.cluster_id != 0 && !says_only(labels, &self.config.cluster) {
            return bad("it says that it is another cluster's");
        }
        Ok(())
    }

    /// Addresses of which another cluster tells that they are on nodes that are not its own.
    pub(crate) fn strange_addresses(&self) -> impl Iterator<Item = (String, String)> {
        self.mesh.clusters.iter().flat_map(|(cluster, member)| {
            let strange = |(node, _): &(IpAddr, IpAddr)| self.believed.teller(node).is_some_and(|of| of != member.id);
            self.remote.homes(member.id).filter(strange).map(move |(node, address)| {
                (format!("cluster {cluster}, address {address}"), format!("node {node} is another cluster's"))
            })
        })
    }

    /// Takes in what another cluster tells.
    pub(crate) fn hear_of_mesh(
        &mut self,
        cluster: ClusterName,
        fact: MeshFact,
        now: Timestamp,
    ) -> Result<(), Rejected> {
        let id = match fact {
            MeshFact::Joined { id } => return self.join_mesh(cluster, id),
            _ => match self.mesh.clusters.get(&cluster) {
                Some(member) => member.id,
                // It left, and what it had to say came late.
                None => return Ok(()),
            },
        };
        match fact {
            MeshFact::Joined { .. } => {}
            MeshFact::Left => self.leave_mesh(cluster, id, now),
            MeshFact::IdentityKnown { identity, labels } => {
                let why = self.put_mesh_identity(cluster, id, identity, labels, now).err();
                self.doubt_of_mesh(cluster, format!("identity {identity}"), why);
            }
            MeshFact::IdentityGone { identity } => {
                if identity.is_allocated() && identity.cluster_id() == id {
                    self.forget_mesh_identity(identity, now);
                }
                self.doubt_of_mesh(cluster, format!("identity {identity}"), None);
            }
            MeshFact::NodeKnown(node) if node.name.cluster == cluster.as_str() => self.put_remote_node(node),
            MeshFact::NodeKnown(node) => {
                let why = format!("it is none of its nodes, but of cluster {:?}", node.name.cluster);
                self.doubt_of_mesh(cluster, format!("node {}/{}", node.name.cluster, node.name.name), Some(why));
            }
            MeshFact::NodeGone(name) if name.cluster == cluster.as_str() => self.remove_remote_node(&name),
            MeshFact::NodeGone(name) => {
                self.doubt_of_mesh(cluster, format!("node {}/{}", name.cluster, name.name), None);
            }
            MeshFact::AddressKnown { address, record } => self.put_remote_address(id, address, record),
            MeshFact::AddressGone { address } => self.remove_remote_address(id, address),
        }
        Ok(())
    }

    fn doubt_of_mesh(&mut self, cluster: ClusterName, what: String, why: Option<String>) {
        let news = self.mesh.doubt(cluster, what, why);
        self.dirty_if(news, Dirty::Identities);
    }

    fn join_mesh(&mut self, cluster: ClusterName, id: u8) -> Result<(), Rejected> {
        let refused = |reason: String| Err(Rejected::BadCluster { cluster, id, reason });
        let own = (&self.config.cluster, self.config.cluster_id);
        if own.1 == 0 {
            return refused("this cluster has no id, and is in no mesh".to_owned());
        }
        if cluster.as_str() == own.0 {
            return refused("this cluster has that name itself".to_owned());
        }
        if id == 0 {
            return refused("a cluster of a mesh has an id from 1 to 255".to_owned());
        }
        if id == own.1 {
            return refused("this cluster has that id itself".to_owned());
        }
        if let Some((other, _)) = self.mesh.member(id).filter(|(other, _)| **other != cluster) {
            return refused(format!("cluster {other} has that id"));
        }
        if let Some(member) = self.mesh.clusters.get(&cluster).filter(|member| member.id != id) {
            return refused(format!("it is there already with id {}", member.id));
        }
        if self.mesh.clusters.contains_key(&cluster) {
            return Ok(());
        }
        // What this cluster's kvstore said of it does not count any more.
        self.remote.nodes_of(cluster.as_str()).iter().for_each(|name| {
            self.remote.remove_node(name);
        });
        self.mesh.clusters.insert(cluster, Member { id, doubts: BTreeMap::new() });
        self.dirty_if(true, Dirty::Tables);
        Ok(())
    }

    fn leave_mesh(&mut self, cluster: ClusterName, id: u8, now: Timestamp) {
        self.remote.nodes_of(cluster.as_str()).iter().for_each(|name| {
            self.remote.remove_node(name);
        });
        let addresses: Vec<IpAddr> = self.remote.told_by(id);
        addresses.into_iter().for_each(|address| {
            self.remote.remove_address(id, address);
        });
        self.identities.unconfirm_of_cluster(id);
        self.mesh.clusters.remove(&cluster);
        self.assign_identities(now);
        self.dirty_if(true, Dirty::Tables);
    }

    /// Err: why it may not say so; what it said of the number before is forgotten.
    fn put_mesh_identity(
        &mut self,
        cluster: ClusterName,
        id: u8,
        identity: Identity,
        labels: Labels,
        now: Timestamp,
    ) -> Result<(), String> {
        if !identity.is_allocated() || identity.cluster_id() != id {
            return Err(format!("it is no identity of the cluster with id {id}"));
        }
        let told = check_labels(identity, &labels).map_err(|refused| refused.to_string()).and_then(|()| {
            let says = labels.iter().any(|label| label.key == CLUSTER_LABEL);
            match says && says_only(&labels, cluster.as_str()) {
                true => Ok(()),
                false => Err(format!("its labels do not say that it is of cluster {cluster}: {labels}")),
            }
        });
        if told.is_err() {
            self.forget_mesh_identity(identity, now);
            return told;
        }
        self.dirty_if(true, Dirty::Identities);
        let confirmed = self.identities.confirm(identity, labels).map_err(|refused| refused.to_string());
        self.assign_identities(now);
        confirmed
    }

    fn forget_mesh_identity(&mut self, identity: Identity, now: Timestamp) {
        self.dirty_if(true, Dirty::Identities);
        self.identities.unconfirm(identity);
        self.assign_identities(now);
    }
}

/// Whether the labels tell of no other cluster than this one, whatever source they are of.
fn says_only(labels: &Labels, cluster: &str) -> bool {
    labels.iter().filter(|label| label.key == CLUSTER_LABEL).all(|label| label.value == cluster)
}

//! The names under which a rule can speak of peers that have no labels of their own, and whom each name selects.

use crate::peer::Peer;
use ipnetwork::IpNetwork;
use model::CLUSTER_LABEL;
use model::labels::SOURCE_K8S;
use std::fmt;

/// A name in `fromEntities` or `toEntities`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Entity {
    /// Everybody.
    All,
    /// Every address that nothing of ours owns, those in mentioned prefixes included.
    World,
    WorldIpv4,
    WorldIpv6,
    /// The nodes and what runs on them: the reserved identities of this node and of others, and **every** endpoint
    /// identity of this cluster, that is every identity allocated through the kvstore that does not say that it is another
    /// cluster's. (Cilium demands the label of the cluster, which containers have only where there are several.)
    Cluster,
    Host,
    RemoteNode,
    KubeApiserver,
    Health,
    Init,
    Ingress,
    Unmanaged,
    /// Nobody.
    None,
}

const NAMES: [(Entity, &str); 13] = [
    (Entity::All, "all"),
    (Entity::World, "world"),
    (Entity::WorldIpv4, "world-ipv4"),
    (Entity::WorldIpv6, "world-ipv6"),
    (Entity::Cluster, "cluster"),
    (Entity::Host, "host"),
    (Entity::RemoteNode, "remote-node"),
    (Entity::KubeApiserver, "kube-apiserver"),
    (Entity::Health, "health"),
    (Entity::Init, "init"),
    (Entity::Ingress, "ingress"),
    (Entity::Unmanaged, "unmanaged"),
    (Entity::None, "none"),
];

/// Reserved labels that belong to the cluster.
const OF_CLUSTER: [&str; 7] = ["host", "remote-node", "init", "ingress", "health", "unmanaged", "kube-apiserver"];

impl Entity {
    /// Names are case-sensitive.
    pub fn from_name(name: &str) -> Option<Entity> {
        NAMES.iter().find(|(_, n)| *n == name).map(|(entity, _)| *entity)
    }

    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(entity, _)| *entity == self).map_or("", |(_, name)| name)
    }

    /// All names, for error messages.
    pub(crate) fn names() -> String {
        NAMES.map(|(_, name)| name).join(", ")
    }

    pub(crate) fn matches(self, peer: &Peer<'_>) -> bool {
        match self {
            Entity::All => true,
            Entity::None => false,
            Entity::World => ["world", "world-ipv4", "world-ipv6"].iter().any(|name| peer.labels.has_reserved(name)),
            Entity::WorldIpv4 => peer.prefix.as_ref().is_some_and(IpNetwork::is_ipv4),
            Entity::WorldIpv6 => peer.prefix.as_ref().is_some_and(IpNetwork::is_ipv6),
            Entity::Cluster => {
                peer.identity.is_allocated() && !is_foreign(peer)
                    || OF_CLUSTER.iter().any(|n| peer.labels.has_reserved(n))
            }
            named => peer.labels.has_reserved(named.name()),
        }
    }
}

/// Whether the labels say that this is another cluster's endpoint.
fn is_foreign(peer: &Peer<'_>) -> bool {
    let Some(own) = peer.cluster else { return false };
    let told = peer.labels.iter().filter(|label| label.source == SOURCE_K8S && label.key == CLUSTER_LABEL);
    told.into_iter().any(|label| label.value != own.as_str())
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for Entity {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cidr::cidr_labels;
    use model::{Identity, Label, Labels};

    /// Which entities select a peer, by name.
    fn selecting(identity: u32, labels: &Labels) -> Vec<&'static str> {
        let peer = Peer::new(Identity(identity), labels);
        NAMES.iter().filter(|(entity, _)| entity.matches(&peer)).map(|(_, name)| *name).collect()
    }

    #[test]
    fn each_peer_is_selected_by_its_entities_alone() {
        let container: Labels = [Label::new("container", "id", "a")].into_iter().collect();
        assert_eq!(selecting(300, &container), ["all", "cluster"]);
        assert_eq!(selecting(1, &Labels::reserved("host")), ["all", "cluster", "host"]);
        assert_eq!(selecting(2, &Labels::reserved("world")), ["all", "world"]);
        assert_eq!(selecting(5, &Labels::reserved("init")), ["all", "cluster", "init"]);
        assert_eq!(selecting(9, &Labels::reserved("world-ipv4")), ["all", "world", "world-ipv4"]);
        let prefix = "10.0.0.0/8".parse().unwrap();
        assert_eq!(selecting(1 << 24, &cidr_labels(prefix)), ["all", "world", "world-ipv4"]);
        let prefix = "2001:db8::/32".parse().unwrap();
        assert_eq!(selecting(1 << 24, &cidr_labels(prefix)), ["all", "world", "world-ipv6"]);
    }

    #[test]
    fn the_cluster_is_the_own_one() {
        let of = |cluster: &str| -> Labels {
            [Label::new("container", "id", "a"), Label::new("k8s", CLUSTER_LABEL, cluster)].into_iter().collect()
        };
        let own = model::ClusterName::new("a").ok();
        let selects =
            |labels: &Labels, own| Entity::Cluster.matches(&Peer::new(Identity(1 << 16 | 300), labels).seen_from(own));
        assert!(selects(&of("a"), own) && !selects(&of("b"), own));
        // Whoever is in no mesh has no others; what is told without a cluster is of before there were several.
        assert!(selects(&of("b"), None));
        assert!(selects(&[Label::new("container", "id", "a")].into_iter().collect(), own));
        // All nodes are of the cluster, as in Cilium.
        let node = Labels::reserved("remote-node");
        assert!(Entity::Cluster.matches(&Peer::new(Identity::REMOTE_NODE, &node).seen_from(own)));
    }

    #[test]
    fn names_are_case_sensitive_and_round_trip() {
        assert_eq!(Entity::from_name("World"), None);
        for (entity, name) in NAMES {
            assert_eq!(Entity::from_name(name), Some(entity));
            assert_eq!(entity.to_string(), name);
        }
    }
}

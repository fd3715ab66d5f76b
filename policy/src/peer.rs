//! The other side of a connection as policy sees it, and the selectors that an entry can choose it with.

use crate::cidr;
use crate::entity::Entity;
use crate::selector::Selector;
use ipnetwork::IpNetwork;
use model::{ClusterName, Identity, Labels};
use std::fmt;

/// An identity with what selectors look at.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    pub identity: Identity,
    pub labels: &'a Labels,
    /// The prefix that the identity stands for, if it stands for addresses outside.
    pub(crate) prefix: Option<IpNetwork>,
    /// The cluster that the policy is in force in, if that is one of several.
    pub(crate) cluster: Option<ClusterName>,
}

impl<'a> Peer<'a> {
    pub fn new(identity: Identity, labels: &'a Labels) -> Peer<'a> {
        Peer { identity, labels, prefix: cidr::of_labels(labels), cluster: None }
    }

    /// A peer of which only the labels are given: they tell which kind of identity it would have.
    pub fn from_labels(labels: &'a Labels) -> Peer<'a> {
        let prefix = cidr::of_labels(labels);
        let reserved = labels.iter().filter(|label| label.source == model::labels::SOURCE_RESERVED);
        let reserved = reserved.filter_map(|label| Identity::from_reserved_name(&label.key)).next();
        let identity = match (prefix, reserved) {
            (_, Some(world @ (Identity::WORLD_IPV4 | Identity::WORLD_IPV6))) => world,
            (Some(_), _) => Identity(Identity::FIRST_LOCAL),
            (None, Some(identity)) => identity,
            (None, None) => Identity(Identity::MIN_ALLOCATED),
        };
        Peer { identity, labels, prefix, cluster: None }
    }

    /// The same as a cluster sees it that is one of several.
    pub fn seen_from(self, cluster: Option<ClusterName>) -> Peer<'a> {
        Peer { cluster, ..self }
    }

    /// Whether this is an endpoint, for which policy is enforced; nothing is enforced for the outside, for nodes and
    /// for the host.
    pub fn is_endpoint(&self) -> bool {
        self.identity.is_allocated() || matches!(self.identity, Identity::INIT | Identity::HEALTH | Identity::INGRESS)
    }
}

/// One way of choosing peers: an element of a peer field.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PeerSelector {
    /// `fromEndpoints`, `toEndpoints`.
    Labels(Selector),
    /// `fromCIDR(Set)`, `toCIDR(Set)`: in `cidr` and in none of `except`.
    Cidr { cidr: IpNetwork, except: Vec<IpNetwork> },
    /// `fromEntities`, `toEntities`.
    Entity(Entity),
}

impl PeerSelector {
    /// Whether this selects every identity there is or will be.
    pub fn is_everyone(&self) -> bool {
        match self {
            PeerSelector::Labels(selector) => selector.is_empty(),
            PeerSelector::Entity(entity) => *entity == Entity::All,
            PeerSelector::Cidr { .. } => false,
        }
    }

    pub fn matches(&self, peer: &Peer<'_>) -> bool {
        match self {
            PeerSelector::Labels(selector) => selector.matches(peer.labels),
            PeerSelector::Entity(entity) => entity.matches(peer),
            PeerSelector::Cidr { cidr, except } => match peer.prefix {
                Some(prefix) => {
                    cidr::contains(*cidr, prefix) && !except.iter().any(|outer| cidr::contains(*outer, prefix))
                }
                // Not met in packets, only in questions: a world of no family is in both.
                None => cidr.prefix() == 0 && peer.labels.has_reserved("world"),
            },
        }
    }
}

/// The canonical text; equal texts select the same peers.
impl fmt::Display for PeerSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerSelector::Labels(selector) => selector.fmt(f),
            PeerSelector::Entity(entity) => write!(f, "entity {entity}"),
            PeerSelector::Cidr { cidr, except } => {
                write!(f, "{cidr}")?;
                for (i, prefix) in except.iter().enumerate() {
                    write!(f, "{}{prefix}", if i == 0 { " except " } else { ", " })?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cidr::cidr_labels;
    use model::Label;

    fn cidr(text: &str, except: &[&str]) -> PeerSelector {
        PeerSelector::Cidr { cidr: text.parse().unwrap(), except: except.iter().map(|e| e.parse().unwrap()).collect() }
    }

    fn selects(selector: &PeerSelector, prefix: &str) -> bool {
        let labels = cidr_labels(prefix.parse().unwrap());
        selector.matches(&Peer::new(Identity(Identity::FIRST_LOCAL), &labels))
    }

    #[test]
    fn a_broad_prefix_selects_the_identities_of_narrower_ones() {
        let broad = cidr("10.0.0.0/8", &[]);
        assert!(selects(&broad, "10.0.0.0/8"));
        assert!(selects(&broad, "10.1.0.0/16"));
        assert!(!selects(&broad, "0.0.0.0/0"));
        assert!(!selects(&broad, "11.0.0.0/8"));
    }

    #[test]
    fn excepted_prefixes_and_what_they_hold_are_left_out() {
        let selector = cidr("10.0.0.0/8", &["10.1.0.0/16"]);
        assert!(selects(&selector, "10.2.0.0/16"));
        assert!(!selects(&selector, "10.1.0.0/16"));
        assert!(!selects(&selector, "10.1.2.0/24"));
    }

    #[test]
    fn only_a_whole_family_selects_the_plain_world() {
        let world = Labels::reserved("world");
        let matches = |selector: &PeerSelector| selector.matches(&Peer::new(Identity::WORLD, &world));
        assert!(matches(&cidr("0.0.0.0/0", &["10.0.0.0/8"])) && matches(&cidr("::/0", &[])));
        assert!(!matches(&cidr("0.0.0.0/1", &[])));
        let world4 = Labels::reserved("world-ipv4");
        assert!(cidr("0.0.0.0/0", &[]).matches(&Peer::new(Identity::WORLD_IPV4, &world4)));
        assert!(!cidr("::/0", &[]).matches(&Peer::new(Identity::WORLD_IPV4, &world4)));
    }

    #[test]
    fn prefixes_never_select_endpoints_or_the_host() {
        let container: Labels = [Label::new("container", "id", "a")].into_iter().collect();
        assert!(!cidr("0.0.0.0/0", &[]).matches(&Peer::new(Identity(300), &container)));
        assert!(!cidr("0.0.0.0/0", &[]).matches(&Peer::new(Identity::HOST, &Labels::reserved("host"))));
    }

    #[test]
    fn labels_tell_the_kind_of_identity() {
        let container: Labels = [Label::new("any", "foo", "")].into_iter().collect();
        assert!(Peer::from_labels(&container).is_endpoint());
        assert_eq!(Peer::from_labels(&Labels::reserved("world")).identity, Identity::WORLD);
        assert!(Peer::from_labels(&cidr_labels("10.0.0.0/8".parse().unwrap())).identity.is_cidr());
        assert!(!Peer::from_labels(&Labels::reserved("host")).is_endpoint());
    }
}

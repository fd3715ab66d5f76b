//! A policy rule: the whole language's shape, as it was written. Lists that are absent, empty and `[{}]` mean different
//! things and are kept apart, so everything optional is an `Option` here and goes out as it came in.
//!
//! Owns the shape, reading it (`decode`) and writing it (`write`). Whether the parts make sense together is
//! `validate`'s, whether this build can enforce them `support`'s, what they mean `resolve`'s.
//!
//! Ingress and egress entries share one type whose fields have no direction in their names; the direction that an
//! entry stands under decides between `fromEndpoints` and `toEndpoints`.

mod decode;
mod icmp;
mod l7;
mod outside;
mod ports;
mod write;

pub use icmp::{Family, IcmpField, IcmpRule};
pub use l7::{DnsRule, HeaderMatch, HttpRule, KafkaRule, L7Rules, Listener, ListenerConfig, SecretName, TlsContext};
pub use outside::{Authentication, AwsGroup, CidrRule, Group, K8sService, K8sServiceSelector, ServiceRule};
pub use ports::{L4Protocol, Port, PortProtocol, PortRule};

use crate::decode::Written;
use crate::entity::Entity;
use crate::peer::PeerSelector;
use crate::selector::Selector;
use ipnetwork::IpNetwork;
use model::labels::SOURCE_UNSPEC;
use model::{Direction, Label};
use std::fmt;

pub(crate) use decode::decode_rule;

/// What an entry does to the traffic it matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    Allow,
    Deny,
}

/// The four places where entries stand, in the order in which they are written.
pub(crate) const SECTIONS: [(Direction, Verdict); 4] = [
    (Direction::Ingress, Verdict::Allow),
    (Direction::Ingress, Verdict::Deny),
    (Direction::Egress, Verdict::Allow),
    (Direction::Egress, Verdict::Deny),
];

/// The name of a section in JSON.
pub(crate) fn section_name(direction: Direction, verdict: Verdict) -> &'static str {
    match (direction, verdict) {
        (Direction::Ingress, Verdict::Allow) => "ingress",
        (Direction::Ingress, Verdict::Deny) => "ingressDeny",
        (Direction::Egress, Verdict::Allow) => "egress",
        (Direction::Egress, Verdict::Deny) => "egressDeny",
    }
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rule {
    /// The endpoints that the rule applies to; exactly one of this and `node_selector` is there.
    pub endpoint_selector: Option<Selector>,
    /// The hosts that the rule applies to.
    pub node_selector: Option<Selector>,
    pub ingress: Option<Vec<Entry>>,
    pub ingress_deny: Option<Vec<Entry>>,
    pub egress: Option<Vec<Entry>>,
    pub egress_deny: Option<Vec<Entry>>,
    pub enable_default_deny: Option<DefaultDeny>,
    /// The handle by which the rule is found, replaced and deleted; need not be unique.
    pub labels: Option<Vec<RuleLabel>>,
    pub description: Option<String>,
    pub log: Option<Log>,
}

impl Rule {
    /// The section as written.
    pub(crate) fn section(&self, direction: Direction, verdict: Verdict) -> Option<&Vec<Entry>> {
        match (direction, verdict) {
            (Direction::Ingress, Verdict::Allow) => self.ingress.as_ref(),
            (Direction::Ingress, Verdict::Deny) => self.ingress_deny.as_ref(),
            (Direction::Egress, Verdict::Allow) => self.egress.as_ref(),
            (Direction::Egress, Verdict::Deny) => self.egress_deny.as_ref(),
        }
    }

    pub(crate) fn section_mut(&mut self, direction: Direction, verdict: Verdict) -> Option<&mut Vec<Entry>> {
        match (direction, verdict) {
            (Direction::Ingress, Verdict::Allow) => self.ingress.as_mut(),
            (Direction::Ingress, Verdict::Deny) => self.ingress_deny.as_mut(),
            (Direction::Egress, Verdict::Allow) => self.egress.as_mut(),
            (Direction::Egress, Verdict::Deny) => self.egress_deny.as_mut(),
        }
    }

    /// The entries of a section; none if it is absent.
    pub fn entries(&self, direction: Direction, verdict: Verdict) -> &[Entry] {
        self.section(direction, verdict).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn all_entries(&self) -> impl Iterator<Item = &Entry> {
        SECTIONS.into_iter().flat_map(|(direction, verdict)| self.entries(direction, verdict))
    }

    /// Whether the rule says anything about a direction.
    pub fn speaks_of(&self, direction: Direction) -> bool {
        [Verdict::Allow, Verdict::Deny].iter().any(|verdict| !self.entries(direction, *verdict).is_empty())
    }

    /// Whether the rule makes its subjects refuse what nothing allows: every rule that speaks of the direction does,
    /// unless it says otherwise. A rule that does not speak of the direction cannot.
    pub fn default_deny(&self, direction: Direction) -> bool {
        let said = self.enable_default_deny.and_then(|said| match direction {
            Direction::Ingress => said.ingress,
            Direction::Egress => said.egress,
        });
        self.speaks_of(direction) && said.unwrap_or(true)
    }

    pub fn rule_labels(&self) -> impl Iterator<Item = Label> {
        self.labels.iter().flatten().map(RuleLabel::label)
    }
}

/// `enableDefaultDeny`: per direction, whether the rule switches its subjects to default deny.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct DefaultDeny {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<bool>,
}

/// Text that flow records of the rule's verdicts carry.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Log {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// A label of a rule, written as an object or as text.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(untagged)]
pub enum RuleLabel {
    Text(Written<Label>),
    Parts {
        key: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<String>,
    },
}

impl RuleLabel {
    /// A label without a source has the source `unspec`.
    pub fn label(&self) -> Label {
        match self {
            RuleLabel::Text(written) => written.value.clone(),
            RuleLabel::Parts { key, value, source } => {
                let source = source.as_deref().filter(|source| !source.is_empty()).unwrap_or(SOURCE_UNSPEC);
                Label::new(source, key.as_str(), value.as_deref().unwrap_or_default())
            }
        }
    }
}

/// An element of `ingress`, `ingressDeny`, `egress` or `egressDeny`. At most one of the peer fields is non-empty; the
/// elements of a field are alternatives, peers and ports must both match.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Entry {
    pub endpoints: Option<Vec<Selector>>,
    /// What every `endpoints` peer of all the subject's rules must satisfy as well.
    pub requires: Option<Vec<Selector>>,
    pub cidr: Option<Vec<Written<IpNetwork>>>,
    pub cidr_set: Option<Vec<CidrRule>>,
    pub entities: Option<Vec<Entity>>,
    /// Egress only.
    pub services: Option<Vec<ServiceRule>>,
    /// Egress only, and not to deny.
    pub fqdns: Option<Vec<DnsRule>>,
    pub groups: Option<Vec<Group>>,
    pub nodes: Option<Vec<Selector>>,
    pub to_ports: Option<Vec<PortRule>>,
    pub icmps: Option<Vec<IcmpRule>>,
    /// Not to deny.
    pub authentication: Option<Authentication>,
}

/// A field that chooses peers, without the direction in its name.
pub(crate) struct PeerField {
    pub(crate) ingress: &'static str,
    pub(crate) egress: &'static str,
    /// The number of elements; `None` when the field is absent.
    pub(crate) len: Option<usize>,
}

impl PeerField {
    pub(crate) fn name(&self, direction: Direction) -> &'static str {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

impl Entry {
    /// The peer fields; requirements choose nobody and are not among them.
    pub(crate) fn peer_fields(&self) -> [PeerField; 8] {
        let field = |ingress, egress, len| PeerField { ingress, egress, len };
        [
            field("fromEndpoints", "toEndpoints", self.endpoints.as_ref().map(Vec::len)),
            field("fromCIDR", "toCIDR", self.cidr.as_ref().map(Vec::len)),
            field("fromCIDRSet", "toCIDRSet", self.cidr_set.as_ref().map(Vec::len)),
            field("fromEntities", "toEntities", self.entities.as_ref().map(Vec::len)),
            field("fromServices", "toServices", self.services.as_ref().map(Vec::len)),
            field("fromFQDNs", "toFQDNs", self.fqdns.as_ref().map(Vec::len)),
            field("fromGroups", "toGroups", self.groups.as_ref().map(Vec::len)),
            field("fromNodes", "toNodes", self.nodes.as_ref().map(Vec::len)),
        ]
    }

    /// Whether a peer field is written at all. If none is, the entry is about everyone (given ports); if all that are
    /// written are empty, it is about nobody.
    pub fn names_peers(&self) -> bool {
        self.peer_fields().iter().any(|field| field.len.is_some())
    }

    /// Whether ports or ICMP types are named; if not, the entry is about all traffic.
    pub fn names_ports(&self) -> bool {
        self.to_ports.as_ref().is_some_and(|list| !list.is_empty())
            || self.icmps.as_ref().is_some_and(|list| !list.is_empty())
    }

    /// The peers that are named. Fields that this build cannot resolve select nobody.
    pub fn peers(&self) -> impl Iterator<Item = PeerSelector> + '_ {
        let endpoints = self.endpoints.iter().flatten().cloned().map(PeerSelector::Labels);
        let single = self.cidr.iter().flatten().map(|cidr| PeerSelector::Cidr { cidr: cidr.value, except: Vec::new() });
        let sets = self.cidr_set.iter().flatten().filter_map(|set| {
            let except = set.except.iter().flatten().map(|cidr| cidr.value).collect();
            set.cidr.as_ref().map(|cidr| PeerSelector::Cidr { cidr: cidr.value, except })
        });
        let entities = self.entities.iter().flatten().copied().map(PeerSelector::Entity);
        endpoints.chain(single).chain(sets).chain(entities)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        })
    }
}

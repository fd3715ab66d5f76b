//! The naive interpreter: every rule, every entry, every element is looked at for one packet, in the order in which they
//! are written. What requests pass once a connection stands is `l7`'s.

use super::side::{Enforces, PortNames, Side};
use crate::entity::Entity;
use crate::l7::{Parser, Place};
use crate::peer::Peer;
use crate::repository::Repository;
use crate::resolve::{AllowLocalhost, Enforcement, Options};
use crate::rule::{DnsRule, Entry, IcmpField, Port, PortProtocol, Rule, Verdict, section_name};
use crate::selector::Selector;
use ipnetwork::IpNetwork;
use model::{Direction, Identity, Labels, Protocol};
use std::fmt;
use std::net::IpAddr;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    Allowed,
    /// Let in, to be decided by a parser.
    Redirected,
    Denied,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Decision::Allowed => "allowed",
            Decision::Redirected => "redirected",
            Decision::Denied => "denied",
        })
    }
}

/// The traffic in question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// A destination port; for ICMP the type, 0 for protocols that have neither.
    Port(Protocol, u16),
    /// All traffic at once: only entries that name no ports answer that.
    Everything,
}

/// The rules, and what they are read with.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    pub repository: &'a Repository,
    pub options: Options,
    /// Whether rules with a `nodeSelector` are enforced for the host.
    pub host_firewall: bool,
    /// The port names of all endpoints, for egress.
    pub port_names: &'a PortNames,
    /// What each rule is called; those that are not here are called by their number.
    pub sources: &'a [String],
    /// The places of the rules that can apply to the subject, if somebody has looked already (`candidates`); else all
    /// are looked at.
    pub candidates: Option<&'a [usize]>,
}

impl<'a> Setting<'a> {
    pub fn new(repository: &'a Repository, options: Options) -> Setting<'a> {
        Setting {
            repository,
            options,
            host_firewall: false,
            port_names: PortNames::NONE,
            sources: &[],
            candidates: None,
        }
    }

    pub(super) fn name(&self, place: &Place) -> String {
        match self.sources.get(place.rule) {
            Some(source) => format!("{source} {}", place.element),
            None => place.to_string(),
        }
    }
}

/// The place of an entry in the rules.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Origin {
    /// The rule's place in the repository, from 0.
    pub rule: usize,
    /// Such as `ingress[0]`.
    pub entry: String,
    /// The rule's labels.
    pub labels: Labels,
}

/// What was found for one side of a connection.
#[derive(Debug)]
pub struct Judgement<'r> {
    pub direction: Direction,
    /// Whether policy can be enforced for the side at all.
    pub is_endpoint: bool,
    pub enforced: bool,
    /// Whether what no entry allows is refused.
    pub default_deny: bool,
    pub(super) rules: Vec<RuleStep<'r>>,
    /// Requirements of allow entries and of deny entries.
    pub(super) requirements: [Vec<&'r Selector>; 2],
    /// Allowed because the host may reach its own endpoints.
    pub(super) localhost: bool,
}

/// One rule of the repository.
#[derive(Debug)]
pub(super) struct RuleStep<'r> {
    /// The rule's place in the repository.
    pub(super) place: usize,
    pub(super) rule: &'r Rule,
    /// Whether it selects the subject and speaks of the direction.
    pub(super) selected: bool,
    pub(super) entries: Vec<EntryStep<'r>>,
}

/// One entry of a selected rule.
#[derive(Debug)]
pub(super) struct EntryStep<'r> {
    pub(super) verdict: Verdict,
    pub(super) index: usize,
    pub(super) entry: &'r Entry,
    pub(super) peer_matches: bool,
    pub(super) traffic_matches: bool,
    /// The ports that match: places of an element of `toPorts` and of a port in it.
    pub(super) ports: Vec<(usize, usize)>,
}

impl EntryStep<'_> {
    pub(super) fn matches(&self) -> bool {
        self.peer_matches && self.traffic_matches
    }

    /// Whether a parser is to look into what this allows.
    fn redirects(&self) -> bool {
        let elements = self.entry.to_ports.as_deref().unwrap_or_default();
        self.ports.iter().any(|(element, _)| elements.get(*element).is_some_and(|rule| Parser::of(rule).is_some()))
    }
}

impl<'r> Judgement<'r> {
    pub fn verdict(&self) -> Decision {
        let found = |verdict| self.deciding(verdict).is_some();
        if !self.enforced {
            Decision::Allowed
        } else if found(Verdict::Deny) {
            Decision::Denied
        } else if self.allowing().any(|(_, entry)| entry.redirects()) {
            Decision::Redirected
        } else if found(Verdict::Allow) || self.localhost || !self.default_deny {
            Decision::Allowed
        } else {
            Decision::Denied
        }
    }

    /// The entry that decided, if one did: of several that allow the first that asks for a parser, if any does.
    pub fn origin(&self) -> Option<Origin> {
        let redirecting = || self.allowing().find(|(_, entry)| entry.redirects());
        let found = self.deciding(Verdict::Deny).or_else(redirecting).or_else(|| self.deciding(Verdict::Allow));
        let (rule, entry) = found.filter(|_| self.enforced)?;
        let labels = self.rules.iter().filter(|step| step.place == rule).flat_map(|step| step.rule.rule_labels());
        let labels = labels.collect();
        Some(Origin {
            rule,
            entry: format!("{}[{}]", section_name(self.direction, entry.verdict), entry.index),
            labels,
        })
    }

    /// Whether the host may pass because it is the host.
    pub fn localhost(&self) -> bool {
        self.localhost
    }

    /// The rules that select the subject and speak of the direction, by their places in the repository.
    pub fn selected(&self) -> impl Iterator<Item = usize> {
        self.rules.iter().filter(|step| step.selected).map(|step| step.place)
    }

    /// The first entry with this verdict that matches, and its rule's place.
    pub(super) fn deciding(&self, verdict: Verdict) -> Option<(usize, &EntryStep<'r>)> {
        self.matching(verdict).next()
    }

    /// The entries that allow the traffic, and their rules' places.
    pub(super) fn allowing(&self) -> impl Iterator<Item = (usize, &EntryStep<'r>)> {
        self.matching(Verdict::Allow)
    }

    fn matching(&self, verdict: Verdict) -> impl Iterator<Item = (usize, &EntryStep<'r>)> {
        let of = move |entry: &&EntryStep<'r>| entry.verdict == verdict && entry.matches();
        self.rules.iter().flat_map(move |step| step.entries.iter().filter(of).map(|entry| (step.place, entry)))
    }
}

/// What becomes of a packet between the endpoint with the labels `subject` and `peer`, as far as the endpoint's own
/// side decides.
pub fn decide(
    repository: &Repository,
    options: Options,
    direction: Direction,
    subject: &Labels,
    peer: &Peer<'_>,
    ask: Ask,
) -> Decision {
    let (subject, peer) = (Side::from_labels(subject), Side::of_peer(peer.seen_from(options.cluster)));
    judge(Setting::new(repository, options), direction, &subject, &peer, ask).verdict()
}

/// Looks at one side of a new connection: the egress of its source or the ingress of its destination.
pub fn judge<'r>(
    setting: Setting<'r>,
    direction: Direction,
    subject: &Side<'_>,
    peer: &Side<'_>,
    ask: Ask,
) -> Judgement<'r> {
    let mut rules: Vec<RuleStep<'r>> = Vec::new();
    let mut requirements = [Vec::new(), Vec::new()];
    let all = setting.repository.rules();
    let mut each = |place: usize, rule: &'r Rule| {
        let selected = applies(rule, setting, subject, peer, direction);
        rules.push(RuleStep { place, rule, selected, entries: Vec::new() });
        if selected {
            for (verdict, list) in [Verdict::Allow, Verdict::Deny].into_iter().zip(&mut requirements) {
                let entries = rule.entries(direction, verdict);
                list.extend(entries.iter().flat_map(|entry| entry.requires.iter().flatten()));
            }
        }
    };
    match setting.candidates {
        Some(places) => places.iter().for_each(|place| all.get(*place).into_iter().for_each(|rule| each(*place, rule))),
        None => all.iter().enumerate().for_each(|(place, rule)| each(place, rule)),
    }
    // A name on ingress is the endpoint's own; on egress it may be anybody's.
    let names = if direction == Direction::Ingress { subject.port_names } else { setting.port_names };
    for step in rules.iter_mut().filter(|step| step.selected) {
        for (verdict, requirements) in [Verdict::Allow, Verdict::Deny].into_iter().zip(&requirements) {
            for (index, entry) in step.rule.entries(direction, verdict).iter().enumerate() {
                let (traffic_matches, ports) = traffic_matches(entry, ask, names);
                let peer_matches = peer_matches(entry, &peer.peer, requirements);
                step.entries.push(EntryStep { verdict, index, entry, peer_matches, traffic_matches, ports });
            }
        }
    }
    let options = setting.options;
    let of_endpoint = subject.enforces == Enforces::Endpoint;
    let is_endpoint = of_endpoint || subject.enforces == Enforces::Host && setting.host_firewall;
    let always =
        of_endpoint && (options.enforcement == Enforcement::Always || subject.peer.labels.has_reserved("init"));
    let any = |test: &dyn Fn(&RuleStep<'_>) -> bool| rules.iter().any(test);
    let enforced = options.enforcement != Enforcement::Never && is_endpoint && (always || any(&|step| step.selected));
    let default_deny = always || any(&|step| step.selected && wants_default_deny(step.rule, direction));
    let localhost = direction == Direction::Ingress
        && options.allow_localhost == AllowLocalhost::Always
        && peer.peer.identity == Identity::HOST;
    Judgement { direction, is_endpoint, enforced, default_deny, rules, requirements, localhost }
}

/// The places of the rules whose selector selects the subject.
pub fn candidates(repository: &Repository, subject: &Side<'_>) -> Vec<usize> {
    let selects = |rule: &Rule| {
        let selector = match subject.enforces {
            Enforces::Nothing => None,
            Enforces::Endpoint => rule.endpoint_selector.as_ref(),
            Enforces::Host => rule.node_selector.as_ref(),
        };
        selector.is_some_and(|selector| selector.matches(subject.peer.labels))
    };
    let rules = repository.rules().iter().enumerate();
    rules.filter(|(_, rule)| selects(rule)).map(|(place, _)| place).collect()
}

fn applies(rule: &Rule, setting: Setting<'_>, subject: &Side<'_>, peer: &Side<'_>, direction: Direction) -> bool {
    let speaks = match direction {
        Direction::Ingress => rule.ingress.iter().chain(&rule.ingress_deny).flatten().next().is_some(),
        Direction::Egress => rule.egress.iter().chain(&rule.egress_deny).flatten().next().is_some(),
    };
    let selector = match subject.enforces {
        Enforces::Nothing => None,
        Enforces::Endpoint => rule.endpoint_selector.as_ref(),
        // What the host and an endpoint of its own say to each other is judged at the endpoint.
        Enforces::Host if !setting.host_firewall || peer.enforces == Enforces::Endpoint => None,
        Enforces::Host => rule.node_selector.as_ref(),
    };
    speaks && selector.is_some_and(|selector| selector.matches(subject.peer.labels))
}

fn wants_default_deny(rule: &Rule, direction: Direction) -> bool {
    let Some(said) = rule.enable_default_deny else {
        return true;
    };
    let said = if direction == Direction::Ingress { said.ingress } else { said.egress };
    said != Some(false)
}

fn peer_matches(entry: &Entry, peer: &Peer<'_>, requirements: &[&Selector]) -> bool {
    let lists = [
        entry.endpoints.as_ref().map(|_| ()),
        entry.cidr.as_ref().map(|_| ()),
        entry.cidr_set.as_ref().map(|_| ()),
        entry.entities.as_ref().map(|_| ()),
        entry.services.as_ref().map(|_| ()),
        entry.fqdns.as_ref().map(|_| ()),
        entry.groups.as_ref().map(|_| ()),
        entry.nodes.as_ref().map(|_| ()),
    ];
    if lists.iter().all(Option::is_none) {
        // Ports alone are about everyone; nothing at all is about nobody.
        return entry.to_ports.iter().flatten().next().is_some() || entry.icmps.iter().flatten().next().is_some();
    }
    let endpoint = |selector: &Selector| endpoint_matches(selector, requirements, peer);
    let set = |set: &crate::rule::CidrRule| {
        let excepted = set.except.iter().flatten().any(|prefix| prefix_matches(prefix.value, peer, Whole::IsNot));
        set.cidr.as_ref().is_some_and(|prefix| prefix_matches(prefix.value, peer, Whole::Is)) && !excepted
    };
    entry.endpoints.iter().flatten().any(endpoint)
        || entry.cidr.iter().flatten().any(|prefix| prefix_matches(prefix.value, peer, Whole::Is))
        || entry.cidr_set.iter().flatten().any(set)
        || entry.entities.iter().flatten().any(|entity| entity_matches(*entity, peer))
        || entry.fqdns.iter().flatten().any(|name| name_matches(name, peer))
}

pub(super) fn endpoint_matches(selector: &Selector, requirements: &[&Selector], peer: &Peer<'_>) -> bool {
    selector.matches(peer.labels) && requirements.iter().all(|requirement| requirement.matches(peer.labels))
}

pub(super) fn entity_matches(entity: Entity, peer: &Peer<'_>) -> bool {
    entity.matches(peer)
}

/// An address that was learnt for a name carries the text of every element that matches the name.
pub(super) fn name_matches(name: &DnsRule, peer: &Peer<'_>) -> bool {
    let text = crate::fqdn::text(name);
    peer.labels.iter().any(|label| label.source == crate::fqdn::SOURCE && Some(label.key.as_str()) == text)
}

/// Whether a prefix that holds every address of a family stands for the world of that family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    Is,
    IsNot,
}

/// By first and last address, where `cidr` compares bits.
pub(super) fn prefix_matches(prefix: IpNetwork, peer: &Peer<'_>, whole: Whole) -> bool {
    match peer.prefix {
        Some(inner) => {
            let (first, last) = bounds(prefix);
            let (inner_first, inner_last) = bounds(inner);
            prefix.is_ipv4() == inner.is_ipv4() && first <= inner_first && inner_last <= last
        }
        None => whole == Whole::Is && peer.labels.has_reserved("world") && prefix.prefix() == 0,
    }
}

fn bounds(prefix: IpNetwork) -> (u128, u128) {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    (number(prefix.network()), number(prefix.broadcast()))
}

/// Whether the entry is about the traffic, and by which of its ports.
fn traffic_matches(entry: &Entry, ask: Ask, names: &PortNames) -> (bool, Vec<(usize, usize)>) {
    let elements = entry.to_ports.as_deref().unwrap_or_default();
    let mut icmps = entry.icmps.iter().flatten().peekable();
    if elements.is_empty() && icmps.peek().is_none() {
        return (true, Vec::new());
    }
    let Ask::Port(protocol, number) = ask else {
        return (false, Vec::new());
    };
    let mut matching = Vec::new();
    for (element, rule) in elements.iter().enumerate() {
        let ports = rule.ports.iter().flatten().enumerate();
        let fitting = ports.filter(|(_, port)| port_matches(port, protocol, number, names));
        matching.extend(fitting.map(|(port, _)| (element, port)));
    }
    let types = icmps.flat_map(|rule| rule.fields.iter().flatten()).any(|field| type_matches(field, protocol, number));
    (types || !matching.is_empty(), matching)
}

fn port_matches(port: &PortProtocol, protocol: Protocol, number: u16, names: &PortNames) -> bool {
    let first = match &port.port {
        Some(Port::Number(first)) => *first,
        Some(Port::Name(name)) => {
            return port.l4_protocol().numbers().contains(&protocol) && names.number(name, protocol) == Some(number);
        }
        None => 0,
    };
    let last = match port.end_port.unwrap_or(0) {
        0 if first == 0 => u16::MAX,
        last => last.max(first),
    };
    port.l4_protocol().numbers().contains(&protocol) && first <= number && number <= last
}

fn type_matches(field: &IcmpField, protocol: Protocol, number: u16) -> bool {
    field.family().protocol() == protocol && u16::from(field.number()) == number
}

//! From the entries that allow a connection to the L7 policy that they make together, and from rules to what cannot be
//! merged in them.

use super::judge::{Ask, EntryStep, Judgement, Setting, candidates, endpoint_matches};
use super::side::Side;
use crate::l7::{Access, Conflict, Contribution, Demand, Place, Ports, Requests, no_secrets};
use crate::peer::{Peer, PeerSelector};
use crate::rule::{Entry, Port, PortProtocol, PortRule, Rule, Verdict, section_name};
use crate::{fqdn, l7};
use model::{Direction, Labels, Protocol};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is worked out once for the rules of one repository, when it is first needed.
#[derive(Debug, Default)]
pub struct Demands {
    /// By the element's rule, direction, entry and place.
    elements: BTreeMap<(usize, Direction, usize, usize), Option<Arc<Demand>>>,
    /// By the labels of an endpoint.
    conflicts: BTreeMap<Labels, Arc<[Conflict]>>,
}

impl Demands {
    fn of(&mut self, key: (usize, Direction, usize, usize), rule: &PortRule) -> Option<Arc<Demand>> {
        self.elements.entry(key).or_insert_with(|| compile(rule).map(Arc::new)).clone()
    }

    /// What in the rules for an endpoint cannot be merged: its policy cannot be computed.
    pub fn conflicts(&mut self, setting: Setting<'_>, subject: &Side<'_>) -> Arc<[Conflict]> {
        let labels = subject.peer.labels;
        if let Some(known) = self.conflicts.get(labels) {
            return known.clone();
        }
        let places = setting.candidates.map_or_else(|| candidates(setting.repository, subject), <[usize]>::to_vec);
        let rules = setting.repository.rules();
        let rules: Vec<(usize, &Rule)> =
            places.into_iter().filter_map(|place| Some((place, &**rules.get(place)?))).collect();
        let both = Direction::BOTH.iter().flat_map(|direction| conflicts_of(&rules, *direction, self));
        let found: Arc<[Conflict]> = both.collect();
        self.conflicts.insert(labels.clone(), found.clone());
        found
    }
}

/// An expression that cannot be compiled, which validation excludes, lets nothing pass.
fn compile(rule: &PortRule) -> Option<Demand> {
    Demand::compile(rule, &no_secrets).unwrap_or_else(|_| {
        let parser = l7::Parser::of(rule)?;
        Some(Demand {
            parser,
            requests: Requests::Http(Vec::new()),
            server_names: Vec::new(),
            terminating: None,
            originating: None,
            written: rule.rules.clone().unwrap_or_default(),
            names_written: Vec::new(),
        })
    })
}

/// Ports of an entry that hold the asked one.
struct Covering<'r> {
    ports: Ports,
    /// Whether they are no other.
    exact: bool,
    /// The element they stand in, and its place.
    element: Option<(usize, &'r PortRule)>,
}

/// The text of what selects everybody.
const EVERYONE: &str = "everyone";

impl Judgement<'_> {
    /// The L7 policy of the connection, as far as this side makes it. `ask` is what was judged.
    pub fn access(&self, peer: &Peer<'_>, ask: Ask, demands: &mut Demands) -> Access {
        let mut contributions = Vec::new();
        for (rule, step) in self.allowing() {
            let selectors = self.selectors(step, peer);
            for Covering { ports, exact, element } in self.ports(step, ask) {
                let demand = element.and_then(|(element, rule_of_ports)| {
                    demands.of((rule, self.direction, step.index, element), rule_of_ports)
                });
                let place = self.place(rule, step.index, element.map(|(element, _)| element));
                let authentication = step.entry.authentication.as_ref().and_then(|wanted| wanted.mode.clone());
                contributions.extend(selectors.iter().map(|selector| Contribution {
                    ports: ports.clone(),
                    selector: selector.clone(),
                    demand: demand.clone(),
                    exact,
                    authentication: authentication.clone(),
                    place: place.clone(),
                }));
            }
        }
        let mut access = Access::merge(contributions);
        access.lifted = self.localhost || !self.default_deny;
        access
    }

    /// The selectors of an entry that select the peer.
    fn selectors(&self, step: &EntryStep<'_>, peer: &Peer<'_>) -> Vec<String> {
        if !step.entry.names_peers() {
            return vec![EVERYONE.to_owned()];
        }
        let requirements = &self.requirements[Verdict::Allow as usize];
        let matches = |selector: &PeerSelector| match selector {
            PeerSelector::Labels(labels) => endpoint_matches(labels, requirements, peer),
            other => other.matches(peer),
        };
        let names = step.entry.fqdns.iter().flatten().filter(|name| super::judge::name_matches(name, peer));
        let selected = step.entry.peers().filter(matches).map(|selector| selector_text(&selector));
        selected.chain(names.filter_map(fqdn::text).map(name_text)).collect()
    }

    /// The ports of an entry that hold the asked one.
    fn ports<'s>(&self, step: &EntryStep<'s>, ask: Ask) -> Vec<Covering<'s>> {
        let Ask::Port(protocol, number) = ask else {
            return vec![Covering { ports: Ports::All, exact: false, element: None }];
        };
        if !step.entry.names_ports() {
            return vec![Covering { ports: Ports::All, exact: false, element: None }];
        }
        let elements = step.entry.to_ports.as_deref().unwrap_or_default();
        let found = step.ports.iter().filter_map(|(element, port)| {
            let rule = elements.get(*element)?;
            let ports = ports_text(rule.ports.as_ref()?.get(*port)?, protocol);
            let exact = match &ports {
                Ports::Range { first, last, .. } => first == last,
                Ports::Named { .. } => true,
                Ports::All => false,
            };
            Some(Covering { ports, exact, element: Some((*element, rule)) })
        });
        let found: Vec<_> = found.collect();
        // A type of ICMP matched.
        let kind = Ports::Range { protocol, first: number, last: number };
        if found.is_empty() { vec![Covering { ports: kind, exact: true, element: None }] } else { found }
    }

    fn place(&self, rule: usize, entry: usize, element: Option<usize>) -> Place {
        place(self.direction, rule, entry, element)
    }
}

fn place(direction: Direction, rule: usize, entry: usize, element: Option<usize>) -> Place {
    let entry = format!("{}[{entry}]", section_name(direction, Verdict::Allow));
    Place { rule, element: element.map_or(entry.clone(), |element| format!("{entry}.toPorts[{element}]")) }
}

fn selector_text(selector: &PeerSelector) -> String {
    if selector.is_everyone() { EVERYONE.to_owned() } else { selector.to_string() }
}

fn name_text(text: &str) -> String {
    format!("name {text}")
}

fn ports_text(port: &PortProtocol, protocol: Protocol) -> Ports {
    match (&port.port, port.range()) {
        (Some(Port::Name(name)), _) => Ports::Named { protocol, name: name.to_ascii_lowercase() },
        (_, Some((first, last))) => Ports::Range { protocol, first, last },
        (_, None) => Ports::All,
    }
}

fn conflicts_of(rules: &[(usize, &Rule)], direction: Direction, demands: &mut Demands) -> Vec<Conflict> {
    let mut contributions = Vec::new();
    for (place, rule) in rules {
        for (index, entry) in rule.entries(direction, Verdict::Allow).iter().enumerate() {
            contribute((*place, direction, index), entry, demands, &mut contributions);
        }
    }
    Access::merge(contributions).conflicts
}

/// Adds all that an entry allows, whoever the peer is.
fn contribute(
    (rule, direction, index): (usize, Direction, usize),
    entry: &Entry,
    demands: &mut Demands,
    contributions: &mut Vec<Contribution>,
) {
    let selectors: Vec<String> = if entry.names_peers() {
        let names = entry.fqdns.iter().flatten().filter_map(fqdn::text).map(name_text);
        entry.peers().map(|selector| selector_text(&selector)).chain(names).collect()
    } else {
        vec![EVERYONE.to_owned()]
    };
    let authentication = entry.authentication.as_ref().and_then(|wanted| wanted.mode.clone());
    for (element, rule_of_ports) in entry.to_ports.iter().flatten().enumerate() {
        let demand = demands.of((rule, direction, index, element), rule_of_ports);
        if demand.is_none() && authentication.is_none() {
            continue;
        }
        for port in rule_of_ports.ports.iter().flatten() {
            for protocol in port.l4_protocol().numbers() {
                contributions.extend(selectors.iter().map(|selector| Contribution {
                    ports: ports_text(port, *protocol),
                    selector: selector.clone(),
                    demand: demand.clone(),
                    exact: false,
                    authentication: authentication.clone(),
                    place: place(direction, rule, index, Some(element)),
                }));
            }
        }
    }
}

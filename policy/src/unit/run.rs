//! Running cases: each is judged at both ends, and told with what decided.

use super::Suite;
use super::case::{Case, End, Expected};
use crate::peer::Peer;
use crate::repository::Repository;
use crate::resolve::{Enforcement, reserved_labels};
use crate::trace::candidates;
use crate::trace::{Decision, Demands, Enforces, Outcome, Parsed, PortNames, Setting, Side, verdict};
use model::{Direction, Identity, Labels};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// What became of a world's cases.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct SuiteResult {
    pub passed: usize,
    pub failed: usize,
    pub cases: Vec<CaseResult>,
}

#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct CaseResult {
    pub name: String,
    pub expected: Expected,
    pub answer: Decision,
    pub passed: bool,
    /// The source's egress and the destination's ingress.
    pub sides: Vec<SideResult>,
}

/// How one side was decided.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct SideResult {
    pub direction: Direction,
    /// Whose side: the endpoint's name, or what it is known by.
    pub of: String,
    pub verdict: Decision,
    /// Where the rule is from that decided, and the entry in it; absent if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// In words.
    pub why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parsed: Option<Parsed>,
}

/// One end of a connection with all that is judged by.
struct Stand<'s> {
    name: String,
    labels: Labels,
    enforces: Enforces,
    port_names: &'s PortNames,
}

impl Stand<'_> {
    fn side(&self) -> Side<'_> {
        Side { peer: Peer::from_labels(&self.labels), enforces: self.enforces, port_names: self.port_names }
    }
}

/// What is worked out once for all cases.
#[derive(Default)]
struct Known {
    demands: Demands,
    /// The rules that can apply to whoever has these labels.
    candidates: BTreeMap<(Labels, Enforces), Arc<[usize]>>,
}

impl Known {
    fn candidates(&mut self, repository: &Repository, subject: &Stand<'_>) -> Arc<[usize]> {
        let key = (subject.labels.clone(), subject.enforces);
        self.candidates.entry(key).or_insert_with(|| candidates(repository, &subject.side()).into()).clone()
    }
}

impl Suite {
    pub fn run(&self) -> SuiteResult {
        let mut known = Known::default();
        let cases: Vec<CaseResult> = self.cases.iter().map(|case| self.run_case(case, &mut known)).collect();
        let passed = cases.iter().filter(|case| case.passed).count();
        SuiteResult { passed, failed: cases.len() - passed, cases }
    }

    /// Where an end may stand in several places (a name with several addresses), the worst answer counts.
    fn run_case(&self, case: &Case, known: &mut Known) -> CaseResult {
        let mut worst: Option<(Decision, Vec<SideResult>)> = None;
        for from in self.stands(&case.from) {
            for to in self.stands(&case.to) {
                let sides = self.judge(case, &from, &to, known);
                let answer = sides.iter().map(|side| side.verdict).max().unwrap_or(Decision::Allowed);
                if worst.as_ref().is_none_or(|(other, _)| *other < answer) {
                    worst = Some((answer, sides));
                }
            }
        }
        let (answer, sides) = worst.unwrap_or((Decision::Denied, Vec::new()));
        let passed = case.expected.is_met_by(answer);
        CaseResult { name: case.name.clone(), expected: case.expected, answer, passed, sides }
    }

    fn judge(&self, case: &Case, from: &Stand<'_>, to: &Stand<'_>, known: &mut Known) -> Vec<SideResult> {
        let setting = Setting {
            repository: &self.repository,
            options: self.options,
            host_firewall: self.host_firewall,
            port_names: &self.port_names,
            sources: &self.sources,
            candidates: None,
        };
        let request = case.request.as_ref().map(|wish| wish.request());
        [(Direction::Egress, from, to), (Direction::Ingress, to, from)]
            .into_iter()
            .map(|(direction, subject, peer)| {
                let sides = (&subject.side(), &peer.side());
                let candidates = known.candidates(&self.repository, subject);
                let setting = Setting { candidates: Some(&candidates), ..setting };
                let found = verdict(setting, direction, sides, case.ask, request.as_ref(), &mut known.demands);
                self.told(direction, &subject.name, found)
            })
            .collect()
    }

    fn told(&self, direction: Direction, of: &str, found: Outcome<'_>) -> SideResult {
        let by = found.judgement.origin().map(|origin| {
            let labels: Vec<String> = origin.labels.iter().map(ToString::to_string).collect();
            let labels = if labels.is_empty() { String::new() } else { format!(" [{}]", labels.join(" ")) };
            format!("{}{labels} {}", self.source(origin.rule), origin.entry)
        });
        let why = self.why(&found, by.as_deref());
        SideResult { direction, of: of.to_owned(), verdict: found.decision, by, why, parsed: found.parsed }
    }

    fn source(&self, rule: usize) -> &str {
        self.sources.get(rule).map(String::as_str).unwrap_or_default()
    }

    fn why(&self, found: &Outcome<'_>, by: Option<&str>) -> String {
        let judgement = &found.judgement;
        if let Some(conflict) = found.conflicts.first() {
            let places = [&conflict.first, &conflict.second]
                .map(|place| format!("{} {}", self.source(place.rule), place.element));
            return format!(
                "its policy cannot be computed: conflicting {} for {} on {}: {}",
                conflict.what,
                conflict.selector,
                conflict.ports,
                places.join(" and ")
            );
        }
        if !judgement.is_endpoint {
            return "nothing is enforced there".to_owned();
        }
        if self.options.enforcement == Enforcement::Never {
            return "policy is not enforced at all".to_owned();
        }
        let rules: Vec<&str> = judgement.selected().map(|rule| self.source(rule)).collect();
        let unmatched = match rules.as_slice() {
            [] => "no rule for it speaks of this direction".to_owned(),
            [one] => format!("no entry of the one rule for it matches: {one}"),
            [..] if rules.len() > 4 => format!("no entry of the {} rules for it matches", rules.len()),
            several => format!("no entry of the {} rules for it matches: {}", rules.len(), several.join(", ")),
        };
        let parsed = found.parsed.as_ref().map(|parsed| match &parsed.request {
            Some(request) => format!("by {}, to the parser {}: {request}", by.unwrap_or_default(), parsed.parser),
            None => format!("by {}, to the parser {}", by.unwrap_or_default(), parsed.parser),
        });
        match (parsed, by) {
            (Some(parsed), _) => parsed,
            (None, Some(by)) => format!("by {by}"),
            (None, None) if judgement.localhost() => "the host may reach the endpoints of its node".to_owned(),
            (None, None) if found.decision == Decision::Denied => {
                format!("{unmatched}, and what is not allowed is refused")
            }
            (None, None) if !judgement.enforced => unmatched,
            (None, None) => format!("{unmatched}, and no rule refuses what is not allowed"),
        }
    }

    /// Who an end may be.
    fn stands(&self, end: &End) -> Vec<Stand<'_>> {
        match end {
            End::Endpoint(place) => {
                self.endpoints.get(*place).map(|endpoint| self.endpoint(endpoint)).into_iter().collect()
            }
            End::Address(address) => vec![self.address(*address, address.to_string())],
            End::Entity(identity) => vec![self.entity(*identity)],
            End::Labels(labels) => {
                let side = Side::from_labels(labels);
                vec![Stand {
                    name: listed(labels),
                    labels: labels.clone(),
                    enforces: side.enforces,
                    port_names: PortNames::NONE,
                }]
            }
            End::Name(name) => {
                let addresses = self.answers.get(name).map(Vec::as_slice).unwrap_or_default();
                if addresses.is_empty() {
                    let labels = Labels::reserved("world");
                    let name = format!("{name} (no answer for it was seen)");
                    return vec![Stand { name, labels, enforces: Enforces::Nothing, port_names: PortNames::NONE }];
                }
                addresses.iter().map(|address| self.address(*address, format!("{name} ({address})"))).collect()
            }
        }
    }

    fn endpoint<'s>(&'s self, endpoint: &'s super::Endpoint) -> Stand<'s> {
        let labels = endpoint.labels.clone();
        let enforces = Side::from_labels(&labels).enforces;
        Stand { name: endpoint.name.clone(), labels, enforces, port_names: &endpoint.port_names }
    }

    /// An endpoint's own address stands for the endpoint.
    fn address(&self, address: IpAddr, name: String) -> Stand<'_> {
        if let Some(endpoint) = self.endpoints.iter().find(|endpoint| endpoint.addresses.contains(&address)) {
            return self.endpoint(endpoint);
        }
        let names = self.answers.iter().filter(|(_, addresses)| addresses.contains(&address)).map(|(name, _)| name);
        let labels = self.outside.labels(address, names);
        Stand { name, labels, enforces: Enforces::Nothing, port_names: PortNames::NONE }
    }

    /// The host has the labels of an endpoint that says it is the host, if there is one.
    fn entity(&self, identity: Identity) -> Stand<'_> {
        let name = identity.reserved_name().unwrap_or_default();
        let of_host = self.endpoints.iter().find(|endpoint| endpoint.labels.has_reserved("host"));
        if let Some(host) = of_host.filter(|_| identity == Identity::HOST) {
            return self.endpoint(host);
        }
        let enforces = if identity == Identity::HOST { Enforces::Host } else { Enforces::Nothing };
        Stand { name: name.to_owned(), labels: reserved_labels(identity), enforces, port_names: PortNames::NONE }
    }
}

fn listed(labels: &Labels) -> String {
    format!("[{}]", labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
}

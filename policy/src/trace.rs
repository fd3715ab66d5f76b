//! Why traffic is allowed or denied: the rules are gone through one by one for one source, one destination and one port.
//! The body of `cilium policy trace`, and the oracle that the policy maps are tested against; it shares nothing with
//! `resolve` and `compile` but what a single selector matches.

mod judge;
mod requests;
mod side;
mod text;

pub use judge::{Ask, Decision, Judgement, Origin, Setting, candidates, decide, judge};
pub use requests::Demands;
pub use side::{Enforces, PortNames, Side};

use crate::l7::{Access, Conflict, Parser, Passage, Request};
use crate::peer::Peer;
use crate::repository::Repository;
use crate::resolve::{Enforcement, Options};
use model::labels::SOURCE_CONTAINER;
use model::{Direction, Label, Labels, Protocol};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A destination port to ask about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dport {
    /// For ICMP the type.
    pub port: u16,
    /// `None`: ANY, which is allowed when TCP or UDP is.
    pub protocol: Option<Protocol>,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("port {0:?} is not of the form PORT[/PROTOCOL], with TCP, UDP, SCTP, ICMP, ICMPv6 or ANY")]
pub struct DportError(String);

const PROTOCOLS: [(&str, Option<Protocol>); 6] = [
    ("ANY", None),
    ("TCP", Some(Protocol::TCP)),
    ("UDP", Some(Protocol::UDP)),
    ("SCTP", Some(Protocol::SCTP)),
    ("ICMP", Some(Protocol::ICMP)),
    ("ICMPv6", Some(Protocol::ICMPV6)),
];

/// Service names that may stand for a port (IANA, "Service Name and Transport Protocol Port Number Registry").
const SERVICES: [(&str, u16); 12] = [
    ("ftp", 21),
    ("ssh", 22),
    ("smtp", 25),
    ("domain", 53),
    ("http", 80),
    ("ntp", 123),
    ("ldap", 389),
    ("https", 443),
    ("mysql", 3306),
    ("postgresql", 5432),
    ("redis", 6379),
    ("http-alt", 8080),
];

impl FromStr for Dport {
    type Err = DportError;

    fn from_str(text: &str) -> Result<Dport, DportError> {
        let fault = || DportError(text.to_owned());
        let (port, protocol) = text.split_once('/').unwrap_or((text, "ANY"));
        let (_, protocol) = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(protocol)).ok_or_else(fault)?;
        let service = SERVICES.iter().find(|(name, _)| name.eq_ignore_ascii_case(port)).map(|(_, port)| *port);
        let port = service.map_or_else(|| port.parse().map_err(|_| fault()), Ok)?;
        Ok(Dport { port, protocol: *protocol })
    }
}

impl fmt::Display for Dport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Some(protocol) => write!(f, "{}/{protocol}", self.port),
            None => write!(f, "{}/ANY", self.port),
        }
    }
}

/// Reads labels as they are given on a command line: without a source they are a container's.
pub fn parse_labels<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Labels, model::labels::LabelError> {
    texts.into_iter().map(|text| Label::parse(text, SOURCE_CONTAINER)).collect()
}

/// What is asked.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    pub from: &'a Labels,
    pub to: &'a Labels,
    /// All of them must be allowed. None: whether everything is allowed, whatever the port.
    pub dports: &'a [Dport],
    /// What is asked for on the connection; `None`: the question is whether it may be opened.
    pub request: Option<&'a Request<'a>>,
    /// Whether to show the rules that did not select as well.
    pub verbose: bool,
}

/// The answer, with the way to it.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct Answer {
    pub verdict: Decision,
    /// What was looked at, for people.
    pub log: String,
    /// What decided: for each direction and port the place in the rules.
    pub decided: Vec<Decided>,
}

/// How one direction was decided for one port.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decided {
    pub direction: Direction,
    /// `80/TCP`, or `all`.
    pub port: String,
    pub verdict: Decision,
    /// Whether policy is enforced for the endpoint in this direction.
    pub enforced: bool,
    /// The entry that allowed or denied; absent when nothing did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Origin>,
    /// What is behind a redirect, and what it makes of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parsed: Option<Parsed>,
}

/// A connection that a parser looks into.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parsed {
    pub parser: Parser,
    /// The merged rules, one line for each selector and port, as JSON in text.
    pub rules: Vec<String>,
    /// What becomes of the request and why, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// One side of a connection, decided to the end.
#[derive(Debug)]
pub struct Outcome<'r> {
    pub judgement: Judgement<'r>,
    /// With a request the final answer, else that about the connection.
    pub decision: Decision,
    pub parsed: Option<Parsed>,
    /// What in the rules cannot be merged. An endpoint whose policy cannot be computed lets nothing through.
    pub conflicts: Arc<[Conflict]>,
}

/// Judges one side, and what becomes of the request on it if there is one.
pub fn verdict<'r>(
    setting: Setting<'r>,
    direction: Direction,
    (subject, peer): (&Side<'_>, &Side<'_>),
    ask: Ask,
    request: Option<&Request<'_>>,
    demands: &mut Demands,
) -> Outcome<'r> {
    let judgement = judge(setting, direction, subject, peer, ask);
    let mut decision = judgement.verdict();
    let mut parsed = None;
    let conflicts = match judgement.enforced && subject.enforces == Enforces::Endpoint {
        true => demands.conflicts(setting, subject),
        false => Arc::default(),
    };
    if !conflicts.is_empty() {
        decision = Decision::Denied;
    } else if decision == Decision::Redirected {
        let access = judgement.access(&peer.peer, ask, demands);
        if let Some(request) = request {
            decision = match access.answer(request).passage {
                Passage::Passes => Decision::Allowed,
                Passage::Refused => Decision::Denied,
                Passage::Undecided => Decision::Redirected,
            };
        }
        parsed = parsed_of(setting, &access, request);
    }
    Outcome { judgement, decision, parsed, conflicts }
}

fn parsed_of(setting: Setting<'_>, access: &Access, request: Option<&Request<'_>>) -> Option<Parsed> {
    let request = request.map(|request| {
        let answer = access.answer(request);
        let does = match answer.passage {
            Passage::Passes => "passes",
            Passage::Refused => "is refused",
            Passage::Undecided => "is for the parser to decide",
        };
        format!("{request} {does}: {}", answer.reason.told(&|place| setting.name(place)))
    });
    Some(Parsed { parser: access.parser()?.clone(), rules: text::merged(access), request })
}

/// Answers a question about a new connection: the source's egress and the destination's ingress must both allow it.
pub fn trace(repository: &Repository, options: Options, question: Question<'_>) -> Answer {
    let seen = |labels| Side::of_peer(Peer::from_labels(labels).seen_from(options.cluster));
    let (from, to) = (seen(question.from), seen(question.to));
    trace_between(Setting::new(repository, options), &from, &to, question)
}

/// The same for two ends of which more is known than their labels.
pub fn trace_between(setting: Setting<'_>, from: &Side<'_>, to: &Side<'_>, question: Question<'_>) -> Answer {
    let mut log = text::heading(question);
    let mut demands = Demands::default();
    let mut decided = Vec::new();
    for (direction, subject, peer) in [(Direction::Egress, from, to), (Direction::Ingress, to, from)] {
        for (alternatives, port) in asks(question.dports) {
            let sides = (subject, peer);
            let found = verdict_of_any(setting, direction, sides, &alternatives, question.request, &mut demands);
            let named = (question.dports.len() > 1).then_some(&*port);
            log.push_str(&text::side(&found, &subject.peer, &peer.peer, named, question.verbose));
            decided.push(Decided {
                direction,
                port,
                verdict: found.decision,
                enforced: found.judgement.enforced,
                by: found.judgement.origin(),
                parsed: found.parsed,
            });
        }
    }
    if setting.options.enforcement == Enforcement::Never {
        log.push_str("Policy enforcement is disabled for the daemon.\n\n");
    } else if decided.iter().all(|side| !side.enforced) {
        log.push_str(NOTHING_SELECTED);
    }
    let verdict = decided.iter().map(|side| side.verdict).max().unwrap_or(Decision::Allowed);
    log.push_str(&format!("Final verdict: {}\n", verdict.to_string().to_uppercase()));
    Answer { verdict, log, decided }
}

const NOTHING_SELECTED: &str = "Policy enforcement is disabled because no rules in the policy repository match any \
    endpoint selector from the provided destination sets of labels.\n\n";

/// The ports as they are asked one by one: the alternatives of each, and its text.
fn asks(dports: &[Dport]) -> Vec<(Vec<Ask>, String)> {
    if dports.is_empty() {
        return vec![(vec![Ask::Everything], "all".to_owned())];
    }
    let alternatives = |dport: &Dport| match dport.protocol {
        Some(protocol) => vec![Ask::Port(protocol, dport.port)],
        None => [Protocol::TCP, Protocol::UDP].map(|protocol| Ask::Port(protocol, dport.port)).to_vec(),
    };
    dports.iter().map(|dport| (alternatives(dport), dport.to_string())).collect()
}

/// Judges the alternatives until one is let in; the first stands for all if none is.
fn verdict_of_any<'r>(
    setting: Setting<'r>,
    direction: Direction,
    sides: (&Side<'_>, &Side<'_>),
    alternatives: &[Ask],
    request: Option<&Request<'_>>,
    demands: &mut Demands,
) -> Outcome<'r> {
    let (first, others) = alternatives.split_first().map_or((Ask::Everything, &[][..]), |(first, rest)| (*first, rest));
    let found = verdict(setting, direction, sides, first, request, demands);
    if found.decision != Decision::Denied {
        return found;
    }
    let mut others = others.iter().map(|ask| verdict(setting, direction, sides, *ask, request, demands));
    others.find(|other| other.decision != Decision::Denied).unwrap_or(found)
}

#[cfg(test)]
mod tests;

//! Why traffic is allowed or denied: the rules are gone through one by one for one source, one destination and one port.
//! The body of `cilium policy trace`, and the oracle that the policy maps are tested against; it shares nothing with
//! `resolve` and `compile` but what a single selector matches.

mod judge;
mod text;

pub use judge::{Ask, Decision, Judgement, Origin, decide};

use crate::peer::Peer;
use crate::repository::Repository;
use crate::resolve::{Enforcement, Options};
use judge::judge;
use model::labels::SOURCE_CONTAINER;
use model::{Direction, Label, Labels, Protocol};
use std::fmt;
use std::str::FromStr;

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
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub from: &'a Labels,
    pub to: &'a Labels,
    /// All of them must be allowed. None: whether everything is allowed, whatever the port.
    pub dports: &'a [Dport],
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
}

/// Answers a question about a new connection: the source's egress and the destination's ingress must both allow it.
pub fn trace(repository: &Repository, options: Options, question: Question<'_>) -> Answer {
    let (from, to) = (Peer::from_labels(question.from), Peer::from_labels(question.to));
    let mut log = text::heading(question);
    let sides = [(Direction::Egress, from, to), (Direction::Ingress, to, from)];
    let mut decided = Vec::new();
    for (direction, subject, peer) in sides {
        for ask in asks(question.dports) {
            let (judgement, port) = judge_any(repository, options, direction, &subject, &peer, ask);
            log.push_str(&text::side(
                &judgement,
                &subject,
                &peer,
                (question.dports.len() > 1).then_some(&*port),
                question.verbose,
            ));
            decided.push(Decided {
                direction,
                port,
                verdict: judgement.verdict(),
                enforced: judgement.enforced,
                by: judgement.origin(),
            });
        }
    }
    if options.enforcement == Enforcement::Never {
        log.push_str("Policy enforcement is disabled for the daemon.\n\n");
    } else if decided.iter().all(|side| !side.enforced) {
        log.push_str(NOTHING_SELECTED);
    }
    let denied = decided.iter().any(|side| side.verdict == Decision::Denied);
    let verdict = if denied { Decision::Denied } else { Decision::Allowed };
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

/// Judges the alternatives until one is allowed; the first stands for all if none is.
fn judge_any<'r>(
    repository: &'r Repository,
    options: Options,
    direction: Direction,
    subject: &Peer<'_>,
    peer: &Peer<'_>,
    (alternatives, port): (Vec<Ask>, String),
) -> (Judgement<'r>, String) {
    let mut judged = alternatives.into_iter().map(|ask| judge(repository, options, direction, subject, peer, ask));
    let first = judged.next().unwrap_or_else(|| judge(repository, options, direction, subject, peer, Ask::Everything));
    if first.verdict() == Decision::Allowed {
        return (first, port);
    }
    (judged.find(|judgement| judgement.verdict() == Decision::Allowed).unwrap_or(first), port)
}

#[cfg(test)]
mod tests;

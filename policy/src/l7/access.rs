//! The L7 policy of one connection: the demands of all elements that allow it, merged by port and peer selector, and
//! the answer for a request. Which elements those are is decided elsewhere.

use super::demand::{Demand, Parser, Requests};
use super::http::{self, HeaderAction};
use super::kafka;
use super::name::Name;
use super::request::Request;
use model::Protocol;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The ports that an element is about. What one selector says of equal ports is merged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ports {
    /// Everything: an entry without ports.
    All,
    Range {
        protocol: Protocol,
        first: u16,
        last: u16,
    },
    Named {
        protocol: Protocol,
        name: String,
    },
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ports::All => f.write_str("all ports"),
            Ports::Range { protocol, first: 0, last: u16::MAX } => write!(f, "0/{protocol}"),
            Ports::Range { protocol, first, last } if first == last => write!(f, "{first}/{protocol}"),
            Ports::Range { protocol, first, last } => write!(f, "{first}-{last}/{protocol}"),
            Ports::Named { protocol, name } => write!(f, "{name}/{protocol}"),
        }
    }
}

/// Where an element stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The rule's place in the repository, from 0.
    pub rule: usize,
    /// Such as `ingress[0]` or `ingress[0].toPorts[1]`.
    pub element: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} {}", self.rule, self.element)
    }
}

/// One element that allows a connection.
#[derive(Clone, Debug)]
pub struct Contribution {
    pub ports: Ports,
    /// The canonical text of the peer selector: equal texts select the same peers.
    pub selector: String,
    /// `None`: the element restricts no requests.
    pub demand: Option<Arc<Demand>>,
    /// Whether the ports are the asked one and no other.
    pub exact: bool,
    /// The mode of authentication that the entry asks for.
    pub authentication: Option<String>,
    pub place: Place,
}

/// What the elements for one selector and equal ports say together.
#[derive(Clone, Debug)]
pub struct Group {
    pub ports: Ports,
    pub selector: String,
    pub parser: Option<Parser>,
    /// Whether an element without request rules is among them, which lets every request pass.
    pub any_request: bool,
    pub demands: Vec<(Arc<Demand>, Place)>,
    pub terminated: bool,
    exact: bool,
    /// Where the first element of the group stands.
    place: Place,
}

/// What cannot hold at the same time for one selector on equal ports. Cilium then leaves the endpoint its old policy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot merge conflicting {what} for {selector} on {ports}: {first} and {second}")]
pub struct Conflict {
    pub what: String,
    pub selector: String,
    pub ports: Ports,
    pub first: Place,
    pub second: Place,
}

/// The L7 policy of a connection as one of its sides sees it.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub groups: Vec<Group>,
    pub conflicts: Vec<Conflict>,
    /// Whether every request passes, whatever the groups say.
    pub lifted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passage {
    Passes,
    Refused,
    /// A parser decides that is not known here.
    Undecided,
}

/// What becomes of a request.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer<'a> {
    pub passage: Passage,
    pub reason: Reason<'a>,
    /// What is done to the headers of a request that passes.
    pub actions: Vec<HeaderAction<'a>>,
}

/// Why a request passes or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason<'a> {
    /// Nothing looks into the connection.
    NotParsed,
    /// What is behind the parser has been lifted as a whole: no default deny, or the host's own traffic.
    Lifted,
    /// An element without request rules.
    AnyRequest(&'a Place),
    /// The request rule of this number of the element.
    Rule(&'a Place, usize),
    /// Rules of several elements together; this is the first.
    Rules(&'a Place),
    /// None of this many request rules.
    NoRule(usize),
    /// The hello is for a name that is not among the allowed ones, or there was none.
    ServerName,
    /// A parser that is not known here.
    Parser(&'a Parser),
}

impl Reason<'_> {
    /// The reason in words, with places called as the caller calls them.
    pub fn told(&self, name: &dyn Fn(&Place) -> String) -> String {
        match self {
            Reason::NotParsed => "nothing looks into the connection".to_owned(),
            Reason::Lifted => "requests are not restricted here".to_owned(),
            Reason::AnyRequest(place) => format!("{} allows every request", name(place)),
            Reason::Rule(place, number) => format!("request rule {number} of {}", name(place)),
            Reason::Rules(place) => format!("the request rules from {}", name(place)),
            Reason::NoRule(0) => "no request rule is about such requests".to_owned(),
            Reason::NoRule(1) => "the one request rule does not match".to_owned(),
            Reason::NoRule(count) => format!("none of {count} request rules matches"),
            Reason::ServerName => "the TLS hello has none of the allowed server names".to_owned(),
            Reason::Parser(parser) => format!("{parser} decides"),
        }
    }
}

impl Access {
    pub fn merge(contributions: impl IntoIterator<Item = Contribution>) -> Access {
        let mut groups: BTreeMap<(Ports, String), Vec<Contribution>> = BTreeMap::new();
        for contribution in contributions {
            let key = (contribution.ports.clone(), contribution.selector.clone());
            groups.entry(key).or_default().push(contribution);
        }
        let mut access = Access::default();
        for members in groups.into_values() {
            conflicts(&members, &mut access.conflicts);
            access.groups.extend(group(members));
        }
        access
    }

    /// Who looks into the connection, if anybody does.
    pub fn parser(&self) -> Option<&Parser> {
        self.groups.iter().filter_map(|group| group.parser.as_ref()).min_by_key(|parser| parser.rank())
    }

    /// What becomes of a request: it passes if any group lets it.
    pub fn answer<'a>(&'a self, request: &Request<'_>) -> Answer<'a> {
        let plain = |passage, reason| Answer { passage, reason, actions: Vec::new() };
        let Some(parser) = self.parser() else {
            return plain(Passage::Passes, Reason::NotParsed);
        };
        if let Parser::Listener(..) = parser {
            return plain(Passage::Undecided, Reason::Parser(parser));
        }
        if self.lifted {
            return plain(Passage::Passes, Reason::Lifted);
        }
        // A DNS proxy looks at the rules of exactly the asked port, the others at all rules that hold for it.
        let applying = self.groups.iter().filter(|group| *parser != Parser::Dns || group.exact);
        let mut passing: Option<Reason<'a>> = None;
        let mut refusing = None;
        let mut undecided = false;
        let (mut rules, mut actions) = (0, Vec::new());
        for group in applying {
            match group.answer(request, &mut actions) {
                Ok(reason) => passing = passing.or(Some(reason)),
                Err(Reason::NoRule(count)) => rules += count,
                Err(Reason::Parser(own)) => undecided |= own == parser,
                Err(other) => refusing = Some(other),
            }
        }
        match passing {
            Some(reason) => Answer { passage: Passage::Passes, reason, actions },
            None if undecided => plain(Passage::Undecided, Reason::Parser(parser)),
            None if rules == 0 => plain(Passage::Refused, refusing.unwrap_or(Reason::NoRule(0))),
            None => plain(Passage::Refused, Reason::NoRule(rules)),
        }
    }
}

/// Puts the elements of one selector and port together.
fn group(members: Vec<Contribution>) -> Option<Group> {
    let first = members.first()?;
    let parsers = members.iter().filter_map(|member| member.demand.as_ref().map(|demand| &demand.parser));
    let restricts =
        |member: &Contribution| member.demand.as_ref().is_some_and(|demand| demand.requests != Requests::Any);
    Some(Group {
        ports: first.ports.clone(),
        selector: first.selector.clone(),
        parser: parsers.min_by_key(|parser| parser.rank()).cloned(),
        any_request: !members.iter().all(restricts),
        terminated: members.iter().flat_map(|member| &member.demand).any(|demand| demand.terminating.is_some()),
        exact: first.exact,
        place: members.iter().find(|member| !restricts(member)).unwrap_or(first).place.clone(),
        demands: members.into_iter().filter_map(|member| member.demand.map(|demand| (demand, member.place))).collect(),
    })
}

impl Group {
    /// The server names that hold for the whole group.
    pub fn server_names(&self) -> impl Iterator<Item = &str> {
        self.demands.iter().flat_map(|(demand, _)| demand.names_written.iter().map(String::as_str))
    }

    fn is_named(&self) -> bool {
        self.demands.iter().any(|(demand, _)| !demand.server_names.is_empty())
    }

    fn names(&self, name: Option<&Name>) -> bool {
        !self.is_named() || name.is_some_and(|name| self.demands.iter().any(|(demand, _)| demand.names(name)))
    }

    /// Whether the request passes, and why, or why not.
    fn answer<'a>(
        &'a self,
        request: &Request<'_>,
        actions: &mut Vec<HeaderAction<'a>>,
    ) -> Result<Reason<'a>, Reason<'a>> {
        let named = match request {
            Request::Hello(name) => self.names(Some(name)),
            Request::Http { request, server_name } => {
                // Behind terminated TLS there was a hello: for the host that is asked for, if nothing else is said.
                let of_host = || self.terminated.then(|| Name::new(without_port(request.host)));
                let name = server_name.clone().or_else(of_host);
                self.names(name.as_ref())
            }
            Request::Kafka(_) | Request::Dns(_) => self.names(None),
        };
        if !named {
            return Err(Reason::ServerName);
        }
        if self.any_request || matches!(request, Request::Hello(_)) && self.terminated {
            return Ok(Reason::AnyRequest(&self.place));
        }
        let (rules, passes) = match request {
            Request::Http { request, .. } => self.answer_http(request, actions),
            Request::Kafka(request) => self.answer_kafka(request),
            Request::Dns(name) => self.answer_dns(name),
            Request::Hello(_) => (0, None),
        };
        let elsewhere = || self.demands.iter().find(|(demand, _)| demand.requests == Requests::Elsewhere);
        let refused = || elsewhere().map_or(Reason::NoRule(rules), |(demand, _)| Reason::Parser(&demand.parser));
        passes.ok_or_else(refused)
    }

    /// How many rules there are, and which lets the request pass.
    fn answer_http<'a>(
        &'a self,
        request: &http::HttpRequest<'_>,
        actions: &mut Vec<HeaderAction<'a>>,
    ) -> (usize, Option<Reason<'a>>) {
        let rules = || {
            self.demands.iter().flat_map(|(demand, place)| {
                let matchers = if let Requests::Http(matchers) = &demand.requests { matchers.as_slice() } else { &[] };
                matchers.iter().enumerate().map(move |(number, matcher)| (matcher, place, number))
            })
        };
        let answer = http::evaluate(rules().map(|(matcher, ..)| matcher), request);
        actions.extend(answer.actions);
        let found = answer.by.and_then(|by| rules().nth(by));
        (rules().count(), found.map(|(_, place, number)| Reason::Rule(place, number)))
    }

    fn answer_kafka(&self, request: &kafka::KafkaRequest<'_>) -> (usize, Option<Reason<'_>>) {
        let rules = self.demands.iter().flat_map(|(demand, _)| match &demand.requests {
            Requests::Kafka(matchers) => matchers.as_slice(),
            _ => &[],
        });
        (rules.clone().count(), kafka::evaluate(rules, request).then_some(Reason::Rules(&self.place)))
    }

    fn answer_dns(&self, name: &Name) -> (usize, Option<Reason<'_>>) {
        let mut rules = 0;
        for (demand, place) in &self.demands {
            let Requests::Dns(matchers) = &demand.requests else { continue };
            rules += matchers.len();
            if let Some(number) = matchers.iter().position(|matcher| matcher.matches(name)) {
                return (rules, Some(Reason::Rule(place, number)));
            }
        }
        (rules, None)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Adds what cannot hold together among the elements of one selector and port.
fn conflicts(members: &[Contribution], found: &mut Vec<Conflict>) {
    let Some((head, _)) = members.split_first() else { return };
    let mut add = |what: String, first: &Contribution, second: &Contribution| {
        found.push(Conflict {
            what,
            selector: head.selector.clone(),
            ports: head.ports.clone(),
            first: first.place.clone(),
            second: second.place.clone(),
        });
    };
    differing(
        members,
        |demand| Some(&demand.parser),
        |a, b| clash(a, b),
        |a, b| format!("L7 parsers ({a}/{b})"),
        &mut add,
    );
    let tls = |what: &'static str| move |_: &TlsOf<'_>, _: &TlsOf<'_>| format!("{what} TLS contexts");
    differing(members, |demand| demand.terminating.as_ref().map(TlsOf), |a, b| a != b, tls("terminating"), &mut add);
    differing(members, |demand| demand.originating.as_ref().map(TlsOf), |a, b| a != b, tls("originating"), &mut add);
    let mut modes = members.iter().filter_map(|member| member.authentication.as_ref().map(|mode| (mode, member)));
    if let Some((mode, first)) = modes.next()
        && let Some((other, second)) = modes.find(|(other, _)| *other != mode)
    {
        add(format!("authentication types ({mode}/{other})"), first, second);
    }
    let demand = |test: fn(&Demand) -> bool| {
        members.iter().find(|member| member.demand.as_ref().is_some_and(|demand| test(demand)))
    };
    let restricting = |demand: &Demand| demand.requests != Requests::Any;
    if let (Some(named), Some(restricted), None) = (
        demand(|demand| !demand.server_names.is_empty()),
        demand(restricting),
        demand(|demand| demand.terminating.is_some()),
    ) {
        add("server names and L7 rules without TLS termination".to_owned(), named, restricted);
    }
}

#[derive(PartialEq)]
struct TlsOf<'a>(&'a crate::rule::TlsContext);

/// Finds the first two elements with something that differs too much.
fn differing<'m, T>(
    members: &'m [Contribution],
    of: impl Fn(&'m Demand) -> Option<T>,
    differ: impl Fn(&T, &T) -> bool,
    tell: impl Fn(&T, &T) -> String,
    add: &mut impl FnMut(String, &Contribution, &Contribution),
) {
    let all: Vec<(T, &Contribution)> =
        members.iter().filter_map(|member| Some((of(member.demand.as_ref()?)?, member))).collect();
    for (place, (one, first)) in all.iter().enumerate() {
        if let Some((other, second)) = all[place + 1..].iter().find(|(other, _)| differ(one, other)) {
            add(tell(one, other), first, second);
            return;
        }
    }
}

/// Whether two parsers cannot both be meant. TLS alone gives way to every parser that reads what is in it.
fn clash(a: &Parser, b: &Parser) -> bool {
    let reads_tls = |parser: &Parser| matches!(parser, Parser::Http | Parser::Kafka | Parser::Other(_));
    match (a, b) {
        (Parser::Tls, other) | (other, Parser::Tls) => *other != Parser::Tls && !reads_tls(other),
        (Parser::Listener(a, p), Parser::Listener(b, q)) => a != b && p == q,
        (a, b) => a != b,
    }
}

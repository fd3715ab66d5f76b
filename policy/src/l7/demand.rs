//! What one element of `toPorts` demands beside its ports, ready to be matched. How demands come together is `access`'s.

use super::http::{HttpMatcher, Secrets};
use super::kafka::KafkaMatcher;
use super::name::{DnsMatcher, Name, NamePattern};
use super::pattern::PatternError;
use crate::rule::{L7Rules, PortRule, TlsContext};
use std::fmt;

/// Who looks into a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parser {
    Http,
    Kafka,
    /// A parser of this name (`l7proto`).
    Other(String),
    /// Nobody looks further than the TLS hello, unless it is terminated.
    Tls,
    Dns,
    /// A listener of this name, with its priority if it has one.
    Listener(String, Option<u8>),
}

impl Parser {
    /// The parser that an element asks for; `None`: its connections are not looked into.
    pub fn of(rule: &PortRule) -> Option<Parser> {
        let default = L7Rules::default();
        let rules = rule.rules.as_ref().unwrap_or(&default);
        match rules.effective_kind() {
            Some("http") => return Some(Parser::Http),
            Some("kafka") => return Some(Parser::Kafka),
            Some("dns") => return Some(Parser::Dns),
            Some(_) => return Some(Parser::Other(rules.l7proto.clone().unwrap_or_default())),
            None => {}
        }
        if let Some(listener) = &rule.listener {
            let priority = listener.priority.filter(|priority| *priority > 0).and_then(|n| u8::try_from(n).ok());
            return Some(Parser::Listener(listener.name.clone().unwrap_or_default(), priority));
        }
        let names = rule.server_names.as_ref().is_some_and(|names| !names.is_empty());
        (names || rule.terminating_tls.is_some() || rule.originating_tls.is_some()).then_some(Parser::Tls)
    }

    /// Of several parsers for one connection the one with the lowest rank gets it (Cilium's listener priorities).
    pub(super) fn rank(&self) -> u8 {
        match self {
            Parser::Http => 101,
            Parser::Kafka => 106,
            Parser::Other(_) => 111,
            Parser::Tls => 116,
            Parser::Dns => 121,
            Parser::Listener(_, priority) => priority.unwrap_or(126),
        }
    }
}

impl fmt::Display for Parser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Parser::Http => f.write_str("http"),
            Parser::Kafka => f.write_str("kafka"),
            Parser::Other(name) => f.write_str(name),
            Parser::Tls => f.write_str("tls"),
            Parser::Dns => f.write_str("dns"),
            Parser::Listener(name, _) => write!(f, "listener {name}"),
        }
    }
}

impl serde::Serialize for Parser {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Which requests pass.
#[derive(Clone, PartialEq, Debug)]
pub enum Requests {
    /// All of them.
    Any,
    Http(Vec<HttpMatcher>),
    Kafka(Vec<KafkaMatcher>),
    Dns(Vec<DnsMatcher>),
    /// Those that a parser of ours does not know accepts.
    Elsewhere,
}

/// What an element of `toPorts` demands of a connection that its ports allow.
#[derive(Clone, PartialEq, Debug)]
pub struct Demand {
    pub parser: Parser,
    pub requests: Requests,
    /// Names of which a TLS hello must have one; none: it need not be TLS.
    pub server_names: Vec<NamePattern>,
    pub terminating: Option<TlsContext>,
    pub originating: Option<TlsContext>,
    /// The L7 rules as written.
    pub written: L7Rules,
    /// The server names as written.
    pub names_written: Vec<String>,
}

impl Demand {
    /// `None` if the element demands nothing.
    ///
    /// Fails if an expression cannot be compiled, which validation of rules excludes.
    pub fn compile(rule: &PortRule, secrets: Secrets<'_>) -> Result<Option<Demand>, PatternError> {
        let Some(parser) = Parser::of(rule) else { return Ok(None) };
        let written = rule.rules.clone().unwrap_or_default();
        let requests = match parser {
            Parser::Http => {
                let rules = written.http.iter().flatten().map(|rule| HttpMatcher::compile(rule, secrets));
                Requests::Http(rules.collect::<Result<_, _>>()?)
            }
            Parser::Kafka => Requests::Kafka(written.kafka.iter().flatten().map(KafkaMatcher::new).collect()),
            Parser::Dns => Requests::Dns(written.dns.iter().flatten().map(DnsMatcher::new).collect()),
            Parser::Tls => Requests::Any,
            Parser::Other(_) | Parser::Listener(..) => Requests::Elsewhere,
        };
        let names_written = rule.server_names.clone().unwrap_or_default();
        Ok(Some(Demand {
            parser,
            requests,
            server_names: names_written.iter().map(|name| NamePattern::server(name)).collect(),
            terminating: rule.terminating_tls.clone(),
            originating: rule.originating_tls.clone(),
            written,
            names_written,
        }))
    }

    pub(super) fn names(&self, name: &Name) -> bool {
        self.server_names.iter().any(|pattern| pattern.matches(name))
    }
}

//! The L4 part of an entry: `toPorts`, its ports, ranges and protocols, and what they cover.

use super::Verdict;
use super::l7::{L7Rules, Listener, TlsContext};
use crate::decode::{Decoder, Name, Written};
use crate::fault::Path;
use model::Protocol;
use serde_json::Value;

/// An element of `toPorts`. Without ports it matches nothing.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortProtocol>>,
    #[serde(rename = "terminatingTLS", skip_serializing_if = "Option::is_none")]
    pub terminating_tls: Option<TlsContext>,
    #[serde(rename = "originatingTLS", skip_serializing_if = "Option::is_none")]
    pub originating_tls: Option<TlsContext>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_names: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<Listener>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<L7Rules>,
}

const ALLOW_FIELDS: &[Name] = &["ports", "terminatingTLS", "originatingTLS", "serverNames", "listener", "rules"];
/// A deny refuses the whole port and has nothing else to say.
const DENY_FIELDS: &[Name] = &["ports"];

impl PortRule {
    pub(super) fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>, verdict: Verdict) -> Option<PortRule> {
        let known = if verdict == Verdict::Deny { DENY_FIELDS } else { ALLOW_FIELDS };
        let fields = decoder.object(value, path, known)?;
        Some(PortRule {
            ports: fields.read_list(decoder, path, "ports", PortProtocol::decode),
            terminating_tls: fields.read(decoder, path, "terminatingTLS", TlsContext::decode),
            originating_tls: fields.read(decoder, path, "originatingTLS", TlsContext::decode),
            server_names: fields.read(decoder, path, "serverNames", Decoder::texts),
            listener: fields.read(decoder, path, "listener", Listener::decode),
            rules: fields.read(decoder, path, "rules", L7Rules::decode),
        })
    }
}

/// A destination port, or a range of them, of one protocol or of all that have ports.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortProtocol {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// The last port of a range, inclusive; 0 is as good as absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Written<L4Protocol>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Port {
    /// 0: every port.
    Number(u16),
    /// An IANA service name, as written; compared in lower case.
    Name(String),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum L4Protocol {
    Tcp,
    Udp,
    Sctp,
    Vrrp,
    Igmp,
    /// TCP, UDP and SCTP; neither ICMP nor anything else.
    Any,
}

const PROTOCOLS: [(L4Protocol, &str); 6] = [
    (L4Protocol::Tcp, "TCP"),
    (L4Protocol::Udp, "UDP"),
    (L4Protocol::Sctp, "SCTP"),
    (L4Protocol::Vrrp, "VRRP"),
    (L4Protocol::Igmp, "IGMP"),
    (L4Protocol::Any, "ANY"),
];

impl L4Protocol {
    pub fn name(self) -> &'static str {
        PROTOCOLS.iter().find(|(protocol, _)| *protocol == self).map_or("", |(_, name)| name)
    }

    /// Whether the protocol has no ports.
    pub(crate) fn is_portless(self) -> bool {
        matches!(self, L4Protocol::Vrrp | L4Protocol::Igmp)
    }

    /// The IP protocols that are meant (IANA numbers).
    pub fn numbers(self) -> &'static [Protocol] {
        match self {
            L4Protocol::Tcp => &[Protocol::TCP],
            L4Protocol::Udp => &[Protocol::UDP],
            L4Protocol::Sctp => &[Protocol::SCTP],
            L4Protocol::Vrrp => &[Protocol(112)],
            L4Protocol::Igmp => &[Protocol(2)],
            L4Protocol::Any => &[Protocol::TCP, Protocol::UDP, Protocol::SCTP],
        }
    }
}

impl PortProtocol {
    /// Absent means ANY.
    pub fn l4_protocol(&self) -> L4Protocol {
        self.protocol.as_ref().map_or(L4Protocol::Any, |written| written.value)
    }

    /// First and last port; `None` for a named port, whose number is not known here.
    pub fn range(&self) -> Option<(u16, u16)> {
        let end = self.end_port.unwrap_or_default();
        match self.port {
            None if self.l4_protocol().is_portless() => Some((0, u16::MAX)),
            None | Some(Port::Name(_)) => None,
            Some(Port::Number(0)) if end == 0 => Some((0, u16::MAX)),
            Some(Port::Number(first)) => Some((first, end.max(first))),
        }
    }

    fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<PortProtocol> {
        let fields = decoder.object(value, path, &["port", "endPort", "protocol"])?;
        let port = fields.read(decoder, path, "port", |decoder, value, path| {
            let text = decoder.text(value, path)?;
            if text.is_empty() {
                return None;
            }
            Port::parse(&text).map_err(|message| decoder.faults.add(path, message)).ok()
        });
        let end_port = fields.read(decoder, path, "endPort", |decoder, value, path| {
            decoder.number(value, path, u64::from(u16::MAX)).and_then(|n| u16::try_from(n).ok())
        });
        Some(PortProtocol { port, end_port, protocol: fields.read(decoder, path, "protocol", decode_protocol) })
    }
}

fn decode_protocol(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Written<L4Protocol>> {
    let text = decoder.text(value, path)?;
    let known = PROTOCOLS.iter().find(|(_, name)| name.eq_ignore_ascii_case(&text)).map(|(protocol, _)| *protocol);
    let protocol = if text.is_empty() { Some(L4Protocol::Any) } else { known };
    if protocol.is_none() {
        let hint = if text.to_ascii_uppercase().starts_with("ICMP") {
            " (ICMP types have a block of their own, icmps)"
        } else {
            ""
        };
        let names = PROTOCOLS.map(|(_, name)| name).join(", ");
        decoder.faults.add(path, format!("invalid protocol {text:?}, must be one of {names}{hint}"));
    }
    protocol.map(|value| Written { text, value })
}

impl Port {
    /// A decimal number up to 65535, or a service name. What Go reads as octal or with underscores is refused, because
    /// hardly anybody means it.
    pub(crate) fn parse(text: &str) -> Result<Port, String> {
        if is_service_name(text) {
            return Ok(Port::Name(text.to_owned()));
        }
        if !text.bytes().all(|b| b.is_ascii_digit()) || text.is_empty() {
            return Err(format!("{text:?} is neither a port number nor a service name"));
        }
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("port {text:?} begins with a 0, which some read as octal: write it without"));
        }
        text.parse().map(Port::Number).map_err(|_| format!("port {text} is not from 0 to 65535"))
    }
}

/// RFC 6335 section 5.1: 1 to 15 letters, digits and hyphens, a letter among them, hyphens only single and inside.
fn is_service_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && text.bytes().any(|b| b.is_ascii_alphabetic())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

impl serde::Serialize for Port {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Port::Number(number) => s.collect_str(number),
            Port::Name(name) => s.serialize_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn decode(value: Value) -> Result<PortProtocol, Vec<String>> {
        let mut decoder = Decoder::default();
        let port = PortProtocol::decode(&mut decoder, &value, &Path::ROOT);
        let faults = decoder.faults.into_list();
        if faults.is_empty() { Ok(port.unwrap()) } else { Err(faults.iter().map(ToString::to_string).collect()) }
    }

    #[test]
    fn ports_are_decimal_numbers_or_service_names() {
        for (text, port) in [("0", 0), ("80", 80), ("65535", 65535)] {
            assert_eq!(Port::parse(text), Ok(Port::Number(port)));
        }
        for text in ["http", "HTTP", "dns-tcp", "0x50", "8a", "a", "a23456789012345"] {
            assert_eq!(Port::parse(text), Ok(Port::Name(text.to_owned())));
        }
        for text in [
            "0120",
            "080",
            "00",
            "8_0",
            "65536",
            "-1",
            "+80",
            " 80",
            "8 0",
            "-http",
            "http-",
            "a--b",
            "a234567890123456",
            "80/TCP",
        ] {
            assert!(Port::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges() {
        let range = |value: Value| decode(value).unwrap().range();
        assert_eq!(range(json!({"port": "80"})), Some((80, 80)));
        assert_eq!(range(json!({"port": "80", "endPort": 90})), Some((80, 90)));
        assert_eq!(range(json!({"port": "80", "endPort": 80})), Some((80, 80)));
        assert_eq!(range(json!({"port": "80", "endPort": 0})), Some((80, 80)));
        assert_eq!(range(json!({"port": "0"})), Some((0, 65535)));
        assert_eq!(range(json!({"port": "0", "endPort": 65535})), Some((0, 65535)));
        assert_eq!(range(json!({"port": "0", "endPort": 7})), Some((0, 7)));
        assert_eq!(range(json!({"port": "http", "endPort": 90})), None);
        assert_eq!(range(json!({"protocol": "VRRP"})), Some((0, 65535)));
    }

    #[test]
    fn protocols_in_any_case_and_any_when_left_out() {
        for (value, protocol) in [
            (json!("tcp"), L4Protocol::Tcp),
            (json!("Any"), L4Protocol::Any),
            (json!(""), L4Protocol::Any),
            (json!(null), L4Protocol::Any),
            (json!("sCtP"), L4Protocol::Sctp),
        ] {
            assert_eq!(decode(json!({"port": "1", "protocol": value})).unwrap().l4_protocol(), protocol);
        }
        assert_eq!(
            decode(json!({"port": "1", "protocol": "ICMP"})),
            Err(vec!["protocol: invalid protocol \"ICMP\", must be one of TCP, UDP, SCTP, VRRP, IGMP, ANY (ICMP types have a block of their own, icmps)".to_owned()])
        );
    }

    #[test]
    fn types_are_strict() {
        assert_eq!(decode(json!({"port": 80})), Err(vec!["port: must be a string, not a number".to_owned()]));
        assert_eq!(
            decode(json!({"port": "1", "endPort": "2"})),
            Err(vec!["endPort: must be a number, not a string".to_owned()])
        );
        assert_eq!(
            decode(json!({"port": "1", "endPort": 65536})),
            Err(vec!["endPort: 65536 is not a whole number from 0 to 65535".to_owned()])
        );
    }

    proptest! {
        #[test]
        fn ports_are_given_back_as_written(text in "\\PC{0,18}") {
            if let Ok(port) = Port::parse(&text) {
                prop_assert_eq!(serde_json::to_value(port).unwrap(), json!(text));
            }
        }
    }
}

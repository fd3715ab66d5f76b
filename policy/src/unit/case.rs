//! Reading cases: who talks to whom, on which port, with which request, and what is expected.

use super::world::{Endpoint, read_address, read_labels, read_port, read_protocol};
use crate::decode::{Decoder, Fields, Name};
use crate::fault::Path;
use crate::l7;
use crate::trace::{Ask, Decision};
use model::{Identity, Labels, Protocol};
use serde_json::Value;
use std::fmt;
use std::net::IpAddr;

#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) from: End,
    pub(super) to: End,
    pub(super) ask: Ask,
    pub(super) request: Option<Wish>,
    pub(super) expected: Expected,
}

/// One end of a case's connection, as written.
#[derive(Debug)]
pub(super) enum End {
    /// By its place among the endpoints.
    Endpoint(usize),
    Address(IpAddr),
    Entity(Identity),
    Labels(Labels),
    Name(l7::Name),
}

/// What a case asks for on its connection.
#[derive(Debug)]
pub(super) enum Wish {
    Http { method: String, path: String, host: String, headers: Vec<(String, String)>, server_name: Option<l7::Name> },
    Kafka { api_key: i16, api_version: i16, client_id: String, topics: Vec<String> },
    Dns(l7::Name),
    Hello(l7::Name),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    Allowed,
    Denied,
    Redirected,
    /// Allowed or redirected.
    Admitted,
}

const EXPECTED: [(Expected, &str); 4] = [
    (Expected::Allowed, "allowed"),
    (Expected::Denied, "denied"),
    (Expected::Redirected, "redirected"),
    (Expected::Admitted, "admitted"),
];

impl Expected {
    pub fn is_met_by(self, decision: Decision) -> bool {
        match self {
            Expected::Allowed => decision == Decision::Allowed,
            Expected::Denied => decision == Decision::Denied,
            Expected::Redirected => decision == Decision::Redirected,
            Expected::Admitted => decision != Decision::Denied,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED.iter().find(|(expected, _)| expected == self).map_or("", |(_, name)| name))
    }
}

const FIELDS: &[Name] =
    &["name", "description", "from", "to", "port", "protocol", "http", "dns", "kafka", "sni", "expect"];

pub(super) fn read_cases(
    decoder: &mut Decoder,
    value: &Value,
    path: &Path<'_>,
    endpoints: &[Endpoint],
) -> Option<Vec<Case>> {
    let mut number = 0;
    decoder.list(value, path, |decoder, value, path| {
        number += 1;
        let fields = decoder.object(value, path, FIELDS)?;
        let name = fields.read(decoder, path, "name", Decoder::text);
        fields.read(decoder, path, "description", Decoder::text);
        let mut end = |name| {
            let end =
                fields.read(decoder, path, name, |decoder, value, path| read_end(decoder, value, path, endpoints));
            if end.is_none() {
                decoder.faults.add_missing(&path.field(name), "must be given");
            }
            end
        };
        let (from, to) = (end("from"), end("to"));
        let request = read_wish(decoder, &fields, path);
        let ask = read_ask(decoder, &fields, path, request.as_ref());
        let expected = fields.read(decoder, path, "expect", read_expected);
        if expected.is_none() {
            decoder.faults.add_missing(&path.field("expect"), "must be given");
        }
        Some(Case {
            name: name.unwrap_or_else(|| format!("case {number}")),
            from: from?,
            to: to?,
            ask: ask?,
            request,
            expected: expected?,
        })
    })
}

fn read_end(decoder: &mut Decoder, value: &Value, path: &Path<'_>, endpoints: &[Endpoint]) -> Option<End> {
    const WAYS: &[Name] = &["endpoint", "cidr", "entity", "labels", "fqdn"];
    let fields = decoder.object(value, path, WAYS)?;
    let given = WAYS.iter().filter(|name| fields.raw(name).is_some_and(|value| !value.is_null())).count();
    if given != 1 {
        decoder.faults.add_missing_member(path, &[], format!("exactly one of {} must be given", WAYS.join(", ")));
        return None;
    }
    let endpoint = fields.read(decoder, path, "endpoint", |decoder, value, path| {
        let name = decoder.text(value, path)?;
        let place = endpoints.iter().position(|endpoint| endpoint.name == name);
        if place.is_none() {
            decoder.faults.add(path, format!("there is no endpoint {name:?}"));
        }
        place.map(End::Endpoint)
    });
    let entity = fields.read(decoder, path, "entity", |decoder, value, path| {
        let name = decoder.text(value, path)?;
        let known = Identity::from_reserved_name(&name).filter(|identity| *identity != Identity::UNKNOWN);
        if known.is_none() {
            let names: Vec<&str> = Identity::RESERVED.iter().skip(1).map(|(_, name)| *name).collect();
            let message = format!("{name:?} is no reserved identity: use one of {}", names.join(", "));
            decoder.faults.add(path, message);
        }
        known.map(End::Entity)
    });
    let address = fields.read(decoder, path, "cidr", read_address).map(End::Address);
    let labels = fields.read(decoder, path, "labels", read_labels).map(End::Labels);
    let name = fields.read(decoder, path, "fqdn", Decoder::text).map(|name| End::Name(l7::Name::new(&name)));
    endpoint.or(entity).or(address).or(labels).or(name)
}

/// Without port, protocol and request the question is about all traffic.
fn read_ask(decoder: &mut Decoder, fields: &Fields<'_>, path: &Path<'_>, request: Option<&Wish>) -> Option<Ask> {
    let port = fields.read(decoder, path, "port", read_port);
    let protocol = fields.read(decoder, path, "protocol", read_protocol);
    if port.is_none() && protocol.is_none() && request.is_none() {
        return Some(Ask::Everything);
    }
    let usual = if matches!(request, Some(Wish::Dns(_))) { Protocol::UDP } else { Protocol::TCP };
    let protocol = protocol.unwrap_or(usual);
    if port.is_none() && [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&protocol) {
        decoder.faults.add_missing(&path.field("port"), "a port must be given");
    }
    Some(Ask::Port(protocol, port.unwrap_or_default()))
}

fn read_expected(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Expected> {
    let text = decoder.text(value, path)?;
    let known = EXPECTED.iter().find(|(_, name)| *name == text).map(|(expected, _)| *expected);
    if known.is_none() {
        let names = EXPECTED.map(|(_, name)| name).join(", ");
        decoder.faults.add(path, format!("{text:?} cannot be expected: use one of {names}"));
    }
    known
}

fn read_wish(decoder: &mut Decoder, fields: &Fields<'_>, path: &Path<'_>) -> Option<Wish> {
    let sni = fields.read(decoder, path, "sni", Decoder::text).map(|name| l7::Name::new(&name));
    let http = fields.read(decoder, path, "http", |decoder, value, path| read_http(decoder, value, path, sni.clone()));
    let kafka = fields.read(decoder, path, "kafka", read_kafka);
    let dns = fields.read(decoder, path, "dns", |decoder, value, path| {
        let fields = decoder.object(value, path, &["query"])?;
        let query = fields.read(decoder, path, "query", Decoder::text);
        if query.is_none() {
            decoder.faults.add_missing(&path.field("query"), "a name must be given");
        }
        query.map(|query| Wish::Dns(l7::Name::new(&query)))
    });
    let kinds = [("http", http), ("kafka", kafka), ("dns", dns)];
    let mut given = kinds.into_iter().filter_map(|(name, wish)| wish.map(|wish| (name, wish)));
    let first = given.next();
    if let (Some((first, _)), Some((second, _))) = (&first, given.next()) {
        decoder.faults.add(path, format!("{first} and {second} cannot both be asked for"));
    }
    match (first, sni) {
        (Some((name, _)), Some(_)) if name != "http" => {
            decoder.faults.add(&path.field("sni"), format!("cannot be given together with {name}"));
            None
        }
        (Some((_, wish)), _) => Some(wish),
        (None, sni) => sni.map(Wish::Hello),
    }
}

fn read_http(decoder: &mut Decoder, value: &Value, path: &Path<'_>, server_name: Option<l7::Name>) -> Option<Wish> {
    let fields = decoder.object(value, path, &["method", "path", "host", "headers"])?;
    let method = fields.read(decoder, path, "method", Decoder::text).unwrap_or_else(|| "GET".to_owned());
    let target = fields.read(decoder, path, "path", Decoder::text).unwrap_or_else(|| "/".to_owned());
    let host = fields.read(decoder, path, "host", Decoder::text).unwrap_or_default();
    let headers = fields.read(decoder, path, "headers", |decoder, value, path| {
        let mut headers = Vec::new();
        for (name, value) in decoder.members(value, path)? {
            let path = path.field(name);
            let values = match value {
                Value::Array(_) => decoder.texts(value, &path),
                _ => decoder.text(value, &path).map(|value| vec![value]),
            };
            headers.extend(values.into_iter().flatten().map(|value| (name.clone(), value)));
        }
        Some(headers)
    });
    Some(Wish::Http { method, path: target, host, headers: headers.unwrap_or_default(), server_name })
}

fn read_kafka(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Wish> {
    let fields = decoder.object(value, path, &["apiKey", "apiVersion", "clientID", "topics"])?;
    let api_key = fields.read(decoder, path, "apiKey", |decoder, value, path| {
        if value.is_number() {
            return read_small(decoder, value, path);
        }
        let name = decoder.text(value, path)?;
        let key = l7::api_key(&name);
        if key.is_none() {
            decoder.faults.add(path, format!("unknown Kafka apiKey {name:?}"));
        }
        key
    });
    if api_key.is_none() {
        decoder.faults.add_missing(&path.field("apiKey"), "an apiKey must be given");
    }
    let version = fields.read(decoder, path, "apiVersion", |decoder, value, path| match value {
        Value::String(text) => {
            let version = text.parse().ok().filter(|version: &i16| *version >= 0);
            if version.is_none() {
                decoder.faults.add(path, format!("{text:?} is not from 0 to 32767"));
            }
            version
        }
        _ => read_small(decoder, value, path),
    });
    let client_id = fields.read(decoder, path, "clientID", Decoder::text).unwrap_or_default();
    let topics = fields.read(decoder, path, "topics", Decoder::texts).unwrap_or_default();
    Some(Wish::Kafka { api_key: api_key?, api_version: version.unwrap_or_default(), client_id, topics })
}

fn read_small(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<i16> {
    decoder.number(value, path, i16::MAX as u64).and_then(|number| i16::try_from(number).ok())
}

impl Wish {
    pub(super) fn request(&self) -> l7::Request<'_> {
        match self {
            Wish::Http { method, path, host, headers, server_name } => l7::Request::Http {
                request: l7::HttpRequest { method, path, host, headers },
                server_name: server_name.clone(),
            },
            Wish::Kafka { api_key, api_version, client_id, topics } => {
                l7::Request::Kafka(l7::KafkaRequest { api_key: *api_key, api_version: *api_version, client_id, topics })
            }
            Wish::Dns(name) => l7::Request::Dns(name.clone()),
            Wish::Hello(name) => l7::Request::Hello(name.clone()),
        }
    }
}

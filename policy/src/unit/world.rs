//! Reading a world: policies from wherever they stand, settings, endpoints, and answers of DNS.

use crate::decode::{Decoder, Name};
use crate::document::{ReadOptions, Reader};
use crate::fault::{Fault, Path};
use crate::l7;
use crate::resolve::{AllowLocalhost, Enforcement};
use crate::rule::Rule;
use crate::trace::PortNames;
use model::labels::SOURCE_CONTAINER;
use model::{Label, Labels, Protocol};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A managed endpoint of the world.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) port_names: PortNames,
}

#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) allow_localhost: AllowLocalhost,
    pub(super) host_firewall: bool,
}

/// The rules of all policies, and where each is from.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) rules: Vec<Rule>,
    pub(super) sources: Vec<String>,
}

/// Policies are rules, lists of rules, documents with a kind, or `{"file": …}`.
pub(super) fn read_policies(
    decoder: &mut Decoder,
    value: &Value,
    path: &Path<'_>,
    options: &ReadOptions,
    files: super::Files<'_>,
) -> Option<Rules> {
    let mut reader = Reader::new(options);
    let mut names = Vec::new();
    decoder.list(value, path, |decoder, value, path| {
        let result = match file_of(value) {
            Some(name) => {
                let name = decoder.text(name, &path.field("file"))?;
                names.push(name.clone());
                let read = files(&name).map_err(|message| vec![Fault { path: String::new(), message }]);
                let read = read.and_then(|text| reader.add_text(&text).map_err(|errors| errors.0));
                read.map_err(|faults| {
                    faults
                        .into_iter()
                        .map(|fault| (path.field("file").to_string(), format!("{name}: {fault}")))
                        .collect()
                })
            }
            None => {
                names.push(path.to_string());
                let read = reader.add_values(std::slice::from_ref(value)).map_err(|errors| errors.0);
                read.map_err(|faults| {
                    faults.into_iter().map(|fault| (below(path, &fault.path), fault.message)).collect::<Vec<_>>()
                })
            }
        };
        for (path, message) in result.err()? {
            decoder.faults.add_at(path, message);
        }
        Some(())
    })?;
    match reader.finish() {
        Ok(reading) => {
            let sources = reading.places.iter().map(|place| source(&names, place)).collect();
            Some(Rules { rules: reading.rules, sources })
        }
        Err(errors) => {
            for fault in errors.0 {
                decoder.faults.add(path, fault.to_string());
            }
            None
        }
    }
}

/// What stands for a file: an object with the one member `file`.
fn file_of(value: &Value) -> Option<&Value> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    members.iter().find(|(name, _)| name.eq_ignore_ascii_case("file")).map(|(_, value)| value)
}

fn below(path: &Path<'_>, inner: &str) -> String {
    let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
    format!("{path}{dot}{inner}")
}

fn source(names: &[String], place: &crate::document::Place) -> String {
    let name = names.get(place.text).map(String::as_str).unwrap_or_default();
    let inner = if place.path.is_empty() { String::new() } else { format!(" {}", place.path) };
    match &place.document {
        Some(document) => format!("{name} {document}{inner}"),
        None => format!("{name}{inner}"),
    }
}

pub(super) fn read_enforcement(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Enforcement> {
    let text = decoder.text(value, path)?;
    text.parse().map_err(|error: crate::resolve::UnknownEnforcement| decoder.faults.add(path, error.to_string())).ok()
}

pub(super) fn read_options(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Settings> {
    let fields = decoder.object(value, path, &["allow-localhost", "host-firewall"])?;
    let allow_localhost = fields.read(decoder, path, "allow-localhost", |decoder, value, path| {
        match decoder.text(value, path)?.as_str() {
            "always" => Some(AllowLocalhost::Always),
            "auto" | "policy" => Some(AllowLocalhost::Policy),
            other => {
                decoder.faults.add(path, format!("{other:?} is not known: use auto, always or policy"));
                None
            }
        }
    });
    let host_firewall = fields.read(decoder, path, "host-firewall", Decoder::boolean);
    Some(Settings {
        allow_localhost: allow_localhost.unwrap_or_default(),
        host_firewall: host_firewall.unwrap_or_default(),
    })
}

pub(super) fn read_endpoints(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Vec<Endpoint>> {
    const FIELDS: &[Name] = &["labels", "ips", "named-ports"];
    let members = decoder.members(value, path)?;
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (name, value) in members {
        let path = path.field(name);
        let Some(fields) = decoder.object(value, &path, FIELDS) else { continue };
        let labels = fields.read(decoder, &path, "labels", read_labels);
        let addresses = fields.read_list(decoder, &path, "ips", read_address).unwrap_or_default();
        for (i, address) in addresses.iter().enumerate() {
            if let Some(owner) = owners.insert(*address, name).filter(|owner| *owner != name) {
                decoder.faults.add(&path.field("ips").index(i), format!("{address} is an address of {owner} too"));
            }
        }
        let port_names = fields.read(decoder, &path, "named-ports", read_port_names).unwrap_or_default();
        endpoints.push(Endpoint { name: name.clone(), labels: labels.unwrap_or_default(), addresses, port_names });
    }
    Some(endpoints)
}

/// Labels as texts; without a source they are a container's.
pub(super) fn read_labels(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Labels> {
    let labels = decoder.list(value, path, |decoder, value, path| {
        let text = decoder.text(value, path)?;
        Label::parse(&text, SOURCE_CONTAINER).map_err(|error| decoder.faults.add(path, error.to_string())).ok()
    })?;
    Some(labels.into_iter().collect())
}

/// One address, with or without the length that says so.
pub(super) fn read_address(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<IpAddr> {
    let text = decoder.text(value, path)?;
    let (address, length) = text.split_once('/').map_or((text.as_str(), None), |(a, length)| (a, Some(length)));
    let address: Option<IpAddr> = address.parse().ok();
    let whole = |address: &IpAddr| length.is_none_or(|length| length == if address.is_ipv4() { "32" } else { "128" });
    let address = address.filter(whole);
    if address.is_none() {
        decoder.faults.add(path, format!("{text:?} is not one IP address"));
    }
    address
}

fn read_port_names(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<PortNames> {
    let mut names = PortNames::default();
    for (name, value) in decoder.members(value, path)? {
        let path = path.field(name);
        let Some(fields) = decoder.object(value, &path, &["port", "protocol"]) else { continue };
        let port = fields.read(decoder, &path, "port", read_port);
        let protocol = fields.read(decoder, &path, "protocol", read_protocol).unwrap_or(Protocol::TCP);
        match port {
            Some(port) => names.add(name, protocol, port),
            None => decoder.faults.add_missing(&path.field("port"), "a port must be given"),
        }
    }
    Some(names)
}

pub(super) fn read_port(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<u16> {
    decoder.number(value, path, u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
}

/// Names of protocols with their numbers (IANA, "Assigned Internet Protocol Numbers").
const PROTOCOLS: [(&str, u8); 12] = [
    ("ICMP", 1),
    ("IGMP", 2),
    ("IPIP", 4),
    ("TCP", 6),
    ("UDP", 17),
    ("IPv6", 41),
    ("GRE", 47),
    ("ESP", 50),
    ("AH", 51),
    ("ICMPv6", 58),
    ("VRRP", 112),
    ("SCTP", 132),
];

/// A protocol by its name, in any case, or by its number.
pub(super) fn read_protocol(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<Protocol> {
    if value.is_number() {
        let number = decoder.number(value, path, u64::from(u8::MAX))?;
        return u8::try_from(number).ok().map(Protocol);
    }
    let text = decoder.text(value, path)?;
    let named = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text)).map(|(_, number)| *number);
    let number = named.or_else(|| text.parse().ok());
    if number.is_none() {
        let names = PROTOCOLS.map(|(name, _)| name).join(", ");
        decoder.faults.add(path, format!("unknown protocol {text:?}: use one of {names}, or a number"));
    }
    number.map(Protocol)
}

/// Addresses of one name; a case about it is judged for each.
const MAX_ADDRESSES: usize = 1000;

pub(super) fn read_answers(
    decoder: &mut Decoder,
    value: &Value,
    path: &Path<'_>,
) -> Option<BTreeMap<l7::Name, Vec<IpAddr>>> {
    let mut answers: BTreeMap<l7::Name, Vec<IpAddr>> = BTreeMap::new();
    for (name, value) in decoder.members(value, path)? {
        let addresses = decoder.list(value, &path.field(name), read_address).unwrap_or_default();
        if addresses.len() > MAX_ADDRESSES {
            decoder.faults.add(&path.field(name), crate::limits::exceeded("addresses of one name", MAX_ADDRESSES));
        }
        answers.entry(l7::Name::new(name)).or_default().extend(addresses);
    }
    Some(answers)
}

//! The ICMP part of an entry: `icmps`, with types by number or by name.

use crate::decode::{Decoder, Name};
use crate::fault::Path;
use model::Protocol;
use serde_json::Value;

/// An element of `icmps`. Without fields it matches nothing.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct IcmpRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<IcmpField>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub enum Family {
    IPv4,
    IPv6,
}

impl Family {
    pub fn protocol(self) -> Protocol {
        match self {
            Family::IPv4 => Protocol::ICMP,
            Family::IPv6 => Protocol::ICMPV6,
        }
    }
}

/// One message type of one family.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct IcmpField {
    /// Absent means IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    #[serde(rename = "type")]
    pub kind: IcmpType,
}

/// A message type, by number or by the name it was written with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IcmpType {
    Number(u8),
    Named(&'static str, u8),
}

impl IcmpField {
    pub fn family(&self) -> Family {
        self.family.unwrap_or(Family::IPv4)
    }

    /// The type as the wire has it.
    pub fn number(&self) -> u8 {
        match self.kind {
            IcmpType::Number(number) | IcmpType::Named(_, number) => number,
        }
    }

    fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<IcmpField> {
        const FIELDS: &[Name] = &["family", "type"];
        let fields = decoder.object(value, path, FIELDS)?;
        let family = fields.read(decoder, path, "family", |decoder, value, path| {
            let text = decoder.text(value, path)?;
            let family = [Family::IPv4, Family::IPv6].into_iter().find(|family| format!("{family:?}") == text);
            if family.is_none() {
                decoder.faults.add(path, format!("wrong family {text:?}: use IPv4 or IPv6"));
            }
            family
        });
        let kind = fields.read(decoder, path, "type", |decoder, value, path| match value {
            Value::String(name) => decode_name(decoder, name, family.unwrap_or(Family::IPv4), path),
            _ => {
                decoder.number(value, path, u64::from(u8::MAX)).and_then(|n| u8::try_from(n).ok()).map(IcmpType::Number)
            }
        });
        if kind.is_none() {
            decoder.faults.add_missing(&path.field("type"), "an ICMP type must be given");
        }
        Some(IcmpField { family, kind: kind? })
    }
}

fn decode_name(decoder: &mut Decoder, name: &str, family: Family, path: &Path<'_>) -> Option<IcmpType> {
    let names = match family {
        Family::IPv4 => NAMES_V4,
        Family::IPv6 => NAMES_V6,
    };
    let found = names.iter().find(|(known, _)| *known == name).map(|(known, number)| IcmpType::Named(known, *number));
    if found.is_none() {
        decoder.faults.add(path, format!("{name:?} is no name of an ICMP type of {family:?}"));
    }
    found
}

impl IcmpRule {
    pub(super) fn decode(decoder: &mut Decoder, value: &Value, path: &Path<'_>) -> Option<IcmpRule> {
        let fields = decoder.object(value, path, &["fields"])?;
        Some(IcmpRule { fields: fields.read_list(decoder, path, "fields", IcmpField::decode) })
    }
}

impl serde::Serialize for IcmpType {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            IcmpType::Number(number) => s.serialize_u8(*number),
            IcmpType::Named(name, _) => s.serialize_str(name),
        }
    }
}

/// IANA, "ICMP Type Numbers".
const NAMES_V4: &[(&str, u8)] = &[
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

/// IANA, "ICMPv6 type Numbers".
const NAMES_V6: &[(&str, u8)] = &[
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn decode(value: Value) -> Result<IcmpField, String> {
        let mut decoder = Decoder::default();
        let field = IcmpField::decode(&mut decoder, &value, &Path::ROOT);
        decoder.faults.into_result().map_err(|errors| errors.to_string()).map(|()| field.unwrap())
    }

    #[test]
    fn types_by_number_and_by_name() {
        for (value, protocol, number) in [
            (json!({"type": 8}), Protocol::ICMP, 8),
            (json!({"type": "EchoRequest"}), Protocol::ICMP, 8),
            (json!({"type": "EchoRequest", "family": "IPv6"}), Protocol::ICMPV6, 128),
            (json!({"family": "IPv6", "type": 0}), Protocol::ICMPV6, 0),
        ] {
            let field = decode(value.clone()).unwrap();
            assert_eq!((field.family().protocol(), field.number()), (protocol, number));
            assert_eq!(serde_json::to_value(field).unwrap(), value);
        }
    }

    #[test]
    fn what_is_no_type_is_refused() {
        for (value, fault) in [
            (json!({"type": "PacketTooBig"}), "type: \"PacketTooBig\" is no name of an ICMP type of IPv4"),
            (json!({"type": "8"}), "type: \"8\" is no name of an ICMP type of IPv4"),
            (json!({"type": 256}), "type: 256 is not a whole number from 0 to 255"),
            (json!({"type": 8, "family": "ipv4"}), "family: wrong family \"ipv4\": use IPv4 or IPv6"),
            (json!({}), "type: an ICMP type must be given"),
        ] {
            assert_eq!(decode(value), Err(fault.to_owned()));
        }
    }
}

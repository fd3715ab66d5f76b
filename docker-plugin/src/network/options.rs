//! The options that a user may give to networks and endpoints. What this driver does not do is refused by name: nothing
//! is taken and then ignored. Names under Docker's own prefix come from the engine, newer ones included, and pass.

use crate::protocol::{DOCKERS_OWN, ENABLE_IPV6, ENDPOINT_IFNAME, ENDPOINT_MAC, GENERIC, INTERNAL, Options};
use crate::refusal::Refusal;
use api::Mac;
use base64::Engine as _;
use serde_json::Value;

const MTU: &str = "mtu";
/// What Docker's own drivers call it.
const DOCKERS_MTU: &str = "com.docker.network.driver.mtu";
const KNOWN: &str = "mtu (or com.docker.network.driver.mtu)";

/// The least that IPv4 hosts must take in one piece (RFC 791), and the least that an IPv6 link must carry (RFC 8200).
const LEAST_MTU: u32 = 576;
const LEAST_MTU_V6: u32 = 1280;
const LARGEST_MTU: u32 = 65535;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NetworkOptions {
    pub(crate) internal: bool,
    pub(crate) mtu: Option<u32>,
}

impl NetworkOptions {
    /// Reads the options of `CreateNetwork`: Docker's own at the top, the user's below one of them.
    pub(crate) fn parse(options: &Options) -> Result<NetworkOptions, Refusal> {
        let none = Options::new();
        let generic = match options.get(GENERIC) {
            None | Some(Value::Null) => none,
            Some(Value::Object(map)) => map.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            Some(other) => return Err(invalid(GENERIC, other, "an object")),
        };
        if let Some(name) = options.keys().find(|name| !name.starts_with(DOCKERS_OWN)) {
            return Err(Refusal::UnknownNetworkOption { name: name.clone(), known: KNOWN });
        }
        flag(ENABLE_IPV6, options)?;
        Ok(NetworkOptions { internal: flag(INTERNAL, options)?, ..NetworkOptions::of_generic(&generic)? })
    }

    /// Reads the user's own options (`-o name=value`).
    pub(crate) fn of_generic(generic: &Options) -> Result<NetworkOptions, Refusal> {
        let mut found = NetworkOptions::default();
        for (name, value) in generic {
            match name.as_str() {
                MTU | DOCKERS_MTU => {
                    let mtu = mtu(value)?;
                    if found.mtu.is_some_and(|other| other != mtu) {
                        return Err(Refusal::Contradiction { first: MTU, second: DOCKERS_MTU });
                    }
                    found.mtu = Some(mtu);
                }
                _ => return Err(Refusal::UnknownNetworkOption { name: name.clone(), known: KNOWN }),
            }
        }
        Ok(found)
    }

    /// IPv6 needs larger packets than IPv4.
    pub(crate) fn check_mtu(&self, ipv6: bool) -> Result<(), Refusal> {
        match self.mtu {
            Some(mtu) if ipv6 && mtu < LEAST_MTU_V6 => {
                Err(invalid(MTU, &mtu.to_string().into(), "large enough for IPv6, which needs 1280"))
            }
            _ => Ok(()),
        }
    }
}

/// The options of `CreateEndpoint`.
pub(super) fn check_endpoint(options: &Options) -> Result<(), Refusal> {
    let refused = |name: &&String| !name.starts_with(DOCKERS_OWN) || *name == ENDPOINT_IFNAME;
    match options.keys().find(refused) {
        Some(name) => Err(Refusal::UnknownEndpointOption { name: name.clone() }),
        None => Ok(()),
    }
}

/// The MAC address that the user wants: as text, and from some engines once more as base64.
pub(super) fn mac(text: &str, options: &Options) -> Result<Option<Mac>, Refusal> {
    let encoded = match options.get(ENDPOINT_MAC) {
        None | Some(Value::Null) => None,
        Some(Value::String(encoded)) => Some(decode(encoded).ok_or_else(|| bad_mac(encoded))?),
        Some(other) => return Err(bad_mac(&other.to_string())),
    };
    let given = match text {
        "" => encoded,
        text => Some(text.parse().map_err(|_| bad_mac(text))?),
    };
    match given {
        // The lowest bit of the first byte makes it a group's address (IEEE 802).
        Some(mac) if mac.0[0] & 1 == 1 || mac.0 == [0; 6] => Err(bad_mac(&mac.to_string())),
        other => Ok(other),
    }
}

/// Base64 of six bytes (an option), or text (what some engines hand to the IPAM).
fn decode(encoded: &str) -> Option<Mac> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(Mac).or_else(|| encoded.parse().ok())
}

fn bad_mac(value: &str) -> Refusal {
    Refusal::Invalid { field: "MacAddress", value: value.to_owned(), expected: "a MAC address of one host" }
}

fn mtu(value: &Value) -> Result<u32, Refusal> {
    let number = match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        _ => None,
    };
    number
        .filter(|mtu| (LEAST_MTU..=LARGEST_MTU).contains(mtu))
        .ok_or_else(|| invalid(MTU, value, "a number of bytes from 576 to 65535"))
}

fn flag(name: &'static str, options: &Options) -> Result<bool, Refusal> {
    match options.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text == "true" || text == "false" => Ok(text == "true"),
        Some(other) => Err(invalid(name, other, "true or false")),
    }
}

fn invalid(field: &'static str, value: &Value, expected: &'static str) -> Refusal {
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Refusal::Invalid { field, value, expected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::PORT_MAP;
    use serde_json::json;

    fn options(value: Value) -> Options {
        serde_json::from_value(value).unwrap()
    }

    fn generic(value: Value) -> Result<NetworkOptions, Refusal> {
        NetworkOptions::parse(&options(json!({ GENERIC: value })))
    }

    #[test]
    fn our_options_are_read() {
        let parsed = NetworkOptions::parse(&options(json!({
            GENERIC: {"mtu": "1400"}, INTERNAL: true, ENABLE_IPV6: false, "com.docker.network.enable_ipv4": true,
        })));
        assert_eq!(parsed.unwrap(), NetworkOptions { internal: true, mtu: Some(1400) });
        assert_eq!(generic(json!(null)).unwrap(), NetworkOptions::default());
        assert_eq!(generic(json!({ DOCKERS_MTU: "9000" })).unwrap().mtu, Some(9000));
    }

    #[test]
    fn an_unknown_option_is_refused_by_name() {
        for name in ["foo", "com.docker.network.bridge.name", "MTU"] {
            let refusal = generic(json!({ name: "x" })).unwrap_err().to_string();
            assert!(refusal.contains(&format!("{name:?}")), "{refusal}");
        }
        let top = NetworkOptions::parse(&options(json!({"k1": "v1"}))).unwrap_err().to_string();
        assert!(top.contains("\"k1\""), "{top}");
    }

    #[test]
    fn an_mtu_out_of_bounds_or_twice_different_is_refused() {
        for mtu in ["575", "65536", "-1", "", "big", "1400.0"] {
            assert!(generic(json!({"mtu": mtu})).is_err(), "{mtu}");
        }
        assert!(generic(json!({"mtu": "1400", DOCKERS_MTU: "1500"})).is_err());
        assert_eq!(generic(json!({"mtu": "1400", DOCKERS_MTU: "1400"})).unwrap().mtu, Some(1400));
        let small = NetworkOptions { mtu: Some(1279), ..NetworkOptions::default() };
        assert!(small.check_mtu(true).is_err() && small.check_mtu(false).is_ok());
    }

    #[test]
    fn endpoint_options_of_users_are_refused_and_dockers_pass() {
        let passes = options(json!({
            PORT_MAP: [{"Proto": 6, "Port": 80}], "com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 80}],
            "com.docker.network.endpoint.dnsservers": ["1.2.3.4"], ENDPOINT_MAC: "AgAAAAAH",
        }));
        assert!(check_endpoint(&passes).is_ok());
        for refused in [json!({"k1": "v1"}), json!({ENDPOINT_IFNAME: "foo0"})] {
            assert!(check_endpoint(&options(refused)).is_err());
        }
    }

    #[test]
    fn a_mac_is_read_from_text_or_base64() {
        let none = Options::new();
        let encoded = options(json!({ ENDPOINT_MAC: "AgAAAAAH" }));
        assert_eq!(mac("", &none).unwrap(), None);
        assert_eq!(mac("", &encoded).unwrap().unwrap().to_string(), "02:00:00:00:00:07");
        assert_eq!(mac("02:aa:bb:cc:dd:ee", &encoded).unwrap().unwrap().to_string(), "02:aa:bb:cc:dd:ee");
        for bad in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:aa", "nonsense"] {
            assert!(mac(bad, &none).is_err(), "{bad}");
        }
        assert!(mac("", &options(json!({ ENDPOINT_MAC: "AgA=" }))).is_err());
        assert!(mac("", &options(json!({ ENDPOINT_MAC: 3 }))).is_err());
    }
}

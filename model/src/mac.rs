//! An Ethernet address.

use std::fmt;
use std::str::FromStr;

/// Six bytes in transmission order. Text form: `02:42:0a:0f:00:0b`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A locally administered unicast address made of `seed`'s first six bytes (IEEE 802: bit 1 of the first byte set,
    /// bit 0 clear).
    pub fn local(seed: [u8; 6]) -> Mac {
        let mut bytes = seed;
        bytes[0] = (bytes[0] & 0xfc) | 0x02;
        Mac(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a MAC address: six two-digit hexadecimal bytes separated by ':' are needed")]
pub struct MacError(String);

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Mac, MacError> {
        let bad = || MacError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Mac(bytes)) }
    }
}

impl serde::Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Mac, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        assert_eq!("02:42:0a:0f:00:0b".parse::<Mac>().unwrap().to_string(), "02:42:0a:0f:00:0b");
    }

    #[test]
    fn malformed_text_is_refused() {
        for text in ["", "02:42:0a:0f:00", "02:42:0a:0f:00:0b:1", "2:42:0a:0f:00:0b", "zz:42:0a:0f:00:0b"] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn local_addresses_are_unicast_and_locally_administered() {
        assert_eq!(Mac::local([0xff; 6]).0[0] & 3, 2);
    }
}

//! Paths and queries of requests: split first, percent-decoded after.

use super::Refusal;
use hyper::StatusCode;

/// Decodes `%XX`. `plus_is_blank`: as forms write it, in queries only.
fn decode(text: &str, plus_is_blank: bool) -> Result<String, Refusal> {
    let bad = || Refusal::new(StatusCode::BAD_REQUEST, format!("{text:?} is not properly percent-encoded"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                bytes.push(digit(high).ok_or_else(bad)? << 4 | digit(low).ok_or_else(bad)?);
                tail
            }
            (b'%', _) => return Err(bad()),
            (b'+', tail) if plus_is_blank => {
                bytes.push(b' ');
                tail
            }
            (byte, tail) => {
                bytes.push(*byte);
                tail
            }
        };
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// The decoded segments of a path.
pub fn segments(path: &str) -> Result<Vec<String>, Refusal> {
    path.trim_start_matches('/').split('/').map(|segment| decode(segment, false)).collect()
}

/// The parameters of a query, in order. A parameter that nobody asked for is refused by `finish`.
#[derive(Debug)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub fn parse(query: Option<&str>) -> Result<Query, Refusal> {
        let pair = |text: &str| -> Result<(String, String), Refusal> {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            Ok((decode(name, true)?, decode(value, true)?))
        };
        let parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
        Ok(Query { pairs: parts.map(pair).collect::<Result<_, _>>()? })
    }

    /// Takes all values of a repeatable parameter.
    pub fn all(&mut self, name: &str) -> Vec<String> {
        let (taken, left) = std::mem::take(&mut self.pairs).into_iter().partition(|(n, _)| n == name);
        self.pairs = left;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// Takes a parameter that may be given once.
    pub fn one(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        let mut values = self.all(name);
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(Refusal::new(StatusCode::BAD_REQUEST, format!("the parameter {name} is given more than once"))),
        }
    }

    /// Takes a parameter that must be given once.
    pub fn required(&mut self, name: &str) -> Result<String, Refusal> {
        self.one(name)?
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, format!("the parameter {name} is missing")))
    }

    /// Takes a yes-or-no parameter; absent is no, present without a value is yes.
    pub fn flag(&mut self, name: &str) -> Result<bool, Refusal> {
        match self.one(name)?.as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("the parameter {name} is true or false, not {other:?}"),
            )),
        }
    }

    /// Refuses what is left over: a mistyped parameter would be ignored silently otherwise.
    pub fn finish(self) -> Result<(), Refusal> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => {
                Err(Refusal::new(StatusCode::BAD_REQUEST, format!("there is no parameter {name:?} on this path")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn segments_are_split_before_they_are_decoded() {
        assert_eq!(segments("/v1/ipam/address/10.0.0.0%2F8/10.0.0.5").unwrap()[3], "10.0.0.0/8");
    }

    #[test]
    fn broken_encoding_is_refused() {
        for path in ["/%", "/%1", "/%zz", "/%ff"] {
            assert!(segments(path).is_err(), "{path}");
        }
    }

    #[test]
    fn parameters_are_taken_and_the_rest_refused() {
        let mut query = Query::parse(Some("label=a%3Db&label=c+d&wait=true&wiat=true")).unwrap();
        assert_eq!(query.all("label"), ["a=b", "c d"]);
        assert!(query.flag("wait").unwrap());
        assert!(query.finish().unwrap_err().body.error.contains("wiat"));
    }

    #[test]
    fn a_parameter_given_twice_is_refused() {
        assert!(Query::parse(Some("wait=true&wait=false")).unwrap().flag("wait").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_decoded_or_refused(text in ".{0,40}") {
            let _ = segments(&text);
            let _ = Query::parse(Some(&text));
        }

        #[test]
        fn encoding_every_byte_round_trips(text in ".{0,20}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(segments(&encoded).unwrap(), [text]);
        }
    }
}

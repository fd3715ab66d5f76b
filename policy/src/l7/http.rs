//! HTTP rules: which requests one lets pass, and what it does to their headers. How rules of several documents come
//! together is `merge`'s.

use super::pattern::{Pattern, PatternError};
use crate::rule::{HeaderMatch, HttpRule, SecretName};
use std::borrow::Cow;

/// The headers of a request, wherever they are kept.
pub trait Headers {
    /// The value under a name, in whatever case; of several the values with commas between.
    fn value(&self, name: &str) -> Option<Cow<'_, str>>;
}

impl<N: AsRef<str>, V: AsRef<str>> Headers for [(N, V)] {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut values = self.iter().filter(|(n, _)| n.as_ref().eq_ignore_ascii_case(name)).map(|(_, v)| v.as_ref());
        let first = values.next()?;
        let Some(second) = values.next() else {
            return Some(Cow::Borrowed(first));
        };
        let joined = [first, second].into_iter().chain(values).collect::<Vec<_>>().join(",");
        Some(Cow::Owned(joined))
    }
}

impl<N: AsRef<str>, V: AsRef<str>> Headers for Vec<(N, V)> {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        self.as_slice().value(name)
    }
}

/// A request as rules look at it.
#[derive(Clone, Copy)]
pub struct HttpRequest<'a> {
    pub method: &'a str,
    /// With the query string.
    pub path: &'a str,
    /// With the port, if the client sent one; empty if it named no host.
    pub host: &'a str,
    pub headers: &'a dyn Headers,
}

/// Where the values of secrets are found; `None` if one cannot be read.
pub type Secrets<'a> = &'a dyn Fn(&SecretName) -> Option<String>;

/// No secret can be read.
pub fn no_secrets(_: &SecretName) -> Option<String> {
    None
}

/// One HTTP rule, ready to be matched.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpMatcher {
    path: Option<Pattern>,
    method: Option<Pattern>,
    host: Option<Pattern>,
    headers: Vec<Wanted>,
    matches: Vec<Check>,
}

/// A header that must be there, with a value or with any.
#[derive(Clone, PartialEq, Debug)]
struct Wanted {
    name: String,
    value: Option<String>,
}

/// An element of `headerMatches`.
#[derive(Clone, PartialEq, Debug)]
struct Check {
    name: String,
    value: Expected,
    /// Absent: a mismatch keeps the rule from matching.
    mismatch: Option<Mismatch>,
}

#[derive(Clone, PartialEq, Debug)]
enum Expected {
    Any,
    Value(String),
    /// A secret that cannot be read, and nothing to take in its stead.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mismatch {
    Log,
    Add,
    Delete,
    Replace,
}

/// What a rule that lets a request pass does because a header is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderAction<'m> {
    Log { name: &'m str },
    Add { name: &'m str, value: &'m str },
    Delete { name: &'m str },
    Replace { name: &'m str, value: &'m str },
}

impl HttpMatcher {
    pub fn compile(rule: &HttpRule, secrets: Secrets<'_>) -> Result<HttpMatcher, PatternError> {
        // A field that is there and empty is as good as absent.
        let pattern =
            |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(Pattern::compile).transpose();
        Ok(HttpMatcher {
            path: pattern(&rule.path)?,
            method: pattern(&rule.method)?,
            host: pattern(&rule.host)?,
            headers: rule.headers.iter().flatten().map(|text| wanted(text)).collect(),
            matches: rule.header_matches.iter().flatten().map(|header| check(header, secrets)).collect(),
        })
    }

    /// Whether the rule lets the request pass.
    pub fn matches(&self, request: &HttpRequest<'_>) -> bool {
        let fits = |pattern: &Option<Pattern>, text: &str| pattern.as_ref().is_none_or(|pattern| pattern.matches(text));
        fits(&self.method, request.method)
            && fits(&self.path, request.path)
            && fits(&self.host, request.host)
            && self.headers.iter().all(|wanted| wanted.is_in(request.headers))
            && self.matches.iter().all(|check| check.mismatch.is_some() || check.holds(request.headers))
    }

    /// Whether later rules are looked at too, although this one matched: they may have something to do to the headers.
    fn goes_on(&self) -> bool {
        !self.matches.is_empty()
    }

    /// Adds what is to be done to the headers of a request that matches.
    fn act<'m>(&'m self, request: &HttpRequest<'_>, actions: &mut Vec<HeaderAction<'m>>) {
        for check in &self.matches {
            let Some(mismatch) = check.mismatch.filter(|_| !check.holds(request.headers)) else { continue };
            let (name, there) = (check.name.as_str(), request.headers.value(&check.name).is_some());
            match (mismatch, &check.value) {
                (Mismatch::Log, _) => actions.push(HeaderAction::Log { name }),
                (Mismatch::Add, Expected::Value(value)) => actions.push(HeaderAction::Add { name, value }),
                (Mismatch::Delete, _) if there => actions.push(HeaderAction::Delete { name }),
                (Mismatch::Replace, Expected::Value(value)) => actions.push(HeaderAction::Replace { name, value }),
                // There is no value to add or to put there.
                _ => {}
            }
        }
    }
}

/// What a list of rules makes of a request.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HttpAnswer<'m> {
    /// The place of the first rule that lets it pass; `None`: refused.
    pub by: Option<usize>,
    pub actions: Vec<HeaderAction<'m>>,
}

/// Looks at rules one after the other. It ends at the first that matches and has no `headerMatches`.
pub fn evaluate<'m>(rules: impl IntoIterator<Item = &'m HttpMatcher>, request: &HttpRequest<'_>) -> HttpAnswer<'m> {
    let mut answer = HttpAnswer::default();
    for (place, rule) in rules.into_iter().enumerate() {
        if rule.matches(request) {
            answer.by = answer.by.or(Some(place));
            rule.act(request, &mut answer.actions);
            if !rule.goes_on() {
                break;
            }
        }
    }
    answer
}

/// Reads `Name: value`, or `Name` alone. The name ends at the first space.
fn wanted(text: &str) -> Wanted {
    let (name, value) = text.split_once(' ').map_or((text, None), |(name, value)| (name, Some(value)));
    Wanted { name: name.trim_end_matches(':').to_owned(), value: value.map(str::to_owned) }
}

impl Wanted {
    fn is_in(&self, headers: &dyn Headers) -> bool {
        headers.value(&self.name).is_some_and(|found| self.value.as_ref().is_none_or(|value| *value == found))
    }
}

fn check(header: &HeaderMatch, secrets: Secrets<'_>) -> Check {
    let written = header.value.clone().filter(|value| !value.is_empty());
    let value = match &header.secret {
        Some(secret) => secrets(secret).or(written).map_or(Expected::Unknown, Expected::Value),
        None => written.map_or(Expected::Any, Expected::Value),
    };
    let mismatch = match header.mismatch.as_deref() {
        Some("LOG") => Some(Mismatch::Log),
        Some("ADD") => Some(Mismatch::Add),
        Some("DELETE") => Some(Mismatch::Delete),
        Some("REPLACE") => Some(Mismatch::Replace),
        _ => None,
    };
    Check { name: header.name.clone().unwrap_or_default(), value, mismatch }
}

impl Check {
    fn holds(&self, headers: &dyn Headers) -> bool {
        match &self.value {
            Expected::Any => headers.value(&self.name).is_some(),
            Expected::Value(value) => headers.value(&self.name).is_some_and(|found| *value == found),
            Expected::Unknown => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(
        method: &'a str,
        path: &'a str,
        host: &'a str,
        headers: &'a Vec<(&'a str, &'a str)>,
    ) -> HttpRequest<'a> {
        HttpRequest { method, path, host, headers }
    }

    fn matcher(rule: HttpRule) -> HttpMatcher {
        HttpMatcher::compile(&rule, &no_secrets).unwrap()
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn all_fields_of_a_rule_must_match() {
        let none = Vec::new();
        let rule = matcher(HttpRule {
            method: text("GET"),
            path: text("/public.*"),
            host: text("web(:80)?"),
            ..HttpRule::default()
        });
        assert!(rule.matches(&request("GET", "/public?a=1", "web:80", &none)));
        for (method, path, host) in [
            ("get", "/public", "web"),
            ("GET", "/private", "web"),
            ("GET", "/public", "web:81"),
            ("GET", "/public", ""),
        ] {
            assert!(!rule.matches(&request(method, path, host, &none)), "{method} {path} {host}");
        }
        assert!(matcher(HttpRule::default()).matches(&request("ANYTHING", "*", "", &none)));
        assert!(matcher(HttpRule { path: text(""), ..HttpRule::default() }).matches(&request("GET", "/x", "", &none)));
    }

    #[test]
    fn headers_are_a_name_or_a_name_and_its_value() {
        let rule = |header: &str| matcher(HttpRule { headers: Some(vec![header.to_owned()]), ..HttpRule::default() });
        let matches = |header: &str, sent: &[(&'static str, &'static str)]| {
            rule(header).matches(&request("GET", "/", "", &sent.to_vec()))
        };
        assert!(matches("X-Id: 42", &[("x-id", "42")]));
        assert!(!matches("X-Id: 42", &[("X-Id", "43")]) && !matches("X-Id: 42", &[]));
        assert!(matches("X-Id", &[("X-ID", "")]) && !matches("X-Id", &[("X-Other", "42")]));
        assert!(matches("X-Id:", &[("X-Id", "anything")]), "colons at the end of a name are dropped");
        assert!(matches("X-Id: a b", &[("X-Id", "a b")]), "the name ends at the first space");
        assert!(!matches("X-Id:42", &[("X-Id", "42")]), "without a space all of it is a name");
        assert!(
            matches("X-Id: 1,2", &[("X-Id", "1"), ("x-id", "2")])
                && !matches("X-Id: 1", &[("X-Id", "1"), ("x-id", "2")])
        );
    }

    fn header(name: &str, value: Option<&str>, mismatch: Option<&str>) -> HeaderMatch {
        HeaderMatch {
            name: text(name),
            value: value.map(str::to_owned),
            mismatch: mismatch.map(str::to_owned),
            secret: None,
        }
    }

    #[test]
    fn a_header_match_without_an_action_is_a_condition() {
        let rule = |check: HeaderMatch| matcher(HttpRule { header_matches: Some(vec![check]), ..HttpRule::default() });
        let (right, wrong, none) = (vec![("X-Id", "42")], vec![("x-id", "43")], Vec::new());
        let valued = rule(header("X-Id", Some("42"), None));
        assert!(valued.matches(&request("GET", "/", "", &right)));
        assert!(!valued.matches(&request("GET", "/", "", &wrong)) && !valued.matches(&request("GET", "/", "", &none)));
        let present = rule(header("X-Id", None, None));
        assert!(present.matches(&request("GET", "/", "", &wrong)) && !present.matches(&request("GET", "/", "", &none)));
    }

    #[test]
    fn a_secret_is_what_it_holds_or_else_the_value_or_else_nothing() {
        let secret = Some(SecretName { namespace: None, name: text("token") });
        let known = |_: &SecretName| Some("s3".to_owned());
        let rule = |value: Option<&str>, secrets: Secrets<'_>| {
            let check = HeaderMatch { secret: secret.clone(), ..header("X-Token", value, None) };
            HttpMatcher::compile(&HttpRule { header_matches: Some(vec![check]), ..HttpRule::default() }, secrets)
                .unwrap()
        };
        let (secret, plain) = (vec![("X-Token", "s3")], vec![("X-Token", "v")]);
        assert!(rule(Some("v"), &known).matches(&request("GET", "/", "", &secret)));
        assert!(!rule(Some("v"), &known).matches(&request("GET", "/", "", &plain)));
        assert!(rule(Some("v"), &no_secrets).matches(&request("GET", "/", "", &plain)));
        assert!(!rule(None, &no_secrets).matches(&request("GET", "/", "", &plain)));
    }

    #[test]
    fn with_an_action_the_rule_matches_anyway_and_all_rules_run() {
        let act = |name, value, mismatch| {
            matcher(HttpRule { header_matches: Some(vec![header(name, value, Some(mismatch))]), ..HttpRule::default() })
        };
        let rules = [
            act("X-A", Some("1"), "ADD"),
            act("X-B", Some("1"), "REPLACE"),
            act("X-C", Some("1"), "DELETE"),
            act("X-D", Some("1"), "DELETE"),
            act("X-E", Some("1"), "LOG"),
            act("X-F", Some("1"), "LOG"),
            matcher(HttpRule::default()),
            act("X-G", None, "LOG"),
        ];
        let sent = vec![("x-b", "2"), ("x-c", "2"), ("x-f", "1")];
        let answer = evaluate(&rules, &request("GET", "/", "", &sent));
        assert_eq!(answer.by, Some(0));
        assert_eq!(
            answer.actions,
            [
                HeaderAction::Add { name: "X-A", value: "1" },
                HeaderAction::Replace { name: "X-B", value: "1" },
                HeaderAction::Delete { name: "X-C" },
                HeaderAction::Log { name: "X-E" },
            ]
        );
        let refused = [matcher(HttpRule { path: text("/x"), ..HttpRule::default() })];
        assert_eq!(evaluate(&refused, &request("GET", "/", "", &sent)), HttpAnswer::default());
    }
}

//! DNS names and patterns over them: in `toFQDNs`, in `dns` rules, and, a little narrower, in `serverNames`.

use crate::rule::DnsRule;
use std::fmt;

/// A DNS name as it is compared: in small letters, without the dot at its end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Name(String);

impl Name {
    pub fn new(text: &str) -> Name {
        Name(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase())
    }

    fn labels(&self) -> impl DoubleEndedIterator<Item = &str> + Clone {
        self.0.split('.')
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which names are meant. A star stands for any letters, digits, `-` and `_`, or none, within one label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamePattern(Shape);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Shape {
    /// Stars alone: every name, that of the root too.
    Everything,
    /// One pattern a label.
    Labels(Vec<String>),
    /// The same, with one or more whole labels in front.
    Below(Vec<String>),
}

impl NamePattern {
    /// A `matchName`.
    pub fn exactly(name: &str) -> NamePattern {
        NamePattern(Shape::Labels(Name::new(name).labels().map(str::to_owned).collect()))
    }

    /// A `matchPattern`.
    pub fn parse(pattern: &str) -> NamePattern {
        let pattern = Name::new(pattern);
        if !pattern.0.is_empty() && pattern.0.bytes().all(|byte| byte == b'*') {
            return NamePattern(Shape::Everything);
        }
        NamePattern::of_labels(&pattern)
    }

    /// An element of `serverNames`: a name of stars alone is one label.
    pub fn server(pattern: &str) -> NamePattern {
        NamePattern::of_labels(&Name::new(pattern))
    }

    fn of_labels(pattern: &Name) -> NamePattern {
        let labels: Vec<String> = pattern.labels().map(str::to_owned).collect();
        match labels.split_first() {
            Some((first, rest)) if !rest.is_empty() && first.len() > 1 && first.bytes().all(|byte| byte == b'*') => {
                NamePattern(Shape::Below(rest.to_vec()))
            }
            _ => NamePattern(Shape::Labels(labels)),
        }
    }

    pub fn matches(&self, name: &Name) -> bool {
        match &self.0 {
            Shape::Everything => true,
            Shape::Labels(labels) => {
                let mut found = name.labels();
                labels.iter().all(|label| found.next().is_some_and(|found| label_matches(label, found)))
                    && found.next().is_none()
            }
            Shape::Below(labels) => {
                let mut found = name.labels();
                let below =
                    labels.iter().rev().all(|label| found.next_back().is_some_and(|found| label_matches(label, found)));
                let mut front = found.peekable();
                below && front.peek().is_some() && front.all(|label| !label.is_empty() && label.bytes().all(is_of_star))
            }
        }
    }
}

fn is_of_star(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Matches a label with a pattern that may have stars: literal parts are found from the left, as early as possible.
fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == label;
    };
    let Some(mut left) = label.strip_prefix(head) else {
        return false;
    };
    let (middle, tail) = rest.rsplit_once('*').map_or(("", rest), |(middle, tail)| (middle, tail));
    for part in middle.split('*').filter(|part| !part.is_empty()) {
        let Some((skipped, after)) = left.split_once(part) else {
            return false;
        };
        if !skipped.bytes().all(is_of_star) {
            return false;
        }
        left = after;
    }
    left.strip_suffix(tail).is_some_and(|skipped| skipped.bytes().all(is_of_star))
}

/// An element of `toFQDNs` or of `dns` rules: names that either of its fields matches; none, if it has neither.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsMatcher(Vec<NamePattern>);

impl DnsMatcher {
    pub fn new(rule: &DnsRule) -> DnsMatcher {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let name = filled(&rule.match_name).map(|name| NamePattern::exactly(&name));
        let pattern = filled(&rule.match_pattern).map(|pattern| NamePattern::parse(&pattern));
        DnsMatcher(name.into_iter().chain(pattern).collect())
    }

    pub fn matches(&self, name: &Name) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(pattern: &str, name: &str) -> bool {
        NamePattern::parse(pattern).matches(&Name::new(name))
    }

    #[test]
    fn a_star_stays_within_its_label() {
        for (text, yes, no) in [
            (
                "*.cilium.io",
                &["www.cilium.io", "WWW.Cilium.IO.", "a_b-1.cilium.io"][..],
                &["cilium.io", "a.b.cilium.io", "www.cilium.com"][..],
            ),
            ("*cilium.io", &["cilium.io", "subcilium.io"], &["www.cilium.io", "sub.cilium.io"]),
            ("sub*.cilium.io", &["sub.cilium.io", "subdomain.cilium.io"], &["su.cilium.io", "sub.x.cilium.io"]),
            ("a*b*c.test", &["abc.test", "axbxc.test", "abbcc.test"], &["acb.test", "abc.x.test", "ab.c.test"]),
            ("a**c.test", &["ac.test", "abc.test"], &["a.c.test"]),
            ("api.*.test", &["api.x.test"], &["api.test", "api.x.y.test"]),
            ("A.Test.", &["a.test"], &["b.test"]),
            ("a*a.test", &["aa.test", "aba.test"], &["a.test"]),
        ] {
            for name in yes {
                assert!(pattern(text, name), "{text} {name}");
            }
            for name in no {
                assert!(!pattern(text, name), "{text} {name}");
            }
        }
    }

    #[test]
    fn stars_alone_are_every_name() {
        for text in ["*", "**", "*.", "***."] {
            for name in ["", ".", "test", "a.b.c.test"] {
                assert!(pattern(text, name), "{text} {name}");
            }
        }
    }

    #[test]
    fn two_stars_in_front_are_one_or_more_labels() {
        for text in ["**.cilium.io", "***.cilium.io"] {
            assert!(pattern(text, "www.cilium.io") && pattern(text, "a.b.cilium.io"));
            assert!(!pattern(text, "cilium.io") && !pattern(text, "xcilium.io") && !pattern(text, ".cilium.io"));
        }
        assert!(!pattern("a.**.test", "a.b.c.test") && pattern("a.**.test", "a.b.test"), "elsewhere they are one star");
        assert!(pattern("**.*.test", "a.b.test") && !pattern("**.*.test", "a.test"));
    }

    #[test]
    fn server_names_have_no_pattern_for_everything() {
        let server = |text: &str, name: &str| NamePattern::server(text).matches(&Name::new(name));
        assert!(server("www.x.test", "WWW.x.test") && !server("www.x.test", "x.test"));
        assert!(server("*.x.test", "a.x.test") && !server("*.x.test", "a.b.x.test") && !server("*.x.test", "x.test"));
        assert!(server("**.x.test", "a.b.x.test") && server("**.x.test", "a.x.test") && !server("**.x.test", "x.test"));
        assert!(!server("*", "a.test") && server("*", "a"));
    }

    #[test]
    fn either_field_of_an_element_will_do() {
        let rule = |name: Option<&str>, pattern: Option<&str>| {
            DnsMatcher::new(&DnsRule { match_name: name.map(str::to_owned), match_pattern: pattern.map(str::to_owned) })
        };
        let both = rule(Some("a.test"), Some("*.b.test"));
        assert!(
            both.matches(&Name::new("A.TEST."))
                && both.matches(&Name::new("x.b.test"))
                && !both.matches(&Name::new("b.test"))
        );
        assert!(!rule(None, None).matches(&Name::new("a.test")) && !rule(Some(""), None).matches(&Name::new("")));
    }

    proptest! {
        #[test]
        fn a_label_matches_as_an_expression_would(pattern in "[ab*-]{0,7}", label in "[ab-]{0,7}") {
            let expression = pattern.replace('*', "[-a-z0-9_]*");
            let expected = super::super::pattern::Pattern::compile(&expression).unwrap().matches(&label);
            prop_assert_eq!(label_matches(&pattern, &label), expected);
        }

        #[test]
        fn matching_never_panics(text in "\\PC{0,20}", name in "\\PC{0,20}") {
            pattern(&text, &name);
            NamePattern::server(&text).matches(&Name::new(&name));
        }
    }
}

//! Names in `toFQDNs`: which of them a rule set selects, and the labels that an address learnt for a name has. Which
//! addresses a name has is known elsewhere; a name here is never resolved.

use crate::cidr;
use crate::l7::{DnsMatcher, Name};
use crate::repository::Repository;
use crate::rule::{DnsRule, Rule};
use ipnetwork::IpNetwork;
use model::{Label, Labels};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The source of labels that stand for an element of `toFQDNs`.
pub const SOURCE: &str = "fqdn";

/// The text by which an element is known; `None` if it names nothing.
pub fn text(rule: &DnsRule) -> Option<&str> {
    let filled = |text: &'_ Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    match (filled(&rule.match_name), filled(&rule.match_pattern)) {
        (true, _) => rule.match_name.as_deref(),
        (false, true) => rule.match_pattern.as_deref(),
        (false, false) => None,
    }
}

/// All elements of `toFQDNs` and all prefixes that a set of rules mentions: what decides on the labels of an address.
#[derive(Clone, Debug)]
pub struct Outside {
    names: BTreeMap<String, DnsMatcher>,
    prefixes: BTreeSet<IpNetwork>,
}

impl Outside {
    pub fn new(repository: &Repository) -> Outside {
        let entries = repository.rules().iter().flat_map(|rule| Rule::all_entries(rule));
        let elements = entries.flat_map(|entry| entry.fqdns.iter().flatten());
        let names = elements.filter_map(|rule| Some((text(rule)?.to_owned(), DnsMatcher::new(rule)))).collect();
        Outside { names, prefixes: repository.mentioned_prefixes() }
    }

    /// The labels of an address that is nobody's of ours: its longest mentioned prefix, else the world of its family, and
    /// one for each element that selects one of the names it was learnt for.
    pub fn labels<'n>(&self, address: IpAddr, names: impl IntoIterator<Item = &'n Name>) -> Labels {
        let holding = self.prefixes.iter().filter(|prefix| prefix.contains(address));
        let mut labels = match holding.max_by_key(|prefix| prefix.prefix()) {
            Some(prefix) => cidr::cidr_labels(*prefix),
            None if address.is_ipv4() => Labels::reserved("world-ipv4"),
            None => Labels::reserved("world-ipv6"),
        };
        for name in names {
            let selecting = self.names.iter().filter(|(_, matcher)| matcher.matches(name));
            labels.0.extend(selecting.map(|(text, _)| Label::new(SOURCE, text.as_str(), "")));
        }
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_rules;
    use serde_json::json;

    #[test]
    fn an_address_has_its_prefix_and_the_elements_of_its_names() {
        let rules = json!([{"endpointSelector": {}, "egress": [
            {"toFQDNs": [{"matchName": "api.example.test"}, {"matchPattern": "*.Example.test"}, {"matchPattern": "*.other.test"}]},
            {"toCIDR": ["192.0.2.0/24", "192.0.2.0/28"]}]}]);
        let mut repository = Repository::new();
        repository.add(parse_rules(&rules.to_string()).unwrap());
        let outside = Outside::new(&repository);
        let labels = |address: &str, names: &[&str]| {
            let names: Vec<Name> = names.iter().map(|name| Name::new(name)).collect();
            outside.labels(address.parse().unwrap(), &names).to_string()
        };
        assert_eq!(labels("192.0.2.7", &[]), "cidr:192.0.2.0/28,reserved:world");
        assert_eq!(labels("192.0.2.77", &[]), "cidr:192.0.2.0/24,reserved:world");
        assert_eq!(labels("198.51.100.1", &["unknown.test"]), "reserved:world-ipv4");
        assert_eq!(
            labels("2001:db8::1", &["API.example.test."]),
            "fqdn:*.Example.test,fqdn:api.example.test,reserved:world-ipv6"
        );
        assert_eq!(labels("192.0.2.77", &["a.other.test"]), "cidr:192.0.2.0/24,fqdn:*.other.test,reserved:world");
    }
}

//! For random rules, identities, modes and packets: what the policy map answers is what the rules say when they are
//! looked up one by one.

use crate::arbitrary::{PORTS, container_labels, options, rule};
use model::{Direction, Identity, Labels, PolicyMap, Protocol};
use policy::trace::{Ask, Decision, decide};
use policy::{Options, Peer, Repository, Resolver, cidr_labels, parse_rules};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const PROTOCOLS: [Protocol; 6] =
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6, Protocol(47)];

/// Everybody a packet can come from: the reserved, some containers, and each prefix that is mentioned.
fn world(repository: &Repository, containers: &[Labels]) -> BTreeMap<Identity, Labels> {
    let reserved = Identity::RESERVED.iter().filter(|(identity, _)| *identity != Identity::UNKNOWN);
    let reserved = reserved.map(|(identity, name)| (*identity, Labels::reserved(name)));
    let containers = (Identity::MIN_ALLOCATED..).map(Identity).zip(containers.iter().cloned());
    let prefixes = repository.mentioned_prefixes();
    let prefixes = (Identity::FIRST_LOCAL..).map(Identity).zip(prefixes.iter().map(|prefix| cidr_labels(*prefix)));
    reserved.chain(containers).chain(prefixes).collect()
}

pub fn import(rules: &[Value]) -> Result<Repository, TestCaseError> {
    let text = Value::Array(rules.to_vec()).to_string();
    let parsed = parse_rules(&text).map_err(|errors| TestCaseError::fail(format!("{errors}\n{text}")))?;
    let mut repository = Repository::new();
    repository.add(parsed);
    Ok(repository)
}

/// No key may be there that a broader one with at least its precedence covers: it could change nothing, or would hide a
/// deny.
fn assert_tight(map: &PolicyMap) -> Result<(), TestCaseError> {
    for (key, entry) in map.iter() {
        for (broad, over) in map.iter() {
            prop_assert!(
                broad == key || !broad.covers(&key) || over.precedence < entry.precedence,
                "{key:?} {entry:?} is covered by {broad:?} {over:?}"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 768, ..ProptestConfig::default() })]

    #[test]
    fn the_map_answers_what_the_rules_say(
        rules in vec(rule(), 0..6),
        containers in vec(container_labels(), 3..6),
        options in options(),
        packets in vec((select(&PROTOCOLS[..]), prop_oneof![4 => select(&PORTS[..]), 1 => any::<u16>()]), 6),
    ) {
        let repository = import(&rules)?;
        let identities = world(&repository, &containers);
        let mut resolver = Resolver::new(&repository, &identities, options);
        let subjects = [containers[0].clone(), containers[1].clone(), Labels::reserved("init"), Labels::reserved("health"), Labels::reserved("host")];
        for subject in &subjects {
            let map = resolver.resolve(subject);
            assert_tight(&map)?;
            for (identity, labels) in &identities {
                let peer = Peer::new(*identity, labels);
                for (protocol, port) in &packets {
                    for direction in Direction::BOTH {
                        let found = map.lookup(direction, *identity, *protocol, *port).is_some_and(|entry| !entry.deny);
                        let said = decide(&repository, options, direction, subject, &peer, Ask::Port(*protocol, *port));
                        prop_assert_eq!(
                            found, said == Decision::Allowed,
                            "{} {:?} of {:?}, peer {} {:?}, {}/{}\n{}", direction, options, subject, identity, labels, port, protocol,
                            json!(rules)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn order_and_repetition_do_not_matter(
        rules in vec(rule(), 1..5),
        containers in vec(container_labels(), 2..4),
        rotation in any::<Index>(),
    ) {
        let mut turned = rules.clone();
        turned.rotate_left(rotation.index(rules.len()));
        turned.reverse();
        let doubled = [rules.clone(), rules.clone()].concat();
        let maps = [&rules, &turned, &doubled].map(|rules| -> Result<_, TestCaseError> {
            let repository = import(rules)?;
            let identities = world(&repository, &containers);
            let map = Resolver::new(&repository, &identities, Options::default()).resolve(&containers[0]);
            Ok(map)
        });
        let [map, turned, doubled] = maps;
        let map = map?;
        prop_assert_eq!(&map, &turned?);
        prop_assert_eq!(&map, &doubled?);
    }

    #[test]
    fn rules_are_given_back_as_they_were_imported(rules in vec(rule(), 0..4)) {
        let repository = import(&rules)?;
        let mut expected = Value::Array(rules);
        for rule in expected.as_array_mut().into_iter().flatten() {
            // A member that is null is as good as absent.
            if let Some(said) = rule.get_mut("enableDefaultDeny").and_then(Value::as_object_mut) {
                said.retain(|_, value| !value.is_null());
            }
        }
        prop_assert_eq!(serde_json::to_value(repository.rules()).unwrap(), expected);
    }
}

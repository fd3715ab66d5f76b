//! What another set of rules would change: between whom, and at which ports, verdicts would turn over. Asked before an
//! import, of the endpoints and addresses that there are.
//!
//! Ports are looked at in the stretches between the bounds that either set names: within one no rule tells two ports
//! apart. Who the parties are is told by the caller.

use crate::cidr;
use crate::engine::Engine;
use crate::engine::traffic_of;
use crate::repository::Repository;
use crate::resolve::{Options, is_host};
use crate::trace::Decision;
use ipnetwork::IpNetwork;
use model::{Direction, Identity, Label, Labels, PolicyMap, Protocol};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// One end of the connections that are asked about.
#[derive(Clone, Debug)]
pub struct Party {
    /// For people.
    pub name: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// For whom policy is enforced here.
    Endpoint(Arc<Labels>),
    /// The host, or an identity that has no endpoint here.
    Other(Arc<Labels>),
    /// An address or a prefix outside: what it is depends on the prefixes that rules mention.
    Outside(IpNetwork),
}

impl Party {
    /// An endpoint of this node, by the labels of its identity (`source:key=value`).
    pub fn endpoint(name: impl Into<String>, labels: &[String]) -> Result<Party, model::labels::LabelError> {
        Ok(Party { name: name.into(), kind: Kind::Endpoint(labels_of(labels)?) })
    }

    /// Somebody else whose labels are known: the host, an endpoint of another node.
    pub fn other(name: impl Into<String>, labels: &[String]) -> Result<Party, model::labels::LabelError> {
        Ok(Party { name: name.into(), kind: Kind::Other(labels_of(labels)?) })
    }

    /// One address outside.
    pub fn address(name: impl Into<String>, address: IpAddr) -> Party {
        Party::outside(name, IpNetwork::from(address))
    }

    /// Addresses outside.
    pub fn outside(name: impl Into<String>, prefix: IpNetwork) -> Party {
        Party { name: name.into(), kind: Kind::Outside(cidr::masked(prefix)) }
    }

    fn is_enforced(&self) -> bool {
        matches!(&self.kind, Kind::Endpoint(labels) if !is_host(labels))
    }

    fn labels(&self) -> Option<&Arc<Labels>> {
        match &self.kind {
            Kind::Endpoint(labels) | Kind::Other(labels) => Some(labels),
            Kind::Outside(_) => None,
        }
    }
}

/// Everybody outside whom either set of rules tells from others: the prefixes that they mention, and the rest.
pub fn outside(before: &Repository, after: &Repository) -> Vec<Party> {
    let [v4, v6] = cidr::EVERYTHING;
    let mentioned = before.mentioned_prefixes().into_iter().chain(after.mentioned_prefixes());
    let mentioned: BTreeSet<IpNetwork> = mentioned.collect();
    let world = [Party::outside("world (IPv4)", v4), Party::outside("world (IPv6)", v6)];
    let prefixes = mentioned.into_iter().map(|prefix| Party::outside(prefix.to_string(), prefix));
    world.into_iter().chain(prefixes).collect()
}

/// A protocol by its name or number.
pub fn protocol(name: &str) -> Option<Protocol> {
    const NAMED: [Protocol; 5] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6];
    let named = NAMED.into_iter().find(|protocol| protocol.to_string().eq_ignore_ascii_case(name));
    named.or_else(|| name.parse().ok().map(Protocol))
}

/// What policy is asked about a flow to this port: of an echo the type that asks.
pub fn opening_port(protocol: Protocol, port: u16) -> u16 {
    match protocol {
        Protocol::ICMP => 8,
        Protocol::ICMPV6 => 128,
        _ => port,
    }
}

fn labels_of(labels: &[String]) -> Result<Arc<Labels>, model::labels::LabelError> {
    let labels: Result<Labels, _> =
        labels.iter().map(|label| label.parse::<Label>()).collect::<Result<_, _>>().map(Labels);
    labels.map(Arc::new)
}

/// A verdict that would turn over.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Change {
    /// Who opens the connection, and to whom.
    pub from: String,
    pub to: String,
    /// Destination ports, such as `80/TCP`, `8000-8080/TCP`, `any/UDP`, `8/ICMP`; `all`: every protocol that can be
    /// allowed.
    pub ports: String,
    pub before: Decision,
    pub after: Decision,
}

/// Two sets of rules with who there is.
#[derive(Debug)]
pub struct Diff {
    before: Situation,
    after: Situation,
    /// First ports of the stretches that no rule divides, by protocol; the first is 0.
    stretches: BTreeMap<Protocol, Vec<u16>>,
}

/// What one set of rules makes of the parties.
#[derive(Debug)]
struct Situation {
    engine: Engine,
    numbers: BTreeMap<Arc<Labels>, Identity>,
    prefixes: BTreeMap<IpNetwork, Identity>,
}

impl Diff {
    /// `parties` are all that will be asked about.
    pub fn new(before: &Repository, after: &Repository, options: Options, parties: &[Party]) -> Diff {
        let stretches = stretches([before, after]);
        let [before, after] = [before, after].map(|rules| Situation::new(rules, options, parties));
        Diff { before, after, stretches }
    }

    /// Every change between two of `parties`. Nobody is asked about a connection to themselves: it never leaves.
    pub fn changes(&self, parties: &[Party]) -> Vec<Change> {
        let mut changes = Vec::new();
        for (n, from) in parties.iter().enumerate() {
            for (m, to) in parties.iter().enumerate() {
                let enforced = from.is_enforced() || to.is_enforced();
                if n != m && enforced && self.may_differ(from, to) {
                    changes.extend(self.changes_between(from, to));
                }
            }
        }
        changes
    }

    /// What becomes of one connection, before and after.
    pub fn decide(&self, from: &Party, to: &Party, protocol: Protocol, port: u16) -> (Decision, Decision) {
        (self.before.decide(from, to, protocol, port), self.after.decide(from, to, protocol, port))
    }

    /// Whether the two policies that are asked say anything else than before.
    fn may_differ(&self, from: &Party, to: &Party) -> bool {
        let said = |situation: &Situation, subject: &Party, peer: &Party| {
            let map = situation.policy(subject)?.clone();
            let columns = [Identity::UNKNOWN, situation.identity(peer)].map(|peer| map.columns().get(&peer).cloned());
            Some(columns)
        };
        said(&self.before, from, to) != said(&self.after, from, to)
            || said(&self.before, to, from) != said(&self.after, to, from)
    }

    fn changes_between(&self, from: &Party, to: &Party) -> Vec<Change> {
        let mut found: Vec<(Protocol, u16, u16, Decision, Decision)> = Vec::new();
        let mut whole: Vec<(Decision, Decision)> = Vec::new();
        for (protocol, firsts) in &self.stretches {
            for (place, first) in firsts.iter().enumerate() {
                let last = firsts.get(place + 1).map_or(last_port(*protocol), |next| next - 1);
                let (before, after) = self.decide(from, to, *protocol, *first);
                if !whole.contains(&(before, after)) {
                    whole.push((before, after));
                }
                match found.last_mut() {
                    Some((p, _, end, b, a)) if (*p, *b, *a) == (*protocol, before, after) => *end = last,
                    _ => found.push((*protocol, *first, last, before, after)),
                }
            }
        }
        let change = |ports: String, before, after| Change {
            from: from.name.clone(),
            to: to.name.clone(),
            ports,
            before,
            after,
        };
        if let [(before, after)] = whole.as_slice() {
            return if before == after { Vec::new() } else { vec![change("all".to_owned(), *before, *after)] };
        }
        let turned = found.into_iter().filter(|(.., before, after)| before != after);
        turned
            .map(|(protocol, first, last, before, after)| change(text(protocol, first, last), before, after))
            .collect()
    }
}

impl Situation {
    fn new(rules: &Repository, options: Options, parties: &[Party]) -> Situation {
        let mut engine = Engine::new(options);
        let prefixes: BTreeMap<IpNetwork, Identity> =
            rules.mentioned_prefixes().into_iter().zip((Identity::FIRST_LOCAL..).map(Identity)).collect();
        for (prefix, identity) in &prefixes {
            engine.put_identity(*identity, &Arc::new(cidr::cidr_labels(*prefix)));
        }
        let mut numbers = BTreeMap::new();
        let mut next = Identity::MIN_ALLOCATED;
        for labels in parties.iter().filter_map(Party::labels) {
            numbers.entry(labels.clone()).or_insert_with(|| {
                let reserved = labels.iter().find_map(reserved);
                reserved.unwrap_or_else(|| {
                    next += 1;
                    Identity(next - 1)
                })
            });
        }
        numbers.iter().for_each(|(labels, identity)| engine.put_identity(*identity, labels));
        engine.set_rules(rules.rules());
        for labels in parties.iter().filter(|party| party.is_enforced()).filter_map(Party::labels) {
            if let Some(identity) = numbers.get(labels) {
                engine.put_subject(*identity, labels);
            }
        }
        Situation { engine, numbers, prefixes }
    }

    fn policy(&self, party: &Party) -> Option<&Arc<PolicyMap>> {
        let labels = party.labels().filter(|_| party.is_enforced())?;
        self.engine.policy(*self.numbers.get(labels)?)
    }

    fn identity(&self, party: &Party) -> Identity {
        match &party.kind {
            Kind::Endpoint(labels) | Kind::Other(labels) => self.numbers.get(labels).copied().unwrap_or_default(),
            Kind::Outside(prefix) => {
                let world = if prefix.is_ipv4() { Identity::WORLD_IPV4 } else { Identity::WORLD_IPV6 };
                let holding = self.prefixes.iter().filter(|(outer, _)| cidr::contains(**outer, *prefix));
                holding.max_by_key(|(outer, _)| outer.prefix()).map_or(world, |(_, identity)| *identity)
            }
        }
    }

    fn decide(&self, from: &Party, to: &Party, protocol: Protocol, port: u16) -> Decision {
        let allows = |subject: &Party, direction, peer: &Party| {
            self.policy(subject).is_none_or(|map| {
                map.lookup(direction, self.identity(peer), protocol, port).is_some_and(|entry| !entry.deny)
            })
        };
        if allows(from, Direction::Egress, to) && allows(to, Direction::Ingress, from) {
            Decision::Allowed
        } else {
            Decision::Denied
        }
    }
}

fn reserved(label: &Label) -> Option<Identity> {
    let reserved = label.source == model::labels::SOURCE_RESERVED;
    Identity::from_reserved_name(&label.key).filter(|_| reserved)
}

fn stretches(sets: [&Repository; 2]) -> BTreeMap<Protocol, Vec<u16>> {
    const PROTOCOLS: [Protocol; 5] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6];
    let mut firsts: BTreeMap<Protocol, BTreeSet<u16>> =
        PROTOCOLS.map(|protocol| (protocol, BTreeSet::from([0]))).into();
    let rules = sets.iter().flat_map(|set| set.rules());
    for (protocol, first, last) in
        rules.flat_map(|rule| rule.all_entries()).flat_map(traffic_of).filter_map(|t| t.ports())
    {
        let bounds = firsts.entry(protocol).or_default();
        bounds.insert(first);
        bounds.extend(last.checked_add(1).filter(|next| *next <= last_port(protocol)));
    }
    firsts.into_iter().map(|(protocol, firsts)| (protocol, firsts.into_iter().collect())).collect()
}

/// The last port, or the last type of the ICMPs.
fn last_port(protocol: Protocol) -> u16 {
    if [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol) { u16::from(u8::MAX) } else { u16::MAX }
}

fn text(protocol: Protocol, first: u16, last: u16) -> String {
    if (first, last) == (0, last_port(protocol)) {
        format!("any/{protocol}")
    } else if first == last {
        format!("{first}/{protocol}")
    } else {
        format!("{first}-{last}/{protocol}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse_rules;
    use serde_json::{Value, json};

    fn rules(rules: Value) -> Repository {
        let mut repository = Repository::new();
        repository.add(parse_rules(&rules.to_string()).unwrap());
        repository
    }

    fn endpoint(name: &str) -> Party {
        Party::endpoint(name, &[format!("container:id={name}")]).unwrap()
    }

    fn parties() -> Vec<Party> {
        vec![
            endpoint("a"),
            endpoint("b"),
            Party::other("host", &["reserved:host".to_owned()]).unwrap(),
            Party::outside("world", "0.0.0.0/0".parse().unwrap()),
            Party::outside("10.0.0.0/8", "10.0.0.0/8".parse().unwrap()),
        ]
    }

    fn changes(before: Value, after: Value) -> Vec<String> {
        let (before, after) = (rules(before), rules(after));
        let diff = Diff::new(&before, &after, Options::default(), &parties());
        let line = |change: Change| format!("{} {} {} {}", change.from, change.to, change.ports, change.after);
        diff.changes(&parties()).into_iter().map(line).collect()
    }

    fn for_a(entries: Value) -> Value {
        let mut rule = json!({"endpointSelector": {"matchLabels": {"id": "a"}}});
        rule.as_object_mut().unwrap().extend(entries.as_object().unwrap().clone());
        json!([rule])
    }

    fn from_b(ports: Value) -> Value {
        for_a(json!({"ingress": [{"fromEndpoints": [{"matchLabels": {"id": "b"}}], "toPorts": [{"ports": ports}]}]}))
    }

    #[test]
    fn the_same_rules_change_nothing() {
        assert!(changes(json!([]), json!([])).is_empty());
        let some = from_b(json!([{"port": "80"}]));
        assert!(changes(some.clone(), some).is_empty());
    }

    #[test]
    fn a_first_rule_closes_what_it_does_not_open() {
        assert_eq!(
            changes(json!([]), from_b(json!([{"port": "80", "protocol": "TCP"}]))),
            [
                "b a any/ICMP denied",
                "b a 0-79/TCP denied",
                "b a 81-65535/TCP denied",
                "b a any/UDP denied",
                "b a any/ICMPv6 denied",
                "b a any/SCTP denied",
                "host a all denied",
                "world a all denied",
                "10.0.0.0/8 a all denied",
            ]
        );
    }

    #[test]
    fn only_the_ports_between_named_bounds_turn_over() {
        let before = from_b(json!([{"port": "80", "endPort": 90, "protocol": "TCP"}]));
        let after =
            from_b(json!([{"port": "85", "endPort": 95, "protocol": "TCP"}, {"port": "53", "protocol": "UDP"}]));
        assert_eq!(changes(before, after), ["b a 80-84/TCP denied", "b a 91-95/TCP allowed", "b a 53/UDP allowed"]);
    }

    #[test]
    fn both_sides_count_and_prefixes_are_those_of_each_set() {
        let before = for_a(json!({"egress": [{"toEntities": ["world"]}]}));
        let after = for_a(json!({"egress": [{"toCIDRSet": [{"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}]}]}));
        assert_eq!(changes(before.clone(), after), ["a 10.0.0.0/8 all denied"]);
        let more = json!([before[0], {"endpointSelector": {"matchLabels": {"id": "b"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "a"}}]}]}]);
        let mut found = changes(before, more);
        found.retain(|line| line.contains(" b "));
        assert_eq!(found, ["host b all denied", "world b all denied", "10.0.0.0/8 b all denied"]);
    }

    #[test]
    fn a_flow_is_decided_by_the_longest_prefix_of_each_set() {
        let before = rules(json!([]));
        let after = rules(for_a(json!({"egress": [{"toCIDR": ["192.0.2.0/24"]}]})));
        let inside = Party::outside("192.0.2.9", "192.0.2.9".parse().unwrap());
        let outside = Party::outside("198.51.100.9", "198.51.100.9".parse().unwrap());
        let all = [endpoint("a"), inside, outside];
        let diff = Diff::new(&before, &after, Options::default(), &all);
        let decided = [1, 2].map(|to: usize| diff.decide(&all[0], &all[to], Protocol::TCP, 443));
        assert_eq!(decided, [(Decision::Allowed, Decision::Allowed), (Decision::Allowed, Decision::Denied)]);
    }
}

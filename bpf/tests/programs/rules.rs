//! The kernel's verdict is that of the rules: random rules become policies, those the entries of the real maps, whole or
//! in place, and packets are decided as the naive interpreter of the rules decides.

#[path = "../../../policy/tests/oracle/arbitrary.rs"]
mod arbitrary;

use crate::world::{A, B, FAMILIES, Family, World, entry_of, header_of, identity, ipcache_key, key_of};
use arbitrary::{PORTS, container_labels, options, rule};
use bpf::abi;
use bpf::testing::node::{ACT_OK, ACT_REDIRECT, ACT_SHOT};
use bpf::testing::packet::{Packet, SYN};
use model::{Column, Direction, Identity, Labels, PolicyMap, Protocol};
use policy::trace::{Ask, Decision, decide};
use policy::{Engine, Options, Peer, Repository, cidr_labels, parse_rules};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Prefixes that rules mention, and an address of which each is the longest.
const OUTSIDE: [(&str, &str); 10] = [
    ("10.0.0.0/8", "10.9.9.9"),
    ("10.1.0.0/16", "10.1.9.9"),
    ("10.1.1.0/24", "10.1.1.9"),
    ("10.1.1.7/32", "10.1.1.7"),
    ("10.2.0.0/16", "10.2.0.9"),
    ("192.0.2.0/24", "192.0.2.9"),
    ("2001:db8::/32", "2001:db8:9::9"),
    ("2001:db8:1::/48", "2001:db8:1::9"),
    ("2001:db8:1::7/128", "2001:db8:1::7"),
    ("fd00::/8", "fd00::9"),
];
const WORLD4: &str = "203.0.113.9";
const WORLD6: &str = "2620::9";

/// The number of the identity of the first of `OUTSIDE`.
const FIRST: u32 = Identity::FIRST_LOCAL + 100;

/// The other end of B's packets.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Who {
    Neighbour(Family),
    Host(Family),
    World(Family),
    Outside(usize),
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    direction: Direction,
    who: Who,
    protocol: Protocol,
    port: u16,
}

/// One state of the rules and of who there is, and packets under it.
#[derive(Clone, Debug)]
struct Case {
    rules: Vec<Value>,
    labels: [Labels; 2],
    options: Options,
    /// Whether policies are written as new versions, or changed in place.
    whole: bool,
    probes: Vec<Probe>,
}

fn probe() -> impl Strategy<Value = Probe> {
    let family = || select(&FAMILIES[..]);
    let who = prop_oneof![
        3 => family().prop_map(Who::Neighbour),
        1 => family().prop_map(Who::Host),
        1 => family().prop_map(Who::World),
        4 => (0..OUTSIDE.len()).prop_map(Who::Outside),
    ];
    let protocol = select(&[Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP][..]);
    let port = prop_oneof![4 => select(&PORTS[..]), 1 => any::<u16>()];
    (select(&Direction::BOTH[..]), who, protocol, port).prop_map(|(direction, who, protocol, port)| Probe {
        direction,
        who,
        protocol,
        port,
    })
}

fn case() -> impl Strategy<Value = Case> {
    (vec(rule(), 0..5), [container_labels(), container_labels()], options(), any::<bool>(), vec(probe(), 4))
        .prop_map(|(rules, labels, options, whole, probes)| Case { rules, labels, options, whole, probes })
}

impl Who {
    fn address(self) -> IpAddr {
        match self {
            Who::Neighbour(family) => family.of(A),
            Who::Host(family) => family.host(),
            Who::World(Family::V4) => WORLD4.parse().unwrap(),
            Who::World(Family::V6) => WORLD6.parse().unwrap(),
            Who::Outside(n) => OUTSIDE[n].1.parse().unwrap(),
        }
    }

    fn identity(self) -> Identity {
        match self {
            Who::Neighbour(_) => identity(A),
            Who::Host(_) => Identity::HOST,
            Who::World(family) => family.outside(),
            Who::Outside(n) => Identity(FIRST + n as u32),
        }
    }
}

/// A node that has followed all cases so far.
struct Story {
    world: World,
    engine: Engine,
    /// Who there is but the containers.
    others: BTreeMap<Identity, Labels>,
    /// The version in force of A and B.
    held: BTreeMap<u32, (u32, Arc<PolicyMap>)>,
    /// No two packets are of one flow: the verdict must come from the policy.
    flows: u16,
}

impl Story {
    fn new() -> Story {
        let mut world = World::new();
        let mut others = BTreeMap::from([
            (Identity::HOST, Labels::reserved("host")),
            (Identity::WORLD_IPV4, Labels::reserved("world-ipv4")),
            (Identity::WORLD_IPV6, Labels::reserved("world-ipv6")),
        ]);
        let mut engine = Engine::new(Options::default());
        for (number, (prefix, _)) in (FIRST..).zip(OUTSIDE) {
            let labels = cidr_labels(prefix.parse().unwrap());
            engine.put_identity(Identity(number), &Arc::new(labels.clone()));
            others.insert(Identity(number), labels);
            let (address, bits) = prefix.split_once('/').unwrap();
            let entry = abi::IpcacheEntry { identity: number, ..Default::default() };
            world.node.set_ipcache(ipcache_key(address.parse().unwrap()), bits.parse().unwrap(), entry).unwrap();
        }
        Story { world, engine, others, held: BTreeMap::new(), flows: 0 }
    }

    fn take(&mut self, case: &Case) -> Result<(), TestCaseError> {
        let text = Value::Array(case.rules.clone()).to_string();
        let parsed = parse_rules(&text).map_err(|errors| TestCaseError::fail(errors.to_string()))?;
        let repository = Repository::from_rules(parsed.into_iter().map(Arc::new), 1);
        self.engine.set_options(case.options);
        self.engine.set_rules(repository.rules());
        for (slot, labels) in [A, B].into_iter().zip(&case.labels) {
            let labels = Arc::new(labels.clone());
            self.engine.put_identity(identity(slot), &labels);
            self.engine.put_subject(identity(slot), &labels);
        }
        for slot in [A, B] {
            let map = self.engine.policy(identity(slot)).unwrap().clone();
            self.follow(slot, map, case.whole);
        }
        for probe in &case.probes {
            self.check(&repository, case, probe)?;
        }
        Ok(())
    }

    /// Brings the kernel from the policy that a container has to another one.
    fn follow(&mut self, slot: u32, map: Arc<PolicyMap>, whole: bool) {
        let former = self.held.remove(&slot);
        let id = match &former {
            Some((id, former)) if !whole => {
                self.amend(slot, *id, former, &map);
                *id
            }
            _ => {
                let id = self.world.set_policy(slot, &map);
                if let Some((id, former)) = &former {
                    former.keys().for_each(|key| self.world.node.remove_policy(key_of(*id, &key)).unwrap());
                }
                id
            }
        };
        self.held.insert(slot, (id, map));
    }

    fn amend(&mut self, slot: u32, id: u32, former: &PolicyMap, map: &PolicyMap) {
        let (mut header, wanted) = (header_of(id, identity(slot), former), header_of(id, identity(slot), map));
        for (held, wanted) in header.classes.iter_mut().flatten().zip(wanted.classes.iter().flatten()) {
            *held |= wanted;
        }
        self.world.node.set_header(header).unwrap();
        let mut changes: Vec<(Identity, Option<Column>, Option<Column>)> = Vec::new();
        former.differences(map, |peer, here, there| changes.push((peer, here.cloned(), there.cloned())));
        for (peer, here, there) in &changes {
            for (key, entry) in there.iter().flat_map(|column| column.of(*peer)) {
                self.world.node.set_policy(key_of(id, &key), entry_of(&entry)).unwrap();
            }
            let gone = here.iter().flat_map(|column| column.of(*peer)).map(|(key, _)| key);
            let gone: Vec<_> =
                gone.filter(|key| there.as_ref().is_none_or(|column| column.get(key).is_none())).collect();
            gone.iter().for_each(|key| self.world.node.remove_policy(key_of(id, key)).unwrap());
        }
        // An exact header from now on: what was announced and does not occur must make no difference.
        if changes.len().is_multiple_of(2) {
            self.world.node.set_header(wanted).unwrap();
        }
    }

    fn check(&mut self, repository: &Repository, case: &Case, probe: &Probe) -> Result<(), TestCaseError> {
        let family = if probe.who.address().is_ipv4() { Family::V4 } else { Family::V6 };
        let tunnel = probe.protocol == Protocol::UDP && [8472, 6081].contains(&probe.port);
        if tunnel && (probe.direction == Direction::Egress || matches!(probe.who, Who::Neighbour(_))) {
            return Ok(());
        }
        let (packet, ask) = self.packet(family, probe);
        let labels = |identity: Identity| match identity {
            neighbour if neighbour == crate::world::identity(A) => &case.labels[0],
            other => &self.others[&other],
        };
        let peer = probe.who.identity();
        let judge = |direction, subject: &Labels, peer: Peer<'_>| {
            decide(repository, case.options, direction, subject, &peer, ask) == Decision::Allowed
        };
        let mut allowed = judge(probe.direction, &case.labels[1], Peer::new(peer, labels(peer)));
        if let Who::Neighbour(_) = probe.who {
            let other = if probe.direction == Direction::Ingress { Direction::Egress } else { Direction::Ingress };
            allowed &= judge(other, &case.labels[0], Peer::new(identity(B), &case.labels[1]));
        }
        let ran = match (probe.direction, probe.who) {
            (Direction::Egress, _) => self.world.leave(B, &packet),
            (Direction::Ingress, Who::Neighbour(_)) => self.world.leave(A, &packet),
            (Direction::Ingress, Who::Host(_)) => self.world.enter_from_host(B, &packet),
            (Direction::Ingress, _) => self.world.enter_from_world(B, &packet),
        };
        let events = self.world.node.events().unwrap();
        prop_assert!([ACT_OK, ACT_REDIRECT, ACT_SHOT].contains(&ran.action));
        let reason = events.last().map_or(0, |event| u32::from(event.reason));
        prop_assert_eq!(ran.action != ACT_SHOT, allowed, "{:?}: reason {}", probe, reason);
        let refusals = [abi::DROP_POLICY_DENIED, abi::DROP_POLICY_DENY];
        prop_assert!(allowed || refusals.contains(&reason), "{:?}: reason {}", probe, reason);
        Ok(())
    }

    fn packet(&mut self, family: Family, probe: &Probe) -> (Packet, Ask) {
        self.flows = self.flows.wrapping_add(1);
        let (peer, own) = (probe.who.address(), family.of(B));
        let (from, to) = if probe.direction == Direction::Ingress { (peer, own) } else { (own, peer) };
        let (source, target) = ((from, self.flows), (to, probe.port));
        let ask = Ask::Port(probe.protocol, probe.port);
        match probe.protocol {
            Protocol::TCP => (Packet::tcp(source, target, SYN), ask),
            Protocol::UDP => (Packet::udp(source, target, b"x"), ask),
            Protocol::SCTP => (Packet::sctp(source, target), ask),
            _ => (Packet::echo_request(from, to, self.flows), Ask::Port(family.icmp(), family.echo_type())),
        }
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_kernel_decides_as_the_rules_say() {
    let config = ProptestConfig {
        cases: 10_000,
        max_shrink_iters: 2048,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let story = RefCell::new(Story::new());
    let result = TestRunner::new(config).run(&case(), |case| story.borrow_mut().take(&case));
    assert!(result.is_ok(), "{}", result.unwrap_err());
}

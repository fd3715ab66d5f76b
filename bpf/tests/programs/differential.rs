//! The kernel's verdict is the model's, for policies and packets that nobody thought of.

use crate::world::*;
use bpf::abi;
use bpf::testing::node::{ACT_OK, ACT_REDIRECT, ACT_SHOT};
use bpf::testing::packet::{Packet, SYN};
use model::policy_map::port_mask;
use model::{Direction, Identity, PolicyEntry, PolicyKey, PolicyMap, Protocol};
use proptest::prelude::*;

/// Few values, so that entries meet each other and packets meet entries.
const PEERS: [Identity; 5] = [Identity::UNKNOWN, Identity(1000 + A), Identity::WORLD_IPV4, Identity::WORLD_IPV6, CIDR];
const PORTS: [u16; 8] = [0, 1, 79, 80, 81, 8080, 40000, 65535];

fn key() -> impl Strategy<Value = PolicyKey> {
    let protocol =
        prop_oneof![Just(None), Just(Some(Protocol::TCP)), Just(Some(Protocol::UDP)), Just(Some(Protocol::SCTP)),];
    let prefix = prop_oneof![Just(16u8), Just(0), 0..=16u8];
    (
        prop::sample::select(&Direction::BOTH),
        prop::sample::select(&PEERS),
        protocol,
        prefix,
        prop::sample::select(&PORTS),
    )
        .prop_map(|(direction, identity, protocol, prefix, port)| {
            let prefix = if protocol.is_some() { prefix } else { 0 };
            PolicyKey { direction, identity, protocol, prefix, port: port & port_mask(prefix) }
        })
}

fn entry() -> impl Strategy<Value = PolicyEntry> {
    (proptest::bool::ANY, 1..4u8, prop_oneof![3 => Just(0), 1 => Just(10000)])
        .prop_map(|(deny, precedence, proxy_port)| PolicyEntry { deny, precedence, proxy_port })
}

fn map() -> impl Strategy<Value = PolicyMap> {
    prop::collection::btree_map(key(), entry(), 0..24)
        .prop_map(|entries| entries.into_iter().collect::<PolicyMap>().enforcing(true, true))
}

/// A packet of B's, or to B, and what is asked of B's policy.
#[derive(Clone, Copy, Debug)]
struct Case {
    direction: Direction,
    family: Family,
    peer: Identity,
    protocol: Protocol,
    port: u16,
}

fn case() -> impl Strategy<Value = Case> {
    let near = (prop::sample::select(&PORTS), 0..4u16).prop_map(|(port, off)| port.wrapping_add(off));
    (
        prop::sample::select(&Direction::BOTH),
        prop::sample::select(&FAMILIES),
        prop::sample::select(&PEERS[1..]),
        prop::sample::select(&[Protocol::TCP, Protocol::UDP, Protocol::SCTP]),
        near,
    )
        .prop_map(|(direction, family, peer, protocol, port)| {
            let outside = [Identity::WORLD_IPV4, Identity::WORLD_IPV6].contains(&peer);
            Case { direction, family, peer: if outside { family.outside() } else { peer }, protocol, port }
        })
}

impl Case {
    /// `n` makes the flow one that nobody has had: the verdict must come from the policy, not from an entry.
    fn packet(&self, n: u16) -> Packet {
        let peer = match self.peer {
            Identity::WORLD_IPV4 | Identity::WORLD_IPV6 => self.family.world(),
            CIDR => self.family.cidr(),
            _ => self.family.of(A),
        };
        let (from, to) = match self.direction {
            Direction::Ingress => (peer, self.family.of(B)),
            Direction::Egress => (self.family.of(B), peer),
        };
        let (from, to) = ((from, 1024 + n), (to, self.port));
        match self.protocol {
            Protocol::TCP => Packet::tcp(from, to, SYN),
            Protocol::UDP => Packet::udp(from, to, b"x"),
            _ => Packet::sctp(from, to),
        }
    }

    fn reason(&self, policy: &PolicyMap) -> u32 {
        match policy.lookup(self.direction, self.peer, self.protocol, self.port) {
            None => abi::DROP_POLICY_DENIED,
            Some(entry) if entry.deny => abi::DROP_POLICY_DENY,
            Some(entry) if entry.proxy_port != 0 => abi::DROP_NO_PROXY,
            Some(_) => 0,
        }
    }

    fn run(&self, world: &mut World, n: u16) -> i32 {
        let packet = self.packet(n);
        match (self.direction, self.peer) {
            (Direction::Egress, _) => world.leave(B, &packet),
            (Direction::Ingress, Identity::WORLD_IPV4 | Identity::WORLD_IPV6 | CIDR) => {
                world.enter_from_world(B, &packet)
            }
            (Direction::Ingress, _) => world.leave(A, &packet),
        }
        .action
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    #[ignore = "needs root: make test"]
    fn the_kernel_decides_as_the_model_does(
        rounds in prop::collection::vec((map(), prop::collection::vec(case(), 60)), 24),
    ) {
        let mut world = World::open();
        for (policy, cases) in rounds {
            world.set_policy(B, &policy);
            for (n, case) in cases.iter().enumerate() {
                // No port that a tunnel has.
                let expected = if case.protocol == Protocol::UDP && case.direction == Direction::Egress
                    && [8472, 6081].contains(&case.port) { continue } else { case.reason(&policy) };
                world.node.events().unwrap();
                let action = case.run(&mut world, n as u16);
                let reason = world.node.events().unwrap().last().map_or(0, |event| u32::from(event.reason));
                let (allowed, refused) = ([ACT_OK, ACT_REDIRECT].contains(&action), action == ACT_SHOT);
                prop_assert!(allowed || refused);
                prop_assert_eq!((refused, reason), (expected != 0, expected), "{:?} of {:?}", case, policy);
            }
        }
    }
}

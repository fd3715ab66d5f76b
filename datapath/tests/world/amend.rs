//! What is said of an identity that nobody has yet, or any more, is said in the policies that are in force; and what
//! becomes of a policy that finds no room.

use crate::lab::{Node, config, eventually, in_node, policy, remove};
use crate::traffic::{Hope, is_cut, talk, tcp, tcp_stream};
use datapath::Config;
use model::desired::Object;
use model::{Direction, EndpointId, Identity, PolicyEntry, PolicyKey, PolicyMap, Protocol};
use std::sync::Arc;

const B: EndpointId = EndpointId(2);

/// The version in force of an endpoint's policy, and how many entries it has.
fn version(node: &Node, endpoint: EndpointId) -> (u32, usize) {
    let table = node.handle().tables.policy(endpoint).unwrap().unwrap();
    (table.version, table.rows.len())
}

#[test]
#[ignore = "needs root: make test"]
fn a_newcomer_is_judged_by_the_policies_in_force_and_cuts_nobody() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        node.must(|desired| drop(desired.policies.insert(Identity(301), policy(&[(300, Protocol::TCP, Some(80))]))))
            .await;
        let address = b.addresses()[0];
        let (mut client, mut server) = tcp_stream(&a.namespace, &b.namespace, address, 80, Hope::Passes).unwrap();
        let before = version(&node, B);
        // Said of the newcomer: TCP 88 to 95, a kind of key that the policy had none of.
        let range = PolicyKey {
            direction: Direction::Ingress,
            identity: Identity(302),
            protocol: Some(Protocol::TCP),
            prefix: 13,
            port: 88,
        };
        let mut with_newcomer = PolicyMap::clone(&policy(&[(300, Protocol::TCP, Some(80))]));
        with_newcomer.insert(range, PolicyEntry::ALLOW);
        node.must(|desired| drop(desired.policies.insert(Identity(301), Arc::new(with_newcomer)))).await;
        assert_eq!(version(&node, B), (before.0, before.1 + 1));
        let newcomer = node.container(3, 302).await;
        for ip in b.addresses() {
            assert!(tcp(&newcomer.namespace, &b.namespace, ip, 90, Hope::Passes), "{ip}");
            assert!(!tcp(&newcomer.namespace, &b.namespace, ip, 80, Hope::Dropped), "{ip}");
        }
        // It goes, and what was said of it goes a little later.
        node.must(|desired| {
            remove(desired, 3);
            desired.policies.insert(Identity(301), policy(&[(300, Protocol::TCP, Some(80))]));
        })
        .await;
        eventually("nothing is said of it any more", || version(&node, B) == before);
        assert!(talk(&mut client, &mut server), "who was connected all the time still is");
        // The same number with another meaning: one to whom nothing is allowed.
        let other = node.container(3, 302).await;
        for ip in b.addresses() {
            assert!(!tcp(&other.namespace, &b.namespace, ip, 90, Hope::Dropped), "{ip}");
        }
        // What is said of somebody who is there is another version.
        node.must(|desired| drop(desired.policies.insert(Identity(301), policy(&[(302, Protocol::TCP, Some(80))]))))
            .await;
        assert_ne!(version(&node, B).0, before.0);
        assert!(is_cut(&mut client, &mut server));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_policy_without_room_leaves_the_former_one_in_force() {
    in_node(async |bpffs| {
        let node = Node::start(Config { policy_max: 12, ..config(&bpffs) }).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        node.must(|desired| drop(desired.policies.insert(Identity(301), policy(&[(300, Protocol::TCP, Some(80))]))))
            .await;
        let before = version(&node, B);
        // In place, about somebody who is not there; and as a new version, about somebody who is.
        let newcomers: Vec<_> = (400..420).map(|identity| (identity, Protocol::TCP, Some(80))).collect();
        for first in [(300, Protocol::TCP, Some(80)), (300, Protocol::TCP, None)] {
            let wide = policy(&[vec![first], newcomers.clone()].concat());
            let status = node.change(|desired| drop(desired.policies.insert(Identity(301), wide))).await;
            let failure = &status.failing[&Object::Policy(Identity(301))];
            assert!(failure.full && failure.message.contains("cilium_policy is full"), "{failure:?}");
            assert_eq!(version(&node, B), before);
            for ip in b.addresses() {
                assert!(tcp(&a.namespace, &b.namespace, ip, 80, Hope::Passes), "{ip}");
                assert!(!tcp(&a.namespace, &b.namespace, ip, 81, Hope::Dropped), "{ip}");
            }
        }
        node.must(|desired| drop(desired.policies.insert(Identity(301), policy(&[(300, Protocol::TCP, None)])))).await;
        assert!(tcp(&a.namespace, &b.namespace, b.addresses()[0], 81, Hope::Passes));
    });
}

//! Who reaches whom.

use crate::lab::{Node, add, config, in_node, policy};
use crate::traffic::{Answer, Here, Hope, echo, is_cut, talk, tcp, tcp_stream, udp};
use model::{Direction, Identity, PolicyEntry, PolicyKey, PolicyMap, Protocol};
use std::net::IpAddr;
use std::sync::Arc;

#[test]
#[ignore = "needs root: make test"]
fn containers_with_open_policies_reach_each_other() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        for ip in b.addresses() {
            assert!(tcp(&a.namespace, &b.namespace, ip, 80, Hope::Passes), "{ip}");
            assert!(udp(&a.namespace, &b.namespace, ip, 53, 100, Hope::Passes), "{ip}");
            assert_eq!(echo(&a.namespace, ip, 64, 56, Hope::Passes), Answer::Reply, "{ip}");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_container_takes_only_what_its_policy_lists() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let (app1, app2) = (node.container(1, 300).await, node.container(2, 301).await);
        let app3 = node.container(3, 302).await;
        let map = policy(&[
            (301, Protocol::TCP, Some(80)),
            (301, Protocol::UDP, Some(53)),
            (301, Protocol::ICMP, Some(8)),
            (301, Protocol::ICMPV6, Some(128)),
        ]);
        node.must(|desired| drop(desired.policies.insert(Identity(300), map))).await;
        for ip in app1.addresses() {
            let (friend, stranger, here) = (&app2.namespace, &app3.namespace, &app1.namespace);
            assert!(tcp(friend, here, ip, 80, Hope::Passes), "{ip}");
            assert!(!tcp(friend, here, ip, 81, Hope::Dropped), "{ip}");
            assert!(!tcp(stranger, here, ip, 80, Hope::Dropped), "{ip}");
            assert!(udp(friend, here, ip, 53, 100, Hope::Passes), "{ip}");
            assert!(!udp(stranger, here, ip, 53, 100, Hope::Dropped), "{ip}");
            assert_eq!(echo(friend, ip, 64, 56, Hope::Passes), Answer::Reply, "{ip}");
            assert_eq!(echo(stranger, ip, 64, 56, Hope::Dropped), Answer::Nothing, "{ip}");
        }
        for ip in app3.addresses() {
            assert!(tcp(&app1.namespace, &app3.namespace, ip, 80, Hope::Passes), "replies to app1 pass: {ip}");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn what_a_container_may_send_is_limited_too() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        let mut map = PolicyMap::allow_all();
        map.remove(&PolicyKey::any_port(Direction::Egress, Identity::UNKNOWN));
        map.insert(PolicyKey::one_port(Direction::Egress, Identity(301), Protocol::TCP, 80), PolicyEntry::ALLOW);
        node.must(|desired| drop(desired.policies.insert(Identity(300), Arc::new(map)))).await;
        for ip in b.addresses() {
            assert!(tcp(&a.namespace, &b.namespace, ip, 80, Hope::Passes), "{ip}");
            assert!(!tcp(&a.namespace, &b.namespace, ip, 81, Hope::Dropped), "{ip}");
        }
        for ip in a.addresses() {
            assert!(tcp(&b.namespace, &a.namespace, ip, 81, Hope::Passes), "it answers whoever asks: {ip}");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn the_host_is_a_peer_with_an_identity() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let a = node.container(1, 300).await;
        for (ip, gateway) in a.addresses().into_iter().zip(gateways()) {
            assert!(tcp(&Here, &a.namespace, ip, 80, Hope::Passes), "host to container {ip}");
            assert!(tcp(&a.namespace, &Here, gateway, 81, Hope::Passes), "container to host {gateway}");
            assert_eq!(echo(&a.namespace, gateway, 64, 56, Hope::Passes), Answer::Reply);
        }
        let map = policy(&[(Identity::HOST.0, Protocol::TCP, Some(80))]);
        node.must(|desired| drop(desired.policies.insert(Identity(300), map))).await;
        for ip in a.addresses() {
            assert!(tcp(&Here, &a.namespace, ip, 80, Hope::Passes), "{ip}");
            assert!(!tcp(&Here, &a.namespace, ip, 82, Hope::Dropped), "{ip}");
        }
    });
}

fn gateways() -> [IpAddr; 2] {
    [crate::lab::GATEWAY4.into(), crate::lab::GATEWAY6.into()]
}

#[test]
#[ignore = "needs root: make test"]
fn a_policy_that_no_longer_allows_a_connection_cuts_it() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        let mut streams: Vec<_> = b
            .addresses()
            .into_iter()
            .map(|ip| tcp_stream(&a.namespace, &b.namespace, ip, 80, Hope::Passes).unwrap())
            .collect();
        for (client, server) in &mut streams {
            assert!(talk(client, server));
        }
        node.must(|desired| drop(desired.policies.insert(Identity(301), policy(&[(300, Protocol::TCP, Some(443))]))))
            .await;
        for (client, server) in &mut streams {
            assert!(is_cut(client, server), "from client to server");
            assert!(is_cut(server, client), "from server to client");
        }
        node.must(|desired| drop(desired.policies.insert(Identity(301), policy(&[(300, Protocol::TCP, Some(80))]))))
            .await;
        for (client, server) in &mut streams {
            client.set_read_timeout(Some(crate::lab::PATIENCE)).unwrap();
            // What was sent while the connection was cut is sent again by TCP.
            assert!(talk(client, server), "allowed again, it goes on");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_change_of_identity_counts_for_open_connections() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        node.must(|desired| drop(desired.policies.insert(Identity(301), policy(&[(300, Protocol::TCP, None)])))).await;
        let (mut client, mut server) = tcp_stream(&a.namespace, &b.namespace, b.v4(), 80, Hope::Passes).unwrap();
        assert!(talk(&mut client, &mut server));
        let mut other = a.endpoint.clone();
        other.identity = Identity(302);
        other.link = model::desired::LinkIntent::Keep;
        node.must(|desired| add(desired, &other)).await;
        assert!(is_cut(&mut client, &mut server));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_container_cannot_send_as_another() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        a.ip("addr add 10.15.0.99/32 dev eth0");
        a.ip("route replace default via 10.15.0.1 src 10.15.0.99");
        assert!(!tcp(&a.namespace, &b.namespace, b.v4(), 80, Hope::Dropped));
        let invalid = |node: &Node| {
            let metrics = node.handle().tables.metrics().unwrap();
            metrics.iter().filter(|m| m.reason.0 == 132).map(|m| m.packets).sum::<u64>()
        };
        assert!(invalid(&node) > 0, "{:?}", node.handle().tables.metrics());
    });
}

#[test]
#[ignore = "needs root: make test"]
fn drops_and_verdicts_are_told() {
    use model::event::EventKind;
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        node.must(|desired| drop(desired.policies.insert(Identity(301), policy(&[(300, Protocol::TCP, Some(80))]))))
            .await;
        let mut events = node.handle().events.subscribe();
        assert!(tcp(&a.namespace, &b.namespace, b.v4(), 80, Hope::Passes));
        assert!(!tcp(&a.namespace, &b.namespace, b.v6(), 81, Hope::Dropped));
        let (mut allowed, mut denied) = (false, false);
        while !(allowed && denied) {
            let event = tokio::time::timeout(crate::lab::PATIENCE, events.recv()).await.expect("events").unwrap();
            let Some(packet) = &event.packet else { continue };
            match event.kind {
                EventKind::PolicyVerdict { allowed: true } => {
                    if packet.destination == b.v4() && packet.destination_port == Some(80) {
                        assert_eq!((event.source_identity, event.destination_identity), (Identity(300), Identity(301)));
                        allowed = true;
                    }
                }
                EventKind::Drop { reason } => {
                    if packet.destination == b.v6() && packet.destination_port == Some(81) {
                        assert_eq!(reason.text(), Some("Policy denied"));
                        assert_eq!((event.source_identity, event.destination_identity), (Identity(300), Identity(301)));
                        denied = true;
                    }
                }
                EventKind::PolicyVerdict { .. } | EventKind::Trace { .. } => {}
            }
        }
        let rows = node.handle().tables.policy(b.endpoint.id).unwrap().unwrap();
        let row = rows.rows.iter().find(|row| row.port == 80).unwrap();
        assert!(row.packets > 0, "{row:?}");
        let flows = node.handle().tables.conntrack(100).unwrap();
        assert!(flows.iter().any(|flow| flow.source.address == a.v4() && flow.destination.port == 80), "{flows:?}");
    });
}

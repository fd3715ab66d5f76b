//! Ways that packets take: out into the world, in fragments, too big, with too short a life.

use crate::lab::{GATEWAY4, GATEWAY6, Node, World, config, eventually, in_node, ip, policy, run};
use crate::traffic::{Answer, Here, Hope, echo, talk, tcp, tcp_stream, translated, udp};
use datapath::{Attach, Config};
use model::{Direction, Identity, PolicyEntry, PolicyKey, PolicyMap, Protocol};
use std::net::IpAddr;
use std::sync::Arc;

#[test]
#[ignore = "needs root: make test"]
fn a_container_reaches_the_world_under_the_nodes_address() {
    in_node(async |bpffs| {
        let world = World::new();
        let node = Node::start(config(&bpffs)).await;
        let a = node.container(1, 300).await;
        for (there, source) in
            [(IpAddr::from(World::WORLD4), IpAddr::from(World::NODE4)), (World::WORLD6.into(), World::NODE6.into())]
        {
            let (mut client, mut server) = tcp_stream(&a.namespace, &world.namespace, there, 80, Hope::Passes).unwrap();
            assert!(talk(&mut client, &mut server));
            assert_eq!(server.peer_addr().unwrap().ip(), source);
            assert!(udp(&a.namespace, &world.namespace, there, 53, 100, Hope::Passes), "{there}");
            assert_eq!(echo(&a.namespace, there, 64, 56, Hope::Passes), Answer::Reply, "{there}");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn the_world_is_reached_past_a_forward_chain_that_drops() {
    in_node(async |bpffs| {
        let world = World::new();
        for tool in ["iptables", "ip6tables"] {
            run(tool, "-P FORWARD DROP");
        }
        let node = Node::start(config(&bpffs)).await;
        let a = node.container(1, 300).await;
        let reaches = || {
            [IpAddr::from(World::WORLD4), World::WORLD6.into()]
                .into_iter()
                .all(|there| tcp(&a.namespace, &world.namespace, there, 80, Hope::Dropped))
        };
        assert!(reaches());
        // A firewall that is loaded anew forgets what it did not make; it is put back without being asked.
        for tool in ["iptables", "ip6tables"] {
            run(tool, "-F FORWARD");
        }
        eventually("the rules come back", reaches);
        run("nft", "delete table inet cilium");
        eventually("the masquerading comes back", reaches);
        node.realised().await;
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_port_of_the_host_may_lead_to_another_container() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let (a, b, c) = (node.container(1, 300).await, node.container(2, 301).await, node.container(3, 302).await);
        for rule in [
            "add table inet ports",
            "add chain inet ports prerouting { type nat hook prerouting priority -100 ; }",
            &format!("add rule inet ports prerouting ip daddr {GATEWAY4} tcp dport 8080 dnat ip to {}:80", b.v4()),
            &format!("add rule inet ports prerouting ip6 daddr {GATEWAY6} tcp dport 8080 dnat ip6 to [{}]:80", b.v6()),
        ] {
            run("nft", rule);
        }
        // A may reach the host and nobody else; B takes A and nobody else.
        let host_alone = PolicyKey::any_port(Direction::Egress, Identity::HOST);
        let host_alone = [(host_alone, PolicyEntry::ALLOW)].into_iter().collect::<PolicyMap>().enforcing(true, true);
        node.must(|desired| {
            desired.policies.insert(Identity(300), Arc::new(host_alone));
            desired.policies.insert(Identity(301), policy(&[(300, Protocol::TCP, Some(80))]));
        })
        .await;
        for (gateway, serves) in [IpAddr::from(GATEWAY4), GATEWAY6.into()].into_iter().zip(b.addresses()) {
            let (asked, serves) = ((gateway, 8080).into(), (serves, 80).into());
            assert!(translated(&a.namespace, &b.namespace, asked, serves, Hope::Passes), "{asked}");
            assert!(!translated(&c.namespace, &b.namespace, asked, serves, Hope::Dropped), "{asked}");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn an_internal_network_has_no_world() {
    in_node(async |bpffs| {
        let world = World::new();
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 300).await);
        node.must(|desired| desired.endpoints.values_mut().for_each(|endpoint| endpoint.internal = true)).await;
        assert!(!tcp(&a.namespace, &world.namespace, World::WORLD4.into(), 80, Hope::Dropped));
        assert!(tcp(&a.namespace, &b.namespace, b.v4(), 80, Hope::Passes));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn fragments_find_their_flow() {
    in_node(async |bpffs| {
        let world = World::new();
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        // A sender that changes its processor in the middle of a datagram may have a later piece overtake the first.
        let passes = |reached: &dyn Fn() -> bool| eventually("a datagram in pieces arrives", reached);
        for ip in b.addresses() {
            passes(&|| udp(&a.namespace, &b.namespace, ip, 53, 20_000, Hope::Dropped));
        }
        passes(&|| udp(&a.namespace, &world.namespace, World::WORLD4.into(), 53, 20_000, Hope::Dropped));
        passes(&|| udp(&Here, &b.namespace, b.v4(), 54, 20_000, Hope::Dropped));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_life_too_short_is_told_to_the_sender() {
    in_node(async |bpffs| {
        let _world = World::new();
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        for there in b.addresses().into_iter().chain([World::WORLD4.into(), World::WORLD6.into()]) {
            assert_eq!(echo(&a.namespace, there, 1, 56, Hope::Passes), Answer::TimeExceeded, "{there}");
            assert_eq!(echo(&a.namespace, there, 2, 56, Hope::Passes), Answer::Reply, "{there}");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_narrow_way_is_told_to_the_sender() {
    in_node(async |bpffs| {
        let world = World::new();
        // Behind the world's machine the way gets narrower: it is a router with a small device.
        let node = Node::start(config(&bpffs)).await;
        let a = node.container(1, 300).await;
        ip("link set uplink0 mtu 1300");
        for there in [IpAddr::from(World::WORLD4), World::WORLD6.into()] {
            // The kernel bounds how many errors it sends, so the first may not come.
            eventually("the sender is told", || echo(&a.namespace, there, 64, 1400, Hope::Dropped) == Answer::TooBig);
            let (mut client, mut server) = tcp_stream(&a.namespace, &world.namespace, there, 80, Hope::Passes).unwrap();
            assert!(talk(&mut client, &mut server), "{there}");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn kernels_without_tcx_are_served_by_filters() {
    in_node(async |bpffs| {
        let mut node = Node::start(Config { attach: Attach::Clsact, ..config(&bpffs) }).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        let reaches = || b.addresses().into_iter().all(|ip| tcp(&a.namespace, &b.namespace, ip, 80, Hope::Passes));
        assert!(reaches());
        node.restart().await;
        assert!(reaches());
        let filters = run("tc", &format!("filter show dev {} ingress", a.endpoint.ifname));
        assert_eq!(filters.matches("handle 0x1 from_container").count(), 1, "replaced, not added: {filters}");
    });
}

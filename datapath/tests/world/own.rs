//! An endpoint that no container is behind: its inside is a namespace of the datapath's own.

use crate::lab::{Node, add, config, endpoint, eventually, in_node, ip, remove};
use crate::traffic::{Here, Hope, tcp};
use datapath::Config;
use datapath::netns::Namespace;
use model::desired::{LinkIntent, Object};
use model::{EndpointId, Identity};
use std::net::IpAddr;
use std::sync::Arc;

#[test]
#[ignore = "needs root: make test"]
fn an_endpoint_of_the_nodes_own_is_reached_and_made_again() {
    in_node(async |bpffs| {
        let own = Arc::new(Namespace::create().unwrap());
        let mut node = Node::start(Config { own: Some(own.clone()), ..config(&bpffs) }).await;
        let a = node.container(1, 300).await;
        let mut health = endpoint(7, Identity::HEALTH.0);
        health.link = LinkIntent::Own;
        let addresses = [IpAddr::V4(health.ipv4.unwrap()), IpAddr::V6(health.ipv6.unwrap())];
        let reached = |own: &Namespace| {
            addresses
                .iter()
                .all(|to| tcp(&Here, own, *to, 4240, Hope::Passes) && tcp(&a.namespace, own, *to, 4240, Hope::Passes))
        };
        node.must(|desired| add(desired, &health)).await;
        assert!(reached(&own), "from the host and from a container");

        ip(&format!("link del {}", health.ifname));
        let there = |own: &Namespace| {
            let inside = own.run(|| ip("addr")).unwrap();
            addresses.iter().all(|address| inside.contains(&format!(" {address}/")))
        };
        eventually("it is made again", || there(&own) && reached(&own));

        // As another process finds it: the namespace is another, and the former one may live for a while.
        let next = Arc::new(Namespace::create().unwrap());
        node.config.own = Some(next.clone());
        node.restart().await;
        let status = node.handle().status.borrow().clone();
        assert!(there(&next) && !there(&own), "{status:#?}");
        assert!(reached(&next), "{status:#?}");

        node.must(|desired| remove(desired, 7)).await;
        eventually("it goes", || !ip("link").contains(&health.ifname) && !there(&next));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn without_a_namespace_it_is_told_and_tried_again() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let mut health = endpoint(7, Identity::HEALTH.0);
        health.link = LinkIntent::Own;
        let status = node.change(|desired| add(desired, &health)).await;
        let failure = &status.failing[&Object::Endpoint(EndpointId(7))];
        assert!(failure.message.contains("no namespace"), "{failure:?}");
        eventually("no half of it is left", || !ip("link").contains(&health.ifname));
    });
}

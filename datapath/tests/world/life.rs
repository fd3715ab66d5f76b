//! Endpoints come and go, orderly and otherwise.

use crate::lab::{Node, World, add, config, endpoint, eventually, in_node, ip, remove, run};
use crate::traffic::{Hope, tcp};
use datapath::cleanup::{What, cleanup};
use model::EndpointId;
use model::desired::{LinkIntent, Object};
use std::path::Path;

#[test]
#[ignore = "needs root: make test"]
fn an_endpoint_leaves_nothing_behind() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let before = picture(&bpffs);
        let a = node.container(1, 300).await;
        assert_ne!(picture(&bpffs), before);
        node.must(|desired| remove(desired, 1)).await;
        eventually("its device goes", || !ip("link").contains(&a.endpoint.ifname));
        eventually("its pins go", || picture(&bpffs) == before);
        let left = node.handle().tables.endpoints().unwrap();
        assert!(left.is_empty(), "{left:?}");
        let policies =
            || node.handle().tables.maps().unwrap().into_iter().find(|m| m.name == "cilium_policy").unwrap().entries;
        eventually("its policy is swept", || policies() == Some(0));
    });
}

/// What the node's network looks like.
fn picture(bpffs: &Path) -> String {
    let links =
        ip("-br link").lines().map(|line| line.split_whitespace().next().unwrap_or("").to_owned()).collect::<Vec<_>>();
    let pins = run("find", &format!("{} -path */links/*", bpffs.display()));
    format!("{links:?}\n{}\n{}\n{}\n{pins}", ip("route"), ip("-6 route"), ip("neigh show nud permanent"))
}

#[test]
#[ignore = "needs root: make test"]
fn a_device_that_vanishes_is_noticed_and_not_made_again() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        let ifname = a.endpoint.ifname.clone();
        drop(a);
        let object = Object::Endpoint(EndpointId(1));
        let status = node.status(|status| status.failing.contains_key(&object)).await;
        assert!(status.failing[&object].message.contains(&ifname), "{status:?}");
        assert!(node.handle().tables.endpoints().unwrap().iter().all(|row| row.id.0 != 1), "its slot is empty");
        assert!(tcp(&crate::traffic::Here, &b.namespace, b.v4(), 80, Hope::Passes), "others live on");
        node.must(|desired| remove(desired, 1)).await;
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_number_that_comes_back_is_another_endpoint() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        let mut other = endpoint(1, 302);
        (other.ifname, other.peer_ifname) = ("lxcother".to_owned(), "tmpother".to_owned());
        node.must(|desired| {
            remove(desired, 1);
            add(desired, &other);
        })
        .await;
        assert!(!ip("link").contains(&a.endpoint.ifname) && ip("link").contains("lxcother"));
        assert!(!tcp(&a.namespace, &b.namespace, b.v4(), 80, Hope::Dropped), "the former container has no device");
    });
}

#[test]
#[ignore = "needs root: make test"]
fn what_is_not_recognised_stays_until_all_is_told() {
    in_node(async |bpffs| {
        let mut node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        node.handle = None;
        node.prepare(|desired| {
            desired.settled = false;
            remove(desired, 1);
            remove(desired, 2);
        });
        node.restart().await;
        assert!(tcp(&a.namespace, &b.namespace, b.v4(), 80, Hope::Passes), "nothing was taken down");
        let mut known = a.endpoint.clone();
        known.link = LinkIntent::Keep;
        node.must(|desired| add(desired, &known)).await;
        assert!(tcp(&a.namespace, &b.namespace, b.v4(), 80, Hope::Passes), "one is known again, the other still stays");
        node.must(|desired| desired.settled = true).await;
        eventually("the other goes", || !ip("link").contains(&b.endpoint.ifname));
        assert!(ip("link").contains(&a.endpoint.ifname));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn what_others_take_away_comes_back() {
    in_node(async |bpffs| {
        let node = Node::start(config(&bpffs)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 301).await);
        let reaches = || tcp(&crate::traffic::Here, &b.namespace, b.v4(), 80, Hope::Dropped);
        ip(&format!("link set {} down", b.endpoint.ifname));
        eventually("the device goes up again, with its routes", reaches);
        ip("link del cilium_host");
        eventually("the gateway comes back", || ip("addr").contains("10.15.0.1/32"));
        eventually("and the way from it", reaches);
        assert!(tcp(&a.namespace, &b.namespace, b.v4(), 80, Hope::Passes));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn cleanup_leaves_the_node_as_it_was() {
    in_node(async |bpffs| {
        let _world = World::new();
        run("iptables", "-P FORWARD DROP");
        // Loads what the first look at the other family's chain would, so that both pictures have it.
        run("ip6tables", "-P FORWARD DROP");
        std::fs::create_dir_all(&bpffs).unwrap();
        // A switch of the whole node, which others may rely on by then: it stays on.
        for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
        }
        let before = everything();
        let mut node = Node::start(config(&bpffs)).await;
        let _containers = [node.container(1, 300).await, node.container(2, 301).await];
        assert_ne!(everything(), before);
        node.handle = None;
        let report = cleanup(&bpffs, What::ALL);
        assert!(report.failed.is_empty(), "{report:#?}");
        assert!(!bpffs.join("cilium").exists());
        assert_eq!(everything(), before);
        let again = cleanup(&bpffs, What::ALL);
        assert!(again.removed.is_empty() && again.failed.is_empty(), "{again:#?}");
    });
}

/// Devices, routes, rules and filters of the node.
fn everything() -> String {
    let parts = [
        ("ip", "-br link"),
        ("ip", "-br addr"),
        ("ip", "route show table all"),
        ("ip", "-6 route show table all"),
        ("ip", "rule"),
        ("ip", "neigh show nud permanent"),
        ("nft", "list ruleset"),
        ("iptables-save", ""),
        ("ip6tables-save", ""),
    ];
    let print = |(program, arguments): (&str, &str)| {
        let text = run(program, arguments);
        let lasting = text.lines().filter(|line| !line.starts_with('#'));
        // Device numbers of peers and packet counts differ from look to look.
        let lines: Vec<_> =
            lasting.map(|line| line.split(" [").next().unwrap_or(line).split("expires").next().unwrap_or("")).collect();
        format!("{program} {arguments}\n{}\n", lines.join("\n"))
    };
    parts.map(print).concat()
}

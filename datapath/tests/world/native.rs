//! Two nodes without a tunnel: the host routes to the other's pods, and who they are is told by their addresses.

use crate::lab::{eventually, in_node, ip, policy, run};
use crate::traffic::{Answer, Here, Hope, echo, is_cut, talk, tcp, tcp_stream, translated, udp};
use crate::tunnel::{Cluster, carries};
use model::desired::Object;
use model::{Identity, Protocol};
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Arc;

#[test]
#[ignore = "needs root: make test"]
fn addresses_tell_who_containers_of_other_nodes_are() {
    in_node(async |bpffs| {
        let mut cluster = Cluster::native(&bpffs).await;
        let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
        let c = cluster.container(0, 2, 302).await;
        let rules = [(300, Protocol::TCP, Some(80)), (Identity::REMOTE_NODE.0, Protocol::TCP, Some(82))];
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), policy(&rules)))).await;
        for there in b.addresses() {
            assert!(tcp(&a.namespace, &b.namespace, there, 80, Hope::Passes), "{there}");
            assert!(!tcp(&a.namespace, &b.namespace, there, 81, Hope::Dropped), "{there}");
            assert!(!tcp(&c.namespace, &b.namespace, there, 80, Hope::Dropped), "{there}");
            assert!(tcp(&Here, &b.namespace, there, 82, Hope::Passes), "{there}");
            let (_, server) = tcp_stream(&a.namespace, &b.namespace, there, 80, Hope::Passes).unwrap();
            // Nobody gave it another address on the way.
            assert!(a.addresses().contains(&server.peer_addr().unwrap().ip().to_canonical()), "{there}");
        }
        // A new agent takes the routes up as they are.
        let (mut client, mut server) = tcp_stream(&a.namespace, &b.namespace, b.v4(), 80, Hope::Passes).unwrap();
        for n in [0, 1] {
            cluster.restart(n).await;
            assert!(talk(&mut client, &mut server), "an open connection goes on");
        }
        assert!(ip("route show 10.15.2.0/24").contains("via 172.31.0.2"));
        // Whoever says on the underlay to be a container here is not heard.
        let other = cluster.container(1, 514, 303).await;
        ip(&format!("addr add {}/32 dev lo", b.v4()));
        let liar = UdpSocket::bind((b.v4(), 0)).unwrap();
        let before = cluster.dropped(1, 132);
        liar.send_to(b"hello", (other.v4(), 9000)).unwrap();
        eventually("it is refused", || cluster.dropped(1, 132) > before);
    });
}

/// How many packets the stack of the thread's namespace has forwarded, of both families.
fn forwarded() -> u64 {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
    let (v4, v6) = (read("snmp"), read("snmp6"));
    let mut ip = v4.lines().filter(|line| line.starts_with("Ip:")).map(|line| line.split_whitespace());
    let (mut names, mut values) = (ip.next().unwrap(), ip.next().unwrap());
    let at = names.position(|name| name == "ForwDatagrams").unwrap();
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams")).unwrap().trim();
    values.nth(at).unwrap().parse::<u64>().unwrap() + v6.parse::<u64>().unwrap()
}

#[test]
#[ignore = "needs root: make test"]
fn flows_that_are_known_pass_the_stacks_by() {
    in_node(async |bpffs| {
        let cluster = Cluster::native(&bpffs).await;
        let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
        let icmp = [Protocol::ICMP, Protocol::ICMPV6].map(|icmp| (300, icmp, None));
        let rules = [&icmp[..], &[(300, Protocol::TCP, Some(80)), (300, Protocol::UDP, Some(53))]].concat();
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), policy(&rules)))).await;
        for there in b.addresses() {
            let (mut client, mut server) = tcp_stream(&a.namespace, &b.namespace, there, 80, Hope::Passes).unwrap();
            assert!(talk(&mut client, &mut server), "{there}");
            let before = [0, 1].map(|n| cluster.at(n, forwarded));
            for _ in 0..100 {
                assert!(talk(&mut client, &mut server), "{there}");
            }
            assert!(carries(&mut client, &mut server, 1 << 20), "{there}");
            let after = [0, 1].map(|n| cluster.at(n, forwarded));
            let of_stack = [after[0] - before[0], after[1] - before[1]];
            assert!(of_stack.iter().all(|packets| *packets < 10), "{there}: {of_stack:?}");
            // The other way, in pieces, and until no hop is left.
            let (mut client, mut server) = tcp_stream(&a.namespace, &b.namespace, there, 80, Hope::Passes).unwrap();
            assert!(carries(&mut server, &mut client, 1 << 20), "{there}");
            assert!(udp(&a.namespace, &b.namespace, there, 53, 5000, Hope::Passes), "{there}, in fragments");
            assert_eq!(echo(&a.namespace, there, 64, 5000, Hope::Passes), Answer::Reply, "{there}");
            assert_eq!(echo(&a.namespace, there, 1, 56, Hope::Passes), Answer::TimeExceeded, "{there}");
            assert_eq!(echo(&a.namespace, there, 2, 56, Hope::Passes), Answer::TimeExceeded, "{there}");
            assert_eq!(echo(&a.namespace, there, 3, 56, Hope::Passes), Answer::Reply, "{there}");
        }
        // A policy that goes cuts what is open at once, and one that comes back lets it go on.
        let (mut client, mut server) = tcp_stream(&a.namespace, &b.namespace, b.v4(), 80, Hope::Passes).unwrap();
        assert!(talk(&mut client, &mut server));
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), policy(&[])))).await;
        assert!(is_cut(&mut client, &mut server) && is_cut(&mut server, &mut client));
        // Nothing of it is left where no other node is known.
        cluster.nodes[0].must(|desired| desired.nodes = Arc::default()).await;
        let pins = || std::fs::read_dir(bpffs.join("0/cilium/links")).unwrap();
        let foreign = || pins().filter(|pin| pin.as_ref().unwrap().file_name().to_string_lossy().starts_with("dev"));
        assert_eq!(foreign().count(), 0);
        cluster.nodes[0].must(|desired| cluster.introduce(0, desired)).await;
        assert_eq!(foreign().count(), 1);
    });
}

/// What the container's answers to a client that the host translates for have as source is the host's to say: they must
/// come by it.
#[test]
#[ignore = "needs root: make test"]
fn what_the_host_translates_goes_by_the_host() {
    in_node(async |bpffs| {
        let cluster = Cluster::native(&bpffs).await;
        let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
        let rules = [(300, Protocol::TCP, Some(80))];
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), policy(&rules)))).await;
        // An address out of the other node's, so that the first one leaves it alone.
        let asked = std::net::SocketAddr::from(([10, 15, 2, 200], 8080));
        let serves = std::net::SocketAddr::new(b.v4(), 80);
        cluster.at(1, || {
            run("nft", "add table ip other");
            run("nft", "add chain ip other pre { type nat hook prerouting priority -100 ; }");
            run("nft", &format!("add rule ip other pre ip daddr {} tcp dport 8080 dnat to {serves}", asked.ip()));
        });
        for _ in 0..3 {
            assert!(translated(&a.namespace, &b.namespace, asked, serves, Hope::Passes));
            // And the same ends without anybody in between.
            assert!(tcp(&a.namespace, &b.namespace, serves.ip(), 80, Hope::Passes));
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_node_that_is_not_on_the_same_network_is_named() {
    in_node(async |bpffs| {
        let cluster = Cluster::native(&bpffs).await;
        let far: ipnetwork::IpNetwork = "10.15.9.0/24".parse().unwrap();
        let lead = |hops: &mut Arc<_>| BTreeMap::extend(Arc::make_mut(hops), [(far, [192, 0, 2, 9].into())]);
        let status = cluster.nodes[0].change(|desired| lead(&mut desired.hops)).await;
        let failure = &status.failing[&Object::Route(far)];
        assert!(failure.message.contains("192.0.2.9"), "{failure:?}");
        // The routes that can be are there, and go when they are not wanted.
        assert!(ip("-6 route show").contains("via fd77::2"));
        cluster.nodes[0].must(|desired| desired.hops = Arc::default()).await;
        assert!(!ip("route show").contains("via 172.31.0.2"));
        assert!(!ip("-6 route show").contains("via fd77::2"));
    });
}

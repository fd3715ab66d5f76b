//! Two nodes without a tunnel: the host routes to the other's pods, and who they are is told by their addresses.

use crate::lab::{eventually, in_node, ip, policy};
use crate::traffic::{Here, Hope, talk, tcp, tcp_stream};
use crate::tunnel::Cluster;
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

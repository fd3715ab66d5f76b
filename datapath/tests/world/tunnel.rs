//! Two nodes on one underlay: containers, hosts, and strangers who send tunnel packets.

use crate::lab::{
    Container, GATEWAY4, Node, PATIENCE, config, eventually, in_node, ip, move_link, net, policy, remove,
};
use crate::traffic::{Answer, Here, Hope, echo, is_cut, talk, tcp, tcp_stream, udp};
use datapath::netns::Namespace;
use datapath::{Attach, Config, Tunnel};
use model::desired::{Datapath, IpcacheEntry};
use model::{EndpointId, Identity, Protocol};
use nix::sched::{CloneFlags, setns};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

const PORT: u16 = 8472;
/// Underlay addresses, by node.
const NODES: [(Ipv4Addr, Ipv6Addr); 2] = [
    (Ipv4Addr::new(172, 31, 0, 1), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1)),
    (Ipv4Addr::new(172, 31, 0, 2), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2)),
];
/// Pod prefixes, by node: those of endpoints below 256, and of those from 512 on.
const PODS: [[&str; 2]; 2] = [["10.15.0.0/24", "f00d::1:0/120"], ["10.15.2.0/24", "f00d::1:200/120"]];

/// Whether the nodes speak IPv4 or IPv6 to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Underlay {
    V4,
    V6,
}

impl Underlay {
    fn of(self, node: usize) -> IpAddr {
        if self == Underlay::V4 { NODES[node].0.into() } else { NODES[node].1.into() }
    }
}

/// The thread is in another namespace until this is dropped.
struct Visit(Namespace);

impl Visit {
    fn to(namespace: &Namespace) -> Visit {
        let home = Namespace::current().unwrap();
        setns(namespace.file().as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
        Visit(home)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        setns(self.0.file().as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
    }
}

/// Node 0 is where the test runs, node 1 in a namespace of its own.
struct Cluster {
    nodes: [Node; 2],
    there: Namespace,
    underlay: Underlay,
}

fn tunnelled(bpffs: &Path) -> Config {
    Config { tunnel: Tunnel::Vxlan { port: PORT }, ..config(bpffs) }
}

impl Cluster {
    async fn start(bpffs: &Path, underlay: Underlay, attach: Attach) -> Cluster {
        let there = Namespace::create().unwrap();
        ip("link add uplink0 type veth peer name uplink1");
        move_link("uplink1", &there);
        let mut nodes = Vec::new();
        for (n, (v4, v6)) in NODES.iter().enumerate() {
            let _visit = (n == 1).then(|| Visit::to(&there));
            ip("link set lo up");
            ip(&format!("addr add {v4}/24 dev uplink{n}"));
            ip(&format!("addr add {v6}/64 dev uplink{n} nodad"));
            ip(&format!("link set uplink{n} up"));
            let config = Config { attach, ..tunnelled(&bpffs.join(n.to_string())) };
            std::fs::create_dir_all(&config.bpffs).unwrap();
            let mut node = Node::start(config).await;
            // What an IPv6 underlay of 1500 leaves.
            node.mtu = 1430;
            nodes.push(node);
        }
        let nodes = nodes.try_into().unwrap_or_else(|_| unreachable!("there are two"));
        let cluster = Cluster { nodes, there, underlay };
        for n in 0..2 {
            cluster.nodes[n].must(|desired| cluster.introduce(n, desired)).await;
        }
        cluster
    }

    /// What node `n` knows of both nodes.
    fn introduce(&self, n: usize, desired: &mut Datapath) {
        for (other, (v4, v6)) in NODES.iter().enumerate() {
            let identity = if other == n { Identity::HOST } else { Identity::REMOTE_NODE };
            for address in [IpAddr::from(*v4), IpAddr::from(*v6)] {
                desired.ipcache.insert(address.into(), IpcacheEntry { identity, endpoint: None });
                desired.nodes.insert(address, self.underlay.of(other));
            }
        }
        let other = 1 - n;
        desired.vteps.extend(PODS[other].map(|prefix| (net(prefix), self.underlay.of(other))));
    }

    fn place(&self, n: usize) -> Option<Visit> {
        (n == 1).then(|| Visit::to(&self.there))
    }

    /// A container on node `n` that the other node has heard of.
    async fn container(&self, n: usize, id: u16, identity: u32) -> Container {
        let container = {
            let _visit = self.place(n);
            self.nodes[n].container(id, identity).await
        };
        let entry = IpcacheEntry { identity: Identity(identity), endpoint: None };
        let known = container.addresses().map(|address| (address.into(), entry));
        let learn = |desired: &mut Datapath| {
            desired.ipcache.extend(known);
            desired.identities.insert(Identity(identity), ());
        };
        self.nodes[1 - n].must(learn).await;
        container
    }

    async fn restart(&mut self, n: usize) {
        let _visit = (n == 1).then(|| Visit::to(&self.there));
        self.nodes[n].restart().await;
    }

    /// How often node `n` dropped what came in for a reason.
    fn dropped(&self, n: usize, reason: u32) -> u64 {
        let metrics = self.nodes[n].handle().tables.metrics().unwrap();
        metrics.iter().filter(|metric| u32::from(metric.reason.0) == reason).map(|metric| metric.packets).sum()
    }
}

/// A test on two nodes, once for each family of the underlay.
fn in_cluster<F: Future<Output = ()>>(test: impl Fn(Cluster) -> F + Send + Sync) {
    for underlay in [Underlay::V4, Underlay::V6] {
        in_node(async |bpffs| test(Cluster::start(&bpffs, underlay, Attach::Auto).await).await);
    }
}

#[test]
#[ignore = "needs root: make test"]
fn containers_of_two_nodes_talk_as_policy_allows() {
    in_cluster(async |cluster| {
        let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
        let c = cluster.container(0, 2, 302).await;
        let icmp = [(300, Protocol::ICMP, None), (300, Protocol::ICMPV6, None)];
        let rules = [&icmp[..], &[(300, Protocol::TCP, Some(80)), (300, Protocol::UDP, Some(53))]].concat();
        let map = policy(&rules);
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), map))).await;
        for there in b.addresses() {
            assert!(tcp(&a.namespace, &b.namespace, there, 80, Hope::Passes), "{there}");
            assert!(udp(&a.namespace, &b.namespace, there, 53, 1000, Hope::Passes), "{there}");
            assert!(udp(&a.namespace, &b.namespace, there, 53, 5000, Hope::Passes), "{there}, in fragments");
            assert_eq!(echo(&a.namespace, there, 64, 56, Hope::Passes), Answer::Reply, "{there}");
            assert!(!tcp(&a.namespace, &b.namespace, there, 81, Hope::Dropped), "{there}");
            assert!(!tcp(&c.namespace, &b.namespace, there, 80, Hope::Dropped), "{there}");
            // A hop on each node.
            assert_eq!(echo(&a.namespace, there, 1, 56, Hope::Passes), Answer::TimeExceeded, "{there}");
            assert_eq!(echo(&a.namespace, there, 3, 56, Hope::Passes), Answer::Reply, "{there}");
        }
        // The other way nothing is in the way; and a policy that goes cuts what is open.
        let (mut client, mut server) = tcp_stream(&b.namespace, &a.namespace, a.v4(), 80, Hope::Passes).unwrap();
        let (mut caller, mut called) = tcp_stream(&a.namespace, &b.namespace, b.v6(), 80, Hope::Passes).unwrap();
        assert!(talk(&mut client, &mut server) && talk(&mut caller, &mut called));
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), policy(&[])))).await;
        assert!(talk(&mut client, &mut server));
        assert!(is_cut(&mut caller, &mut called) && is_cut(&mut called, &mut caller));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn hosts_and_containers_of_two_nodes_reach_each_other() {
    in_cluster(async |cluster| {
        let b = cluster.container(1, 513, 301).await;
        let rules = [(Identity::REMOTE_NODE.0, Protocol::TCP, Some(80))];
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), policy(&rules)))).await;
        for there in b.addresses() {
            assert!(tcp(&Here, &b.namespace, there, 80, Hope::Passes), "{there}");
            assert!(!tcp(&Here, &b.namespace, there, 81, Hope::Dropped), "{there}");
        }
        for node in [IpAddr::from(NODES[0].0), NODES[0].1.into()] {
            assert!(tcp(&b.namespace, &Here, node, 80, Hope::Passes), "{node}");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn nobody_but_a_node_speaks_through_the_tunnel() {
    in_cluster(async |cluster| {
        let b = cluster.container(1, 513, 301).await;
        let a = cluster.container(0, 1, 300).await;
        // Somebody on the underlay who is no node, with all that a node would write.
        let stranger = match cluster.underlay {
            Underlay::V4 => IpAddr::from([172, 31, 0, 66]),
            Underlay::V6 => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x66).into(),
        };
        ip(&format!("addr add {stranger}/128 dev uplink0")
            .replace("/128", if stranger.is_ipv4() { "/32" } else { "/128 nodad" }));
        let receiver = b.namespace.run(|| UdpSocket::bind((b.v4(), 9000))).unwrap().unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        let received = || receiver.recv(&mut [0; 64]).is_ok();
        let send = |from: IpAddr, identity: u32, source: IpAddr| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            let frame = vxlan(identity, source, b.v4(), 9000);
            socket.send_to(&frame, (cluster.underlay.of(1), PORT)).unwrap();
        };
        send(cluster.underlay.of(0), 300, a.v4());
        assert!(received(), "what is sent is what a node would send");
        let refused = |reason: u32, from, identity, source| {
            let before = cluster.dropped(1, reason);
            send(from, identity, source);
            eventually("it is refused", || cluster.dropped(1, reason) > before);
            assert!(!received());
        };
        refused(172, stranger, 300, a.v4());
        // A node itself does not give out identities that are not its to give, nor addresses that are another's.
        refused(171, cluster.underlay.of(0), 9, a.v4());
        refused(171, cluster.underlay.of(0), 302, a.v4());
        refused(132, cluster.underlay.of(0), 300, IpAddr::from([10, 15, 3, 7]));
        refused(132, cluster.underlay.of(0), 301, b.v4());
        refused(132, cluster.underlay.of(0), 300, GATEWAY4.into());
        // Nor does a container write into the tunnel.
        let frame = vxlan(301, a.v4(), b.v4(), 9000);
        let socket = a.namespace.run(|| UdpSocket::bind((a.v4(), 0))).unwrap().unwrap();
        let before = cluster.dropped(0, 170);
        socket.send_to(&frame, (IpAddr::from(NODES[1].0), PORT)).unwrap();
        eventually("it is refused", || cluster.dropped(0, 170) > before);
        // And the bare packet from the underlay is no better.
        let way = format!("route replace {}/32 via {} dev uplink0", b.v4(), NODES[1].0);
        ip(&way);
        ip(&format!("addr add {}/32 dev lo", a.v4()));
        let before = cluster.dropped(1, 132);
        UdpSocket::bind((a.v4(), 0)).unwrap().send_to(b"hello", (b.v4(), 9000)).unwrap();
        eventually("it is refused", || cluster.dropped(1, 132) > before);
        assert!(!received());
    });
}

/// VXLAN header, Ethernet frame, IPv4 datagram.
fn vxlan(identity: u32, source: IpAddr, destination: IpAddr, port: u16) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { panic!("IPv4") };
    let mut bytes = [8, 0, 0, 0].to_vec();
    bytes.extend((identity << 8).to_be_bytes());
    bytes.extend([2, 9, 9, 9, 9, 9, 2, 9, 9, 9, 9, 8, 8, 0]);
    let mut header = [0x45, 0, 0, 33, 0, 1, 0, 0, 64, 17, 0, 0].to_vec();
    header.extend(source.octets());
    header.extend(destination.octets());
    let mut sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes.extend(header);
    bytes.extend(5000u16.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend([0, 13, 0, 0]);
    bytes.extend(b"hello");
    bytes
}

#[test]
#[ignore = "needs root: make test"]
fn a_node_that_is_gone_is_heard_no_more() {
    in_cluster(async |cluster| {
        let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
        let (mut client, mut server) = tcp_stream(&a.namespace, &b.namespace, b.v4(), 80, Hope::Passes).unwrap();
        cluster.nodes[1]
            .must(|desired| {
                desired.vteps.clear();
                desired.nodes.clear();
                desired.ipcache.retain(|_, entry| entry.identity != Identity(300));
            })
            .await;
        assert!(is_cut(&mut client, &mut server) && is_cut(&mut server, &mut client));
        assert_eq!(cluster.nodes[1].handle().tables.tunnel().unwrap(), []);
        // It comes back with what it had.
        let entry = IpcacheEntry { identity: Identity(300), endpoint: None };
        cluster.nodes[1]
            .must(|desired| {
                cluster.introduce(1, desired);
                desired.ipcache.extend(a.addresses().map(|address| (address.into(), entry)));
            })
            .await;
        assert!(tcp(&a.namespace, &b.namespace, b.v6(), 80, Hope::Passes));
        // A container that is gone leaves nothing behind.
        cluster.nodes[1].must(|desired| remove(desired, 513)).await;
        assert!(!cluster.nodes[1].handle().tables.endpoints().unwrap().iter().any(|row| row.id == EndpointId(513)));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn no_packet_between_nodes_is_lost_over_restarts() {
    for attach in [Attach::Auto, Attach::Clsact] {
        in_node(async |bpffs| {
            let mut cluster = Cluster::start(&bpffs, Underlay::V4, attach).await;
            let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
            let rules = [(300, Protocol::TCP, Some(80)), (300, Protocol::UDP, None)];
            cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), policy(&rules)))).await;
            let (mut client, mut server) = tcp_stream(&a.namespace, &b.namespace, b.v4(), 80, Hope::Passes).unwrap();
            let stream = crate::restart::Stream::start(&a, &b);
            for n in [0, 1, 0, 1] {
                cluster.restart(n).await;
                assert!(talk(&mut client, &mut server), "an open connection goes on");
            }
            // While nothing runs, what is pinned works on.
            cluster.nodes.iter_mut().for_each(|node| node.handle = None);
            assert!(tcp(&a.namespace, &b.namespace, b.v6(), 80, Hope::Passes));
            assert!(!tcp(&a.namespace, &b.namespace, b.v4(), 81, Hope::Dropped));
            let (sent, received) = stream.finish();
            assert_eq!(sent, received);
            assert!(sent > 100, "{sent}");
        });
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_tunnel_device_is_kept_and_goes_with_the_setting() {
    in_node(async |bpffs| {
        let mut cluster = Cluster::start(&bpffs, Underlay::V4, Attach::Auto).await;
        let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
        let reaches = || tcp(&a.namespace, &b.namespace, b.v4(), 80, Hope::Dropped);
        ip("link del cilium_vxlan");
        eventually("the device comes back", reaches);
        ip("link set cilium_vxlan down");
        eventually("the device is taken up", reaches);
        // Another port is another device.
        for n in 0..2 {
            cluster.nodes[n].config.tunnel = Tunnel::Vxlan { port: 4789 };
            cluster.restart(n).await;
        }
        let deadline = Instant::now() + PATIENCE;
        while !reaches() {
            assert!(Instant::now() < deadline, "over another port");
        }
        assert!(ip("-d link show cilium_vxlan").contains("dstport 4789"));
        cluster.nodes[0].config.tunnel = Tunnel::Disabled;
        cluster.restart(0).await;
        assert!(!ip("link show").contains("cilium_vxlan"));
        assert_eq!(cluster.nodes[0].handle().tables.tunnel().unwrap(), []);
        assert!(!reaches());
    });
}

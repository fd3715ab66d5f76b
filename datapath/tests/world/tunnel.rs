//! Two nodes on one underlay: containers, hosts, and strangers who send tunnel packets.

use crate::lab::{
    Container, GATEWAY4, Node, PATIENCE, config, eventually, in_node, ip, move_link, net, policy, remove, run,
};
use crate::outside::publish;
use crate::traffic::{Answer, Here, Hope, echo, is_cut, talk, tcp, tcp_stream, translated, udp};
use datapath::netns::Namespace;
use datapath::{Attach, Config, GeneveBy, NodeAddresses, Tunnel, features};
use ipnetwork::IpNetwork;
use model::desired::{Datapath, IpcacheEntry};
use model::{EndpointId, Identity, L4Address, Protocol};
use nix::sched::{CloneFlags, setns};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const VXLAN: Tunnel = Tunnel::Vxlan { port: 8472 };
const GENEVE_PORT: u16 = 6081;
const BY_PROGRAMS: Tunnel = Tunnel::Geneve { port: GENEVE_PORT, by: GeneveBy::Programs };
const BY_DEVICE: Tunnel = Tunnel::Geneve { port: GENEVE_PORT, by: GeneveBy::Device };

/// What the two nodes speak: each pair that understands each other, as far as this kernel has the devices.
fn modes() -> Vec<[Tunnel; 2]> {
    let (device, programs) = (features::geneve_device().is_ok(), features::changes_family().unwrap());
    let mut modes = vec![[VXLAN; 2]];
    modes.extend(programs.then_some([BY_PROGRAMS; 2]));
    modes.extend(device.then_some([BY_DEVICE; 2]));
    if device && programs {
        modes.extend([[BY_PROGRAMS, BY_DEVICE], [BY_DEVICE, BY_PROGRAMS]]);
    }
    modes
}

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
    /// By IPv6, and the nodes have no IPv4 address at all.
    V6Alone,
}

impl Underlay {
    fn of(self, node: usize) -> IpAddr {
        if self == Underlay::V4 { NODES[node].0.into() } else { NODES[node].1.into() }
    }

    /// What it leaves of 1500 bytes.
    fn mtu(self) -> u32 {
        if self == Underlay::V4 { 1450 } else { 1430 }
    }

    /// All underlay addresses of a node.
    fn addresses(self, node: usize) -> impl Iterator<Item = IpAddr> {
        let (v4, v6) = NODES[node];
        let v4 = (self != Underlay::V6Alone).then_some(v4);
        v4.map(IpAddr::V4).into_iter().chain([v6.into()])
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
pub struct Cluster {
    pub nodes: [Node; 2],
    there: Namespace,
    underlay: Underlay,
}

/// Connects the two nodes.
fn join(there: &Namespace) {
    ip("link add uplink0 type veth peer name uplink1");
    move_link("uplink1", there);
    for (n, (v4, v6)) in NODES.iter().enumerate() {
        let _visit = (n == 1).then(|| Visit::to(there));
        ip(&format!("addr add {v4}/24 dev uplink{n}"));
        ip(&format!("addr add {v6}/64 dev uplink{n} nodad"));
        ip(&format!("link set uplink{n} up"));
    }
}

impl Cluster {
    async fn start(bpffs: &Path, underlay: Underlay, attach: Attach, tunnels: [Tunnel; 2]) -> Cluster {
        Cluster::of(bpffs, underlay, tunnels, Config { attach, ..config(bpffs) }).await
    }

    /// Nodes of which the network between them brings each other's pods their packets.
    pub async fn native(bpffs: &Path) -> Cluster {
        let native = PODS.as_flattened().iter().map(|prefix| net(prefix)).collect();
        Cluster::of(bpffs, Underlay::V4, [Tunnel::Disabled; 2], Config { native, ..config(bpffs) }).await
    }

    pub async fn vxlan(bpffs: &Path, settings: Config) -> Cluster {
        Cluster::of(bpffs, Underlay::V4, [VXLAN; 2], settings).await
    }

    /// Whether a tunnel leads to the other node.
    pub fn is_tunnelled(&self) -> bool {
        self.nodes[0].config.tunnel != Tunnel::Disabled
    }

    /// Underlay addresses of a node, IPv4 first.
    pub fn addresses(&self, node: usize) -> Vec<IpAddr> {
        self.underlay.addresses(node).collect()
    }

    async fn of(bpffs: &Path, underlay: Underlay, tunnels: [Tunnel; 2], settings: Config) -> Cluster {
        let there = Namespace::create().unwrap();
        join(&there);
        let mut nodes = Vec::new();
        for (n, tunnel) in tunnels.into_iter().enumerate() {
            let _visit = (n == 1).then(|| Visit::to(&there));
            ip("link set lo up");
            if underlay == Underlay::V6Alone {
                ip(&format!("addr del {}/24 dev uplink{n}", NODES[n].0));
            }
            let v4 = (underlay != Underlay::V6Alone).then_some(NODES[n].0);
            let node = NodeAddresses { v4, v6: Some(NODES[n].1) };
            let config = Config { bpffs: bpffs.join(n.to_string()), node, tunnel, ..settings.clone() };
            std::fs::create_dir_all(&config.bpffs).unwrap();
            let mut node = Node::start(config).await;
            node.mtu = underlay.mtu();
            nodes.push(node);
        }
        let nodes = nodes.try_into().unwrap_or_else(|_| unreachable!("there are two"));
        let cluster = Cluster { nodes, there, underlay };
        for n in 0..2 {
            cluster.nodes[n].must(|desired| cluster.introduce(n, desired)).await;
        }
        cluster
    }

    /// Makes the underlay anew.
    fn join(&self) {
        join(&self.there);
    }

    /// What node `n` knows of both nodes.
    pub fn introduce(&self, n: usize, desired: &mut Datapath) {
        for other in 0..2 {
            let identity = if other == n { Identity::HOST } else { Identity::REMOTE_NODE };
            for address in self.underlay.addresses(other) {
                desired.ipcache.insert(address.into(), IpcacheEntry { identity, endpoint: None });
                Arc::make_mut(&mut desired.nodes).insert(address, self.underlay.of(other));
            }
        }
        let other = 1 - n;
        if self.is_tunnelled() {
            desired.tunnel_mtu = Some(self.underlay.mtu());
            Arc::make_mut(&mut desired.vteps).extend(PODS[other].map(|prefix| (net(prefix), self.underlay.of(other))));
        } else {
            let node = |prefix: IpNetwork| if prefix.is_ipv4() { NODES[other].0.into() } else { NODES[other].1.into() };
            Arc::make_mut(&mut desired.hops).extend(PODS[other].map(net).map(|prefix| (prefix, node(prefix))));
        }
    }

    /// Does something in the namespace of node `n`.
    pub fn at<T>(&self, n: usize, work: impl FnOnce() -> T) -> T {
        let _place = self.place(n);
        work()
    }

    fn place(&self, n: usize) -> Option<Visit> {
        (n == 1).then(|| Visit::to(&self.there))
    }

    /// A container on node `n` that the other node has heard of.
    pub async fn container(&self, n: usize, id: u16, identity: u32) -> Container {
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

    pub async fn restart(&mut self, n: usize) {
        let _visit = (n == 1).then(|| Visit::to(&self.there));
        self.nodes[n].restart().await;
    }

    /// How often node `n` dropped what came in for a reason.
    pub fn dropped(&self, n: usize, reason: u32) -> u64 {
        let metrics = self.nodes[n].handle().tables.metrics().unwrap();
        metrics.iter().filter(|metric| u32::from(metric.reason.0) == reason).map(|metric| metric.packets).sum()
    }
}

/// A test on two nodes, once for each mode and each family of the underlay.
pub fn in_cluster<F: Future<Output = ()>>(test: impl Fn(Cluster) -> F + Send + Sync) {
    for tunnels in modes() {
        for underlay in [Underlay::V4, Underlay::V6] {
            eprintln!("{tunnels:?} over {underlay:?}");
            in_node(async |bpffs| test(Cluster::start(&bpffs, underlay, Attach::Auto, tunnels).await).await);
        }
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
fn nodes_need_no_ipv4_of_their_own() {
    in_node(async |bpffs| {
        let cluster = Cluster::start(&bpffs, Underlay::V6Alone, Attach::Auto, [VXLAN; 2]).await;
        let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
        let rules = [(300, Protocol::TCP, Some(80)), (Identity::REMOTE_NODE.0, Protocol::TCP, Some(81))];
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), policy(&rules)))).await;
        for there in b.addresses() {
            assert!(tcp(&a.namespace, &b.namespace, there, 80, Hope::Passes), "{there}");
            assert!(!tcp(&a.namespace, &b.namespace, there, 81, Hope::Dropped), "{there}");
        }
        assert!(tcp(&Here, &b.namespace, b.v6(), 81, Hope::Passes));
    });
}

#[test]
#[ignore = "needs root: make test"]
fn what_is_too_large_for_the_tunnel_is_told_to_the_sender() {
    let test = async |cluster: Cluster| {
        let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
        let rules = [300].map(|from| [(from, Protocol::TCP, None), (from, Protocol::UDP, None)]).concat();
        let icmp = [(300, Protocol::ICMP, None), (300, Protocol::ICMPV6, None)];
        let map = policy(&[&rules[..], &icmp].concat());
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), map))).await;
        let largest = |there: IpAddr| cluster.underlay.mtu() as usize - 8 - if there.is_ipv4() { 20 } else { 40 };
        for there in b.addresses() {
            assert_eq!(echo(&a.namespace, there, 64, largest(there), Hope::Passes), Answer::Reply, "{there}");
        }
        let streams = b.addresses().map(|there| {
            tcp_stream(&a.namespace, &b.namespace, there, 80, Hope::Passes).unwrap_or_else(|| panic!("{there}"))
        });
        // The underlay shrinks below what the containers have.
        for n in 0..2 {
            let _place = cluster.place(n);
            let mtu = cluster.underlay.mtu() - 100;
            cluster.nodes[n].must(|desired| desired.tunnel_mtu = Some(mtu)).await;
            assert!(ip("link show cilium_vxlan").contains(&format!("mtu {mtu}")));
        }
        for (there, (mut client, mut server)) in b.addresses().into_iter().zip(streams) {
            assert_eq!(echo(&a.namespace, there, 64, largest(there), Hope::Passes), Answer::TooBig, "{there}");
            assert_eq!(echo(&a.namespace, there, 64, largest(there) - 100, Hope::Passes), Answer::Reply, "{there}");
            // What is open goes on, in smaller pieces.
            assert!(carries(&mut client, &mut server, 1 << 20), "{there}");
            // What was cut up already is cut up once more by an underlay that does so.
            if cluster.underlay == Underlay::V4 {
                assert!(udp(&a.namespace, &b.namespace, there, 53, 5000, Hope::Passes), "{there}, in fragments");
            }
        }
    };
    for underlay in [Underlay::V4, Underlay::V6] {
        in_node(async |bpffs| test(Cluster::start(&bpffs, underlay, Attach::Auto, [VXLAN; 2]).await).await);
    }
}

/// Whether so many bytes get from one end to the other.
pub fn carries(from: &mut std::net::TcpStream, to: &mut std::net::TcpStream, bytes: usize) -> bool {
    use std::io::{Read, Write};
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| from.write_all(&vec![7; bytes]).is_ok());
        let received = to.read_exact(&mut vec![0; bytes]).is_ok();
        // Should nothing have come, the sender must not wait for ever.
        let _ = to.shutdown(std::net::Shutdown::Both);
        received && sender.join().unwrap_or(false)
    })
}

#[test]
#[ignore = "needs root: make test"]
fn hosts_and_containers_of_two_nodes_reach_each_other() {
    in_cluster(async |cluster| {
        let b = cluster.container(1, 513, 301).await;
        let icmp = [Protocol::ICMP, Protocol::ICMPV6].map(|icmp| (Identity::REMOTE_NODE.0, icmp, None));
        let rules = [&[(Identity::REMOTE_NODE.0, Protocol::TCP, Some(80))], &icmp[..]].concat();
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), policy(&rules)))).await;
        for there in b.addresses() {
            assert!(tcp(&Here, &b.namespace, there, 80, Hope::Passes), "{there}");
            assert!(!tcp(&Here, &b.namespace, there, 81, Hope::Dropped), "{there}");
            for up in [true, false] {
                let (mut client, mut server) = tcp_stream(&Here, &b.namespace, there, 80, Hope::Passes).unwrap();
                let (from, to) = if up { (&mut client, &mut server) } else { (&mut server, &mut client) };
                assert!(carries(from, to, 1 << 20), "{there}");
            }
            assert_eq!(echo(&Here, there, 64, 5000, Hope::Passes), Answer::Reply, "{there}");
        }
        for node in [IpAddr::from(NODES[0].0), NODES[0].1.into()] {
            let (mut client, mut server) = tcp_stream(&b.namespace, &Here, node, 80, Hope::Passes).unwrap();
            assert!(carries(&mut client, &mut server, 1 << 20), "{node}");
            assert_eq!(echo(&b.namespace, node, 64, 5000, Hope::Passes), Answer::Reply, "{node}");
        }
        // Past the tunnel: a port that the other host translates, asked for by either of this one's addresses.
        let ports = NODES[1];
        let published = [("ip", IpAddr::V4(ports.0), b.v4()), ("ip6", ports.1.into(), b.v6())];
        for (family, asked, there) in published {
            let serves = SocketAddr::new(there, 80);
            cluster.at(1, || {
                run("nft", &format!("add table {family} other"));
                run("nft", &format!("add chain {family} other pre {{ type nat hook prerouting priority -100 ; }}"));
                run("nft", &format!("add rule {family} other pre tcp dport 8080 dnat to {serves}"));
            });
            let asked = SocketAddr::new(asked, 8080);
            assert!(translated(&Here, &b.namespace, asked, serves, Hope::Passes), "{asked}");
        }
    });
}

/// By way of the tunnel, as who they are.
#[test]
#[ignore = "needs root: make test"]
fn containers_reach_ports_that_another_node_publishes() {
    in_cluster(async |cluster| {
        let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
        let c = cluster.container(0, 2, 302).await;
        let rules = [(300, Protocol::TCP, Some(80))];
        let ports = [(IpAddr::from(NODES[1].0), b.v4()), (NODES[1].1.into(), b.v6())];
        cluster.nodes[1]
            .must(|desired| {
                desired.policies.insert(Identity(301), policy(&rules));
                for (host, to) in ports {
                    publish(desired, L4Address { ip: host, port: 8080, protocol: Protocol::TCP }, to, 80, None);
                }
            })
            .await;
        for (host, to) in ports {
            let (asked, serves) = (SocketAddr::new(host, 8080), SocketAddr::new(to, 80));
            assert!(translated(&a.namespace, &b.namespace, asked, serves, Hope::Passes), "{asked}");
            assert!(!translated(&c.namespace, &b.namespace, asked, serves, Hope::Dropped), "{asked}");
            // Neither end is confused by the other way to the same port.
            assert!(tcp(&a.namespace, &b.namespace, to, 80, Hope::Passes), "{to}");
            let listener = b.namespace.run(|| TcpListener::bind(serves)).unwrap().unwrap();
            let client = a.namespace.run(|| TcpStream::connect_timeout(&asked, PATIENCE)).unwrap();
            let (mut client, (mut server, peer)) = (client.unwrap(), listener.accept().unwrap());
            assert!(a.addresses().contains(&peer.ip()), "{peer}");
            assert!(carries(&mut client, &mut server, 1 << 20), "{asked}");
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
            Underlay::V6 | Underlay::V6Alone => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x66).into(),
        };
        ip(&format!("addr add {stranger}/128 dev uplink0")
            .replace("/128", if stranger.is_ipv4() { "/32" } else { "/128 nodad" }));
        let receiver = b.namespace.run(|| UdpSocket::bind((b.v4(), 9000))).unwrap().unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        let received = || receiver.recv(&mut [0; 64]).is_ok();
        let send = |from: IpAddr, identity: u32, source: IpAddr| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            let (port, frame) = tunnelled(cluster.nodes[1].config.tunnel, identity, source, b.v4());
            socket.send_to(&frame, (cluster.underlay.of(1), port)).unwrap();
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
        let (port, frame) = tunnelled(cluster.nodes[1].config.tunnel, 301, a.v4(), b.v4());
        let socket = a.namespace.run(|| UdpSocket::bind((a.v4(), 0))).unwrap().unwrap();
        let before = cluster.dropped(0, 170);
        socket.send_to(&frame, (IpAddr::from(NODES[1].0), port)).unwrap();
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

/// The tunnel's port, and what goes there to be taken for a datagram to port 9000.
fn tunnelled(tunnel: Tunnel, identity: u32, source: IpAddr, destination: IpAddr) -> (u16, Vec<u8>) {
    match tunnel {
        Tunnel::Vxlan { port } => (port, frame([8, 0, 0, 0], identity, source, destination, 9000)),
        Tunnel::Geneve { port, .. } => (port, frame([0, 0, 0x65, 0x58], identity, source, destination, 9000)),
        Tunnel::Disabled => panic!("there is no tunnel"),
    }
}

/// The start of a tunnel header, the network identifier, Ethernet frame, IPv4 datagram.
fn frame(header: [u8; 4], identity: u32, source: IpAddr, destination: IpAddr, port: u16) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { panic!("IPv4") };
    let mut bytes = header.to_vec();
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
                desired.vteps = Arc::default();
                desired.nodes = Arc::default();
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
    let modes = modes().into_iter().flat_map(|tunnels| [(Attach::Auto, tunnels), (Attach::Clsact, tunnels)]);
    for (attach, tunnels) in modes {
        in_node(async |bpffs| {
            let mut cluster = Cluster::start(&bpffs, Underlay::V4, attach, tunnels).await;
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
            let tables = [0, 1].map(|n| cluster.nodes[n].handle().tables.clone());
            cluster.nodes.iter_mut().for_each(|node| node.handle = None);
            assert!(tcp(&a.namespace, &b.namespace, b.v6(), 80, Hope::Passes));
            assert!(!tcp(&a.namespace, &b.namespace, b.v4(), 81, Hope::Dropped));
            let (sent, received) = stream.finish();
            assert_eq!(sent, received, "{:?}", tables.map(|tables| tables.metrics()));
            assert!(sent > 100, "{sent}");
        });
    }
}

#[test]
#[ignore = "needs root: make test"]
fn the_tunnel_device_is_kept_and_goes_with_the_setting() {
    in_node(async |bpffs| {
        let mut cluster = Cluster::start(&bpffs, Underlay::V4, Attach::Auto, [VXLAN; 2]).await;
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

#[test]
#[ignore = "needs root: make test"]
fn programs_that_speak_geneve_come_and_go_with_the_setting() {
    for attach in [Attach::Auto, Attach::Clsact] {
        in_node(async |bpffs| {
            let mut cluster = Cluster::start(&bpffs, Underlay::V4, attach, [BY_PROGRAMS; 2]).await;
            let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
            let reaches = || tcp(&a.namespace, &b.namespace, b.v4(), 80, Hope::Dropped);
            let on_the_uplink = |bpffs: &Path| {
                let filters = run("tc", "filter show dev uplink0 ingress");
                let pins = std::fs::read_dir(bpffs.join("0/cilium/links")).unwrap();
                let pinned = pins.filter(|pin| pin.as_ref().unwrap().file_name().to_string_lossy().starts_with("dev"));
                (filters.contains("from_underlay"), pinned.count())
            };
            let filtered = attach == Attach::Clsact;
            assert_eq!(on_the_uplink(&bpffs), (filtered, 1));
            assert!(reaches());
            let raised = || ip("link show").lines().any(|l| l.contains("cilium_geneve@") && l.contains(",UP,LOWER_UP"));
            ip("link del cilium_geneve");
            assert!(reaches(), "containers do without it");
            eventually("the pair comes back", raised);
            ip("link set cilium_geneve down");
            eventually("it is taken up", raised);
            // The uplink is made anew: what was on it is gone, and comes back with its address.
            ip("link del uplink0");
            cluster.join();
            eventually("the new uplink has the program", reaches);
            assert_eq!(on_the_uplink(&bpffs), (filtered, 1));
            // One node after the other speaks something else.
            for n in 0..2 {
                cluster.nodes[n].config.tunnel = VXLAN;
                cluster.restart(n).await;
            }
            eventually("over the other tunnel", reaches);
            assert_eq!(on_the_uplink(&bpffs), (false, 0));
            assert!(!ip("link show").contains("cilium_geneve"));
            for n in 0..2 {
                cluster.nodes[n].config.tunnel = BY_PROGRAMS;
                cluster.restart(n).await;
            }
            eventually("and back", reaches);
            assert!(!ip("link show").contains("cilium_vxlan"));
            cluster.nodes[0].handle = None;
            let report = datapath::cleanup::cleanup(&bpffs.join("0"), datapath::cleanup::What::ALL);
            assert_eq!(report.failed, Vec::<String>::new());
            assert!(!run("tc", "filter show dev uplink0 ingress").contains("from_underlay"));
            assert!(!ip("link show").contains("cilium_geneve"));
        });
    }
}

/// Sends so much that it goes in packets that are cut late or not at all, and sees it arrive.
fn stream(from: &Container, to: &Container, there: IpAddr) {
    let (mut client, mut server) = tcp_stream(&from.namespace, &to.namespace, there, 80, Hope::Passes).unwrap();
    let sent: Vec<u8> = (0..4_000_000u32).map(|n| (n % 251) as u8).collect();
    let reader = std::thread::spawn(move || {
        let mut received = vec![0; 4_000_000];
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        server.read_exact(&mut received).map(|()| received)
    });
    client.write_all(&sent).unwrap();
    assert!(reader.join().unwrap().unwrap() == sent, "{there}");
}

#[test]
#[ignore = "needs root: make test"]
fn large_streams_and_datagrams_pass_every_mode() {
    in_cluster(async |cluster| {
        let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
        for there in b.addresses() {
            stream(&a, &b, there);
            assert!(udp(&a.namespace, &b.namespace, there, 53, 20_000, Hope::Passes), "{there}, in many fragments");
        }
    });
}

/// Nodes whose kernels differ: one has a Geneve device, the other's programs speak it. So do kernels on which programs
/// cannot change a packet's family, of whose containers those of the underlay's family are reached.
#[test]
#[ignore = "needs root: make test"]
fn programs_and_devices_speak_one_geneve() {
    const WRITE_ERROR: u32 = 141;
    let mut pairs = vec![[BY_PROGRAMS; 2]];
    if features::geneve_device().is_ok() {
        pairs.extend([[BY_DEVICE; 2], [BY_PROGRAMS, BY_DEVICE], [BY_DEVICE, BY_PROGRAMS]]);
    }
    let changes_family = features::changes_family().unwrap();
    for tunnels in pairs {
        for underlay in [Underlay::V4, Underlay::V6] {
            eprintln!("{tunnels:?} over {underlay:?}");
            in_node(async |bpffs| {
                let cluster = Cluster::start(&bpffs, underlay, Attach::Auto, tunnels).await;
                let (a, b) = (cluster.container(0, 1, 300).await, cluster.container(1, 513, 301).await);
                let c = cluster.container(0, 2, 302).await;
                let rules = policy(&[(300, Protocol::TCP, Some(80))]);
                cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), rules))).await;
                for there in b.addresses() {
                    let crosses = there.is_ipv4() != (underlay == Underlay::V4);
                    let by_programs = |n: usize| tunnels[n] == BY_PROGRAMS;
                    if crosses && !changes_family && (by_programs(0) || by_programs(1)) {
                        assert!(!tcp(&a.namespace, &b.namespace, there, 80, Hope::Dropped), "{there}");
                        let told = (0..2).any(|n| by_programs(n) && cluster.dropped(n, WRITE_ERROR) > 0);
                        assert!(told, "{there}: what cannot be taken out is counted");
                        continue;
                    }
                    stream(&a, &b, there);
                    assert!(!tcp(&a.namespace, &b.namespace, there, 81, Hope::Dropped), "{there}");
                    assert!(!tcp(&c.namespace, &b.namespace, there, 80, Hope::Dropped), "{there}");
                }
            });
        }
    }
}

//! Services that somebody outside asks one node for, and a container of the other one serves.

use crate::lab::{PATIENCE, config, eventually, in_node, ip, move_link, policy};
use crate::outside::behind_a_narrow_way;
use crate::traffic::{Hope, Place, is_cut, talk, translated};
use crate::tunnel::{Cluster, carries, in_cluster};
use datapath::netns::Namespace;
use datapath::{Config, Timeouts};
use model::desired::{Datapath, IpcacheEntry};
use model::service::{Algorithm, ServiceType, Table};
use model::{Identity, L4Address, LoadBalancer, PolicyMap, Protocol, ServiceId};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// Node 0 and a client of its own network.
const NODE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const CLIENT4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const TCP_PORT: u16 = 30_080;
const UDP_PORT: u16 = 30_053;

/// The world is on a network with node 0 alone.
fn outside() -> Namespace {
    let client = Namespace::create().unwrap();
    ip("link add front0 type veth peer name client0");
    move_link("client0", &client);
    ip(&format!("addr add {NODE4}/24 dev front0"));
    ip(&format!("addr add {NODE6}/64 dev front0 nodad"));
    ip("link set front0 up");
    client.at(|| {
        ip("link set lo up");
        ip(&format!("addr add {CLIENT4}/24 dev client0"));
        ip(&format!("addr add {CLIENT6}/64 dev client0 nodad"));
        ip("link set client0 up");
        ip(&format!("route add default via {NODE4}"));
        ip(&format!("-6 route add default via {NODE6}"));
    });
    client
}

fn serve(desired: &mut Datapath, kind: ServiceType, at: (IpAddr, u16, Protocol), backends: &[(IpAddr, u16)]) {
    let (address, port, protocol) = at;
    let table = Table { by: Algorithm::Random, places: (0..backends.len() as u16).collect() };
    let service = LoadBalancer {
        id: ServiceId(1),
        kind,
        backends: backends.iter().map(|(ip, port)| L4Address { ip: *ip, port: *port, protocol }).collect(),
        internal: table.clone(),
        external: table,
        affinity: None,
        source_ranges: None,
    };
    desired.services.insert(L4Address { ip: address, port, protocol }, Arc::new(service));
}

/// Node 0 has node ports for the container.
async fn published(cluster: &Cluster, container: &crate::lab::Container) {
    let hosts = [(IpAddr::from(NODE4), container.v4()), (NODE6.into(), container.v6())];
    cluster.nodes[0]
        .must(|desired| {
            for (host, to) in hosts {
                desired.ipcache.insert(host.into(), IpcacheEntry { identity: Identity::HOST, endpoint: None });
                serve(desired, ServiceType::NodePort, (host, TCP_PORT, Protocol::TCP), &[(to, 80)]);
                serve(desired, ServiceType::NodePort, (host, UDP_PORT, Protocol::UDP), &[(to, 53)]);
            }
        })
        .await;
    heard(cluster);
}

/// The program that hears services on the network of the client's was put there once the device was noticed.
fn heard(cluster: &Cluster) {
    let prefix = format!("dev{}_", nix::net::if_::if_nametoindex("front0").unwrap());
    let links = cluster.nodes[0].config.bpffs.join("cilium/links");
    eventually("the client is heard", || {
        let names = std::fs::read_dir(&links).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.to_string_lossy().starts_with(&prefix))
    });
}

/// Whom a container of node 1 takes for the world: the tunnel says so, and without one it is the other node.
fn from_outside(cluster: &Cluster) -> Vec<(u32, Protocol, Option<u16>)> {
    let tunnelled = cluster.is_tunnelled();
    let outside =
        if tunnelled { vec![Identity::WORLD_IPV4, Identity::WORLD_IPV6] } else { vec![Identity::REMOTE_NODE] };
    let ports = [(Protocol::TCP, Some(80)), (Protocol::UDP, Some(53))];
    outside.iter().flat_map(|identity| ports.map(|(protocol, port)| (identity.0, protocol, port))).collect()
}

fn rules(cluster: &Cluster) -> Arc<PolicyMap> {
    policy(&from_outside(cluster))
}

/// A test by each tunnel and without one.
fn everywhere<F: Future<Output = ()>>(test: impl Fn(Cluster) -> F + Send + Sync) {
    in_cluster(&test);
    eprintln!("without a tunnel");
    in_node(async |bpffs| test(Cluster::native(&bpffs).await).await);
}

/// What is asked, by whom, and who serves it.
fn families(container: &crate::lab::Container) -> [(IpAddr, IpAddr, IpAddr); 2] {
    [(NODE4.into(), CLIENT4.into(), container.v4()), (NODE6.into(), CLIENT6.into(), container.v6())]
}

/// Whether a datagram is answered by an error at once. Hosts make few of them.
fn is_refused(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let refused = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
    socket.send(b"hello").is_err_and(|error| refused(&error))
        || socket.recv(&mut [0; 9]).is_err_and(|error| refused(&error))
}

fn open(client: &Namespace, listener: &TcpListener, asked: SocketAddr) -> (TcpStream, (TcpStream, SocketAddr)) {
    let stream = client.at(|| TcpStream::connect_timeout(&asked, PATIENCE));
    (stream.unwrap_or_else(|error| panic!("{asked}: {error}")), listener.accept().unwrap())
}

#[test]
#[ignore = "needs root: make test"]
fn the_world_reaches_containers_of_another_node() {
    everywhere(async |mut cluster| {
        let client = outside();
        let b = cluster.container(1, 513, 301).await;
        published(&cluster, &b).await;
        let allowed = rules(&cluster);
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), allowed))).await;
        let mut streams = Vec::new();
        for (host, there, to) in families(&b) {
            let asked = SocketAddr::new(host, TCP_PORT);
            let listener = b.namespace.at(|| TcpListener::bind((to, 80))).unwrap();
            let (mut near, (mut far, peer)) = open(&client, &listener, asked);
            assert!(cluster.addresses(0).contains(&peer.ip()), "{peer} is none of node 0's");
            assert!(carries(&mut near, &mut far, 1 << 20), "{asked}");
            let (mut near, (mut far, _)) = open(&client, &listener, asked);
            assert!(carries(&mut far, &mut near, 1 << 20), "{asked}");
            streams.push(open(&client, &listener, asked));
            let server = b.namespace.at(|| UdpSocket::bind((to, 53))).unwrap();
            let socket = client.at(|| UdpSocket::bind((there, 0))).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            for bytes in [100, 5000] {
                let mut buffer = [0; 9000];
                let mut peer = None;
                // The first pieces may be too large for the tunnel yet.
                eventually(&format!("{bytes} bytes come to {asked}"), || {
                    socket.send_to(&vec![7; bytes], (host, UDP_PORT)).unwrap();
                    peer =
                        server.recv_from(&mut buffer).ok().filter(|(length, _)| *length == bytes).map(|(_, peer)| peer);
                    peer.is_some()
                });
                server.send_to(&buffer[..bytes], peer.unwrap()).unwrap();
                let (length, answerer) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((length, answerer), (bytes, SocketAddr::new(host, UDP_PORT)));
            }
        }
        // Nothing is lost by new agents; and a policy that goes cuts what is open.
        for n in [0, 1] {
            cluster.restart(n).await;
            assert!(streams.iter_mut().all(|(near, (far, _))| talk(near, far)), "after node {n}");
        }
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), policy(&[])))).await;
        assert!(streams.iter_mut().all(|(near, (far, _))| is_cut(near, far) && is_cut(far, near)));
        for (host, _, to) in families(&b) {
            let (asked, serves) = (SocketAddr::new(host, TCP_PORT), SocketAddr::new(to, 80));
            assert!(!translated(&client, &b.namespace, asked, serves, Hope::Dropped), "{asked}");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn errors_find_their_way_through_another_node() {
    everywhere(async |cluster| {
        let client = outside();
        let b = cluster.container(1, 513, 301).await;
        published(&cluster, &b).await;
        let allowed = rules(&cluster);
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), allowed))).await;
        let far = behind_a_narrow_way(&client, "198.51.100", "2001:db8:1");
        ip(&format!("route add 198.51.100.0/24 via {CLIENT4}"));
        ip(&format!("-6 route add 2001:db8:1::/64 via {CLIENT6}"));
        for (host, there, to) in families(&b) {
            // Nobody listens there.
            let socket = client.at(|| UdpSocket::bind((there, 0))).unwrap();
            socket.connect((host, UDP_PORT)).unwrap();
            eventually("the client is told that nobody listens", || is_refused(&socket));
            // A router on the way back takes no packets as large as the container sends.
            let listener = b.namespace.at(|| TcpListener::bind((to, 80))).unwrap();
            let (mut near, (mut server, _)) = open(&far, &listener, SocketAddr::new(host, TCP_PORT));
            assert!(carries(&mut server, &mut near, 1 << 20), "{host}");
            // What is too large for the tunnel is told to who sent it, who sends it in pieces then.
            let server = b.namespace.at(|| UdpSocket::bind((to, 53))).unwrap();
            server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let socket = client.at(|| UdpSocket::bind((there, 0))).unwrap();
            let mut buffer = [0; 1500];
            eventually("a large datagram comes through", || {
                socket.send_to(&[7; 1440], (host, UDP_PORT)).unwrap();
                server.recv(&mut buffer).is_ok_and(|length| length == 1440)
            });
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn containers_ask_another_node_for_its_ports_as_who_they_are() {
    everywhere(async |cluster| {
        let _client = outside();
        // Node 0 is asked, from node 1, for what node 1 serves.
        let (b, c) = (cluster.container(1, 513, 301).await, cluster.container(1, 514, 302).await);
        let stranger = cluster.container(1, 515, 303).await;
        // Every node's policies are complete about all of them.
        let identities = [301, 302, 303].map(|identity| (Identity(identity), ()));
        cluster.nodes[1].must(|desired| desired.identities.extend(identities)).await;
        let hosts = [(cluster.addresses(0)[0], b.v4()), (cluster.addresses(0)[1], b.v6())];
        cluster.nodes[0]
            .must(|desired| {
                for (host, to) in hosts {
                    serve(desired, ServiceType::NodePort, (host, TCP_PORT, Protocol::TCP), &[(to, 80)]);
                    serve(desired, ServiceType::NodePort, (host, TCP_PORT + 1, Protocol::TCP), &[]);
                }
            })
            .await;
        let asker = if cluster.is_tunnelled() { 302 } else { Identity::REMOTE_NODE.0 };
        let allowed = policy(&[(asker, Protocol::TCP, Some(80))]);
        cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), allowed))).await;
        for (host, to) in hosts {
            let (asked, serves) = (SocketAddr::new(host, TCP_PORT), SocketAddr::new(to, 80));
            assert!(translated(&c.namespace, &b.namespace, asked, serves, Hope::Passes), "{asked}");
            let listener = b.namespace.at(|| TcpListener::bind(serves)).unwrap();
            let (mut near, (mut far, _)) = open(&c.namespace, &listener, asked);
            assert!(carries(&mut near, &mut far, 1 << 20), "{asked}");
            drop(listener);
            if cluster.is_tunnelled() {
                assert!(!translated(&stranger.namespace, &b.namespace, asked, serves, Hope::Dropped), "{asked}");
            }
            // One's own port, by way of the other node.
            let own = policy(&[(asker, Protocol::TCP, Some(80)), (301, Protocol::TCP, Some(80))]);
            cluster.nodes[1].must(|desired| drop(desired.policies.insert(Identity(301), own))).await;
            assert!(translated(&b.namespace, &b.namespace, asked, serves, Hope::Passes), "{asked}");
            let nobody = SocketAddr::new(host, TCP_PORT + 1);
            let refused = c.namespace.at(|| TcpStream::connect_timeout(&nobody, PATIENCE)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{nobody}");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn the_world_is_refused_at_once_where_nobody_serves() {
    in_node(async |bpffs| {
        let cluster = Cluster::native(&bpffs).await;
        let client = outside();
        let address = Ipv4Addr::new(203, 0, 113, 10);
        let b = cluster.container(1, 513, 301).await;
        let local = cluster.container(0, 1, 300).await;
        let asked = |port| SocketAddr::from((address, port));
        cluster.nodes[0]
            .must(|desired| {
                serve(desired, ServiceType::ExternalIp, (address.into(), 80, Protocol::TCP), &[(b.v4(), 80)]);
                serve(desired, ServiceType::ExternalIp, (address.into(), 81, Protocol::TCP), &[]);
                serve(desired, ServiceType::ExternalIp, (address.into(), 81, Protocol::UDP), &[]);
                serve(desired, ServiceType::ClusterIp, (address.into(), 82, Protocol::TCP), &[(b.v4(), 80)]);
            })
            .await;
        heard(&cluster);
        assert!(translated(&client, &b.namespace, asked(80), SocketAddr::new(b.v4(), 80), Hope::Passes));
        assert!(translated(&local.namespace, &b.namespace, asked(80), SocketAddr::new(b.v4(), 80), Hope::Passes));
        let refused = client.at(|| TcpStream::connect_timeout(&asked(81), PATIENCE)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let socket = client.at(|| UdpSocket::bind((CLIENT4, 0))).unwrap();
        socket.connect(asked(81)).unwrap();
        eventually("the client is told that nobody serves", || is_refused(&socket));
        // What is the cluster's own is no business of the world's.
        let before = cluster.dropped(0, 174);
        assert!(!translated(&client, &b.namespace, asked(82), SocketAddr::new(b.v4(), 80), Hope::Dropped));
        assert!(cluster.dropped(0, 174) > before);
    });
}

/// Two clients with one port of theirs, more clients than there are ports, and ports that are free again.
#[test]
#[ignore = "needs root: make test"]
fn each_client_has_a_port_of_the_nodes_for_itself() {
    in_node(async |bpffs| {
        let timeouts = Timeouts { closing: Duration::from_secs(1), ..Timeouts::default() };
        let settings = Config { snat_ports: 2000..=2003, timeouts, ..config(&bpffs) };
        let cluster = Cluster::vxlan(&bpffs, settings).await;
        let client = outside();
        client.at(|| ip("addr add 192.0.2.3/24 dev client0"));
        let b = cluster.container(1, 513, 301).await;
        published(&cluster, &b).await;
        let listener = b.namespace.at(|| TcpListener::bind((b.v4(), 80))).unwrap();
        let asked = SocketAddr::from((NODE4, TCP_PORT));
        let from = |last: u8, port: u16| client.at(|| connect(SocketAddr::from(([192, 0, 2, last], port)), asked));
        let mut streams = Vec::new();
        for (last, port) in [(2, 2000), (3, 2000), (2, 4000), (3, 4000)] {
            let near = from(last, port).unwrap();
            let (far, peer) = listener.accept().unwrap();
            assert!((2000..=2003).contains(&peer.port()), "{peer}");
            streams.push((near, far, peer));
        }
        let ports: std::collections::BTreeSet<u16> = streams.iter().map(|(_, _, peer)| peer.port()).collect();
        assert_eq!(ports.len(), 4);
        assert!(streams.iter_mut().all(|(near, far, _)| talk(near, far)));
        let rows = cluster.nodes[0].handle().tables.nat(10).unwrap();
        assert_eq!(rows.len(), 4, "{rows:?}");
        let before = cluster.dropped(0, 161);
        assert!(from(2, 5000).is_err());
        assert!(cluster.dropped(0, 161) > before);
        assert!(streams.iter_mut().all(|(near, far, _)| talk(near, far)));
        // One goes, and its port is another one's once its flow is over.
        drop(streams.remove(0));
        let mut port = 5000;
        eventually("a port is free again", || {
            port += 1;
            from(3, port).is_ok()
        });
        assert!(streams.iter_mut().all(|(near, far, _)| talk(near, far)));
    });
}

/// Connects from an address and port of one's own; not for long.
fn connect(local: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let fd = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(local))?;
    // Linux heeds this while it connects (socket(7)).
    socket::setsockopt(&fd, socket::sockopt::SendTimeout, &TimeVal::milliseconds(300))?;
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(fd))
}

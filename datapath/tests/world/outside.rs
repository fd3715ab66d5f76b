//! Services for who comes from outside: ports of the host that are a container's.

use crate::lab::{Node, World, config, eventually, in_node, ip, move_link, policy};
use crate::traffic::{Here, Hope, Place, is_cut, talk, tcp, translated};
use crate::tunnel::carries;
use datapath::netns::Namespace;
use model::desired::{Datapath, IpcacheEntry};
use model::service::{Algorithm, ServiceType, Table};
use model::{Identity, L4Address, LoadBalancer, Protocol, ServiceId};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

const PUBLISHED: u16 = 8080;

fn l4(ip: IpAddr, port: u16, protocol: Protocol) -> L4Address {
    L4Address { ip, port, protocol }
}

/// A port of the host that is a container's.
pub fn publish(desired: &mut Datapath, at: L4Address, to: IpAddr, port: u16, sources: Option<&str>) {
    let table = Table { by: Algorithm::Random, places: [0].into() };
    let service = LoadBalancer {
        id: ServiceId(1),
        kind: ServiceType::HostPort,
        backends: [l4(to, port, at.protocol)].into(),
        internal: table.clone(),
        external: table,
        affinity: None,
        source_ranges: sources.map(|range| [range.parse().unwrap()].into()),
    };
    desired.services.insert(at, Arc::new(service));
}

/// A node with a container and a port of each of its addresses for it.
async fn published(bpffs: &std::path::Path) -> (World, Node, crate::lab::Container) {
    let world = World::new();
    let node = Node::start(config(bpffs)).await;
    let container = node.container(1, 300).await;
    let hosts = [(IpAddr::from(World::NODE4), container.v4()), (World::NODE6.into(), container.v6())];
    node.must(|desired| {
        for (host, to) in hosts {
            desired.ipcache.insert(host.into(), IpcacheEntry { identity: Identity::HOST, endpoint: None });
            publish(desired, l4(host, PUBLISHED, Protocol::TCP), to, 80, None);
            publish(desired, l4(host, PUBLISHED, Protocol::UDP), to, 53, None);
        }
    })
    .await;
    (world, node, container)
}

#[test]
#[ignore = "needs root: make test"]
fn the_world_reaches_published_ports_and_keeps_its_address() {
    in_node(async |bpffs| {
        let (world, mut node, container) = published(&bpffs).await;
        for (host, client, there) in [
            (IpAddr::from(World::NODE4), IpAddr::from(World::WORLD4), container.v4()),
            (World::NODE6.into(), World::WORLD6.into(), container.v6()),
        ] {
            let (asked, serves) = (SocketAddr::new(host, PUBLISHED), SocketAddr::new(there, 80));
            assert!(translated(&world.namespace, &container.namespace, asked, serves, Hope::Passes), "{asked}");
            let listener = container.namespace.at(|| TcpListener::bind(serves)).unwrap();
            let open = || {
                let client = world.namespace.at(|| TcpStream::connect_timeout(&asked, Duration::from_secs(20)));
                (client.unwrap(), listener.accept().unwrap())
            };
            let (mut to, (mut from, peer)) = open();
            assert_eq!(peer.ip(), client);
            assert!(carries(&mut to, &mut from, 1 << 20), "{asked}");
            let (mut to, (mut from, _)) = open();
            assert!(carries(&mut from, &mut to, 1 << 20), "{asked}");
            // Datagrams, in one piece and in several.
            let server = container.namespace.at(|| UdpSocket::bind((there, 53))).unwrap();
            let socket = world.namespace.at(|| UdpSocket::bind((client, 0))).unwrap();
            for socket in [&server, &socket] {
                socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            }
            for bytes in [100, 5000] {
                let mut buffer = [0; 9000];
                socket.send_to(&vec![7; bytes], (host, PUBLISHED)).unwrap();
                let (length, peer) = server.recv_from(&mut buffer).unwrap();
                assert_eq!((length, peer.ip()), (bytes, client));
                server.send_to(&buffer[..length], peer).unwrap();
                let (length, answerer) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((length, answerer), (bytes, SocketAddr::new(host, PUBLISHED)));
            }
            // Another port is the host's own.
            assert!(tcp(&world.namespace, &Here, host, PUBLISHED + 1, Hope::Passes), "{host}");
        }
        // What is open goes on through a new agent, and ends with the policy.
        let serves = SocketAddr::new(container.v4(), 80);
        let listener = container.namespace.at(|| TcpListener::bind(serves)).unwrap();
        let asked = SocketAddr::from((World::NODE4, PUBLISHED));
        let mut client = world.namespace.at(|| TcpStream::connect(asked)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        assert!(talk(&mut client, &mut server));
        node.restart().await;
        assert!(talk(&mut client, &mut server));
        // Judged again: who asks is the world.
        let world_alone = [(Identity::WORLD_IPV4.0, Protocol::TCP, Some(80))];
        node.must(|desired| drop(desired.policies.insert(Identity(300), policy(&world_alone)))).await;
        assert!(talk(&mut client, &mut server) && talk(&mut server, &mut client));
        node.must(|desired| drop(desired.policies.insert(Identity(300), policy(&[])))).await;
        assert!(is_cut(&mut client, &mut server) && is_cut(&mut server, &mut client));
        drop(listener);
        assert!(!translated(&world.namespace, &container.namespace, asked, serves, Hope::Dropped));
    });
}

/// Somebody to whom the router's way takes no packets as large as others. `v4` and `v6` begin the addresses of that network:
/// 1 is the router's, 2 his own.
pub fn behind_a_narrow_way(router: &Namespace, v4: &str, v6: &str) -> Namespace {
    let far = Namespace::create().unwrap();
    router.at(|| {
        ip("link add near type veth peer name far");
        move_link("far", &far);
        ip(&format!("addr add {v4}.1/24 dev near"));
        ip(&format!("addr add {v6}::1/64 dev near nodad"));
        ip("link set near mtu 1300");
        ip("link set near up");
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{name}"), "1").unwrap();
        }
    });
    far.at(|| {
        ip("link set lo up");
        ip(&format!("addr add {v4}.2/24 dev far"));
        ip(&format!("addr add {v6}::2/64 dev far nodad"));
        ip("link set far up");
        ip(&format!("route add default via {v4}.1"));
        ip(&format!("-6 route add default via {v6}::1"));
    });
    far
}

/// A router says to the host that its answers are too large; it is the container that must hear it.
#[test]
#[ignore = "needs root: make test"]
fn a_narrow_way_to_who_asks_is_told_to_the_container() {
    in_node(async |bpffs| {
        let (world, _node, container) = published(&bpffs).await;
        let far = behind_a_narrow_way(&world.namespace, "192.0.2", "2001:db8");
        for (host, there) in [(IpAddr::from(World::NODE4), container.v4()), (World::NODE6.into(), container.v6())] {
            let listener = container.namespace.at(|| TcpListener::bind((there, 80))).unwrap();
            let asked = SocketAddr::new(host, PUBLISHED);
            let client = far.at(|| TcpStream::connect_timeout(&asked, Duration::from_secs(20)));
            let (mut client, (mut server, _)) = (client.unwrap(), listener.accept().unwrap());
            assert!(carries(&mut server, &mut client, 1 << 20), "{asked}");
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_port_is_published_to_whom_it_is_for_and_as_long_as_it_is() {
    in_node(async |bpffs| {
        let (world, node, container) = published(&bpffs).await;
        let (asked, serves) = (SocketAddr::from((World::NODE4, PUBLISHED)), SocketAddr::new(container.v4(), 80));
        let reaches = |hope| translated(&world.namespace, &container.namespace, asked, serves, hope);
        assert!(reaches(Hope::Passes));
        let at = l4(asked.ip(), PUBLISHED, Protocol::TCP);
        node.must(|desired| publish(desired, at, container.v4(), 80, Some("192.0.2.0/24"))).await;
        assert!(!reaches(Hope::Dropped));
        node.must(|desired| publish(desired, at, container.v4(), 80, Some("172.31.0.0/24"))).await;
        assert!(reaches(Hope::Passes));
        // Nobody comes with a container's address.
        ip("link set uplink0 up");
        world.namespace.at(|| ip(&format!("addr add {}/32 dev lo", container.v4())));
        let metrics = || {
            let metrics = node.handle().tables.metrics().unwrap();
            metrics.iter().filter(|metric| metric.reason.0 == 132).map(|metric| metric.packets).sum::<u64>()
        };
        let before = metrics();
        let liar = world.namespace.at(|| UdpSocket::bind((container.v4(), 0))).unwrap();
        world.namespace.at(|| liar.send_to(b"hello", (asked.ip(), PUBLISHED))).unwrap();
        eventually("it is refused", || metrics() > before);
        // Once it is published no more, the port is the host's.
        node.must(|desired| desired.services = Default::default()).await;
        assert!(!reaches(Hope::Dropped));
        assert!(tcp(&world.namespace, &Here, asked.ip(), PUBLISHED, Hope::Passes));
        let pins = std::fs::read_dir(bpffs.join("cilium/links")).unwrap();
        assert!(!pins.into_iter().any(|pin| pin.unwrap().file_name().to_string_lossy().starts_with("dev")));
    });
}

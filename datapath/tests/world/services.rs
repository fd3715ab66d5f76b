//! Services at sockets: who asks for one talks to a backend, and believes that it talks to the service.
//!
//! Each test's threads are in a cgroup of their own, so that nobody else on this machine is served.

use crate::lab::{Container, Node, World, config, eventually, in_node};
use crate::traffic::{Here, Place, talk};
use datapath::Config;
use model::desired::Datapath;
use model::service::{Algorithm, ServiceType, Table};
use model::{L4Address, LoadBalancer, Protocol, ServiceId};
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10));
/// The first as an IPv6 socket names it.
const MAPPED: IpAddr = IpAddr::V6(Ipv4Addr::new(10, 96, 0, 10).to_ipv6_mapped());
const PORT: u16 = 80;
const NODE_PORT: u16 = 30080;

/// A cgroup of the calling thread and of those that it starts.
struct Cgroup {
    path: PathBuf,
    parent: PathBuf,
}

impl Cgroup {
    fn join() -> Cgroup {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount =
            mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let parent = Path::new(mount.unwrap()[1]).join(own);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("cilium-world-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("cgroup.type"), "threaded").unwrap();
        let cgroup = Cgroup { path, parent };
        enter(&cgroup.path);
        cgroup
    }
}

/// Puts the calling thread into a cgroup.
fn enter(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.threads"), nix::unistd::gettid().to_string()).unwrap();
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        enter(&self.parent);
        // Threads that were told to end may still be ending.
        let deadline = std::time::Instant::now() + crate::lab::PATIENCE;
        while fs::remove_dir(&self.path).is_err() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

fn with_sockets(bpffs: &Path, cgroup: &Cgroup) -> Config {
    Config { sockets: true, cgroup_root: Some(cgroup.path.clone()), ..config(bpffs) }
}

fn l4(ip: IpAddr, port: u16, protocol: Protocol) -> L4Address {
    L4Address { ip, port, protocol }
}

/// A service whose new flows go to these places of its backends.
fn balanced(kind: ServiceType, backends: &[L4Address], places: &[u16]) -> LoadBalancer {
    let table = Table { by: Algorithm::Random, places: places.into() };
    LoadBalancer {
        id: ServiceId(1),
        kind,
        backends: backends.into(),
        internal: table.clone(),
        external: table,
        affinity: None,
        source_ranges: None,
    }
}

/// Gives a frontend the backends at `port` of some addresses, equally.
fn serve(desired: &mut Datapath, at: (IpAddr, u16), protocol: Protocol, backends: &[IpAddr], port: u16) {
    let mut backends: Vec<L4Address> = backends.iter().map(|ip| l4(*ip, port, protocol)).collect();
    backends.sort_unstable();
    let places: Vec<u16> = (0..backends.len() as u16).collect();
    let service = balanced(ServiceType::ClusterIp, &backends, &places);
    desired.services.insert(l4(at.0, at.1, protocol), Arc::new(service));
}

/// Answers each connection with a name, until it is dropped.
struct Server {
    stop: Arc<AtomicBool>,
    address: SocketAddr,
    place: Arc<datapath::netns::Namespace>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(place: datapath::netns::Namespace, address: SocketAddr, name: u8) -> Server {
        let listener = place.at(|| TcpListener::bind(address)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(mut stream) = stream {
                    let _ = stream.write_all(&[name]);
                }
            }
        });
        Server { stop, address, place: Arc::new(place), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.place.at(|| TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn namespace_of(container: &Container) -> datapath::netns::Namespace {
    let inside = container.namespace.run(datapath::netns::Namespace::current).unwrap();
    inside.unwrap()
}

/// Who answers.
fn ask(from: &impl Place, address: SocketAddr) -> std::io::Result<u8> {
    from.at(|| {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(20))?;
        let mut name = [0];
        stream.read_exact(&mut name)?;
        Ok(name[0])
    })
}

#[test]
#[ignore = "needs root: make test"]
fn a_service_is_a_backend_to_the_network_and_itself_to_who_asks() {
    in_node(|bpffs| async move {
        let cgroup = Cgroup::join();
        let node = Node::start(with_sockets(&bpffs, &cgroup)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 300).await);
        node.must(|desired| {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                serve(desired, (VIP4, PORT), protocol, &[b.v4()], 8080);
                serve(desired, (VIP6, PORT), protocol, &[b.v6()], 8080);
            }
        })
        .await;
        for (vip, backend) in [(VIP4, b.v4()), (VIP6, b.v6()), (MAPPED, b.v4())] {
            let (asked, serves) = (SocketAddr::new(vip, PORT), SocketAddr::new(backend, 8080));
            let own = if backend.is_ipv4() { a.v4() } else { a.v6() };
            // Connections.
            let listener = b.namespace.at(|| TcpListener::bind(serves)).unwrap();
            let mut client = a.namespace.at(|| TcpStream::connect_timeout(&asked, Duration::from_secs(20))).unwrap();
            let (mut server, from) = listener.accept().unwrap();
            assert_eq!(from.ip(), own);
            assert_eq!(client.peer_addr().unwrap(), asked);
            assert!(talk(&mut client, &mut server));
            // Datagrams of a socket that is connected, and of one that is not.
            let server = b.namespace.at(|| UdpSocket::bind(serves)).unwrap();
            let any: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { [0u8; 16].into() };
            let (connected, free) = a.namespace.at(|| {
                let connected = UdpSocket::bind((any, 0)).unwrap();
                connected.connect(asked).unwrap();
                (connected, UdpSocket::bind((any, 0)).unwrap())
            });
            assert_eq!(connected.peer_addr().unwrap(), asked);
            let mut buffer = [0; 8];
            connected.send(b"one").unwrap();
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(b"two", from).unwrap();
            assert_eq!(connected.recv_from(&mut buffer).unwrap(), (3, asked));
            free.send_to(b"three", asked).unwrap();
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(b"four", from).unwrap();
            assert_eq!(free.recv_from(&mut buffer).unwrap(), (4, asked));
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_service_without_backends_refuses_at_once() {
    in_node(|bpffs| async move {
        let cgroup = Cgroup::join();
        let node = Node::start(with_sockets(&bpffs, &cgroup)).await;
        let a = node.container(1, 300).await;
        node.must(|desired| {
            for (vip, protocol) in [VIP4, VIP6].into_iter().flat_map(|v| [(v, Protocol::TCP), (v, Protocol::UDP)]) {
                serve(desired, (vip, PORT), protocol, &[], 8080);
            }
        })
        .await;
        for vip in [VIP4, VIP6, MAPPED] {
            let asked = SocketAddr::new(vip, PORT);
            let refused =
                |result: std::io::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            refused(a.namespace.at(|| TcpStream::connect_timeout(&asked, Duration::from_secs(20)).map(drop)));
            let any: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { [0u8; 16].into() };
            let socket = a.namespace.at(|| UdpSocket::bind((any, 0))).unwrap();
            refused(socket.send_to(b"x", asked).map(drop));
            refused(socket.connect(asked));
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn new_flows_follow_the_places_and_a_client_its_backend() {
    in_node(|bpffs| async move {
        let cgroup = Cgroup::join();
        let node = Node::start(with_sockets(&bpffs, &cgroup)).await;
        let (a, b, c) = (node.container(1, 300).await, node.container(2, 300).await, node.container(3, 300).await);
        let _servers = [(&b, b'b'), (&c, b'c')]
            .map(|(at, name)| Server::start(namespace_of(at), SocketAddr::new(at.v4(), 8080), name));
        let backends = [l4(b.v4(), 8080, Protocol::TCP), l4(c.v4(), 8080, Protocol::TCP)];
        let asked = SocketAddr::new(VIP4, PORT);
        let set = async |affinity: Option<u32>, places: &[u16]| {
            let service = LoadBalancer { affinity, ..balanced(ServiceType::ClusterIp, &backends, places) };
            node.must(|desired| drop(desired.services.insert(l4(VIP4, PORT, Protocol::TCP), Arc::new(service)))).await;
        };
        let answers = |count: usize| {
            let mut answers = BTreeMap::new();
            for _ in 0..count {
                *answers.entry(ask(&a.namespace, asked).unwrap()).or_insert(0) += 1;
            }
            answers
        };
        // Three of four, within six times what chance does.
        set(None, &[0, 0, 0, 1]).await;
        let counted = answers(300);
        assert!((180..270).contains(&counted[&b'b']), "{counted:?}");
        // A client stays where it was, until that one gets no new flows.
        set(Some(3600), &[0, 1]).await;
        let first = answers(20);
        assert_eq!(first.len(), 1, "{first:?}");
        let other = if first.contains_key(&b'b') { [1] } else { [0] };
        set(Some(3600), &other).await;
        let second = answers(5);
        assert!(second.len() == 1 && second.keys().ne(first.keys()), "{first:?} {second:?}");
        set(Some(3600), &[0, 1]).await;
        assert_eq!(answers(20).len(), 1);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn ports_of_the_host_are_the_services_and_loopback_ones_the_hosts_alone() {
    in_node(|bpffs| async move {
        let cgroup = Cgroup::join();
        let _world = World::new();
        let node = Node::start(with_sockets(&bpffs, &cgroup)).await;
        let (a, b) = (node.container(1, 300).await, node.container(2, 300).await);
        let _server = Server::start(namespace_of(&b), SocketAddr::new(b.v4(), 8080), b'b');
        let backend = [l4(b.v4(), 8080, Protocol::TCP)];
        let at = |ip: IpAddr| l4(ip, NODE_PORT, Protocol::TCP);
        let host = IpAddr::V4(World::NODE4);
        let (loopback, any) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        node.must(|desired| {
            for ip in [host, loopback, any] {
                desired.services.insert(at(ip), Arc::new(balanced(ServiceType::NodePort, &backend, &[0])));
            }
        })
        .await;
        for ip in [host, loopback, any, IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let error = TcpListener::bind((ip, NODE_PORT)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse, "{ip}");
            UdpSocket::bind((ip, NODE_PORT)).unwrap();
        }
        TcpListener::bind((host, NODE_PORT + 1)).unwrap();
        drop(a.namespace.at(|| TcpListener::bind((any, NODE_PORT))).unwrap());
        for ip in [host, loopback, any] {
            assert_eq!(ask(&Here, SocketAddr::new(ip, NODE_PORT)).unwrap(), b'b', "{ip}");
        }
        assert_eq!(ask(&a.namespace, SocketAddr::new(host, NODE_PORT)).unwrap(), b'b');
        let error = ask(&a.namespace, SocketAddr::new(loopback, NODE_PORT)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        // Nor is anybody served who is not in the cgroup: another node's processes on the same machine.
        let parent = cgroup.parent.clone();
        let outside = std::thread::spawn(move || {
            enter(&parent);
            TcpStream::connect((Ipv4Addr::LOCALHOST, NODE_PORT)).map(drop)
        });
        assert_eq!(outside.join().unwrap().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_service_that_changes_under_load_and_restarts_lose_no_request() {
    in_node(|bpffs| async move {
        let cgroup = Cgroup::join();
        let mut node = Node::start(with_sockets(&bpffs, &cgroup)).await;
        let (a, b, c) = (node.container(1, 300).await, node.container(2, 300).await, node.container(3, 300).await);
        let _servers = [(&b, b'b'), (&c, b'c')]
            .map(|(at, name)| Server::start(namespace_of(at), SocketAddr::new(at.v4(), 8080), name));
        let asked = SocketAddr::new(VIP4, PORT);
        let to = |desired: &mut Datapath, backends: &[IpAddr]| {
            serve(desired, (VIP4, PORT), Protocol::TCP, backends, 8080);
        };
        node.must(|desired| to(desired, &[b.v4()])).await;
        let (stop, asked_for) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count, place) = (stop.clone(), asked_for.clone(), namespace_of(&a));
        let client = std::thread::spawn(move || {
            place
                .run(|| {
                    while !stopped.load(Ordering::Relaxed) {
                        ask(&Here, asked).unwrap();
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                })
                .unwrap();
        });
        let more = |what: &str| {
            let before = asked_for.load(Ordering::Relaxed);
            eventually(what, || asked_for.load(Ordering::Relaxed) > before + 20 || client.is_finished());
            assert!(!client.is_finished(), "a request was lost: {what}");
        };
        for turn in 0..20 {
            let backends = [vec![b.v4()], vec![c.v4()], vec![b.v4(), c.v4()]][turn % 3].clone();
            node.must(|desired| to(desired, &backends)).await;
            more("the service changes");
        }
        let before = node.handle().tables.dump("cilium_lb_services", 10).unwrap();
        node.restart().await;
        more("the agent starts again");
        assert_eq!(node.handle().tables.dump("cilium_lb_services", 10).unwrap(), before);
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap();
        // Who wants no sockets served has none.
        node.config.sockets = false;
        node.restart().await;
        let left = fs::read_dir(bpffs.join("cilium/links")).unwrap();
        let left = left.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("cgroup_"));
        assert_eq!(left.count(), 0);
        node.config.sockets = true;
        node.restart().await;
        assert!(ask(&a.namespace, asked).is_ok());
    });
}

//! A node, its containers and the world around it, each in a network namespace of its own.
//!
//! Everything lives in namespaces that a test's thread holds: when it ends, however it ends, the kernel takes all away.

use datapath::netns::Namespace;
use datapath::{Config, Handle};
use ipnetwork::IpNetwork;
use model::desired::{Datapath, Endpoint, IpcacheEntry, LinkIntent, Status};
use model::{Direction, EndpointId, Identity, Mac, PolicyEntry, PolicyKey, PolicyMap, Protocol};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 15, 0, 1);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xf00d, 0, 0, 0, 0, 0, 0, 1);
/// How long anything may take that should come at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test on a thread with network and mount namespaces of its own, and a BPF file system in it.
pub fn in_node<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F + Send) {
    let work = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root is needed");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let bpffs = directory.path().join("bpf");
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(bpffs.clone()));
        // Not every test mounts it; the namespace takes the mount along anyway.
        let _ = nix::mount::umount2(&bpffs, nix::mount::MntFlags::MNT_DETACH);
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(work).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs `ip` in the thread's namespace; it must succeed.
pub fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn config(bpffs: &Path) -> Config {
    Config {
        bpffs: bpffs.to_owned(),
        conntrack_max_v4: 4096,
        conntrack_max_v6: 4096,
        policy_max: 65_536,
        ipcache_max: 4096,
        lb_places_max: 65_536,
        // The tests' own cgroups have those that are served: `services`.
        sockets: false,
        sock_reverse_max: 4096,
        nat_max: 4096,
        ..Config::default()
    }
}

/// A node: a datapath and the snapshots that it follows.
pub struct Node {
    pub handle: Option<Handle>,
    pub config: Config,
    /// Of the endpoints that are made.
    pub mtu: u32,
    desired: watch::Sender<Arc<Datapath>>,
}

impl Node {
    pub async fn start(config: Config) -> Node {
        let mut first = Datapath { settled: true, revision: 1, ..Datapath::default() };
        first.gateways.extend([IpAddr::V4(GATEWAY4), IpAddr::V6(GATEWAY6)]);
        first.pools.extend([net("10.15.0.0/16"), net("f00d::/64")]);
        for gateway in [IpAddr::V4(GATEWAY4), IpAddr::V6(GATEWAY6)] {
            first.ipcache.insert(gateway.into(), IpcacheEntry { identity: Identity::HOST, endpoint: None });
        }
        let (desired, _) = watch::channel(Arc::new(first));
        let mut node = Node { handle: None, config, mtu: 1500, desired };
        node.restart().await;
        node
    }

    /// Starts the datapath, or starts it again.
    pub async fn restart(&mut self) {
        self.handle = None;
        let started = datapath::start(self.config.clone(), self.desired.subscribe(), CancellationToken::new()).await;
        self.handle = Some(started.unwrap_or_else(|error| panic!("{}", report(&error))));
        self.realised().await;
    }

    pub fn handle(&self) -> &Handle {
        self.handle.as_ref().unwrap()
    }

    /// Publishes a changed snapshot and waits until it was attempted.
    pub async fn change(&self, change: impl FnOnce(&mut Datapath)) -> Arc<Status> {
        self.prepare(change);
        self.realised().await
    }

    /// Publishes a changed snapshot.
    pub fn prepare(&self, change: impl FnOnce(&mut Datapath)) {
        self.desired.send_modify(|held| {
            let mut next = Datapath::clone(held);
            change(&mut next);
            next.revision += 1;
            *held = Arc::new(next);
        });
    }

    /// The same, and nothing may fail.
    pub async fn must(&self, change: impl FnOnce(&mut Datapath)) {
        let status = self.change(change).await;
        assert!(status.failing.is_empty(), "{:#?}", status.failing);
    }

    /// The status of the newest snapshot.
    pub async fn realised(&self) -> Arc<Status> {
        let wanted = self.desired.borrow().revision;
        self.status(|status| status.realised >= wanted).await
    }

    pub async fn status(&self, condition: impl Fn(&Status) -> bool) -> Arc<Status> {
        let mut status = self.handle().status.clone();
        let waited = tokio::time::timeout(PATIENCE, status.wait_for(|status| condition(status))).await;
        waited.unwrap_or_else(|_| panic!("{:#?}", self.handle().status.borrow())).unwrap().clone()
    }

    /// An endpoint with its device, not yet in a container.
    pub async fn endpoint(&self, id: u16, identity: u32) -> Endpoint {
        let endpoint = Endpoint { mtu: self.mtu, ..endpoint(id, identity) };
        self.must(|desired| add(desired, &endpoint)).await;
        endpoint
    }

    /// An endpoint in a container, as Docker would make it.
    pub async fn container(&self, id: u16, identity: u32) -> Container {
        let endpoint = self.endpoint(id, identity).await;
        let container = Container::take(endpoint);
        self.must(|desired| {
            if let Some(endpoint) = desired.endpoints.get_mut(&EndpointId(id)) {
                endpoint.link = LinkIntent::Keep;
            }
        })
        .await;
        container
    }
}

/// What a test should see of an error.
pub fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

pub fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

pub fn endpoint(id: u16, identity: u32) -> Endpoint {
    let [high, low] = id.to_be_bytes();
    Endpoint {
        id: EndpointId(id),
        ifname: format!("lxc{id:012x}"),
        peer_ifname: format!("tmp{id:05}"),
        link: LinkIntent::Create,
        mac: Mac([2, 0, 0, 0, high, low]),
        node_mac: Mac([2, 1, 0, 0, high, low]),
        mtu: 1500,
        ipv4: Some(Ipv4Addr::new(10, 15, high, low.wrapping_add(10))),
        ipv6: Some(Ipv6Addr::new(0xf00d, 0, 0, 0, 0, 0, 1, id)),
        gateway4: Some(GATEWAY4),
        gateway6: Some(GATEWAY6),
        identity: Identity(identity),
        internal: false,
    }
}

/// Puts an endpoint into a snapshot, with an open policy if its identity has none.
pub fn add(desired: &mut Datapath, endpoint: &Endpoint) {
    desired.endpoints.insert(endpoint.id, endpoint.clone());
    let entry = IpcacheEntry { identity: endpoint.identity, endpoint: Some(endpoint.id) };
    let addresses = [endpoint.ipv4.map(IpAddr::V4), endpoint.ipv6.map(IpAddr::V6)];
    desired.ipcache.extend(addresses.into_iter().flatten().map(|ip| (IpNetwork::from(ip), entry)));
    desired.policies.entry(endpoint.identity).or_insert_with(|| Arc::new(PolicyMap::allow_all()));
}

pub fn remove(desired: &mut Datapath, id: u16) {
    desired.endpoints.remove(&EndpointId(id));
    desired.ipcache.retain(|_, entry| entry.endpoint != Some(EndpointId(id)));
    let used: std::collections::BTreeSet<_> = desired.endpoints.values().map(|e| e.identity).collect();
    desired.policies.retain(|identity, _| used.contains(identity));
}

/// A policy: all may leave, and only what `ingress` lists may come in.
pub fn policy(ingress: &[(u32, Protocol, Option<u16>)]) -> Arc<PolicyMap> {
    let mut entries = BTreeMap::new();
    entries.insert(PolicyKey::any_port(Direction::Egress, Identity::UNKNOWN), PolicyEntry::ALLOW);
    for (identity, protocol, port) in ingress {
        let key = PolicyKey {
            direction: Direction::Ingress,
            identity: Identity(*identity),
            protocol: Some(*protocol),
            prefix: if port.is_some() { 16 } else { 0 },
            port: port.unwrap_or(0),
        };
        entries.insert(key, PolicyEntry::ALLOW);
    }
    Arc::new(entries.into_iter().collect::<PolicyMap>().enforcing(true, false))
}

/// A namespace that took an endpoint's device as Docker does.
pub struct Container {
    pub endpoint: Endpoint,
    pub namespace: Namespace,
}

impl Container {
    fn take(endpoint: Endpoint) -> Container {
        let namespace = Namespace::create().unwrap();
        move_link(&endpoint.peer_ifname, &namespace);
        let container = Container { endpoint, namespace };
        let endpoint = &container.endpoint;
        let (v4, v6) = (endpoint.ipv4.unwrap(), endpoint.ipv6.unwrap());
        for command in [
            "link set lo up".to_owned(),
            format!("link set {} name eth0", endpoint.peer_ifname),
            format!("addr add {v4}/32 dev eth0"),
            format!("addr add {v6}/128 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            format!("route add {GATEWAY4} dev eth0 scope link"),
            format!("route add default via {GATEWAY4}"),
            format!("-6 route add {GATEWAY6} dev eth0"),
            format!("-6 route add default via {GATEWAY6}"),
        ] {
            container.ip(&command);
        }
        container
    }

    pub fn ip(&self, arguments: &str) -> String {
        self.namespace.run(|| ip(arguments)).unwrap()
    }

    pub fn v4(&self) -> IpAddr {
        IpAddr::V4(self.endpoint.ipv4.unwrap())
    }

    pub fn v6(&self) -> IpAddr {
        IpAddr::V6(self.endpoint.ipv6.unwrap())
    }

    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4(), self.v6()]
    }
}

/// Moves a device of the thread's namespace into another.
pub fn move_link(name: &str, namespace: &Namespace) {
    ip(&format!("link set {name} netns /proc/{}/fd/{}", std::process::id(), namespace.file().as_raw_fd()));
}

/// The world: a machine behind the node's uplink that knows no way to the pools.
pub struct World {
    pub namespace: Namespace,
}

impl World {
    pub const NODE4: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);
    pub const WORLD4: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
    pub const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
    pub const WORLD6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);

    pub fn new() -> World {
        let namespace = Namespace::create().unwrap();
        ip("link add uplink0 type veth peer name world0");
        move_link("world0", &namespace);
        for command in [
            // Its address would still be tentative in one look and not in the next.
            "link set uplink0 addrgenmode none".to_owned(),
            format!("addr add {}/24 dev uplink0", World::NODE4),
            format!("addr add {}/64 dev uplink0 nodad", World::NODE6),
            "link set uplink0 up".to_owned(),
            format!("route add default via {}", World::WORLD4),
            format!("-6 route add default via {}", World::WORLD6),
        ] {
            ip(&command);
        }
        let inside = || {
            for command in [
                "link set lo up".to_owned(),
                format!("addr add {}/24 dev world0", World::WORLD4),
                format!("addr add {}/64 dev world0 nodad", World::WORLD6),
                "link set world0 up".to_owned(),
            ] {
                ip(&command);
            }
        };
        namespace.run(inside).unwrap();
        World { namespace }
    }
}

/// Asks again until it is so.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

//! Real etcd servers on loopback, each gone with its data when dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kvstore::{Backend, Config, EtcdConfig, etcd::Etcd};

use crate::world::until;

/// One etcd process.
pub struct Server {
    pub port: u16,
    args: Vec<String>,
    child: Option<Child>,
    pub folder: tempfile::TempDir,
    pub config: EtcdConfig,
}

/// A port that nobody listens on, from below those that the kernel gives to outgoing connections: a server that is
/// started again must get its port again.
pub fn free_port() -> u16 {
    let mut draws = std::iter::repeat_with(|| rand::random_range(10_000..32_000));
    draws.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("the draws are endless")
}

pub fn config(addresses: Vec<String>) -> EtcdConfig {
    EtcdConfig { addresses, user: None, ca: None, identity: None, timeout: Duration::from_secs(30) }
}

impl Server {
    /// A cluster of one, ready.
    pub async fn start() -> Server {
        let server = Server::launch(Vec::new(), "http");
        server.ready().await;
        server
    }

    /// A cluster of one with more options; not waited for.
    pub fn launch(more: Vec<String>, scheme: &str) -> Server {
        let (port, peer) = (free_port(), free_port());
        Server::member("m0", port, peer, &format!("m0=http://127.0.0.1:{peer}"), more, scheme)
    }

    /// A cluster of several, ready.
    pub async fn cluster(size: usize) -> Vec<Server> {
        let ports: Vec<(u16, u16)> = (0..size).map(|_| (free_port(), free_port())).collect();
        let peer = |(n, (_, peer)): (usize, &(u16, u16))| format!("m{n}=http://127.0.0.1:{peer}");
        let peers = ports.iter().enumerate().map(peer).collect::<Vec<_>>().join(",");
        let member = |(n, (port, peer)): (usize, &(u16, u16))| {
            Server::member(&format!("m{n}"), *port, *peer, &peers, Vec::new(), "http")
        };
        let servers: Vec<Server> = ports.iter().enumerate().map(member).collect();
        for server in &servers {
            server.ready().await;
        }
        servers
    }

    fn member(name: &str, port: u16, peer: u16, peers: &str, more: Vec<String>, scheme: &str) -> Server {
        let (client, peer) = (format!("{scheme}://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let folder = tempfile::tempdir().expect("temporary folder");
        // Short elections allow short leases.
        let args = [
            ("--name", name),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", peers),
            ("--heartbeat-interval", "50"),
            ("--election-timeout", "500"),
            ("--logger", "zap"),
            ("--log-level", "error"),
        ];
        let mut args: Vec<String> = args.iter().flat_map(|(key, value)| [(*key).into(), (*value).into()]).collect();
        args.extend(more);
        let mut server = Server { port, args, child: None, folder, config: config(vec![client]) };
        server.spawn();
        server
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts the process again, on the same ports and data.
    pub fn spawn(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).expect("log file");
        let mut command = Command::new("etcd");
        command
            .args(&self.args)
            .arg("--data-dir")
            .arg(self.data())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        match command.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) => panic!("these tests need the program `etcd` (apt install etcd-server): {error}"),
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill etcd");
            child.wait().expect("etcd ends");
        }
    }

    /// Names and peer addresses of the cluster, as `--initial-cluster` has them.
    pub fn initial_cluster(&self) -> String {
        let at = self.args.iter().position(|arg| arg == "--initial-cluster").expect("always given");
        self.args[at + 1].clone()
    }

    pub async fn ready(&self) {
        let backend = self.connect();
        until("etcd answers", async || {
            assert!(self.is_running(), "etcd ended: {}", self.log());
            backend.status().await.healthy
        })
        .await;
    }

    fn is_running(&self) -> bool {
        let stat = self.child.as_ref().map(|child| std::fs::read_to_string(format!("/proc/{}/stat", child.id())));
        // A process that has ended and was not waited for is a zombie.
        stat.is_some_and(|stat| stat.is_ok_and(|stat| !stat.contains(") Z ")))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn connect(&self) -> Arc<dyn Backend> {
        Arc::new(Etcd::new(self.config.clone()).expect("configuration"))
    }

    /// The client that the backend is built on, for what a backend does not do.
    pub async fn raw(&self) -> etcd_client::Client {
        etcd_client::Client::connect([self.address()], None).await.expect("connect")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `etcdctl` against a server.
pub fn etcdctl(server: &Server, args: &[&str]) {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg("--endpoints").arg(server.address()).args(args);
    let output = command.output().expect("these tests need the program `etcdctl` (apt install etcd-client)");
    assert!(output.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The store that a command line would open.
pub fn parsed(options: &[String]) -> Arc<dyn Backend> {
    match Config::parse("etcd", options, Path::new("unused")).expect("options") {
        Config::Etcd(config) => Arc::new(Etcd::new(config).expect("configuration")),
        other => panic!("{other:?}"),
    }
}

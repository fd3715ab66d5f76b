//! Several clusters on one underlay: each has an etcd of one member in a machine of its own, and one node. All nodes have
//! the same name. Nobody may do more in an etcd than he needs: a cluster's own agents read and write below `cilium/`, the
//! other's only read there.
//!
//! | | IPv4 | IPv6 |
//! |---|---|---|
//! | etcd of cluster *n* (from 1) | 172.31.78.5*n* | – |
//! | its node | 172.31.78.1*n* | fd78::1*n* |
//! | its pods | 10.(63+*n*).0.0/16 | fd(63+*n*)::/64 |

use crate::nodes::{machine, worlds};
use crate::{Agent, Engine, Machine, Nodes, Process, World, eventually};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// Who may do what in each etcd: name, and what `etcdctl role grant-permission` calls it. The password is the name.
const USERS: [(&str, &str); 2] = [("agent", "readwrite"), ("mesh", "read")];
/// The clusters by their names; the id of the first is 1.
pub const CLUSTERS: [&str; 2] = ["a", "b"];
/// How long an etcd may take to answer, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Clusters {
    // Dropped in this order: the nodes, the stores, the underlay.
    pub worlds: Vec<World>,
    stores: Vec<Store>,
    _underlay: Nodes,
}

struct Store {
    process: Option<Process>,
    machine: Rc<Machine>,
    address: String,
}

impl Clusters {
    /// Starts the clusters, with these options for each agent beside those that make a cluster. They do not know of each
    /// other yet.
    pub fn start(engine: &Engine, agent_options: &[&str]) -> Result<Clusters> {
        let underlay = Nodes::underlay()?;
        let mut clusters = Clusters { worlds: Vec::new(), stores: Vec::new(), _underlay: underlay };
        for number in 1..=CLUSTERS.len() {
            let address = format!("172.31.78.5{number}");
            let machine = machine(&clusters._underlay.hub, &format!("store{number}"), std::slice::from_ref(&address))?;
            clusters.stores.push(Store { process: None, machine, address });
            clusters.start_etcd(number - 1)?;
            clusters.close(number - 1)?;
        }
        let mut starting = Vec::new();
        for number in 1..=CLUSTERS.len() {
            let machine = clusters._underlay.machine(number)?;
            let options = clusters.options(&machine, number, agent_options);
            let agent = Agent::launch(&machine, options)?;
            starting.push((machine, agent));
        }
        clusters.worlds = worlds(starting, engine)?;
        Ok(clusters)
    }

    fn options(&self, machine: &Machine, number: usize, more: &[&str]) -> Vec<String> {
        let store = format!("etcd.address={}", self.url(number - 1));
        let others = folder(machine).display().to_string();
        let (id, pool4, pool6) =
            (number.to_string(), format!("10.{}.0.0/16", 63 + number), format!("fd{}::/64", 63 + number));
        let cluster = ["--cluster-name", CLUSTERS[number - 1], "--cluster-id", &id, "--clustermesh-config", &others];
        let kvstore =
            ["--kvstore", "etcd", "--kvstore-opt", &store, "--kvstore-opt", "etcd.timeout=1s", "--node-name", "node1"];
        let user = ["--kvstore-opt", "etcd.user=agent", "--kvstore-opt", "etcd.password=agent"];
        let pools = ["--cluster-pool-ipv4", &pool4, "--cluster-pool-ipv6", &pool6];
        // What goes to the others' pods is no more masqueraded than what goes to the own ones.
        let native = ["--ipv4-native-routing-cidr", "10.64.0.0/15", "--ipv6-native-routing-cidr", "fd64::/15"];
        let native: &[&str] = if more.contains(&"disabled") { &native } else { &[] };
        [&cluster[..], &kvstore, &user, &pools, native, more].concat().into_iter().map(str::to_owned).collect()
    }

    fn url(&self, cluster: usize) -> String {
        format!("http://{}:2379", self.stores[cluster].address)
    }

    /// Starts a cluster's etcd with the data it has, and waits until it answers.
    pub fn start_etcd(&mut self, cluster: usize) -> Result<()> {
        let url = self.url(cluster);
        let Store { machine, process, .. } = &mut self.stores[cluster];
        let mut command = machine.command("etcd");
        command.args(["--unsafe-no-fsync", "--data-dir"]).arg(machine.dir().join("etcd"));
        command.args([
            "--listen-client-urls",
            &format!("{url},http://127.0.0.1:2379"),
            "--advertise-client-urls",
            &url,
        ]);
        *process = Some(machine.spawn("etcd.log", command)?);
        // Before it is closed to them, it takes no users.
        eventually(PATIENCE, "etcd to answer", || {
            let open = self.run(cluster, &["endpoint", "health"]);
            open.or_else(|_| self.ctl(cluster, &["endpoint", "health"])).map(|_| ())
        })
    }

    /// Closes a new etcd to all but its users.
    fn close(&self, cluster: usize) -> Result<()> {
        let run = |args: &[&str]| self.run(cluster, args).map(|_| ());
        run(&["user", "add", "root:root"])?;
        run(&["user", "grant-role", "root", "root"])?;
        for (user, right) in USERS {
            run(&["user", "add", &format!("{user}:{user}")])?;
            run(&["role", "add", user])?;
            run(&["role", "grant-permission", user, "--prefix", right, "cilium/"])?;
            run(&["user", "grant-role", user, user])?;
        }
        run(&["auth", "enable"])
    }

    pub fn kill_etcd(&mut self, cluster: usize) -> Result<()> {
        self.stores[cluster].process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Runs `etcdctl ARGS…` on a cluster's etcd, as one who may do all.
    pub fn ctl(&self, cluster: usize, args: &[&str]) -> Result<String> {
        self.run(cluster, &[&["--user", "root:root"], args].concat())
    }

    fn run(&self, cluster: usize, args: &[&str]) -> Result<String> {
        let ctl = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", "http://127.0.0.1:2379"];
        self.stores[cluster].machine.run(&[&ctl[..], args].concat())
    }

    /// Writes the file of another cluster where a cluster's node looks for it; it leads to the etcd of `store`.
    pub fn tell(&self, cluster: usize, name: &str, store: usize) -> Result<()> {
        self.tell_text(cluster, name, &format!("endpoints:\n- {}\nusername: mesh\npassword: mesh\n", self.url(store)))
    }

    pub fn tell_text(&self, cluster: usize, name: &str, text: &str) -> Result<()> {
        let folder = folder(&self.worlds[cluster].machine);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), text).with_context(|| format!("write {name}"))
    }

    pub fn untell(&self, cluster: usize, name: &str) -> Result<()> {
        std::fs::remove_file(folder(&self.worlds[cluster].machine).join(name)).context(name.to_owned())
    }

    /// Tells both of each other and waits until they are ready.
    pub fn join(&self) -> Result<()> {
        self.tell(0, CLUSTERS[1], 1)?;
        self.tell(1, CLUSTERS[0], 0)?;
        self.stands(0, CLUSTERS[1], "ready", "")?;
        self.stands(1, CLUSTERS[0], "ready", "").map(|_| ())
    }

    /// Waits until a cluster's node shows another one so, with this in the reason; what it shows.
    pub fn stands(&self, cluster: usize, name: &str, state: &str, reason: &str) -> Result<serde_json::Value> {
        eventually(PATIENCE, &format!("cluster {name} to be {state} ({reason})"), || {
            let status = self.worlds[cluster].agent.cilium_json(&["status"])?;
            let clusters = status["cluster-mesh"]["clusters"].as_array().context("it is in no mesh")?;
            let row = clusters.iter().find(|row| row["name"] == name).with_context(|| status.to_string())?;
            let why = row["reason"].as_str().unwrap_or_default();
            ensure!(row["state"] == state && why.contains(reason), "{row}");
            Ok(row.clone())
        })
    }
}

/// Where a machine's agent looks for other clusters.
fn folder(machine: &Machine) -> PathBuf {
    machine.dir().join("clustermesh")
}

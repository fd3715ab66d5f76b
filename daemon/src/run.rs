//! The agent's life: every task and every channel, made here and named once.
//!
//! ```text
//!  channel    from -> to                                                         kind
//!  inputs     API, feeds, identities, host, datapath's status -> writer          bounded mpsc
//!  outputs    writer -> store, datapath, identities, publish, notices, API       watch
//!  stored     store -> API                                                       watch
//!  kernel     start of the datapath -> API                                       watch
//!  events     datapath -> monitors                                               broadcast, lossy
//!  notices    notices, API -> monitors                                           broadcast, lossy
//!  stage      start -> API                                                       watch
//! ```
//!
//! Order at start: the lock, then both sockets (Docker must find its plugin whatever else is slow), then what the kernel
//! can do, the store, the state, the kvstore, the datapath. If a task ends, the process ends with its error: starting
//! anew is cheap, and what is in the kernel goes on working meanwhile.

mod tasks;

use crate::agent::Agent;
use crate::api::{Api, Stage};
use crate::blocks::Blocks;
use crate::blocks::keeper::Keeper;
use crate::cluster::{self, ClusterFeed};
use crate::config::{Config, Tunnel};
use crate::contact::Contact;
use crate::controllers::Controllers;
use crate::enforcement::Teller;
use crate::feed::PolicyFeed;
use crate::health::{self, Health, Prober, Responder};
use crate::identities::IdentityAllocation;
use crate::kernel::Kernel;
use crate::lock::FolderLock;
use crate::memory::{self, Memory, MemoryWriter, Remembered};
use crate::mesh::claim::Claim;
use crate::mesh::{self, Mesh};
use crate::metered::Metered;
use crate::node::Node;
use crate::notices::{Notices, Regenerations};
use crate::policy_store::PolicyStore;
use crate::publish::Publisher;
use crate::server;
use crate::services::feed::ServiceFeed;
use crate::services::store::ServiceStore;
use crate::socket::{self, Admission};
use crate::store::{self, StoreStatus, StoreWriter};
use crate::writer::{Inputs, Writer};
use anyhow::Context;
use kvstore::allocator::{self, Allocator};
use kvstore::session::{self, Session};
use kvstore::{Backend, Opened};
use model::Identity;
use state::{Input, Outputs, State};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use tasks::Tasks;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Notices that a slow monitor may be behind.
const NOTICES: usize = 256;
/// How long the plugin's own requests to the agent may take: less than Docker's patience with the plugin.
const PLUGIN_REQUEST_LIMIT: Duration = Duration::from_millis(1800);

/// Runs the agent until SIGTERM or SIGINT, or until a part of it fails.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let _locks = lock_folders(&config)?;
    let mut life = Life::default();
    let stopped = tokio::select! {
        outcome = live(config, &mut life, started) => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    tracing::info!("stopping; what is in the kernel stays and goes on working");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Stopping]) {
        tracing::debug!(%error, "the service manager could not be told");
    }
    let ended = life.end().await;
    stopped.and(ended)
}

/// One agent for each folder that it writes to.
fn lock_folders(config: &Config) -> anyhow::Result<Vec<FolderLock>> {
    let mut locks = vec![FolderLock::take(&config.lib_dir)?];
    if config.state_dir != config.lib_dir {
        locks.push(FolderLock::take(&config.state_dir)?);
    }
    Ok(locks)
}

/// What has to be stopped, in this order: the plugin lets the calls in flight end, for which it needs the API; the API
/// lets its requests end, for which it needs those who do the work.
#[derive(Default)]
struct Life {
    plugin: Tasks,
    serving: Tasks,
    working: Tasks,
}

impl Life {
    async fn end(&mut self) -> anyhow::Result<()> {
        let plugin = self.plugin.end().await;
        let serving = self.serving.end().await;
        let working = self.working.end().await;
        plugin.and(serving).and(working)
    }
}

/// Starts everything and then waits for something to end.
async fn live(config: Config, life: &mut Life, started: Instant) -> anyhow::Result<()> {
    let (stage, plugin_calls) = serve_sockets(&config, life)?;
    start(config, life, stage, plugin_calls, started).await?;
    tokio::select! {
        name = life.plugin.any_ended() => anyhow::bail!("{name} ended"),
        name = life.serving.any_ended() => anyhow::bail!("{name} ended"),
        name = life.working.any_ended() => anyhow::bail!("{name} ended"),
    }
}

/// The API's and the plugin's sockets, first thing. Until the state is there their requests wait for a moment, and are
/// then told what the agent is busy with.
fn serve_sockets(
    config: &Config,
    life: &mut Life,
) -> anyhow::Result<(watch::Sender<Stage>, Arc<docker_plugin::CallStats>)> {
    let plugin = docker_plugin::Listener::bind(&config.docker_plugins)?;
    let admission = Admission::of_this_machine();
    let listener = socket::bind(&config.socket_path, admission.group())?;
    let (stage_sender, stage) = watch::channel(Stage::Starting("reading back its state"));
    let plugin_calls = Arc::new(docker_plugin::CallStats::new());
    tracing::info!(api = %config.socket_path.display(), plugin = %plugin.path().display(), "sockets are there");
    let path = config.socket_path.clone();
    life.serving.spawn("API server", |shutdown| async move {
        let ended = server::serve(listener, admission, Arc::new(Api { stage }), shutdown).await;
        socket::remove(&path);
        ended
    });
    let plugin_config = docker_plugin::Config {
        docker_socket: config.docker.display().to_string(),
        ..docker_plugin::Config::default()
    };
    let client = ::api::Client::new(&config.socket_path, PLUGIN_REQUEST_LIMIT);
    let calls = Arc::clone(&plugin_calls);
    life.plugin.spawn("Docker plugin", |shutdown| docker_plugin::serve(plugin, plugin_config, client, calls, shutdown));
    Ok((stage_sender, plugin_calls))
}

/// The shared part of the stores.
struct Stores {
    local: Arc<dyn Backend>,
    shared: Arc<dyn Backend>,
    counters: crate::metered::Counters,
    is_embedded: bool,
    warnings: Vec<String>,
    memory: Memory,
    memory_writer: Option<MemoryWriter>,
    remembered: Remembered,
}

async fn start(
    config: Config,
    life: &mut Life,
    stage: watch::Sender<Stage>,
    plugin_calls: Arc<docker_plugin::CallStats>,
    started: Instant,
) -> anyhow::Result<()> {
    check_kernel(&config)?;
    let mut stores = open_stores(&config).await?;
    let controllers = Controllers::default();
    stage.send_replace(Stage::Starting("waiting for the kvstore, to claim this node's address pools"));
    let claim =
        Claim { store: Arc::clone(&stores.shared), cluster: config.cluster_name.clone(), id: config.cluster.id };
    if !stores.is_embedded {
        claim.begin().await.context("check the cluster's id")?;
        life.working.spawn("cluster's id", |shutdown| claim.keep(shutdown));
    }
    let blocks = Blocks::new(Arc::clone(&stores.shared), &config.cluster_name, &config.node_name);
    let node = Node::find(&config, stores.local.as_ref(), &blocks).await?;
    let records = store::read(stores.local.as_ref()).await?;
    let state = State::new(state_config(&config, &node)).context("set up the address pools")?;
    let (writer, inputs, outputs, counters) = Writer::new(state);
    life.working.spawn_infallible("writer", |shutdown| writer.run(shutdown));
    let stored = restore(&inputs, records).await?;

    let (store_status, stored_reader) = watch::channel(StoreStatus::default());
    let store_writer = StoreWriter {
        store: Arc::clone(&stores.local),
        stored: Arc::new(stored),
        outputs: outputs.clone(),
        status: store_status,
        controllers: controllers.clone(),
    };
    life.working.spawn_infallible("local store", |shutdown| store_writer.run(shutdown));
    let (notices, regenerations) = watch_endpoints(&outputs, &mut life.working);
    let health = start_health(&config, &node, &outputs, &controllers, &mut life.working);
    let (kernel_sender, kernel) = watch::channel(None);
    let contact = Contact::default();
    let mesh = config.cluster.in_mesh().map(|_| mesh::Report::default());
    let agent = Arc::new(Agent {
        started,
        inputs: inputs.clone(),
        counters,
        outputs: outputs.clone(),
        stored: stored_reader,
        kernel,
        health,
        kvstore: Arc::clone(&stores.shared),
        blocks: blocks.clone(),
        contact: contact.clone(),
        mesh: mesh.clone(),
        kvstore_counters: Arc::clone(&stores.counters),
        policy: PolicyStore::new(Arc::clone(&stores.shared)),
        services: ServiceStore::new(Arc::clone(&stores.shared), &config.cluster_name),
        plugin_calls,
        controllers: controllers.clone(),
        notices,
        regenerations,
        warnings: stores.warnings.clone(),
        node: node.clone(),
        config: config.clone(),
    });
    stage.send_replace(Stage::Ready(agent));

    follow_others(&config, &mut stores, &inputs, mesh, &mut life.working);
    let session = share(&config, &mut stores, &inputs, &outputs, &controllers, &contact, &mut life.working);
    if !stores.is_embedded {
        let keeper = Keeper {
            blocks,
            inputs: inputs.clone(),
            outputs: outputs.clone(),
            controllers: controllers.clone(),
            session,
            own: node.claims(&config),
            grace: config.block_grace,
        };
        life.working.spawn("address blocks", |shutdown| keeper.run(shutdown));
    }
    start_datapath(&config, &node, &mut life.working, &inputs, &outputs, &controllers, &kernel_sender).await?;
    ready(&node, started);
    // Nobody may think that the agent is starting still, or that there is no datapath: both senders live as long.
    life.working.keep((stage, kernel_sender));
    Ok(())
}

/// A kernel that lacks something is named with what it lacks, and nothing is tried on it.
fn check_kernel(config: &Config) -> anyhow::Result<()> {
    let mut missing = datapath::features::probe();
    if missing.is_empty() && config.tunnel == Tunnel::Vxlan {
        missing.extend(datapath::features::lacks_vxlan());
    }
    if config.lb_sock {
        missing.extend(datapath::features::sockets());
    }
    if missing.is_empty() {
        return Ok(());
    }
    let line = |missing: &datapath::features::Missing| {
        format!("  {} (it takes {}): {}", missing.what, missing.needs, missing.error)
    };
    let missing: Vec<_> = missing.iter().map(line).collect();
    anyhow::bail!("this kernel lacks what the agent needs:\n{}", missing.join("\n"))
}

async fn open_stores(config: &Config) -> anyhow::Result<Stores> {
    let local = kvstore::Config::Embedded { path: config.kvstore.local.clone() };
    let local = kvstore::connect(local).await.context("open the local store")?;
    let warnings = match local.opened {
        Opened::Ready => Vec::new(),
        Opened::SetAside { moved_to, reason } => {
            let text = format!(
                "the store {} was not readable ({reason}); it is kept as {} and an empty one was begun: endpoints, \
                 addresses and policy of earlier runs are not known",
                config.kvstore.local.display(),
                moved_to.display()
            );
            tracing::warn!("{text}");
            vec![text]
        }
    };
    let is_embedded = matches!(config.kvstore.shared, kvstore::Config::Embedded { .. });
    let shared = if is_embedded {
        Arc::clone(&local.backend)
    } else {
        kvstore::connect(config.kvstore.shared.clone()).await.context("set up the kvstore")?.backend
    };
    let (shared, counters) = Metered::wrap(shared);
    let (memory, memory_writer, remembered) = (Memory::default(), None, Remembered::default());
    let stores =
        Stores { local: local.backend, shared, counters, is_embedded, warnings, memory, memory_writer, remembered };
    Ok(if is_embedded { stores } else { with_memory(stores, config).await })
}

/// The same with what the last run knew of the cluster. It is a help while the kvstore is away, and its lack no reason
/// not to start.
async fn with_memory(mut stores: Stores, config: &Config) -> Stores {
    match memory::recall(&config.kvstore.memory, &config.cluster_name).await {
        Ok(recalled) => {
            stores.warnings.extend(recalled.warning);
            (stores.memory, stores.remembered) = (recalled.memory, recalled.remembered);
            stores.memory_writer = Some(recalled.writer);
        }
        Err(error) => {
            let text = format!("nothing is remembered of the cluster: {}", crate::controllers::causes(&error));
            tracing::warn!("{text}");
            stores.warnings.push(text);
        }
    }
    stores
}

/// What a tunnel's packet has more than what is in it: IP, UDP, and VXLAN or Geneve headers, and the inner Ethernet header.
const TUNNEL_OVERHEAD_V4: u32 = 20 + 8 + 8 + 14;
const TUNNEL_OVERHEAD_V6: u32 = 40 + 8 + 8 + 14;

fn state_config(config: &Config, node: &Node) -> state::Config {
    state::Config {
        node: node.name.clone(),
        cluster: node.cluster.clone(),
        cluster_id: config.cluster.id,
        node_ipv4: node.ipv4,
        node_ipv6: node.ipv6,
        ipv4_range: node.ipv4_range,
        ipv6_range: node.ipv6_range,
        mtu: config.mtu,
        kvstore: config.kvstore.shared.addresses(),
        tunnel_overhead: match config.tunnel {
            Tunnel::Disabled => None,
            Tunnel::Vxlan | Tunnel::Geneve if node.ipv4.is_some() => Some(TUNNEL_OVERHEAD_V4),
            Tunnel::Vxlan | Tunnel::Geneve => Some(TUNNEL_OVERHEAD_V6),
        },
        direct_routes: config.native.direct_routes,
        label_filter: config.label_filter.clone(),
        policy: policy::Options {
            enforcement: config.enforcement,
            allow_localhost: config.allow_localhost,
            cluster: config.cluster.in_mesh(),
        },
        shares_subnets: !matches!(config.kvstore.shared, kvstore::Config::Embedded { .. }),
        services: config.services.clone(),
        quarantine: state::QUARANTINE,
        docker_grace: state::DOCKER_GRACE,
    }
}

/// Feeds what the last run left, and returns what of it the store writer may treat as its own.
async fn restore(inputs: &Inputs, records: store::Records) -> anyhow::Result<store::Records> {
    let count = records.len();
    let accepted = inputs.submit(Input::Restore(records.clone())).await.context("read back the local records")?;
    let bad = &accepted.outputs.view.bad_records;
    for (key, reason) in bad.iter() {
        tracing::warn!(key, reason, "a record of the local store cannot be read; it is left as it is");
    }
    tracing::info!(records = count, endpoints = accepted.outputs.view.endpoints.len(), "the state was read back");
    Ok(records.into_iter().filter(|(key, _)| !bad.contains_key(key)).collect())
}

fn watch_endpoints(
    outputs: &watch::Receiver<Arc<Outputs>>,
    working: &mut Tasks,
) -> (broadcast::Sender<::api::monitor::Record>, Arc<Regenerations>) {
    let (sender, _) = broadcast::channel(NOTICES);
    let regenerations = Arc::new(Regenerations::default());
    let notices =
        Notices { outputs: outputs.clone(), sender: sender.clone(), regenerations: Arc::clone(&regenerations) };
    working.spawn_infallible("notices", |shutdown| notices.run(shutdown));
    (sender, regenerations)
}

/// Answers to the probes of other nodes, and probes them.
fn start_health(
    config: &Config,
    node: &Node,
    outputs: &watch::Receiver<Arc<Outputs>>,
    controllers: &Controllers,
    working: &mut Tasks,
) -> Option<Health> {
    let settings: health::Settings = config.health?;
    let own = node.ipv4.map(IpAddr::V4).into_iter().chain(node.ipv6.map(IpAddr::V6));
    let responder = Responder {
        addresses: own.map(|address| SocketAddr::new(address, settings.port)).collect(),
        controllers: controllers.clone(),
    };
    working.spawn_infallible("health responder", |shutdown| responder.run(shutdown));
    let (prober, health) = Prober::new(settings, node, outputs.clone());
    working.spawn_infallible("health prober", |shutdown| prober.run(shutdown));
    Some(health)
}

/// The kvstores of other clusters, where this cluster is one of several.
fn follow_others(
    config: &Config,
    stores: &mut Stores,
    inputs: &Inputs,
    mesh: Option<mesh::Report>,
    working: &mut Tasks,
) {
    if let Some((own, report)) = config.cluster.in_mesh().zip(mesh) {
        let others = Mesh {
            folder: config.cluster.others.clone(),
            own,
            inputs: inputs.clone(),
            grace: config.node_grace,
            memory: stores.memory.clone(),
            remembered: std::mem::take(&mut stores.remembered.clusters),
            report,
        };
        working.spawn_infallible("other clusters", |shutdown| others.run(shutdown));
    }
}

/// Everything that lives in the kvstore: policy, identities, other nodes, and what this node shows them, by the session.
fn share(
    config: &Config,
    stores: &mut Stores,
    inputs: &Inputs,
    outputs: &watch::Receiver<Arc<Outputs>>,
    controllers: &Controllers,
    contact: &Contact,
    working: &mut Tasks,
) -> Session {
    let feed = PolicyFeed {
        backend: Arc::clone(&stores.shared),
        inputs: inputs.clone(),
        outputs: outputs.clone(),
        controllers: controllers.clone(),
        contact: contact.clone(),
        patience: crate::feed::patience(!stores.remembered.nodes.is_empty()),
    };
    working.spawn_infallible("policy feed", |shutdown| feed.run(shutdown));
    if let Some(writer) = stores.memory_writer.take() {
        let controllers = controllers.clone();
        working.spawn_infallible("memory of the cluster", |shutdown| writer.run(shutdown, controllers));
    }
    let Remembered { nodes, addresses, identities: known, services, clusters: _ } =
        std::mem::take(&mut stores.remembered);
    let feed = ServiceFeed {
        backend: Arc::clone(&stores.shared),
        inputs: inputs.clone(),
        controllers: controllers.clone(),
        contact: contact.clone(),
        cluster: config.cluster_name.clone(),
        memory: stores.memory.clone(),
        remembered: services,
    };
    working.spawn_infallible("service feed", |shutdown| feed.run(shutdown));
    // What others may have taken while this node had no lease is announced when the keeper of its blocks has compared.
    let guarded: &[&str] = if stores.is_embedded { &[] } else { &[kvstore::keys::NODES, kvstore::keys::IPS] };
    let options = session::Options { ttl: config.kvstore.lease_ttl, guarded, ..session::Options::default() };
    let session = Session::start(Arc::clone(&stores.shared), options);
    let others = ClusterFeed {
        backend: Arc::clone(&stores.shared),
        inputs: inputs.clone(),
        controllers: controllers.clone(),
        contact: contact.clone(),
        session: session.clone(),
        grace: config.node_grace,
        memory: stores.memory.clone(),
        remembered: cluster::Remembered { nodes, addresses },
    };
    working.spawn_infallible("cluster feed", |shutdown| others.run(shutdown));
    contact.leases(&session);
    let (looker, backend, beats) = (contact.clone(), Arc::clone(&stores.shared), controllers.clone());
    working.spawn_infallible("heartbeat", |shutdown| looker.beat(backend, beats, shutdown));
    let teller = Teller { session: session.clone(), outputs: outputs.clone(), node: config.node_name.clone() };
    working.spawn_infallible("policy status", |shutdown| teller.run(shutdown));
    let publisher = Publisher { session: session.clone(), outputs: outputs.clone(), controllers: controllers.clone() };
    working.spawn_infallible("publisher", |shutdown| publisher.run(shutdown));
    // In a cluster a node that lost its lease must not be believed in any more when numbers that it may still use are given
    // to others.
    let pace = if stores.is_embedded { EMBEDDED_PACE } else { CLUSTER_PACE };
    let range = Identity::allocated_by(config.cluster.id);
    let options = allocator::Options {
        choice: pace.choice,
        grace: if stores.is_embedded { pace.grace } else { pace.grace.max(config.node_grace * 2) },
        remembered: known.iter().map(|(identity, labels)| (labels.sorted_list(), identity.0)).collect(),
        ..allocator::Options::new(kvstore::keys::IDENTITIES, &config.node_name, range)
    };
    let allocator = Allocator::start(Arc::clone(&stores.shared), session.clone(), options);
    contact.follows(allocator.progress());
    let identities = IdentityAllocation {
        allocator,
        inputs: inputs.clone(),
        outputs: outputs.clone(),
        controllers: controllers.clone(),
        collect_every: pace.collect_every,
        memory: stores.memory.clone(),
        remembered: known,
    };
    working.spawn_infallible("identities", |shutdown| identities.run(shutdown));
    session
}

/// How identities are chosen and collected. Alone on a store nobody else can take a number at the same moment, so they
/// may be small and go soon.
struct Pace {
    choice: allocator::Choice,
    grace: Duration,
    collect_every: Duration,
}

const EMBEDDED_PACE: Pace =
    Pace { choice: allocator::Choice::Lowest, grace: Duration::from_secs(10), collect_every: Duration::from_secs(10) };
const CLUSTER_PACE: Pace = Pace {
    choice: allocator::Choice::Random,
    grace: Duration::from_secs(900),
    collect_every: Duration::from_secs(300),
};

/// The kernel's side: follows the snapshots, and reports.
async fn start_datapath(
    config: &Config,
    node: &Node,
    working: &mut Tasks,
    inputs: &Inputs,
    outputs: &watch::Receiver<Arc<Outputs>>,
    controllers: &Controllers,
    kernel: &watch::Sender<Option<Kernel>>,
) -> anyhow::Result<()> {
    let host = crate::kernel::Host::begin(
        inputs.clone(),
        node.ipv4.map(IpAddr::V4).or(node.ipv6.map(IpAddr::V6)),
        working.token(),
    )
    .await?;
    working.spawn("host addresses", |_| host);
    let (desired_sender, desired) = watch::channel(Arc::default());
    let snapshots = outputs.clone();
    working.spawn_infallible("desired state", |shutdown| forward(snapshots, desired_sender, shutdown));
    // After the host's addresses and MTU, which it is made with.
    let own = health::endpoint::begin(config.health, inputs.clone(), controllers.clone(), working);
    let settings = datapath::Config { own, ..Kernel::config(config, node) };
    let handle = datapath::start(settings, desired, working.token()).await;
    let handle = handle.context("start the datapath")?;
    let ours = Kernel::new(&handle);
    let (status, inputs_of_status) = (ours.status.clone(), inputs.clone());
    working.spawn_infallible("datapath status", |shutdown| report(status, inputs_of_status, shutdown));
    // It ends with the token that it was started with.
    working.spawn("datapath", |_| handle.stopped());
    kernel.send_replace(Some(ours));
    Ok(())
}

/// Hands on the datapath's part of each snapshot once there is one.
async fn forward(
    mut outputs: watch::Receiver<Arc<Outputs>>,
    desired: watch::Sender<Arc<model::desired::Datapath>>,
    shutdown: CancellationToken,
) {
    loop {
        let part = outputs.borrow_and_update().datapath.clone();
        if let Some(part) = part {
            desired.send_if_modified(|sent| {
                let changed = !Arc::ptr_eq(sent, &part);
                *sent = part;
                changed
            });
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = outputs.changed() => if changed.is_err() { return },
        }
    }
}

/// Feeds what the datapath reports.
async fn report(mut status: watch::Receiver<Arc<model::desired::Status>>, inputs: Inputs, shutdown: CancellationToken) {
    loop {
        let now = Arc::clone(&status.borrow_and_update());
        inputs.tell(Input::Datapath(now)).await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}

fn ready(node: &Node, started: Instant) {
    let pools: Vec<_> =
        crate::config::prefixes(node.ipv4_range, node.ipv6_range).iter().map(ToString::to_string).collect();
    tracing::info!(node = node.name, pools = pools.join(" "), took = ?started.elapsed(), "ready");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}

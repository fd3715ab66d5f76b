//! `cilium status`: is everything well. The agent judges; this only lays it out.

use super::{Outcome, Session, health};
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{BOLD, Cell, GREEN, Layout, Page, RED, Table, YELLOW};
use api::health::Health;
use api::status::{
    ClusterMesh, Controller, IpamStatus, KvstoreContact, MeshState, MonitorStatus, Part, PluginCall, PoolUse, State,
    Status,
};
use std::net::IpAddr;

/// Show whether the agent and everything it relies on is well
///
/// Ends with code 1 when something is broken. A warning, such as that Docker does not run yet, is told and ends with 0:
/// the agent works.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Everything: all addresses, all controllers, the plugin's calls, the node
    #[arg(long)]
    verbose: bool,
    /// One line: OK, or what is wrong and where
    #[arg(long, conflicts_with = "verbose")]
    brief: bool,
    /// List every allocated address
    #[arg(long)]
    all_addresses: bool,
    /// List every controller, not only those that fail
    #[arg(long)]
    all_controllers: bool,
    /// Show which nodes of the cluster are reached
    #[arg(long)]
    all_health: bool,
}

/// Column of the texts beside the labels.
const LABELS: Layout = Layout { minimum: 24, padding: 3, indent: 0 };
const NESTED: Layout = Layout { minimum: 2, padding: 3, indent: 2 };

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<Outcome, Failure> {
        let status: Status = match session.agent.try_get(api::routes::HEALTHZ).await {
            Ok(status) => status,
            Err(api::ClientError::Connect { .. }) if self.brief => return Err(Failure::Unreachable),
            Err(source) => return Err(Failure::Status { source }),
        };
        let detail = Detail {
            addresses: self.verbose || self.all_addresses,
            controllers: self.verbose || self.all_controllers,
            everything: self.verbose,
        };
        let health = if (self.verbose || self.all_health) && !session.out.is_json() {
            Some(session.agent.get("tell how the nodes are", api::routes::HEALTH).await?)
        } else {
            None
        };
        session.out.show(&status, |status| match self.brief {
            true => brief(status).into(),
            false => page(status, detail, health.as_ref()),
        })?;
        Ok(if status.cilium.state == State::Failure { Outcome::Unwell } else { Outcome::Done })
    }
}

/// What is listed beyond the usual.
#[derive(Clone, Copy, Default)]
struct Detail {
    addresses: bool,
    controllers: bool,
    everything: bool,
}

fn brief(status: &Status) -> Cell {
    let word = match status.cilium.state {
        State::Ok | State::Disabled => return "OK".into(),
        State::Warning => "warning",
        State::Failure => "error",
    };
    let probes = [
        ("kvstore", &status.kvstore),
        ("container-runtime", &status.container_runtime),
        ("docker-plugin", &status.docker_plugin),
        ("datapath", &status.datapath),
        ("masquerade", &status.masquerade),
    ];
    let (probe, part) = probes
        .into_iter()
        .filter(|(_, part)| matches!(part.state, State::Warning | State::Failure))
        .max_by_key(|(_, part)| part.state == State::Failure)
        .unwrap_or(("cilium", &status.cilium));
    Cell::from(format!("{word} in {probe}: {}", part.msg))
}

fn page(status: &Status, detail: Detail, health: Option<&Health>) -> Page {
    let mut page = Page::default();
    let mut head = Table::new(LABELS);
    head.row([Cell::from("KVStore:"), part(&status.kvstore)]);
    if detail.everything {
        contact(&mut head, &status.kvstore_contact);
    }
    head.row([Cell::from("ContainerRuntime:"), part(&status.container_runtime)]);
    head.row([Cell::from("DockerPlugin:"), part(&status.docker_plugin)]);
    head.row([Cell::from("Datapath:"), part(&status.datapath)]);
    head.row([Cell::from("Masquerading:"), part(&status.masquerade)]);
    head.row([Cell::from("Routing:"), part(&status.routing)]);
    if let Some(mesh) = &status.cluster_mesh {
        cluster_mesh(&mut head, mesh, detail.everything);
    }
    head.row([Cell::from("Cilium:"), part(&status.cilium)]);
    node_monitor(&mut head, status.node_monitor.as_ref());
    head.row([Cell::from("IPAM:"), ipam(&status.ipam)]);
    page.table(head);
    if detail.addresses {
        page.line("Allocated addresses:");
        addresses(&mut page, &status.ipam);
    }
    let healthy = status.controllers.iter().filter(|c| is_healthy(c)).count();
    let mut table = Table::new(LABELS);
    table.row(row!["Controller Status:", format!("{healthy}/{} healthy", status.controllers.len())]);
    page.table(table);
    controllers(&mut page, &status.controllers, detail.controllers);
    let mut tail = Table::new(LABELS);
    tail.row(row!["Policy:", policy(status)]);
    if detail.everything {
        tail.row(row!["Node:", format!("{} (cluster {})", status.node, status.cluster)]);
        tail.row(row!["Version:", format!("{}, up for {}", status.version, duration(status.uptime))]);
    }
    tail.row([Cell::from("Cluster health:"), cluster_health(&status.cluster_health)]);
    page.table(tail);
    if let Some(health) = health.filter(|health| health.enabled) {
        page.table(health::table(health));
    }
    if detail.everything {
        plugin_calls(&mut page, &status.plugin_calls);
    }
    page
}

fn part(part: &Part) -> Cell {
    let (name, style) = match part.state {
        State::Ok => ("Ok", GREEN),
        State::Warning => ("Warning", YELLOW),
        State::Failure => ("Failure", RED),
        State::Disabled => ("Disabled", YELLOW),
    };
    let cell = Cell::styled(name, style);
    if part.msg.is_empty() { cell } else { cell.then("   ").then(&part.msg) }
}

fn cluster_health(health: &Part) -> Cell {
    match health.state {
        State::Disabled => part(health),
        State::Ok => Cell::styled(&health.msg, GREEN),
        State::Warning | State::Failure => Cell::styled(&health.msg, YELLOW),
    }
}

/// Those that do not go well are named, and all on demand.
fn cluster_mesh(table: &mut Table, mesh: &ClusterMesh, all: bool) {
    let ready = mesh.clusters.iter().filter(|cluster| cluster.state == MeshState::Ready).count();
    let fault = mesh.fault.as_ref().map(|fault| format!("; {fault}")).unwrap_or_default();
    table.row(row!["ClusterMesh:", format!("{ready}/{} clusters ready{fault}", mesh.clusters.len())]);
    for cluster in mesh.clusters.iter().filter(|cluster| all || cluster.state != MeshState::Ready) {
        let (state, style) = match cluster.state {
            MeshState::Ready => ("ready", GREEN),
            MeshState::Connecting => ("connecting", YELLOW),
            MeshState::Failing => ("failing", RED),
        };
        let id = cluster.id.map(|id| format!(" (id {id})")).unwrap_or_default();
        let (nodes, endpoints, identities) = (cluster.nodes, cluster.endpoints, cluster.identities);
        let counts = format!(", {nodes} nodes, {endpoints} endpoints, {identities} identities");
        let past = match (&cluster.last_failure_msg, cluster.failures) {
            (Some(last), failures) if cluster.state != MeshState::Failing => {
                format!(", failed {failures} times, last {}: {last}", ago(cluster.last_failure))
            }
            _ => String::new(),
        };
        let reason = cluster.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let text = Cell::from(format!("{}{id}: ", cluster.name)).then_styled(state, style);
        table.row([Cell::from(""), text.then(&format!("{reason}{counts}{past}"))]);
    }
}

fn contact(table: &mut Table, contact: &KvstoreContact) {
    if let Some(lease) = &contact.lease {
        let id = lease.id.as_ref().map_or_else(|| "no lease".to_owned(), |id| format!("lease {id}"));
        let trouble = lease.trouble.as_ref().map(|trouble| format!("; {trouble}")).unwrap_or_default();
        let (confirmed, keys, pending) = (ago(lease.confirmed), lease.keys, lease.pending);
        table.row(row!["", format!("{id}, confirmed {confirmed}, {keys} keys, {pending} not written yet{trouble}")]);
    }
    if let Some(beat) = &contact.heartbeat {
        let answered = milliseconds(beat.round_trip_us);
        table.row(row!["", format!("last heartbeat seen {} ago, answered in {answered}", duration(beat.age))]);
    }
    for watch in &contact.watches {
        let state = if watch.in_contact { "followed" } else { "not followed now" };
        table.row(row!["", format!("{}: {state}, revision {}", watch.prefix, watch.revision)]);
    }
}

fn node_monitor(table: &mut Table, monitor: Option<&MonitorStatus>) {
    let Some(monitor) = monitor else {
        table.row(row!["NodeMonitor:", "Disabled"]);
        return;
    };
    table.row(row!["NodeMonitor:", listening(monitor.cpus, monitor.buffer)]);
    table.row(row!["", format!("{} events lost, {} unknown notifications", monitor.lost, monitor.unknown)]);
}

/// The banner of `cilium monitor`, too: one ring buffer of `buffer` bytes serves all CPUs.
pub fn listening(cpus: u32, buffer: u64) -> String {
    format!("Listening for events on {cpus} CPUs with 1x{buffer} of shared memory")
}

fn ipam(ipam: &IpamStatus) -> Cell {
    let family = |name: &str, pool: &Option<PoolUse>| {
        let pool = pool.as_ref()?;
        Some(format!("{name}: {}/{} allocated from {}", pool.allocated, pool.capacity, pool.pool))
    };
    let families: Vec<String> =
        [family("IPv4", &ipam.ipv4), family("IPv6", &ipam.ipv6)].into_iter().flatten().collect();
    if families.is_empty() { "Disabled".into() } else { families.join(", ").into() }
}

fn addresses(page: &mut Page, ipam: &IpamStatus) {
    let mut allocations: Vec<_> = ipam.allocations.iter().collect();
    allocations.sort_by_key(|(address, _)| (address.parse::<IpAddr>().is_err(), address.parse::<IpAddr>().ok()));
    for (address, owner) in allocations {
        page.line(format!("  {address} ({owner})"));
    }
}

fn is_healthy(controller: &Controller) -> bool {
    controller.consecutive_failure_count == 0
}

fn controllers(page: &mut Page, all: &[Controller], healthy_too: bool) {
    let mut shown: Vec<_> = all.iter().filter(|c| healthy_too || !is_healthy(c)).collect();
    if shown.is_empty() {
        return;
    }
    shown.sort_by_key(|c| &c.name);
    let mut table = Table::with_header(NESTED, ["Name", "Last success", "Last error", "Count", "Message"]);
    for controller in shown {
        let message = match controller.last_failure_msg.as_str() {
            message if !is_healthy(controller) && !message.is_empty() => Cell::styled(message, RED),
            _ => "no error".into(),
        };
        table.row([
            Cell::from(&controller.name),
            ago(controller.last_success).into(),
            ago(controller.last_failure).into(),
            controller.consecutive_failure_count.into(),
            message,
        ]);
    }
    page.table(table);
}

fn policy(status: &Status) -> String {
    let Status { policy_revision, desired_revision, realised_revision, .. } = status;
    format!("revision {policy_revision}, kernel at state {realised_revision} of {desired_revision}")
}

fn plugin_calls(page: &mut Page, calls: &[PluginCall]) {
    if calls.is_empty() {
        return;
    }
    page.line(Cell::from("Plugin calls:"));
    let mut calls: Vec<_> = calls.iter().collect();
    calls.sort_by_key(|call| &call.method);
    let mut table = Table::with_header(NESTED, ["Method", "Calls", "Errors", "Last", "Longest"]);
    for call in calls {
        let errors = Cell::from(call.errors);
        let errors = if call.errors == 0 { errors } else { errors.in_style(BOLD) };
        table.row([
            Cell::from(&call.method),
            call.count.into(),
            errors,
            milliseconds(call.last_us).into(),
            milliseconds(call.max_us).into(),
        ]);
    }
    page.table(table);
}

fn milliseconds(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

fn ago(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", duration(seconds)))
}

/// `12s`, `3m5s`, `2h0m1s`.
fn duration(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests;

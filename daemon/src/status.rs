//! How everything is, gathered from whoever knows: the body of `GET /v1/healthz`.
//!
//! It asks and decides only what the overall state is: the worst of the parts.

use crate::agent::Agent;
use crate::kernel::Kernel;
use api::status::{IpamStatus, MeshState, MonitorStatus, Part, PoolUse, State, Status};
use datapath::GeneveBy;
use model::EndpointState;
use model::desired::Object;
use state::{EndpointView, Family, Outputs, Source, SyncState};
use std::sync::Arc;
use std::time::Duration;

/// How long the kvstore may take to say how it is.
const KVSTORE_LIMIT: Duration = Duration::from_millis(1500);

fn part(state: State, msg: impl Into<String>) -> Part {
    Part { state, msg: msg.into() }
}

/// Gathers it all; bounded by the limit on the kvstore's answer.
pub async fn gather(agent: &Agent) -> Status {
    let outputs = agent.snapshot();
    let kernel = agent.kernel.borrow().clone();
    let failing = kernel.as_ref().map(|kernel| kernel.status.borrow().clone()).unwrap_or_default();
    let kvstore = kvstore(agent, &outputs).await;
    let datapath = datapath(kernel.as_ref(), &outputs);
    let masquerade = masquerade(agent, &failing);
    let docker_plugin =
        part(State::Ok, format!("serving {}", agent.config.docker_plugins.join("cilium.sock").display()));
    let container_runtime = agent.plugin_calls.container_runtime();
    let store = store(agent);
    let worst = [&kvstore, &container_runtime, &docker_plugin, &datapath, &masquerade, &store]
        .into_iter()
        .chain(&warnings(agent, &outputs))
        .filter(|part| matches!(part.state, State::Warning | State::Failure))
        .max_by_key(|part| part.state == State::Failure)
        .cloned();
    Status {
        cluster_health: cluster_health(agent),
        cluster_mesh: agent.mesh.as_ref().map(crate::mesh::Report::report),
        cilium: worst.unwrap_or_else(|| part(State::Ok, "OK")),
        kvstore,
        kvstore_contact: agent.contact.report(),
        container_runtime,
        docker_plugin,
        datapath,
        masquerade,
        routing: kernel.as_ref().map_or_else(|| part(State::Failure, "being started"), routing),
        ipam: ipam(&outputs),
        node_monitor: kernel.as_ref().map(monitor),
        controllers: agent.controllers.report(),
        node: agent.node.name.clone(),
        cluster: agent.node.cluster.clone(),
        version: crate::VERSION.to_owned(),
        uptime: agent.started.elapsed().as_secs(),
        policy_revision: outputs.view.policy.revision,
        desired_revision: outputs.datapath_revision().unwrap_or_default(),
        realised_revision: failing.realised,
        plugin_calls: agent.plugin_calls.calls(),
    }
}

async fn kvstore(agent: &Agent, outputs: &Outputs) -> Part {
    let away: Vec<_> = [Source::Policy, Source::Identities, Source::Cluster, Source::Services]
        .iter()
        .filter(|source| matches!(outputs.view.sync.get(source), Some(SyncState::Away)))
        .collect();
    let Ok(status) = tokio::time::timeout(KVSTORE_LIMIT, agent.kvstore.status()).await else {
        return part(State::Failure, format!("no answer within {KVSTORE_LIMIT:?}{}", waiting(outputs)));
    };
    match (status.healthy, away.is_empty()) {
        (false, _) => part(State::Failure, status.text + &waiting(outputs)),
        (true, true) => part(State::Ok, status.text),
        (true, false) => part(State::Warning, format!("{}; not listed since the start: {away:?}", status.text)),
    }
}

/// Who needs the kvstore.
fn waiting(outputs: &Outputs) -> String {
    let waits = |endpoint: &&Arc<EndpointView>| endpoint.state == EndpointState::WaitingForIdentity;
    let waiting: Vec<_> =
        outputs.view.endpoints.values().filter(waits).map(|endpoint| endpoint.id.to_string()).collect();
    match waiting.as_slice() {
        [] => String::new(),
        [one] => format!("; endpoint {one} waits for an identity until it answers"),
        many => format!("; {} endpoints wait for an identity until it answers: {}", many.len(), many.join(", ")),
    }
}

fn cluster_health(agent: &Agent) -> Part {
    let health = crate::api::health::gather(agent);
    if !health.enabled {
        return part(State::Disabled, "other nodes are not probed");
    }
    let (reachable, all) = (health.reachable(), health.nodes.len());
    let lost: Vec<_> = health.nodes.iter().filter(|node| node.is_probed() && !node.is_reachable()).collect();
    let unprobed = all - reachable - lost.len();
    let mut msg = format!("{reachable}/{all} reachable");
    if unprobed > 0 {
        msg += &format!(", {unprobed} not probed yet");
    }
    if let Some(timestamp) = &health.timestamp {
        msg += &format!("   ({timestamp}, every {:.0}s)", health.probe_interval);
    }
    match lost.is_empty() {
        true => part(State::Ok, msg),
        false => part(State::Warning, msg),
    }
}

fn store(agent: &Agent) -> Part {
    match &agent.stored.borrow().failure {
        None => part(State::Ok, "OK"),
        Some(failure) => part(State::Failure, format!("the local store cannot be written: {failure}")),
    }
}

/// What was wrong at start, bad records, and a policy document that could not be taken.
fn warnings(agent: &Agent, outputs: &Outputs) -> Vec<Part> {
    let at_start = agent.warnings.iter().map(|text| part(State::Warning, text.clone()));
    let bad = &outputs.view.bad_records;
    let records = bad.iter().next().map(|(key, reason)| {
        part(
            State::Warning,
            format!("{} records of the local store cannot be read, such as {key}: {reason}", bad.len()),
        )
    });
    let fault = outputs.view.policy.fault.as_ref();
    let fault = fault.map(|fault| part(State::Warning, format!("the newest policy is not in force: {fault}")));
    let doubts = outputs.view.doubts.iter().next().map(|(whose, why)| {
        let count = outputs.view.doubts.len();
        part(State::Warning, format!("{count} claims of other nodes are not believed, such as of {whose}: {why}"))
    });
    let mesh = agent.mesh.as_ref().map(|mesh| mesh.report()).unwrap_or_default();
    let folder = mesh.fault.map(|fault| part(State::Warning, fault));
    let failing = mesh.clusters.into_iter().filter(|cluster| cluster.state == MeshState::Failing);
    let failing = failing.map(|cluster| {
        let reason = cluster.reason.unwrap_or_default();
        part(State::Warning, format!("cluster {} is not followed: {reason}", cluster.name))
    });
    at_start.chain(records).chain(fault).chain(doubts).chain(folder).chain(failing).collect()
}

fn datapath(kernel: Option<&Kernel>, outputs: &Outputs) -> Part {
    let Some(kernel) = kernel else { return part(State::Failure, "being started") };
    let status = kernel.status.borrow();
    let failing = status.failing.iter().filter(|(object, _)| **object != Object::Node(MASQUERADE));
    let failing: Vec<_> = failing.collect();
    match (failing.first(), outputs.datapath_revision()) {
        (Some((object, failure)), _) => {
            let more = if failing.len() > 1 { format!(" (and {} more)", failing.len() - 1) } else { String::new() };
            part(State::Failure, format!("{object}: {}, tried {} times{more}", failure.message, failure.attempts))
        }
        (None, None) => part(State::Failure, "waiting for the policy and the identities; what was in force stays"),
        (None, Some(desired)) if status.realised < desired => {
            part(State::Ok, format!("at revision {} of {desired}", status.realised))
        }
        (None, Some(desired)) => {
            part(State::Ok, format!("{} endpoints at revision {desired}", outputs.view.endpoints.len()))
        }
    }
}

/// The datapath's name of the part that it may fail on without endpoints being hurt.
const MASQUERADE: &str = "masquerade";

fn masquerade(agent: &Agent, status: &model::desired::Status) -> Part {
    if !agent.config.masquerade {
        return part(State::Disabled, "containers' packets leave with their own addresses");
    }
    match status.failing.get(&Object::Node(MASQUERADE)) {
        Some(failure) => part(State::Failure, failure.message.clone()),
        None => {
            let pools = crate::config::prefixes(agent.node.ipv4_range, agent.node.ipv6_range);
            let pools: Vec<_> = pools.iter().map(ToString::to_string).collect();
            part(State::Ok, pools.join(", "))
        }
    }
}

/// How packets get to other nodes.
fn routing(kernel: &Kernel) -> Part {
    match kernel.tunnel {
        datapath::Tunnel::Disabled => part(State::Disabled, "no tunnel: the network between the nodes brings packets"),
        datapath::Tunnel::Vxlan { port } => part(State::Ok, format!("vxlan, UDP port {port}")),
        datapath::Tunnel::Geneve { port, by } => {
            let by = match by {
                GeneveBy::Programs => "the packet programs: the kernel has no device of use",
                GeneveBy::Auto | GeneveBy::Device => "a device of the kernel's",
            };
            part(State::Ok, format!("geneve, UDP port {port}, by {by}"))
        }
    }
}

fn ipam(outputs: &Outputs) -> IpamStatus {
    let usage = |family: Family| {
        let pool = outputs.view.pools.values().find(|pool| pool.node_pool && pool.family == family)?;
        let (allocated, capacity) = (pool.allocated, pool.capacity.to_string());
        Some(PoolUse { pool: pool.subnet.to_string(), allocated, capacity })
    };
    let owner = |view: &state::AddressView| match view.endpoint {
        Some(endpoint) => format!("endpoint {endpoint}"),
        None => view.owner.clone(),
    };
    let allocations = outputs.view.addresses.iter().map(|(address, view)| (address.to_string(), owner(view)));
    IpamStatus { ipv4: usage(Family::V4), ipv6: usage(Family::V6), allocations: allocations.collect() }
}

fn monitor(kernel: &Kernel) -> MonitorStatus {
    let (lost, unknown) = kernel.lost_and_unknown();
    MonitorStatus { cpus: kernel.cpus, buffer: kernel.ring_bytes, lost, unknown }
}

//! Numbers in Prometheus' text form, gathered when they are asked for: the body of `GET /v1/metrics`.
//!
//! Names are Cilium's where Cilium has the number.

use crate::agent::Agent;
use crate::metered::OPERATIONS;
use model::EndpointState;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// A document being written.
#[derive(Default)]
struct Page(String);

impl Page {
    /// Begins a metric: `kind` is `counter` or `gauge`.
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "# HELP cilium_{name} {help}\n# TYPE cilium_{name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(key, text)| format!("{key}=\"{}\"", escape(text))).collect();
        let _ = if labels.is_empty() {
            writeln!(self.0, "cilium_{name} {value}")
        } else {
            writeln!(self.0, "cilium_{name}{{{}}} {value}", labels.join(","))
        };
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.metric(name, kind, help);
        self.value(name, &[], value);
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Writes the page. Reading the kernel's counters is the only part that can fail; it is then left out.
pub async fn gather(agent: &Agent) -> String {
    let mut page = Page::default();
    endpoints(agent, &mut page);
    policy(agent, &mut page);
    addresses(agent, &mut page);
    writer(agent, &mut page);
    kvstore(agent, &mut page);
    plugin(agent, &mut page);
    controllers(agent, &mut page);
    health(agent, &mut page);
    kernel(agent, &mut page).await;
    page.0
}

fn endpoints(agent: &Agent, page: &mut Page) {
    let outputs = agent.snapshot();
    let mut states = BTreeMap::<&str, usize>::new();
    for state in [EndpointState::Ready, EndpointState::NotReady, EndpointState::WaitingForIdentity] {
        states.insert(state.as_str(), 0);
    }
    for endpoint in outputs.view.endpoints.values() {
        *states.entry(endpoint.state.as_str()).or_default() += 1;
    }
    page.single("endpoint", "gauge", "Endpoints of this node", outputs.view.endpoints.len());
    page.metric("endpoint_state", "gauge", "Endpoints of this node by state");
    for (state, count) in states {
        page.value("endpoint_state", &[("endpoint_state", state)], count);
    }
    page.metric("endpoint_regenerations_total", "counter", "How often the kernel was brought to an endpoint's policy");
    let regenerations = &agent.regenerations;
    page.value("endpoint_regenerations_total", &[("outcome", "success")], load(&regenerations.succeeded));
    page.value("endpoint_regenerations_total", &[("outcome", "fail")], load(&regenerations.failed));
    page.single("identity", "gauge", "Identities known to this node", outputs.view.identities.len());
}

fn policy(agent: &Agent, page: &mut Page) {
    let outputs = agent.snapshot();
    let enforcing = outputs.view.endpoints.values().filter(|e| e.enforced_ingress || e.enforced_egress).count();
    page.single("policy_max_revision", "gauge", "Revision of the rules in force", outputs.view.policy.revision);
    page.single("policy_endpoint_enforced", "gauge", "Endpoints that a rule restricts", enforcing);
}

fn addresses(agent: &Agent, page: &mut Page) {
    let outputs = agent.snapshot();
    page.metric("ip_addresses", "gauge", "Addresses given out, by pool");
    for pool in outputs.view.pools.values() {
        let labels = [("family", pool.family.to_string()), ("pool", pool.subnet.to_string())];
        let labels: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
        page.value("ip_addresses", &labels, pool.allocated);
    }
}

fn writer(agent: &Agent, page: &mut Page) {
    let counters = &agent.counters;
    page.single("inputs_total", "counter", "Facts and requests taken by the state", load(&counters.inputs));
    page.single("inputs_rejected_total", "counter", "Those that were not acceptable", load(&counters.rejected));
    page.single("snapshots_total", "counter", "Batches of inputs processed", load(&counters.batches));
}

fn kvstore(agent: &Agent, page: &mut Page) {
    let rows = OPERATIONS.iter().zip(agent.kvstore_counters.iter());
    let rows: Vec<_> = rows.map(|(name, c)| (*name, load(&c.count), load(&c.errors), load(&c.micros))).collect();
    page.metric("kvstore_operations_total", "counter", "Operations on the kvstore");
    for (name, count, ..) in &rows {
        page.value("kvstore_operations_total", &[("operation", name)], count);
    }
    page.metric("kvstore_operation_errors_total", "counter", "Operations on the kvstore that failed");
    for (name, _, errors, _) in &rows {
        page.value("kvstore_operation_errors_total", &[("operation", name)], errors);
    }
    page.metric("kvstore_operations_duration_seconds_sum", "counter", "Time that operations on the kvstore took");
    for (name, _, _, micros) in &rows {
        page.value("kvstore_operations_duration_seconds_sum", &[("operation", name)], seconds(*micros));
    }
}

/// Microseconds as seconds, without going through a float.
fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

fn plugin(agent: &Agent, page: &mut Page) {
    let calls = agent.plugin_calls.calls();
    page.metric("docker_plugin_calls_total", "counter", "Calls that Docker made");
    for call in &calls {
        page.value("docker_plugin_calls_total", &[("method", &call.method)], call.count);
    }
    page.metric("docker_plugin_call_errors_total", "counter", "Calls that Docker made and that failed");
    for call in &calls {
        page.value("docker_plugin_call_errors_total", &[("method", &call.method)], call.errors);
    }
    page.metric("docker_plugin_call_last_seconds", "gauge", "How long the last call took");
    for call in &calls {
        page.value("docker_plugin_call_last_seconds", &[("method", &call.method)], seconds(call.last_us));
    }
    page.metric("docker_plugin_call_max_seconds", "gauge", "How long the longest call took");
    for call in &calls {
        page.value("docker_plugin_call_max_seconds", &[("method", &call.method)], seconds(call.max_us));
    }
}

fn controllers(agent: &Agent, page: &mut Page) {
    let rows = agent.controllers.report();
    page.metric("controllers_runs_total", "counter", "Runs of what the agent keeps true");
    for row in &rows {
        page.value("controllers_runs_total", &[("name", &row.name), ("outcome", "success")], row.success_count);
        page.value("controllers_runs_total", &[("name", &row.name), ("outcome", "fail")], row.failure_count);
    }
    let failing = rows.iter().filter(|row| row.consecutive_failure_count > 0).count();
    page.single("controllers_failing", "gauge", "What the agent keeps true and is not true now", failing);
}

/// 1 and a latency for each address that answered. There is no latency of one that did not.
fn health(agent: &Agent, page: &mut Page) {
    let health = crate::api::health::gather(agent);
    let mut rows: Vec<(Vec<(&str, &str)>, &api::health::Probe)> = Vec::new();
    for node in &health.nodes {
        let (cluster, name) = node.name.split_once('/').unwrap_or((&agent.node.cluster, &node.name));
        let location = match (node.local, cluster == agent.node.cluster) {
            (true, _) => "local_node",
            (false, true) => "remote_intra_cluster",
            (false, false) => "remote_inter_cluster",
        };
        for (kind, paths) in [("node", &node.host), ("endpoint", &node.health_endpoint)] {
            for (place, path) in paths.all().enumerate() {
                let place = if place == 0 { "primary" } else { "secondary" };
                for (protocol, probe) in [("icmp", &path.icmp), ("http", &path.http)] {
                    let labels = vec![
                        ("source_cluster", agent.node.cluster.as_str()),
                        ("source_node_name", agent.node.name.as_str()),
                        ("target_cluster", cluster),
                        ("target_node_name", name),
                        ("target_node_type", location),
                        ("target_node_ip", path.ip.as_str()),
                        ("type", kind),
                        ("address_type", place),
                        ("protocol", protocol),
                    ];
                    rows.push((labels, probe));
                }
            }
        }
    }
    rows.retain(|(_, probe)| probe.last_probed.is_some());
    page.metric("node_connectivity_status", "gauge", "Whether a node answered to the last probe");
    for (labels, probe) in &rows {
        page.value("node_connectivity_status", labels, u8::from(probe.is_ok()));
    }
    page.metric("node_connectivity_latency_seconds", "gauge", "How long a node's answer to the last probe took");
    for (labels, probe) in rows.iter().filter(|(_, probe)| probe.is_ok()) {
        page.value("node_connectivity_latency_seconds", labels, seconds(probe.latency / 1000));
    }
}

async fn kernel(agent: &Agent, page: &mut Page) {
    let Some(kernel) = agent.kernel.borrow().clone() else { return };
    let status = kernel.status.borrow().clone();
    page.single("datapath_rounds_total", "counter", "Rounds of the datapath's reconciler", status.rounds);
    page.single("datapath_operations_total", "counter", "Changes that it made in the kernel", status.operations);
    page.single("datapath_failing", "gauge", "Objects that the kernel does not have as wanted", status.failing.len());
    let (lost, unknown) = kernel.lost_and_unknown();
    page.single(
        "perf_events_lost_total",
        "counter",
        "Events that the kernel had no room for, with or without a listener",
        lost,
    );
    page.single("perf_events_unknown_total", "counter", "Events that could not be decoded", unknown);
    let Ok(rows) = kernel.packet_counters().await else { return };
    let (drops, forwards): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| model::drop_reason::DropReason(row.code).is_drop());
    page.metric("drop_count_total", "counter", "Packets dropped");
    for row in &drops {
        page.value("drop_count_total", &[("reason", &row.reason), ("direction", &row.direction)], row.packets);
    }
    page.metric("drop_bytes_total", "counter", "Bytes dropped");
    for row in &drops {
        page.value("drop_bytes_total", &[("reason", &row.reason), ("direction", &row.direction)], row.bytes);
    }
    page.metric("forward_count_total", "counter", "Packets forwarded");
    for row in &forwards {
        page.value("forward_count_total", &[("direction", &row.direction)], row.packets);
    }
    page.metric("forward_bytes_total", "counter", "Bytes forwarded");
    for row in &forwards {
        page.value("forward_bytes_total", &[("direction", &row.direction)], row.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_lines_are_whole() {
        let mut page = Page::default();
        page.metric("x", "gauge", "An x");
        page.value("x", &[("reason", "a\"b\\c\nd")], 3);
        assert_eq!(page.0, "# HELP cilium_x An x\n# TYPE cilium_x gauge\ncilium_x{reason=\"a\\\"b\\\\c\\nd\"} 3\n");
    }

    #[test]
    fn durations_are_seconds() {
        assert_eq!(seconds(1_500_042), "1.500042");
    }
}

//! The tables of a snapshot as text, a line for each row.

use model::service::{Algorithm, Table};
use model::{EndpointId, L4Address, LoadBalancer, PolicyEntry, PolicyKey, ServiceId};
use state::services::ServiceView;
use state::{EndpointView, Outputs};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::Arc;

/// One table by its name; `log:N` is the story of an endpoint. `None` if there is no such.
pub fn show(outputs: &Outputs, what: &str) -> Option<String> {
    let view = &outputs.view;
    Some(match what {
        "endpoints" => table(what, view.endpoints.values().map(|endpoint| endpoint_row(endpoint))),
        "kernel" => kernel(outputs),
        "ips" => table(
            what,
            view.ips.iter().map(|(prefix, row)| {
                let endpoint = row.endpoint.map(|id| format!(" endpoint {id}")).unwrap_or_default();
                let node = row.node.map(|node| format!(" on {node}")).unwrap_or_default();
                format!("{prefix} identity {} from {}{endpoint}{node}", row.identity, row.source.as_str())
            }),
        ),
        "policies" => policies(outputs),
        "pools" => table(
            what,
            view.pools.values().map(|pool| {
                let range = pool.range.map(|range| format!(" range {range}")).unwrap_or_default();
                let (used, all) = (pool.allocated, pool.capacity);
                format!("{} gateway {}{range} held {}x used {used} of {all}", pool.id, pool.gateway, pool.references)
            }),
        ),
        "addresses" => table(
            what,
            view.addresses.iter().map(|(address, row)| {
                let endpoint = row.endpoint.map(|id| format!(" of endpoint {id}")).unwrap_or_default();
                format!("{address} in {} as {:?}{endpoint}", row.pool, row.purpose)
            }),
        ),
        "networks" => table(what, view.networks.keys()),
        "identities" => table(
            what,
            view.identities
                .iter()
                .filter(|(identity, _)| !identity.is_reserved())
                .map(|(identity, row)| format!("{identity} {} used {}x", row.labels, row.references)),
        ),
        "wanted" => table(what, outputs.wanted_identities.iter()),
        "services" => table(what, view.services.iter().map(|(id, view)| service_row(*id, view))),
        "frontends" => table(what, outputs.datapath.iter().flat_map(|datapath| &datapath.services).map(frontend_row)),
        "policy" => {
            let fault = view.policy.fault.as_ref().map(|fault| format!("  fault: {fault}\n")).unwrap_or_default();
            format!("policy:\n  revision {} {}\n{fault}", view.policy.revision, view.policy.rules)
        }
        "sync" => table(what, view.sync.iter().map(|(source, state)| format!("{source:?} {state:?}"))),
        "doubts" => table(what, view.doubts.iter().map(|(whose, reason)| format!("{whose}: {reason}"))),
        "bad-records" => table(what, view.bad_records.iter().map(|(key, reason)| format!("{key}: {reason}"))),
        "records" => table(what, outputs.records.keys()),
        "records-in-full" => table(what, outputs.records.iter().map(|(key, text)| format!("{key} {text}"))),
        "shared" => table(what, outputs.shared.iter().map(|(key, text)| format!("{key} {text}"))),
        _ => {
            let id = what.strip_prefix("log:")?.parse().ok()?;
            let log = &view.endpoints.get(&EndpointId(id))?.log;
            let line = |entry: &state::LogEntry| format!("{} ms {}: {}", entry.at.0, entry.state, entry.message);
            table(what, log.iter().map(line))
        }
    })
}

fn table<T: Display>(title: &str, rows: impl Iterator<Item = T>) -> String {
    rows.fold(format!("{title}:\n"), |mut text, row| {
        let _ = writeln!(text, "  {row}");
        text
    })
}

fn service_row(id: ServiceId, view: &ServiceView) -> String {
    let frontend = view.frontend().unwrap();
    let refused = view.refused.as_ref().map(|why| format!(" refused: {why}")).unwrap_or_default();
    format!("{id} {} {} of {}{refused}", frontend.kind, frontend.address, view.service.name)
}

/// Backends by their addresses, each with how many places it has among those from inside and from outside.
fn frontend_row((address, balancer): (&L4Address, &Arc<LoadBalancer>)) -> String {
    let mut row = format!("{address} {} {}", balancer.id, balancer.kind);
    for (n, backend) in balancer.backends.iter().enumerate() {
        let count = |table: &Table| table.places.iter().filter(|place| usize::from(**place) == n).count();
        let _ = write!(row, " {backend} {}+{}", count(&balancer.internal), count(&balancer.external));
    }
    if balancer.external.by == Algorithm::Maglev {
        row += " maglev";
    }
    if let Some(seconds) = balancer.affinity {
        let _ = write!(row, " affinity {seconds}");
    }
    if let Some(ranges) = &balancer.source_ranges {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let _ = write!(row, " from {}", ranges.join(","));
    }
    row
}

fn endpoint_row(endpoint: &EndpointView) -> String {
    let labels = &endpoint.identity_labels;
    let mut row = format!(
        "{} {} {} identity {} ({labels})",
        endpoint.id, endpoint.docker_endpoint_id, endpoint.state, endpoint.identity
    );
    let optional = [
        ("name", endpoint.container_name.clone()),
        ("v4", endpoint.ipv4.map(|ip| ip.to_string())),
        ("via", endpoint.gateway4.map(|ip| ip.to_string())),
        ("v6", endpoint.ipv6.map(|ip| ip.to_string())),
        ("via", endpoint.gateway6.map(|ip| ip.to_string())),
        ("failure", endpoint.failure.clone()),
    ];
    for (name, value) in optional {
        let _ = value.map(|value| write!(row, " {name} {value}"));
    }
    let _ = write!(row, " mtu {} link {:?} policy {}", endpoint.mtu, endpoint.link, endpoint.policy_revision);
    row + if endpoint.internal { " internal" } else { "" }
        + if endpoint.network_known { "" } else { " network unknown" }
}

/// What only the datapath part says.
fn kernel(outputs: &Outputs) -> String {
    let Some(datapath) = &outputs.datapath else { return "kernel: nothing published\n".to_owned() };
    let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(" ") };
    let rows = [
        format!("settled {}", datapath.settled),
        format!("endpoints {}", list(datapath.endpoints.keys().map(ToString::to_string).collect())),
        format!("policies {}", list(datapath.policies.keys().map(ToString::to_string).collect())),
        format!("gateways {}", list(datapath.gateways.iter().map(ToString::to_string).collect())),
        format!("pools {}", list(datapath.pools.iter().map(ToString::to_string).collect())),
    ];
    let vteps = datapath.vteps.iter().map(|(prefix, vtep)| format!("{prefix} behind {vtep}"));
    let hops = datapath.hops.iter().map(|(prefix, node)| format!("{prefix} routed to {node}"));
    let nodes = datapath.nodes.iter().map(|(address, node)| match address == node {
        true => format!("node {node}"),
        false => format!("node {node} by {address}"),
    });
    let clusters = datapath.clusters.iter().map(|(node, cluster)| format!("node {node} is of cluster {cluster}"));
    let nodes = nodes.chain(clusters);
    let identities = datapath.identities.keys().map(|identity| format!("believed {identity}"));
    table("kernel", rows.into_iter().chain(vteps).chain(hops).chain(nodes).chain(identities))
}

fn policies(outputs: &Outputs) -> String {
    let policies = outputs.datapath.iter().flat_map(|datapath| datapath.policies.iter());
    let rows = policies.flat_map(|(subject, map)| {
        let row = move |(key, entry): (PolicyKey, PolicyEntry)| {
            let peer = if key.identity.0 == 0 { "anybody".to_owned() } else { key.identity.to_string() };
            let port = match key.protocol {
                None => String::new(),
                Some(protocol) => format!(" {protocol} {}/{}", key.port, key.prefix),
            };
            let verdict = if entry.deny { "deny" } else { "allow" };
            format!("{subject} {} {peer}{port} {verdict}", key.direction)
        };
        map.iter().collect::<BTreeMap<_, _>>().into_iter().map(row)
    });
    table("policies", rows)
}

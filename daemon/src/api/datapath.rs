//! `/v1/bpf/…` and `/v1/map…`: what the kernel holds, read when asked, with the names that the agent knows.

use super::{Refusal, Request, answer, done};
use crate::agent::Agent;
use crate::api::query::Query;
use crate::controllers::causes;
use crate::kernel::{Kernel, ReadError};
use crate::server::{Body, json};
use ::api::datapath as shape;
use ::datapath::{Flow, FlowEnd, PolicyRow, PolicyTable, Tables};
use hyper::{Response, StatusCode};
use ipnetwork::IpNetwork;
use model::{EndpointId, Identity, Protocol};
use serde_json::{Value, json};
use state::Outputs;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Most flows in one answer.
const MAX_FLOWS: usize = 100_000;
/// Most entries of a raw dump.
const MAX_ENTRIES: usize = 10_000;

fn kernel(agent: &Agent) -> Result<Kernel, Refusal> {
    let kernel = agent.kernel.borrow().clone();
    kernel
        .ok_or_else(|| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the datapath is still being started: try again"))
}

fn refusal(error: ReadError) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, causes(&error))
}

/// `GET /v1/bpf/endpoint`
pub async fn endpoints(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let rows = kernel(agent)?.read(Tables::endpoints).await.map_err(refusal)?;
    let row = |row: ::datapath::EndpointRow| shape::EndpointRow {
        id: row.id.0,
        ip: row.ipv4.map(|ip| ip.to_string()).into_iter().chain(row.ipv6.map(|ip| ip.to_string())).collect(),
        ifindex: row.ifindex,
        mac: row.mac.to_string(),
        node_mac: row.node_mac.to_string(),
        identity: row.identity.0,
        policy: row.policy,
        flags: u32::from(row.internal),
    };
    answer(query, &rows.into_iter().map(row).collect::<Vec<_>>())
}

/// `GET /v1/bpf/policy[?endpoint=…]`: each policy in force once, or that of one endpoint.
pub async fn policies(agent: &Agent, mut query: Query) -> Result<Response<Body>, Refusal> {
    let kernel = kernel(agent)?;
    let outputs = agent.snapshot();
    let wanted: Vec<EndpointId> = match query.one("endpoint")? {
        Some(text) => {
            let reference = super::endpoint::reference(&text)?;
            let found = outputs.view.find(&reference).map(|endpoint| endpoint.id);
            let none = || Refusal::new(StatusCode::NOT_FOUND, format!("there is no endpoint {reference}"));
            vec![found.ok_or_else(none)?]
        }
        None => outputs.view.endpoints.keys().copied().collect(),
    };
    let mut rows = Vec::new();
    for table in tables(&kernel, wanted).await? {
        rows.extend(table.rows.iter().map(|row| policy_row(&table, row, &outputs)));
    }
    answer(query, &rows)
}

/// The policies of these endpoints; those that several share are there once.
async fn tables(kernel: &Kernel, endpoints: Vec<EndpointId>) -> Result<Vec<PolicyTable>, Refusal> {
    let read = move |tables: &Tables| {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for endpoint in endpoints {
            if let Some(table) = tables.policy(endpoint)?
                && seen.insert(table.version)
            {
                found.push(table);
            }
        }
        Ok(found)
    };
    kernel.read(read).await.map_err(refusal)
}

fn policy_row(table: &PolicyTable, row: &PolicyRow, outputs: &Outputs) -> shape::PolicyRow {
    shape::PolicyRow {
        subject: table.identity.0,
        policy: table.version,
        direction: row.direction.to_string(),
        identity: row.identity.0,
        labels: labels(outputs, row.identity),
        port: port(row),
        deny: row.deny,
        proxy_port: row.proxy_port,
        packets: row.packets,
        bytes: row.bytes,
    }
}

/// `80/TCP`, `80-87/TCP`, `ANY/TCP`, `ANY`.
fn port(row: &PolicyRow) -> String {
    let Some(protocol) = row.protocol else { return "ANY".to_owned() };
    match row.port_prefix {
        0 => format!("ANY/{protocol}"),
        16 => format!("{}/{protocol}", row.port),
        prefix => format!("{}-{}/{protocol}", row.port, row.port | !model::policy_map::port_mask(prefix)),
    }
}

fn labels(outputs: &Outputs, identity: Identity) -> Vec<String> {
    let labels = outputs.names.identities.get(&identity);
    labels.map(|labels| labels.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

/// `GET /v1/bpf/ct`
pub async fn flows(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let flows = kernel(agent)?.read(|tables| tables.conntrack(MAX_FLOWS)).await.map_err(refusal)?;
    let outputs = agent.snapshot();
    answer(query, &flows.iter().map(|flow| flow_row(flow, &outputs)).collect::<Vec<_>>())
}

fn flow_row(flow: &Flow, outputs: &Outputs) -> shape::CtRow {
    let end = |end: &FlowEnd| match flow.protocol {
        Protocol::ICMP | Protocol::ICMPV6 => format!("{} id {}", end.address, end.port),
        _ => SocketAddr::new(end.address, end.port).to_string(),
    };
    let identity = |end: &FlowEnd| {
        let of_endpoint = end.endpoint.and_then(|id| outputs.view.endpoints.get(&id)).map(|e| e.identity.0);
        end.identity.or(of_endpoint).unwrap_or_default()
    };
    let (source, destination) = (&flow.source, &flow.destination);
    shape::CtRow {
        protocol: flow.protocol.to_string(),
        source: end(source),
        destination: end(destination),
        source_identity: identity(source),
        destination_identity: identity(destination),
        source_endpoint: source.endpoint.map_or(0, |id| id.0),
        destination_endpoint: destination.endpoint.map_or(0, |id| id.0),
        expires: i64::try_from(flow.expires).unwrap_or(i64::MAX),
        state: format!("{:?}", flow.state).to_lowercase(),
        packets: [source.packets, destination.packets],
        bytes: [source.bytes, destination.bytes],
        flags_seen: [source.tcp_flags, destination.tcp_flags],
        service: flow.service.unwrap_or(0),
        backend: flow.backend.unwrap_or(0),
    }
}

/// `DELETE /v1/bpf/ct`: every flow is judged anew with its next packet.
pub async fn flush_flows(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    query.finish()?;
    let flows = kernel(agent)?.read(Tables::conntrack_flush).await.map_err(refusal)?;
    tracing::info!(flows, "all flows were forgotten on request");
    Ok(done())
}

/// `GET /v1/bpf/ipcache`
pub async fn addresses(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let rows = kernel(agent)?.read(Tables::ipcache).await.map_err(refusal)?;
    let outputs = agent.snapshot();
    let row = |row: ::datapath::IpcacheRow| shape::IpcacheRow {
        prefix: row.prefix.to_string(),
        identity: row.identity.0,
        endpoint: row.endpoint.map_or(0, |id| id.0),
        labels: labels(&outputs, row.identity),
    };
    answer(query, &rows.into_iter().map(row).collect::<Vec<_>>())
}

/// `GET /v1/bpf/tunnel`
pub async fn tunnel(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let rows = kernel(agent)?.read(Tables::tunnel).await.map_err(refusal)?;
    let row =
        |row: ::datapath::TunnelRow| shape::TunnelRow { prefix: row.prefix.to_string(), vtep: row.vtep.to_string() };
    answer(query, &rows.into_iter().map(row).collect::<Vec<_>>())
}

/// `GET /v1/bpf/nat`
pub async fn nat(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let rows = kernel(agent)?.read(|tables| tables.nat(MAX_FLOWS)).await.map_err(refusal)?;
    let row = |row: ::datapath::NatRow| shape::NatRow {
        protocol: row.protocol.to_string(),
        client: row.client.to_string(),
        translated: row.translated.map(|address| address.to_string()).unwrap_or_default(),
        backend: row.backend.to_string(),
        age: row.age,
    };
    answer(query, &rows.into_iter().map(row).collect::<Vec<_>>())
}

/// `GET /v1/bpf/lb`
pub async fn load_balancer(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let table = kernel(agent)?.read(Tables::load_balancer).await.map_err(refusal)?;
    let addresses = |rows: Vec<(u32, SocketAddr)>| rows.into_iter().map(|(n, at)| (n, at.to_string())).collect();
    let range = |(service, prefix): (u32, IpNetwork)| shape::LbSourceRange { service, prefix: prefix.to_string() };
    let table = shape::LoadBalancer {
        // Addresses as a whole are no services.
        services: table.services.into_iter().filter(|row| row.frontend.port != 0).map(lb_service).collect(),
        backends: addresses(table.backends),
        revnat: addresses(table.revnat),
        source_ranges: table.source_ranges.into_iter().map(range).collect(),
    };
    answer(query, &table)
}

fn lb_service(row: ::datapath::ServiceRow) -> shape::LbService {
    let [internal, external] = row
        .places
        .map(|places| shape::LbPlaces { algorithm: format!("{:?}", places.by).to_lowercase(), shares: places.shares });
    shape::LbService {
        frontend: row.frontend.to_string(),
        number: row.number,
        id: row.id.0,
        kind: row.kind.to_string(),
        affinity: row.affinity,
        internal,
        external,
    }
}

/// `GET /v1/bpf/metrics`
pub async fn metrics(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let rows = kernel(agent)?.packet_counters().await.map_err(refusal)?;
    answer(query, &rows)
}

/// `GET /v1/map`
pub async fn maps(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    answer(query, &map_rows(&kernel(agent)?).await?)
}

async fn map_rows(kernel: &Kernel) -> Result<Vec<shape::MapRow>, Refusal> {
    let maps = kernel.read(Tables::maps).await.map_err(refusal)?;
    let row = |map: ::datapath::MapInfo| shape::MapRow {
        name: map.name,
        kind: map.kind,
        path: map.path.display().to_string(),
        key_size: map.key_size,
        value_size: map.value_size,
        max_entries: map.max_entries,
        entries: map.entries.map(|entries| u32::try_from(entries).unwrap_or(u32::MAX)),
    };
    Ok(maps.into_iter().map(row).collect())
}

/// `GET /v1/map/{name}`
pub async fn map(agent: &Agent, mut request: Request) -> Result<Response<Body>, Refusal> {
    let name = request.parameter();
    request.query.finish()?;
    let wanted = name.clone();
    let found = kernel(agent)?.read(move |tables| tables.dump(&wanted, MAX_ENTRIES + 1)).await.map_err(refusal)?;
    let Some(mut pairs) = found else {
        let message = format!("there is no map {name:?} whose entries can be listed");
        return Err(Refusal::new(StatusCode::NOT_FOUND, message));
    };
    let truncated = pairs.len() > MAX_ENTRIES;
    pairs.truncate(MAX_ENTRIES);
    let entry =
        |(key, value): (Vec<u8>, Vec<u8>)| shape::MapEntry { key: hexadecimal(&key), value: hexadecimal(&value) };
    let dump = shape::MapDump { name, entries: pairs.into_iter().map(entry).collect(), truncated };
    Ok(json(StatusCode::OK, &dump))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The kernel's side for a report of a fault; what cannot be read says so in its place.
pub async fn everything(agent: &Agent) -> Value {
    let Ok(kernel) = kernel(agent) else { return json!({"state": "being started"}) };
    fn shown<T: serde::Serialize>(outcome: Result<T, ReadError>) -> Value {
        outcome.map_or_else(|error| json!({"error": causes(&error)}), |rows| json!(rows))
    }
    let status = kernel.status.borrow().clone();
    let failing = status.failing.iter().map(|(object, failure)| {
        json!({"object": object.to_string(), "message": failure.message, "attempts": failure.attempts})
    });
    json!({
        "realised": status.realised,
        "rounds": status.rounds,
        "operations": status.operations,
        "failing": failing.collect::<Vec<_>>(),
        "endpoints": shown(kernel.read(Tables::endpoints).await),
        "ipcache": shown(kernel.read(Tables::ipcache).await),
        "maps": shown(kernel.read(Tables::maps).await),
        "metrics": shown(kernel.packet_counters().await),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Direction;

    fn row(protocol: Option<Protocol>, port: u16, port_prefix: u8) -> PolicyRow {
        PolicyRow {
            direction: Direction::Ingress,
            identity: Identity(0),
            protocol,
            port,
            port_prefix,
            deny: false,
            proxy_port: 0,
            precedence: 1,
            packets: 0,
            bytes: 0,
        }
    }

    #[test]
    fn ports_are_shown_as_ranges() {
        assert_eq!(port(&row(None, 0, 0)), "ANY");
        assert_eq!(port(&row(Some(Protocol::UDP), 0, 0)), "ANY/UDP");
        assert_eq!(port(&row(Some(Protocol::TCP), 80, 16)), "80/TCP");
        assert_eq!(port(&row(Some(Protocol::TCP), 80, 13)), "80-87/TCP");
        assert_eq!(port(&row(Some(Protocol::TCP), 0, 1)), "0-32767/TCP");
    }
}

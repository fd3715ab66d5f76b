//! Services as they are kept in the kvstore: Cilium's JSON of a global service, with what it has no word for beside it.
//!
//! ```text
//! {"cluster": "default", "namespace": "shop", "name": "web", "labels": {}, "selector": {}, "clusterID": 0,
//!  "frontends": {"10.96.0.10": {"http": {"Protocol": "TCP", "Port": 80, "ID": 1, "Type": "ClusterIP"}}},
//!  "backends": {"10.15.0.11": {"http": {"Protocol": "TCP", "Port": 8080, "Weight": 50, "State": "terminating"}}},
//!  "externalTrafficPolicy": "Local", "sessionAffinity": 10800, "loadBalancerSourceRanges": ["192.0.2.0/24"], ...}
//! ```
//!
//! An address can have several ports of one name; the further ones have a `/` and a number behind it. Unknown members are
//! ignored, so that records of a later build, and Cilium's own members, can be read.

use super::definition::{
    Backend, BackendState, DEFAULT_WEIGHT, Frontend, MAX_BACKENDS, MAX_FRONTENDS, Service, ServiceName, TrafficPolicy,
};
use crate::shared::read::RecordError;
use ipnetwork::IpNetwork;
use model::service::{Algorithm, ServiceType};
use model::{L4Address, Protocol, ServiceId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The largest record: what a store takes.
const MAX_BYTES: usize = 1 << 20;

type Ports<T> = BTreeMap<IpAddr, BTreeMap<String, T>>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    cluster: String,
    namespace: String,
    name: String,
    #[serde(default)]
    frontends: Option<Ports<FrontendRecord>>,
    #[serde(default)]
    backends: Option<Ports<BackendRecord>>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    selector: BTreeMap<String, String>,
    #[serde(default, rename = "clusterID")]
    cluster_id: u32,
    #[serde(default)]
    external_traffic_policy: TrafficPolicy,
    #[serde(default)]
    internal_traffic_policy: TrafficPolicy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session_affinity: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    load_balancer_source_ranges: Vec<IpNetwork>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    prefer_same_node: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    algorithm: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FrontendRecord {
    protocol: String,
    port: u16,
    #[serde(rename = "ID")]
    id: u32,
    #[serde(rename = "Type")]
    kind: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BackendRecord {
    protocol: String,
    port: u16,
    #[serde(default = "default_weight", skip_serializing_if = "is_default_weight")]
    weight: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
}

fn default_weight() -> u16 {
    DEFAULT_WEIGHT
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_default_weight(weight: &u16) -> bool {
    *weight == DEFAULT_WEIGHT
}

/// TCP, UDP or SCTP, in capitals or not.
pub fn protocol(text: &str) -> Option<Protocol> {
    match text.to_ascii_uppercase().as_str() {
        "TCP" => Some(Protocol::TCP),
        "UDP" => Some(Protocol::UDP),
        "SCTP" => Some(Protocol::SCTP),
        _ => None,
    }
}

/// A kind by its name.
pub fn kind(text: &str) -> Option<ServiceType> {
    use ServiceType::{ClusterIp, ExternalIp, HostPort, LoadBalancer, NodePort};
    [ClusterIp, NodePort, ExternalIp, LoadBalancer, HostPort]
        .into_iter()
        .find(|kind| kind.to_string().eq_ignore_ascii_case(text))
}

pub fn algorithm(text: &str) -> Option<Algorithm> {
    match text {
        "random" => Some(Algorithm::Random),
        "maglev" => Some(Algorithm::Maglev),
        _ => None,
    }
}

pub fn algorithm_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Random => "random",
        Algorithm::Maglev => "maglev",
    }
}

/// Puts a port under its name, or under that with a number where another port has the name.
fn put<T>(ports: &mut Ports<T>, ip: IpAddr, name: &str, port: T) {
    let held = ports.entry(ip).or_default();
    let mut key = name.to_owned();
    let mut n = 1;
    while held.contains_key(&key) {
        n += 1;
        key = format!("{name}/{n}");
    }
    held.insert(key, port);
}

fn port_name(key: &str) -> String {
    key.split('/').next().unwrap_or_default().to_owned()
}

/// The record of a service, as JSON.
pub fn encode(service: &Service) -> Result<Vec<u8>, serde_json::Error> {
    let (mut frontends, mut backends) = (Ports::new(), Ports::new());
    for Frontend { id, kind, address, port } in &service.frontends {
        let (protocol, kind) = (address.protocol.to_string(), kind.to_string());
        put(&mut frontends, address.ip, port, FrontendRecord { protocol, port: address.port, id: id.0, kind });
    }
    for Backend { address, port, weight, state, node } in &service.backends {
        let state = (*state != BackendState::Active).then(|| state.to_string());
        let protocol = address.protocol.to_string();
        let record = BackendRecord { protocol, port: address.port, weight: *weight, state, node: node.clone() };
        put(&mut backends, address.ip, port, record);
    }
    serde_json::to_vec(&Record {
        cluster: service.name.cluster.clone(),
        namespace: service.name.space.clone(),
        name: service.name.name.clone(),
        frontends: Some(frontends),
        backends: Some(backends),
        labels: BTreeMap::new(),
        selector: BTreeMap::new(),
        cluster_id: 0,
        external_traffic_policy: service.external,
        internal_traffic_policy: service.internal,
        session_affinity: service.affinity,
        load_balancer_source_ranges: service.source_ranges.clone(),
        prefer_same_node: service.prefer_local,
        algorithm: service.algorithm.map(|algorithm| algorithm_name(algorithm).to_owned()),
    })
}

/// Reads the record of the service that the key names.
///
/// # Errors
/// What is wrong with it: that it is no such record, that of another service, or not a possible service.
pub fn decode(name: ServiceName, value: &[u8]) -> Result<Service, RecordError> {
    let found = value.len();
    if found > MAX_BYTES {
        return Err(RecordError::TooLarge { found, limit: MAX_BYTES });
    }
    let record: Record = serde_json::from_slice(value)?;
    if (&record.cluster, &record.namespace, &record.name) != (&name.cluster, &name.space, &name.name) {
        let found = format!("{:?} in space {:?} of cluster {:?}", record.name, record.namespace, record.cluster);
        return Err(RecordError::OtherKey { found });
    }
    let mut service = Service {
        name,
        frontends: Vec::new(),
        backends: Vec::new(),
        external: record.external_traffic_policy,
        internal: record.internal_traffic_policy,
        affinity: record.session_affinity,
        source_ranges: record.load_balancer_source_ranges,
        prefer_local: record.prefer_same_node,
        algorithm: match record.algorithm.as_deref() {
            None => None,
            Some(text) => Some(algorithm(text).ok_or(RecordError::Content("its algorithm is not known"))?),
        },
    };
    let address = |ip, port, text: &str| {
        let protocol = protocol(text).ok_or(RecordError::Content("a protocol is none of TCP, UDP and SCTP"))?;
        Ok::<L4Address, RecordError>(L4Address { ip, port, protocol })
    };
    let frontends = record.frontends.unwrap_or_default();
    for (ip, key, frontend) in flat(&frontends).take(MAX_FRONTENDS + 1) {
        service.frontends.push(Frontend {
            id: ServiceId(frontend.id),
            kind: kind(&frontend.kind).ok_or(RecordError::Content("a type of service is not known"))?,
            address: address(ip, frontend.port, &frontend.protocol)?,
            port: port_name(key),
        });
    }
    let backends = record.backends.unwrap_or_default();
    for (ip, key, backend) in flat(&backends).take(MAX_BACKENDS + 1) {
        let state = backend.state.as_deref().map_or(Some(BackendState::Active), BackendState::parse);
        service.backends.push(Backend {
            address: address(ip, backend.port, &backend.protocol)?,
            port: port_name(key),
            weight: backend.weight,
            state: state.ok_or(RecordError::Content("a state of a backend is not known"))?,
            node: backend.node.clone(),
        });
    }
    match service.faults().into_iter().next() {
        Some(fault) => Err(RecordError::Faulty(fault.to_string())),
        None => Ok(service),
    }
}

fn flat<T>(ports: &Ports<T>) -> impl Iterator<Item = (IpAddr, &String, &T)> {
    ports.iter().flat_map(|(ip, ports)| ports.iter().map(|(key, port)| (*ip, key, port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> ServiceName {
        ServiceName { cluster: "default".to_owned(), space: "shop".to_owned(), name: "web".to_owned() }
    }

    fn address(text: &str, protocol: Protocol) -> L4Address {
        let address: std::net::SocketAddr = text.parse().unwrap();
        L4Address { ip: address.ip(), port: address.port(), protocol }
    }

    fn service() -> Service {
        let frontend = |id, kind, text, port: &str| Frontend {
            id: ServiceId(id),
            kind,
            address: address(text, Protocol::TCP),
            port: port.to_owned(),
        };
        let backend = |text, weight, state| Backend {
            address: address(text, Protocol::TCP),
            port: "http".to_owned(),
            weight,
            state,
            node: Some("n2".to_owned()),
        };
        Service {
            name: name(),
            frontends: vec![
                frontend(2, ServiceType::NodePort, "0.0.0.0:30080", "http"),
                frontend(1, ServiceType::ClusterIp, "10.96.0.10:80", "http"),
            ],
            backends: vec![
                backend("10.15.0.11:8080", 100, BackendState::Active),
                backend("10.15.0.11:8081", 7, BackendState::Terminating { serves: false }),
                backend("[f00d::5]:8080", 0, BackendState::Maintenance),
            ],
            external: TrafficPolicy::Local,
            internal: TrafficPolicy::Cluster,
            affinity: Some(600),
            source_ranges: vec!["192.0.2.0/24".parse().unwrap()],
            prefer_local: true,
            algorithm: Some(Algorithm::Maglev),
        }
    }

    #[test]
    fn a_service_round_trips() {
        let text = encode(&service()).unwrap();
        assert_eq!(decode(name(), &text).unwrap(), service(), "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn what_contradicts_its_key_or_cannot_be_is_refused() {
        let text = String::from_utf8(encode(&service()).unwrap()).unwrap();
        let other = ServiceName { name: "other".to_owned(), ..name() };
        assert!(matches!(decode(other, text.as_bytes()), Err(RecordError::OtherKey { .. })));
        for (good, bad, why) in [
            ("\"ID\":1,", "\"ID\":0,", "service id 0"),
            ("\"ID\":1,", "\"ID\":16777216,", "service id 16777216"),
            ("\"ID\":1,", "\"ID\":2,", "there twice"),
            ("10.96.0.10", "127.0.0.1", "a loopback one"),
            ("10.15.0.11", "169.254.169.254", "a link-local one"),
            ("f00d::5", "::ffff:127.0.0.1", "an IPv4 address written as IPv6"),
            ("\"0.0.0.0\"", "\"192.0.2.7\"", "a node port is of every address"),
            ("\"Port\":80,", "\"Port\":0,", "has no port"),
            ("\"TCP\"", "\"ICMP\"", "none of TCP"),
            ("ClusterIP", "HostPort", "published by its node"),
            ("\"sessionAffinity\":600", "\"sessionAffinity\":0", "no number of seconds"),
            ("maglev", "magic", "algorithm"),
            ("maintenance", "gone", "state of a backend"),
        ] {
            let bad_text = text.replacen(good, bad, 1);
            assert_ne!(bad_text, text, "{good}");
            let error = decode(name(), bad_text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_record_of_cilium_without_our_members_has_no_number() {
        let text = br#"{"cluster":"default","namespace":"shop","name":"web",
            "frontends":{"10.96.0.10":{"http":{"Protocol":"TCP","Port":80}}},"backends":null}"#;
        assert!(decode(name(), text).unwrap_err().to_string().contains("not the JSON of such a record"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = decode(name(), text.as_bytes());
        }
    }
}

//! The local records: what of the tables must survive the process, as JSON texts under readable keys, one for each
//! object. Unknown fields of a record are ignored, so that a record of a later build can be read.
//!
//! ```text
//! cilium/local/endpoints/v1/<number>          cilium/local/networks/v1/<Docker's id>
//! cilium/local/pools/v1/<pool>                cilium/local/prefixes/v1/<prefix>
//! cilium/local/addresses/v1/<address>         cilium/local/policies/v1/default
//! ```

use crate::RECORDS_PREFIX;
use crate::endpoints::{Endpoint, Link};
use crate::health::HEALTH;
use crate::input::{Network, Purpose};
use crate::ipam::{Allocation, Pool};
use crate::ledger::Object;
use crate::networks::Known;
use crate::outputs::Timestamp;
use crate::policies::Document;
use crate::services::Published;
use ipnetwork::IpNetwork;
use model::label_filter::LabelFilter;
use model::{EndpointId, EndpointState, Identity, Labels, Mac};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct EndpointRecord {
    docker_endpoint_id: String,
    docker_network_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<String>,
    identity: Identity,
    identity_labels: Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<Ipv6Addr>,
    ifname: String,
    peer_ifname: String,
    mac: Mac,
    node_mac: Mac,
    mtu: u32,
    created: Timestamp,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    published: Vec<Published>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct PoolRecord {
    pub(crate) subnet: IpNetwork,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) range: Option<IpNetwork>,
    pub(crate) gateway: IpAddr,
    pub(crate) gateway_chosen: bool,
    pub(crate) node_pool: bool,
    pub(crate) references: u32,
    pub(crate) since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blocks: Option<BTreeSet<IpNetwork>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct AddressRecord {
    owner: String,
    purpose: Purpose,
    since: Timestamp,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    released: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct NetworkRecord {
    #[serde(flatten)]
    network: Network,
    since: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct PrefixRecord {
    identity: Identity,
}

#[derive(Serialize, Deserialize)]
struct PolicyRecord {
    revision: u64,
    rules: serde_json::Value,
}

/// A record that was read.
pub(crate) enum Record {
    Endpoint(Box<Endpoint>),
    Pool(String, PoolRecord),
    Address(IpAddr, Allocation),
    Network(Known),
    Prefix(IpNetwork, Identity),
    Policy(Document),
}

/// Where the record of an object is kept. The node itself has none.
pub(crate) fn key(object: &Object) -> Option<String> {
    let (kind, name) = match object {
        Object::Node => return None,
        Object::Endpoint(id) => ("endpoints", id.to_string()),
        Object::Pool(id) => ("pools", id.clone()),
        Object::Address(address) => ("addresses", address.to_string()),
        Object::Network(id) => ("networks", id.clone()),
        Object::Prefix(prefix) => ("prefixes", prefix.to_string()),
        Object::Policy => ("policies", "default".to_owned()),
    };
    Some(format!("{RECORDS_PREFIX}{kind}/v1/{name}"))
}

/// Reads one record; the error is for people.
pub(crate) fn decode(key: &str, text: &str, filter: &LabelFilter) -> Result<Record, String> {
    let unknown = || "a kind of record that this build does not know".to_owned();
    let (kind, name) = key.strip_prefix(RECORDS_PREFIX).and_then(|rest| rest.split_once("/v1/")).ok_or_else(unknown)?;
    match kind {
        "endpoints" => {
            let id = parsed::<u16>(name).filter(|id| *id > 0 && id.to_string() == name);
            let id = id.ok_or("its key does not end in an endpoint number")?;
            endpoint(EndpointId(id), read(text)?, filter).map(|endpoint| Record::Endpoint(Box::new(endpoint)))
        }
        "pools" => Ok(Record::Pool(name.to_owned(), read(text)?)),
        "addresses" => {
            let address = parsed(name).ok_or("its key does not end in an address")?;
            let AddressRecord { owner, purpose, since, released } = read(text)?;
            Ok(Record::Address(address, Allocation { owner, purpose, since, released }))
        }
        "networks" => {
            let NetworkRecord { network, since } = read(text)?;
            if network.id != name {
                return Err("its key is another network's".to_owned());
            }
            Ok(Record::Network(Known { network, since }))
        }
        "prefixes" => {
            let prefix = parsed(name).ok_or("its key does not end in a prefix")?;
            Ok(Record::Prefix(prefix, read::<PrefixRecord>(text)?.identity))
        }
        "policies" if name == "default" => {
            let PolicyRecord { revision, rules } = read(text)?;
            let document = Document::parse(revision, rules.to_string().into());
            document.map(Record::Policy).map_err(|refused| refused.to_string())
        }
        _ => Err(unknown()),
    }
}

pub(crate) fn encode_endpoint(endpoint: &Endpoint) -> Option<Arc<str>> {
    let endpoint = endpoint.clone();
    write(&EndpointRecord {
        docker_endpoint_id: endpoint.docker_endpoint_id,
        docker_network_id: endpoint.docker_network_id,
        container_id: endpoint.container_id,
        container_name: endpoint.container_name,
        container_labels: endpoint.container_labels,
        sandbox: endpoint.sandbox,
        identity: endpoint.identity,
        identity_labels: Labels::clone(&endpoint.identity_labels),
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
        ifname: endpoint.link.ifname,
        peer_ifname: endpoint.link.peer_ifname,
        mac: endpoint.link.mac,
        node_mac: endpoint.link.node_mac,
        mtu: endpoint.mtu,
        created: endpoint.created,
        published: endpoint.published,
    })
}

pub(crate) fn encode_pool(pool: &Pool) -> Option<Arc<str>> {
    write(&PoolRecord {
        subnet: pool.subnet,
        range: pool.range,
        gateway: pool.gateway,
        gateway_chosen: pool.gateway_chosen,
        node_pool: pool.node_pool,
        references: pool.references,
        since: pool.since,
        blocks: pool.blocks.clone(),
    })
}

pub(crate) fn encode_address(allocation: &Allocation) -> Option<Arc<str>> {
    let Allocation { owner, purpose, since, released } = allocation.clone();
    write(&AddressRecord { owner, purpose, since, released })
}

pub(crate) fn encode_network(known: &Known) -> Option<Arc<str>> {
    write(&NetworkRecord { network: known.network.clone(), since: known.since })
}

pub(crate) fn encode_prefix(identity: Identity) -> Option<Arc<str>> {
    write(&PrefixRecord { identity })
}

pub(crate) fn encode_policy(document: &Document) -> Option<Arc<str>> {
    let rules = serde_json::from_str(&document.text).ok()?;
    write(&PolicyRecord { revision: document.revision(), rules })
}

fn endpoint(id: EndpointId, record: EndpointRecord, filter: &LabelFilter) -> Result<Endpoint, String> {
    if record.docker_endpoint_id.is_empty() || (record.ipv4.is_none() && record.ipv6.is_none()) {
        return Err("an endpoint has a docker-endpoint-id and an address".to_owned());
    }
    let init = record.identity == Identity::INIT && record.identity_labels == Labels::reserved("init");
    let health = record.docker_endpoint_id == HEALTH
        && record.identity == Identity::HEALTH
        && record.identity_labels == Labels::reserved("health");
    if !init && !health && !record.identity.is_allocated() {
        return Err(format!("identity {} is none of an endpoint", record.identity));
    }
    let labels = record.container_labels.as_ref().map(|raw| Arc::new(filter.container_labels(raw)));
    Ok(Endpoint {
        id,
        docker_endpoint_id: record.docker_endpoint_id,
        docker_network_id: record.docker_network_id,
        container_id: record.container_id,
        container_name: record.container_name,
        container_labels: record.container_labels,
        sandbox: record.sandbox,
        labels,
        identity: record.identity,
        identity_labels: Arc::new(record.identity_labels),
        ipv4: record.ipv4,
        ipv6: record.ipv6,
        link: Link {
            ifname: record.ifname,
            peer_ifname: record.peer_ifname,
            mac: record.mac,
            node_mac: record.node_mac,
        },
        mtu: record.mtu,
        created: record.created,
        state: EndpointState::Restoring,
        failure: None,
        awaited: None,
        policy_revision: 0,
        published: record.published,
        log: Arc::default(),
    })
}

fn parsed<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// `None` when the value cannot be JSON: none of ours is such (maps have text keys, numbers are whole).
pub(crate) fn write<T: Serialize>(value: &T) -> Option<Arc<str>> {
    match serde_json::to_string(value) {
        Ok(text) => Some(text.into()),
        Err(error) => {
            tracing::error!(%error, "a record could not be written as JSON");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(key: &str, text: &str) -> Result<Record, String> {
        decode(key, text, &LabelFilter::default())
    }

    #[test]
    fn an_endpoint_round_trips() {
        let mut before = crate::endpoints::tests::endpoint(7);
        before.container_labels = Some([("id".to_owned(), "app1".to_owned())].into());
        before.sandbox = Some("/var/run/docker/netns/1".to_owned());
        before.identity = Identity(300);
        before.identity_labels = Arc::new(Labels([model::Label::new("container", "id", "app1")].into()));
        let text = encode_endpoint(&before).unwrap();
        let Ok(Record::Endpoint(after)) = decoded(&key(&Object::Endpoint(before.id)).unwrap(), &text) else {
            panic!("{text}")
        };
        assert_eq!(encode_endpoint(&after).unwrap(), text);
        assert_eq!(after.state, EndpointState::Restoring);
        assert_eq!(after.labels, Some(after.identity_labels.clone()));
    }

    #[test]
    fn bad_records_say_what_is_wrong() {
        for (key, text, wanted) in [
            ("cilium/local/volumes/v1/x", "{}", "a kind of record that this build does not know"),
            ("cilium/local/endpoints/v1/0", "{}", "its key does not end in an endpoint number"),
            ("cilium/local/endpoints/v1/007", "{}", "its key does not end in an endpoint number"),
            ("cilium/local/addresses/v1/10.0.0", "{}", "its key does not end in an address"),
            ("cilium/local/prefixes/v1/10.0.0.0/33", "{}", "its key does not end in a prefix"),
            ("cilium/local/policies/v1/default", r#"{"revision":1,"rules":{}}"#, "a policy is a list of rules"),
            ("cilium/local/pools/v1/x", "{", "EOF"),
        ] {
            let Err(reason) = decoded(key, text) else { panic!("{key} is taken") };
            assert!(reason.contains(wanted), "{key}: {reason}");
        }
    }

    proptest! {
        #[test]
        fn no_record_panics(kind in "(endpoints|pools|addresses|networks|prefixes|policies)", name in ".{0,12}", text in ".{0,80}") {
            let _ = decoded(&format!("{RECORDS_PREFIX}{kind}/v1/{name}"), &text);
        }
    }
}

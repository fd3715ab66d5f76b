//! What was found, and how it is shown.

use super::targets::{End, Target};
use crate::controllers::causes;
use crate::health::probe::ProbeError;
use api::health as shape;
use jiff::Timestamp;
use state::NodeName;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The last word on every node.
#[derive(Clone, Debug, Default)]
pub struct Results {
    pub interval: Duration,
    pub nodes: BTreeMap<NodeName, Arc<NodeResult>>,
}

#[derive(Clone, Debug, Default)]
pub struct NodeResult {
    pub paths: Vec<PathResult>,
}

#[derive(Clone, Debug)]
pub struct PathResult {
    pub end: End,
    pub address: IpAddr,
    pub icmp: Found,
    pub http: Found,
}

/// How the last probe of one kind went.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub at: Option<Timestamp>,
    pub latency: Option<Duration>,
    pub failure: Option<String>,
    pub last_success: Option<Timestamp>,
}

/// What a probe says of an address that no probe is sent to.
const NOT_BELIEVED: &str = "not probed: nothing says for sure that the address is this node's";

impl Found {
    pub fn of(outcome: Result<Duration, ProbeError>, at: Timestamp) -> Found {
        match outcome {
            Ok(latency) => Found { at: Some(at), latency: Some(latency), failure: None, last_success: Some(at) },
            Err(error) => Found { at: Some(at), failure: Some(causes(&error)), ..Found::default() },
        }
    }

    pub fn not_believed(at: Timestamp) -> Found {
        Found { at: Some(at), failure: Some(NOT_BELIEVED.to_owned()), ..Found::default() }
    }

    /// This one, with what is remembered of those before.
    fn after(mut self, before: &Found) -> Found {
        self.last_success = self.last_success.or(before.last_success);
        self
    }
}

impl NodeResult {
    /// Nothing found yet.
    pub fn of(target: &Target) -> NodeResult {
        let path = |(end, address): &(End, IpAddr)| PathResult {
            end: *end,
            address: *address,
            icmp: Found::default(),
            http: Found::default(),
        };
        NodeResult { paths: target.addresses.iter().map(path).collect() }
    }

    /// Whether every address answered to everything.
    pub fn is_well(&self) -> bool {
        self.paths.iter().all(|path| path.icmp.failure.is_none() && path.http.failure.is_none())
    }

    /// This one, with what is remembered of the same addresses.
    pub fn after(mut self, before: &NodeResult) -> NodeResult {
        for path in &mut self.paths {
            let same = before.paths.iter().find(|old| (old.end, old.address) == (path.end, path.address));
            if let Some(old) = same {
                path.icmp = std::mem::take(&mut path.icmp).after(&old.icmp);
                path.http = std::mem::take(&mut path.http).after(&old.http);
            }
        }
        self
    }
}

impl Results {
    /// For the API; `local` is this node, which comes first.
    pub fn show(&self, local: &NodeName) -> shape::Health {
        let newest = self.nodes.values().flat_map(|node| &node.paths).flat_map(|path| [path.icmp.at, path.http.at]);
        let mut nodes: Vec<_> = self.nodes.iter().map(|(name, result)| shown(local, name, result)).collect();
        nodes.sort_by_key(|node| !node.local);
        shape::Health {
            enabled: true,
            local: shape::Local { name: local.name.clone() },
            timestamp: newest.flatten().max().map(time),
            probe_interval: self.interval.as_secs_f64(),
            nodes,
        }
    }
}

fn shown(local: &NodeName, name: &NodeName, result: &NodeResult) -> shape::NodeHealth {
    let paths = |end: End| {
        let mut all = result.paths.iter().filter(move |path| path.end == end).map(shown_path);
        shape::Paths { primary_address: all.next(), secondary_addresses: all.collect() }
    };
    shape::NodeHealth {
        name: if name.cluster == local.cluster { name.name.clone() } else { format!("{}/{}", name.cluster, name.name) },
        local: name == local,
        host: paths(End::Host),
        health_endpoint: paths(End::HealthEndpoint),
    }
}

fn shown_path(path: &PathResult) -> shape::Path {
    let probe = |found: &Found| shape::Probe {
        status: found.failure.clone().unwrap_or_default(),
        latency: found.latency.map_or(0, |latency| u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX)),
        last_probed: found.at.map(time),
        last_success: found.last_success.map(time),
    };
    shape::Path { ip: path.address.to_string(), icmp: probe(&path.icmp), http: probe(&path.http) }
}

fn time(at: Timestamp) -> String {
    format!("{at:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> NodeName {
        NodeName { cluster: "default".to_owned(), name: name.to_owned() }
    }

    fn target(last: u8) -> Target {
        Target { name: name("n"), addresses: vec![(End::Host, [192, 0, 2, last].into())] }
    }

    fn found(result: &NodeResult, outcome: Result<Duration, ProbeError>, second: i64) -> NodeResult {
        let mut result = result.clone();
        let found = Found::of(outcome, Timestamp::from_second(second).unwrap());
        result.paths.iter_mut().for_each(|path| (path.icmp, path.http) = (found.clone(), found.clone()));
        result
    }

    #[test]
    fn the_last_success_is_remembered_for_the_same_address() {
        let new = NodeResult::of(&target(1));
        let well = found(&new, Ok(Duration::from_micros(7)), 10);
        let lost = found(&new, Err(ProbeError::NoAnswer), 20).after(&well);
        assert_eq!(lost.paths[0].icmp.last_success, Timestamp::from_second(10).ok());
        assert_eq!(lost.paths[0].icmp.failure.as_deref(), Some("no answer within 5s"));
        let moved = found(&NodeResult::of(&target(2)), Err(ProbeError::NoAnswer), 30).after(&lost);
        assert_eq!(moved.paths[0].icmp.last_success, None);
    }

    #[test]
    fn this_node_comes_first_and_other_clusters_are_named() {
        let result = Arc::new(found(&NodeResult::of(&target(1)), Ok(Duration::from_micros(7)), 10));
        let east = NodeName { cluster: "east".to_owned(), name: "z".to_owned() };
        let nodes = [name("a"), name("b"), east].map(|name| (name, result.clone())).into();
        let shown = Results { interval: Duration::from_secs(60), nodes }.show(&name("b"));
        let names: Vec<&str> = shown.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["b", "a", "east/z"]);
        assert_eq!(shown.reachable(), 3);
        assert_eq!(shown.nodes[0].host.primary_address.as_ref().unwrap().icmp.latency, 7000);
        assert_eq!(shown.timestamp.as_deref(), Some("1970-01-01T00:00:10.000Z"));
    }
}

//! Documents of services: Kubernetes' `Service`, with a list of backends in its `spec` or in `Endpoints` and
//! `EndpointSlice` documents of the same name, and lists of all these. A field that is not read is a fault, so that nothing
//! is taken and then ignored.

use super::unspecified;
use ::api::Fault;
use ipnetwork::IpNetwork;
use model::service::{Algorithm, ServiceType};
use model::{L4Address, Protocol, ServiceId};
use serde_json::{Map, Value};
use state::View;
use state::services::definition::{
    Backend, BackendState, DEFAULT_AFFINITY, DEFAULT_WEIGHT, Frontend, Service, ServiceName, TrafficPolicy,
};
use state::services::record;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The services of all documents, in the order of their names; their frontends have no numbers yet. Or everything that is
/// wrong with them.
pub(super) fn read(documents: &[Value], cluster: &str) -> Result<Vec<Service>, Vec<Fault>> {
    let mut reader = Reader { cluster, faults: Vec::new(), services: BTreeMap::new(), slices: Vec::new() };
    for (n, document) in documents.iter().enumerate() {
        reader.document(&format!("[{n}]"), document);
    }
    reader.finish()
}

/// What the services of this node's view have already.
pub(super) fn check_against(services: &[Service], view: &View) -> Result<(), Vec<Fault>> {
    let mut held: BTreeMap<L4Address, (&ServiceName, ServiceId)> = BTreeMap::new();
    for (id, view) in &view.services {
        if let Some(frontend) = view.frontend() {
            held.insert(frontend.address, (&view.service.name, *id));
        }
    }
    let mut faults = Vec::new();
    for service in services {
        for frontend in &service.frontends {
            if let Some((name, id)) = held.get(&frontend.address).filter(|(name, _)| **name != service.name) {
                let message = format!("{} is service {id}'s, which is {name}", frontend.address);
                faults.push(Fault { path: service.name.to_string(), message });
            }
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

struct Reader<'a> {
    cluster: &'a str,
    faults: Vec<Fault>,
    services: BTreeMap<ServiceName, Read>,
    slices: Vec<Slice>,
}

/// A service, and what its backends are found by.
struct Read {
    path: String,
    service: Service,
    /// Name, protocol, and the backends' port where no slice says another.
    ports: Vec<(String, Protocol, Target)>,
}

#[derive(Clone)]
enum Target {
    Number(u16),
    Name,
}

/// Backends of a service, out of another document.
struct Slice {
    path: String,
    name: ServiceName,
    backends: Vec<Backend>,
}

/// The fields of an object, each of which has to be asked for.
struct Fields {
    path: String,
    left: Map<String, Value>,
}

impl Fields {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

impl Reader<'_> {
    fn fault(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.faults.push(Fault { path: path.into(), message: message.into() });
    }

    fn fields(&mut self, path: &str, value: &Value) -> Fields {
        let left = value.as_object().cloned().unwrap_or_else(|| {
            self.fault(path, "an object is needed");
            Map::new()
        });
        Fields { path: path.to_owned(), left }
    }

    /// Everything was to be read.
    fn end(&mut self, fields: Fields) {
        for name in fields.left.keys() {
            let path = fields.at(name);
            self.fault(path, "nothing is known of this field");
        }
    }

    fn text(&mut self, fields: &mut Fields, name: &str) -> Option<String> {
        match fields.take(name)? {
            Value::String(text) => Some(text),
            _ => {
                self.fault(fields.at(name), "a text is needed");
                None
            }
        }
    }

    fn list(&mut self, fields: &mut Fields, name: &str) -> Vec<(String, Value)> {
        let path = fields.at(name);
        match fields.take(name) {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                items.into_iter().enumerate().map(|(n, item)| (format!("{path}[{n}]"), item)).collect()
            }
            Some(_) => {
                self.fault(path, "a list is needed");
                Vec::new()
            }
        }
    }

    fn number<T: TryFrom<u64>>(&mut self, fields: &mut Fields, name: &str) -> Option<T> {
        let value = fields.take(name)?;
        let number = value.as_u64().and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            self.fault(fields.at(name), format!("{value} is no number that can be here"));
        }
        number
    }

    fn flag(&mut self, fields: &mut Fields, name: &str) -> Option<bool> {
        let value = fields.take(name)?;
        if !value.is_boolean() {
            self.fault(fields.at(name), "true or false is needed");
        }
        value.as_bool()
    }

    fn parsed<T: std::str::FromStr>(&mut self, path: &str, value: &Value, what: &str) -> Option<T> {
        let parsed = value.as_str().and_then(|text| text.parse().ok());
        if parsed.is_none() {
            self.fault(path, format!("{value} is no {what}"));
        }
        parsed
    }

    fn protocol(&mut self, fields: &mut Fields) -> Protocol {
        let Some(text) = self.text(fields, "protocol") else { return Protocol::TCP };
        record::protocol(&text).unwrap_or_else(|| {
            self.fault(fields.at("protocol"), format!("{text:?} is none of TCP, UDP and SCTP"));
            Protocol::TCP
        })
    }

    fn document(&mut self, path: &str, document: &Value) {
        if let Value::Array(items) = document {
            items.iter().enumerate().for_each(|(n, item)| self.document(&format!("{path}[{n}]"), item));
            return;
        }
        let mut fields = self.fields(path, document);
        let kind = self.text(&mut fields, "kind").unwrap_or_else(|| "Service".to_owned());
        let version = self.text(&mut fields, "apiVersion");
        let known: &[&str] = match kind.as_str() {
            "EndpointSlice" => &["discovery.k8s.io/v1"],
            _ => &["v1"],
        };
        if let Some(version) = version.filter(|version| !known.contains(&version.as_str())) {
            self.fault(fields.at("apiVersion"), format!("{version:?} of {kind} is not known"));
        }
        match kind.as_str() {
            "List" => {
                fields.take("metadata");
                for (path, item) in self.list(&mut fields, "items") {
                    self.document(&path, &item);
                }
                self.end(fields);
            }
            "Service" => self.service(fields),
            "Endpoints" => self.endpoints(fields),
            "EndpointSlice" => self.slice(fields),
            _ => {
                self.fault(fields.at("kind"), format!("{kind:?} is none of Service, Endpoints, EndpointSlice and List"))
            }
        }
    }

    /// The name, and the labels and annotations, which are no service's to be held to.
    fn metadata(&mut self, fields: &mut Fields) -> (ServiceName, BTreeMap<String, String>) {
        let path = fields.at("metadata");
        let value = fields.take("metadata").unwrap_or(Value::Null);
        let mut metadata = self.fields(&path, &value);
        let name = self.text(&mut metadata, "name").unwrap_or_default();
        let space = self.text(&mut metadata, "namespace").unwrap_or_else(|| "default".to_owned());
        let labels = metadata.take("labels").unwrap_or_default();
        metadata.take("annotations");
        self.end(metadata);
        let labels = labels.as_object().into_iter().flatten();
        let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        (ServiceName { cluster: self.cluster.to_owned(), space, name }, labels)
    }

    fn service(&mut self, mut fields: Fields) {
        let (name, _) = self.metadata(&mut fields);
        let spec_path = fields.at("spec");
        let spec = fields.take("spec").unwrap_or(Value::Null);
        fields.take("status");
        let mut spec = self.fields(&spec_path, &spec);
        let path = fields.path.clone();
        let mut service = Service {
            name: name.clone(),
            frontends: Vec::new(),
            backends: Vec::new(),
            external: self.policy(&mut spec, "externalTrafficPolicy"),
            internal: self.policy(&mut spec, "internalTrafficPolicy"),
            affinity: self.affinity(&mut spec),
            source_ranges: self.ranges(&mut spec),
            prefer_local: self.distribution(&mut spec),
            algorithm: self.algorithm(&mut spec),
        };
        let ports = self.frontends(&mut spec, &mut service);
        for (path, value) in self.list(&mut spec, "backends") {
            self.backend(&path, &value, &ports, &mut service.backends);
        }
        self.end(spec);
        self.end(fields);
        if self.services.insert(name.clone(), Read { path: path.clone(), service, ports }).is_some() {
            self.fault(path, format!("service {name} is there twice"));
        }
    }

    fn policy(&mut self, spec: &mut Fields, name: &str) -> TrafficPolicy {
        match self.text(spec, name).as_deref() {
            None | Some("Cluster") => TrafficPolicy::Cluster,
            Some("Local") => TrafficPolicy::Local,
            Some(text) => {
                let message = format!("{text:?} is neither Cluster nor Local");
                self.fault(spec.at(name), message);
                TrafficPolicy::Cluster
            }
        }
    }

    fn affinity(&mut self, spec: &mut Fields) -> Option<u32> {
        let path = spec.at("sessionAffinityConfig");
        let seconds = spec.take("sessionAffinityConfig").and_then(|config| {
            let mut config = self.fields(&path, &config);
            let client = config.take("clientIP").unwrap_or(Value::Object(Map::new()));
            let mut client = self.fields(&format!("{path}.clientIP"), &client);
            let seconds = self.number(&mut client, "timeoutSeconds");
            self.end(client);
            self.end(config);
            seconds
        });
        match self.text(spec, "sessionAffinity").as_deref() {
            None | Some("None") => None,
            Some("ClientIP") => Some(seconds.unwrap_or(DEFAULT_AFFINITY)),
            Some(text) => {
                let message = format!("{text:?} is neither None nor ClientIP");
                self.fault(spec.at("sessionAffinity"), message);
                None
            }
        }
    }

    fn ranges(&mut self, spec: &mut Fields) -> Vec<IpNetwork> {
        let ranges = self.list(spec, "loadBalancerSourceRanges");
        ranges.into_iter().filter_map(|(path, value)| self.parsed(&path, &value, "CIDR prefix")).collect()
    }

    fn distribution(&mut self, spec: &mut Fields) -> bool {
        match self.text(spec, "trafficDistribution").as_deref() {
            None => false,
            Some("PreferSameNode") => true,
            Some(text) => {
                let message = format!("{text:?} is not known: PreferSameNode is");
                self.fault(spec.at("trafficDistribution"), message);
                false
            }
        }
    }

    fn algorithm(&mut self, spec: &mut Fields) -> Option<Algorithm> {
        let text = self.text(spec, "algorithm")?;
        let algorithm = record::algorithm(&text);
        if algorithm.is_none() {
            self.fault(spec.at("algorithm"), format!("{text:?} is neither random nor maglev"));
        }
        algorithm
    }

    fn addresses(&mut self, spec: &mut Fields, name: &str) -> Vec<IpAddr> {
        let items = self.list(spec, name);
        items.into_iter().filter_map(|(path, value)| self.parsed(&path, &value, "address")).collect()
    }

    fn frontends(&mut self, spec: &mut Fields, service: &mut Service) -> Vec<(String, Protocol, Target)> {
        let kind = self.text(spec, "type").unwrap_or_else(|| "ClusterIP".to_owned());
        let kind = match record::kind(&kind) {
            Some(kind @ (ServiceType::ClusterIp | ServiceType::NodePort | ServiceType::LoadBalancer)) => kind,
            _ => {
                let message = format!("{kind:?} is none of ClusterIP, NodePort and LoadBalancer");
                self.fault(spec.at("type"), message);
                ServiceType::ClusterIp
            }
        };
        let mut inner = self.addresses(spec, "clusterIPs");
        if let Some(value) = spec.take("clusterIP") {
            inner.extend(self.parsed::<IpAddr>(&spec.at("clusterIP"), &value, "address"));
        }
        inner.sort_unstable();
        inner.dedup();
        let outer = self.addresses(spec, "externalIPs");
        let mut balanced = self.addresses(spec, "loadBalancerIPs");
        if let Some(value) = spec.take("loadBalancerIP") {
            balanced.extend(self.parsed::<IpAddr>(&spec.at("loadBalancerIP"), &value, "address"));
        }
        if !balanced.is_empty() && kind != ServiceType::LoadBalancer {
            self.fault(spec.at("type"), "only a LoadBalancer has such an address");
        }
        let (ports_path, items) = (spec.at("ports"), self.list(spec, "ports"));
        if items.is_empty() {
            self.fault(ports_path, "a service has a port");
        }
        let many = items.len() > 1;
        let mut ports = Vec::new();
        for (path, value) in items {
            let mut port = self.fields(&path, &value);
            let name = self.text(&mut port, "name").unwrap_or_default();
            if many && name.is_empty() {
                self.fault(&path, "each of several ports has a name");
            }
            if name.contains('/') || ports.iter().any(|(held, _, _)| *held == name) {
                self.fault(port.at("name"), format!("{name:?} is there twice, or holds a '/'"));
            }
            let protocol = self.protocol(&mut port);
            let number: Option<u16> = self.number(&mut port, "port");
            if number.is_none() {
                self.fault(port.at("port"), "a port is needed");
            }
            let number = number.unwrap_or(1);
            let target = match port.take("targetPort") {
                None => Target::Number(number),
                Some(Value::String(_)) => Target::Name,
                Some(value) => {
                    match value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0) {
                        Some(port) => Target::Number(port),
                        None => {
                            self.fault(port.at("targetPort"), format!("{value} is no port"));
                            Target::Number(number)
                        }
                    }
                }
            };
            let node_port: Option<u16> = self.number(&mut port, "nodePort");
            if node_port.is_some() && kind == ServiceType::ClusterIp {
                self.fault(port.at("nodePort"), "a ClusterIP has none");
            }
            if node_port.is_none() && kind == ServiceType::NodePort {
                self.fault(port.at("nodePort"), "a NodePort needs one: none is chosen by itself");
            }
            self.end(port);
            let mut add = |kind, ip: IpAddr, port: u16| {
                let address = L4Address { ip, port, protocol };
                service.frontends.push(Frontend { id: ServiceId(0), kind, address, port: name.clone() });
            };
            inner.iter().for_each(|ip| add(ServiceType::ClusterIp, *ip, number));
            outer.iter().for_each(|ip| add(ServiceType::ExternalIp, *ip, number));
            balanced.iter().for_each(|ip| add(ServiceType::LoadBalancer, *ip, number));
            if let Some(node_port) = node_port {
                let has = |ipv4: bool| inner.iter().any(|ip| ip.is_ipv4() == ipv4);
                for ipv4 in [true, false].into_iter().filter(|ipv4| has(*ipv4) || (inner.is_empty() && *ipv4)) {
                    add(ServiceType::NodePort, unspecified(ipv4), node_port);
                }
            }
            ports.push((name, protocol, target));
        }
        if service.frontends.is_empty() {
            self.fault(
                spec.at("clusterIP"),
                "the service has no address: clusterIP, externalIPs or a node port is needed",
            );
        }
        ports
    }

    /// `{address, port, weight, state, node}`; without a port that of the service's target.
    fn backend(
        &mut self,
        path: &str,
        value: &Value,
        ports: &[(String, Protocol, Target)],
        backends: &mut Vec<Backend>,
    ) {
        let mut fields = self.fields(path, value);
        let address = fields.take("address").unwrap_or(Value::Null);
        let address: Option<IpAddr> = self.parsed(&fields.at("address"), &address, "address");
        let number: Option<u16> = self.number(&mut fields, "port");
        let name = self.text(&mut fields, "portName");
        let weight = self.number(&mut fields, "weight").unwrap_or(DEFAULT_WEIGHT);
        let node = self.text(&mut fields, "node");
        let state = self.text(&mut fields, "state").map_or(Some(BackendState::Active), |text| {
            let state = BackendState::parse(&text);
            if state.is_none() {
                self.fault(fields.at("state"), format!("{text:?} is no state of a backend"));
            }
            state
        });
        self.end(fields);
        if number.is_some() && name.is_none() && ports.len() > 1 {
            self.fault(path, "with several ports a backend's port needs its portName");
        }
        if let Some(name) = name.as_ref().filter(|name| ports.iter().all(|(port, _, _)| port != *name)) {
            self.fault(path, format!("the service has no port {name:?}"));
        }
        let (Some(ip), Some(state)) = (address, state) else { return };
        for (port, protocol, target) in
            ports.iter().filter(|(port, _, _)| name.as_ref().is_none_or(|name| name == port))
        {
            let number = match (number, target) {
                (Some(number), _) => number,
                (None, Target::Number(number)) => *number,
                (None, Target::Name) => {
                    self.fault(path, format!("port {port:?} has a targetPort by name: the backend's number is needed"));
                    continue;
                }
            };
            let address = L4Address { ip, port: number, protocol: *protocol };
            backends.push(Backend { address, port: port.clone(), weight, state, node: node.clone() });
        }
    }

    /// The ports of `Endpoints` and `EndpointSlice`: name, protocol, number.
    fn slice_ports(&mut self, fields: &mut Fields) -> Vec<(String, Protocol, u16)> {
        let mut ports = Vec::new();
        for (path, value) in self.list(fields, "ports") {
            let mut port = self.fields(&path, &value);
            let name = self.text(&mut port, "name").unwrap_or_default();
            let protocol = self.protocol(&mut port);
            let number: Option<u16> = self.number(&mut port, "port");
            port.take("appProtocol");
            self.end(port);
            match number {
                Some(number) => ports.push((name, protocol, number)),
                None => self.fault(&path, "a port is needed"),
            }
        }
        ports
    }

    fn endpoints(&mut self, mut fields: Fields) {
        let (name, _) = self.metadata(&mut fields);
        let mut backends = Vec::new();
        for (path, value) in self.list(&mut fields, "subsets") {
            let mut subset = self.fields(&path, &value);
            let ports = self.slice_ports(&mut subset);
            for (list, state) in [("addresses", BackendState::Active), ("notReadyAddresses", BackendState::Quarantined)]
            {
                for (path, value) in self.list(&mut subset, list) {
                    let mut address = self.fields(&path, &value);
                    let ip = address.take("ip").unwrap_or(Value::Null);
                    let ip = self.parsed(&address.at("ip"), &ip, "address");
                    let node = self.text(&mut address, "nodeName");
                    address.take("targetRef");
                    address.take("hostname");
                    self.end(address);
                    backends.extend(ip.into_iter().flat_map(|ip| of_ports(ip, &ports, state, node.as_ref())));
                }
            }
            self.end(subset);
        }
        let path = fields.path.clone();
        self.end(fields);
        self.slices.push(Slice { path, name, backends });
    }

    fn slice(&mut self, mut fields: Fields) {
        let (slice, labels) = self.metadata(&mut fields);
        let path = fields.path.clone();
        let name = labels.get("kubernetes.io/service-name").cloned().unwrap_or_else(|| {
            self.fault(format!("{path}.metadata.labels"), "kubernetes.io/service-name says whose backends these are");
            String::new()
        });
        self.text(&mut fields, "addressType");
        let ports = self.slice_ports(&mut fields);
        let mut backends = Vec::new();
        for (path, value) in self.list(&mut fields, "endpoints") {
            let mut endpoint = self.fields(&path, &value);
            let addresses = self.addresses(&mut endpoint, "addresses");
            let node = self.text(&mut endpoint, "nodeName");
            let conditions_path = endpoint.at("conditions");
            let conditions = endpoint.take("conditions").unwrap_or(Value::Object(Map::new()));
            let mut conditions = self.fields(&conditions_path, &conditions);
            let ready = self.flag(&mut conditions, "ready");
            let serving = self.flag(&mut conditions, "serving");
            let terminating = self.flag(&mut conditions, "terminating").unwrap_or(false);
            self.end(conditions);
            for ignored in ["targetRef", "hostname", "zone"] {
                endpoint.take(ignored);
            }
            self.end(endpoint);
            let state = match (terminating, ready.unwrap_or(true)) {
                (true, _) => BackendState::Terminating { serves: serving.unwrap_or(true) },
                (false, true) => BackendState::Active,
                (false, false) => BackendState::Quarantined,
            };
            for ip in addresses {
                backends.extend(of_ports(ip, &ports, state, node.as_ref()));
            }
        }
        self.end(fields);
        self.slices.push(Slice { path, name: ServiceName { name, ..slice }, backends });
    }

    fn finish(mut self) -> Result<Vec<Service>, Vec<Fault>> {
        for Slice { path, name, backends } in std::mem::take(&mut self.slices) {
            let Some(read) = self.services.get_mut(&name) else {
                self.fault(path, format!("there is no service {name} among the documents"));
                continue;
            };
            let known = |backend: &Backend| {
                let same = |(port, protocol, _): &(String, Protocol, Target)| {
                    *port == backend.port && *protocol == backend.address.protocol
                };
                read.ports.iter().any(same)
            };
            let (fitting, others): (Vec<_>, Vec<_>) = backends.into_iter().partition(known);
            read.service.backends.extend(fitting);
            if let Some(other) = others.first() {
                let message = format!("service {name} has no port {:?}", other.port);
                self.fault(path, message);
            }
        }
        let mut services = Vec::new();
        for (_, Read { path, mut service, .. }) in std::mem::take(&mut self.services) {
            // Numbers are given out later: any that are possible and differ will do for the check.
            for (n, frontend) in (1_u32..).zip(&mut service.frontends) {
                frontend.id = ServiceId(n);
            }
            for fault in service.faults() {
                self.fault(format!("{path}.{}", fault.path), fault.message);
            }
            service.frontends.iter_mut().for_each(|frontend| frontend.id = ServiceId(0));
            services.push(service);
        }
        if self.faults.is_empty() { Ok(services) } else { Err(self.faults) }
    }
}

fn of_ports(ip: IpAddr, ports: &[(String, Protocol, u16)], state: BackendState, node: Option<&String>) -> Vec<Backend> {
    let backend = |(port, protocol, number): &(String, Protocol, u16)| Backend {
        address: L4Address { ip, port: *number, protocol: *protocol },
        port: port.clone(),
        weight: DEFAULT_WEIGHT,
        state,
        node: node.cloned(),
    };
    ports.iter().map(backend).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn faults(document: Value) -> Vec<String> {
        let faults = read(&[document], "default").err().unwrap_or_default();
        faults.into_iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect()
    }

    #[test]
    fn a_service_with_its_backends() {
        let document = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {
            "type": "NodePort", "clusterIP": "10.96.0.10", "externalTrafficPolicy": "Local",
            "sessionAffinity": "ClientIP",
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}],
            "backends": [{"address": "10.15.0.11", "weight": 50}, {"address": "10.15.0.12", "portName": "http", "port": 8081, "state": "maintenance"}],
        }});
        let [service] = <[Service; 1]>::try_from(read(&[document], "default").unwrap()).unwrap();
        let frontends: Vec<String> =
            service.frontends.iter().map(|f| format!("{} {} {}", f.kind, f.address, f.port)).collect();
        assert_eq!(
            frontends,
            [
                "ClusterIP 10.96.0.10:80/TCP http",
                "NodePort 0.0.0.0:30080/TCP http",
                "ClusterIP 10.96.0.10:53/UDP dns",
                "NodePort 0.0.0.0:30053/UDP dns",
            ]
        );
        let backends: Vec<String> =
            service.backends.iter().map(|b| format!("{} {} {} {}", b.address, b.port, b.weight, b.state)).collect();
        assert_eq!(
            backends,
            [
                "10.15.0.11:8080/TCP http 50 active",
                "10.15.0.11:53/UDP dns 50 active",
                "10.15.0.12:8081/TCP http 100 maintenance",
            ]
        );
        assert_eq!((service.affinity, service.external), (Some(10_800), TrafficPolicy::Local));
    }

    #[test]
    fn backends_out_of_slices_and_endpoints() {
        let service = json!({"kind": "Service", "metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80, "targetPort": "http"}]}});
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-x", "labels": {"kubernetes.io/service-name": "web"}}, "ports": [{"name": "", "port": 8080}],
            "endpoints": [{"addresses": ["10.15.0.11"], "nodeName": "n1"},
                {"addresses": ["10.15.0.12"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.15.0.13"], "conditions": {"ready": false}}]});
        let endpoints = json!({"kind": "Endpoints", "metadata": {"name": "web"}, "subsets": [
            {"addresses": [{"ip": "10.15.0.14"}], "notReadyAddresses": [{"ip": "10.15.0.15"}], "ports": [{"port": 8080}]}]});
        let list = json!({"kind": "List", "apiVersion": "v1", "items": [service, slice, endpoints]});
        let [service] = <[Service; 1]>::try_from(read(&[list], "default").unwrap()).unwrap();
        let backends: Vec<String> = service.backends.iter().map(|b| format!("{} {}", b.address, b.state)).collect();
        assert_eq!(
            backends,
            [
                "10.15.0.11:8080/TCP active",
                "10.15.0.12:8080/TCP terminating",
                "10.15.0.13:8080/TCP quarantined",
                "10.15.0.14:8080/TCP active",
                "10.15.0.15:8080/TCP quarantined",
            ]
        );
    }

    #[test]
    fn all_faults_are_told_with_their_paths() {
        let found = faults(json!([
            {"metadata": {"name": "a"}, "spec": {"clusterIP": "None", "ports": [{"port": 70000, "portt": 1}], "selector": {"app": "a"}}},
            {"metadata": {"name": "b/c"}, "spec": {"type": "ExternalName", "clusterIP": "127.0.0.1", "ports": [{"port": 80}]}},
            {"kind": "Pod"},
        ]));
        for wanted in [
            "[0][0].spec.clusterIP: \"None\" is no address",
            "[0][0].spec.ports[0].port: 70000 is no number",
            "[0][0].spec.ports[0].portt: nothing is known",
            "[0][0].spec.selector: nothing is known",
            "[0][1].name: \"b/c\" is no name",
            "[0][1].spec.type: \"ExternalName\"",
            "[0][1].frontends[0]: 127.0.0.1 cannot be the address",
            "[0][2].kind: \"Pod\"",
        ] {
            assert!(found.iter().any(|fault| fault.starts_with(wanted)), "{wanted} is not in {found:#?}");
        }
    }

    proptest! {
        #[test]
        fn no_document_panics(name in ".{0,8}", port in any::<i64>(), kind in "(Service|Endpoints|EndpointSlice|List|x)", ip in ".{0,8}") {
            let port = json!({"port": port, "targetPort": port, "nodePort": port});
            let _ = faults(json!({"kind": kind, "metadata": {"name": name}, "items": [ip], "subsets": [ip], "endpoints": [ip],
                "spec": {"clusterIP": ip, "ports": [port], "backends": [{"address": ip, "port": 1}]}}));
        }
    }
}

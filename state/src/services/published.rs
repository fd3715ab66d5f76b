//! Ports of this host that are published for its containers (`docker run -p`): services of the node's own, each with the one
//! backend that is the container.

use super::Services;
use super::definition::{Backend, BackendState, DEFAULT_WEIGHT, Frontend, LOCAL_IDS, Service, ServiceName};
use crate::endpoints::Endpoint;
use crate::{Rejected, State};
use model::service::ServiceType;
use model::{EndpointId, L4Address, Protocol, ServiceId};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One port of the host, and the container's that answers there.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Published {
    /// An address of the host, its loopback one, or the unspecified one for all of that family.
    pub address: IpAddr,
    pub host_port: u16,
    /// IANA's number of TCP, UDP or SCTP.
    pub protocol: Protocol,
    pub container_port: u16,
    /// Its number among services; 0 in a request: one is chosen.
    #[serde(default = "no_id")]
    pub id: ServiceId,
}

fn no_id() -> ServiceId {
    ServiceId(0)
}

impl Published {
    fn frontend(&self) -> L4Address {
        L4Address { ip: self.address, port: self.host_port, protocol: self.protocol }
    }
}

impl Services {
    /// The published port, other than the endpoint's own, that an address and port of the host would meet.
    fn published_by_other(&self, endpoint: EndpointId, wanted: &L4Address) -> bool {
        let others = self.published.iter().filter(|(id, _)| **id != endpoint);
        others.flat_map(|(_, service)| &service.frontends).any(|frontend| meets(&frontend.address, wanted))
    }

    /// Whether a port of the host is a node port of a service of the cluster.
    fn is_node_port(&self, wanted: &L4Address) -> bool {
        let unspecified: IpAddr = match wanted.ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let claims = self.claims.get(&L4Address { ip: unspecified, ..*wanted });
        claims.into_iter().flatten().any(|claim| claim.is_record)
    }
}

/// Whether two frontends are in each other's way.
fn meets(one: &L4Address, other: &L4Address) -> bool {
    let same = one.port == other.port && one.protocol == other.protocol && one.ip.is_ipv4() == other.ip.is_ipv4();
    same && (one.ip == other.ip || one.ip.is_unspecified() || other.ip.is_unspecified())
}

impl State {
    /// The ports with a number each, if the endpoint can have them.
    pub(crate) fn check_published(&self, id: EndpointId, wanted: Vec<Published>) -> Result<Vec<Published>, Rejected> {
        let Some(endpoint) = self.endpoints.get(id) else { return Ok(Vec::new()) };
        let bad = |port: &Published, reason| Err(Rejected::BadPort { address: port.frontend(), reason });
        let held = &endpoint.published;
        let mut used: BTreeSet<ServiceId> =
            self.endpoints.iter().flat_map(|e| &e.published).map(|port| port.id).collect();
        let mut checked: Vec<Published> = Vec::new();
        for port in wanted {
            let frontend = port.frontend();
            let family = endpoint.addresses().any(|address| address.is_ipv4() == port.address.is_ipv4());
            match () {
                () if port.host_port == 0 || port.container_port == 0 => {
                    return bad(&port, "a port is from 1 to 65535");
                }
                () if ![Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&port.protocol) => {
                    return bad(&port, "its protocol is none of TCP, UDP and SCTP");
                }
                () if !family => return bad(&port, "the container has no address of that family"),
                () => {}
            }
            let met = checked.iter().any(|other| meets(&other.frontend(), &frontend));
            if met || self.services.published_by_other(id, &frontend) || self.services.is_node_port(&frontend) {
                return Err(Rejected::PortTaken(frontend));
            }
            let same = |other: &&Published| other.frontend() == frontend && other.container_port == port.container_port;
            let number = match held.iter().find(same) {
                Some(held) => held.id,
                None => (LOCAL_IDS..).map(ServiceId).find(|id| !used.contains(id)).unwrap_or(ServiceId(u32::MAX)),
            };
            used.insert(number);
            checked.push(Published { id: number, ..port });
        }
        Ok(checked)
    }

    /// Makes services of what endpoints publish.
    pub(crate) fn publish_ports(&mut self) {
        let gone: Vec<EndpointId> =
            self.services.published.keys().filter(|id| self.endpoints.get(**id).is_none()).copied().collect();
        gone.into_iter().for_each(|id| self.services.publish(id, None));
        for endpoint in self.endpoints.iter() {
            self.services.publish(endpoint.id, published_service(endpoint, &self.config.cluster));
        }
    }
}

/// What an endpoint publishes, as a service.
fn published_service(endpoint: &Endpoint, cluster: &str) -> Option<Service> {
    if endpoint.published.is_empty() {
        return None;
    }
    let name = ServiceName { cluster: cluster.to_owned(), space: "docker".to_owned(), name: endpoint.title() };
    let (mut frontends, mut backends) = (Vec::new(), Vec::new());
    for port in &endpoint.published {
        let name = port.id.to_string();
        let address = port.frontend();
        frontends.push(Frontend { id: port.id, kind: ServiceType::HostPort, address, port: name.clone() });
        let own = endpoint.addresses().filter(|ip| ip.is_ipv4() == port.address.is_ipv4());
        backends.extend(own.map(|ip| Backend {
            address: L4Address { ip, port: port.container_port, protocol: port.protocol },
            port: name.clone(),
            weight: DEFAULT_WEIGHT,
            state: BackendState::Active,
            node: None,
        }));
    }
    Some(Service::new(name, frontends, backends))
}

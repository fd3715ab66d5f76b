//! The network driver: networks and endpoints, written against the agent. An endpoint's way out of its container is
//! [`routes`]' business, the options are [`options`]'.

mod options;
mod ports;
mod routes;
#[cfg(test)]
mod tests;

pub(crate) use options::NetworkOptions;

use crate::agent::Removal;
use crate::call::{Answer, Plugin, id};
use crate::ipam;
use crate::networks::{pool_of, subnet_on};
use crate::protocol::{
    CreateEndpoint, CreateNetwork, Discovery, EndpointOnly, GwAllocCheck, Interface, IpamData, Join, NetworkOnly, read,
};
use crate::refusal::Refusal;
use api::endpoint::{Endpoint, EndpointChange, EndpointCreate, PublishedPort};
use api::ipam::{Family, Pool};
use api::network::{Network, Subnet};
use serde_json::json;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// When at the latest `Join` is to be answered, whether or not the kernel enforces the identity by then: what is left of
/// a call's bound is for the way.
const JOIN_BOUND: Duration = Duration::from_millis(1_500);

impl Plugin {
    pub(crate) fn network_capabilities(&self) -> Answer {
        Answer::of(json!({"Scope": "local", "ConnectivityScope": "global"}))
    }

    /// Asked only of drivers that declare it. Refuses unknown options before Docker asks for a pool.
    pub(crate) fn gateway_check(&self, body: &[u8]) -> Result<Answer, Refusal> {
        NetworkOptions::parse(&read::<GwAllocCheck>(body)?.options)?;
        Ok(Answer::of(json!({"SkipIPv4": false, "SkipIPv6": false})))
    }

    /// Only a swarm's manager asks this.
    pub(crate) fn allocate_network(&self, body: &[u8]) -> Result<Answer, Refusal> {
        id("NetworkID", &read::<NetworkOnly>(body)?.network_id)?;
        Err(Refusal::Swarm)
    }

    /// Nothing was allocated, so nothing is left to free.
    pub(crate) fn free_network(&self, body: &[u8]) -> Result<Answer, Refusal> {
        id("NetworkID", &read::<NetworkOnly>(body)?.network_id)?;
        Ok(Answer::empty())
    }

    pub(crate) async fn create_network(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let request: CreateNetwork = read(body)?;
        let id = id("NetworkID", &request.network_id)?;
        let options = NetworkOptions::parse(&request.options)?;
        let pools = self.agent.pools().await?;
        let ipv4 = subnet(&pools, Family::Ipv4, &request.ipv4_data)?;
        let ipv6 = subnet(&pools, Family::Ipv6, &request.ipv6_data)?;
        if ipv4.is_none() && ipv6.is_none() {
            return Err(Refusal::NoSubnet);
        }
        options.check_mtu(ipv6.is_some())?;
        let network = Network { id: id.to_owned(), ipv4, ipv6, internal: options.internal, mtu: options.mtu };
        self.networks.put(network).await?;
        self.fuse.reset();
        Ok(Answer::empty().undone_by(Removal::Network(id.to_owned())))
    }

    pub(crate) async fn delete_network(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let request: NetworkOnly = read(body)?;
        let id = id("NetworkID", &request.network_id)?;
        self.networks.forget(id);
        self.agent.remove(Removal::Network(id.to_owned())).await?;
        Ok(Answer::empty())
    }

    pub(crate) async fn create_endpoint(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let request: CreateEndpoint = read(body)?;
        let network = id("NetworkID", &request.network_id)?;
        let endpoint = id("EndpointID", &request.endpoint_id)?;
        options::check_endpoint(&request.options)?;
        let mac = options::mac(&request.interface.mac_address, &request.options)?;
        let create = EndpointCreate { mac, ..addressed(network, endpoint, &request.interface)? };
        self.networks.get(network).await?;
        self.resolver.expect(endpoint);
        let removal = Removal::Endpoint(endpoint.to_owned());
        match self.agent.create_endpoint(&create).await {
            Ok(made) => {
                // What the request had must not be in the answer, or Docker rolls everything back.
                let interface = match mac {
                    Some(_) => json!({}),
                    None => json!({"MacAddress": made.mac.to_string()}),
                };
                Ok(Answer::of(json!({"Interface": interface})).undone_by(removal))
            }
            Err(refusal) => {
                self.resolver.forget(endpoint);
                self.clean_up(removal, &refusal).await;
                Err(refusal)
            }
        }
    }

    /// Docker sends no `DeleteEndpoint` after a failed `CreateEndpoint`. An agent that said no has left nothing; one that
    /// said nothing may have made the endpoint.
    async fn clean_up(&self, removal: Removal, refusal: &Refusal) {
        let silent = matches!(refusal, Refusal::Agent { source, .. } if source.status().is_none());
        if silent && let Err(error) = self.agent.remove(removal).await {
            tracing::warn!(%error, "an endpoint that may be half made is left to the comparison with Docker's list");
        }
    }

    pub(crate) async fn delete_endpoint(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let (_, endpoint) = endpoint_only(body)?;
        self.resolver.forget(&endpoint);
        self.agent.remove(Removal::Endpoint(endpoint)).await?;
        Ok(Answer::empty())
    }

    /// Names of our own alone: Docker takes values under its names for Go's types.
    pub(crate) async fn endpoint_info(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let (network, endpoint) = endpoint_only(body)?;
        let found = self.existing(&network, &endpoint).await?;
        Ok(Answer::of(json!({"Value": {
            "io.cilium.endpoint.id": found.id.to_string(),
            "io.cilium.endpoint.identity": found.identity.id.to_string(),
            "io.cilium.endpoint.interface": found.interface_name,
            "io.cilium.endpoint.mac": found.mac.to_string(),
            "io.cilium.endpoint.mtu": found.mtu.to_string(),
            "io.cilium.endpoint.state": found.state.as_str(),
        }})))
    }

    /// The agent is told of the sandbox while Docker is asked for the container and the agent told of that. A container
    /// that is not known, or whose identity is not enforced, in time is no reason to fail: the endpoint goes on as
    /// `reserved:init` and is seen to later.
    pub(crate) async fn join(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let began = Instant::now();
        let request: Join = read(body)?;
        let network_id = id("NetworkID", &request.network_id)?;
        let endpoint_id = id("EndpointID", &request.endpoint_id)?;
        if request.sandbox_key.is_empty() {
            return Err(Refusal::Missing { field: "SandboxKey" });
        }
        ports::published(&request.options)?;
        let network = self.networks.get(network_id).await?;
        let known = async {
            match self.resolver.at_join(network_id, endpoint_id).await {
                Some(container) => {
                    self.resolver.tell_in_time(network_id, endpoint_id, container, began + JOIN_BOUND).await;
                }
                None => self.resolver.later(network_id, endpoint_id),
            }
            Ok(())
        };
        let (endpoint, ()) = tokio::try_join!(self.enter(network_id, endpoint_id, request.sandbox_key), known)?;
        let joined = routes::joined(&network, &endpoint);
        serde_json::to_value(joined).map(Answer::of).map_err(|_| Refusal::Broken)
    }

    async fn enter(&self, network: &str, endpoint: &str, sandbox: String) -> Result<Endpoint, Refusal> {
        let change = EndpointChange { sandbox: Some(sandbox), ..EndpointChange::default() };
        on_network(self.agent.change_endpoint(endpoint, &change).await?, network, endpoint)
    }

    /// The interface is still in the container: `DeleteEndpoint` follows and takes all away.
    pub(crate) fn leave(&self, body: &[u8]) -> Result<Answer, Refusal> {
        endpoint_only(body)?;
        Ok(Answer::empty())
    }

    pub(crate) async fn program_external(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let request: Join = read(body)?;
        let network = id("NetworkID", &request.network_id)?;
        let endpoint = id("EndpointID", &request.endpoint_id)?;
        let published = ports::published(&request.options)?;
        self.existing(network, endpoint).await?;
        if !published.is_empty() {
            self.publish(network, endpoint, published).await?;
        }
        Ok(Answer::empty())
    }

    /// Docker ignores a failure; what is left then goes with the endpoint.
    pub(crate) async fn revoke_external(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let (network, endpoint) = endpoint_only(body)?;
        let known = self.agent.endpoint(&endpoint).await?;
        if known.is_some_and(|known| known.docker_network_id == network && !known.published.is_empty()) {
            self.publish(&network, &endpoint, Vec::new()).await?;
        }
        Ok(Answer::empty())
    }

    async fn publish(&self, network: &str, endpoint: &str, ports: Vec<PublishedPort>) -> Result<Endpoint, Refusal> {
        let change = EndpointChange { published: Some(ports), ..EndpointChange::default() };
        on_network(self.agent.change_endpoint(endpoint, &change).await?, network, endpoint)
    }

    /// Nodes are found through the kvstore, not through Docker's swarm.
    pub(crate) fn discover(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let Discovery { discovery_type } = read(body)?;
        tracing::debug!(discovery_type, "Docker's own discovery is not used");
        Ok(Answer::empty())
    }

    async fn existing(&self, network: &str, endpoint: &str) -> Result<Endpoint, Refusal> {
        on_network(self.agent.endpoint(endpoint).await?, network, endpoint)
    }
}

fn on_network(found: Option<Endpoint>, network: &str, endpoint: &str) -> Result<Endpoint, Refusal> {
    found
        .filter(|found| found.docker_network_id == network)
        .ok_or_else(|| Refusal::UnknownEndpoint { id: endpoint.to_owned() })
}

fn endpoint_only(body: &[u8]) -> Result<(String, String), Refusal> {
    let request: EndpointOnly = read(body)?;
    let network = id("NetworkID", &request.network_id)?.to_owned();
    Ok((network, id("EndpointID", &request.endpoint_id)?.to_owned()))
}

fn subnet(pools: &[Pool], family: Family, data: &[IpamData]) -> Result<Option<Subnet>, Refusal> {
    let [data] = data else {
        let name = ipam::family_name(family);
        let many = Refusal::ManySubnets { family: name, count: data.len() };
        return if data.is_empty() { Ok(None) } else { Err(many) };
    };
    let asked = ipam::subnet("Pool", &data.pool)?;
    let gateway = Some(data.gateway.as_str()).filter(|text| !text.is_empty());
    let gateway = gateway.map(|text| ipam::address("Gateway", text)).transpose()?;
    let pool = pool_of(pools, family, asked).ok_or(Refusal::ForeignPool { pool: data.pool.clone() })?;
    Ok(Some(subnet_on(pool, asked, gateway)))
}

fn addressed(network: &str, endpoint: &str, interface: &Interface) -> Result<EndpointCreate, Refusal> {
    let parse = |field, text: &str| match text {
        "" => Ok(None),
        text => ipam::address(field, text).map(Some),
    };
    let invalid = |field, value: &str, expected| Refusal::Invalid { field, value: value.to_owned(), expected };
    let ipv4 = match parse("Address", &interface.address)? {
        None => None,
        Some(IpAddr::V4(address)) => Some(address),
        Some(IpAddr::V6(_)) => return Err(invalid("Address", &interface.address, "an IPv4 address")),
    };
    let ipv6 = match parse("AddressIPv6", &interface.address_ipv6)? {
        None => None,
        Some(IpAddr::V6(address)) => Some(address),
        Some(IpAddr::V4(_)) => return Err(invalid("AddressIPv6", &interface.address_ipv6, "an IPv6 address")),
    };
    if ipv4.is_none() && ipv6.is_none() {
        return Err(Refusal::NoAddress { id: endpoint.to_owned() });
    }
    Ok(EndpointCreate {
        docker_endpoint_id: endpoint.to_owned(),
        docker_network_id: network.to_owned(),
        ipv4,
        ipv6,
        mac: None,
    })
}

//! The networks of our driver as the agent knows them, kept at hand because every `Join` needs one. A network that the
//! agent does not know, because its state was lost, is learnt from Docker.

use crate::agent::Agent;
use crate::docker::Docker;
use crate::ipam;
use crate::network::NetworkOptions;
use crate::refusal::Refusal;
use api::ipam::{AddressRequest, Family, Pool, PoolRequest};
use api::network::{Network, Subnet};
use bollard::models::{IpamConfig, NetworkInspect};
use ipnetwork::IpNetwork;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What Docker gets to tell about a network while it waits for us.
const DOCKER_BOUND: Duration = Duration::from_millis(400);

pub(crate) struct Networks {
    agent: Agent,
    docker: Docker,
    at_hand: Mutex<BTreeMap<String, Arc<Network>>>,
}

impl Networks {
    pub(crate) fn new(agent: Agent, docker: Docker) -> Networks {
        Networks { agent, docker, at_hand: Mutex::default() }
    }

    pub(crate) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// The network, asked of the agent and then of Docker when it is not at hand.
    pub(crate) async fn get(&self, id: &str) -> Result<Arc<Network>, Refusal> {
        if let Some(network) = self.lookup(id) {
            return Ok(network);
        }
        self.refresh().await?;
        match self.lookup(id) {
            Some(network) => Ok(network),
            None => self.ask_docker(id).await,
        }
    }

    /// Makes a network known to the agent.
    pub(crate) async fn put(&self, network: Network) -> Result<Arc<Network>, Refusal> {
        self.agent.put_network(&network).await?;
        let network = Arc::new(network);
        self.lock().insert(network.id.clone(), network.clone());
        Ok(network)
    }

    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Reads the agent's list.
    pub(crate) async fn refresh(&self) -> Result<(), Refusal> {
        let networks = self.agent.networks().await?;
        *self.lock() = networks.into_iter().map(|network| (network.id.clone(), Arc::new(network))).collect();
        Ok(())
    }

    /// All that are at hand.
    pub(crate) fn all(&self) -> Vec<Arc<Network>> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn knows(&self, id: &str) -> bool {
        self.lookup(id).is_some()
    }

    /// Makes known to the agent what Docker says of a network of ours, its pools and gateways included.
    pub(crate) async fn learn(&self, id: &str, inspected: &NetworkInspect) -> Result<Arc<Network>, Refusal> {
        let options = inspected.options.iter().flatten();
        let generic = options.map(|(name, value)| (name.clone(), value.clone().into())).collect();
        let mut network = Network {
            id: id.to_owned(),
            ipv4: None,
            ipv6: None,
            internal: inspected.internal.unwrap_or_default(),
            mtu: NetworkOptions::of_generic(&generic)?.mtu,
        };
        let pools = self.agent.pools().await?;
        let configs = inspected.ipam.as_ref().and_then(|ipam| ipam.config.as_deref()).unwrap_or_default();
        for config in configs {
            let (family, subnet) = self.learn_subnet(config, &pools).await?;
            match family {
                Family::Ipv4 => network.ipv4 = Some(subnet),
                Family::Ipv6 => network.ipv6 = Some(subnet),
            }
        }
        tracing::info!(network = id, name = inspected.name, "network learnt from Docker");
        self.put(network).await
    }

    async fn learn_subnet(&self, config: &IpamConfig, pools: &[Pool]) -> Result<(Family, Subnet), Refusal> {
        let text = config.subnet.clone().unwrap_or_default();
        let asked = ipam::subnet("Subnet", &text)?;
        let family = if asked.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let gateway = config.gateway.as_deref().filter(|text| !text.is_empty());
        let gateway = gateway.map(|text| ipam::address("Gateway", text)).transpose()?;
        let known = pool_of(pools, family, asked).cloned();
        // The agent has the gateway of a pool that it knows, but not the one that each network on the node's pool has.
        let lacks_gateway = known.as_ref().is_none_or(|pool| pool.node_pool);
        let pool = match known {
            Some(pool) => pool,
            None => {
                let range = config.ip_range.as_deref().filter(|text| !text.is_empty());
                let range = range.map(|text| ipam::subnet("IPRange", text)).transpose()?;
                let subnet = (!ipam::means_node_pool(asked)).then_some(asked);
                self.agent.request_pool(&PoolRequest { family, subnet, range }).await?
            }
        };
        if let Some(address) = gateway.filter(|_| lacks_gateway) {
            let owner = "gateway".to_owned();
            let pool = pool.id.clone();
            let request = AddressRequest { pool, address: Some(address), part: None, owner, gateway: true };
            if let Err(error) = self.agent.request_address(&request).await {
                tracing::warn!(%address, %error, "the gateway of a network learnt from Docker is not free");
            }
        }
        Ok((family, subnet_on(&pool, asked, gateway)))
    }

    async fn ask_docker(&self, id: &str) -> Result<Arc<Network>, Refusal> {
        let not_learnt = |why: String| Refusal::NetworkNotLearnt { id: id.to_owned(), why };
        let asked = tokio::time::timeout(DOCKER_BOUND, self.docker.network(id)).await;
        match asked.map_err(|_| not_learnt(format!("no answer within {DOCKER_BOUND:?}")))? {
            Ok(Some(inspected)) if is_ours(inspected.driver.as_deref()) => self.learn(id, &inspected).await,
            Ok(_) => Err(Refusal::UnknownNetwork { id: id.to_owned() }),
            Err(error) => Err(not_learnt(error.to_string())),
        }
    }

    fn lookup(&self, id: &str) -> Option<Arc<Network>> {
        self.lock().get(id).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Network>>> {
        self.at_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a network's driver is ours, as Docker names it.
pub(crate) fn is_ours(driver: Option<&str>) -> bool {
    driver == Some(crate::DRIVER)
}

/// The pool that a subnet of a network is, as Docker has it: a pool's own subnet, or something that stands for the
/// node's pool.
pub(crate) fn pool_of(pools: &[Pool], family: Family, asked: IpNetwork) -> Option<&Pool> {
    let mut of_family = pools.iter().filter(|pool| pool.family == family);
    match ipam::means_node_pool(asked) {
        true => of_family.find(|pool| pool.node_pool),
        false => of_family.find(|pool| pool.subnet == asked),
    }
}

/// What a network has of a pool. One that shares the node's has the part that its gateway is in; IPv6 networks that share
/// it are shown with the whole range.
pub(crate) fn subnet_on(pool: &Pool, asked: IpNetwork, gateway: Option<IpAddr>) -> Subnet {
    let shares = pool.node_pool && (ipam::means_node_pool(asked) || asked.is_ipv6());
    let part = gateway.filter(|_| shares).and_then(|gateway| ipam::part_of(pool.subnet, gateway));
    Subnet { subnet: part.unwrap_or(pool.subnet), gateway: gateway.or(Some(pool.gateway)) }
}

//! The IPAM driver: pools and addresses, written against the agent. Containers get single addresses (/32, /128).

mod fuse;
mod parts;
#[cfg(test)]
mod tests;

pub(crate) use fuse::Fuse;
pub(crate) use parts::{Parts, part_of};

use crate::agent::Removal;
use crate::call::{Answer, Plugin};
use crate::protocol::{ADDRESS_TYPE, AddressOfPool, DOCKERS_OWN, GATEWAY_ADDRESS, ReleasePool, RequestPool, read};
use crate::refusal::Refusal;
use api::ipam::{Address, AddressRequest, Family, Pool, PoolRequest};
use ipnetwork::IpNetwork;
use serde_json::json;
use std::net::IpAddr;
use tokio::time::Instant;

/// What an empty IPv4 pool is answered with. Docker compares the answer with the host's routes and asks again, without
/// end, while they overlap, as the node's range always does; this one it never compares.
const ANY_V4: &str = "0.0.0.0/0";
/// Both the local and the global space: engines that look skip the comparison above when they are the same.
const ADDRESS_SPACE: &str = "CiliumLocal";

impl Plugin {
    pub(crate) fn ipam_capabilities(&self) -> Answer {
        Answer::of(json!({"RequiresMACAddress": false, "RequiresRequestReplay": false}))
    }

    pub(crate) fn address_spaces(&self) -> Answer {
        Answer::of(json!({"LocalDefaultAddressSpace": ADDRESS_SPACE, "GlobalDefaultAddressSpace": ADDRESS_SPACE}))
    }

    /// The gateway is left for Docker to ask for: an address of its own for each network.
    pub(crate) async fn request_pool(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let request = pool_request(&read(body)?)?;
        self.fuse.check(&request, Instant::now())?;
        let pool = self.agent.request_pool(&request).await?;
        let part = match request.subnet {
            None => self.part(&pool).await,
            Some(_) => None,
        };
        let id = parts::id_with(&pool.id, part);
        let answer = json!({"PoolID": id, "Pool": shown(&request, &pool), "Data": {}});
        Ok(Answer::of(answer).undone_by(Removal::Pool(pool.id)))
    }

    /// The part of the node's pool that a new network shall keep to.
    async fn part(&self, pool: &Pool) -> Option<IpNetwork> {
        if let Err(error) = self.networks.refresh().await {
            tracing::debug!(%error, "parts are chosen by what is at hand");
        }
        self.parts.choose(pool, &self.networks.all(), Instant::now())
    }

    /// An unknown pool is a success.
    pub(crate) async fn release_pool(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let request: ReleasePool = read(body)?;
        let (pool, _) = parts::split(pool_id(&request.pool_id)?);
        self.agent.remove(Removal::Pool(pool.to_owned())).await?;
        self.fuse.reset();
        Ok(Answer::empty())
    }

    pub(crate) async fn request_address(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let request: AddressOfPool = read(body)?;
        let (pool, part) = parts::split(pool_id(&request.pool_id)?);
        let address = Some(request.address.as_str()).filter(|text| !text.is_empty());
        let address = address.map(|text| self::address("Address", text)).transpose()?;
        let gateway = request.options.get(ADDRESS_TYPE).and_then(|kind| kind.as_str()) == Some(GATEWAY_ADDRESS);
        let owner = if gateway { "gateway" } else { "docker" }.to_owned();
        let part = part.filter(|_| address.is_none());
        let wanted = AddressRequest { pool: pool.to_owned(), address, part, owner, gateway };
        let given = self.address(wanted).await?.address;
        let answer = json!({"Address": single(given), "Data": {}});
        Ok(Answer::of(answer).undone_by(Removal::Address { pool: pool.to_owned(), address: given }))
    }

    /// A part that has no address left is no reason to give none: any other of the pool will do.
    async fn address(&self, wanted: AddressRequest) -> Result<Address, Refusal> {
        match self.agent.request_address(&wanted).await {
            Err(refusal) if wanted.part.is_some() && !refusal.is_trouble() => {
                tracing::debug!(part = ?wanted.part, %refusal, "an address from outside the part");
                self.agent.request_address(&AddressRequest { part: None, ..wanted }).await
            }
            given => given,
        }
    }

    /// Always a success: Docker forgets the address whatever we say. It also comes for addresses that we never gave.
    pub(crate) async fn release_address(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let request: AddressOfPool = read(body)?;
        let (pool, _) = parts::split(pool_id(&request.pool_id)?);
        let address = address("Address", &request.address)?;
        if let Err(error) = self.agent.remove(Removal::Address { pool: pool.to_owned(), address }).await {
            tracing::warn!(%error, "an address stays taken until the next comparison with Docker's list");
        }
        Ok(Answer::empty())
    }
}

fn pool_request(request: &RequestPool) -> Result<PoolRequest, Refusal> {
    if let Some(name) = request.options.keys().find(|name| !name.starts_with(DOCKERS_OWN)) {
        return Err(Refusal::UnknownIpamOption { name: name.clone() });
    }
    let family = if request.v6 { Family::Ipv6 } else { Family::Ipv4 };
    let parse = |field, text: &str| match text {
        "" => Ok(None),
        text => subnet(field, text).and_then(|subnet| of_family(field, subnet, family)).map(Some),
    };
    let pool = parse("Pool", &request.pool)?.filter(|subnet| !means_node_pool(*subnet));
    let range = parse("SubPool", &request.sub_pool)?;
    if range.is_some() && pool.is_none() {
        return Err(Refusal::RangeWithoutSubnet);
    }
    Ok(PoolRequest { family, subnet: pool, range })
}

/// Whether a subnet stands for the node's pool: the one that we name ourselves for it, or one that starts at `::`, which
/// is no subnet to give out addresses of but what Cilium's old guide tells users to type (`--subnet ::1/112`).
pub(crate) fn means_node_pool(subnet: IpNetwork) -> bool {
    subnet.prefix() == 0 || (subnet.is_ipv6() && subnet.network().is_unspecified())
}

/// Reads `address/length`, and takes the address part for the subnet's number whatever bits it has.
pub(crate) fn subnet(field: &'static str, text: &str) -> Result<IpNetwork, Refusal> {
    let expected = "a subnet, such as 10.15.0.0/16 or f00d::/64";
    let invalid = || Refusal::Invalid { field, value: text.to_owned(), expected };
    let given: IpNetwork = text.parse().map_err(|_| invalid())?;
    if !text.contains('/') {
        return Err(invalid());
    }
    IpNetwork::new(given.network(), given.prefix()).map_err(|_| invalid())
}

/// Reads an address, with or without a length behind it.
pub(crate) fn address(field: &'static str, text: &str) -> Result<IpAddr, Refusal> {
    let (address, length) = text.split_once('/').unwrap_or((text, "0"));
    let invalid = || Refusal::Invalid { field, value: text.to_owned(), expected: "an IP address" };
    let address: IpAddr = address.parse().map_err(|_| invalid())?;
    let length: u8 = length.parse().map_err(|_| invalid())?;
    if length <= bits(address) { Ok(address) } else { Err(invalid()) }
}

pub(crate) fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    }
}

fn of_family(field: &'static str, subnet: IpNetwork, family: Family) -> Result<IpNetwork, Refusal> {
    let expected = match family {
        Family::Ipv4 => "an IPv4 subnet",
        Family::Ipv6 => "an IPv6 subnet",
    };
    match subnet.is_ipv6() == (family == Family::Ipv6) {
        true => Ok(subnet),
        false => Err(Refusal::Invalid { field, value: subnet.to_string(), expected }),
    }
}

fn shown(request: &PoolRequest, pool: &Pool) -> String {
    match (request.subnet, request.family) {
        (None, Family::Ipv4) => ANY_V4.to_owned(),
        _ => format!("{}/{}", pool.subnet.network(), pool.subnet.prefix()),
    }
}

fn single(address: IpAddr) -> String {
    format!("{address}/{}", bits(address))
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Ids of pools are the agent's and come back as they were given.
fn pool_id(value: &str) -> Result<&str, Refusal> {
    let field = "PoolID";
    match value {
        "" => Err(Refusal::Missing { field }),
        long if long.len() > 128 => {
            let value = long.chars().take(160).collect();
            Err(Refusal::Invalid { field, value, expected: "an id of ours" })
        }
        id => Ok(id),
    }
}

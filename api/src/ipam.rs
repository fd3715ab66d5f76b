//! Address pools and addresses: `/v1/ipam…`.

use ipnetwork::IpNetwork;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// `POST /v1/ipam/pool`. Without a subnet the node's own pool of the family is meant; asking for it again gives the
/// same pool once more (it is counted). A subnet that is in use already with the same range likewise; one that overlaps
/// another pool is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PoolRequest {
    pub family: Family,
    #[schemars(with = "Option<String>")]
    pub subnet: Option<IpNetwork>,
    /// Hand out addresses of this part of the subnet only (`--ip-range`).
    #[schemars(with = "Option<String>")]
    pub range: Option<IpNetwork>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Pool {
    /// What later requests name it by.
    pub id: String,
    pub family: Family,
    #[schemars(with = "String")]
    pub subnet: IpNetwork,
    #[schemars(with = "Option<String>")]
    pub range: Option<IpNetwork>,
    /// The address containers of the pool use as their gateway; set aside.
    pub gateway: IpAddr,
    /// The node's own pool and not a network's.
    pub node_pool: bool,
    /// How many requests hold it.
    pub references: u32,
    pub allocated: u64,
}

/// `POST /v1/ipam/address`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AddressRequest {
    pub pool: String,
    /// A fixed address; `None`: any free one.
    pub address: Option<IpAddr>,
    /// Where no address is named: any free one of this part of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub part: Option<IpNetwork>,
    /// Shown in `status --all-addresses`, e.g. `docker`, `gateway`.
    pub owner: String,
    /// The address becomes the gateway of the pool (`--gateway`).
    #[serde(default)]
    pub gateway: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Address {
    pub address: IpAddr,
    pub pool: String,
}

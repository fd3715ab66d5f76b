//! Docker networks that we serve: `/v1/network…`.

use ipnetwork::IpNetwork;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// `PUT /v1/network/{id}` and what `GET /v1/network` lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Network {
    /// Docker's network id, 64 hexadecimal digits.
    pub id: String,
    pub ipv4: Option<Subnet>,
    pub ipv6: Option<Subnet>,
    pub internal: bool,
    /// `-o mtu=N` (576..=65535; 1280 and more with IPv6); `None`: the uplink's.
    pub mtu: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Subnet {
    #[schemars(with = "String")]
    pub subnet: IpNetwork,
    pub gateway: Option<IpAddr>,
}

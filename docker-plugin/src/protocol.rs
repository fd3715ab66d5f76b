//! The words of libnetwork's remote drivers: paths, requests, answers, with Docker's exact names. Go sends `null` for
//! what is empty, leaves out what it does not know and adds what newer engines know; all of that is taken. What a call
//! means is left to [`crate::network`] and [`crate::ipam`].

use crate::refusal::Refusal;
use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

pub(crate) const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";
pub(crate) const GENERIC: &str = "com.docker.network.generic";
pub(crate) const INTERNAL: &str = "com.docker.network.internal";
pub(crate) const PORT_MAP: &str = "com.docker.network.portmap";
pub(crate) const ENDPOINT_IFNAME: &str = "com.docker.network.endpoint.ifname";
pub(crate) const ENDPOINT_MAC: &str = "com.docker.network.endpoint.macaddress";
pub(crate) const ADDRESS_TYPE: &str = "RequestAddressType";
pub(crate) const GATEWAY_ADDRESS: &str = "com.docker.network.gateway";
/// Names that Docker keeps for itself start like this; a user's own options do not.
pub(crate) const DOCKERS_OWN: &str = "com.docker.network.";

macro_rules! methods {
    ($($name:ident = $path:literal),* $(,)?) => {
        /// Everything that Docker calls.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Method { $($name),* }

        impl Method {
            pub(crate) const ALL: [Method; [$($path),*].len()] = [$(Method::$name),*];

            pub(crate) fn path(self) -> &'static str {
                match self { $(Method::$name => $path),* }
            }

            pub(crate) fn from_path(path: &str) -> Option<Method> {
                match path { $($path => Some(Method::$name),)* _ => None }
            }
        }
    };
}

methods! {
    Activate = "/Plugin.Activate",
    NetworkCapabilities = "/NetworkDriver.GetCapabilities",
    GwAllocCheck = "/NetworkDriver.GwAllocCheck",
    AllocateNetwork = "/NetworkDriver.AllocateNetwork",
    FreeNetwork = "/NetworkDriver.FreeNetwork",
    CreateNetwork = "/NetworkDriver.CreateNetwork",
    DeleteNetwork = "/NetworkDriver.DeleteNetwork",
    CreateEndpoint = "/NetworkDriver.CreateEndpoint",
    DeleteEndpoint = "/NetworkDriver.DeleteEndpoint",
    EndpointOperInfo = "/NetworkDriver.EndpointOperInfo",
    Join = "/NetworkDriver.Join",
    Leave = "/NetworkDriver.Leave",
    ProgramExternalConnectivity = "/NetworkDriver.ProgramExternalConnectivity",
    RevokeExternalConnectivity = "/NetworkDriver.RevokeExternalConnectivity",
    DiscoverNew = "/NetworkDriver.DiscoverNew",
    DiscoverDelete = "/NetworkDriver.DiscoverDelete",
    IpamCapabilities = "/IpamDriver.GetCapabilities",
    DefaultAddressSpaces = "/IpamDriver.GetDefaultAddressSpaces",
    RequestPool = "/IpamDriver.RequestPool",
    ReleasePool = "/IpamDriver.ReleasePool",
    RequestAddress = "/IpamDriver.RequestAddress",
    ReleaseAddress = "/IpamDriver.ReleaseAddress",
}

/// Reads the body of a method that needs one. An empty body is refused: some engines send one when they repeat a call.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Refusal::NoBody);
    }
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Refusal::NoObject);
    }
    serde_json::from_slice(body).map_err(|source| Refusal::Malformed { source })
}

/// Go's `null` is the empty value.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Options by name; what a value holds depends on the name.
pub(crate) type Options = BTreeMap<String, Value>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct GwAllocCheck {
    #[serde(deserialize_with = "nullable")]
    pub(crate) options: Options,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct CreateNetwork {
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    pub(crate) network_id: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) options: Options,
    #[serde(rename = "IPv4Data", deserialize_with = "nullable")]
    pub(crate) ipv4_data: Vec<IpamData>,
    #[serde(rename = "IPv6Data", deserialize_with = "nullable")]
    pub(crate) ipv6_data: Vec<IpamData>,
}

/// What the IPAM driver (ours or another) gave for one subnet.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct IpamData {
    /// `address/length`
    #[serde(deserialize_with = "nullable")]
    pub(crate) pool: String,
    /// `address/length`, the length being the IPAM driver's own idea.
    #[serde(deserialize_with = "nullable")]
    pub(crate) gateway: String,
}

/// `DeleteNetwork`, `FreeNetwork`, `AllocateNetwork`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NetworkOnly {
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    pub(crate) network_id: String,
}

/// `DeleteEndpoint`, `EndpointOperInfo`, `Leave`, `RevokeExternalConnectivity`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointOnly {
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    pub(crate) network_id: String,
    #[serde(rename = "EndpointID", deserialize_with = "nullable")]
    pub(crate) endpoint_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct CreateEndpoint {
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    pub(crate) network_id: String,
    #[serde(rename = "EndpointID", deserialize_with = "nullable")]
    pub(crate) endpoint_id: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) interface: Interface,
    #[serde(deserialize_with = "nullable")]
    pub(crate) options: Options,
}

/// Empty texts stand for "none".
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Interface {
    /// `address/length`
    #[serde(deserialize_with = "nullable")]
    pub(crate) address: String,
    /// `address/length`
    #[serde(rename = "AddressIPv6", deserialize_with = "nullable")]
    pub(crate) address_ipv6: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) mac_address: String,
}

/// `Join` and `ProgramExternalConnectivity`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Join {
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    pub(crate) network_id: String,
    #[serde(rename = "EndpointID", deserialize_with = "nullable")]
    pub(crate) endpoint_id: String,
    /// Path of the sandbox's namespace; it may not exist yet.
    #[serde(deserialize_with = "nullable")]
    pub(crate) sandbox_key: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) options: Options,
}

/// `DiscoverNew` and `DiscoverDelete`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Discovery {
    /// 1: a node; 2: keys for encryption.
    #[serde(deserialize_with = "nullable")]
    pub(crate) discovery_type: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RequestPool {
    /// `address/length`, or empty: any.
    #[serde(deserialize_with = "nullable")]
    pub(crate) pool: String,
    /// `--ip-range`
    #[serde(deserialize_with = "nullable")]
    pub(crate) sub_pool: String,
    /// `--ipam-opt`
    #[serde(deserialize_with = "nullable")]
    pub(crate) options: Options,
    #[serde(deserialize_with = "nullable")]
    pub(crate) v6: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReleasePool {
    #[serde(rename = "PoolID", deserialize_with = "nullable")]
    pub(crate) pool_id: String,
}

/// `RequestAddress` and, without options, `ReleaseAddress`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct AddressOfPool {
    #[serde(rename = "PoolID", deserialize_with = "nullable")]
    pub(crate) pool_id: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) address: String,
    #[serde(deserialize_with = "nullable")]
    pub(crate) options: Options,
}

/// The answer to `Join`. Empty texts stand for "none".
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Joined {
    pub(crate) interface_name: InterfaceName,
    pub(crate) gateway: String,
    #[serde(rename = "GatewayIPv6")]
    pub(crate) gateway_ipv6: String,
    pub(crate) static_routes: Vec<StaticRoute>,
    /// True: Docker must not add a bridge of its own as the way out.
    pub(crate) disable_gateway_service: bool,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct InterfaceName {
    pub(crate) src_name: String,
    pub(crate) dst_prefix: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct StaticRoute {
    pub(crate) destination: String,
    /// 0: by way of `next_hop`; 1: on the interface itself.
    pub(crate) route_type: u8,
    pub(crate) next_hop: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_leads_back_to_its_method() {
        for method in Method::ALL {
            assert_eq!(Method::from_path(method.path()), Some(method));
        }
        assert_eq!(Method::from_path("/NetworkDriver.join"), None);
    }

    #[test]
    fn null_missing_and_unknown_keys_are_taken() {
        let read: CreateNetwork = read(
            br#"{"NetworkID":"ab","Options":null,"IPv4Data":[{"Pool":null,"AddressSpace":"x","New":{"a":[1]}}],"New":3}"#,
        )
        .unwrap();
        assert_eq!(read.network_id, "ab");
        assert_eq!(read.ipv4_data[0].pool, "");
        assert!(read.ipv6_data.is_empty() && read.options.is_empty());
    }

    #[test]
    fn an_empty_body_and_one_that_is_no_object_are_refused() {
        for body in [&b""[..], b" \n", b"null", b"[]", b"3", b"{", b"{\"NetworkID\":3}"] {
            assert!(read::<NetworkOnly>(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }
}

//! One call of Docker's, from its method and body to its answer. What the methods mean is in [`crate::network`] and
//! [`crate::ipam`]; how calls arrive and how long they may take is in [`crate::driver`].

use crate::agent::{Agent, Removal};
use crate::containers::Resolver;
use crate::docker::Docker;
use crate::ipam::{Fuse, Parts};
use crate::networks::Networks;
use crate::protocol::Method;
use crate::refusal::Refusal;
use serde_json::{Value, json};
use std::sync::Arc;

/// Both drivers. All that it keeps is there to be quick; none of it is missed after a restart.
pub(crate) struct Plugin {
    pub(crate) agent: Agent,
    pub(crate) networks: Networks,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) fuse: Fuse,
    pub(crate) parts: Parts,
}

/// A success.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Value,
    /// What takes it back when Docker could not be told in time: to Docker the call has failed then.
    pub(crate) undo: Option<Removal>,
}

impl Answer {
    pub(crate) fn empty() -> Answer {
        Answer::of(json!({}))
    }

    pub(crate) fn of(body: Value) -> Answer {
        Answer { body, undo: None }
    }

    pub(crate) fn undone_by(self, removal: Removal) -> Answer {
        Answer { undo: Some(removal), ..self }
    }
}

impl Plugin {
    pub(crate) fn new(agent: Agent, docker: Docker, resolver: Arc<Resolver>) -> Plugin {
        let networks = Networks::new(agent.clone(), docker);
        Plugin { agent, networks, resolver, fuse: Fuse::default(), parts: Parts::default() }
    }

    pub(crate) async fn call(&self, method: Method, body: &[u8]) -> Result<Answer, Refusal> {
        match method {
            Method::Activate => Ok(Answer::of(json!({"Implements": ["NetworkDriver", "IpamDriver"]}))),
            Method::NetworkCapabilities => Ok(self.network_capabilities()),
            Method::GwAllocCheck => self.gateway_check(body),
            Method::AllocateNetwork => self.allocate_network(body),
            Method::FreeNetwork => self.free_network(body),
            Method::CreateNetwork => self.create_network(body).await,
            Method::DeleteNetwork => self.delete_network(body).await,
            Method::CreateEndpoint => self.create_endpoint(body).await,
            Method::DeleteEndpoint => self.delete_endpoint(body).await,
            Method::EndpointOperInfo => self.endpoint_info(body).await,
            Method::Join => self.join(body).await,
            Method::Leave => self.leave(body),
            Method::ProgramExternalConnectivity => self.program_external(body).await,
            Method::RevokeExternalConnectivity => self.revoke_external(body).await,
            Method::DiscoverNew | Method::DiscoverDelete => self.discover(body),
            Method::IpamCapabilities => Ok(self.ipam_capabilities()),
            Method::DefaultAddressSpaces => Ok(self.address_spaces()),
            Method::RequestPool => self.request_pool(body).await,
            Method::ReleasePool => self.release_pool(body).await,
            Method::RequestAddress => self.request_address(body).await,
            Method::ReleaseAddress => self.release_address(body).await,
        }
    }
}

/// Docker's ids are 64 hexadecimal digits, swarm's 25 letters and digits; anything beyond such is refused, so that it
/// can be part of a path.
pub(crate) fn id<'a>(field: &'static str, value: &'a str) -> Result<&'a str, Refusal> {
    if value.is_empty() {
        return Err(Refusal::Missing { field });
    }
    if value.len() > 128 || !value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let value = value.chars().take(160).collect();
        return Err(Refusal::Invalid { field, value, expected: "an id of Docker's" });
    }
    Ok(value)
}

//! `cilium endpoint …`: the containers' interfaces that this node takes care of.

mod get;
mod health;
mod labels;
mod list;
mod log;

use super::Session;
use crate::agent::Route;
use crate::failure::Failure;

/// Show endpoints: the containers' interfaces on this node
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    List(list::Args),
    Get(get::Args),
    Labels(labels::Args),
    Health(health::Args),
    Log(log::Args),
}

impl Command {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Command::List(args) => args.run(session).await,
            Command::Get(args) => args.run(session).await,
            Command::Labels(args) => args.run(session).await,
            Command::Health(args) => args.run(session).await,
            Command::Log(args) => args.run(session).await,
        }
    }
}

/// The endpoint that a command is about.
#[derive(Clone, Debug, clap::Args)]
struct Named {
    /// A number, or docker-endpoint:ID, container-id:ID, container-name:NAME, ipv4:IP, ipv6:IP
    #[arg(value_name = "ENDPOINT")]
    id: String,
}

fn route(id: &str) -> Route {
    Route::new(api::routes::ENDPOINT).part(id)
}

/// An endpoint with all the fields that tables show.
#[cfg(test)]
fn sample(id: u16, labels: &[&str]) -> api::endpoint::Endpoint {
    let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
    api::endpoint::Endpoint {
        id,
        docker_endpoint_id: "e".repeat(64),
        docker_network_id: "f".repeat(64),
        container_id: Some("c".repeat(64)),
        container_name: Some("app1".into()),
        state: api::EndpointState::Ready,
        failure: None,
        identity: api::endpoint::EndpointIdentity { id: api::Identity(256 + u32::from(id)), labels: labels.clone() },
        labels: api::endpoint::EndpointLabels {
            security_relevant: labels,
            disabled: vec!["container:com.docker.compose.config-hash=1".into()],
        },
        ipv4: Some([10, 15, 0, 2].into()),
        ipv6: None,
        gateway4: Some([10, 15, 0, 1].into()),
        gateway6: None,
        mac: api::Mac([2, 0x42, 10, 15, 0, 2]),
        node_mac: api::Mac([2, 0, 0, 0, 0, 1]),
        interface_name: "lxc0123456789ab".into(),
        peer_interface_name: "tmp0123456789ab".into(),
        mtu: 1500,
        policy: api::endpoint::EndpointPolicy { enabled: "ingress".into(), revision: 3 },
        created: 1_700_000_000,
        published: Vec::new(),
    }
}

//! The agent's REST surface on a Unix socket: paths, bodies, and the client that the command line and the Docker plugin
//! use. The agent serves the very same types; the OpenAPI document is generated from them.
//!
//! Owns shapes only: what a request means is the daemon's business.

pub mod client;
pub mod config;
pub mod datapath;
pub mod docker;
pub mod endpoint;
pub mod health;
pub mod identity;
pub mod ipam;
pub mod kvstore;
pub mod monitor;
pub mod network;
pub mod node;
pub mod openapi;
pub mod policy;
pub mod routes;
pub mod service;
pub mod status;

pub use client::{Client, ClientError};
/// Words of the vocabulary that the shapes are made of, for clients that know this crate alone.
pub use model::drop_reason::DropReason;
pub use model::{Direction, EndpointId, EndpointState, Identity, Mac, Protocol, event};

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/cilium/cilium.sock";

/// The body of every answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct ErrorBody {
    /// One sentence for people: what was asked of what, and why it cannot be.
    pub error: String,
    /// Faults of a document, each with its path. Empty when the fault is not in a document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Fault>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Fault {
    /// For example `[0].ingress[1].toPorts[0].ports[0].port`.
    pub path: String,
    pub message: String,
}

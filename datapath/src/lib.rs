//! Makes the kernel equal to `model::desired::Datapath`, and reads back what it tells.
//!
//! The only crate that changes the kernel. It speaks to the rest in the words of `model`: snapshots in, status, events
//! and tables out. Interface numbers, program numbers and descriptors stay in here. Nothing is taken down when it stops:
//! programs, maps and links are pinned and go on without it; `start` takes them over.

pub mod addresses;
pub mod cleanup;
mod clock;
mod config;
mod current;
mod events;
mod expedite;
#[cfg(test)]
mod fake;
pub mod features;
mod filters;
mod firewall;
mod forwarding;
mod gc;
mod handle;
mod housing;
mod kernel;
mod links;
mod maps;
mod netlink;
pub mod netns;
mod notices;
mod operation;
mod plan;
mod programs;
mod reconcile;
mod routes;
mod syscall;
mod tables;
mod undertaker;
mod worker;

pub use config::{Aggregation, Attach, Config, GeneveBy, NodeAddresses, Timeouts, Tunnel, TunnelPorts};
pub use handle::{Handle, StartError, start};
pub use maps::conntrack::{Flow, FlowEnd, FlowState};
pub use maps::metrics::Metric;
pub use maps::snat::NatRow;
pub use tables::{
    EndpointRow, IpcacheRow, LoadBalancerTable, MapInfo, PlacesRow, PolicyRow, PolicyTable, ServiceRow, TableError,
    Tables, TunnelRow, WatchedAddresses,
};

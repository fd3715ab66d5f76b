//! `cilium bpf …`: what the kernel's maps hold, read back by the agent.

mod ct;
mod endpoint;
mod ipcache;
mod lb;
mod metrics;
mod nat;
mod policy;
mod tunnel;

use super::Session;
use crate::failure::Failure;

/// Show what the kernel holds
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Endpoints of this node, as the kernel finds them
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Verdicts
    #[command(subcommand)]
    Policy(policy::Command),
    /// Connection tracking: the flows
    #[command(subcommand)]
    Ct(ct::Command),
    /// Which identity an address has
    #[command(subcommand)]
    Ipcache(ipcache::Command),
    /// Services: what is asked for, and who answers
    #[command(subcommand)]
    Lb(lb::Command),
    /// Ports under which this node sends on to other nodes' backends
    #[command(subcommand)]
    Nat(nat::Command),
    /// Which prefixes are behind which nodes
    #[command(subcommand)]
    Tunnel(tunnel::Command),
    /// Packet counters by reason and direction
    #[command(subcommand)]
    Metrics(metrics::Command),
}

impl Command {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Command::Endpoint(endpoint::Command::List) => endpoint::list(session).await,
            Command::Policy(policy::Command::List(args)) => args.run(session).await,
            Command::Ct(ct::Command::List) => ct::list(session).await,
            Command::Ct(ct::Command::Flush) => ct::flush(session).await,
            Command::Ipcache(ipcache::Command::List) => ipcache::list(session).await,
            Command::Lb(lb::Command::List(args)) => args.run(session).await,
            Command::Nat(nat::Command::List) => nat::list(session).await,
            Command::Tunnel(tunnel::Command::List) => tunnel::list(session).await,
            Command::Metrics(metrics::Command::List) => metrics::list(session).await,
        }
    }
}

fn route(table: &str) -> crate::agent::Route {
    crate::agent::Route::new(api::routes::BPF).part(table)
}

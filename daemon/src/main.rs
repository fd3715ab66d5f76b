//! The agent: gives containers on Docker networks of the driver `cilium` an identity, and keeps the kernel enforcing
//! policy between them.
//!
//! This file reads the command line and turns outcomes into exit codes; `run.rs` has every task and every channel.

mod agent;
mod api;
mod blocks;
mod cleanup;
mod cluster;
mod config;
mod contact;
mod controllers;
mod enforcement;
mod feed;
mod health;
mod identities;
mod kernel;
mod lock;
mod logs;
mod memory;
mod mesh;
mod metered;
mod metrics;
mod node;
mod notices;
mod policy_store;
mod publish;
mod run;
mod server;
mod services;
mod socket;
mod status;
mod store;
#[cfg(test)]
mod testing;
mod writer;

use config::{ConfigError, Invocation};
use std::io::Write;
use std::process::ExitCode;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that was built, where the build says it.
pub const REVISION: &str = match option_env!("CILIUM_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Threads that run tasks: the work is waiting, and 2 suffice for what is not.
const MAX_WORKERS: usize = 4;

fn main() -> ExitCode {
    let hostname =
        nix::sys::utsname::uname().map(|name| name.nodename().to_string_lossy().into_owned()).unwrap_or_default();
    let outcome = match config::load(std::env::args_os(), std::env::vars_os(), &hostname) {
        // Help and version are no errors; clap knows.
        Err(ConfigError::Usage(error)) => error.exit(),
        Err(error) => Err(anyhow::Error::from(error)),
        Ok(Invocation::Print(text)) => std::io::stdout().write_all(text.as_bytes()).map_err(anyhow::Error::from),
        Ok(Invocation::Run(config)) => {
            logs::begin(&config);
            within_runtime(run::run(*config))
        }
        Ok(Invocation::Cleanup(config, scope)) => {
            logs::begin(&config);
            within_runtime(cleanup::run(*config, scope))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not through the log: it may not have begun, and whoever started the agent by hand reads this.
            let _ = writeln!(std::io::stderr(), "cilium-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn within_runtime(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, MAX_WORKERS);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let outcome = runtime.block_on(task);
    // Threads that wait in the kernel must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    outcome
}

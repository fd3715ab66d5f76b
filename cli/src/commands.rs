//! The command line: global flags and one variant for each command. What a command takes and does is in its own file.

pub mod bpf;
pub mod cleanup;
pub mod completion;
pub mod config;
pub mod debuginfo;
pub mod endpoint;
pub mod health;
pub mod identity;
pub mod ip;
pub mod kvstore;
pub mod map;
pub mod metrics;
pub mod monitor;
pub mod node;
pub mod policy;
pub mod service;
pub mod status;
pub mod version;

use crate::agent::Agent;
use crate::failure::Failure;
use crate::render::{Format, Output};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

const GLOBAL: &str = "Options of every command";

/// Talks to cilium-agent: what it runs, what it allows, what it sees.
#[derive(Debug, Parser)]
#[command(name = "cilium", version, max_term_width = 110, propagate_version = false)]
pub struct Cli {
    /// Socket of the agent: a path, with or without unix:// in front
    #[arg(short = 'H', long, global = true, env = "CILIUM_SOCK", hide_env_values = true, value_name = "PATH",
          default_value = api::DEFAULT_SOCKET, value_parser = socket_path, help_heading = GLOBAL)]
    pub host: PathBuf,
    /// Form of the output: for people or for programs
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t = Format::Table, help_heading = GLOBAL)]
    pub output: Format,
    /// Tell each request on standard error
    #[arg(short = 'D', long, global = true, help_heading = GLOBAL)]
    pub debug: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Status(status::Args),
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    #[command(subcommand)]
    Health(health::Command),
    #[command(subcommand)]
    Identity(identity::Command),
    #[command(subcommand)]
    Policy(policy::Command),
    #[command(subcommand)]
    Service(service::Command),
    #[command(subcommand)]
    Bpf(bpf::Command),
    #[command(subcommand)]
    Map(map::Command),
    #[command(subcommand)]
    Metrics(metrics::Command),
    Monitor(monitor::Args),
    #[command(subcommand)]
    Node(node::Command),
    #[command(subcommand)]
    Ip(ip::Command),
    #[command(subcommand)]
    Kvstore(kvstore::Command),
    Config(config::Args),
    Debuginfo(debuginfo::Args),
    Cleanup(cleanup::Args),
    Completion(completion::Args),
    Version(version::Args),
}

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The answer is bad news (`status` of an agent that is not well): exit code 1.
    Unwell,
}

/// What every command works with.
pub struct Session {
    pub agent: Agent,
    pub out: Output,
}

impl Session {
    pub fn new(cli: &Cli) -> Session {
        Session { agent: Agent::new(&cli.host, cli.debug), out: Output::stdout(cli.output) }
    }
}

impl Command {
    /// Whether the command can show its result as a report of tests.
    pub fn makes_reports(&self) -> bool {
        matches!(self, Command::Policy(policy::Command::Test(_)))
    }

    pub async fn run(self, session: &mut Session) -> Result<Outcome, Failure> {
        let done = match self {
            Command::Status(args) => return args.run(session).await,
            Command::Endpoint(command) => command.run(session).await,
            Command::Health(command) => command.run(session).await,
            Command::Identity(command) => command.run(session).await,
            Command::Policy(command) => return command.run(session).await,
            Command::Service(command) => command.run(session).await,
            Command::Bpf(command) => command.run(session).await,
            Command::Map(command) => command.run(session).await,
            Command::Metrics(command) => command.run(session).await,
            Command::Monitor(args) => args.run(session).await,
            Command::Node(command) => command.run(session).await,
            Command::Ip(command) => command.run(session).await,
            Command::Kvstore(command) => command.run(session).await,
            Command::Config(args) => args.run(session).await,
            Command::Debuginfo(args) => args.run(session).await,
            Command::Cleanup(args) => args.run(session).await,
            Command::Completion(args) => args.run(session),
            Command::Version(args) => args.run(session).await,
        };
        done.map(|()| Outcome::Done)
    }
}

fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.contains("://") {
        Err("the agent listens on a Unix socket only".to_owned())
    } else if path.is_empty() {
        Err("a path is needed".to_owned())
    } else {
        Ok(path.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn hosts_are_unix_sockets() {
        assert_eq!(socket_path("unix:///run/a.sock"), Ok("/run/a.sock".into()));
        assert_eq!(socket_path("a.sock"), Ok("a.sock".into()));
        assert!(socket_path("tcp://1.2.3.4:5").is_err());
        assert!(socket_path("").is_err());
    }
}

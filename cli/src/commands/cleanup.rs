//! `cilium cleanup`: takes away what the agent left in the kernel and on disk. The agent's own program does the work,
//! since it knows what it made; here is asked whether that is meant, and whether no agent runs.

use super::Session;
use crate::failure::Failure;
use api::ClientError;
use clap::builder::FalseyValueParser;
use serde_json::json;
use std::io::{BufRead, ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Remove what a stopped agent left behind; containers on its networks lose their connection
///
/// Refuses while an agent runs. Asks before it removes anything, unless -f is given.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cilium cleanup --bpf-state\n  \
                        cilium cleanup --all-state -f -- --lib-dir /srv/cilium")]
pub struct Args {
    /// Remove programs, maps, devices and rules from the kernel
    #[arg(long, env = "CLEAN_CILIUM_BPF_STATE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    bpf_state: bool,
    /// Remove those and everything on disk: addresses, identities, policies
    #[arg(long, env = "CLEAN_CILIUM_STATE", hide_env_values = true, value_parser = FalseyValueParser::new())]
    all_state: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Options that the agent ran with, when they say where it kept its state
    #[arg(last = true, value_name = "AGENT OPTION")]
    agent_options: Vec<std::ffi::OsString>,
}

const AGENT: &str = "cilium-agent";

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let (flag, what) = match (self.all_state, self.bpf_state) {
            (true, _) => ("--all-state", "everything in the kernel and on disk"),
            (false, true) => ("--bpf-state", "everything in the kernel"),
            (false, false) => {
                return Err(Failure::Usage("Say what to remove: --bpf-state or --all-state".to_owned()));
            }
        };
        refuse_while_running(session).await?;
        if !self.force && !confirmed(what)? {
            return Err(Failure::NotConfirmed);
        }
        let program = agent_program();
        let failed = |source| Failure::RunAgent { program: program.clone(), source };
        let mut command = Command::new(&program);
        command.args(["cleanup", flag, "--force"]).args(&self.agent_options).stdin(Stdio::null());
        if session.out.is_json() {
            command.stdout(std::io::stderr());
        }
        let status = command.status().map_err(failed)?;
        if !status.success() {
            return Err(Failure::Cleanup { program, status });
        }
        session.out.show(&json!({"removed": flag.trim_start_matches('-')}), |_| Default::default())
    }
}

/// Only a socket that is absent, or that nobody listens on, says that no agent runs.
async fn refuse_while_running(session: &Session) -> Result<(), Failure> {
    let socket = session.agent.socket().to_owned();
    match session.agent.try_get::<serde_json::Value>(api::routes::VERSION).await {
        Err(ClientError::Connect { source, .. })
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            Ok(())
        }
        Err(source @ ClientError::Connect { .. }) => Err(Failure::AgentUnknown { socket, source }),
        Ok(_) | Err(_) => Err(Failure::AgentRuns { socket }),
    }
}

fn confirmed(what: &str) -> Result<bool, Failure> {
    let mut stderr = anstream::stderr();
    let asked =
        write!(stderr, "This removes {what} that belongs to the agent. Go on? [y/N] ").and_then(|()| stderr.flush());
    asked.map_err(|source| Failure::Ask { source })?;
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|source| Failure::Ask { source })?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// The agent's program beside this one, else whichever `PATH` has.
fn agent_program() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(AGENT)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| AGENT.into())
}

//! `cilium version`: of this program and of the agent.

use super::Session;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Layout, Table};
use api::status::Version;
use serde_json::json;

/// This program's version.
pub const CLIENT: &str = env!("CARGO_PKG_VERSION");

/// Show the versions of this program and of the agent
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not ask the agent
    #[arg(long)]
    client: bool,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let daemon = match self.client {
            true => Ok(None),
            false => session.agent.get("get the agent's version", api::routes::VERSION).await.map(Some),
        };
        // This program's version is shown also when the agent does not answer.
        let known = daemon.as_ref().ok().and_then(Option::as_ref);
        session.out.show(&json!({"client": {"version": CLIENT}, "daemon": known}), |_| table(known).into())?;
        daemon.map(|_| ())
    }
}

fn table(daemon: Option<&Version>) -> Table {
    let mut table = Table::new(Layout { minimum: 2, padding: 1, indent: 0 });
    table.row(row!["Client:", CLIENT]);
    if let Some(Version { version, revision }) = daemon {
        table.row(row!["Daemon:", format!("{version} {revision}").trim_end()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    #[test]
    fn two_lines() {
        let daemon = Version { version: "9.9.9".into(), revision: "abc".into() };
        assert_eq!(plain(table(Some(&daemon))), format!("Client: {CLIENT}\nDaemon: 9.9.9 abc\n"));
        assert_eq!(plain(table(None)), format!("Client: {CLIENT}\n"));
    }
}

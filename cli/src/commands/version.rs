//! `cilium version`: of this program and of the agent.

use super::Session;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Layout, Table};
use api::status::Version;
use serde_json::json;

/// This program's version.
pub const CLIENT: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from, if the build said so.
const REVISION: &str = match option_env!("CILIUM_REVISION") {
    Some(revision) => revision,
    None => "",
};

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
        let client = Version { version: CLIENT.to_owned(), revision: REVISION.to_owned() };
        session.out.show(&json!({"client": client, "daemon": known}), |_| table(&client, known).into())?;
        daemon.map(|_| ())
    }
}

fn table(client: &Version, daemon: Option<&Version>) -> Table {
    let mut table = Table::new(Layout { minimum: 2, padding: 1, indent: 0 });
    let both = |version: &Version| format!("{} {}", version.version, version.revision).trim_end().to_owned();
    table.row(row!["Client:", both(client)]);
    if let Some(daemon) = daemon {
        table.row(row!["Daemon:", both(daemon)]);
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
        let client = Version { version: "9.9.8".into(), revision: String::new() };
        assert_eq!(plain(table(&client, Some(&daemon))), "Client: 9.9.8\nDaemon: 9.9.9 abc\n");
        assert_eq!(plain(table(&client, None)), "Client: 9.9.8\n");
    }
}

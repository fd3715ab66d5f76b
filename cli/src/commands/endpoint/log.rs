//! `cilium endpoint log`.

use super::super::Session;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Layout, Table};
use api::endpoint::LogEntry;

/// Show what happened to an endpoint, oldest first
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    endpoint: super::Named,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let id = &self.endpoint.id;
        let route = super::route(id).part("log");
        let entries: Vec<LogEntry> = session.agent.get(&format!("get the log of endpoint {id}"), route).await?;
        session.out.show(&entries, |entries| table(entries).into())
    }
}

fn table(entries: &[LogEntry]) -> Table {
    let mut table = Table::with_header(Layout::NARROW, ["Timestamp", "Status", "State", "Message"]);
    for entry in entries {
        table.row(row![&entry.timestamp, &entry.code, &entry.state, &entry.message]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    #[test]
    fn entries_keep_their_order_and_their_lines() {
        let entry = |message: &str| LogEntry {
            timestamp: "2026-01-02T03:04:05Z".into(),
            code: "ok".into(),
            message: message.into(),
            state: "ready".into(),
        };
        let expected = "\
Timestamp              Status   State   Message
2026-01-02T03:04:05Z   ok       ready   z
2026-01-02T03:04:05Z   ok       ready   a\\nb
";
        assert_eq!(plain(table(&[entry("z"), entry("a\nb")])), expected);
    }
}

//! `cilium bpf ipcache list`.

use super::super::Session;
use crate::commands::ip::prefix_order;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Layout, Table};
use api::datapath::IpcacheRow;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List which identity each address has in the kernel
    List,
}

pub async fn list(session: &mut Session) -> Result<(), Failure> {
    let mut rows: Vec<IpcacheRow> = session.agent.get("list the kernel's addresses", super::route("ipcache")).await?;
    rows.sort_by_cached_key(|row| prefix_order(&row.prefix));
    session.out.show(&rows, |rows| table(rows).into())
}

/// The number of the identity comes first in its column; its labels and the local endpoint follow.
fn table(rows: &[IpcacheRow]) -> Table {
    let mut table = Table::with_header(Layout::WIDE, ["IP PREFIX/ADDRESS", "IDENTITY"]);
    for row in rows {
        let mut text = row.identity.to_string();
        if !row.labels.is_empty() {
            let mut labels = row.labels.clone();
            labels.sort();
            text += &format!(" [{}]", labels.join(" "));
        }
        if row.endpoint != 0 {
            text += &format!(" endpoint={}", row.endpoint);
        }
        table.row(row![&row.prefix, text]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    #[test]
    fn identity_labels_endpoint() {
        let row = |prefix: &str, identity, endpoint, labels: &[&str]| IpcacheRow {
            prefix: prefix.into(),
            identity,
            endpoint,
            labels: labels.iter().map(|l| (*l).to_owned()).collect(),
        };
        let rows = [row("0.0.0.0/0", 2, 0, &[]), row("10.15.0.2/32", 261, 5, &["container:id=app1", "container:a"])];
        let expected = "\
IP PREFIX/ADDRESS   IDENTITY
0.0.0.0/0           2
10.15.0.2/32        261 [container:a container:id=app1] endpoint=5
";
        assert_eq!(plain(table(&rows)), expected);
    }
}

//! `cilium bpf metrics list`.

use super::super::Session;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Layout, Table};
use api::datapath::MetricRow;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the kernel's packet counters
    List,
}

pub async fn list(session: &mut Session) -> Result<(), Failure> {
    let mut rows: Vec<MetricRow> = session.agent.get("list the kernel's counters", super::route("metrics")).await?;
    rows.sort_by(|a, b| (a.code, &a.direction).cmp(&(b.code, &b.direction)));
    session.out.show(&rows, |rows| table(rows).into())
}

fn table(rows: &[MetricRow]) -> Table {
    let mut table = Table::with_header(Layout::WIDE, ["REASON", "DIRECTION", "PACKETS", "BYTES"]);
    for row in rows {
        table.row(row![&row.reason, row.direction.to_uppercase(), row.packets, row.bytes]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    #[test]
    fn directions_are_in_capitals() {
        let row = |code, reason: &str, direction: &str| MetricRow {
            code,
            reason: reason.into(),
            direction: direction.into(),
            packets: 10,
            bytes: 1000,
        };
        let expected = "\
REASON          DIRECTION   PACKETS   BYTES
Success         EGRESS      10        1000
Policy denied   INGRESS     10        1000
";
        assert_eq!(plain(table(&[row(0, "Success", "Egress"), row(133, "Policy denied", "INGRESS")])), expected);
    }
}

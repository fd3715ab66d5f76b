//! `cilium bpf tunnel list`.

use super::super::Session;
use crate::commands::ip::prefix_order;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Layout, Table};
use api::datapath::TunnelRow;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List which prefixes are behind which nodes in the kernel
    List,
}

pub async fn list(session: &mut Session) -> Result<(), Failure> {
    let mut rows: Vec<TunnelRow> = session.agent.get("list the kernel's tunnels", super::route("tunnel")).await?;
    rows.sort_by_cached_key(|row| prefix_order(&row.prefix));
    session.out.show(&rows, |rows| table(rows).into())
}

fn table(rows: &[TunnelRow]) -> Table {
    let mut table = Table::with_header(Layout::WIDE, ["TUNNEL", "VALUE"]);
    for row in rows {
        table.row(row![&row.prefix, &row.vtep]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    #[test]
    fn prefix_and_node() {
        let row = |prefix: &str, vtep: &str| TunnelRow { prefix: prefix.into(), vtep: vtep.into() };
        let rows = [row("10.64.1.0/24", "192.0.2.2"), row("fd64::1:0/112", "192.0.2.2")];
        let expected = "\
TUNNEL          VALUE
10.64.1.0/24    192.0.2.2
fd64::1:0/112   192.0.2.2
";
        assert_eq!(plain(table(&rows)), expected);
    }
}

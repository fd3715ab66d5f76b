//! `cilium bpf endpoint list`.

use super::super::Session;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Layout, Table};
use api::datapath::EndpointRow;
use std::net::{IpAddr, SocketAddr};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the kernel's endpoints
    List,
}

pub async fn list(session: &mut Session) -> Result<(), Failure> {
    let mut rows: Vec<EndpointRow> = session.agent.get("list the kernel's endpoints", super::route("endpoint")).await?;
    rows.sort_by_key(|row| row.id);
    session.out.show(&rows, |rows| table(rows).into())
}

/// One row an address; as in Cilium's map the address carries the port 0.
fn table(rows: &[EndpointRow]) -> Table {
    let mut table = Table::with_header(Layout::WIDE, ["IP ADDRESS", "LOCAL ENDPOINT INFO"]);
    for row in rows {
        let EndpointRow { id, ip, ifindex, mac, node_mac, identity, policy, flags } = row;
        let info = format!(
            "id={id}  flags=0x{flags:04x} ifindex={ifindex}  mac={mac} nodemac={node_mac} identity={identity} policy={policy}"
        );
        for ip in ip {
            let address = ip.parse::<IpAddr>().map_or_else(|_| ip.clone(), |ip| SocketAddr::new(ip, 0).to_string());
            table.row(row![address, &info]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    #[test]
    fn a_row_for_each_address() {
        let row = EndpointRow {
            id: 2716,
            ip: vec!["10.15.3.4".into(), "f00d::4".into()],
            ifindex: 12,
            mac: "02:42:0a:0f:03:04".into(),
            node_mac: "02:00:00:00:00:01".into(),
            identity: 261,
            policy: 7,
            flags: 1,
        };
        let info =
            "id=2716  flags=0x0001 ifindex=12  mac=02:42:0a:0f:03:04 nodemac=02:00:00:00:00:01 identity=261 policy=7";
        let expected = format!("IP ADDRESS    LOCAL ENDPOINT INFO\n10.15.3.4:0   {info}\n[f00d::4]:0   {info}\n");
        assert_eq!(plain(table(&[row])), expected);
    }
}

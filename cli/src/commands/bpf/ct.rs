//! `cilium bpf ct list|flush`: the kernel's flows.

use super::super::Session;
use crate::failure::Failure;
use crate::render::{Cell, Page};
use api::datapath::CtRow;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the kernel's flows, one line each
    ///
    /// OUT: opened by an endpoint of this node, IN: opened towards one, LOCAL: both sides are endpoints of this node.
    /// SVC: no flow, but which backend a flow to a service was given. Tx counts what the opening side sent, Rx what came
    /// back to it. RevNAT and BackendID are numbers as `bpf lb list` has them.
    List,
    /// Forget all flows; those still in use are judged by policy again
    Flush,
}

pub async fn list(session: &mut Session) -> Result<(), Failure> {
    let mut rows: Vec<CtRow> = session.agent.get("list the kernel's flows", super::route("ct")).await?;
    rows.sort_by(|a, b| {
        let key = |row: &CtRow| (row.protocol.clone(), row.source.clone(), row.destination.clone());
        key(a).cmp(&key(b))
    });
    session.out.show(&rows, |rows| page(rows))
}

pub async fn flush(session: &mut Session) -> Result<(), Failure> {
    let answer: serde_json::Value = session.agent.delete("forget the kernel's flows", super::route("ct")).await?;
    session.out.show(&answer, |_| Cell::from("All flows are forgotten").into())
}

fn page(rows: &[CtRow]) -> Page {
    let mut page = Page::default();
    for row in rows {
        page.line(line(row));
    }
    page
}

fn line(row: &CtRow) -> String {
    let CtRow { protocol, source, destination, expires, state, .. } = row;
    let direction = match (row.source_endpoint, row.destination_endpoint) {
        _ if row.backend != 0 => "SVC",
        (0, 0) => "NONE",
        (0, _) => "IN",
        (_, 0) => "OUT",
        _ => "LOCAL",
    };
    let named = |name: &str, number: u32| if number == 0 { String::new() } else { format!(" {name}={number}") };
    let service = named("RevNAT", row.service) + &named("BackendID", row.backend);
    let counters: String = [("Rx", 1), ("Tx", 0)]
        .map(|(name, side)| {
            let (packets, bytes, flags) = (row.packets[side], row.bytes[side], row.flags_seen[side]);
            format!(" {name}Packets={packets} {name}Bytes={bytes} {name}FlagsSeen=0x{flags:02x}")
        })
        .concat();
    format!(
        "{protocol} {direction} {source} -> {destination} expires={expires}{counters} State={state} \
         SourceSecurityID={} DestinationSecurityID={} SourceEndpoint={} DestinationEndpoint={}{service}",
        row.source_identity, row.destination_identity, row.source_endpoint, row.destination_endpoint
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_flow() {
        let mut row = CtRow {
            protocol: "TCP".into(),
            source: "10.0.0.1:44444".into(),
            destination: "10.0.0.2:80".into(),
            source_identity: 261,
            destination_identity: 262,
            source_endpoint: 0,
            destination_endpoint: 5,
            expires: 21600,
            state: "established".into(),
            packets: [6, 4],
            bytes: [600, 400],
            flags_seen: [0x1b, 0x13],
            service: 0,
            backend: 0,
        };
        let rest = "10.0.0.1:44444 -> 10.0.0.2:80 expires=21600 RxPackets=4 RxBytes=400 RxFlagsSeen=0x13 TxPackets=6 \
                    TxBytes=600 TxFlagsSeen=0x1b State=established SourceSecurityID=261 DestinationSecurityID=262 \
                    SourceEndpoint";
        assert_eq!(line(&row), format!("TCP IN {rest}=0 DestinationEndpoint=5"));
        row.source_endpoint = 4;
        assert_eq!(line(&row), format!("TCP LOCAL {rest}=4 DestinationEndpoint=5"));
        row.destination_endpoint = 0;
        assert_eq!(line(&row), format!("TCP OUT {rest}=4 DestinationEndpoint=0"));
        row.service = 7;
        assert_eq!(line(&row), format!("TCP OUT {rest}=4 DestinationEndpoint=0 RevNAT=7"));
        row.backend = 3;
        assert_eq!(line(&row), format!("TCP SVC {rest}=4 DestinationEndpoint=0 RevNAT=7 BackendID=3"));
    }
}

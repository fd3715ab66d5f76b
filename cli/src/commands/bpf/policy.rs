//! `cilium bpf policy list`: the verdicts that the kernel holds, with their counters.

use super::super::Session;
use crate::failure::Failure;
use crate::render::{BOLD, Cell, GREEN, Layout, Page, RED, Table};
use api::datapath::PolicyRow;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    #[command(alias = "get")]
    List(List),
}

/// List the kernel's verdicts, grouped by the identity that they protect
#[derive(Debug, clap::Args)]
pub struct List {
    /// Only the verdicts for this endpoint: a number, container-name:NAME …
    endpoint: Option<String>,
    /// Show the numbers of identities instead of their labels
    #[arg(short, long)]
    numeric: bool,
}

impl List {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let mut route = super::route("policy");
        if let Some(endpoint) = &self.endpoint {
            route = route.query("endpoint", endpoint);
        }
        let mut rows: Vec<PolicyRow> = session.agent.get("list the kernel's policies", route).await?;
        // Ingress before Egress, as everywhere else.
        rows.sort_by(|a, b| {
            let key = |row: &PolicyRow| (row.subject, row.policy, row.direction != "Ingress", row.identity);
            key(a).cmp(&key(b)).then_with(|| port_order(&a.port).cmp(&port_order(&b.port)))
        });
        session.out.show(&rows, |rows| page(rows, self.numeric))
    }
}

/// By protocol, then by number of the port, with what has no number first.
fn port_order(port: &str) -> (&str, u32, &str) {
    let (number, protocol) = port.split_once('/').unwrap_or((port, ""));
    let first = number.split('-').next().and_then(|first| first.parse().ok());
    (protocol, first.unwrap_or(0), number)
}

fn page(rows: &[PolicyRow], numeric: bool) -> Page {
    let mut page = Page::default();
    if rows.is_empty() {
        page.line("Policy stats empty. Perhaps the policy enforcement is disabled?");
    }
    for (i, group) in rows.chunk_by(|a, b| (a.subject, a.policy) == (b.subject, b.policy)).enumerate() {
        if i > 0 {
            page.line("");
        }
        page.line(Cell::styled(&format!("Identity {} (policy {}):", group[0].subject, group[0].policy), BOLD));
        page.table(table(group, numeric));
    }
    page
}

fn table(rows: &[PolicyRow], numeric: bool) -> Table {
    let peer = if numeric { "IDENTITY" } else { "LABELS (source:key[=value])" };
    let mut table =
        Table::with_header(Layout::WIDE, ["POLICY", "DIRECTION", peer, "PORT/PROTO", "PROXY PORT", "BYTES", "PACKETS"]);
    for row in rows {
        let mut labels = match numeric || row.labels.is_empty() {
            true => vec![identity(row.identity)],
            false => row.labels.clone(),
        };
        labels.sort();
        let cells = [
            if row.deny { Cell::styled("Deny", RED) } else { Cell::styled("Allow", GREEN) },
            Cell::from(&row.direction),
            Cell::default(),
            Cell::from(&row.port),
            if row.proxy_port == 0 { "NONE".into() } else { row.proxy_port.into() },
            row.bytes.into(),
            row.packets.into(),
        ];
        table.row_with_list(cells, 2, &labels, "");
    }
    table
}

/// In a verdict, identity 0 means everybody.
fn identity(identity: u32) -> String {
    if identity == 0 { "ANY".to_owned() } else { identity.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    fn row(subject: u32, identity: u32, labels: &[&str], port: &str, deny: bool) -> PolicyRow {
        PolicyRow {
            subject,
            policy: 3,
            direction: "Ingress".into(),
            identity,
            labels: labels.iter().map(|l| (*l).to_owned()).collect(),
            port: port.into(),
            deny,
            proxy_port: 0,
            packets: 6,
            bytes: 540,
        }
    }

    #[test]
    fn verdicts_are_grouped_by_whom_they_protect() {
        let rows = [
            row(261, 0, &[], "ANY", true),
            row(261, 262, &["container:id=app2", "container:env=x"], "80/TCP", false),
            row(263, 1, &["reserved:host"], "ANY", false),
        ];
        let expected = "\
Identity 261 (policy 3):
POLICY   DIRECTION   LABELS (source:key[=value])   PORT/PROTO   PROXY PORT   BYTES   PACKETS
Deny     Ingress     ANY                           ANY          NONE         540     6
Allow    Ingress     container:env=x               80/TCP       NONE         540     6
                     container:id=app2

Identity 263 (policy 3):
POLICY   DIRECTION   LABELS (source:key[=value])   PORT/PROTO   PROXY PORT   BYTES   PACKETS
Allow    Ingress     reserved:host                 ANY          NONE         540     6
";
        assert_eq!(plain(page(&rows, false)), expected);
    }

    #[test]
    fn numbers_instead_of_labels() {
        let text = plain(page(&[row(261, 262, &["container:id=app2"], "80/TCP", false)], true));
        let expected = "\
Identity 261 (policy 3):
POLICY   DIRECTION   IDENTITY   PORT/PROTO   PROXY PORT   BYTES   PACKETS
Allow    Ingress     262        80/TCP       NONE         540     6
";
        assert_eq!(text, expected);
    }

    #[test]
    fn nothing_is_said_in_words() {
        assert_eq!(plain(page(&[], false)), "Policy stats empty. Perhaps the policy enforcement is disabled?\n");
    }

    #[test]
    fn ports_are_sorted_as_numbers() {
        let mut ports = ["443/TCP", "80-87/TCP", "ANY", "53/UDP", "ANY/TCP"];
        ports.sort_by_key(|port| port_order(port));
        assert_eq!(ports, ["ANY", "ANY/TCP", "80-87/TCP", "443/TCP", "53/UDP"]);
    }
}

//! `cilium health …`: whether the nodes of the cluster reach each other.

use super::Session;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Cell, GREEN, Layout, Page, RED, Table, YELLOW};
use api::health::{Health, NodeHealth, Path, Paths, Probe};
use std::time::Duration;

/// Probing everybody takes as long as the slowest answer.
const PROBE_LIMIT: Duration = Duration::from_secs(60);

/// Show whether the nodes reach each other
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Status(Status),
}

/// Show how the last probes of each node went
///
/// Each node is asked by ICMP and by HTTP, at its own addresses and at those of its health endpoint, which is reached as
/// its containers are.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Probe all nodes now, and wait for it
    #[arg(long)]
    probe: bool,
    /// One line for each node
    #[arg(long, conflicts_with = "verbose")]
    succinct: bool,
    /// Also when each address was probed, and when it last answered
    #[arg(long)]
    verbose: bool,
}

impl Command {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let Command::Status(args) = self;
        let health: Health = if args.probe {
            session.agent.patient(PROBE_LIMIT).put("probe the nodes", api::routes::HEALTH_PROBE, &()).await?
        } else {
            session.agent.get("tell how the nodes are", api::routes::HEALTH).await?
        };
        session.out.show(&health, |health| page(health, args.succinct, args.verbose))
    }
}

fn page(health: &Health, succinct: bool, verbose: bool) -> Page {
    let mut page = Page::default();
    if !health.enabled {
        page.line("Other nodes are not probed: this node is alone, or --enable-health-checking=false.");
        return page;
    }
    page.line(format!("Probe time:   {}", health.timestamp.as_deref().unwrap_or("never")));
    page.line(format!("Reachable:    {}/{}", health.reachable(), health.nodes.len()));
    page.line("Nodes:");
    if succinct {
        page.table(table(health));
    } else {
        health.nodes.iter().for_each(|node| detailed(&mut page, node, verbose));
    }
    page
}

/// One row for each node.
pub fn table(health: &Health) -> Table {
    let header = ["Name", "IP", "Node", "Endpoints"];
    let mut table = Table::with_header(Layout { minimum: 2, padding: 3, indent: 2 }, header);
    for node in &health.nodes {
        let ip = node.host.primary_address.as_ref().map(|path| path.ip.clone()).unwrap_or_default();
        table.row(row![title(node), ip, count(&node.host), count(&node.health_endpoint)]);
    }
    table
}

fn title(node: &NodeHealth) -> String {
    if node.local { format!("{} (localhost)", node.name) } else { node.name.clone() }
}

fn count(paths: &Paths) -> Cell {
    match paths.reached() {
        (_, 0) => Cell::from("none"),
        (reached, all) => Cell::styled(&format!("{reached}/{all} reached"), if reached == all { GREEN } else { RED }),
    }
}

fn detailed(page: &mut Page, node: &NodeHealth, verbose: bool) {
    page.line(format!("  {}:", title(node)));
    for (what, paths) in [("Host", &node.host), ("Endpoint", &node.health_endpoint)] {
        paths.all().for_each(|path| ways(page, what, path, verbose));
    }
}

fn ways(page: &mut Page, what: &str, path: &Path, verbose: bool) {
    page.line(format!("    {what} connectivity to {}:", path.ip));
    let mut table = Table::new(Layout { minimum: 2, padding: 3, indent: 6 });
    for (name, probe) in [("ICMP to stack:", &path.icmp), ("HTTP to agent:", &path.http)] {
        let mut cell = outcome(probe);
        if verbose {
            let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "never".to_owned());
            cell = cell.then(&format!(
                ", last probed {}, last answered {}",
                time(&probe.last_probed),
                time(&probe.last_success)
            ));
        }
        table.row([Cell::from(name), cell]);
    }
    page.table(table);
}

fn outcome(probe: &Probe) -> Cell {
    if probe.last_probed.is_none() {
        Cell::styled("not probed yet", YELLOW)
    } else if probe.is_ok() {
        Cell::styled("OK", GREEN).then(&format!(", RTT={:?}", Duration::from_nanos(probe.latency)))
    } else {
        Cell::styled(&probe.status, RED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;
    use api::health::Local;

    fn health() -> Health {
        let at = |second: u8| Some(format!("2026-11-21T00:00:{second:02}.000Z"));
        let good = || Probe { status: String::new(), latency: 315_254, last_probed: at(20), last_success: at(20) };
        let bad =
            || Probe { status: "no answer within 5s".into(), latency: 0, last_probed: at(20), last_success: at(9) };
        let path = |ip: &str, http| Path { ip: ip.into(), icmp: good(), http };
        let one = |path| Paths { primary_address: Some(path), secondary_addresses: vec![] };
        Health {
            enabled: true,
            local: Local { name: "k1".into() },
            timestamp: at(20),
            probe_interval: 65.9,
            nodes: vec![
                NodeHealth {
                    name: "k1".into(),
                    local: true,
                    host: one(path("192.0.2.1", good())),
                    health_endpoint: one(path("10.15.0.9", good())),
                },
                NodeHealth {
                    name: "k2".into(),
                    local: false,
                    host: one(path("192.0.2.2", bad())),
                    health_endpoint: Paths::default(),
                },
            ],
        }
    }

    #[test]
    fn each_way_to_each_node() {
        let expected = "\
Probe time:   2026-11-21T00:00:20.000Z
Reachable:    1/2
Nodes:
  k1 (localhost):
    Host connectivity to 192.0.2.1:
      ICMP to stack:   OK, RTT=315.254µs
      HTTP to agent:   OK, RTT=315.254µs
    Endpoint connectivity to 10.15.0.9:
      ICMP to stack:   OK, RTT=315.254µs
      HTTP to agent:   OK, RTT=315.254µs
  k2:
    Host connectivity to 192.0.2.2:
      ICMP to stack:   OK, RTT=315.254µs
      HTTP to agent:   no answer within 5s
";
        assert_eq!(plain(page(&health(), false, false)), expected);
        let verbose = plain(page(&health(), false, true));
        let wanted =
            "no answer within 5s, last probed 2026-11-21T00:00:20.000Z, last answered 2026-11-21T00:00:09.000Z";
        assert!(verbose.contains(wanted), "{verbose}");
    }

    #[test]
    fn one_line_for_each_node() {
        let expected = "  \
Name             IP          Node          Endpoints
  k1 (localhost)   192.0.2.1   1/1 reached   1/1 reached
  k2               192.0.2.2   0/1 reached   none
";
        assert_eq!(plain(table(&health())), expected);
    }

    #[test]
    fn a_node_alone_says_so() {
        let text = plain(page(&Health::default(), false, false));
        assert!(text.starts_with("Other nodes are not probed"), "{text}");
    }
}

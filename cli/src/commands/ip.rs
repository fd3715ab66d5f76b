//! `cilium ip …`: which address is whose, as the agent knows it.

use super::Session;
use crate::failure::Failure;
use crate::render::{Cell, Layout, Table};
use api::identity::IpEntry;
use std::net::IpAddr;

/// Show addresses
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    List(List),
}

/// List addresses and whose they are
#[derive(Debug, clap::Args)]
pub struct List {
    /// Show the numbers of identities instead of their labels
    #[arg(short, long)]
    numeric: bool,
    /// Show the node that has the address
    #[arg(long)]
    verbose: bool,
}

impl Command {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let Command::List(args) = self;
        let mut entries: Vec<IpEntry> = session.agent.get("list addresses", api::routes::IP).await?;
        entries.sort_by_cached_key(|entry| prefix_order(&entry.ip));
        session.out.show(&entries, |entries| table(entries, &args).into())
    }
}

/// Sorts prefixes by address, then length, IPv4 first; what is no prefix comes last.
pub fn prefix_order(prefix: &str) -> (bool, Option<IpAddr>, u8, String) {
    let (address, length) = prefix.split_once('/').unwrap_or((prefix, "128"));
    match (address.parse(), length.parse()) {
        (Ok(address), Ok(length)) => (false, Some(address), length, String::new()),
        _ => (true, None, 0, prefix.to_owned()),
    }
}

fn table(entries: &[IpEntry], args: &List) -> Table {
    let mut table = Table::new(Layout::WIDE);
    if args.verbose {
        table.header(["IP", "IDENTITY", "SOURCE", "NODE"]);
    } else {
        table.header(["IP", "IDENTITY", "SOURCE"]);
    }
    for entry in entries {
        let mut labels = match args.numeric || entry.labels.is_empty() {
            true => vec![entry.identity.to_string()],
            false => entry.labels.clone(),
        };
        labels.sort();
        let node = match &entry.host {
            Some(host) if args.verbose => Cell::from(host),
            _ => Cell::default(),
        };
        table.row_with_list([Cell::from(&entry.ip), Cell::default(), Cell::from(&entry.source), node], 1, &labels, "");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    fn sample() -> [IpEntry; 2] {
        [("10.15.0.2/32", 261, vec!["container:id=app1", "container:a"]), ("192.0.2.0/24", 16777216, vec![])].map(
            |(ip, identity, labels)| IpEntry {
                ip: ip.into(),
                identity,
                labels: labels.into_iter().map(str::to_owned).collect(),
                source: "endpoint".into(),
                host: Some("192.168.1.2".into()),
            },
        )
    }

    #[test]
    fn labels_or_the_number() {
        let expected = "\
IP             IDENTITY            SOURCE
10.15.0.2/32   container:a         endpoint
               container:id=app1
192.0.2.0/24   16777216            endpoint
";
        assert_eq!(plain(table(&sample(), &List { numeric: false, verbose: false })), expected);
    }

    #[test]
    fn numeric_with_nodes() {
        let expected = "\
IP             IDENTITY   SOURCE     NODE
10.15.0.2/32   261        endpoint   192.168.1.2
192.0.2.0/24   16777216   endpoint   192.168.1.2
";
        assert_eq!(plain(table(&sample(), &List { numeric: true, verbose: true })), expected);
    }

    #[test]
    fn prefixes_are_sorted_by_value() {
        let mut prefixes = ["?", "f00d::/64", "10.0.0.10/32", "10.0.0.2/32", "10.0.0.0/8", "10.0.0.0/24", "::/0"];
        prefixes.sort_by_key(|prefix| prefix_order(prefix));
        assert_eq!(prefixes, ["10.0.0.0/8", "10.0.0.0/24", "10.0.0.2/32", "10.0.0.10/32", "::/0", "f00d::/64", "?"]);
    }
}

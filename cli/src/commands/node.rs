//! `cilium node …`.

use super::Session;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Layout, Table};
use api::node::Node;

/// Show the nodes
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List all nodes and the ranges that they hand addresses out of
    List,
}

impl Command {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let Command::List = self;
        let mut nodes: Vec<Node> = session.agent.get("list nodes", api::routes::NODE).await?;
        nodes.sort_by(|a, b| (&a.cluster, &a.name).cmp(&(&b.cluster, &b.name)));
        session.out.show(&nodes, |nodes| table(nodes).into())
    }
}

fn table(nodes: &[Node]) -> Table {
    let header = ["Name", "IPv4 Address", "Endpoint CIDR", "IPv6 Address", "Endpoint CIDR"];
    let mut table = Table::with_header(Layout::NARROW, header);
    for node in nodes {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        table.row(row![
            name(node),
            text(&node.ipv4),
            text(&node.ipv4_alloc_cidr),
            text(&node.ipv6),
            text(&node.ipv6_alloc_cidr),
        ]);
    }
    table
}

/// The cluster is told unless it is the usual one.
fn name(node: &Node) -> String {
    let cluster = match node.cluster.as_str() {
        "" | "default" => String::new(),
        cluster => format!("{cluster}/"),
    };
    format!("{cluster}{}{}", node.name, if node.local { " (localhost)" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    #[test]
    fn columns_stay_in_place_when_one_is_empty() {
        let node = |name: &str, cluster: &str, local| Node {
            name: name.into(),
            cluster: cluster.into(),
            ipv4: Some("192.168.1.2".into()),
            ipv6: None,
            ipv4_alloc_cidr: Some("10.2.0.0/16".into()),
            ipv6_alloc_cidr: Some("f00d::/96".into()),
            local,
        };
        let expected = "\
Name             IPv4 Address   Endpoint CIDR   IPv6 Address   Endpoint CIDR
k1 (localhost)   192.168.1.2    10.2.0.0/16                    f00d::/96
east/k2          192.168.1.2    10.2.0.0/16                    f00d::/96
";
        assert_eq!(plain(table(&[node("k1", "default", true), node("k2", "east", false)])), expected);
    }
}

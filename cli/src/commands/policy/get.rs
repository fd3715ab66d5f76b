//! `cilium policy get`: the rules as imported.

use super::super::Session;
use crate::agent::Route;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Cell, GREEN, Layout, Page, RED, Table, YELLOW};
use api::policy::{NodeEnforcement, Policy, PolicyStatus};

/// Show the rules that are in force, as imported
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only rules that carry all of these labels
    #[arg(value_name = "LABEL", value_delimiter = ',')]
    labels: Vec<String>,
    /// How far each node of the cluster is with the newest rules
    #[arg(long, conflicts_with = "labels")]
    status: bool,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        if self.status {
            let status = session.agent.get("ask how far the nodes are", api::routes::POLICY_STATUS).await?;
            return session.out.show(&status, page);
        }
        let route = Route::new(api::routes::POLICY).labels(&self.labels);
        let policy: Policy = session.agent.get("get policy", route).await?;
        if session.out.is_json() {
            return session.out.json(&policy);
        }
        session.out.json(&policy.rules)?;
        session.out.line(format!("Revision: {}", policy.revision))
    }
}

fn page(status: &PolicyStatus) -> Page {
    let mut page = Page::default();
    page.line(format!("Revision: {}", status.revision));
    let mut table = Table::with_header(Layout::NARROW, ["Node", "Revision", "Endpoints", "Status"]);
    for node in &status.nodes {
        let enforced = node.enforced.map_or_else(|| "-".to_owned(), |revision| revision.to_string());
        table.row(row![&node.node, enforced, node.endpoints, verdict(node, status.revision)]);
    }
    page.table(table);
    for node in &status.nodes {
        for reason in &node.failing {
            page.line(format!("{}: {reason}", node.node));
        }
    }
    page
}

fn verdict(node: &NodeEnforcement, newest: u64) -> Cell {
    match (node.known, node.enforced) {
        _ if !node.failing.is_empty() => Cell::styled("failing", RED),
        (Some(_), Some(enforced)) if enforced >= newest => Cell::styled("enforced", GREEN),
        (Some(known), _) if known < newest => Cell::styled("behind: does not know it yet", YELLOW),
        (Some(_), _) => Cell::styled("behind: endpoints are being changed", YELLOW),
        (None, _) => Cell::styled("tells nothing", RED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    #[test]
    fn who_is_behind_is_told_with_the_reason() {
        let node = |node: &str, known, enforced, failing: &[&str]| NodeEnforcement {
            node: node.to_owned(),
            known,
            enforced,
            endpoints: 2,
            failing: failing.iter().map(|text| (*text).to_owned()).collect(),
        };
        let nodes = vec![
            node("k1", Some(7), Some(7), &[]),
            node("k2", Some(6), Some(6), &[]),
            node("k3", Some(7), Some(6), &[]),
            node("k4", Some(7), Some(5), &["endpoint 3: no room"]),
            node("k5", None, None, &[]),
        ];
        let expected = "\
Revision: 7
Node   Revision   Endpoints   Status
k1     7          2           enforced
k2     6          2           behind: does not know it yet
k3     6          2           behind: endpoints are being changed
k4     5          2           failing
k5     -          2           tells nothing
k4: endpoint 3: no room
";
        assert_eq!(plain(page(&PolicyStatus { revision: 7, nodes })), expected);
    }
}

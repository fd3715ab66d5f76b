//! `cilium endpoint labels`: which labels make the identity, and which the filter left out.

use super::super::Session;
use crate::failure::Failure;
use crate::render::{Cell, GREEN, Layout, RED, Table};
use api::endpoint::{Endpoint, EndpointLabels};

/// Show an endpoint's labels: those that make its identity are enabled
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    endpoint: super::Named,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let id = &self.endpoint.id;
        let endpoint: Endpoint = session.agent.get(&format!("get endpoint {id}"), super::route(id)).await?;
        session.out.show(&endpoint.labels, |labels| table(labels).into())
    }
}

fn table(labels: &EndpointLabels) -> Table {
    let enabled = labels.security_relevant.iter().map(|label| (label, Cell::styled("Enabled", GREEN)));
    let disabled = labels.disabled.iter().map(|label| (label, Cell::styled("Disabled", RED)));
    let mut rows: Vec<_> = enabled.chain(disabled).collect();
    rows.sort_by_key(|(label, _)| *label);
    let mut table = Table::with_header(Layout::NARROW, ["Label", "Status"]);
    for (label, status) in rows {
        table.row([Cell::from(label), status]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    #[test]
    fn both_kinds_are_sorted_together() {
        let labels = EndpointLabels {
            security_relevant: vec!["container:id=app1".into(), "container:a".into()],
            disabled: vec!["container:hash=1".into()],
        };
        let expected = "\
Label               Status
container:a         Enabled
container:hash=1    Disabled
container:id=app1   Enabled
";
        assert_eq!(plain(table(&labels)), expected);
    }
}

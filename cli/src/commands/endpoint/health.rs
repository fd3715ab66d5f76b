//! `cilium endpoint health`.

use super::super::Session;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Layout, Table};
use api::endpoint::EndpointHealth;

/// Show whether an endpoint is well
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    endpoint: super::Named,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let id = &self.endpoint.id;
        let route = super::route(id).part("healthz");
        let health: EndpointHealth = session.agent.get(&format!("get the health of endpoint {id}"), route).await?;
        session.out.show(&health, |health| table(health).into())
    }
}

fn table(health: &EndpointHealth) -> Table {
    let mut table = Table::new(Layout::NARROW);
    table.row(row!["Overall Health:", &health.overall_health]);
    table.row(row!["BPF Health:", &health.bpf]);
    table.row(row!["Policy Health:", &health.policy]);
    table.row(row!["Connected:", if health.connected { "yes" } else { "no" }]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    #[test]
    fn four_lines() {
        let health =
            EndpointHealth { overall_health: "OK".into(), bpf: "OK".into(), policy: "Pending".into(), connected: true };
        let expected = "\
Overall Health:   OK
BPF Health:       OK
Policy Health:    Pending
Connected:        yes
";
        assert_eq!(plain(table(&health)), expected);
    }
}

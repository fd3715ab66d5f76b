//! `cilium policy get`: the rules as imported.

use super::super::Session;
use crate::agent::Route;
use crate::failure::Failure;
use api::policy::Policy;

/// Show the rules that are in force, as imported
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only rules that carry all of these labels
    #[arg(value_name = "LABEL", value_delimiter = ',')]
    labels: Vec<String>,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let route = Route::new(api::routes::POLICY).labels(&self.labels);
        let policy: Policy = session.agent.get("get policy", route).await?;
        if session.out.is_json() {
            return session.out.json(&policy);
        }
        session.out.json(&policy.rules)?;
        session.out.line(format!("Revision: {}", policy.revision))
    }
}

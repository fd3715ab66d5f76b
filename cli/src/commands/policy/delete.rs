//! `cilium policy delete`.

use super::super::Session;
use super::change;
use crate::agent::Route;
use crate::failure::Failure;
use api::policy::PolicyChange;

/// Delete the rules that carry all of the given labels
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cilium policy delete name=l3-rule\n  cilium policy delete --all")]
pub struct Args {
    /// Labels that a rule must carry, all of them
    #[arg(value_name = "LABEL", value_delimiter = ',')]
    labels: Vec<String>,
    /// Delete every rule
    #[arg(long, conflicts_with = "labels")]
    all: bool,
    /// Return when no endpoint enforces the rules any more
    #[arg(long)]
    wait: bool,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        if self.labels.is_empty() && !self.all {
            return Err(Failure::Usage("Please use --all flag to delete all policies".to_owned()));
        }
        let route = Route::new(api::routes::POLICY).labels(&self.labels).flag("all", self.all).flag("wait", self.wait);
        let change: PolicyChange = change::agent(session, self.wait).delete("delete policy", route).await?;
        change::tell(session, change, None)
    }
}

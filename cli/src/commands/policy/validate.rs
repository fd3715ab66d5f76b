//! `cilium policy validate`: the checks of an import, without an agent.

use super::super::Session;
use super::document::RuleList;
use crate::failure::Failure;
use serde_json::json;
use std::path::PathBuf;

/// Check policy files without importing them; no agent is needed
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, folders (their *.json files) or - for standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Show the rules as understood
    #[arg(long)]
    print: bool,
}

impl Args {
    pub fn run(self, session: &mut Session) -> Result<(), Failure> {
        let list = RuleList::read(&self.paths).map_err(|failure| match failure {
            Failure::Policy { title, faults } => {
                let named = title.trim_start_matches("Cannot parse policy ").trim_end_matches(':');
                Failure::Policy { title: format!("Validation of policy {named} has failed:"), faults }
            }
            other => other,
        })?;
        let files: Vec<_> = list.files().collect();
        if session.out.is_json() {
            let rules = self.print.then_some(&list.rules);
            let warnings = list.warnings();
            return session.out.json(&json!({"valid": true, "files": files, "warnings": warnings, "rules": rules}));
        }
        list.warn();
        if self.print {
            session.out.json(&list.rules)?;
        }
        session.out.line(format!("All policy elements in {} are valid.", files.join(", ")))
    }
}

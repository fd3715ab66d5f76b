//! `cilium policy validate`: whether policy files are sound, without an agent. What is sound need not be enforced by this
//! build; that is told, and the agent refuses it.

use super::super::Session;
use super::document::{Faulty, Files, warn};
use crate::failure::Failure;
use serde_json::json;

/// Check policy files without importing them; no agent is needed
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// Show the rules as understood
    #[arg(long)]
    print: bool,
}

impl Args {
    pub fn run(self, session: &mut Session) -> Result<(), Failure> {
        let list = self.files.read(|Faulty { names, faults }| Failure::Policy {
            title: format!("Validation of policy {} has failed:", names.join(", ")),
            faults,
        })?;
        let unsupported = list.check_supported().err().map_or(Vec::new(), |faulty| faulty.faults);
        let files: Vec<_> = list.files().collect();
        if session.out.is_json() {
            let rules = self.print.then_some(&list.rules);
            let warnings = list.warnings();
            return session.out.json(&json!({
                "valid": true, "files": files, "warnings": warnings, "unsupported": unsupported, "rules": rules
            }));
        }
        list.warn();
        warn(&unsupported);
        if self.print {
            session.out.json(&list.rules)?;
        }
        session.out.line(format!("All policy elements in {} are valid.", files.join(", ")))
    }
}

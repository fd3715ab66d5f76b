//! `cilium policy import`: all rules of all files in one request.

use super::super::Session;
use super::document::RuleList;
use crate::agent::Route;
use crate::failure::Failure;
use api::ClientError;
use api::policy::PolicyChange;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Import rules: all of them or, when one is at fault, none
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cilium policy import l3-l4.json --wait\n  cilium policy import --replace policies/\n  \
                        cat rules.json | cilium policy import -"
)]
pub struct Args {
    /// Files, folders (their *.json files) or - for standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Return when every endpoint enforces the rules
    #[arg(long)]
    wait: bool,
    /// First delete the rules that carry all labels of a new one, in the same step
    #[arg(long)]
    replace: bool,
    /// Show the rules as understood
    #[arg(long)]
    print: bool,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS", default_value_t = 360, requires = "wait")]
    max_wait_time: u64,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let list = RuleList::read(&self.paths)?;
        if list.rules.is_empty() {
            return Err(Failure::NoPolicy);
        }
        list.warn();
        if self.print && !session.out.is_json() {
            session.out.json(&list.rules)?;
        }
        let change = self.send(session, &list).await?;
        self.show(session, &list, &change)?;
        let failing = change.enforced.map(|enforced| enforced.failing).unwrap_or_default();
        if failing.is_empty() { Ok(()) } else { Err(Failure::NotEnforced { revision: change.revision, failing }) }
    }

    async fn send(&self, session: &Session, list: &RuleList) -> Result<PolicyChange, Failure> {
        let agent = match self.wait {
            true => session.agent.patient(Duration::from_secs(self.max_wait_time)),
            false => session.agent.clone(),
        };
        let route = Route::new(api::routes::POLICY).flag("replace", self.replace).flag("wait", self.wait);
        agent.put("import policy", route, &list.rules).await.map_err(|failure| match failure {
            Failure::Agent { what, source: ClientError::Refused { status, mut body } } => {
                for fault in &mut body.details {
                    fault.path = list.locate(&fault.path);
                }
                Failure::Agent { what, source: ClientError::Refused { status, body } }
            }
            other => other,
        })
    }

    fn show(&self, session: &mut Session, list: &RuleList, change: &PolicyChange) -> Result<(), Failure> {
        if session.out.is_json() {
            return match self.print {
                true => session.out.json(&json!({"change": change, "rules": list.rules})),
                false => session.out.json(change),
            };
        }
        session.out.line(format!("Revision: {}", change.revision))?;
        match &change.enforced {
            Some(enforced) => {
                let done = enforced.endpoints.saturating_sub(enforced.failing.len());
                session.out.line(format!("Enforced by {done}/{} endpoints", enforced.endpoints))
            }
            None => Ok(()),
        }
    }
}

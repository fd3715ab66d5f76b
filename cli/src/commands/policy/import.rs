//! `cilium policy import`: all rules of all files in one request.

use super::super::Session;
use super::change;
use super::document::{Files, RuleList};
use crate::agent::Route;
use crate::failure::Failure;
use api::ClientError;
use api::policy::PolicyChange;

/// Import rules: all of them or, when one is at fault, none
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cilium policy import l3-l4.json --wait\n  cilium policy import --replace policies/\n  \
                  kubectl get cnp -o yaml | cilium policy import -\n\n\
                  Documents (kind CiliumNetworkPolicy and the like) take the place of what was imported of the same \
                  kind, namespace and name."
)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// Return when every endpoint enforces the rules
    #[arg(long)]
    wait: bool,
    /// First delete the rules that carry all labels of a new one, in the same step
    #[arg(long)]
    replace: bool,
    /// Show the rules as understood
    #[arg(long)]
    print: bool,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let list = self.files.read_for_agent()?;
        if self.print && !session.out.is_json() {
            session.out.json(&list.rules)?;
        }
        let change = self.send(session, &list).await?;
        change::tell(session, change, self.print.then_some(&list.rules))
    }

    async fn send(&self, session: &Session, list: &RuleList) -> Result<PolicyChange, Failure> {
        let route = Route::new(api::routes::POLICY).flag("replace", self.replace).flag("wait", self.wait);
        change::agent(session, self.wait).put("import policy", route, &list.rules).await.map_err(
            |failure| match failure {
                Failure::Agent { what, source: ClientError::Refused { status, mut body } } => {
                    for fault in &mut body.details {
                        fault.path = list.locate(&fault.path);
                    }
                    Failure::Agent { what, source: ClientError::Refused { status, body } }
                }
                other => other,
            },
        )
    }
}

//! What `policy import` and `policy delete` have in common: asking the agent to wait, and telling what came of it.

use super::super::Session;
use crate::agent::Agent;
use crate::failure::Failure;
use api::policy::PolicyChange;
use serde_json::json;
use std::time::Duration;

/// Longer than the agent itself waits for its endpoints.
const PATIENCE: Duration = Duration::from_secs(120);

/// The agent, given time if it is to answer only when the change is enforced.
pub fn agent(session: &Session, wait: bool) -> Agent {
    if wait { session.agent.patient(PATIENCE) } else { session.agent.clone() }
}

/// Tells the revision; with `rules`, JSON shows them beside it. Fails when it was waited for endpoints that do not
/// enforce the change.
pub fn tell(session: &mut Session, change: PolicyChange, rules: Option<&[policy::Rule]>) -> Result<(), Failure> {
    match (session.out.is_json(), rules) {
        (true, Some(rules)) => session.out.json(&json!({"change": change, "rules": rules}))?,
        (true, None) => session.out.json(&change)?,
        (false, _) => {
            session.out.line(format!("Revision: {}", change.revision))?;
            session.out.line(format!("Rules: {} added, {} removed", change.added, change.removed))?;
            if let Some(enforced) = &change.enforced {
                session.out.line(format!("Enforced by {} endpoints", enforced.endpoints))?;
            }
        }
    }
    let failing = change.enforced.map(|enforced| enforced.failing).unwrap_or_default();
    if failing.is_empty() { Ok(()) } else { Err(Failure::NotEnforced { revision: change.revision, failing }) }
}

//! `cilium policy wait`: until every endpoint enforces a revision.

use super::super::Session;
use crate::agent::{Agent, Route};
use crate::failure::Failure;
use crate::render::Cell;
use api::EndpointState;
use api::endpoint::Endpoint;
use api::policy::WaitState;
use std::time::{Duration, Instant};

/// Wait until every endpoint enforces a revision of the rules
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What `policy import` or `policy delete` answered
    revision: u64,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS", default_value_t = 360)]
    max_wait_time: u64,
    /// Give up when an endpoint has been failing for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    fail_wait_time: u64,
    /// Seconds between two questions
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    sleep_time: u64,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let started = Instant::now();
        let mut failing_since: Option<Instant> = None;
        let mut told = None;
        loop {
            let state = self.ask(&session.agent).await?;
            if state.at_revision >= state.endpoints && state.revision >= self.revision {
                return self.finish(session, &state, told.is_some());
            }
            if !session.out.is_json() && told.as_ref() != Some(&state) {
                session.out.line(self.progress(&state))?;
                session.out.flush()?;
                told = Some(state.clone());
            }
            let failing = failing(&session.agent).await?;
            if failing.is_empty() {
                failing_since = None;
            } else if failing_since.get_or_insert_with(Instant::now).elapsed().as_secs() >= self.fail_wait_time {
                let (revision, seconds) = (self.revision, self.fail_wait_time);
                return Err(Failure::WaitedForFailing { revision, seconds, endpoints: failing });
            }
            let left = Duration::from_secs(self.max_wait_time).saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(self.late(&state));
            }
            tokio::time::sleep(Duration::from_secs(self.sleep_time).min(left)).await;
        }
    }

    async fn ask(&self, agent: &Agent) -> Result<WaitState, Failure> {
        let route = Route::new(api::routes::POLICY_WAIT).query("revision", &self.revision.to_string());
        agent.get("ask which revision the endpoints enforce", route).await
    }

    fn progress(&self, state: &WaitState) -> Cell {
        let WaitState { at_revision, endpoints, .. } = state;
        Cell::from(format!("Waiting for endpoints to run policy revision {}: {at_revision}/{endpoints}", self.revision))
    }

    fn finish(&self, session: &mut Session, state: &WaitState, waited: bool) -> Result<(), Failure> {
        match session.out.is_json() {
            true => session.out.json(state),
            false if waited => session.out.line(self.progress(state)),
            false => Ok(()),
        }
    }

    fn late(&self, state: &WaitState) -> Failure {
        Failure::WaitedTooLong {
            revision: self.revision,
            seconds: self.max_wait_time,
            at_revision: state.at_revision,
            endpoints: state.endpoints,
        }
    }
}

/// Endpoints that the kernel could not be made to hold, with the reason.
async fn failing(agent: &Agent) -> Result<Vec<String>, Failure> {
    let endpoints: Vec<Endpoint> = agent.get("list endpoints", api::routes::ENDPOINT).await?;
    let failing = endpoints.iter().filter(|endpoint| endpoint.state == EndpointState::NotReady);
    Ok(failing
        .map(|endpoint| match &endpoint.failure {
            Some(reason) => format!("endpoint {}: {reason}", endpoint.id),
            None => format!("endpoint {}", endpoint.id),
        })
        .collect())
}

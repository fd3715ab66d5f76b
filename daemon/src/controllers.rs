//! What the agent keeps true by trying again, and how that goes: the rows of "Controller Status".
//!
//! Each loop reports its own successes and failures; nothing here runs anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Clone, Debug, Default)]
struct Row {
    successes: u64,
    failures: u64,
    consecutive: u64,
    last_success: Option<Instant>,
    last_failure: Option<Instant>,
    message: String,
}

/// Cheap to clone; all clones share the rows.
#[derive(Clone, Debug, Default)]
pub struct Controllers(Arc<Mutex<BTreeMap<String, Row>>>);

impl Controllers {
    pub fn success(&self, name: &str) {
        let mut rows = self.rows();
        let row = rows.entry(name.to_owned()).or_default();
        row.successes += 1;
        row.consecutive = 0;
        row.last_success = Some(Instant::now());
        row.message.clear();
    }

    pub fn failure(&self, name: &str, message: impl Into<String>) {
        let mut rows = self.rows();
        let row = rows.entry(name.to_owned()).or_default();
        row.failures += 1;
        row.consecutive += 1;
        row.last_failure = Some(Instant::now());
        row.message = message.into();
    }

    /// Books the outcome of one try and hands it on; failures are told with all their causes.
    pub fn book<T, E: std::error::Error>(&self, name: &str, outcome: Result<T, E>) -> Result<T, E> {
        match &outcome {
            Ok(_) => self.success(name),
            Err(error) => self.failure(name, causes(error)),
        }
        outcome
    }

    /// Rows for the API, by name.
    pub fn report(&self) -> Vec<api::status::Controller> {
        let ago = |instant: Option<Instant>| instant.map(|at| at.elapsed().as_secs());
        let rows = self.rows();
        let report = |(name, row): (&String, &Row)| api::status::Controller {
            name: name.clone(),
            success_count: row.successes,
            failure_count: row.failures,
            consecutive_failure_count: row.consecutive,
            last_success: ago(row.last_success),
            last_failure: ago(row.last_failure),
            last_failure_msg: row.message.clone(),
        };
        rows.iter().map(report).collect()
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, Row>> {
        // A panic while counting leaves a count off by one at worst.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with all its causes in one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_ends_a_row_of_failures() {
        let controllers = Controllers::default();
        controllers.failure("x", "no");
        controllers.failure("x", "no again");
        assert_eq!(controllers.report()[0].consecutive_failure_count, 2);
        assert_eq!(controllers.report()[0].last_failure_msg, "no again");
        controllers.success("x");
        let row = controllers.report().remove(0);
        assert_eq!((row.failure_count, row.consecutive_failure_count, row.success_count), (2, 0, 1));
        assert_eq!(row.last_failure_msg, "");
    }

    #[test]
    fn causes_are_told_in_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(causes(&Outer(std::io::Error::other("inner"))), "outer: inner");
    }
}

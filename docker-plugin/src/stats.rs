//! How often each method was called, how often it failed and how long it took: what `cilium status` shows of the plugin,
//! and whether Docker itself answers.

use crate::protocol::Method;
use api::status::{Part, PluginCall, State};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Shared by the server, which counts, and the agent's status, which reads.
#[derive(Debug, Default)]
pub struct CallStats {
    methods: [Counter; Method::ALL.len()],
    lookups: Counter,
    docker: Mutex<DockerHealth>,
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    errors: AtomicU64,
    last_us: AtomicU64,
    max_us: AtomicU64,
}

/// What is known of Docker's own API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum DockerHealth {
    #[default]
    Untried,
    Answers {
        version: String,
    },
    Away {
        why: String,
    },
}

impl CallStats {
    pub fn new() -> CallStats {
        CallStats::default()
    }

    /// One row for each method that was called at least once, in the protocol's order, and one for the look-ups of
    /// containers.
    pub fn calls(&self) -> Vec<PluginCall> {
        let methods =
            Method::ALL.iter().map(|method| (method.path().trim_start_matches('/'), &self.methods[*method as usize]));
        let rows = methods.chain([("Docker container of an endpoint", &self.lookups)]);
        rows.filter(|(_, counter)| counter.count.load(Relaxed) > 0).map(|(name, counter)| counter.row(name)).collect()
    }

    /// Whether Docker's own API answers.
    pub fn container_runtime(&self) -> Part {
        match &*self.docker.lock().unwrap_or_else(PoisonError::into_inner) {
            DockerHealth::Untried => Part { state: State::Warning, msg: "docker: not reached yet".to_owned() },
            DockerHealth::Answers { version } => Part { state: State::Ok, msg: format!("docker {version}: Ok") },
            DockerHealth::Away { why } => Part { state: State::Warning, msg: format!("docker: {why}") },
        }
    }

    pub(crate) fn called(&self, method: Method, took: Duration, failed: bool) {
        self.methods[method as usize].add(took, failed);
    }

    pub(crate) fn looked_up(&self, took: Duration, failed: bool) {
        self.lookups.add(took, failed);
    }

    pub(crate) fn docker_answers(&self, version: String) {
        self.set_docker(DockerHealth::Answers { version });
    }

    pub(crate) fn docker_away(&self, why: String) {
        self.set_docker(DockerHealth::Away { why });
    }

    fn set_docker(&self, health: DockerHealth) {
        *self.docker.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }
}

impl Counter {
    fn add(&self, took: Duration, failed: bool) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Relaxed);
        self.errors.fetch_add(u64::from(failed), Relaxed);
        self.last_us.store(us, Relaxed);
        self.max_us.fetch_max(us, Relaxed);
    }

    fn row(&self, name: &str) -> PluginCall {
        PluginCall {
            method: name.to_owned(),
            count: self.count.load(Relaxed),
            errors: self.errors.load(Relaxed),
            last_us: self.last_us.load(Relaxed),
            max_us: self.max_us.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_called_methods_have_a_row_and_the_longest_call_is_kept() {
        let stats = CallStats::new();
        stats.called(Method::Join, Duration::from_micros(700), false);
        stats.called(Method::Join, Duration::from_micros(300), true);
        let expected =
            PluginCall { method: "NetworkDriver.Join".to_owned(), count: 2, errors: 1, last_us: 300, max_us: 700 };
        assert_eq!(stats.calls(), [expected]);
    }

    #[test]
    fn docker_is_well_only_when_it_answered() {
        let stats = CallStats::new();
        assert_eq!(stats.container_runtime().state, State::Warning);
        stats.docker_answers("20.10.24".to_owned());
        assert_eq!(stats.container_runtime(), Part { state: State::Ok, msg: "docker 20.10.24: Ok".to_owned() });
        stats.docker_away("connection refused".to_owned());
        assert_eq!(stats.container_runtime().state, State::Warning);
    }
}

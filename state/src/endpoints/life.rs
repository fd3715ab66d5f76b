//! The life of one endpoint: which state follows from what is known of it, and its story.
//!
//! ```text
//!  Creating --in the kernel--> WaitingForIdentity --number known--> Regenerating --enforced--> Ready
//!  Restoring --compared with the kernel-------------------------------------------------------> Ready
//!  any --the kernel refuses--> NotReady --it no longer does--> as above;  Ready --something changes--> Regenerating
//! ```

use super::Endpoint;
use crate::outputs::{LOG_LENGTH, LogEntry, Timestamp};
use model::{EndpointState, Identity, Labels};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an endpoint waits for: a datapath revision, and the rules that it brings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Awaited {
    pub(crate) datapath: u64,
    pub(crate) policy: u64,
}

/// How far the kernel is with one endpoint.
pub(crate) struct Realised<'a> {
    /// Newest datapath revision that was attempted in full.
    pub(crate) revision: u64,
    /// What is wrong with the endpoint, its addresses or its policy.
    pub(crate) failure: Option<&'a str>,
    /// Whether its identity is the one that its labels have.
    pub(crate) identified: bool,
}

impl Endpoint {
    /// The link is the sandbox's from now on.
    pub(crate) fn join(&mut self, sandbox: &str, now: Timestamp) {
        self.sandbox = Some(sandbox.to_owned());
        self.note(now, format!("link handed to {sandbox}"));
    }

    /// Docker told whose endpoint this is.
    pub(crate) fn name(&mut self, container_id: Option<String>, container_name: Option<String>) {
        self.container_id = container_id.or(self.container_id.take());
        self.container_name = container_name.or(self.container_name.take());
    }

    /// Docker told the container's labels, and these of them make the identity.
    pub(crate) fn label(&mut self, raw: BTreeMap<String, String>, labels: Labels, now: Timestamp) {
        self.note(now, format!("labels {labels}"));
        self.container_labels = Some(raw);
        self.labels = Some(Arc::new(labels));
    }

    /// There is a number for its labels.
    pub(crate) fn identify(&mut self, identity: Identity, labels: Arc<Labels>, now: Timestamp) {
        self.note(now, format!("identity {identity} ({labels})"));
        self.identity = identity;
        self.identity_labels = labels;
    }

    /// Its number means something else now and there is no other yet.
    pub(crate) fn lose_identity(&mut self, now: Timestamp) {
        self.note(now, format!("identity {} no longer stands for {}", self.identity, self.identity_labels));
        self.identity = Identity::INIT;
        self.identity_labels = Arc::new(Labels::reserved("init"));
    }

    /// What it should be has changed, or rules of another revision say that it stays.
    pub(crate) fn wait_for(&mut self, awaited: Awaited) {
        self.awaited = Some(awaited);
    }

    /// Draws the conclusion of what is known: the one place where the state changes.
    pub(crate) fn conclude(&mut self, realised: &Realised<'_>, now: Timestamp) {
        let Some(awaited) = self.awaited else { return };
        if awaited.datapath > realised.revision {
            if self.state == EndpointState::Ready
                || (self.state == EndpointState::WaitingForIdentity && realised.identified)
            {
                self.enter(EndpointState::Regenerating, None, "waiting for the kernel".to_owned(), now);
            }
        } else if let Some(failure) = realised.failure {
            let story = format!("not as it should be in the kernel: {failure}");
            self.enter(EndpointState::NotReady, Some(failure), story, now);
        } else {
            let advanced = self.policy_revision != awaited.policy;
            self.policy_revision = awaited.policy;
            let story = format!("policy revision {} enforced", awaited.policy);
            if !realised.identified {
                let what = if self.labels.is_some() { "a number for its labels" } else { "its container's labels" };
                let story = format!("in the kernel as {}, waiting for {what}", self.identity_labels);
                self.enter(EndpointState::WaitingForIdentity, None, story, now);
            } else if self.state == EndpointState::Ready && advanced {
                self.note(now, story);
            } else {
                self.enter(EndpointState::Ready, None, story, now);
            }
        }
    }

    fn enter(&mut self, state: EndpointState, failure: Option<&str>, story: String, now: Timestamp) {
        if self.state == state && self.failure.as_deref() == failure {
            return;
        }
        self.state = state;
        self.failure = failure.map(str::to_owned);
        self.note(now, story);
    }

    pub(crate) fn note(&mut self, now: Timestamp, message: String) {
        tracing::info!(endpoint = %self.id, state = %self.state, "{message}");
        let failed = self.state == EndpointState::NotReady;
        let log = Arc::make_mut(&mut self.log);
        if log.len() >= LOG_LENGTH {
            log.remove(0);
        }
        log.push(LogEntry { at: now, state: self.state, failed, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::endpoint;

    fn realised(revision: u64, failure: Option<&str>, identified: bool) -> Realised<'_> {
        Realised { revision, failure, identified }
    }

    fn states(endpoint: &mut Endpoint, steps: &[(u64, Realised<'_>)]) -> Vec<EndpointState> {
        let step = |(awaited, realised): &(u64, Realised<'_>)| {
            endpoint.wait_for(Awaited { datapath: *awaited, policy: 1 });
            endpoint.conclude(realised, Timestamp(1));
            endpoint.state
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn a_life_from_creation_to_ready() {
        use EndpointState::*;
        let seen = states(
            &mut endpoint(1),
            &[
                (1, realised(0, None, false)),
                (1, realised(1, None, false)),
                (2, realised(1, None, false)),
                (3, realised(2, None, true)),
                (3, realised(3, None, true)),
                (4, realised(3, None, true)),
                (4, realised(4, None, true)),
            ],
        );
        let wanted = [Creating, WaitingForIdentity, WaitingForIdentity, Regenerating, Ready, Regenerating, Ready];
        assert_eq!(seen, wanted);
    }

    #[test]
    fn a_failure_shows_until_the_kernel_is_as_it_should_be() {
        use EndpointState::*;
        let mut endpoint = endpoint(1);
        let steps =
            [(1, realised(1, Some("no memory"), true)), (2, realised(1, None, true)), (2, realised(2, None, true))];
        assert_eq!(states(&mut endpoint, &steps), [NotReady, NotReady, Ready]);
        assert_eq!(endpoint.failure, None);
        let failed: Vec<&str> = endpoint.log.iter().filter(|e| e.failed).map(|e| e.message.as_str()).collect();
        assert_eq!(failed, ["not as it should be in the kernel: no memory"]);
    }

    #[test]
    fn the_story_keeps_its_last_lines() {
        let mut endpoint = endpoint(1);
        for n in 0..LOG_LENGTH + 10 {
            endpoint.note(Timestamp(n as u64), n.to_string());
        }
        assert_eq!(endpoint.log.len(), LOG_LENGTH);
        assert_eq!(endpoint.log.last().map(|entry| entry.message.clone()), Some((LOG_LENGTH + 9).to_string()));
    }
}

//! What a command can fail with, how it is told, and which exit code it makes.

use api::ClientError;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("Cannot {what}")]
    Agent { what: String, source: ClientError },
    #[error("Cannot get status/probe")]
    Status { source: ClientError },
    /// What `status --brief` says when nobody answers.
    #[error("cilium: daemon unreachable")]
    Unreachable,
    #[error("Cannot start")]
    Start { source: io::Error },
    #[error("Cannot write the result")]
    Write { source: io::Error },
    #[error("Cannot write the result as JSON")]
    Encode { source: serde_json::Error },
    #[error("Cannot write {}", path.display())]
    WriteFile { path: PathBuf, source: io::Error },
    #[error("Cannot read {name}")]
    Read { name: String, source: io::Error },
    #[error("{0}")]
    Usage(String),
    #[error("No policy specified")]
    NoPolicy,
    /// One line for each fault, with file and path.
    #[error("{title}{}", indented(faults))]
    Policy { title: String, faults: Vec<String> },
    #[error("Revision {revision} is imported, but not enforced everywhere:{}", indented(failing))]
    NotEnforced { revision: u64, failing: Vec<String> },
    #[error("Revision {revision} was not enforced by all endpoints within {seconds} s: {at_revision}/{endpoints}")]
    WaitedTooLong { revision: u64, seconds: u64, at_revision: usize, endpoints: usize },
    #[error("Revision {revision}: these endpoints have been failing for {seconds} s:{}", indented(endpoints))]
    WaitedForFailing { revision: u64, seconds: u64, endpoints: Vec<String> },
    #[error("Service {id} is kept, but not answered by this node: {failure}")]
    ServiceFails { id: u32, failure: String },
    #[error("No endpoint has all of these labels: {0}")]
    NoEndpoint(String),
    #[error("No identity has exactly these labels: {0}")]
    NoIdentity(String),
    #[error("There is no key {0}")]
    NoKey(String),
    #[error("The agent closed the stream of events")]
    MonitorEnded,
    #[error("An agent is running at {}: stop it first", socket.display())]
    AgentRuns { socket: PathBuf },
    #[error("Cannot tell whether an agent is running at {}", socket.display())]
    AgentUnknown { socket: PathBuf, source: ClientError },
    #[error("Cannot ask whether to go on: give -f to remove without a question")]
    Ask { source: io::Error },
    #[error("Nothing was removed: the question was not answered with y")]
    NotConfirmed,
    #[error("Cannot run {}", program.display())]
    RunAgent { program: PathBuf, source: io::Error },
    #[error("{} cleanup ended with {status}", program.display())]
    Cleanup { program: PathBuf, status: std::process::ExitStatus },
}

impl Failure {
    /// 2 for a wrong use of the command line, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            _ => 1,
        }
    }

    /// Whether the reader of our output went away, which is no fault (`cilium monitor | head`).
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Failure::Write { source } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The failure, its causes, the faults that the agent named and a hint: several lines.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            append(&mut text, format_args!(": {error}"));
            cause = error.source();
        }
        if let Some(ClientError::Refused { status, body }) = self.client_error() {
            if body.error.is_empty() {
                append(&mut text, format_args!("the agent answered {status} without a reason"));
            }
            for fault in &body.details {
                let colon = if fault.path.is_empty() { "" } else { ": " };
                append(&mut text, format_args!("\n  {}{colon}{}", fault.path, fault.message));
            }
        }
        if let Some(ClientError::Connect { source, .. }) = self.client_error()
            && source.kind() == io::ErrorKind::PermissionDenied
        {
            text.push_str("\nOnly root and members of the group cilium may talk to the agent.");
        }
        text
    }

    fn client_error(&self) -> Option<&ClientError> {
        match self {
            Failure::Agent { source, .. } | Failure::Status { source } | Failure::AgentUnknown { source, .. } => {
                Some(source)
            }
            _ => None,
        }
    }
}

fn indented(lines: &[String]) -> String {
    lines.iter().flat_map(|line| ["\n  ", line.as_str()]).collect()
}

fn append(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_and_hint_are_told() {
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        let source = ClientError::Connect { socket: "/run/x.sock".into(), source };
        let report = Failure::Agent { what: "list endpoints".into(), source }.report();
        assert_eq!(
            report,
            "Cannot list endpoints: cannot reach the agent at /run/x.sock: is cilium-agent running?: permission denied\n\
             Only root and members of the group cilium may talk to the agent."
        );
    }

    #[test]
    fn a_refusal_without_words_has_its_status() {
        let body = api::ErrorBody { error: String::new(), details: Vec::new() };
        let source = ClientError::Refused { status: Default::default(), body };
        let report = Failure::Agent { what: "list nodes".into(), source }.report();
        assert_eq!(report, "Cannot list nodes: the agent answered 200 OK without a reason");
    }

    #[test]
    fn faults_of_the_agent_are_listed() {
        let body = api::ErrorBody {
            error: "the rules are refused".into(),
            details: vec![api::Fault { path: "[0].egress".into(), message: "no".into() }],
        };
        let source = ClientError::Refused { status: Default::default(), body };
        let report = Failure::Agent { what: "import policy".into(), source }.report();
        assert_eq!(report, "Cannot import policy: the rules are refused\n  [0].egress: no");
    }
}

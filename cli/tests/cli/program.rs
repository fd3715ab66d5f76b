//! Running the built program.

use crate::agent::FakeAgent;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a run left: exit code and both outputs.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    #[track_caller]
    pub fn succeeded(self) -> Ran {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    #[track_caller]
    pub fn failed_with(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "{self:?}");
        assert!(!self.stderr.is_empty(), "a failure must say something");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The program with no settings of the caller's that it would heed.
pub fn program(path: impl AsRef<Path>) -> Command {
    let mut command = Command::new(path.as_ref());
    for name in ["CILIUM_SOCK", "CLEAN_CILIUM_STATE", "CLEAN_CILIUM_BPF_STATE", "CLICOLOR_FORCE", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

pub const CILIUM: &str = env!("CARGO_BIN_EXE_cilium");

pub fn run(command: &mut Command, stdin: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting the program");
    // A program that reads nothing may have closed its end.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().expect("waiting for the program");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("the output is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("the messages are UTF-8"),
    }
}

/// Runs without an agent.
pub fn cilium(arguments: &[&str]) -> Ran {
    run(program(CILIUM).arg("-H").arg("/nonexistent/cilium.sock").args(arguments), "")
}

impl FakeAgent {
    pub fn cilium(&self, arguments: &[&str]) -> Ran {
        self.cilium_with_stdin(arguments, "")
    }

    pub fn cilium_with_stdin(&self, arguments: &[&str], stdin: &str) -> Ran {
        run(program(CILIUM).arg("--host").arg(self.socket()).args(arguments), stdin)
    }
}

//! `cilium cleanup`, with a copy of the program beside an agent that only writes down how it was called: the real one
//! must never be found by a test.

use crate::agent::FakeAgent;
use crate::program::{CILIUM, Ran, program, run};
use serde_json::json;
use std::path::PathBuf;
use std::process::Command;

struct Installed {
    folder: tempfile::TempDir,
}

impl Installed {
    /// Programs are written by other processes: a file that this one has open for writing, or that a child forked
    /// meanwhile by another test still has, could not be run ("text file busy").
    fn new(agent_ends_with: u8) -> Installed {
        let installed = Installed { folder: tempfile::tempdir().unwrap() };
        run(Command::new("cp").arg(CILIUM).arg(installed.path("cilium")), "").succeeded();
        let calls = installed.path("calls");
        let script = format!("#!/bin/sh\necho \"$@\" >> '{}'\necho gone\nexit {agent_ends_with}\n", calls.display());
        let mut install = Command::new("install");
        run(install.args(["-m", "755", "/dev/stdin"]).arg(installed.path("cilium-agent")), &script).succeeded();
        installed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cleanup(&self, arguments: &[&str], answer: &str) -> Ran {
        let mut command = program(self.path("cilium"));
        run(command.arg("-H").arg(self.path("cilium.sock")).arg("cleanup").args(arguments), answer)
    }

    fn calls(&self) -> String {
        std::fs::read_to_string(self.path("calls")).unwrap_or_default()
    }
}

#[test]
fn the_agents_program_does_the_work() {
    let installed = Installed::new(0);
    assert_eq!(installed.cleanup(&["--bpf-state", "-f"], "").succeeded().stdout, "gone\n");
    installed.cleanup(&["--all-state", "--force"], "").succeeded();
    installed.cleanup(&["--all-state", "--bpf-state", "-f", "--", "--lib-dir", "/x y"], "").succeeded();
    assert_eq!(
        installed.calls(),
        "cleanup --bpf-state --force\ncleanup --all-state --force\ncleanup --all-state --force --lib-dir /x y\n"
    );
    let ran = installed.cleanup(&["--bpf-state", "-f", "-o", "json"], "").succeeded();
    assert_eq!(ran.json(), json!({"removed": "bpf-state"}));
}

#[test]
fn the_environment_can_say_what() {
    let installed = Installed::new(0);
    let mut command = program(installed.path("cilium"));
    command.arg("-H").arg(installed.path("cilium.sock")).args(["cleanup", "-f"]);
    run(command.env("CLEAN_CILIUM_BPF_STATE", "true").env("CLEAN_CILIUM_STATE", "false"), "").succeeded();
    assert_eq!(installed.calls(), "cleanup --bpf-state --force\n");
}

#[test]
fn it_asks_first() {
    let installed = Installed::new(0);
    for answer in ["", "n\n", "\n", "maybe\n"] {
        let ran = installed.cleanup(&["--all-state"], answer).failed_with(1);
        assert!(ran.stderr.contains("Go on? [y/N]"), "{ran:?}");
    }
    assert_eq!(installed.calls(), "");
    installed.cleanup(&["--all-state"], "y\n").succeeded();
    assert_eq!(installed.calls(), "cleanup --all-state --force\n");
}

#[test]
fn it_refuses_while_an_agent_runs() {
    let installed = Installed::new(0);
    let agent = FakeAgent::start();
    agent.refuse("GET /v1/version", 503, "still starting");
    let mut command = program(installed.path("cilium"));
    let ran = run(command.arg("-H").arg(agent.socket()).args(["cleanup", "--all-state", "-f"]), "").failed_with(1);
    assert!(ran.stderr.starts_with("An agent is running at "), "{ran:?}");
    assert_eq!(installed.calls(), "");
}

#[test]
fn a_socket_that_nobody_serves_is_no_agent() {
    let installed = Installed::new(0);
    drop(std::os::unix::net::UnixListener::bind(installed.path("cilium.sock")).unwrap());
    installed.cleanup(&["--bpf-state", "-f"], "").succeeded();
}

#[test]
fn its_failure_is_ours() {
    let installed = Installed::new(3);
    let ran = installed.cleanup(&["--bpf-state", "-f"], "").failed_with(1);
    assert!(ran.stderr.contains("cleanup ended with exit status: 3"), "{ran:?}");
    std::fs::remove_file(installed.path("cilium-agent")).unwrap();
    let mut command = program(installed.path("cilium"));
    command
        .arg("-H")
        .arg(installed.path("cilium.sock"))
        .args(["cleanup", "--bpf-state", "-f"])
        .env("PATH", "/nonexistent");
    let ran = run(&mut command, "").failed_with(1);
    assert!(ran.stderr.starts_with("Cannot run cilium-agent: "), "{ran:?}");
}

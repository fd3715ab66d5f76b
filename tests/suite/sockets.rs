//! Who may talk to us.

use anyhow::{Result, ensure};
use lab::{Agent, Machine};
use std::rc::Rc;

#[test]
#[ignore = "needs root: make test"]
fn sockets_are_closed_to_all_but_root_and_the_group() -> Result<()> {
    let machine = Rc::new(Machine::start()?);
    let agent = Agent::start(&machine, &[])?;
    // Every Unix socket that the agent listens on, found by looking at all sockets and not at a list of our own.
    let sockets = machine.run(&["sh", "-c", "find /run -type s | sort"])?;
    ensure!(
        sockets.contains("/run/cilium/cilium.sock") && sockets.contains("/run/docker/plugins/cilium.sock"),
        "{sockets}"
    );
    for socket in sockets.lines() {
        let mode = machine.run(&["stat", "-c", "%a %U %G", socket])?;
        let mode = mode.trim();
        let fine = mode == "600 root root" || mode == "660 root cilium" || mode == "660 root root";
        ensure!(fine, "{socket}: {mode}");
        let output = machine.output(&[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "curl",
            "-s",
            "-m",
            "2",
            "--unix-socket",
            socket,
            "http://localhost/v1/healthz",
        ])?;
        ensure!(!output.status.success(), "nobody may talk to {socket}");
    }
    // Nothing listens on the network.
    let listening = machine.run(&["ss", "-Hlntup"])?;
    ensure!(listening.trim().is_empty(), "{listening}");
    agent.cilium(&["status", "--brief"]).map(|_| ())
}

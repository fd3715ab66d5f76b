//! Malformed, repeated, out of order: a clear error, and nothing changed.

use anyhow::{Result, ensure};
use lab::{Engine, Machine, World, text};
use std::rc::Rc;

#[test]
#[ignore = "needs root: make test"]
fn bad_policies_are_refused_with_their_paths_and_change_nothing() -> Result<()> {
    let machine = Rc::new(Machine::start()?);
    let agent = lab::Agent::start(&machine, &[])?;
    let revision = agent.cilium_json(&["policy", "get"])?["revision"].clone();
    let cases = [
        ("[", "JSON"),
        (r#"[{"endpointSelector": {}, "ingres": []}]"#, "ingres"),
        (
            r#"[{"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": 80}]}]}]}]"#,
            "[0].ingress[0].toPorts[0].ports[0].port",
        ),
        (
            r#"[{"endpointSelector": {}, "ingress": [{}]}, {"endpointSelector": {}, "ingress": [{"fromCIDR": ["10.0.0.0/99"]}]}]"#,
            "[1].ingress[0].fromCIDR[0]",
        ),
        (
            r#"[{"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"path": "/"}]}}]}]}]"#,
            "rules.http",
        ),
        (r#"[{"endpointSelector": {}, "egress": [{"toFQDNs": [{"matchName": "example.com"}]}]}]"#, "toFQDNs"),
        (r#"[{"ingress": [{}]}]"#, "endpointSelector"),
    ];
    let path = machine.dir().join("bad.json");
    let binary = lab::binary("cilium")?.display().to_string();
    for (rules, named) in cases {
        std::fs::write(&path, rules)?;
        let output = machine.output(&[&binary, "policy", "import", &path.display().to_string()])?;
        let said = text(&output.stderr) + &text(&output.stdout);
        ensure!(output.status.code() == Some(1), "{rules}: exit code {:?}: {said}", output.status.code());
        ensure!(said.to_lowercase().contains(&named.to_lowercase()), "{rules}: {named} is not named in: {said}");
        assert_eq!(agent.cilium_json(&["policy", "get"])?["revision"], revision, "{rules}");
        // The agent refuses it as well as the command line does.
        let url = "http://localhost/v1/policy";
        let curl = [
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "-X",
            "PUT",
            "--unix-socket",
            "/run/cilium/cilium.sock",
            "--data-binary",
        ];
        let code = machine.run(&[&curl[..], &[&format!("@{}", path.display()), url]].concat())?;
        ensure!(code.starts_with('4'), "{rules}: the agent answered {code}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: make test"]
fn the_plugin_answers_anything_and_leaves_nothing_behind() -> Result<()> {
    let world = World::start(&Engine::installed())?;
    world.network()?;
    let before = world.kernel_inventory()?;
    let long = "f".repeat(64);
    let endpoint = format!(r#"{{"NetworkID":"{long}","EndpointID":"{long}"}}"#);
    let bodies =
        ["", "{", "null", "[]", "{}", r#"{"NetworkID":7}"#, &endpoint, r#"{"NetworkID":"../../etc","EndpointID":"x"}"#];
    let methods = [
        "NetworkDriver.CreateNetwork",
        "NetworkDriver.CreateEndpoint",
        "NetworkDriver.EndpointOperInfo",
        "NetworkDriver.Join",
        "NetworkDriver.ProgramExternalConnectivity",
        "IpamDriver.RequestPool",
        "IpamDriver.RequestAddress",
        "NetworkDriver.NoSuchMethod",
        "",
    ];
    let curl = [
        "curl",
        "-s",
        "-m",
        "3",
        "-w",
        "\n%{http_code}",
        "--unix-socket",
        "/run/docker/plugins/cilium.sock",
        "-X",
        "POST",
        "--data-binary",
    ];
    for method in methods {
        for body in bodies {
            let url = format!("http://localhost/{method}");
            let answer = world.machine.run(&[&curl[..], &[body, &url]].concat())?;
            let (text, code) = answer.rsplit_once('\n').unwrap_or(("", &answer));
            let unclear = code != "200" && !text.contains("Err") && code != "404";
            ensure!(!unclear, "{method} {body:?}: {code} {text}");
        }
    }
    // Stop-type calls about things nobody knows are successes, and quick.
    for method in [
        "NetworkDriver.Leave",
        "NetworkDriver.DeleteEndpoint",
        "NetworkDriver.DeleteNetwork",
        "NetworkDriver.RevokeExternalConnectivity",
    ] {
        let answer = world.machine.run(&[&curl[..], &[&endpoint, &format!("http://localhost/{method}")]].concat())?;
        ensure!(answer.ends_with("200"), "{method}: {answer}");
    }
    // Requests that a pool was asked for by are given back by Docker; these here were not.
    for pool in world.agent.cilium_json(&["status"])?["ipam"]["allocations"].as_object().into_iter().flatten() {
        ensure!(!pool.1.to_string().contains("etc"), "{pool:?}");
    }
    assert_eq!(world.kernel_inventory()?, before);
    Ok(())
}

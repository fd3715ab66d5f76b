//! Reading commands: what they ask, their tables and their JSON.

use crate::agent::FakeAgent;
use crate::program::{CILIUM, program, run};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

fn endpoint(id: u16, label: &str) -> Value {
    json!({
        "id": id, "docker-endpoint-id": "e", "docker-network-id": "f", "container-id": null, "container-name": "app1",
        "state": "ready", "identity": {"id": 261, "labels": [label]},
        "labels": {"security-relevant": [label], "disabled": []},
        "ipv4": "10.15.0.2", "ipv6": null, "gateway4": "10.15.0.1", "gateway6": null,
        "mac": "02:42:0a:0f:00:02", "node-mac": "02:00:00:00:00:01",
        "interface-name": "lxc1", "peer-interface-name": "tmp1", "mtu": 1500,
        "policy": {"enabled": "both", "revision": 2}, "created": 1,
    })
}

fn service(id: u32) -> Value {
    let spec = json!({
        "id": id, "frontend-address": {"ip": "10.96.0.10", "protocol": "TCP", "port": 80},
        "backend-addresses": [{"ip": "10.15.0.11", "port": 80, "protocol": "TCP", "weight": 100, "state": "active"}],
        "flags": {"type": "ClusterIP", "extTrafficPolicy": "Cluster", "intTrafficPolicy": "Cluster"},
    });
    json!({"spec": spec, "status": {"realized": spec}})
}

fn status(state: &str) -> Value {
    let ok = json!({"state": "Ok", "msg": ""});
    json!({
        "cilium": {"state": state, "msg": "kvstore: connection refused"}, "kvstore": {"state": state, "msg": "connection refused"},
        "kvstore-contact": {"watches": [], "lease": null, "heartbeat": null},
        "container-runtime": ok, "docker-plugin": ok, "datapath": ok, "masquerade": ok, "routing": ok, "cluster-health": ok,
        "cluster-mesh": null,
        "ipam": {"ipv4": null, "ipv6": null, "allocations": {}}, "node-monitor": null, "controllers": [],
        "node": "k1", "cluster": "default", "version": "0.1.0", "uptime": 3, "policy-revision": 1,
        "desired-revision": 2, "realised-revision": 2, "plugin-calls": [],
    })
}

/// Commands that read, the request each makes, and what an agent answers.
fn readers() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("status", "GET /v1/healthz", status("Ok")),
        ("endpoint list", "GET /v1/endpoint", json!([endpoint(5, "container:id=app1")])),
        ("endpoint list -l id=app1", "GET /v1/endpoint?label=id%3Dapp1", json!([endpoint(5, "container:id=app1")])),
        ("endpoint get 5", "GET /v1/endpoint/5", endpoint(5, "container:id=app1")),
        ("endpoint get container-name:app1", "GET /v1/endpoint/container-name:app1", endpoint(5, "container:id=app1")),
        (
            "endpoint get -l id=app1,x",
            "GET /v1/endpoint?label=id%3Dapp1&label=x",
            json!([endpoint(5, "container:id=app1")]),
        ),
        ("endpoint labels 5", "GET /v1/endpoint/5", endpoint(5, "container:id=app1")),
        (
            "endpoint health 5",
            "GET /v1/endpoint/5/healthz",
            json!({"overallHealth": "OK", "bpf": "OK", "policy": "OK", "connected": true}),
        ),
        (
            "endpoint log 5",
            "GET /v1/endpoint/5/log",
            json!([{"timestamp": "2026-01-02T03:04:05Z", "code": "ok", "message": "made", "state": "ready"}]),
        ),
        (
            "identity list id=app1",
            "GET /v1/identity?label=id%3Dapp1",
            json!([{"id": 261, "labels": ["container:id=app1"], "labelsSHA256": "0", "refCount": 1}]),
        ),
        (
            "identity get 261",
            "GET /v1/identity/261",
            json!({"id": 261, "labels": ["container:id=app1"], "labelsSHA256": "0", "refCount": 1}),
        ),
        ("policy get", "GET /v1/policy", json!({"revision": 2, "rules": [{"endpointSelector": {}}]})),
        ("policy get name=x", "GET /v1/policy?label=name%3Dx", json!({"revision": 2, "rules": []})),
        (
            "policy get --status",
            "GET /v1/policy/status",
            json!({"revision": 2, "nodes": [{"node": "k1", "known": 2, "enforced": 1, "endpoints": 3, "failing": []}]}),
        ),
        ("service list", "GET /v1/service", json!([service(1)])),
        ("service get 1", "GET /v1/service/1", service(1)),
        ("bpf endpoint list", "GET /v1/bpf/endpoint", json!([])),
        ("bpf policy list 5", "GET /v1/bpf/policy?endpoint=5", json!([])),
        ("bpf ct list", "GET /v1/bpf/ct", json!([])),
        ("bpf ct flush", "DELETE /v1/bpf/ct", json!(null)),
        ("bpf ipcache list", "GET /v1/bpf/ipcache", json!([])),
        ("bpf tunnel list", "GET /v1/bpf/tunnel", json!([])),
        ("bpf nat list", "GET /v1/bpf/nat", json!([])),
        ("bpf lb list", "GET /v1/bpf/lb", json!({"services": [], "backends": {}, "revnat": {}, "source-ranges": []})),
        ("bpf metrics list", "GET /v1/bpf/metrics", json!([])),
        ("map list", "GET /v1/map", json!([])),
        (
            "map get cilium_lxc",
            "GET /v1/map/cilium_lxc",
            json!({"name": "cilium_lxc", "entries": [], "truncated": false}),
        ),
        ("node list", "GET /v1/node", json!([])),
        ("ip list", "GET /v1/ip", json!([])),
        ("kvstore get a/b", "GET /v1/kvstore?key=a%2Fb", json!([{"key": "a/b", "value": "v", "revision": 1}])),
        ("kvstore get --recursive a", "GET /v1/kvstore?key=a&recursive=true", json!([])),
        ("kvstore delete --recursive a", "DELETE /v1/kvstore?key=a&recursive=true", json!(null)),
        ("config", "GET /v1/config", json!({"policy-enforcement": "default", "options": {"mtu": "1500"}})),
        ("debuginfo", "GET /v1/debuginfo", json!({"status": {}})),
        ("version", "GET /v1/version", json!({"version": "0.1.0", "revision": "abc"})),
        (
            "policy delete name=x",
            "DELETE /v1/policy?label=name%3Dx",
            json!({"revision": 3, "added": 0, "removed": 1, "enforced": null}),
        ),
        (
            "policy delete --all",
            "DELETE /v1/policy?all=true",
            json!({"revision": 3, "added": 0, "removed": 1, "enforced": null}),
        ),
    ]
}

#[test]
fn each_asks_its_request_and_prints_both_forms() {
    for (command, request, body) in readers() {
        let agent = FakeAgent::start();
        agent.answer(request, &body);
        let arguments: Vec<_> = command.split(' ').collect();
        let table = agent.cilium(&arguments).succeeded();
        assert_eq!(table.stderr, "", "{command}");
        let mut arguments = arguments;
        arguments.extend(["-o", "json"]);
        let value = agent.cilium(&arguments).succeeded().json();
        match command {
            "version" => assert_eq!(value["daemon"], body),
            command if command.starts_with("endpoint get") => assert!(value.is_array()),
            command if command.starts_with("endpoint labels") => assert_eq!(value, body["labels"]),
            _ => assert_eq!(value, body, "{command}"),
        }
        assert!(agent.asked().iter().all(|asked| asked.line == request), "{command}: {:?}", agent.asked());
    }
}

#[test]
fn a_table_from_end_to_end() {
    let agent = FakeAgent::start();
    agent.answer("GET /v1/endpoint", &json!([endpoint(12, "container:id=app2"), endpoint(5, "container:id=app1")]));
    let expected = "\
ENDPOINT   POLICY (ingress)   POLICY (egress)   IDENTITY   LABELS (source:key[=value])   IPv6         IPv4        STATUS
           ENFORCEMENT        ENFORCEMENT
5          Enabled            Enabled           261        container:id=app1             No address   10.15.0.2   ready
12         Enabled            Enabled           261        container:id=app2             No address   10.15.0.2   ready
";
    assert_eq!(agent.cilium(&["endpoint", "list"]).succeeded().stdout, expected);
}

#[test]
fn labels_cannot_steer_the_terminal() {
    let evil = "container:x=\u{1b}]0;owned\u{7}\u{9b}2J\n5 ready\u{202e}";
    let agent = FakeAgent::start();
    agent.answer("GET /v1/endpoint", &json!([endpoint(5, evil)]));
    agent.answer("GET /v1/endpoint/5", &endpoint(5, evil));
    agent.answer("GET /v1/identity", &json!([{"id": 261, "labels": [evil], "labelsSHA256": "0", "refCount": 1}]));
    agent.answer("GET /v1/policy", &json!({"revision": 2, "rules": [{"description": evil}]}));
    agent.answer("GET /v1/debuginfo", &json!({"x": evil, evil: {"y": evil}}));
    agent.answer("GET /v1/kvstore?key=k", &json!([{"key": "k", "value": evil, "revision": 1}]));
    agent.refuse("GET /v1/endpoint/6", 404, evil);
    let record = json!({"record": "agent", "message": evil, "subject": evil});
    agent.answer_raw("GET /v1/monitor", 200, &format!("{record}\n"));
    agent.answer("POST /v1/policy/trace", &json!({"log": evil, "verdict": evil}));
    for command in [
        "endpoint list",
        "endpoint get 5",
        "endpoint get 6",
        "endpoint labels 5",
        "identity list",
        "policy get",
        "policy trace -s a -d b",
        "debuginfo",
        "kvstore get k",
        "monitor",
        "monitor -j",
    ] {
        for format in ["table", "json"] {
            let mut arguments: Vec<_> = command.split(' ').collect();
            arguments.extend(["-o", format]);
            let ran = agent.cilium(&arguments);
            let all = ran.stdout + &ran.stderr;
            assert!(all.contains("owned"), "{command} {format}: {all:?}");
            let hazard = |c: char| (c != '\n' && c.is_control()) || c == '\u{202e}';
            assert!(!all.contains(hazard), "{command} {format}: {all:?}");
        }
    }
}

#[test]
fn colour_is_for_terminals() {
    let agent = FakeAgent::start();
    agent.answer("GET /v1/endpoint", &json!([endpoint(5, "container:id=app1")]));
    let run_with = |name: &str, value: &str| {
        let mut command = program(CILIUM);
        run(command.arg("-H").arg(agent.socket()).args(["endpoint", "list"]).env(name, value), "").succeeded().stdout
    };
    assert!(!run_with("TERM", "xterm").contains('\x1b'));
    assert!(run_with("CLICOLOR_FORCE", "1").contains("\x1b["));
    let mut command = program(CILIUM);
    command.arg("-H").arg(agent.socket()).args(["endpoint", "list", "-o", "json"]).env("CLICOLOR_FORCE", "1");
    assert!(!run(&mut command, "").succeeded().stdout.contains('\x1b'));
}

#[test]
fn an_unwell_agent_ends_with_one() {
    let agent = FakeAgent::start();
    agent.answer("GET /v1/healthz", &status("Failure"));
    for arguments in [&["status"][..], &["status", "-o", "json"], &["status", "--brief"]] {
        let ran = agent.cilium(arguments);
        assert_eq!((ran.code, ran.stderr.as_str()), (1, ""), "{arguments:?}");
        assert!(!ran.stdout.is_empty());
    }
    let brief = agent.cilium(&["status", "--brief"]);
    assert_eq!(brief.stdout, "error in kvstore: connection refused\n");
    agent.answer("GET /v1/healthz", &status("Warning"));
    let brief = agent.cilium(&["status", "--brief"]).succeeded();
    assert_eq!(brief.stdout, "warning in kvstore: connection refused\n");
    agent.answer("GET /v1/healthz", &status("Ok"));
    assert_eq!(agent.cilium(&["status", "--brief"]).succeeded().stdout, "OK\n");
}

#[test]
fn a_refusal_is_told_and_ends_with_one() {
    let agent = FakeAgent::start();
    agent.refuse("GET /v1/endpoint/77", 404, "there is no endpoint 77");
    let ran = agent.cilium(&["endpoint", "get", "77"]).failed_with(1);
    assert_eq!(ran.stderr, "Cannot get endpoint 77: there is no endpoint 77\n");
    assert_eq!(ran.stdout, "");
    agent.answer("GET /v1/kvstore?key=k", &json!([]));
    assert_eq!(agent.cilium(&["kvstore", "get", "k"]).failed_with(1).stderr, "There is no key k\n");
    agent.answer("GET /v1/endpoint?label=x", &json!([]));
    agent.cilium(&["endpoint", "get", "-l", "x"]).failed_with(1);
}

#[test]
fn an_answer_that_is_not_understood_ends_with_one() {
    let agent = FakeAgent::start();
    agent.answer_raw("GET /v1/node", 200, "<html>");
    let ran = agent.cilium(&["node", "list"]).failed_with(1);
    assert!(
        ran.stderr.starts_with("Cannot list nodes: GET /v1/node: the answer is not what was expected: "),
        "{ran:?}"
    );
}

#[test]
fn metrics_are_read_from_their_text_form() {
    let agent = FakeAgent::start();
    agent.answer_raw("GET /v1/metrics", 200, "# TYPE cilium_drops counter\ncilium_drops{reason=\"Policy denied\"} 3\n");
    let ran = agent.cilium(&["metrics", "list"]).succeeded();
    assert_eq!(
        ran.stdout,
        "Metric         Labels                   Value\ncilium_drops   reason=\"Policy denied\"   3\n"
    );
    let value = json!([{"name": "cilium_drops", "labels": "reason=\"Policy denied\"", "value": "3"}]);
    assert_eq!(agent.cilium(&["metrics", "list", "-o", "json"]).succeeded().json(), value);
}

#[test]
fn the_exact_set_of_labels_finds_an_identity() {
    let identity = |id, labels: &[&str]| json!({"id": id, "labels": labels, "labelsSHA256": "0", "refCount": 1});
    let agent = FakeAgent::start();
    let both = json!([identity(300, &["container:a", "container:b"]), identity(301, &["container:a"])]);
    agent.answer("GET /v1/identity?label=container:a", &both);
    let ran = agent.cilium(&["identity", "get", "--label", "container:a"]).succeeded();
    assert_eq!(ran.stdout, "ID    LABELS\n301   container:a\n");
    agent.answer("GET /v1/identity?label=container:b", &json!([identity(300, &["container:a", "container:b"])]));
    agent.cilium(&["identity", "get", "--label", "container:b"]).failed_with(1);
}

#[test]
fn writes_send_their_bodies() {
    let agent = FakeAgent::start();
    agent.answer_raw("PUT /v1/kvstore?key=a", 200, "");
    agent.answer("PATCH /v1/config", &json!({"policy-enforcement": "always", "options": {}}));
    assert_eq!(agent.cilium(&["kvstore", "set", "a", "x y"]).succeeded().stdout, "");
    agent.cilium(&["kvstore", "set", "--key", "a", "--value", "-1"]).succeeded();
    agent.cilium(&["config", "PolicyEnforcement=always"]).succeeded();
    let bodies: Vec<Value> = agent.asked().iter().map(|asked| serde_json::from_str(&asked.body).unwrap()).collect();
    assert_eq!(bodies, [json!({"value": "x y"}), json!({"value": "-1"}), json!({"policy-enforcement": "always"})]);
}

#[test]
fn the_environment_names_the_socket() {
    let agent = FakeAgent::start();
    agent.answer("GET /v1/node", &json!([]));
    let socket = format!("unix://{}", agent.socket().display());
    run(program(CILIUM).args(["node", "list"]).env("CILIUM_SOCK", &socket), "").succeeded();
    run(program(CILIUM).args(["node", "list", "-H", &socket]), "").succeeded();
}

#[test]
fn debug_tells_each_request() {
    let agent = FakeAgent::start();
    agent.answer("GET /v1/node", &json!([]));
    let ran = agent.cilium(&["-D", "node", "list"]).succeeded();
    assert!(ran.stderr.starts_with("GET /v1/node: ok after "), "{ran:?}");
}

#[test]
fn debug_information_goes_to_a_file() {
    let agent = FakeAgent::start();
    agent.answer("GET /v1/debuginfo", &json!({"status": {"state": "Ok"}}));
    let path = agent.folder().join("report.md");
    let ran = agent.cilium(&["debuginfo", "--file", path.to_str().unwrap()]).succeeded();
    assert_eq!(ran.stdout, "");
    assert!(std::fs::read_to_string(&path).unwrap().contains("## status\n"));
    agent.cilium(&["debuginfo", "--file", "/nonexistent/x"]).failed_with(1);
}

/// `cilium … | head -1`: the reader goes away while there is much more to come.
#[test]
fn a_broken_pipe_is_quiet() {
    let agent = FakeAgent::start();
    let endpoints: Vec<_> = (1..5000).map(|id| endpoint(id, "container:id=app1")).collect();
    agent.answer("GET /v1/endpoint", &Value::Array(endpoints));
    let mut child = program(CILIUM)
        .arg("-H")
        .arg(agent.socket())
        .args(["endpoint", "list"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("ENDPOINT"), "{first}");
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

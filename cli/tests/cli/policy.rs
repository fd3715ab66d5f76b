//! `cilium policy …` from files to requests and back.

use crate::agent::FakeAgent;
use crate::program::cilium;
use serde_json::{Value, json};

fn rule(label: &str) -> Value {
    json!({
        "labels": [{"key": "name", "value": label}],
        "endpointSelector": {"matchLabels": {"id": "app1"}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}],
                     "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}],
    })
}

fn change(revision: u64, enforced: Value) -> Value {
    json!({"revision": revision, "added": 1, "removed": 0, "enforced": enforced})
}

fn file(agent: &FakeAgent, name: &str, content: &Value) -> String {
    let path = agent.folder().join(name);
    std::fs::write(&path, content.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn rules_of_several_files_go_in_one_request_as_written() {
    let agent = FakeAgent::start();
    agent.answer("PUT /v1/policy", &change(2, Value::Null));
    let folder = agent.folder().join("rules");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("b.json"), json!([rule("three")]).to_string()).unwrap();
    std::fs::write(folder.join("a.json"), json!([rule("one"), rule("two")]).to_string()).unwrap();
    let single = file(&agent, "single.json", &json!([rule("four")]));
    let ran = agent.cilium(&["policy", "import", folder.to_str().unwrap(), &single]).succeeded();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("Revision: 2\nRules: 1 added, 0 removed\n", ""));
    let asked = agent.asked();
    assert_eq!(asked.len(), 1);
    let sent: Value = serde_json::from_str(&asked[0].body).unwrap();
    assert_eq!(sent, json!([rule("one"), rule("two"), rule("three"), rule("four")]));
}

#[test]
fn standard_input_and_flags() {
    let agent = FakeAgent::start();
    agent.answer("PUT /v1/policy?replace=true&wait=true", &change(7, json!({"endpoints": 3, "failing": []})));
    let text = json!([rule("one")]).to_string();
    let ran = agent.cilium_with_stdin(&["policy", "import", "-", "--replace", "--wait"], &text).succeeded();
    assert_eq!(ran.stdout, "Revision: 7\nRules: 1 added, 0 removed\nEnforced by 3 endpoints\n");
    agent.answer("PUT /v1/policy", &change(8, Value::Null));
    let ran = agent.cilium_with_stdin(&["policy", "import", "-", "--print"], &text).succeeded();
    let printed = ran.stdout.strip_suffix("Revision: 8\nRules: 1 added, 0 removed\n").unwrap();
    assert_eq!(serde_json::from_str::<Value>(printed).unwrap(), json!([rule("one")]));
    let ran = agent.cilium_with_stdin(&["policy", "import", "-", "-o", "json"], &text).succeeded();
    assert_eq!(ran.json()["revision"], 8);
    let ran = agent.cilium_with_stdin(&["policy", "import", "-", "-o", "json", "--print"], &text).succeeded();
    assert_eq!(ran.json()["rules"], json!([rule("one")]));
}

#[test]
fn what_is_not_enforced_everywhere_ends_with_one() {
    let agent = FakeAgent::start();
    let failing = json!({"endpoints": 2, "failing": ["endpoint 5: no space left"]});
    agent.answer("PUT /v1/policy?wait=true", &change(7, failing));
    let path = file(&agent, "a.json", &json!([rule("one")]));
    let ran = agent.cilium(&["policy", "import", &path, "--wait"]).failed_with(1);
    assert_eq!(ran.stdout, "Revision: 7\nRules: 1 added, 0 removed\nEnforced by 2 endpoints\n");
    assert!(ran.stderr.contains("endpoint 5: no space left"), "{ran:?}");
    agent.answer("DELETE /v1/policy?all=true&wait=true", &change(8, json!({"endpoints": 3, "failing": []})));
    let ran = agent.cilium(&["policy", "delete", "--all", "--wait"]).succeeded();
    assert_eq!(ran.stdout, "Revision: 8\nRules: 1 added, 0 removed\nEnforced by 3 endpoints\n");
}

#[test]
fn a_fault_in_one_file_sends_nothing() {
    let agent = FakeAgent::start();
    let good = file(&agent, "good.json", &json!([rule("one")]));
    let mut faulty = rule("two");
    faulty["ingress"][0]["toPorts"][0]["ports"][0]["port"] = json!("99999");
    faulty["ingres"] = json!([]);
    let bad = file(&agent, "bad.json", &json!([rule("three"), faulty]));
    let ran = agent.cilium(&["policy", "import", &good, &bad]).failed_with(1);
    assert!(ran.stderr.starts_with(&format!("Cannot parse policy {bad}:\n")), "{ran:?}");
    assert!(ran.stderr.contains(&format!("{bad}: [1].ingress[0].toPorts[0].ports[0].port: ")), "{ran:?}");
    assert!(ran.stderr.contains(&format!("{bad}: [1].ingres: ")), "{ran:?}");
    assert_eq!(agent.asked(), []);
}

#[test]
fn what_cannot_be_enforced_is_refused_by_name() {
    let agent = FakeAgent::start();
    let mut l7 = rule("l7");
    l7["ingress"][0]["toPorts"][0]["rules"] = json!({"http": [{"method": "GET"}]});
    let path = file(&agent, "l7.json", &json!([l7]));
    let place = format!("{path}: [0].ingress[0].toPorts[0].rules.http: rules.http cannot be enforced by this build");
    let ran = agent.cilium(&["policy", "import", &path]).failed_with(1);
    assert_eq!(ran.stderr, format!("Cannot parse policy {path}:\n  {place}\n"));
    let ran = agent.cilium(&["policy", "validate", &path]).succeeded();
    assert_eq!(ran.stdout, format!("All policy elements in {path} are valid.\n"));
    assert_eq!(ran.stderr, format!("Warning: {place}\n"));
    let ran = agent.cilium(&["policy", "validate", &path, "-o", "json"]).succeeded();
    assert_eq!(ran.json()["unsupported"], json!([place]));
    assert_eq!(agent.asked(), []);
}

#[test]
fn faults_that_the_agent_finds_are_led_back_to_their_file() {
    let agent = FakeAgent::start();
    let details = json!([{"path": "[1].ingress", "message": "too many"}]);
    agent.answer_raw("PUT /v1/policy", 400, &json!({"error": "the rules are refused", "details": details}).to_string());
    let first = file(&agent, "a.json", &json!([rule("one")]));
    let second = file(&agent, "b.json", &json!([rule("two")]));
    let ran = agent.cilium(&["policy", "import", &first, &second]).failed_with(1);
    assert_eq!(ran.stderr, format!("Cannot import policy: the rules are refused\n  {second}: [0].ingress: too many\n"));
}

#[test]
fn nothing_to_import_is_a_failure() {
    let agent = FakeAgent::start();
    let empty = file(&agent, "a.json", &json!([]));
    assert_eq!(agent.cilium(&["policy", "import", &empty]).failed_with(1).stderr, "No policy specified\n");
    assert_eq!(agent.asked(), []);
}

#[test]
fn validation_needs_no_agent() {
    let agent = FakeAgent::start();
    let path = file(&agent, "a.json", &json!([rule("one")]));
    let ran = cilium(&["policy", "validate", &path]).succeeded();
    assert_eq!(ran.stdout, format!("All policy elements in {path} are valid.\n"));
    assert_eq!(cilium(&["policy", "validate", &path, "-o", "json"]).succeeded().json()["valid"], true);
    let bad = file(&agent, "b.json", &json!([{"endpointSelector": {}}]));
    let ran = cilium(&["policy", "validate", &bad]).failed_with(1);
    assert!(ran.stderr.starts_with(&format!("Validation of policy {bad} has failed:\n  {bad}: ")), "{ran:?}");
}

#[test]
fn documents_of_clusters_are_sent_as_rules() {
    let agent = FakeAgent::start();
    agent.answer("PUT /v1/policy", &change(2, Value::Null));
    let text = "
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEntities: [world]
    toPort: []
---
kind: Service
";
    let ran = agent.cilium_with_stdin(&["policy", "import", "-"], text).failed_with(1);
    assert!(ran.stderr.contains("standard input: spec.ingress[0].toPort: unknown field"), "{ran:?}");
    assert_eq!(agent.asked(), []);
    let ran = agent.cilium_with_stdin(&["policy", "import", "-", "--ignore-unknown-fields"], text).succeeded();
    assert_eq!(ran.stdout, "Revision: 2\nRules: 1 added, 0 removed\n");
    assert!(ran.stderr.contains("Warning: standard input: spec.ingress[0].toPort: unknown field, ignored"), "{ran:?}");
    assert!(ran.stderr.contains("Service is no policy and is passed over (in document 2)"), "{ran:?}");
    assert!(
        ran.stderr
            .contains("1 of the rules select only endpoints with the label k8s:io.kubernetes.pod.namespace=default"),
        "{ran:?}"
    );
    let sent: Value = serde_json::from_str(&agent.asked()[0].body).unwrap();
    assert_eq!(sent[0]["labels"][1]["value"], "web");
    assert_eq!(sent[0]["ingress"], json!([{"fromEntities": ["world"]}]));
}

#[test]
fn rules_are_shown_with_their_revision() {
    let agent = FakeAgent::start();
    agent.answer("GET /v1/policy", &json!({"revision": 4, "rules": [rule("one")]}));
    let ran = agent.cilium(&["policy", "get"]).succeeded();
    let rules = ran.stdout.strip_suffix("Revision: 4\n").unwrap_or_else(|| panic!("{ran:?}"));
    assert_eq!(serde_json::from_str::<Value>(rules).unwrap(), json!([rule("one")]));
    agent.refuse("GET /v1/policy?label=name%3Dx", 404, "no rule has these labels");
    agent.cilium(&["policy", "get", "name=x"]).failed_with(1);
    agent.refuse("DELETE /v1/policy?label=name%3Dx", 404, "policy not found");
    let ran = agent.cilium(&["policy", "delete", "name=x"]).failed_with(1);
    assert_eq!(ran.stderr, "Cannot delete policy: policy not found\n");
}

#[test]
fn traces_are_asked_pairwise() {
    let agent = FakeAgent::start();
    agent.answer("POST /v1/policy/trace", &json!({"log": "Tracing From: …", "verdict": "allowed"}));
    agent.answer(
        "GET /v1/identity/261",
        &json!({"id": 261, "labels": ["container:id=app1"], "labelsSHA256": "", "refCount": 1}),
    );
    let arguments = [
        "policy",
        "trace",
        "-s",
        "id=app2,env=x",
        "--src-identity",
        "261",
        "-d",
        "id=app1",
        "--dport",
        "80/TCP,53",
        "-v",
    ];
    let ran = agent.cilium(&arguments).succeeded();
    assert_eq!(ran.stdout.matches("Final verdict: ALLOWED\n").count(), 2, "{ran:?}");
    let bodies: Vec<Value> = agent
        .asked()
        .iter()
        .filter(|a| a.line.starts_with("POST"))
        .map(|a| serde_json::from_str(&a.body).unwrap())
        .collect();
    let question = |from: Value| json!({"from": from, "to": ["id=app1"], "dports": ["80/TCP", "53"], "verbose": true});
    assert_eq!(bodies, [question(json!(["id=app2", "env=x"])), question(json!(["container:id=app1"]))]);
    let ran = agent.cilium(&["policy", "trace", "-s", "a", "-d", "b", "-o", "json"]).succeeded();
    assert_eq!(ran.json()["verdict"], "allowed");
}

#[test]
fn waiting_ends_when_all_endpoints_have_the_revision() {
    let agent = FakeAgent::start();
    let request = "GET /v1/policy/wait?revision=5";
    agent.answer(request, &json!({"revision": 5, "at_revision": 2, "endpoints": 2}));
    agent.cilium(&["policy", "wait", "5"]).succeeded();
    agent.answer(request, &json!({"revision": 5, "at_revision": 1, "endpoints": 2}));
    agent.answer("GET /v1/endpoint", &json!([]));
    let ran = agent.cilium(&["policy", "wait", "5", "--max-wait-time", "0"]).failed_with(1);
    assert_eq!(ran.stdout, "Waiting for endpoints to run policy revision 5: 1/2\n");
    assert!(ran.stderr.contains("not enforced by all endpoints within 0 s: 1/2"), "{ran:?}");
}

#[test]
fn waiting_gives_up_on_failing_endpoints() {
    let agent = FakeAgent::start();
    agent.answer("GET /v1/policy/wait?revision=5", &json!({"revision": 5, "at_revision": 1, "endpoints": 2}));
    let failing = json!([{
        "id": 9, "docker-endpoint-id": "e", "docker-network-id": "f", "container-id": null, "container-name": null,
        "state": "not-ready", "failure": "no space left", "identity": {"id": 5, "labels": []},
        "labels": {"security-relevant": [], "disabled": []}, "ipv4": null, "ipv6": null, "gateway4": null, "gateway6": null,
        "mac": "02:42:0a:0f:00:02", "node-mac": "02:00:00:00:00:01", "interface-name": "", "peer-interface-name": "",
        "mtu": 1500, "policy": {"enabled": "none", "revision": 0}, "created": 1,
    }]);
    agent.answer("GET /v1/endpoint", &failing);
    let ran = agent.cilium(&["policy", "wait", "5", "--fail-wait-time", "0"]).failed_with(1);
    assert!(ran.stderr.contains("endpoint 9: no space left"), "{ran:?}");
}

const PUBLIC_ONLY: &str = r#"
kind: CiliumNetworkPolicy
metadata: {name: public-only}
spec:
  endpointSelector: {matchLabels: {id: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {id: job}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: GET, path: /public}]}
"#;

#[test]
fn policies_are_tested_without_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("public-only.yaml"), PUBLIC_ONLY).unwrap();
    let world = |expected: &str| {
        let labels =
            |id: &str| json!({"labels": [format!("container:id={id}"), "k8s:io.kubernetes.pod.namespace=default"]});
        json!({"policies": [{"file": "public-only.yaml"}], "endpoints": {"web": labels("web"), "job": labels("job")},
            "cases": [{"name": "secret", "from": {"endpoint": "job"}, "to": {"endpoint": "web"}, "port": 80, "protocol": "TCP",
                       "http": {"path": "/secret"}, "expect": expected}]})
        .to_string()
    };
    std::fs::write(folder.path().join("test.json"), world("denied")).unwrap();
    let path = folder.path().to_str().unwrap();
    let ran = cilium(&["policy", "test", path]).succeeded();
    assert_eq!(ran.stdout, format!("ok    {path}/test.json: secret\n1 passed, 0 failed\n"));
    std::fs::write(folder.path().join("test.json"), world("allowed")).unwrap();
    let ran = cilium(&["policy", "test", path]);
    assert_eq!((ran.code, ran.stdout.lines().last()), (1, Some("0 passed, 1 failed")), "{ran:?}");
    let ran = cilium(&["policy", "test", path, "-o", "json"]);
    assert_eq!((ran.code, &ran.json()["files"][0]["cases"][0]["answer"]), (1, &json!("denied")), "{ran:?}");
    let ran = cilium(&["policy", "test", path, "-o", "junit"]);
    assert!(ran.code == 1 && ran.stdout.contains("<failure message=\"expected allowed, was denied\">"), "{ran:?}");
    cilium(&["policy", "test", "/nonexistent"]).failed_with(1);
}

#[test]
fn rules_in_files_are_traced_without_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    std::fs::write(&file, PUBLIC_ONLY).unwrap();
    let namespace = "k8s:io.kubernetes.pod.namespace=default";
    let (from, to) = (format!("id=job,{namespace}"), format!("id=web,{namespace}"));
    let trace = |more: &[&str]| {
        let arguments =
            ["policy", "trace", "--policy", file.to_str().unwrap(), "-s", &from, "-d", &to, "--dport", "80/TCP"];
        cilium(&[&arguments[..], more].concat()).succeeded().stdout
    };
    let text = trace(&["--http", "GET /public"]);
    assert!(text.contains("Redirected to the parser http:\n") && text.ends_with("Final verdict: ALLOWED\n"), "{text}");
    let text = trace(&["--http", "GET /secret", "--http-header", "X-Id: 42", "--http-host", "web"]);
    assert!(text.contains("  GET /secret of web is refused: the one request rule does not match\n"), "{text}");
    assert!(text.contains("Ingress verdict: denied\n\nFinal verdict: DENIED\n"), "{text}");
    assert!(trace(&[]).ends_with("Final verdict: REDIRECTED\n"));
    let value: Value = serde_json::from_str(&trace(&["-o", "json", "--enforcement", "never"])).unwrap();
    assert_eq!(value["verdict"], "allowed");
}

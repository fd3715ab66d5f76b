//! Services: what is asked of the agent, and the words that people and scripts know.

use crate::agent::FakeAgent;
use serde_json::{Value, json};

const UPDATE: [&str; 7] =
    ["service", "update", "--id", "1", "--frontend", "10.96.0.10:80", "--backends=10.15.0.11:80,10.15.0.12:80/5"];

/// What the agent answers to the service of `UPDATE`.
fn service() -> Value {
    let backend =
        |ip: &str, weight: u16| json!({"ip": ip, "port": 80, "protocol": "TCP", "weight": weight, "state": "active"});
    let spec = json!({
        "id": 1, "frontend-address": {"ip": "10.96.0.10", "protocol": "TCP", "port": 80},
        "backend-addresses": [backend("10.15.0.11", 100), backend("10.15.0.12", 5)],
        "flags": {"type": "ClusterIP", "extTrafficPolicy": "Cluster", "intTrafficPolicy": "Cluster"},
    });
    json!({"spec": spec, "status": {"realized": spec}})
}

fn sent(agent: &FakeAgent) -> Value {
    let asked = agent.asked();
    let put = asked.iter().rev().find(|asked| asked.line.starts_with("PUT")).unwrap();
    serde_json::from_str(&put.body).unwrap()
}

#[test]
fn a_new_service_and_an_old_one() {
    let agent = FakeAgent::start();
    agent.answer_raw("PUT /v1/service/1", 201, &service().to_string());
    let ran = agent.cilium(&UPDATE).succeeded();
    assert_eq!(ran.stdout, "Creating new service with id '1'\nAdded service with 2 backends\n");
    assert_eq!(sent(&agent), service()["spec"]);
    agent.answer("GET /v1/service/1", &service());
    agent.answer("PUT /v1/service/1", &service());
    let ran = agent.cilium(&UPDATE).succeeded();
    assert_eq!(ran.stdout, "Updating existing service with id '1'\nAdded service with 2 backends\n");
    let mut json_form = UPDATE.to_vec();
    json_form.extend(["-o", "json"]);
    assert_eq!(agent.cilium(&json_form).succeeded().json(), service());
}

#[test]
fn all_that_can_be_said_of_a_service() {
    let agent = FakeAgent::start();
    agent.answer("PUT /v1/service/9", &service());
    let arguments = "service update --id 9 --frontend [::]:30053 --protocol udp --k8s-node-port --backends [f00d::5]:53,[f00d::6]:53 \
        --backend-weights 1,0 --states active,maintenance --k8s-traffic-policy Local --int-traffic-policy Local \
        --session-affinity 600 --source-ranges 192.0.2.0/24,2001:db8::/32 --prefer-same-node --algorithm maglev";
    agent.cilium(&arguments.split_whitespace().collect::<Vec<_>>()).succeeded();
    let backend = |ip: &str, weight: u16, state: &str| json!({"ip": ip, "port": 53, "protocol": "UDP", "weight": weight, "state": state});
    let expected = json!({
        "id": 9, "frontend-address": {"ip": "::", "protocol": "UDP", "port": 30053},
        "backend-addresses": [backend("f00d::5", 1, "active"), backend("f00d::6", 0, "maintenance")],
        "flags": {"type": "NodePort", "extTrafficPolicy": "Local", "intTrafficPolicy": "Local", "sessionAffinity": 600,
            "sourceRanges": ["192.0.2.0/24", "2001:db8::/32"], "preferSameNode": true, "algorithm": "maglev"},
    });
    assert_eq!(sent(&agent), expected);
}

#[test]
fn wrong_uses_ask_nothing() {
    let agent = FakeAgent::start();
    for arguments in [
        "service update --id 0 --frontend 10.96.0.10:80",
        "service update --id 1 --frontend 10.96.0.10",
        "service update --id 1 --frontend 10.96.0.10:80 --backends 10.15.0.11",
        "service update --id 1 --frontend 10.96.0.10:80 --backends 10.15.0.11:80 --states active,active",
        "service update --id 1 --frontend 10.96.0.10:80 --type HostPort",
        "service delete",
        "service delete 1 --all",
    ] {
        agent.cilium(&arguments.split_whitespace().collect::<Vec<_>>()).failed_with(2);
    }
    assert!(agent.asked().is_empty());
}

#[test]
fn a_service_that_this_node_does_not_answer_ends_with_one() {
    let agent = FakeAgent::start();
    let mut service = service();
    service["status"] = json!({"failure": "10.96.0.10 is an address of this host"});
    agent.answer("PUT /v1/service/1", &service);
    let ran = agent.cilium(&UPDATE).failed_with(1);
    assert_eq!(ran.stderr, "Service 1 is kept, but not answered by this node: 10.96.0.10 is an address of this host\n");
    agent.refuse("PUT /v1/service/1", 460, "service 1 is registered to 10.96.0.9:80/TCP already: choose another id");
    let ran = agent.cilium(&UPDATE).failed_with(1);
    assert!(ran.stderr.starts_with("Cannot update service 1: service 1 is registered to"), "{ran:?}");
}

#[test]
fn list_and_get() {
    let agent = FakeAgent::start();
    agent.answer("GET /v1/service", &json!([service()]));
    agent.answer("GET /v1/service/1", &service());
    let expected = "\
ID   Frontend            Service Type   Backend
1    10.96.0.10:80/TCP   ClusterIP      1 => 10.15.0.11:80/TCP (active)
                                        2 => 10.15.0.12:80/TCP (active) (W: 5)
";
    assert_eq!(agent.cilium(&["service", "list"]).succeeded().stdout, expected);
    let got = agent.cilium(&["service", "get", "1", "-o", "json"]).succeeded().json();
    assert_eq!(got["status"]["realized"], service()["spec"]);
    let got = agent.cilium(&["service", "get", "1"]).succeeded().stdout;
    assert!(got.starts_with("10.96.0.10:80/TCP =>\n") && got.contains("1 => 10.15.0.11:80/TCP (1)"), "{got:?}");
}

#[test]
fn delete_says_so_and_all_leaves_published_ports() {
    let agent = FakeAgent::start();
    let mut published = service();
    published["spec"]["id"] = json!(16_777_216);
    published["spec"]["flags"]["type"] = json!("HostPort");
    agent.answer("GET /v1/service", &json!([service(), published]));
    agent.answer("DELETE /v1/service/1", &Value::Null);
    for arguments in [["service", "delete", "1"], ["service", "delete", "--all"]] {
        assert_eq!(agent.cilium(&arguments).succeeded().stdout, "Service 1 deleted successfully\n");
    }
}

#[test]
fn files_are_imported_as_a_whole() {
    let agent = FakeAgent::start();
    let answer =
        json!({"services": [{"namespace": "shop", "name": "web", "ids": [1, 2], "created": true, "changed": true}]});
    agent.answer("PUT /v1/service", &answer);
    let path = agent.folder().join("services.yaml");
    std::fs::write(
        &path,
        "kind: Service\nmetadata: {name: web, namespace: shop}\n---\nkind: Endpoints\nmetadata: {name: web}\n",
    )
    .unwrap();
    let name = path.to_str().unwrap();
    let ran = agent.cilium(&["service", "import", name]).succeeded();
    assert_eq!(ran.stdout, "Service shop/web created, ids 1, 2\n");
    let expected = json!([
        {"kind": "Service", "metadata": {"name": "web", "namespace": "shop"}}, {"kind": "Endpoints", "metadata": {"name": "web"}},
    ]);
    assert_eq!(sent(&agent), expected);
    let refused = json!({"error": "the services are not possible; nothing was changed",
        "details": [{"path": "[1].subsets", "message": "a list is needed"}]});
    agent.answer_raw("PUT /v1/service", 400, &refused.to_string());
    let ran = agent.cilium(&["service", "import", name]).failed_with(1);
    assert!(ran.stderr.contains(&format!("{name}: [1].subsets: a list is needed")), "{ran:?}");
    std::fs::write(&path, "kind: [").unwrap();
    let before = agent.asked().len();
    agent.cilium(&["service", "import", name]).failed_with(1);
    assert_eq!(agent.asked().len(), before, "what cannot be read is not sent");
}

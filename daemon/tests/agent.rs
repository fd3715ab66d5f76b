//! The built agent, started in network and mount namespaces of its own: what survives what, and what is refused.
#![allow(clippy::unwrap_used)] // a test that cannot go on says where

mod world;

use serde_json::{Value, json};
use std::time::Duration;
use world::World;

const RULES: &str = r#"[{"labels": [{"key": "name", "value": "r"}], "endpointSelector": {"matchLabels": {"id": "a"}},
    "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "b"}}], "toPorts": [{"ports": [{"port": "80"}]}]}]}]"#;

#[test]
#[ignore = "needs root: make test"]
fn a_second_agent_on_the_same_folders_is_refused() {
    let mut world = World::new();
    world.start(&[]);
    let second = world.run_to_end(&[]);
    assert_eq!(second.status.code(), Some(1));
    let message = String::from_utf8_lossy(&second.stderr);
    assert!(message.contains("another cilium-agent (process"), "{message}");
    assert_eq!(world.get("/v1/healthz")["node"], json!("n1"), "the first goes on");
}

#[test]
#[ignore = "needs root: make test"]
fn an_endpoint_is_in_the_kernel_when_it_is_answered_and_gone_when_it_is_deleted() {
    let mut world = World::new();
    world.start(&[]);
    let endpoint = world.endpoint("e1");
    let device = endpoint["interface-name"].as_str().unwrap().to_owned();
    let peer = endpoint["peer-interface-name"].as_str().unwrap().to_owned();
    assert!(world.has_device(&device) && world.has_device(&peer));
    assert_eq!(endpoint["identity"]["labels"], json!(["reserved:init"]));
    let kernels = world.get("/v1/bpf/endpoint");
    assert_eq!(kernels[0]["ip"][0], endpoint["ipv4"]);

    let labels = json!({"container-name": "app", "container-labels": {"id": "a"}});
    world.call("PATCH", "/v1/endpoint/docker-endpoint:e1", Some(labels)).unwrap();
    let endpoint = world.ready("e1");
    assert_eq!(endpoint["identity"]["labels"], json!(["container:id=a"]));
    assert_eq!(world.get("/v1/endpoint/container-name:app")["id"], endpoint["id"]);

    for _ in 0..2 {
        world.call("DELETE", "/v1/endpoint/docker-endpoint:e1", None).unwrap();
    }
    world.until("the device is gone", |world| !world.has_device(&device) && !world.has_device(&peer));
    assert_eq!(world.get("/v1/bpf/endpoint"), json!([]));
}

#[test]
#[ignore = "needs root: make test"]
fn what_was_told_survives_a_kill() {
    let mut world = World::new();
    world.start(&[]);
    world.call_raw("PUT", "/v1/policy?wait=true", RULES).unwrap();
    let before = world.endpoint("e1");
    let labels = json!({"sandbox": "/proc/1/ns/net", "container-labels": {"id": "a"}});
    world.call("PATCH", "/v1/endpoint/docker-endpoint:e1", Some(labels)).unwrap();
    let before_identity = world.ready("e1")["identity"].clone();
    let address = world.address("node-ipv4");
    let programs = world.programs();
    assert!(!programs.is_empty());

    world.kill();
    assert_eq!(world.programs(), programs, "what is in the kernel goes on without the agent");
    world.start(&[]);
    let after = world.ready("e1");
    for field in ["id", "ipv4", "ipv6", "mac", "interface-name"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(after["identity"], before_identity);
    assert_eq!(after["policy"], json!({"enabled": "ingress", "revision": 2}));
    assert_eq!(world.get("/v1/policy")["rules"][0]["labels"][0]["value"], json!("r"));
    assert_ne!(world.address("node-ipv4"), address, "an address that was given out is not given out again");
    assert!(world.has_device(before["interface-name"].as_str().unwrap()));
}

#[test]
#[ignore = "needs root: make test"]
fn a_bad_policy_changes_nothing_and_names_every_fault() {
    let mut world = World::new();
    world.start(&[]);
    world.call_raw("PUT", "/v1/policy", RULES).unwrap();
    let bad = r#"[{"endpointSelector": {}, "ingress": [{}]},
        {"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "http!"}], "rulez": {}}]}]}]"#;
    let (status, body) = world.call_raw("PUT", "/v1/policy", bad).unwrap_err();
    let paths: Vec<&str> =
        body["details"].as_array().unwrap().iter().filter_map(|fault| fault["path"].as_str()).collect();
    assert_eq!(status, 400, "{body}");
    assert!(paths.iter().any(|path| path.starts_with("[1].ingress[0].toPorts[0]")), "{body}");
    let http = r#"[{"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}],
        "rules": {"http": [{"method": "GET"}]}}]}]}]"#;
    let (status, body) = world.call_raw("PUT", "/v1/policy", http).unwrap_err();
    assert!(status == 400 && body.to_string().contains("http"), "{body}");
    assert_eq!(world.get("/v1/policy")["revision"], json!(2));
    assert_eq!(world.call("DELETE", "/v1/policy?label=name%3Dother", None).unwrap_err().0, 404);
    assert_eq!(world.call("DELETE", "/v1/policy", None).unwrap_err().0, 400);
    assert_eq!(world.call("DELETE", "/v1/policy?all=true", None).unwrap()["removed"], json!(1));
}

#[test]
#[ignore = "needs root: make test"]
fn requests_that_make_no_sense_are_told_apart() {
    let mut world = World::new();
    world.start(&[]);
    let cases = [
        ("GET", "/v1/nothing", None, 404),
        ("POST", "/v1/endpoint", None, 405),
        ("GET", "/v1/endpoint/abc", None, 400),
        ("GET", "/v1/endpoint/77", None, 404),
        ("GET", "/v1/identity/x", None, 400),
        ("GET", "/v1/identity/4242", None, 404),
        ("GET", "/v1/policy?labl=x", None, 400),
        ("PUT", "/v1/endpoint", Some(json!({"docker-endpoint-id": "x"})), 400),
        ("PUT", "/v1/endpoint", None, 400),
        ("PATCH", "/v1/endpoint/docker-endpoint:none", Some(json!({})), 404),
        ("PATCH", "/v1/endpoint/docker-endpoint:none", Some(json!({"colour": 1})), 400),
        ("POST", "/v1/ipam/address", Some(json!({"pool": "none", "address": null, "owner": "x"})), 404),
        ("POST", "/v1/ipam/pool", Some(json!({"family": "ipv4", "subnet": "10.15.3.0/24", "range": null})), 409),
        ("DELETE", "/v1/ipam/address/none/10.0.0.1", None, 200),
        ("DELETE", "/v1/ipam/address/none/x", None, 400),
        ("GET", "/v1/map/none", None, 404),
        ("PUT", "/v1/kvstore?key=registry/x", Some(json!({"value": ""})), 403),
        ("GET", "/v1/kvstore?key=cilium/none", None, 404),
        ("PATCH", "/v1/config", Some(json!({"policy-enforcement": "maybe"})), 400),
    ];
    for (method, path, body, expected) in cases {
        let status = world.call(method, path, body).map_or_else(|(status, _)| status, |_| 200);
        assert_eq!(status, expected, "{method} {path}");
    }
    assert_eq!(world.get("/v1/endpoint"), json!([]), "none of it left anything behind");
}

#[test]
#[ignore = "needs root: make test"]
fn an_unreadable_store_is_set_aside_and_said() {
    let mut world = World::new();
    std::fs::create_dir_all(world.path("lib")).unwrap();
    std::fs::write(world.path("lib/cilium.db"), "this is no store").unwrap();
    world.start(&[]);
    let health = world.get("/v1/healthz");
    let warnings = std::fs::read_to_string(world.path("agent.log")).unwrap();
    assert!(warnings.contains("was not readable"), "{warnings}");
    assert_ne!(health["cilium"]["state"], json!("Ok"));
    let kept = std::fs::read_dir(world.path("lib")).unwrap().flatten();
    let kept: Vec<_> = kept.filter(|entry| entry.file_name().to_string_lossy().contains("corrupt")).collect();
    assert_eq!(std::fs::read_to_string(kept[0].path()).unwrap(), "this is no store");
}

#[test]
#[ignore = "needs root: make test"]
fn nothing_is_promised_that_the_disk_does_not_hold() {
    let mut world = World::new();
    world.shell("mount -t tmpfs -o size=1m none $W/lib");
    world.start(&[]);
    let first = world.address("node-ipv4");
    world.shell("dd if=/dev/zero of=$W/lib/ballast bs=4k 2>/dev/null; true");
    let mut refused = None;
    // The store may have room set aside within its file; that ends.
    for _ in 0..4000 {
        if let Err((status, body)) = world.try_address("node-ipv4") {
            refused = Some((status, body));
            break;
        }
    }
    let (status, body) = refused.expect("a full disk is noticed");
    assert_eq!(status, 507, "{body}");
    let taken = |world: &World| world.get("/v1/ipam/pool").as_array().unwrap()[0]["allocated"].as_u64().unwrap();
    let before = taken(&world);
    world.shell("rm $W/lib/ballast");
    world.until("the store works again", |world| world.try_address("node-ipv4").is_ok());
    assert_eq!(taken(&world), before + 1, "what was refused was not kept");
    world.kill();
    world.start(&[]);
    assert_eq!(taken(&world), before + 1, "and what was answered is there after a kill");
    assert_ne!(world.address("node-ipv4"), first);
}

#[test]
#[ignore = "needs root: make test"]
fn a_terminated_agent_leaves_quietly_and_cleanup_takes_the_rest() {
    let mut world = World::new();
    let links = world.shell("ip -o link | wc -l");
    world.start(&[]);
    world.endpoint("e1");
    let running = world.run_to_end(&["cleanup", "--force"]);
    assert!(!running.status.success(), "cleanup refuses while an agent runs");
    assert!(world.terminate().success());
    assert!(!world.path("run/cilium.sock").exists() && !world.path("plugins/cilium.sock").exists());
    assert!(!world.programs().is_empty(), "programs stay");
    let unasked = world.run_to_end(&["cleanup"]);
    assert!(!unasked.status.success() && !world.programs().is_empty(), "without a terminal nothing is done");
    let cleaned = world.run_to_end(&["cleanup", "--all-state", "--force"]);
    assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
    assert!(world.programs().is_empty());
    assert_eq!(world.shell("ip -o link | wc -l"), links);
    assert!(!world.path("lib").exists());
}

#[test]
#[ignore = "needs root: make test"]
fn events_are_streamed_with_the_labels_of_both_sides() {
    let mut world = World::new();
    world.start(&[]);
    let mut monitor = world.monitor();
    assert_eq!(monitor.next_record()["record"], json!("hello"));
    let endpoint = world.endpoint("e1");
    let notice = monitor.until(|record| record["record"] == json!("agent"));
    assert!(notice["subject"].as_str().unwrap().starts_with("endpoint 1"), "{notice}");
    // A host that is not let in: enforcement is on, and no rule says anything.
    world.call("PATCH", "/v1/config", Some(json!({"policy-enforcement": "always"}))).unwrap();
    world.until("it is enforced", |world| world.get("/v1/endpoint/1")["policy"]["enabled"] == json!("both"));
    world.shell(&format!("ping -c 1 -W 1 {}; true", endpoint["ipv4"].as_str().unwrap()));
    let drop = monitor.until(|record| record["type"] == json!("drop") && record["packet"]["protocol"] == json!(1));
    assert_eq!(drop["reason"], json!(133), "{drop}");
    assert_eq!(drop["source_labels"], json!(["reserved:host"]));
    assert_eq!(drop["destination_labels"], json!(["reserved:init"]));
    let metrics = world.text("/v1/metrics");
    assert!(metrics.contains("cilium_drop_count_total{reason=\"Policy denied\",direction=\"Ingress\"}"), "{metrics}");
}

#[test]
#[ignore = "needs root: make test"]
fn secrets_are_in_no_report() {
    let mut world = World::new();
    let options = [
        "--kvstore=etcd",
        "--kvstore-opt=etcd.address=127.0.0.1:9",
        "--kvstore-opt=etcd.user=u",
        "--kvstore-opt=etcd.password=hunter2",
    ];
    world.start(&options);
    for path in ["/v1/debuginfo", "/v1/config", "/v1/healthz"] {
        let report = world.get(path).to_string();
        assert!(!report.contains("hunter2"), "{path}");
    }
    assert!(!std::fs::read_to_string(world.path("agent.log")).unwrap().contains("hunter2"));
}

#[test]
#[ignore = "needs root: make test"]
fn an_unreachable_kvstore_stops_nothing_that_was_known() {
    let mut world = World::new();
    let options = ["--kvstore=etcd", "--kvstore-opt=etcd.address=127.0.0.1:9", "--enable-health-checking=false"];
    world.start(&options);
    world.until("the kvstore is said to be away", |world| {
        world.get("/v1/healthz")["kvstore"]["state"] == json!("Failure")
    });
    // Addresses are this node's own business.
    let address = world.address("node-ipv4");
    assert!(address.starts_with("10."));
    // No policy was ever known here: an endpoint would be open.
    let (status, body) = world.try_endpoint("e1").unwrap_err();
    assert!(status == 504 && body.to_string().contains("policy is not known"), "{status} {body}");
    assert_eq!(world.get("/v1/endpoint"), json!([]));
    let (status, _) = world.call_raw("PUT", "/v1/policy", RULES).unwrap_err();
    assert_eq!(status, 503);
    assert!(world.terminate().success());
}

#[test]
fn every_fault_of_the_configuration_is_told_at_once() {
    let output = world::agent(&["--mtu=1", "--enable-policy=x", "--kvstore=consul"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    for word in ["mtu", "enable-policy", "consul"] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(world::agent(&["--no-such-flag"]).output().unwrap().status.code(), Some(2));
    assert!(world::agent(&["--print-config"]).output().unwrap().status.success());
}

/// Keeps the time limit of the whole file in one place.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What an answer that is no success carries.
pub type Refused = (u16, Value);

//! The transport: what arrives on the socket, in whatever shape, is answered. The traces are real calls of real engines.

use super::*;
use crate::rig::{ENDPOINT, NETWORK, Rig, eventually};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn the_handshake_needs_no_body_and_no_agent() {
    let rig = Rig::alone();
    for (path, expected) in [
        ("/Plugin.Activate", json!({"Implements": ["NetworkDriver", "IpamDriver"]})),
        ("/NetworkDriver.GetCapabilities", json!({"Scope": "local", "ConnectivityScope": "global"})),
        ("/IpamDriver.GetCapabilities", json!({"RequiresMACAddress": false, "RequiresRequestReplay": false})),
    ] {
        let (status, body) = rig.raw("POST", path, "").await;
        assert_eq!((status, serde_json::from_slice::<Value>(&body).unwrap()), (200, expected));
    }
    let (_, spaces) = rig.raw("POST", "/IpamDriver.GetDefaultAddressSpaces", "").await;
    let spaces: Value = serde_json::from_slice(&spaces).unwrap();
    assert_eq!(spaces["LocalDefaultAddressSpace"], spaces["GlobalDefaultAddressSpace"]);
}

#[tokio::test]
async fn what_is_no_call_is_refused() {
    let rig = Rig::alone();
    assert_eq!(rig.raw("POST", "/NetworkDriver.Nope", "{}").await.0, 404);
    assert_eq!(rig.raw("GET", "/NetworkDriver.Join", "").await.0, 405);
    for method in Method::ALL.into_iter().filter(|method| !bodyless(*method)) {
        for body in
            ["", "\n", "null", "[]", "{", "{\"NetworkID\":7,\"PoolID\":7,\"V6\":7,\"Options\":7,\"DiscoveryType\":[]}"]
        {
            let (status, answer) = rig.raw("POST", method.path(), body).await;
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(status, 500, "{} {body:?}", method.path());
            assert!(answer["Err"].as_str().is_some_and(|text| !text.is_empty()) && answer["Err"] == answer["Error"]);
        }
    }
    let stats = rig.stats.calls();
    assert!(stats.iter().all(|row| row.count == row.errors && row.count == 6), "{stats:?}");
}

fn bodyless(method: Method) -> bool {
    use Method::{Activate, DefaultAddressSpaces, IpamCapabilities, NetworkCapabilities};
    matches!(method, Activate | NetworkCapabilities | IpamCapabilities | DefaultAddressSpaces)
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let rig = Rig::alone();
    let (status, _) = rig.raw("POST", "/NetworkDriver.Leave", vec![b' '; LARGEST_BODY + 1]).await;
    assert_eq!(status, 500);
}

#[tokio::test]
async fn a_broken_request_ends_its_connection_and_no_other() {
    let rig = Rig::alone();
    let mut stream = UnixStream::connect(rig.socket()).await.unwrap();
    stream.write_all(b"\0\xff this is not HTTP\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    assert!(said.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&said));
    assert_eq!(rig.raw("POST", "/Plugin.Activate", "").await.0, 200);
}

/// Docker keeps its connections; the answer of a call must not wait for another's.
#[tokio::test]
async fn a_slow_call_holds_up_no_other_and_fails_in_time() {
    let (rig, agent) = Rig::with_agent();
    rig.network(false).await;
    agent.slow_down("PUT /v1/endpoint", Duration::from_secs(3));
    let slow = rig.endpoint("10.1.0.7/32", "", "");
    let quick = async {
        eventually("the slow call", || agent.requests().last().is_some_and(|line| line == "PUT /v1/endpoint")).await;
        rig.raw("POST", "/Plugin.Activate", "").await.0
    };
    let order = std::sync::Mutex::new(Vec::new());
    let (said, status) = tokio::join!(
        async {
            let said = slow.await;
            order.lock().unwrap().push("slow");
            said
        },
        async {
            let status = quick.await;
            order.lock().unwrap().push("quick");
            status
        }
    );
    assert_eq!((status, order.into_inner().unwrap()), (200, vec!["quick", "slow"]));
    assert!(said.unwrap_err().contains("within 1.8s"));
    // Docker has given the endpoint up: what the agent made after all is taken away.
    eventually("the endpoint to be taken back", || agent.world().endpoints.is_empty()).await;
    assert!(agent.requests().contains(&format!("DELETE /v1/endpoint/docker-endpoint:{ENDPOINT}")));
}

#[tokio::test]
async fn an_address_that_comes_too_late_is_given_back() {
    let (rig, agent) = Rig::with_agent();
    rig.network(false).await;
    let before = agent.world().addresses.len();
    agent.slow_down("POST /v1/ipam/address", Duration::from_secs(3));
    let id = agent.world().pools.keys().find(|id| id.starts_with("10.1.")).unwrap().clone();
    let said = rig.call("/IpamDriver.RequestAddress", json!({"PoolID": id, "Address": ""})).await.unwrap_err();
    assert!(said.contains("within"), "{said}");
    assert_eq!(agent.world().addresses.len(), before + 1);
    eventually("the address to be given back", || agent.world().addresses.len() == before).await;
}

#[tokio::test]
async fn a_call_waits_for_an_agent_that_is_starting() {
    let rig = Rig::alone();
    let request = rig.call("/IpamDriver.RequestPool", json!({"Pool": "10.1.0.0/16"}));
    let starting = async {
        tokio::task::yield_now().await;
        rig.start_agent()
    };
    let (given, _agent) = tokio::join!(request, starting);
    assert_eq!(given.unwrap()["Pool"], "10.1.0.0/16");
}

#[tokio::test]
async fn an_agent_that_never_comes_is_named() {
    let rig = Rig::alone();
    let said = rig.call("/IpamDriver.RequestPool", json!({"Pool": "10.1.0.0/16"})).await.unwrap_err();
    assert!(said.contains("is cilium-agent running?"), "{said}");
}

#[tokio::test]
async fn stopping_answers_what_is_in_flight_and_removes_the_socket() {
    let (rig, agent) = Rig::with_agent();
    agent.slow_down("GET /v1/network", Duration::from_millis(300));
    let in_flight = async {
        let said = rig.endpoint("10.1.0.7/32", "", "").await;
        assert!(said.unwrap_err().contains(NETWORK));
    };
    let stop = async {
        eventually("the call", || agent.requests().iter().any(|line| line == "GET /v1/network")).await;
        rig.shutdown.cancel();
    };
    tokio::join!(in_flight, stop);
    eventually("the plugin to end", || rig.served.is_finished()).await;
    assert!(!rig.socket().exists());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// JSON values as odd as they come, under the names that the methods read.
fn odd_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(Value::from("10.1.0.0/16")),
        Just(Value::from("f00d::1/128")),
        Just(Value::from("0123456789ab")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let name = prop_oneof![
            Just("NetworkID".to_owned()),
            Just("EndpointID".to_owned()),
            Just("PoolID".to_owned()),
            Just("Pool".to_owned()),
            Just("Address".to_owned()),
            Just("Interface".to_owned()),
            Just("IPv4Data".to_owned()),
            Just("Options".to_owned()),
            Just("SandboxKey".to_owned()),
            Just("com.docker.network.generic".to_owned()),
            Just("com.docker.network.portmap".to_owned()),
            Just("V6".to_owned()),
            ".{0,8}",
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name, inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_body_is_answered(bodies in proptest::collection::vec((0..Method::ALL.len(), odd_json()), 1..24), noise in any::<Vec<u8>>()) {
        runtime().block_on(async {
            let (rig, _agent) = Rig::with_agent();
            let _docker = rig.start_docker();
            let noisy = Method::ALL.map(|method| (method, noise.clone()));
            let odd = bodies.into_iter().map(|(method, body)| (Method::ALL[method], body.to_string().into_bytes()));
            for (method, body) in odd.chain(noisy) {
                let (status, answer) = rig.raw("POST", method.path(), body).await;
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                assert!(status == 200 || (status == 500 && answer["Err"] == answer["Error"]), "{status} {answer}");
                assert!(answer["Err"] != "the call broke off inside the plugin: see the agent's log");
            }
        });
    }
}

/// One line of a trace: a call, and what the plugin of the recording gave.
#[derive(serde::Deserialize)]
struct Recorded {
    path: String,
    request: Value,
    #[serde(default)]
    given: BTreeMap<String, String>,
}

/// Replays a recording. What the recorded plugin gave is replaced by what ours gives; what ours refuses by design is
/// asked without it again. Gives the refusals.
async fn replay(trace: &str) -> BTreeSet<String> {
    let (rig, agent) = Rig::with_agent();
    let mut ours = BTreeMap::new();
    let mut refusals = BTreeSet::new();
    let mut living = BTreeSet::new();
    for line in trace.lines() {
        let Recorded { path, mut request, given } = serde_json::from_str(line).unwrap();
        substitute(&mut request, &ours);
        let mut done = rig.call(&path, request.clone()).await;
        if done.is_err() && without_options(&mut request) {
            refusals.insert(refusal(&path, &done.unwrap_err()));
            done = rig.call(&path, request.clone()).await;
        }
        let endpoint = request["EndpointID"].as_str().unwrap_or_default().to_owned();
        match (path.as_str(), &done) {
            ("/NetworkDriver.CreateEndpoint", Ok(_)) => assert!(living.insert(endpoint)),
            ("/NetworkDriver.DeleteEndpoint", Ok(_)) => drop(living.remove(&endpoint)),
            ("/NetworkDriver.Join", Ok(joined)) => assert!(joined["InterfaceName"]["SrcName"].is_string()),
            _ => {}
        }
        match done {
            Ok(answer) => remember(&mut ours, given, &answer),
            Err(said) => drop(refusals.insert(refusal(&path, &said))),
        }
    }
    let left: BTreeSet<String> = agent.world().endpoints.keys().cloned().collect();
    assert_eq!(left, living);
    refusals
}

fn substitute(value: &mut Value, ours: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(own) = ours.get(text) {
                *text = own.clone();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| substitute(value, ours)),
        Value::Object(map) => map.values_mut().for_each(|value| substitute(value, ours)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn without_options(request: &mut Value) -> bool {
    let had = request["Options"].as_object().is_some_and(|options| !options.is_empty());
    if let Some(request) = request.as_object_mut() {
        request.insert("Options".to_owned(), json!({}));
    }
    had
}

fn remember(ours: &mut BTreeMap<String, String>, given: BTreeMap<String, String>, answer: &Value) {
    let bare = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
    for (name, recorded) in given {
        let Some(own) = answer[&name].as_str() else { continue };
        if name == "Address" {
            ours.insert(bare(&recorded), bare(own));
        }
        ours.insert(recorded, own.to_owned());
    }
}

/// `Method: what it said`, without ids.
fn refusal(path: &str, said: &str) -> String {
    let id = |word: &str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words: Vec<_> = said.split(' ').map(|word| if id(word) { "ID" } else { word }).collect();
    format!("{}: {}", path.trim_start_matches('/'), words.join(" "))
}

/// What ours refuses by design in both recordings.
const REFUSED: [&str; 2] = [
    "IpamDriver.RequestPool: IPAM option \"ik\" is not known to this driver; it knows none",
    "NetworkDriver.CreateNetwork: network option \"k1\" is not known to this driver; it knows mtu (or \
     com.docker.network.driver.mtu)",
];

/// In one recording alone: more options, and networks whose addresses came from Docker's own IPAM, with what was tried
/// on them.
const REFUSED_20_10: [&str; 7] = [
    "IpamDriver.RequestPool: IPAM option \"io\" is not known to this driver; it knows none",
    "NetworkDriver.CreateEndpoint: network ID is not known to the agent, and Docker could not be asked: read a network: \
     No such file or directory (os error 2)",
    "NetworkDriver.CreateNetwork: 10.18.0.0/16 was not given by this driver's IPAM: create the network with \
     --ipam-driver cilium",
    "NetworkDriver.CreateNetwork: 10.19.0.0/16 was not given by this driver's IPAM: create the network with \
     --ipam-driver cilium",
    "NetworkDriver.CreateNetwork: network option \"a\" is not known to this driver; it knows mtu (or \
     com.docker.network.driver.mtu)",
    "NetworkDriver.EndpointOperInfo: endpoint ID is not known",
    "NetworkDriver.Join: network ID is not known to the agent, and Docker could not be asked: read a network: No such \
     file or directory (os error 2)",
];

#[tokio::test]
async fn the_calls_of_engine_20_10_are_answered() {
    let expected: BTreeSet<_> = REFUSED.iter().chain(&REFUSED_20_10).map(|text| (*text).to_owned()).collect();
    assert_eq!(replay(include_str!("traces/20.10.jsonl")).await, expected);
}

#[tokio::test]
async fn the_calls_of_engine_26_1_are_answered() {
    let expected: BTreeSet<_> = REFUSED.iter().map(|text| (*text).to_owned()).collect();
    assert_eq!(replay(include_str!("traces/26.1.jsonl")).await, expected);
}

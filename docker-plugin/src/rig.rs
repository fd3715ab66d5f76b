//! The plugin as Docker meets it, for tests: on its socket, between a fake agent and a fake Docker.

use crate::fake_agent::FakeAgent;
use crate::fake_docker::FakeDocker;
use crate::{CallStats, Config, Listener, serve};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const NETWORK: &str = "a1b2c3d4e5f6";
pub(crate) const ENDPOINT: &str = "0123456789ab";

pub(crate) struct Rig {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) stats: Arc<CallStats>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: tokio::task::JoinHandle<Result<(), crate::ServeError>>,
    _guard: DropGuard,
}

impl Rig {
    /// The plugin alone: nobody answers where the agent and Docker should be.
    pub(crate) fn alone() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let listener = Listener::bind(folder.path()).unwrap();
        let client = api::Client::new(folder.path().join("agent.sock"), Duration::from_secs(1));
        let docker_socket = folder.path().join("docker.sock").display().to_string();
        let config = Config { docker_socket, ..Config::default() };
        let (stats, shutdown) = (Arc::new(CallStats::new()), CancellationToken::new());
        let served = tokio::spawn(serve(listener, config, client, stats.clone(), shutdown.clone()));
        Rig { folder, stats, served, _guard: shutdown.clone().drop_guard(), shutdown }
    }

    pub(crate) fn with_agent() -> (Rig, FakeAgent) {
        let rig = Rig::alone();
        let agent = rig.start_agent();
        (rig, agent)
    }

    pub(crate) fn start_agent(&self) -> FakeAgent {
        FakeAgent::start(&self.folder.path().join("agent.sock"))
    }

    pub(crate) fn start_docker(&self) -> FakeDocker {
        FakeDocker::start(&self.folder.path().join("docker.sock"))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("cilium.sock")
    }

    /// Status and body of a call, sent as dockerd sends it: with an empty `Host`, without a content type.
    pub(crate) async fn raw(&self, verb: &str, path: &str, body: impl Into<Bytes>) -> (u16, Bytes) {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(verb)
            .uri(path)
            .header("host", "")
            .header("accept", "application/vnd.docker.plugins.v1.2+json")
            .body(Full::new(body.into()))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    /// The answer of a method, or the text of its refusal, which must stand under both names.
    pub(crate) async fn call(&self, path: &str, body: Value) -> Result<Value, String> {
        let (status, answer) = self.raw("POST", path, format!("{body}\n")).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        if status == 200 {
            return Ok(answer);
        }
        assert_eq!(answer["Err"], answer["Error"], "{answer}");
        Err(answer["Err"].as_str().unwrap().to_owned())
    }

    /// A network with a subnet of its own, made as Docker makes it.
    pub(crate) async fn network(&self, internal: bool) {
        let mut gateways = Vec::new();
        for (pool, v6) in [("10.1.0.0/16", false), ("fd01::/64", true)] {
            let given = self.call("/IpamDriver.RequestPool", json!({"Pool": pool, "V6": v6})).await.unwrap();
            let ask = json!({"PoolID": given["PoolID"], "Address": "",
                             "Options": {"RequestAddressType": "com.docker.network.gateway"}});
            let gateway = self.call("/IpamDriver.RequestAddress", ask).await.unwrap();
            gateways.push(json!([{"Pool": given["Pool"], "Gateway": gateway["Address"]}]));
        }
        let create = json!({"NetworkID": NETWORK, "IPv4Data": gateways[0], "IPv6Data": gateways[1],
                            "Options": {"com.docker.network.internal": internal}});
        self.call("/NetworkDriver.CreateNetwork", create).await.unwrap();
    }

    /// An endpoint on that network; the answer to `CreateEndpoint`.
    pub(crate) async fn endpoint(&self, v4: &str, v6: &str, mac: &str) -> Result<Value, String> {
        let create = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "Options": {},
                            "Interface": {"Address": v4, "AddressIPv6": v6, "MacAddress": mac}});
        self.call("/NetworkDriver.CreateEndpoint", create).await
    }

    pub(crate) async fn join(&self) -> Result<Value, String> {
        let join = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "SandboxKey": "/run/x", "Options": null});
        self.call("/NetworkDriver.Join", join).await
    }
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

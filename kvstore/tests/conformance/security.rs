//! Users, passwords and certificates, with a real etcd that insists on them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Permission, PermissionType};
use futures::StreamExt;
use kvstore::session::{Options as SessionOptions, Session};
use kvstore::{Backend, Error};

use crate::cluster::{Server, parsed};
use crate::world::{soon, until};

/// Users `root` and `agent`, who may do anything below `cilium/`; both have the password `secret`.
async fn with_users() -> Server {
    let server = Server::start().await;
    let mut raw = server.raw().await;
    raw.user_add("root", "secret", None).await.expect("user");
    raw.user_grant_role("root", "root").await.expect("role");
    raw.role_add("agent").await.expect("role");
    let below = Permission::new(PermissionType::Readwrite, "cilium/").with_prefix();
    raw.role_grant_permission("agent", below).await.expect("permission");
    raw.user_add("agent", "secret", None).await.expect("user");
    raw.user_grant_role("agent", "agent").await.expect("role");
    raw.auth_enable().await.expect("enable");
    server
}

fn user(server: &Server, user: &str, password: &str) -> Arc<dyn Backend> {
    let options = [
        format!("etcd.address={}", server.address()),
        format!("etcd.user={user}"),
        format!("etcd.password={password}"),
        "etcd.timeout=30s".to_owned(),
    ];
    parsed(&options)
}

fn denied<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(&result, Err(error @ Error::Denied { .. }) if !error.is_retryable()), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_have_passwords_and_limits() {
    let server = with_users().await;
    let agent = user(&server, "agent", "secret");
    agent.put("cilium/k", b"v".to_vec(), None).await.expect("put");
    assert_eq!(agent.list("cilium/").await.expect("list").entries.len(), 1);
    assert!(agent.status().await.healthy, "{:?}", agent.status().await);
    denied(agent.put("elsewhere", vec![], None).await);
    denied(agent.list("").await);
    denied(user(&server, "agent", "wrong").get("cilium/k").await);
    denied(user(&server, "nobody", "secret").get("cilium/k").await);
    denied(server.connect().get("cilium/k").await);
    assert!(!server.connect().status().await.healthy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_where_there_are_none_is_told() {
    let server = Server::start().await;
    denied(user(&server, "agent", "secret").get("cilium/k").await);
}

/// A server forgets the tokens of a user whose password is set; the connection stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_tokens_are_renewed() {
    let server = with_users().await;
    let (agent, root) = (user(&server, "agent", "secret"), user(&server, "root", "secret"));
    agent.put("cilium/k", b"1".to_vec(), None).await.expect("put");
    let options = etcd_client::ConnectOptions::new().with_user("root", "secret");
    let mut raw = etcd_client::Client::connect([server.address()], Some(options)).await.expect("connect");
    let mut forget = async || {
        raw.user_change_password("agent", "secret").await.expect("set the password");
    };
    forget().await;
    agent.put("cilium/k", b"2".to_vec(), None).await.expect("put");
    forget().await;
    let now = root.get("cilium/k").await.expect("get").expect("there").revision;
    let mut events = agent.watch("cilium/", now).await.expect("watch");
    let batch = soon("the event", events.next()).await.expect("endless").expect("no error");
    assert_eq!(batch[0].key(), "cilium/k");
    forget().await;
    let lease = agent.grant(Duration::from_secs(60)).await.expect("grant").id;
    forget().await;
    agent.keep_alive(lease).await.expect("keep alive");
    forget().await;
    assert!(agent.status().await.healthy);
}

/// A server that restarts forgets all tokens; watches and leases must not stop at that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_on_after_a_restart() {
    let mut server = with_users().await;
    let agent = user(&server, "agent", "secret");
    let session = Session::start(agent.clone(), SessionOptions::default());
    session.publish("cilium/s", "v").await.expect("publish");
    let mut feed = kvstore::watch::follow(agent.clone(), "cilium/", kvstore::watch::Options::default());
    server.kill();
    server.spawn();
    until("it answers again", async || agent.put("cilium/k", b"v".to_vec(), None).await.is_ok()).await;
    until("the new key is told", async || {
        let updates = tokio::time::timeout(Duration::from_millis(100), feed.next()).await;
        let updates = updates.ok().flatten().unwrap_or_default();
        updates.iter().any(|update| matches!(update, kvstore::watch::Update::Put(entry) if entry.key == "cilium/k"))
    })
    .await;
    until("the session goes on", async || session.publish("cilium/s", "again").await.is_ok()).await;
}

fn openssl(folder: &Path, args: &str) {
    let output = Command::new("openssl").current_dir(folder).args(args.split(' ')).output();
    let output = output.expect("these tests need the program `openssl` (apt install openssl)");
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority `<name>.crt`, made in the folder.
fn authority(folder: &Path, name: &str) {
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(folder, &format!("req -x509 {curve} -keyout {name}.key -out {name}.crt -days 2 -subj /CN={name}"));
}

/// A certificate for 127.0.0.1, signed by that authority.
fn certificate(folder: &Path, authority: &str, name: &str) {
    let usage = "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=IP:127.0.0.1\n";
    std::fs::write(folder.join("extensions"), usage).expect("write");
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(folder, &format!("req {curve} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
    let signer = format!("-CA {authority}.crt -CAkey {authority}.key -CAcreateserial");
    openssl(folder, &format!("x509 -req -in {name}.csr {signer} -out {name}.crt -days 2 -extfile extensions"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_checked_on_both_sides() {
    let folder = tempfile::tempdir().expect("folder");
    let folder = folder.path();
    authority(folder, "ca");
    authority(folder, "stranger");
    certificate(folder, "ca", "server");
    certificate(folder, "ca", "client");
    certificate(folder, "stranger", "intruder");
    let path = |name: &str| folder.join(name).display().to_string();
    let args = [
        format!("--cert-file={}", path("server.crt")),
        format!("--key-file={}", path("server.key")),
        format!("--trusted-ca-file={}", path("ca.crt")),
        "--client-cert-auth".to_owned(),
    ];
    let server = Server::launch(args.to_vec(), "https");
    let connect = |ca: &str, identity: Option<&str>| {
        let mut options = vec![
            format!("etcd.address=https://127.0.0.1:{}", server.port),
            format!("etcd.ca={}", path(ca)),
            "etcd.timeout=20s".to_owned(),
        ];
        if let Some(name) = identity {
            options.push(format!("etcd.cert={}", path(&format!("{name}.crt"))));
            options.push(format!("etcd.key={}", path(&format!("{name}.key"))));
        }
        parsed(&options)
    };
    let store = connect("ca.crt", Some("client"));
    until(&format!("etcd answers: {}", server.log()), async || store.status().await.healthy).await;
    store.put("k", b"v".to_vec(), None).await.expect("put");
    let refused = async |store: Arc<dyn Backend>| store.get("k").await.expect_err("must not work");
    let error = refused(connect("stranger.crt", Some("client"))).await;
    assert!(error.is_unavailable() && error.chain().to_lowercase().contains("certificate"), "{}", error.chain());
    assert!(refused(connect("ca.crt", None)).await.is_unavailable());
    assert!(refused(connect("ca.crt", Some("intruder"))).await.is_unavailable());
    // Through a file as etcd's own clients read it.
    let yaml = format!(
        "endpoints: [\"https://127.0.0.1:{}\"]\ntrusted-ca-file: {}\ncert-file: {}\nkey-file: {}\n",
        server.port,
        path("ca.crt"),
        path("client.crt"),
        path("client.key")
    );
    std::fs::write(folder.join("etcd.yaml"), yaml).expect("write");
    let store = parsed(&[format!("etcd.config={}", path("etcd.yaml"))]);
    assert_eq!(store.get("k").await.expect("get").expect("there").value, b"v");
}

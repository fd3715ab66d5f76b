//! The look-up of containers through `Join`, with a fake Docker.

use super::*;
use crate::docker::Docker;
use crate::rig::{ENDPOINT, NETWORK, Rig, eventually};
use serde_json::{Value, json};

fn app1() -> Value {
    json!({"Id": "c0ffee", "Names": ["/app1"], "Labels": {"id": "app1", "tier": ""}, "State": "created"})
}

#[tokio::test]
async fn an_endpoint_joins_with_its_containers_labels() {
    let (rig, agent) = Rig::with_agent();
    let docker = rig.start_docker();
    eventually("Docker to be found", || docker.followed()).await;
    rig.network(false).await;
    rig.endpoint("10.1.0.7/32", "", "").await.unwrap();
    docker.attach(NETWORK, ENDPOINT, &format!("ep-{ENDPOINT}"), app1());
    rig.join().await.unwrap();
    let changes = agent.world().changes.clone();
    assert!(changes.iter().any(|(_, change)| change.sandbox.is_some()));
    let (_, change) = changes.last().unwrap().clone();
    assert_eq!((change.container_id.as_deref(), change.container_name.as_deref()), (Some("c0ffee"), Some("app1")));
    assert_eq!(change.container_labels.unwrap()["id"], "app1");
    assert!(change.wait_ms.is_some());
    assert_eq!(rig.stats.calls().last().unwrap().errors, 0);
}

/// A resolver that found Docker answering.
fn resolver(rig: &Rig) -> Resolver {
    let docker = Docker::new(rig.folder.path().join("docker.sock").to_str().unwrap()).unwrap();
    let client = api::Client::new(rig.folder.path().join("agent.sock"), Duration::from_secs(1));
    let resolver = Resolver::new(Agent::new(client), docker, rig.stats.clone());
    resolver.docker_is(true);
    resolver
}

async fn listed(resolver: &Resolver) {
    eventually("the listing", || lock(&resolver.listings).values().all(Listing::is_finished)).await;
}

#[tokio::test]
async fn containers_are_listed_while_the_endpoint_is_made() {
    let rig = Rig::alone();
    let docker = rig.start_docker();
    let resolver = resolver(&rig);
    docker.world().containers.push(app1());
    resolver.expect(ENDPOINT);
    listed(&resolver).await;
    docker.attach(NETWORK, ENDPOINT, &format!("ep-{ENDPOINT}"), app1());
    // Who asks again finds nobody.
    docker.world().containers.clear();
    assert_eq!(resolver.at_join(NETWORK, ENDPOINT).await.unwrap().labels["id"], "app1");
    assert!(lock(&resolver.listings).is_empty());
}

#[tokio::test]
async fn a_container_that_was_not_listed_is_asked_for() {
    let rig = Rig::alone();
    let docker = rig.start_docker();
    let resolver = resolver(&rig);
    docker.world().containers.push(json!({"Id": "1111", "Names": ["/another"], "Labels": {}}));
    resolver.expect(ENDPOINT);
    listed(&resolver).await;
    docker.attach(NETWORK, ENDPOINT, &format!("ep-{ENDPOINT}"), app1());
    assert_eq!(resolver.at_join(NETWORK, ENDPOINT).await.unwrap().id, "c0ffee");
}

#[tokio::test]
async fn endpoints_that_never_join_leave_room_for_others() {
    let rig = Rig::alone();
    let _docker = rig.start_docker();
    let resolver = resolver(&rig);
    for n in 0..LISTINGS {
        resolver.expect(&n.to_string());
    }
    listed(&resolver).await;
    resolver.expect("one more");
    assert!(lock(&resolver.listings).contains_key("one more"));
    resolver.forget("one more");
    assert!(!lock(&resolver.listings).contains_key("one more"));
}

#[tokio::test]
async fn another_container_whose_name_looks_alike_is_not_taken() {
    let rig = Rig::alone();
    let docker = rig.start_docker();
    docker.attach(NETWORK, ENDPOINT, "ep-x", json!({"Id": "1111", "Names": ["/a.b"], "Labels": {}}));
    docker.world().containers.insert(0, json!({"Id": "2222", "Names": ["/axb"], "Labels": {"id": "app1"}}));
    let client = Docker::new(rig.folder.path().join("docker.sock").to_str().unwrap()).unwrap();
    let found = client.container_of(NETWORK, ENDPOINT).await.unwrap().unwrap();
    assert_eq!(found.id, "1111");
}

#[tokio::test]
async fn an_endpoint_whose_container_is_not_told_joins_all_the_same_and_is_labelled_later() {
    let (rig, agent) = Rig::with_agent();
    let docker = rig.start_docker();
    docker.world().mute = true;
    rig.network(false).await;
    rig.endpoint("10.1.0.7/32", "", "").await.unwrap();
    rig.join().await.unwrap();
    let (_, change) = agent.world().changes[0].clone();
    assert!(change.sandbox.is_some() && change.container_labels.is_none());
    docker.attach(NETWORK, ENDPOINT, "c0ffee", app1());
    docker.world().mute = false;
    eventually("the labels", || agent.world().endpoints[ENDPOINT].container_id.is_some()).await;
}

#[tokio::test]
async fn a_docker_that_falls_silent_holds_no_join_up() {
    let (rig, agent) = Rig::with_agent();
    let docker = rig.start_docker();
    eventually("Docker to be found", || docker.followed()).await;
    rig.network(false).await;
    rig.endpoint("10.1.0.7/32", "", "").await.unwrap();
    docker.world().mute = true;
    rig.join().await.unwrap();
    assert!(agent.world().changes[0].1.container_labels.is_none());
}

#[tokio::test]
async fn an_agent_that_is_slow_to_enforce_fails_no_join() {
    let (rig, agent) = Rig::with_agent();
    let docker = rig.start_docker();
    eventually("Docker to be found", || docker.followed()).await;
    rig.network(false).await;
    rig.endpoint("10.1.0.7/32", "", "").await.unwrap();
    docker.attach(NETWORK, ENDPOINT, &format!("ep-{ENDPOINT}"), app1());
    agent.slow_labels(Duration::from_secs(3));
    rig.join().await.unwrap();
    // It is told once more, in case it did not hear.
    let told = || agent.world().changes.iter().filter(|(_, change)| change.container_id.is_some()).count();
    eventually("the container to be told again", || told() > 1).await;
}

#[tokio::test]
async fn an_endpoint_that_goes_meanwhile_is_no_longer_sought() {
    let rig = Rig::alone();
    let agent = rig.start_agent();
    let _docker = rig.start_docker();
    let client = api::Client::new(rig.folder.path().join("agent.sock"), Duration::from_secs(5));
    let docker = Docker::new(rig.folder.path().join("docker.sock").to_str().unwrap()).unwrap();
    let resolver = Arc::new(Resolver::new(Agent::new(client), docker, rig.stats.clone()));
    resolver.later(NETWORK, ENDPOINT);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn({
        let (resolver, shutdown) = (resolver.clone(), shutdown.clone());
        async move { resolver.run(shutdown).await }
    });
    eventually("the search to end", || lock(&resolver.pending).is_empty()).await;
    shutdown.cancel();
    task.await.unwrap();
    assert!(agent.requests().contains(&format!("GET /v1/endpoint/docker-endpoint:{ENDPOINT}")));
}

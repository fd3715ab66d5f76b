//! Following a fake Docker.

use crate::fake_docker;
use crate::rig::{ENDPOINT, NETWORK, Rig, eventually};
use serde_json::json;

fn app1() -> serde_json::Value {
    json!({"Id": "c0ffee", "Names": ["/app1"], "Labels": {"id": "app1"}, "State": "running"})
}

#[tokio::test]
async fn dockers_whole_list_is_handed_on_and_foreign_networks_are_not() {
    let (rig, agent) = Rig::with_agent();
    rig.network(false).await;
    let docker = rig.start_docker();
    docker.attach(NETWORK, ENDPOINT, "c0ffee", app1());
    docker.world().networks.insert("b".to_owned(), json!({"Id": "b", "Driver": "bridge", "Containers": {}}));
    eventually("the list", || agent.world().docker.iter().any(|list| !list.docker_endpoint_ids.is_empty())).await;
    let list = agent.world().docker.last().unwrap().clone();
    assert_eq!(list.docker_endpoint_ids.into_iter().collect::<Vec<_>>(), [ENDPOINT]);
    assert_eq!(list.docker_network_ids.into_iter().collect::<Vec<_>>(), [NETWORK]);
}

#[tokio::test]
async fn silence_is_no_list() {
    let (rig, agent) = Rig::with_agent();
    rig.network(false).await;
    rig.endpoint("10.1.0.7/32", "", "").await.unwrap();
    rig.join().await.unwrap();
    assert!(agent.world().docker.is_empty());
    assert_eq!(rig.stats.container_runtime().state, api::status::State::Warning);
}

#[tokio::test]
async fn an_endpoint_without_a_container_gets_it() {
    let (rig, agent) = Rig::with_agent();
    rig.network(false).await;
    rig.endpoint("10.1.0.7/32", "", "").await.unwrap();
    let docker = rig.start_docker();
    docker.attach(NETWORK, ENDPOINT, "c0ffee", app1());
    eventually("the container", || agent.world().endpoints[ENDPOINT].container_id.as_deref() == Some("c0ffee")).await;
}

#[tokio::test]
async fn a_new_name_is_told() {
    let (rig, agent) = Rig::with_agent();
    rig.network(false).await;
    rig.endpoint("10.1.0.7/32", "", "").await.unwrap();
    let docker = rig.start_docker();
    docker.attach(NETWORK, ENDPOINT, "c0ffee", app1());
    eventually("the container", || agent.world().endpoints[ENDPOINT].container_name.is_some()).await;
    eventually("the events to be followed", || docker.followed()).await;
    docker.happen(json!({"Type": "container", "Action": "rename",
        "Actor": {"ID": "c0ffee", "Attributes": {"name": "new", "oldName": "/app1"}}}));
    eventually("the name", || agent.world().endpoints[ENDPOINT].container_name.as_deref() == Some("new")).await;
}

#[tokio::test]
async fn networks_that_the_agent_forgot_are_learnt_with_their_pools_and_gateways() {
    let (rig, agent) = Rig::with_agent();
    let docker = rig.start_docker();
    let subnets = json!([{"Subnet": "10.7.0.0/16", "IPRange": "10.7.1.0/24", "Gateway": "10.7.0.9"},
                         {"Subnet": "fd07::/64", "Gateway": "fd07::1/128"}]);
    let mut network = fake_docker::network(NETWORK, subnets);
    network["Internal"] = json!(true);
    network["Options"] = json!({"mtu": "1400"});
    docker.world().networks.insert(NETWORK.to_owned(), network);
    let flat = fake_docker::network("f1a7", json!([{"Subnet": "0.0.0.0/0", "Gateway": "10.200.0.1"}]));
    docker.world().networks.insert("f1a7".to_owned(), flat);
    eventually("both networks", || agent.world().networks.len() == 2).await;

    let world = agent.world();
    let learnt = &world.networks[NETWORK];
    assert!(learnt.internal && learnt.mtu == Some(1400));
    assert_eq!(learnt.ipv4.as_ref().unwrap().gateway.unwrap().to_string(), "10.7.0.9");
    assert_eq!(learnt.ipv6.as_ref().unwrap().subnet.to_string(), "fd07::/64");
    let pool = world.pools.values().find(|pool| pool.subnet.to_string() == "10.7.0.0/16").unwrap();
    assert_eq!(pool.range.unwrap().to_string(), "10.7.1.0/24");
    assert!(world.addresses[&"10.7.0.9".parse().unwrap()].gateway);
    assert_eq!(world.networks["f1a7"].ipv4.as_ref().unwrap().subnet.to_string(), "10.200.0.0/22");
    assert!(world.addresses[&"10.200.0.1".parse().unwrap()].gateway);
}

#[tokio::test]
async fn docker_coming_back_is_noticed() {
    let (rig, agent) = Rig::with_agent();
    let docker = rig.start_docker();
    eventually("the first list", || !agent.world().docker.is_empty()).await;
    eventually("Docker to be well", || rig.stats.container_runtime().state == api::status::State::Ok).await;
    drop(docker);
    std::fs::remove_file(rig.folder.path().join("docker.sock")).unwrap();
    let lists = agent.world().docker.len();
    let docker = rig.start_docker();
    eventually("the next list", || agent.world().docker.len() > lists).await;
    eventually("the events to be followed", || docker.followed()).await;
}

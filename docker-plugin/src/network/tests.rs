//! The network driver through its socket, between a fake agent and, where it matters, a fake Docker.

use crate::rig::{ENDPOINT, NETWORK, Rig, eventually};
use serde_json::json;

#[tokio::test]
async fn a_network_is_put_with_its_pools_and_gateways() {
    let (rig, agent) = Rig::with_agent();
    rig.network(true).await;
    let world = agent.world();
    let network = &world.networks[NETWORK];
    assert!(network.internal);
    let v4 = network.ipv4.as_ref().unwrap();
    assert_eq!((v4.subnet.to_string(), v4.gateway.unwrap().to_string()), ("10.1.0.0/16".into(), "10.1.0.1".into()));
    assert_eq!(network.ipv6.as_ref().unwrap().subnet.to_string(), "fd01::/64");
}

#[tokio::test]
async fn a_network_whose_addresses_come_from_elsewhere_is_refused() {
    let (rig, agent) = Rig::with_agent();
    let create = json!({"NetworkID": NETWORK, "IPv4Data": [{"Pool": "172.18.0.0/16", "Gateway": "172.18.0.1/16"}]});
    let said = rig.call("/NetworkDriver.CreateNetwork", create).await.unwrap_err();
    assert!(said.contains("172.18.0.0/16") && said.contains("--ipam-driver cilium"), "{said}");
    let none = rig.call("/NetworkDriver.CreateNetwork", json!({"NetworkID": NETWORK, "IPv4Data": null})).await;
    assert_eq!(none.unwrap_err(), "the network has no subnet");
    assert!(agent.world().networks.is_empty());
}

#[tokio::test]
async fn two_subnets_of_a_family_are_refused() {
    let (rig, _agent) = Rig::with_agent();
    let create = json!({"NetworkID": NETWORK, "IPv4Data": [{"Pool": "10.1.0.0/16"}, {"Pool": "10.2.0.0/16"}]});
    let said = rig.call("/NetworkDriver.CreateNetwork", create).await.unwrap_err();
    assert!(said.contains("at most one IPv4 subnet"), "{said}");
}

#[tokio::test]
async fn an_endpoint_is_answered_with_what_docker_does_not_have() {
    let (rig, agent) = Rig::with_agent();
    rig.network(false).await;
    let answer = rig.endpoint("10.1.0.7/32", "fd01::7/128", "").await.unwrap();
    assert_eq!(answer, json!({"Interface": {"MacAddress": "02:00:00:00:01:01"}}));
    let again = rig.endpoint("10.1.0.7/32", "fd01::7/128", "").await.unwrap();
    assert_eq!(again, answer);
    let made = agent.world().endpoints[ENDPOINT].clone();
    assert_eq!(made.ipv4.unwrap().to_string(), "10.1.0.7");
    assert_eq!(made.ipv6.unwrap().to_string(), "fd01::7");
}

#[tokio::test]
async fn a_mac_of_the_users_is_used_and_not_repeated() {
    let (rig, agent) = Rig::with_agent();
    rig.network(false).await;
    let answer = rig.endpoint("10.1.0.7/32", "", "02:aa:bb:cc:dd:ee").await.unwrap();
    assert_eq!(answer, json!({"Interface": {}}));
    assert_eq!(agent.world().endpoints[ENDPOINT].mac.to_string(), "02:aa:bb:cc:dd:ee");
}

#[tokio::test]
async fn a_bad_endpoint_leaves_nothing_behind() {
    let (rig, agent) = Rig::with_agent();
    rig.network(false).await;
    for (v4, v6, mac) in [
        ("", "", ""),
        ("10.1.0.7/33", "", ""),
        ("fd01::7/128", "", ""),
        ("", "10.1.0.7/32", ""),
        ("ten", "", ""),
        ("10.1.0.7/32", "", "01:00:5e:00:00:01"),
    ] {
        assert!(rig.endpoint(v4, v6, mac).await.is_err(), "{v4} {v6} {mac}");
    }
    assert!(agent.world().endpoints.is_empty());
}

#[tokio::test]
async fn published_ports_are_told_to_the_agent_and_revoked() {
    let (rig, agent) = Rig::with_agent();
    rig.network(false).await;
    rig.endpoint("10.1.0.7/32", "", "").await.unwrap();
    let of = |bindings| json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "Options": {"com.docker.network.portmap": bindings}});
    let program = "/NetworkDriver.ProgramExternalConnectivity";
    rig.call(program, of(json!([]))).await.unwrap();
    assert!(agent.world().changes.iter().all(|(_, change)| change.published.is_none()), "nothing is to be told");
    let binding = json!({"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080});
    rig.call(program, of(json!([binding]))).await.unwrap();
    let held = agent.world().endpoints[ENDPOINT].published.clone();
    assert_eq!((held.len(), held[0].host_port, held[0].container_port), (1, 8080, 80));
    let said = rig.call(program, of(json!([{"Proto": 1, "Port": 80}]))).await.unwrap_err();
    assert!(said.contains("a port of TCP, UDP or SCTP"), "{said}");
    assert_eq!(agent.world().endpoints[ENDPOINT].published, held);
    let revoked = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT});
    for _ in 0..2 {
        rig.call("/NetworkDriver.RevokeExternalConnectivity", revoked.clone()).await.unwrap();
        assert!(agent.world().endpoints[ENDPOINT].published.is_empty());
    }
}

#[tokio::test]
async fn an_endpoint_on_an_unknown_network_is_refused() {
    let (rig, agent) = Rig::with_agent();
    let said = rig.endpoint("10.1.0.7/32", "", "").await.unwrap_err();
    assert!(said.contains(NETWORK) && said.contains("Docker could not be asked"), "{said}");
    let _docker = rig.start_docker();
    let said = rig.endpoint("10.1.0.7/32", "", "").await.unwrap_err();
    assert!(said.contains(NETWORK) && said.contains("does not know it"), "{said}");
    assert!(agent.world().endpoints.is_empty());
}

#[tokio::test]
async fn joining_gives_the_way_out_by_recipe() {
    let (rig, agent) = Rig::with_agent();
    rig.network(false).await;
    rig.endpoint("10.1.0.7/32", "fd01::7/128", "").await.unwrap();
    let joined = rig.join().await.unwrap();
    assert_eq!(
        joined,
        json!({
            "InterfaceName": {"SrcName": "tmp1", "DstPrefix": "cilium"},
            "Gateway": "10.1.0.1", "GatewayIPv6": "fd01::1",
            "StaticRoutes": [
                {"Destination": "10.1.0.1/32", "RouteType": 1, "NextHop": ""},
                {"Destination": "10.1.0.0/16", "RouteType": 0, "NextHop": "10.1.0.1"},
                {"Destination": "fd01::1/128", "RouteType": 1, "NextHop": ""},
                {"Destination": "fd01::/64", "RouteType": 0, "NextHop": "fd01::1"},
            ],
            "DisableGatewayService": false,
        })
    );
    assert_eq!(rig.join().await.unwrap(), joined);
    assert_eq!(agent.world().changes[0].1.sandbox.as_deref(), Some("/run/x"));
}

#[tokio::test]
async fn without_an_ipv6_address_there_is_nothing_of_ipv6() {
    let (rig, _agent) = Rig::with_agent();
    rig.network(false).await;
    rig.endpoint("10.1.0.7/32", "", "").await.unwrap();
    let joined = rig.join().await.unwrap();
    assert_eq!(joined["GatewayIPv6"], "");
    assert_eq!(joined["StaticRoutes"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_internal_network_has_no_way_out_and_docker_adds_none() {
    let (rig, _agent) = Rig::with_agent();
    rig.network(true).await;
    rig.endpoint("10.1.0.7/32", "fd01::7/128", "").await.unwrap();
    let joined = rig.join().await.unwrap();
    assert_eq!((&joined["Gateway"], &joined["GatewayIPv6"]), (&json!(""), &json!("")));
    assert_eq!(joined["DisableGatewayService"], true);
    assert_eq!(joined["StaticRoutes"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn calls_about_unknown_endpoints_are_refused_and_removals_succeed() {
    let (rig, _agent) = Rig::with_agent();
    rig.network(false).await;
    let of = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT});
    assert!(rig.join().await.unwrap_err().contains(ENDPOINT));
    for path in ["EndpointOperInfo", "ProgramExternalConnectivity"] {
        let said = rig.call(&format!("/NetworkDriver.{path}"), of.clone()).await.unwrap_err();
        assert_eq!(said, format!("endpoint {ENDPOINT} is not known"));
    }
    for path in ["RevokeExternalConnectivity", "Leave", "DeleteEndpoint", "DeleteNetwork", "DeleteNetwork"] {
        assert_eq!(rig.call(&format!("/NetworkDriver.{path}"), of.clone()).await.unwrap(), json!({}));
    }
}

#[tokio::test]
async fn an_endpoint_is_asked_for_on_its_own_network() {
    let (rig, agent) = Rig::with_agent();
    rig.network(false).await;
    rig.endpoint("10.1.0.7/32", "", "").await.unwrap();
    let info = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT});
    let value = rig.call("/NetworkDriver.EndpointOperInfo", info).await.unwrap()["Value"].clone();
    assert_eq!(value["io.cilium.endpoint.interface"], "lxc1");
    assert!(value.as_object().unwrap().keys().all(|key| !key.starts_with("com.docker")));
    agent.world().endpoints.get_mut(ENDPOINT).unwrap().docker_network_id = "other".to_owned();
    assert!(
        rig.call("/NetworkDriver.EndpointOperInfo", json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT}))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn ids_that_are_none_are_refused() {
    let (rig, _agent) = Rig::with_agent();
    for id in [json!(null), json!(""), json!("../x"), json!("a b"), json!("a".repeat(129))] {
        assert!(rig.call("/NetworkDriver.DeleteNetwork", json!({"NetworkID": id})).await.is_err(), "{id}");
        let join = json!({"NetworkID": NETWORK, "EndpointID": id, "SandboxKey": "/run/x"});
        assert!(rig.call("/NetworkDriver.Join", join).await.is_err(), "{id}");
    }
}

#[tokio::test]
async fn swarm_gets_a_clear_no() {
    let (rig, _agent) = Rig::with_agent();
    let of = json!({"NetworkID": NETWORK, "Options": {}, "IPv4Data": [], "IPv6Data": []});
    assert!(rig.call("/NetworkDriver.AllocateNetwork", of.clone()).await.unwrap_err().contains("swarm"));
    assert_eq!(rig.call("/NetworkDriver.FreeNetwork", of).await.unwrap(), json!({}));
    let node = json!({"DiscoveryType": 1, "DiscoveryData": {"Address": "192.0.2.1", "Self": false}});
    assert_eq!(rig.call("/NetworkDriver.DiscoverNew", node).await.unwrap(), json!({}));
    let check = json!({"Options": {"com.docker.network.generic": {"foo": "bar"}}});
    assert!(rig.call("/NetworkDriver.GwAllocCheck", check).await.unwrap_err().contains("\"foo\""));
}

#[tokio::test]
async fn removals_succeed_at_once_while_the_agent_is_away_and_are_made_good() {
    let rig = Rig::alone();
    let of = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "PoolID": "p", "Address": "10.1.0.7"});
    for path in ["/NetworkDriver.Leave", "/NetworkDriver.DeleteEndpoint", "/IpamDriver.ReleaseAddress"] {
        assert_eq!(rig.call(path, of.clone()).await.unwrap(), json!({}));
    }
    let agent = rig.start_agent();
    let removed = ["DELETE /v1/endpoint/docker-endpoint:0123456789ab", "DELETE /v1/ipam/address/p/10.1.0.7"];
    let deletions = || agent.requests().into_iter().filter(|line| line.starts_with("DELETE")).collect::<Vec<_>>();
    eventually("both removals", || deletions().len() >= 2).await;
    assert_eq!(deletions(), removed);
}

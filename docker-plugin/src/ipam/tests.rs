//! The IPAM driver through its socket, before a fake agent.

use super::*;
use crate::fake_agent::NODE_V6;
use crate::rig::Rig;
use proptest::prelude::*;

async fn pool(rig: &Rig, pool: &str, v6: bool) -> Result<serde_json::Value, String> {
    let request = json!({"AddressSpace": ADDRESS_SPACE, "Pool": pool, "SubPool": "", "Options": {}, "V6": v6});
    rig.call("/IpamDriver.RequestPool", request).await
}

#[tokio::test]
async fn without_a_subnet_the_nodes_pool_is_given_in_a_form_that_docker_takes() {
    let (rig, _agent) = Rig::with_agent();
    assert_eq!(pool(&rig, "", false).await.unwrap()["Pool"], "0.0.0.0/0");
    for asked in ["", "::1/112", "::/112"] {
        assert_eq!(pool(&rig, asked, true).await.unwrap()["Pool"], NODE_V6, "{asked}");
    }
}

/// A network without a subnet, made as Docker makes it; its route to peers, for an endpoint that has `address`.
async fn flat(rig: &Rig, network: &str) -> (String, serde_json::Value) {
    let given = pool(rig, "", false).await.unwrap();
    let ask = |options| json!({"PoolID": given["PoolID"], "Address": "", "Options": options});
    let gateway = ask(json!({ADDRESS_TYPE: GATEWAY_ADDRESS}));
    let gateway = rig.call("/IpamDriver.RequestAddress", gateway).await.unwrap()["Address"].clone();
    let data = json!([{"Pool": given["Pool"], "Gateway": gateway}]);
    rig.call("/NetworkDriver.CreateNetwork", json!({"NetworkID": network, "IPv4Data": data})).await.unwrap();
    let address = rig.call("/IpamDriver.RequestAddress", ask(json!(null))).await.unwrap()["Address"].clone();
    let of = json!({"NetworkID": network, "EndpointID": network, "SandboxKey": "/run/x",
                    "Interface": {"Address": address}});
    rig.call("/NetworkDriver.CreateEndpoint", of.clone()).await.unwrap();
    let joined = rig.call("/NetworkDriver.Join", of).await.unwrap();
    (address.as_str().unwrap().to_owned(), joined["StaticRoutes"].clone())
}

/// Docker refuses an address that a route of the container covers, and a route that it has already.
#[tokio::test]
async fn a_container_can_be_on_two_networks_of_the_nodes_pool() {
    let (rig, agent) = Rig::with_agent();
    let (one, one_routes) = flat(&rig, "aa").await;
    let (two, two_routes) = flat(&rig, "bb").await;
    for (address, routes, others) in [(one, &one_routes, &two_routes), (two, &two_routes, &one_routes)] {
        let address = self::address("Address", &address).unwrap();
        let to_peers = subnet("Destination", routes[1]["Destination"].as_str().unwrap()).unwrap();
        assert!(to_peers.contains(address));
        for other in others.as_array().unwrap() {
            let other = subnet("Destination", other["Destination"].as_str().unwrap()).unwrap();
            assert!(!other.contains(address) && !to_peers.contains(other.ip()), "{routes} {others}");
        }
    }
    assert_eq!(agent.world().networks["bb"].ipv4.as_ref().unwrap().subnet.to_string(), "10.200.4.0/22");
}

#[tokio::test]
async fn a_full_part_gives_way_to_the_rest_of_the_pool() {
    let (rig, agent) = Rig::with_agent();
    let id = pool(&rig, "", false).await.unwrap()["PoolID"].as_str().unwrap().to_owned();
    let (node, part) = parts::split(&id);
    let owner = "test".to_owned();
    let other = AddressRequest { pool: node.to_owned(), address: None, part: None, owner, gateway: false };
    agent.world().addresses.extend(part.unwrap().iter().map(|address| (address, other.clone())));
    let given = rig.call("/IpamDriver.RequestAddress", json!({"PoolID": id, "Address": ""})).await.unwrap();
    assert!(!part.unwrap().contains(address("Address", given["Address"].as_str().unwrap()).unwrap()));
}

#[tokio::test]
async fn a_subnet_is_honoured_whatever_bits_its_address_has() {
    let (rig, agent) = Rig::with_agent();
    let request = json!({"Pool": "10.1.2.3/16", "SubPool": "10.1.4.0/24", "Options": null, "V6": false});
    let given = rig.call("/IpamDriver.RequestPool", request).await.unwrap();
    assert_eq!(given["Pool"], "10.1.0.0/16");
    let id = given["PoolID"].as_str().unwrap().to_owned();
    assert_eq!(agent.world().pools[&id].range.unwrap().to_string(), "10.1.4.0/24");
    for _ in 0..2 {
        assert_eq!(rig.call("/IpamDriver.ReleasePool", json!({"PoolID": id})).await.unwrap(), json!({}));
    }
    assert!(!agent.world().pools.contains_key(&id));
}

#[tokio::test]
async fn bad_pools_are_refused() {
    let (rig, agent) = Rig::with_agent();
    let before = agent.world().pools.len();
    for (request, expected) in [
        (json!({"Pool": "10.1.0.0"}), "subnet"),
        (json!({"Pool": "10.1.0.0/33"}), "subnet"),
        (json!({"Pool": "fd01::/64", "V6": false}), "IPv4"),
        (json!({"Pool": "10.1.0.0/16", "V6": true}), "IPv6"),
        (json!({"Pool": "", "SubPool": "10.1.4.0/24"}), "--subnet"),
        (json!({"Pool": "10.1.0.0/16", "SubPool": "fd01::/64"}), "IPv4"),
        (json!({"Pool": "", "Options": {"foo": "bar"}}), "\"foo\""),
    ] {
        let said = rig.call("/IpamDriver.RequestPool", request.clone()).await.unwrap_err();
        assert!(said.contains(expected), "{request}: {said}");
    }
    assert_eq!(agent.world().pools.len(), before);
}

#[tokio::test]
async fn addresses_are_single() {
    let (rig, agent) = Rig::with_agent();
    for (subnet, v6, fixed, length) in [("10.1.0.0/16", false, "10.1.0.77", 32), ("fd01::/64", true, "fd01::77", 128)] {
        let id = pool(&rig, subnet, v6).await.unwrap()["PoolID"].clone();
        let ask = |address: &str| json!({"PoolID": id, "Address": address, "Options": null});
        let given = rig.call("/IpamDriver.RequestAddress", ask(fixed)).await.unwrap();
        assert_eq!(given["Address"], format!("{fixed}/{length}"));
        assert!(rig.call("/IpamDriver.RequestAddress", ask(fixed)).await.is_err());
        let any = rig.call("/IpamDriver.RequestAddress", ask("")).await.unwrap();
        assert!(any["Address"].as_str().unwrap().ends_with(&format!("/{length}")));
        for _ in 0..2 {
            assert_eq!(rig.call("/IpamDriver.ReleaseAddress", ask(fixed)).await.unwrap(), json!({}));
        }
        assert!(!agent.world().addresses.contains_key(&fixed.parse().unwrap()));
    }
}

#[tokio::test]
async fn a_gateway_is_asked_for_as_one() {
    let (rig, agent) = Rig::with_agent();
    let id = pool(&rig, "10.1.0.0/16", false).await.unwrap()["PoolID"].clone();
    let ask = json!({"PoolID": id, "Address": "10.1.0.254", "Options": {ADDRESS_TYPE: GATEWAY_ADDRESS}});
    assert_eq!(rig.call("/IpamDriver.RequestAddress", ask).await.unwrap()["Address"], "10.1.0.254/32");
    let world = agent.world();
    let asked = &world.addresses[&"10.1.0.254".parse().unwrap()];
    assert!(asked.gateway && asked.owner == "gateway");
}

#[tokio::test]
async fn unknown_pools_and_malformed_addresses_are_refused() {
    let (rig, _agent) = Rig::with_agent();
    let said = rig.call("/IpamDriver.RequestAddress", json!({"PoolID": "nope", "Address": ""})).await.unwrap_err();
    assert!(said.contains("nope"), "{said}");
    for bad in [json!({"PoolID": "p", "Address": "ten"}), json!({"PoolID": "", "Address": "10.1.0.1"}), json!({})] {
        assert!(rig.call("/IpamDriver.ReleaseAddress", bad.clone()).await.is_err(), "{bad}");
    }
    assert!(rig.call("/IpamDriver.ReleasePool", json!({"PoolID": ""})).await.is_err());
    assert_eq!(rig.call("/IpamDriver.ReleasePool", json!({"PoolID": "nope"})).await.unwrap(), json!({}));
}

#[tokio::test]
async fn an_endless_loop_ends_with_advice() {
    let (rig, _agent) = Rig::with_agent();
    let mut said = None;
    for _ in 0..100 {
        if let Err(refusal) = pool(&rig, "", false).await {
            said = Some(refusal);
            break;
        }
    }
    assert!(said.unwrap().contains("--subnet"));
}

proptest! {
    #[test]
    fn a_subnets_number_has_no_host_bits(ip in any::<std::net::Ipv4Addr>(), length in 0u8..=32) {
        let read = subnet("Pool", &format!("{ip}/{length}")).unwrap();
        prop_assert_eq!(read.ip(), read.network());
        prop_assert!(read.contains(ip.into()));
        prop_assert_eq!(read.prefix(), length);
    }

    #[test]
    fn an_address_is_read_with_and_without_its_length(ip in any::<IpAddr>()) {
        prop_assert_eq!(address("Address", &ip.to_string()).unwrap(), ip);
        prop_assert_eq!(address("Address", &single(ip)).unwrap(), ip);
    }

    #[test]
    fn no_text_is_too_odd(text in ".{0,40}") {
        let _ = (subnet("Pool", &text), address("Address", &text));
    }
}

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

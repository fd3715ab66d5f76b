//! The structs of the compiled programs are those of `abi`: sizes and members by the object's own type information.

use bpf::abi;
use std::mem::size_of;

/// Size, and every member with its offset, of a C struct.
fn c_struct(object: &[u8], name: &str) -> (usize, Vec<(String, usize)>) {
    let types = types(object);
    let found = types
        .iter()
        .find(|t| t["kind"] == "STRUCT" && t["name"] == name)
        .unwrap_or_else(|| panic!("struct {name} is not in the object"));
    let members = found["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["name"].as_str().unwrap().to_owned(), m["bits_offset"].as_u64().unwrap() as usize / 8))
        .collect();
    (found["size"].as_u64().unwrap() as usize, members)
}

/// The object's BTF, read by bpftool, which has no part in building it.
fn types(bytes: &[u8]) -> Vec<serde_json::Value> {
    let directory = tempfile::tempdir().unwrap();
    let object = directory.path().join("container.bpf.o");
    std::fs::write(&object, bytes).unwrap();
    let output = std::process::Command::new("bpftool")
        .args(["-j", "btf", "dump", "file"])
        .arg(&object)
        .output()
        .expect("bpftool runs: install the package bpftool");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dump: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    dump["types"].as_array().unwrap().clone()
}

macro_rules! twins {
    ($($c:literal => $rust:ident { $($field:ident),* $(,)? }),* $(,)?) => {
        [$(($c, size_of::<abi::$rust>(), vec![$((stringify!($field), std::mem::offset_of!(abi::$rust, $field))),*])),*]
    };
}

#[test]
fn every_struct_is_its_twin() {
    let twins = twins! {
        "endpoint" => Endpoint { policy, identity, ipv4, flags, pad0, ipv6, mac, node_mac, pad1 },
        "policy_header" => PolicyHeader { id, identity, classes, pad },
        "policy_key" => PolicyKey { policy, identity, port, protocol, class_direction },
        "policy_entry" => PolicyEntry { flags, precedence, proxy_port, pad, packets, bytes },
        "ipcache_key" => IpcacheKey { family, pad, address },
        "ipcache_lpm_key" => IpcacheLpmKey { prefix, key },
        "vtep" => Vtep { family, strict, clusters, node, address },
        "ipcache_entry" => IpcacheEntry { identity, slot, pad },
        "ct4_key" => Ct4Key { a, b, pa, pb, protocol, asker, pad },
        "ct6_key" => Ct6Key { a, b, pa, pb, protocol, asker, pad },
        "ct_entry" => CtEntry {
            stamp, slot, ipcache_generation, seen, flags, tcp_flags, reported, pad, node, service, packets, bytes
        },
        "frag4_key" => Frag4Key { source, destination, id, protocol, pad },
        "frag6_key" => Frag6Key { source, destination, id, protocol, pad },
        "frag_entry" => FragEntry { source_port, destination_port, seen },
        "lb_key" => LbKey { address, port, protocol, family },
        "lb_service" => LbService { number, first, places, affinity, kind, flags, pad, id },
        "lb_row" => LbRow { backend },
        "lb_backend" => LbBackend { number, port, family, pad, address },
        "lb_reverse" => LbReverse { number, port, family, pad, address },
        "lb_client" => LbClient { client, service, by_cookie, pad },
        "lb_affinity" => LbAffinity { backend, seen },
        "lb_member" => LbMember { service, backend },
        "lb_source" => LbSource { prefix, service, address },
        "snat_key" => SnatKey { backend, backend_port, port, protocol, family, pad },
        "snat_entry" => SnatEntry { claim, client, client_port, pad },
        "metric" => Metric { packets, bytes },
        "runtime" => Runtime { ipcache_generation, monitor, tunnel4, tunnel6, tunnel_mtu, node4, node6, pad },
        "event" => Event {
            timestamp, kind, reason, point, direction, ct_state, matched, family, protocol, source_identity,
            destination_identity, source_slot, destination_slot, source_port, destination_port, ifindex, length,
            captured, cpu, pad, packet
        },
    };
    let sockets = twins! {
        "lb_peer" => LbPeer { cookie, address, port, family, pad },
        "lb_asked" => LbAsked { address, port, family, pad, service },
    };
    let all = twins.map(|twin| (bpf::CONTAINER, twin)).into_iter().chain(sockets.map(|twin| (bpf::SOCKETS, twin)));
    for (object, (name, size, members)) in all {
        let (c_size, c_members) = c_struct(object, name);
        assert_eq!(size, c_size, "struct {name}");
        let members: Vec<(String, usize)> = members.into_iter().map(|(n, o)| (n.to_owned(), o)).collect();
        assert_eq!(members, c_members, "struct {name}");
    }
}

#[test]
fn a_flow_fills_whole_cache_lines() {
    // The kernel's own part of a table entry is 48 bytes.
    assert_eq!((48 + size_of::<abi::Ct4Key>() + size_of::<abi::CtEntry>()) % 64, 0);
    assert_eq!(size_of::<abi::Endpoint>(), 64);
    assert_eq!(size_of::<abi::Metric>(), 64);
}

#[test]
fn drop_reasons_have_the_models_texts() {
    for reason in [
        abi::DROP_INVALID_SOURCE,
        abi::DROP_POLICY_DENIED,
        abi::DROP_INVALID_PACKET,
        abi::DROP_CT_INVALID_HEADER,
        abi::DROP_CT_UNKNOWN_PROTOCOL,
        abi::DROP_UNSUPPORTED_L3,
        abi::DROP_WRITE_ERROR,
        abi::DROP_UNROUTABLE,
        abi::DROP_NO_ENDPOINT,
        abi::DROP_CT_INSERT_FAILED,
        abi::DROP_INVALID_EXTENSION,
        abi::DROP_UNKNOWN_CT_STATE,
        abi::DROP_NO_POLICY,
        abi::DROP_UNSUPPORTED_L2,
        abi::DROP_ENCAPSULATION,
        abi::DROP_INVALID_IDENTITY,
        abi::DROP_UNKNOWN_SENDER,
        abi::DROP_FRAGMENT_NOT_FOUND,
        abi::DROP_FORBIDDEN_ICMP6,
        abi::DROP_NO_PROXY,
        abi::DROP_POLICY_DENY,
    ] {
        let reason = model::drop_reason::DropReason(u8::try_from(reason).unwrap());
        assert!(reason.is_drop() && reason.text().is_some(), "{reason}");
    }
    assert_eq!(abi::DROP_POLICY_DENIED, u32::from(model::drop_reason::DropReason::POLICY_DENIED.0));
}

#[test]
fn names_are_those_of_the_object() {
    let object = aya_obj::Object::parse(bpf::CONTAINER).unwrap();
    for name in bpf::names::map::ALL {
        assert!(object.maps.contains_key(name), "map {name}");
    }
    let pinned: Vec<&String> = object.maps.keys().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(pinned.len(), bpf::names::map::ALL.len(), "{pinned:?}");
    let mut programs: Vec<&String> = object.programs.keys().collect();
    programs.sort();
    let mut expected = bpf::names::program::ALL;
    expected.sort_unstable();
    assert_eq!(programs, expected);
    let object = aya_obj::Object::parse(bpf::SOCKETS).unwrap();
    let pinned = object.maps.keys().filter(|name| !name.starts_with('.'));
    let ours = |name: &&String| !bpf::names::map::ALL.contains(&name.as_str());
    assert_eq!(pinned.filter(ours).collect::<Vec<_>>(), [bpf::names::map::LB_REVERSE_SK]);
    let mut programs: Vec<&str> = object.programs.keys().map(String::as_str).collect();
    programs.sort_unstable();
    let mut expected = bpf::names::socket::ALL.map(|(name, _)| name);
    expected.sort_unstable();
    assert_eq!(programs, expected);
}

//! The page of `cilium status`, to the letter.

use super::*;
use crate::render::plain;

fn ok(msg: &str) -> Part {
    Part { state: State::Ok, msg: msg.into() }
}

fn controller(name: &str, failures: u64) -> Controller {
    Controller {
        name: name.into(),
        success_count: 9,
        failure_count: failures,
        consecutive_failure_count: failures,
        last_success: Some(12),
        last_failure: (failures > 0).then_some(3725),
        last_failure_msg: if failures > 0 { "no space left".into() } else { String::new() },
    }
}

fn status() -> Status {
    Status {
        cilium: ok("OK"),
        kvstore: ok("embedded: /var/lib/cilium/kvstore.redb"),
        kvstore_contact: KvstoreContact {
            watches: vec![api::status::Watch { prefix: "cilium/x/".into(), revision: 8, in_contact: true }],
            lease: Some(api::status::Lease {
                id: Some("1f".into()),
                confirmed: Some(4),
                keys: 6,
                pending: 1,
                trouble: Some("no answer".into()),
            }),
            heartbeat: Some(api::status::Heartbeat { written: String::new(), age: 9, round_trip_us: 700 }),
        },
        container_runtime: ok("docker 20.10.24"),
        docker_plugin: ok("/run/docker/plugins/cilium.sock"),
        datapath: ok("tcx"),
        routing: Part { state: State::Ok, msg: "vxlan, UDP port 8472".to_owned() },
        masquerade: Part { state: State::Disabled, msg: String::new() },
        cluster_health: ok("3/3 reachable   (2026-11-21T00:00:00.000Z, every 66s)"),
        cluster_mesh: None,
        ipam: IpamStatus {
            ipv4: Some(PoolUse { pool: "10.15.0.0/16".into(), allocated: 3, capacity: "65533".into() }),
            ipv6: Some(PoolUse { pool: "f00d::a0f:0:0:0/112".into(), allocated: 1, capacity: "65535".into() }),
            allocations: [
                ("10.15.0.10", "docker"),
                ("10.15.0.2", "docker"),
                ("f00d::2", "docker"),
                ("10.15.0.1", "router"),
            ]
            .map(|(ip, owner)| (ip.to_owned(), owner.to_owned()))
            .into(),
        },
        node_monitor: Some(MonitorStatus { cpus: 2, buffer: 8388608, lost: 0, unknown: 1 }),
        controllers: vec![controller("records", 0), controller("identity", 2)],
        node: "k1".into(),
        cluster: "default".into(),
        version: "0.1.0".into(),
        uptime: 125,
        policy_revision: 3,
        desired_revision: 40,
        realised_revision: 40,
        plugin_calls: vec![PluginCall {
            method: "NetworkDriver.Join".into(),
            count: 3,
            errors: 1,
            last_us: 2045,
            max_us: 13_000,
        }],
    }
}

#[test]
fn the_usual_page() {
    let expected = "\
KVStore:                Ok   embedded: /var/lib/cilium/kvstore.redb
ContainerRuntime:       Ok   docker 20.10.24
DockerPlugin:           Ok   /run/docker/plugins/cilium.sock
Datapath:               Ok   tcx
Masquerading:           Disabled
Routing:                Ok   vxlan, UDP port 8472
Cilium:                 Ok   OK
NodeMonitor:            Listening for events on 2 CPUs with 1x8388608 of shared memory
                        0 events lost, 1 unknown notifications
IPAM:                   IPv4: 3/65533 allocated from 10.15.0.0/16, IPv6: 1/65535 allocated from f00d::a0f:0:0:0/112
Controller Status:      1/2 healthy
  Name       Last success   Last error   Count   Message
  identity   12s ago        1h2m5s ago   2       no space left
Policy:                 revision 3, kernel at state 40 of 40
Cluster health:         3/3 reachable   (2026-11-21T00:00:00.000Z, every 66s)
";
    assert_eq!(plain(page(&status(), Detail::default(), None)), expected);
}

#[test]
fn everything() {
    let text = plain(page(&status(), Detail { addresses: true, controllers: true, everything: true }, None));
    let expected = "\
Allocated addresses:
  10.15.0.1 (router)
  10.15.0.2 (docker)
  10.15.0.10 (docker)
  f00d::2 (docker)
Controller Status:      1/2 healthy
  Name       Last success   Last error   Count   Message
  identity   12s ago        1h2m5s ago   2       no space left
  records    12s ago        never        0       no error
Policy:                 revision 3, kernel at state 40 of 40
Node:                   k1 (cluster default)
Version:                0.1.0, up for 2m5s
Cluster health:         3/3 reachable   (2026-11-21T00:00:00.000Z, every 66s)
Plugin calls:
  Method               Calls   Errors   Last       Longest
  NetworkDriver.Join   3       1        2.045 ms   13.000 ms
";
    assert!(text.ends_with(expected), "{text}");
    let contact = "\
KVStore:                Ok   embedded: /var/lib/cilium/kvstore.redb
                        lease 1f, confirmed 4s ago, 6 keys, 1 not written yet; no answer
                        last heartbeat seen 9s ago, answered in 0.700 ms
                        cilium/x/: followed, revision 8
";
    assert!(text.starts_with(contact), "{text}");
}

#[test]
fn monitor_and_addresses_may_be_off() {
    let mut status = status();
    status.node_monitor = None;
    status.ipam = IpamStatus { ipv4: None, ipv6: None, allocations: Default::default() };
    status.realised_revision = 39;
    let text = plain(page(&status, Detail::default(), None));
    assert!(text.contains("NodeMonitor:            Disabled\nIPAM:                   Disabled\n"), "{text}");
    assert!(text.contains("kernel at state 39 of 40"), "{text}");
}

#[test]
fn brief_names_the_worst_probe() {
    let mut status = status();
    assert_eq!(plain(brief(&status)), "OK\n");
    status.cilium = Part { state: State::Failure, msg: "kvstore".into() };
    status.container_runtime = Part { state: State::Warning, msg: "no answer".into() };
    status.kvstore = Part { state: State::Failure, msg: "connection refused".into() };
    assert_eq!(plain(brief(&status)), "error in kvstore: connection refused\n");
    status.kvstore.state = State::Ok;
    status.cilium.state = State::Warning;
    assert_eq!(plain(brief(&status)), "warning in container-runtime: no answer\n");
    status.cilium.state = State::Failure;
    status.container_runtime.state = State::Ok;
    assert_eq!(plain(brief(&status)), "error in cilium: kvstore\n");
}

#[test]
fn other_clusters_are_named_when_they_do_not_go_well() {
    let cluster = |name: &str, state, reason: Option<&str>| api::status::RemoteCluster {
        name: name.into(),
        id: reason.is_none().then_some(7),
        state,
        reason: reason.map(str::to_owned),
        nodes: 2,
        endpoints: 5,
        identities: 3,
        failures: 1,
        last_failure: Some(61),
        last_failure_msg: Some("no answer".into()),
    };
    let clusters = vec![
        cluster("east", MeshState::Ready, None),
        cluster("west", MeshState::Failing, Some("this cluster has that id itself")),
    ];
    let mesh = ClusterMesh { fault: None, clusters };
    let lines = |detail| {
        let text = plain(page(&Status { cluster_mesh: Some(mesh.clone()), ..status() }, detail, None));
        let mesh = text.lines().skip_while(|line| !line.starts_with("ClusterMesh:"));
        mesh.take_while(|line| !line.starts_with("Cilium:")).map(str::trim).map(str::to_owned).collect::<Vec<_>>()
    };
    let west = "west: failing: this cluster has that id itself, 2 nodes, 5 endpoints, 3 identities";
    assert_eq!(lines(Detail::default()), ["ClusterMesh:            1/2 clusters ready", west]);
    let east = "east (id 7): ready, 2 nodes, 5 endpoints, 3 identities, failed 1 times, last 1m1s ago: no answer";
    let all = Detail { everything: true, ..Detail::default() };
    assert_eq!(lines(all), ["ClusterMesh:            1/2 clusters ready", east, west]);
}

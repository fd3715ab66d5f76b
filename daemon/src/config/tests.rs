//! What is understood, what is refused, and that all faults are told at once.

use super::*;

fn load_with(args: &[&str]) -> Result<Config, ConfigError> {
    let args = std::iter::once("cilium-agent").chain(args.iter().copied()).map(OsString::from);
    match load(args, std::iter::empty(), "host1")? {
        Invocation::Run(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

fn faults(args: &[&str]) -> Vec<String> {
    match load_with(args) {
        Err(ConfigError::Invalid(faults)) => faults.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_defaults_are_valid() {
    let config = load_with(&[]).unwrap();
    assert_eq!(config.node_name, "host1");
    assert_eq!(config.ipv4, Some(Range::Auto));
    assert_eq!(config.socket_path, PathBuf::from("/var/run/cilium/cilium.sock"));
    assert_eq!(config.docker, PathBuf::from("/var/run/docker.sock"));
    assert_eq!(config.kvstore.local, PathBuf::from("/var/lib/cilium/cilium.db"));
    assert_eq!(config.kvstore.shared, kvstore::Config::Embedded { path: config.kvstore.local.clone() });
    assert!(config.masquerade);
}

#[test]
fn the_socket_follows_the_state_folder() {
    assert_eq!(load_with(&["--state-dir", "/x"]).unwrap().socket_path, PathBuf::from("/x/cilium.sock"));
    assert_eq!(load_with(&["--socket-path", "/y.sock"]).unwrap().socket_path, PathBuf::from("/y.sock"));
}

#[test]
fn all_faults_are_told_at_once() {
    let faults = faults(&["--mtu", "12", "--enable-policy=sometimes", "--ipv4-range", "10.1.2.3/16", "--lib-dir=x"]);
    assert_eq!(faults.len(), 4, "{faults:#?}");
    assert!(faults.iter().all(|fault| fault.contains("(command line)")));
    assert!(faults.iter().any(|fault| fault.contains("10.1.0.0/16 is meant?")));
}

#[test]
fn ranges_that_cannot_be_pools_are_refused() {
    for range in ["127.0.0.0/8", "224.0.0.0/8", "169.254.0.0/16", "10.0.0.0/30", "0.0.0.0/8", "f00d::/96", "x"] {
        assert_eq!(faults(&["--ipv4-range", range]).len(), 1, "{range}");
    }
    for range in ["fe80::/64", "ff00::/64", "::/96", "f00d::/32", "f00d::/126", "10.0.0.0/16"] {
        assert_eq!(faults(&["--ipv6-range", range]).len(), 1, "{range}");
    }
    assert!(load_with(&["--ipv4-range", "10.15.0.0/16", "--ipv6-range", "f00d::a0f:0:0:0/96"]).is_ok());
}

#[test]
fn one_address_family_at_least() {
    assert_eq!(faults(&["--enable-ipv4=false", "--enable-ipv6=false"]).len(), 1);
    assert_eq!(load_with(&["--enable-ipv6=false"]).unwrap().ipv6, None);
}

#[test]
fn small_packets_and_ipv6_do_not_go_together() {
    assert_eq!(faults(&["--mtu=1000"]).len(), 1);
    assert!(load_with(&["--mtu=1000", "--enable-ipv6=false"]).is_ok());
}

#[test]
fn names_that_would_break_keys_are_refused() {
    for name in ["a/b", "", "a b", "-x", "ä"] {
        if name.is_empty() {
            assert_eq!(load_with(&["--node-name", name]).unwrap().node_name, "host1");
        } else {
            assert_eq!(faults(&[&format!("--node-name={name}")]).len(), 1, "{name}");
        }
    }
}

#[test]
fn secrets_are_not_printed() {
    let config = load_with(&[
        "--kvstore=etcd",
        "--kvstore-opt=etcd.address=http://127.0.0.1:2379",
        "--kvstore-opt=etcd.user=agent",
        "--kvstore-opt=etcd.password=hunter2",
    ])
    .unwrap();
    let printed = format!("{config:?}{}", print(&config.printable));
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(printed.contains("etcd.password=(hidden)"), "{printed}");
}

#[test]
fn an_unknown_store_or_option_is_refused_by_name() {
    assert!(faults(&["--kvstore=consul"])[0].contains("consul"));
    assert!(faults(&["--kvstore-opt=etcd.address=127.0.0.1:2379"])[0].contains("etcd.address"));
    assert!(faults(&["--kvstore=etcd"])[0].contains("etcd.address"));
}

#[test]
fn a_secret_in_an_address_is_not_printed() {
    assert_eq!(secretless("etcd.address=http://u:hunter2@x:1"), "etcd.address=(hidden)");
    assert_eq!(secretless("etcd.token=x"), "etcd.token=(hidden)");
    assert_eq!(secretless("etcd.address=x:1"), "etcd.address=x:1");
}

#[test]
fn a_cluster_among_several_has_an_id_a_name_and_an_etcd() {
    let etcd = ["--kvstore=etcd", "--kvstore-opt=etcd.address=127.0.0.1:2379"];
    let with = |more: &[&'static str]| [&etcd[..], more].concat();
    let refused = faults(&["--cluster-id=3"]);
    assert!(refused.iter().any(|fault| fault.contains("cluster-name")), "{refused:?}");
    assert!(refused.iter().any(|fault| fault.contains("--kvstore=etcd")), "{refused:?}");
    for (id, name) in [("256", "a"), ("-1", "a"), ("x", "a"), ("3", "A"), ("3", "a_b"), ("0", "a.b")] {
        let (id, name) = (format!("--cluster-id={id}"), format!("--cluster-name={name}"));
        let all = [&etcd[..], &[id.as_str(), name.as_str()]].concat();
        assert_eq!(faults(&all).len(), 1, "{all:?}");
    }
    let config = load_with(&with(&["--cluster-id=255", "--cluster-name=east-1"])).unwrap();
    assert_eq!(config.cluster.id, 255);
    assert_eq!(config.cluster.in_mesh().map(|name| name.to_string()).as_deref(), Some("east-1"));
    let labels = config.label_filter.container_labels(&Default::default()).to_string();
    assert!(labels.contains("io.cilium.k8s.policy.cluster=east-1"), "{labels}");
}

#[test]
fn a_cluster_without_an_id_has_the_identities_that_it_always_had() {
    let config = load_with(&["--cluster-name=east"]).unwrap();
    assert_eq!(config.cluster.in_mesh(), None);
    assert_eq!(config.label_filter.container_labels(&Default::default()).to_string(), "container:unlabelled");
}

#[test]
fn the_environment_is_below_the_command_line() {
    let variables = [("CILIUM_MTU", "9000"), ("CILIUM_NODE_NAME", "env")];
    let variables = variables.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let args = ["cilium-agent", "--mtu=1400"].map(OsString::from);
    match load(args, variables, "host1").unwrap() {
        Invocation::Run(config) => assert_eq!((config.mtu, config.node_name.as_str()), (Some(1400), "env")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_configuration_file_is_read_and_a_missing_one_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.conf");
    std::fs::write(&path, "mtu = 1300\nlabels = id !foo\n").unwrap();
    let config = load_with(&["--config", path.to_str().unwrap()]).unwrap();
    assert_eq!(config.mtu, Some(1300));
    assert!(config.printable.iter().any(|(name, _, origin)| name == "mtu" && origin.ends_with("line 1")));
    assert!(matches!(load_with(&["--config", "/nonexistent/x"]), Err(ConfigError::ReadFile { .. })));
}

#[test]
fn print_config_prints_every_setting() {
    let args = ["cilium-agent", "--print-config"].map(OsString::from);
    match load(args, std::iter::empty(), "host1").unwrap() {
        Invocation::Print(text) => assert_eq!(text.lines().count(), SETTINGS.len()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pool_is_claimed_out_of_the_clusters_or_set_and_not_both() {
    let config = load_with(&["--cluster-pool-ipv4=10.64.0.0/10", "--cluster-pool-ipv6", "fd64::/64"]).unwrap();
    assert_eq!(config.ipv4, Some(Range::Claimed { cluster: "10.64.0.0/10".parse().unwrap(), bits: 24 }));
    assert_eq!(config.ipv6, Some(Range::Claimed { cluster: "fd64::/64".parse().unwrap(), bits: 112 }));
    assert_eq!(faults(&["--cluster-pool-ipv4=10.64.0.0/10", "--ipv4-range=10.15.0.0/16"]).len(), 1);
    assert_eq!(faults(&["--cluster-pool-ipv4=10.64.0.0/26"]).len(), 1, "too small for a /24");
    for range in ["10.64.0.1/10", "0.0.0.0/0", "224.0.0.0/8", "fd64::/64", "x"] {
        assert_eq!(faults(&["--cluster-pool-ipv4", range]).len(), 1, "{range}");
    }
    for range in ["fe80::/64", "::/0", "ff00::/32", "10.64.0.0/10"] {
        assert_eq!(faults(&["--cluster-pool-ipv6", range]).len(), 1, "{range}");
    }
    assert_eq!(faults(&["--cluster-pool-ipv4-mask-size", "30"]).len(), 1);
}

#[test]
fn the_tunnel_follows_the_kvstore_unless_it_is_set() {
    let etcd = ["--kvstore=etcd", "--kvstore-opt=etcd.address=http://127.0.0.1:2379"];
    assert_eq!(load_with(&[]).unwrap().tunnel, Tunnel::Disabled);
    assert_eq!(load_with(&etcd).unwrap().tunnel, Tunnel::Vxlan);
    assert_eq!(load_with(&[&etcd[..], &["--tunnel=disabled"]].concat()).unwrap().tunnel, Tunnel::Disabled);
    assert_eq!(load_with(&["--tunnel=vxlan"]).unwrap().tunnel, Tunnel::Vxlan);
    assert_eq!(load_with(&["--tunnel=geneve"]).unwrap().tunnel, Tunnel::Geneve);
    assert_eq!(faults(&["--tunnel=gre"]).len(), 1);
}

#[test]
fn a_node_has_one_address_of_each_family() {
    assert_eq!(load_with(&[]).unwrap().node_ip, None);
    let both = (Some("192.0.2.1".parse().unwrap()), Some("2001:db8::1".parse().unwrap()));
    assert_eq!(load_with(&["--node-ip=192.0.2.1,2001:db8::1"]).unwrap().node_ip, Some(both));
    assert_eq!(load_with(&["--node-ip=192.0.2.1", "--node-ip=2001:db8::1"]).unwrap().node_ip, Some(both));
    for text in ["x", "127.0.0.1", "0.0.0.0", "ff02::1", "192.0.2.1,192.0.2.2"] {
        assert_eq!(faults(&["--node-ip", text]).len(), 1, "{text}");
    }
}

#[test]
fn nodes_of_a_cluster_look_after_each_other_and_one_alone_does_not() {
    let etcd = ["--kvstore=etcd", "--kvstore-opt=etcd.address=http://192.0.2.1:2379"];
    let health = |more: &[&str]| load_with(&[&etcd[..], more].concat()).unwrap().health;
    assert_eq!(health(&[]).map(|health| (health.port, health.interval.as_secs())), Some((4240, 60)));
    assert_eq!(health(&["--enable-health-checking=false"]), None);
    assert_eq!(load_with(&["--enable-health-checking"]).unwrap().health, None);
    assert_eq!(faults(&["--cluster-health-port=0", "--health-interval=0", "--enable-health-checking=x"]).len(), 3);
}

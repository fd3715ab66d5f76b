//! The table of everything that can be set: the flags, the environment variables and the keys of the configuration file
//! are all made from it, so that the three can never differ.
//!
//! Owns names, defaults and help texts. What a value means is `config.rs`' business.

/// How often a setting may be given, and with what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One value; the last source wins.
    Text,
    /// `true` or `false`; the flag alone means true.
    Switch,
    /// May be repeated; the values of the strongest source that has any are taken together.
    List,
}

#[derive(Debug)]
pub struct Setting {
    /// The flag without `--`; in the environment `CILIUM_` and this in capitals with `_`.
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    /// What stands for the value in the help text.
    pub value: &'static str,
    /// Text of the default; empty: none (said in the help text).
    pub default: &'static str,
    pub help: &'static str,
}

impl Setting {
    pub fn environment(&self) -> String {
        format!("CILIUM_{}", self.name.to_uppercase().replace('-', "_"))
    }

    pub fn find(name: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }
}

const fn text(name: &'static str, value: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, short: None, kind: Kind::Text, value, default, help }
}

const fn switch(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, short: None, kind: Kind::Switch, value: "BOOL", default, help }
}

const fn list(name: &'static str, value: &'static str, help: &'static str) -> Setting {
    Setting { name, short: None, kind: Kind::List, value, default: "", help }
}

/// Names and defaults are Cilium's wherever Cilium has the setting.
pub const SETTINGS: &[Setting] = &[
    text(
        "allow-localhost",
        "WHEN",
        "auto",
        "Let the host reach local endpoints whatever the policy says: policy|always|auto (auto: policy)",
    ),
    switch(
        "auto-direct-node-routes",
        "false",
        "With --tunnel=disabled: route other nodes' pods to those nodes, which are on the same network",
    ),
    text(
        "block-grace",
        "SECONDS",
        "604800",
        "How long a node whose record is gone keeps its blocks of addresses (10..=31536000)",
    ),
    text("bpf-ct-global-max", "N", "524288", "Flows that connection tracking can hold, each address family"),
    text("bpf-ipcache-max", "N", "512000", "Addresses that the kernel's identity table can hold"),
    text(
        "bpf-lb-algorithm",
        "NAME",
        "random",
        "How a service's backend is chosen for who comes from outside: random|maglev (the same on all nodes)",
    ),
    text("bpf-lb-maglev-hash-seed", "TEXT", "JLfvgnHc2kaSUFaI", "Of Maglev's tables; the same on all nodes"),
    text(
        "bpf-lb-maglev-table-size",
        "N",
        "16381",
        "Places of a Maglev table: 251|509|1021|2039|4093|8191|16381|32749|65521|131071",
    ),
    text(
        "bpf-lb-places-max",
        "N",
        "4194304",
        "Entries that the tables by which new flows find backends can hold, of all services together",
    ),
    switch("bpf-lb-sock", "true", "Have sockets of containers and of the host talk to services' backends themselves"),
    text("bpf-nat-global-max", "N", "262144", "Clients for whom this node can speak to other nodes' backends at once"),
    text("bpf-policy-max", "N", "131072", "Entries that the kernel's policy table can hold, all identities together"),
    text("bpf-root", "DIR", "/sys/fs/bpf", "Where the BPF file system is, or is to be mounted"),
    text("bpf-sock-rev-map-max", "N", "262144", "Sockets of which the kernel remembers which service they asked for"),
    text(
        "cgroup-root",
        "DIR",
        "auto",
        "Whose processes' sockets --bpf-lb-sock serves: a folder of a cgroup2 file system; auto: the whole host's",
    ),
    text(
        "cluster-health-port",
        "PORT",
        "4240",
        "TCP port on which nodes answer to each other's probes; the same on all",
    ),
    text("cluster-id", "N", "0", "Number of the cluster among several (1..=255); 0: there is but one"),
    text("cluster-name", "NAME", "default", "Name of the cluster: lower-case letters, digits and '-', 32 at most"),
    text("cluster-pool-ipv4", "CIDR", "", "Claim this node's IPv4 pool out of this range of the whole cluster's"),
    text("cluster-pool-ipv4-mask-size", "BITS", "24", "Prefix length of each node's part of --cluster-pool-ipv4"),
    text("cluster-pool-ipv6", "CIDR", "", "Claim this node's IPv6 pool out of this range of the whole cluster's"),
    text("cluster-pool-ipv6-mask-size", "BITS", "112", "Prefix length of each node's part of --cluster-pool-ipv6"),
    text(
        "clustermesh-config",
        "DIR",
        "/var/lib/cilium/clustermesh",
        "With --cluster-id: where a file for each other cluster says how to reach its etcd",
    ),
    Setting { short: Some('D'), ..switch("debug", "false", "Log more") },
    Setting { short: Some('e'), ..text("docker", "URL", "unix:///var/run/docker.sock", "Socket of Docker's API") },
    text("docker-plugins", "DIR", "/run/docker/plugins", "Where Docker looks for the sockets of its plugins"),
    switch("enable-health-checking", "true", "Probe the other nodes and answer to their probes, with --kvstore=etcd"),
    switch("enable-ipv4", "true", "Give containers IPv4 addresses"),
    switch("enable-ipv6", "true", "Give containers IPv6 addresses"),
    text("enable-policy", "MODE", "default", "Whom policy restricts: default (whom a rule selects)|always|never"),
    text("health-interval", "SECONDS", "60", "Time between two probes of a node in a small cluster (1..=3600)"),
    text(
        "ipv4-native-routing-cidr",
        "CIDR",
        "",
        "With --tunnel=disabled: do not masquerade what goes there; without it --cluster-pool-ipv4",
    ),
    text("ipv4-range", "CIDR", "auto", "This node's IPv4 pool; auto: 10.<last octet of the node's address>.0.0/16"),
    text(
        "ipv6-native-routing-cidr",
        "CIDR",
        "",
        "With --tunnel=disabled: do not masquerade what goes there; without it --cluster-pool-ipv6",
    ),
    text("ipv6-range", "CIDR", "auto", "This node's IPv6 pool; auto: f00d::<first 32 bits of the IPv4 pool>:0:0/96"),
    text("kvstore", "NAME", "embedded", "Where identities and policy live: embedded (a file in --lib-dir)|etcd"),
    text("kvstore-lease-ttl", "SECONDS", "900", "How long this node's records outlive it in the kvstore (10..=86400)"),
    list("kvstore-opt", "KEY=VALUE", "Option of the kvstore, such as etcd.address=http://127.0.0.1:2379; repeatable"),
    list("labels", "ENTRY", "Which labels make an identity: [source:][!]prefix; repeatable, or separated by blanks"),
    text("lib-dir", "DIR", "/var/lib/cilium", "Where what must survive a reboot is kept"),
    text("log-format", "FORMAT", "text", "text|json"),
    switch("masquerade", "true", "Give packets from containers to the outside world the host's address"),
    text(
        "monitor-aggregation",
        "LEVEL",
        "medium",
        "What becomes an event beside drops: none (every packet)|medium (verdicts, and now and then a packet)|maximum (verdicts)|drops (nothing)",
    ),
    text("mtu", "BYTES", "auto", "MTU of containers' devices; auto: the uplink's, less what the tunnel takes"),
    text("node-grace", "SECONDS", "60", "How long another node is believed in after its records went (0..=86400)"),
    list(
        "node-ip",
        "ADDRESS",
        "Address by which other nodes reach this one, one for a family; without it the uplink's",
    ),
    text("node-name", "NAME", "", "Name of this node; without it the host's name"),
    text(
        "node-port-range",
        "FIRST,LAST",
        "30000,32767",
        "Ports that services may have on every address of the nodes; the same on all nodes",
    ),
    list(
        "nodeport-addresses",
        "CIDR",
        "Of the host's addresses, those that answer to node ports and published ones; without it all",
    ),
    text("socket-path", "PATH", "", "Socket of the API; without it cilium.sock in --state-dir"),
    text("state-dir", "DIR", "/var/run/cilium", "Where sockets are"),
    text(
        "tunnel",
        "MODE",
        "auto",
        "How packets get to other nodes: vxlan|geneve|disabled|auto (auto: vxlan with --kvstore=etcd)",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_unique() {
        assert!(SETTINGS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn environment_names_are_flags_in_capitals() {
        let setting = Setting::find("bpf-root").unwrap();
        assert_eq!(setting.environment(), "CILIUM_BPF_ROOT");
    }
}

//! Settings from the command line, the environment and a file, made into one validated `Config`.
//!
//! After `load` nobody reads the environment any more. All faults are told at once, each with the place it was found at.

mod cluster;
mod native;
mod ranges;
pub mod settings;
pub mod source;

pub use cluster::Cluster;
pub use native::Native;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use model::label_filter::LabelFilter;
use policy::AllowLocalhost;
use settings::{Kind, SETTINGS};
use source::{CleanupScope, Given, Origin, Settings};
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// One thing wrong with the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub setting: String,
    pub origin: String,
    pub message: String,
}

impl Fault {
    pub fn new(setting: &str, origin: &Origin, message: impl Into<String>) -> Fault {
        Fault { setting: setting.to_owned(), origin: origin.to_string(), message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.setting, self.origin, self.message)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Usage, help or version: clap prints it and knows the exit code.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    #[error("read the configuration file {path}")]
    ReadFile { path: PathBuf, source: std::io::Error },
    #[error("the configuration is not valid:\n{}", .0.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Fault>),
}

/// What this start of the program is for.
#[derive(Debug)]
pub enum Invocation {
    Run(Box<Config>),
    /// `--print-config`: this text, and nothing else.
    Print(String),
    Cleanup(Box<Config>, CleanupScope),
}

/// An address pool of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Range<N> {
    /// Derived from the node's address at the first start, and then kept.
    Auto,
    Fixed(N),
    /// Claimed out of the cluster's range: `bits` is the prefix length of each node's part.
    Claimed {
        cluster: N,
        bits: u8,
    },
}

/// How packets get to other nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tunnel {
    /// As the network between the nodes sees fit.
    Disabled,
    Vxlan,
    /// By a device of the kernel's where it has one, else by the packet programs.
    Geneve,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Text,
    Json,
}

/// Everything that was set, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub allow_localhost: AllowLocalhost,
    /// Flows that connection tracking holds, each family.
    pub conntrack_max: u32,
    pub ipcache_max: u32,
    pub lb_places_max: u32,
    /// Sockets talk to services' backends themselves.
    pub lb_sock: bool,
    pub sock_reverse_max: u32,
    pub nat_max: u32,
    /// Whose processes' sockets; `None`: where the host's cgroup2 is found, or mounted.
    pub cgroup_root: Option<PathBuf>,
    pub policy_max: u32,
    /// How long a node without a record keeps its parts of ranges that nodes share.
    pub block_grace: Duration,
    pub bpf_root: PathBuf,
    pub cluster_name: String,
    pub cluster: Cluster,
    pub debug: bool,
    /// Path of Docker's socket.
    pub docker: PathBuf,
    pub docker_plugins: PathBuf,
    pub enforcement: policy::Enforcement,
    /// `None`: other nodes are neither probed nor answered.
    pub health: Option<crate::health::Settings>,
    /// `None`: the family is switched off.
    pub ipv4: Option<Range<Ipv4Network>>,
    pub ipv6: Option<Range<Ipv6Network>>,
    pub kvstore: Kvstore,
    pub label_filter: LabelFilter,
    pub lib_dir: PathBuf,
    pub log_format: LogFormat,
    pub masquerade: bool,
    pub monitor_aggregation: datapath::Aggregation,
    pub native: Native,
    /// `None`: the uplink's.
    pub mtu: Option<u32>,
    /// How long another node is believed in after its records went.
    pub node_grace: Duration,
    /// `None`: the uplink's addresses. Else at most one of each family.
    pub node_ip: Option<(Option<Ipv4Addr>, Option<Ipv6Addr>)>,
    pub node_name: String,
    /// How services are done on this node.
    pub services: state::services::Options,
    pub socket_path: PathBuf,
    pub state_dir: PathBuf,
    pub tunnel: Tunnel,
    /// Log lines go to the system's journal, which has a clock of its own.
    pub under_journal: bool,
    /// What was not wrong but worth a line in the log.
    pub warnings: Vec<String>,
    /// Name, value without secrets, origin, of each setting: `GET /v1/config` and `--print-config`.
    pub printable: Vec<(String, String, String)>,
}

/// Where identities and policy live, and where this node's own records do.
#[derive(Clone, Debug)]
pub struct Kvstore {
    pub shared: kvstore::Config,
    /// File of the local store; it is the shared one too when `shared` is embedded.
    pub local: PathBuf,
    /// File in which what is known of the cluster is noted, where `shared` is another.
    pub memory: PathBuf,
    pub lease_ttl: Duration,
}

/// Reads and checks everything. `hostname` is the default of the node's name.
pub fn load(
    args: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    hostname: &str,
) -> Result<Invocation, ConfigError> {
    let line = source::from_command_line(args)?;
    let mut faults = Vec::new();
    let environment: Vec<_> = environment.into_iter().collect();
    let under_journal = environment.iter().any(|(name, _)| name == "JOURNAL_STREAM");
    let (environment, warnings) = source::from_environment(environment, &mut faults);
    let file = match &line.config_file {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).map_err(|source| ConfigError::ReadFile { path: path.clone(), source })?;
            source::from_file(path, &text, &mut faults)
        }
        None => Settings::new(),
    };
    let settings = source::merge([line.settings, environment, file]);
    let config = Box::new(Config { under_journal, ..validate(&settings, hostname, warnings, faults)? });
    Ok(match line.cleanup {
        Some(scope) => Invocation::Cleanup(config, scope),
        None if line.print_config => Invocation::Print(print(&config.printable)),
        None => Invocation::Run(config),
    })
}

/// The settings being read, and what was wrong with them so far.
struct Reader<'a> {
    settings: &'a Settings,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    /// The value or the default's text.
    fn text(&self, name: &'static str) -> String {
        let default = || settings::Setting::find(name).map(|setting| setting.default.to_owned()).unwrap_or_default();
        self.settings.get(name).and_then(|given| given.values.last().cloned()).unwrap_or_else(default)
    }

    fn list(&self, name: &'static str) -> Vec<String> {
        self.settings.get(name).map(|given| given.values.clone()).unwrap_or_default()
    }

    fn fault(&mut self, name: &'static str, message: impl Into<String>) {
        let origin = self.settings.get(name).map_or(Origin::Default, |given| given.origin.clone());
        self.faults.push(Fault::new(name, &origin, message));
    }

    /// One of a few words; `fallback` is used after a fault was noted.
    fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)], fallback: T) -> T {
        let text = self.text(name);
        match choices.iter().find(|(word, _)| *word == text.to_lowercase()) {
            Some((_, value)) => *value,
            None => {
                let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
                self.fault(name, format!("{text:?} is none of {}", words.join(", ")));
                fallback
            }
        }
    }

    fn switch(&mut self, name: &'static str) -> bool {
        self.choice(name, &[("true", true), ("false", false), ("1", true), ("0", false)], false)
    }

    fn number(&mut self, name: &'static str, range: std::ops::RangeInclusive<u32>) -> u32 {
        let text = self.text(name);
        match text.parse::<u32>() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.fault(name, format!("{text:?} is no whole number from {} to {}", range.start(), range.end()));
                *range.start()
            }
        }
    }

    /// An absolute path: the agent's working directory means nothing to who set it.
    fn path(&mut self, name: &'static str) -> PathBuf {
        let path = PathBuf::from(self.text(name));
        if !path.is_absolute() {
            self.fault(name, format!("{} is no absolute path", path.display()));
        }
        path
    }

    /// A name that becomes part of a kvstore key and of a Docker-visible text.
    fn name(&mut self, name: &'static str, text: String) -> String {
        let well_formed = (1..=253).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            && !text.starts_with(['.', '-']);
        if !well_formed {
            self.fault(
                name,
                format!("{text:?} is no name: letters, digits, '-', '.' and '_' are allowed, 253 at most"),
            );
        }
        text
    }
}

fn validate(
    settings: &Settings,
    hostname: &str,
    warnings: Vec<String>,
    faults: Vec<Fault>,
) -> Result<Config, ConfigError> {
    let mut reader = Reader { settings, faults };
    let state_dir = reader.path("state-dir");
    let node_name = match reader.text("node-name") {
        text if text.is_empty() => hostname.to_owned(),
        text => text,
    };
    let kvstore = kvstore(&mut reader);
    let cluster = Cluster::read(&mut reader, &kvstore);
    let cluster_label = cluster.in_mesh();
    let tunnel = tunnel(&mut reader, &kvstore);
    let ipv4 = family(&mut reader, "enable-ipv4", "ipv4-range", check_ipv4, ranges::IPV4);
    let ipv6 = family(&mut reader, "enable-ipv6", "ipv6-range", check_ipv6, ranges::IPV6);
    let native = Native::read(&mut reader, tunnel, &kvstore, (ipv4.as_ref(), ipv6.as_ref()));
    let config = Config {
        allow_localhost: reader.choice(
            "allow-localhost",
            &[("policy", AllowLocalhost::Policy), ("always", AllowLocalhost::Always), ("auto", AllowLocalhost::Policy)],
            AllowLocalhost::Policy,
        ),
        conntrack_max: reader.number("bpf-ct-global-max", 1024..=16_777_216),
        ipcache_max: reader.number("bpf-ipcache-max", 1024..=16_777_216),
        lb_places_max: reader.number("bpf-lb-places-max", 1024..=268_435_456),
        lb_sock: reader.switch("bpf-lb-sock"),
        sock_reverse_max: reader.number("bpf-sock-rev-map-max", 1024..=16_777_216),
        nat_max: reader.number("bpf-nat-global-max", 1024..=16_777_216),
        cgroup_root: match reader.text("cgroup-root").as_str() {
            "auto" => None,
            _ => Some(reader.path("cgroup-root")),
        },
        policy_max: reader.number("bpf-policy-max", 1024..=16_777_216),
        block_grace: Duration::from_secs(u64::from(reader.number("block-grace", 10..=31_536_000))),
        bpf_root: reader.path("bpf-root"),
        cluster_name: reader.text("cluster-name"),
        cluster,
        debug: reader.switch("debug"),
        docker: docker(&mut reader),
        docker_plugins: reader.path("docker-plugins"),
        enforcement: reader.choice(
            "enable-policy",
            &[
                ("default", policy::Enforcement::Default),
                ("always", policy::Enforcement::Always),
                ("never", policy::Enforcement::Never),
            ],
            policy::Enforcement::Default,
        ),
        ipv4,
        ipv6,
        native,
        health: health(&mut reader, &kvstore),
        tunnel,
        kvstore,
        label_filter: match cluster_label {
            Some(cluster) => label_filter(&mut reader).in_cluster(cluster),
            None => label_filter(&mut reader),
        },
        lib_dir: reader.path("lib-dir"),
        log_format: reader.choice(
            "log-format",
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            LogFormat::Text,
        ),
        masquerade: reader.switch("masquerade"),
        monitor_aggregation: reader.choice(
            "monitor-aggregation",
            &[
                ("none", datapath::Aggregation::None),
                ("medium", datapath::Aggregation::Medium),
                ("maximum", datapath::Aggregation::Verdicts),
                ("drops", datapath::Aggregation::DropsOnly),
            ],
            datapath::Aggregation::Medium,
        ),
        mtu: match reader.text("mtu").as_str() {
            "auto" | "0" => None,
            _ => Some(reader.number("mtu", 576..=65_535)),
        },
        node_grace: Duration::from_secs(u64::from(reader.number("node-grace", 0..=86_400))),
        node_ip: node_ip(&mut reader),
        node_name: reader.name("node-name", node_name),
        services: services(&mut reader),
        socket_path: match reader.text("socket-path") {
            text if text.is_empty() => state_dir.join("cilium.sock"),
            _ => reader.path("socket-path"),
        },
        state_dir,
        under_journal: false,
        warnings,
        printable: printable(settings),
    };
    if config.ipv4.is_none() && config.ipv6.is_none() {
        reader.fault("enable-ipv4", "both address families are switched off: containers need one");
    }
    let mtu_is_sound = reader.faults.iter().all(|fault| fault.setting != "mtu");
    if mtu_is_sound && config.ipv6.is_some() && config.mtu.is_some_and(|mtu| mtu < 1280) {
        reader.fault("mtu", "IPv6 needs 1280 at least: give more, or --enable-ipv6=false");
    }
    if config.block_grace < config.node_grace {
        reader.fault(
            "block-grace",
            "it has to be as long as --node-grace at least: others believe in the node until then",
        );
    }
    if reader.faults.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(reader.faults)) }
}

fn docker(reader: &mut Reader<'_>) -> PathBuf {
    let text = reader.text("docker");
    let path = text.strip_prefix("unix://").unwrap_or(&text);
    if !path.starts_with('/') {
        reader.fault("docker", format!("{text:?} is no unix:///absolute/path"));
    }
    PathBuf::from(path)
}

fn family<N: FromStr + Copy>(
    reader: &mut Reader<'_>,
    switch: &'static str,
    range: &'static str,
    check: fn(N) -> Result<(), String>,
    pool: ranges::Pool<N>,
) -> Option<Range<N>> {
    let enabled = reader.switch(switch);
    let text = reader.text(range);
    let claimed = pool.read(reader);
    let choice = if let Some(claimed) = claimed {
        if text != "auto" {
            reader.fault(range, format!("the node's pool is either set or claimed by --{}, not both", pool.name));
        }
        Some(claimed)
    } else if text == "auto" {
        Some(Range::Auto)
    } else {
        match text.parse::<N>() {
            Ok(network) => {
                if let Err(message) = check(network) {
                    reader.fault(range, message);
                }
                Some(Range::Fixed(network))
            }
            Err(_) => {
                reader.fault(range, format!("{text:?} is no CIDR prefix of this family, nor `auto`"));
                None
            }
        }
    };
    choice.filter(|_| enabled)
}

fn tunnel(reader: &mut Reader<'_>, kvstore: &Kvstore) -> Tunnel {
    let alone = matches!(kvstore.shared, kvstore::Config::Embedded { .. });
    let auto = if alone { Tunnel::Disabled } else { Tunnel::Vxlan };
    let modes = [("vxlan", Tunnel::Vxlan), ("geneve", Tunnel::Geneve), ("disabled", Tunnel::Disabled), ("auto", auto)];
    reader.choice("tunnel", &modes, auto)
}

/// Nodes that share a kvstore look after each other; alone there is nobody to look after.
fn health(reader: &mut Reader<'_>, kvstore: &Kvstore) -> Option<crate::health::Settings> {
    let enabled = reader.switch("enable-health-checking");
    let port = reader.number("cluster-health-port", 1..=u32::from(u16::MAX));
    let interval = reader.number("health-interval", 1..=3600);
    let settings = crate::health::Settings {
        port: u16::try_from(port).unwrap_or(u16::MAX),
        interval: Duration::from_secs(u64::from(interval)),
    };
    let alone = matches!(kvstore.shared, kvstore::Config::Embedded { .. });
    (enabled && !alone).then_some(settings)
}

fn services(reader: &mut Reader<'_>) -> state::services::Options {
    use model::service::Algorithm;
    let algorithms = [("random", Algorithm::Random), ("maglev", Algorithm::Maglev)];
    let size = reader.number("bpf-lb-maglev-table-size", 0..=u32::MAX);
    if !state::services::SIZES.contains(&size) {
        let sizes = state::services::SIZES.map(|size| size.to_string()).join(", ");
        reader.fault("bpf-lb-maglev-table-size", format!("{size} is none of {sizes}"));
    }
    let seed = reader.text("bpf-lb-maglev-hash-seed");
    if seed.is_empty() {
        reader.fault("bpf-lb-maglev-hash-seed", "a text is needed");
    }
    let text = reader.text("node-port-range");
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port >= 1024);
    let range = text.split_once([',', '-']).and_then(|(first, last)| Some(port(first)?..=port(last)?));
    let node_ports = range.filter(|range| !range.is_empty()).unwrap_or_else(|| {
        reader.fault("node-port-range", format!("{text:?} is no FIRST,LAST out of 1024..=65535"));
        30_000..=32_767
    });
    let mut node_port_addresses = Vec::new();
    let values = reader.list("nodeport-addresses");
    for text in values.iter().flat_map(|value| value.split([',', ' '])).filter(|text| !text.is_empty()) {
        match text.parse::<IpNetwork>() {
            Ok(prefix) => node_port_addresses.push(prefix),
            Err(_) => reader.fault("nodeport-addresses", format!("{text:?} is no CIDR prefix")),
        }
    }
    state::services::Options {
        algorithm: reader.choice("bpf-lb-algorithm", &algorithms, Algorithm::Random),
        maglev_size: size,
        maglev_seed: state::services::seed(&seed),
        node_ports,
        node_port_addresses,
    }
}

fn node_ip(reader: &mut Reader<'_>) -> Option<(Option<Ipv4Addr>, Option<Ipv6Addr>)> {
    let values = reader.list("node-ip");
    let (mut v4, mut v6) = (None, None);
    for text in values.iter().flat_map(|value| value.split([',', ' '])).filter(|text| !text.is_empty()) {
        let twice = match text.parse::<IpAddr>() {
            Ok(ip) if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() => {
                reader.fault("node-ip", format!("{ip} is no address that other nodes could reach"));
                false
            }
            Ok(IpAddr::V4(ip)) => v4.replace(ip).is_some(),
            Ok(IpAddr::V6(ip)) => v6.replace(ip).is_some(),
            Err(_) => {
                reader.fault("node-ip", format!("{text:?} is no address"));
                false
            }
        };
        if twice {
            reader.fault("node-ip", format!("{text} is the second of its family: one is enough"));
        }
    }
    (v4.is_some() || v6.is_some()).then_some((v4, v6))
}

/// Node pools between /8 and /28: smaller ones have no room for the addresses that are set aside.
fn check_ipv4(network: Ipv4Network) -> Result<(), String> {
    let ip = network.ip();
    if ip != network.network() {
        return Err(format!("{network} has host bits set: {}/{} is meant?", network.network(), network.prefix()));
    }
    if !(8..=28).contains(&network.prefix()) {
        return Err(format!("a node's pool is between /8 and /28, and not /{}", network.prefix()));
    }
    if ip.is_loopback() || ip.is_multicast() || ip.is_link_local() || ip.octets()[0] == 0 || ip.octets()[0] >= 240 {
        return Err(format!("{network} is no unicast range for containers"));
    }
    Ok(())
}

/// Between /48 and /120; Cilium's is /96.
fn check_ipv6(network: Ipv6Network) -> Result<(), String> {
    let ip = network.ip();
    if ip != network.network() {
        return Err(format!("{network} has host bits set: {}/{} is meant?", network.network(), network.prefix()));
    }
    if !(48..=120).contains(&network.prefix()) {
        return Err(format!("a node's pool is between /48 and /120, and not /{}", network.prefix()));
    }
    if ip.is_multicast() || ip.is_unicast_link_local() || ip.segments()[..6] == [0; 6] {
        return Err(format!("{network} is no unicast range for containers"));
    }
    Ok(())
}

/// Name of the local store's file in the library folder.
const STORE_FILE: &str = "cilium.db";
/// Name of the file with what is known of the cluster, beside it.
const MEMORY_FILE: &str = "cluster.db";

fn kvstore(reader: &mut Reader<'_>) -> Kvstore {
    let default = PathBuf::from(reader.text("lib-dir")).join(STORE_FILE);
    let name = reader.text("kvstore");
    let shared = match kvstore::Config::parse(&name, &reader.list("kvstore-opt"), &default) {
        Ok(config) => config,
        Err(error @ kvstore::ConfigError::UnknownStore { .. }) => {
            reader.fault("kvstore", error.to_string());
            kvstore::Config::Embedded { path: default.clone() }
        }
        Err(error) => {
            reader.fault("kvstore-opt", error.to_string());
            kvstore::Config::Embedded { path: default.clone() }
        }
    };
    let local = if let kvstore::Config::Embedded { path } = &shared { path.clone() } else { default };
    let memory = PathBuf::from(reader.text("lib-dir")).join(MEMORY_FILE);
    let lease_ttl = Duration::from_secs(u64::from(reader.number("kvstore-lease-ttl", 10..=86_400)));
    Kvstore { shared, local, memory, lease_ttl }
}

fn label_filter(reader: &mut Reader<'_>) -> LabelFilter {
    let values = reader.list("labels");
    let entries: Vec<&str> = values.iter().flat_map(|value| value.split_whitespace()).collect();
    LabelFilter::new(&entries).unwrap_or_else(|error| {
        reader.fault("labels", error.to_string());
        LabelFilter::default()
    })
}

fn printable(settings: &Settings) -> Vec<(String, String, String)> {
    let line = |setting: &settings::Setting| {
        let (values, origin) = match settings.get(setting.name) {
            Some(Given { values, origin }) => (values.clone(), origin.clone()),
            None => (vec![setting.default.to_owned()], Origin::Default),
        };
        let values: Vec<_> = match setting.kind {
            Kind::List => values.iter().map(|value| secretless(value)).collect(),
            Kind::Text | Kind::Switch => values.last().cloned().into_iter().collect(),
        };
        (setting.name.to_owned(), values.join(" "), origin.to_string())
    };
    SETTINGS.iter().map(line).collect()
}

/// `KEY=VALUE` with the value hidden where the key or an address in the value carries a secret.
fn secretless(option: &str) -> String {
    match option.split_once('=') {
        Some((key, _)) if ["password", "secret", "token"].iter().any(|word| key.to_lowercase().contains(word)) => {
            format!("{key}=(hidden)")
        }
        // `http://user:password@host`
        Some((key, value)) if value.contains('@') => format!("{key}=(hidden)"),
        _ => option.to_owned(),
    }
}

fn print(lines: &[(String, String, String)]) -> String {
    lines.iter().map(|(name, value, origin)| format!("{name} = {value}    # {origin}\n")).collect()
}

/// The prefixes of both families in use, for whoever needs them alike.
pub fn prefixes(ipv4: Option<Ipv4Network>, ipv6: Option<Ipv6Network>) -> Vec<IpNetwork> {
    ipv4.map(IpNetwork::V4).into_iter().chain(ipv6.map(IpNetwork::V6)).collect()
}

#[cfg(test)]
mod tests;

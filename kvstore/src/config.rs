//! From `--kvstore NAME` and `--kvstore-opt key=value` to a [`Config`]. Every option is known by name or refused by
//! name; files are read when the store is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long one call to etcd may take, unless `etcd.timeout` says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which store, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// A file on this node.
    Embedded { path: PathBuf },
    /// An etcd cluster.
    Etcd(EtcdConfig),
    /// Nothing outlives the process; for tests.
    #[cfg(any(test, feature = "testing"))]
    Memory,
}

impl Config {
    /// Where the store is, as far as that is told by address and not by name.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let Config::Etcd(etcd) = self else { return BTreeSet::new() };
        etcd.addresses.iter().filter_map(|address| address_of(address)).collect()
    }
}

/// The address in `http://address:port`.
fn address_of(url: &str) -> Option<IpAddr> {
    let (_, rest) = url.split_once("://")?;
    let (host, _) = rest.rsplit_once(':')?;
    host.trim_matches(['[', ']']).parse().ok()
}

/// How to reach etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port`, in the order in which they are tried.
    pub addresses: Vec<String>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// PEM file of the authorities that sign the servers' certificates; needed for https.
    pub ca: Option<PathBuf>,
    /// PEM files of our certificate and its key, if the servers want one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The most that one call takes, whatever happens.
    pub timeout: Duration,
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the password: configurations are printed.
        f.debug_struct("EtcdConfig")
            .field("addresses", &self.addresses)
            .field("user", &self.user.as_ref().map(|(user, _)| user))
            .field("ca", &self.ca)
            .field("identity", &self.identity)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Why a store was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("no kvstore is called {name:?} (there is: embedded, etcd)")]
    UnknownStore { name: String },
    #[error("kvstore option {option:?} is not of the form key=value")]
    NotKeyValue { option: String },
    #[error("kvstore {store} has no option {key:?} (it has: {known})")]
    UnknownOption { store: &'static str, key: String, known: String },
    #[error("kvstore option {key} is given twice")]
    Twice { key: String },
    #[error("kvstore option {key} = {value:?}: {reason}")]
    BadValue { key: String, value: String, reason: String },
    #[error("kvstore option {key} is missing: {reason}")]
    Missing { key: &'static str, reason: &'static str },
    #[error("kvstore option etcd.config: read {path}: {reason}", path = path.display())]
    File { path: PathBuf, reason: String },
}

const EMBEDDED_OPTIONS: [&str; 1] = ["embedded.path"];
const ETCD_OPTIONS: [&str; 9] = [
    "etcd.address",
    "etcd.ca",
    "etcd.cert",
    "etcd.config",
    "etcd.key",
    "etcd.password",
    "etcd.password-file",
    "etcd.timeout",
    "etcd.user",
];

impl Config {
    /// Understands `--kvstore NAME` and its options, each `key=value`. `default_path` is where the embedded store is
    /// unless an option says otherwise.
    pub fn parse(name: &str, options: &[String], default_path: &Path) -> Result<Config, ConfigError> {
        match name {
            "embedded" => {
                let mut options = collect("embedded", &EMBEDDED_OPTIONS, options)?;
                let path = options.remove("embedded.path").map_or_else(|| default_path.to_owned(), PathBuf::from);
                Ok(Config::Embedded { path })
            }
            "etcd" => parse_etcd_options(collect("etcd", &ETCD_OPTIONS, options)?).map(Config::Etcd),
            _ => Err(ConfigError::UnknownStore { name: name.to_owned() }),
        }
    }
}

fn collect(store: &'static str, known: &[&str], options: &[String]) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut collected = BTreeMap::new();
    for option in options {
        let Some((key, value)) = option.split_once('=') else {
            return Err(ConfigError::NotKeyValue { option: option.clone() });
        };
        if !known.contains(&key) {
            return Err(ConfigError::UnknownOption { store, key: key.to_owned(), known: known.join(", ") });
        }
        if value.is_empty() {
            return Err(bad(key, value, "empty"));
        }
        if collected.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(ConfigError::Twice { key: key.to_owned() });
        }
    }
    Ok(collected)
}

fn bad(key: &str, value: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::BadValue { key: key.to_owned(), value: value.to_owned(), reason: reason.into() }
}

/// The file that `etcd.config` names, in the form etcd's own clients read.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct EtcdFile {
    endpoints: Vec<String>,
    #[serde(alias = "ca-file")]
    trusted_ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
}

impl EtcdFile {
    fn read(path: &Path) -> Result<EtcdFile, ConfigError> {
        let failed = |reason: String| ConfigError::File { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|cause| failed(cause.to_string()))?;
        EtcdFile::parse(&text).map_err(failed)
    }

    fn parse(text: &str) -> Result<EtcdFile, String> {
        // An empty file is one without any setting.
        let file: Result<Option<EtcdFile>, _> = serde_saphyr::from_str(text);
        // What follows the first line quotes the file, which may hold a password.
        let file = file.map_err(|cause| cause.to_string().lines().next().unwrap_or_default().to_owned())?;
        Ok(file.unwrap_or_default())
    }
}

impl EtcdConfig {
    /// Understands the text of a file as etcd's own clients read it: `endpoints`, `trusted-ca-file`, `cert-file`,
    /// `key-file`, `username`, `password`.
    pub fn of_client_file(text: &str) -> Result<EtcdConfig, ConfigError> {
        let bad_file = |reason| bad("etcd.config", "", reason);
        let file = EtcdFile::parse(text).map_err(bad_file)?;
        parse_etcd(BTreeMap::new(), file)
    }
}

fn parse_etcd_options(mut options: BTreeMap<String, String>) -> Result<EtcdConfig, ConfigError> {
    let file = match options.remove("etcd.config") {
        Some(path) => EtcdFile::read(Path::new(&path))?,
        None => EtcdFile::default(),
    };
    parse_etcd(options, file)
}

/// What the options do not say the file does.
fn parse_etcd(mut options: BTreeMap<String, String>, file: EtcdFile) -> Result<EtcdConfig, ConfigError> {
    for (key, value) in [("etcd.user", file.username), ("etcd.password", file.password)] {
        let given = options.contains_key(key) || key == "etcd.password" && options.contains_key("etcd.password-file");
        if let Some(value) = value.filter(|_| !given) {
            options.insert(key.to_owned(), value);
        }
    }
    let addresses = match options.remove("etcd.address") {
        Some(list) => list.split(',').map(str::trim).map(str::to_owned).collect(),
        None => file.endpoints,
    };
    let mut path = |key: &str, other: Option<PathBuf>| options.remove(key).map(PathBuf::from).or(other);
    let ca = path("etcd.ca", file.trusted_ca_file);
    let identity = match (path("etcd.cert", file.cert_file), path("etcd.key", file.key_file)) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return Err(missing("etcd.key", "etcd.cert needs its key")),
        (None, Some(_)) => return Err(missing("etcd.cert", "etcd.key needs its certificate")),
    };
    let timeout = match options.remove("etcd.timeout") {
        Some(text) => duration("etcd.timeout", &text)?,
        None => DEFAULT_TIMEOUT,
    };
    let user = parse_user(&mut options)?;
    let addresses = parse_addresses(addresses, ca.is_some() || identity.is_some())?;
    if ca.is_none() && addresses.iter().any(|address| address.starts_with("https://")) {
        return Err(missing("etcd.ca", "an https address needs the authority to trust"));
    }
    Ok(EtcdConfig { addresses, user, ca, identity, timeout })
}

fn missing(key: &'static str, reason: &'static str) -> ConfigError {
    ConfigError::Missing { key, reason }
}

fn parse_user(options: &mut BTreeMap<String, String>) -> Result<Option<(String, String)>, ConfigError> {
    let password = match (options.remove("etcd.password"), options.remove("etcd.password-file")) {
        (Some(_), Some(_)) => return Err(ConfigError::Twice { key: "etcd.password".to_owned() }),
        (Some(password), None) => Some(password),
        (None, Some(path)) => match std::fs::read_to_string(&path) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(cause) => return Err(bad("etcd.password-file", &path, cause.to_string())),
        },
        (None, None) => None,
    };
    match (options.remove("etcd.user"), password) {
        (Some(user), Some(password)) => Ok(Some((user, password))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(missing("etcd.password", "etcd.user needs a password")),
        (None, Some(_)) => Err(missing("etcd.user", "etcd.password needs a user")),
    }
}

fn parse_addresses(given: Vec<String>, tls: bool) -> Result<Vec<String>, ConfigError> {
    if given.is_empty() {
        return Err(missing("etcd.address", "host:port, or several separated by commas"));
    }
    let mut addresses = Vec::new();
    for text in given {
        let refuse = |reason: &str| Err(bad("etcd.address", &text, reason));
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme, rest),
            None => (if tls { "https" } else { "http" }, text.as_str()),
        };
        if scheme != "http" && scheme != "https" {
            return refuse("only http and https are known");
        }
        if scheme == "http" && tls {
            return refuse("certificates are given, but this address is not https");
        }
        let rest = rest.trim_end_matches('/');
        let Some((host, port)) = rest.rsplit_once(':') else { return refuse("no port") };
        if port.parse::<u16>().is_err() || port == "0" {
            return refuse("the port is not a number from 1 to 65535");
        }
        let bracketed = host.starts_with('[') && host.ends_with(']');
        if host.is_empty() || (!bracketed && host.contains([':', '[', ']'])) {
            return refuse("no host (an IPv6 address stands in brackets)");
        }
        if host.contains(|c: char| c.is_whitespace() || c.is_control() || "/@?#\\".contains(c)) {
            return refuse("not a host and a port");
        }
        let address = format!("{scheme}://{rest}");
        if addresses.contains(&address) {
            return refuse("given twice");
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// `500ms`, `5s`, `2m` or `1h`.
fn duration(key: &str, text: &str) -> Result<Duration, ConfigError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let parsed = number.parse::<u64>().ok().zip(milliseconds).and_then(|(n, unit)| n.checked_mul(unit));
    match parsed {
        Some(0) | None => Err(bad(key, text, "not a time such as 500ms, 5s or 2m")),
        Some(milliseconds) => Ok(Duration::from_millis(milliseconds)),
    }
}

#[cfg(test)]
mod tests;

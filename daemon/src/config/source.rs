//! Collects what was set where: command line over environment over configuration file over defaults.
//!
//! Owns the merging and the complaints about names; it does not look at values.

use super::Fault;
use super::settings::{Kind, SETTINGS, Setting};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value came from, for complaints and for `--print-config`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    Flag,
    Environment,
    File { path: PathBuf, line: usize },
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("command line"),
            Origin::Environment => f.write_str("environment"),
            Origin::File { path, line } => write!(f, "{} line {line}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Given {
    pub values: Vec<String>,
    pub origin: Origin,
}

/// One entry for each setting that anybody set.
pub type Settings = BTreeMap<&'static str, Given>;

/// What the command line asked for.
pub struct CommandLine {
    pub settings: Settings,
    pub config_file: Option<PathBuf>,
    pub print_config: bool,
    pub cleanup: Option<CleanupScope>,
}

/// What `cilium-agent cleanup` is to take away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CleanupScope {
    /// The state folder too, not the kernel's objects alone.
    pub all_state: bool,
    /// Without asking.
    pub force: bool,
}

/// The command line's grammar, made from the table of settings.
pub fn command() -> clap::Command {
    let settings = SETTINGS.iter().map(argument);
    clap::Command::new("cilium-agent")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Gives containers on Docker networks of the driver `cilium` an identity, and enforces policy between them")
        .after_help(
            "Every setting may also stand in the environment (CILIUM_<NAME>, with _ for -) or in the file that --config \
             names (one `name = value` a line, # starts a comment). The command line comes first, then the environment, \
             then the file.",
        )
        .args(settings)
        .arg(clap::arg!(--config <FILE> "Read settings from FILE").global(true).value_parser(clap::value_parser!(PathBuf)))
        .arg(clap::arg!(--"print-config" "Print what was understood, and exit").action(clap::ArgAction::SetTrue))
        .subcommand(
            clap::Command::new("cleanup")
                .about("Take everything away that the agent made in the kernel; refuses while an agent runs")
                .arg(clap::arg!(--"bpf-state" "The kernel's objects alone (the default)").conflicts_with("all-state"))
                .arg(clap::arg!(--"all-state" "The state folders too: endpoints, addresses and policy are forgotten"))
                .arg(clap::arg!(-f --force "Do not ask")),
        )
}

fn argument(setting: &'static Setting) -> clap::Arg {
    let help = match setting.default {
        "" => setting.help.to_owned(),
        default => format!("{} [default: {default}]", setting.help),
    };
    let argument = clap::Arg::new(setting.name).long(setting.name).help(help).value_name(setting.value).global(true);
    let argument = match setting.short {
        Some(short) => argument.short(short),
        None => argument,
    };
    match setting.kind {
        Kind::Text => argument.action(clap::ArgAction::Set),
        Kind::List => argument.action(clap::ArgAction::Append),
        Kind::Switch => {
            argument.action(clap::ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true")
        }
    }
}

/// Reads the command line. The error is clap's: usage, or the help that was asked for.
pub fn from_command_line(args: impl IntoIterator<Item = OsString>) -> Result<CommandLine, clap::Error> {
    let matches = command().try_get_matches_from(args)?;
    // A global argument given before the subcommand is found in both places, one given after it only in the inner.
    let inner = matches.subcommand_matches("cleanup");
    let matches_of_settings = inner.unwrap_or(&matches);
    let mut settings = Settings::new();
    for setting in SETTINGS {
        if let Some(values) = matches_of_settings.get_many::<String>(setting.name) {
            settings.insert(setting.name, Given { values: values.cloned().collect(), origin: Origin::Flag });
        }
    }
    Ok(CommandLine {
        settings,
        config_file: matches_of_settings.get_one::<PathBuf>("config").cloned(),
        print_config: matches.get_flag("print-config"),
        cleanup: inner
            .map(|cleanup| CleanupScope { all_state: cleanup.get_flag("all-state"), force: cleanup.get_flag("force") }),
    })
}

/// Reads the variables that are settings. Others that begin like ours are returned as warnings only: the environment
/// is shared with the command line tool and with compose files.
pub fn from_environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    faults: &mut Vec<Fault>,
) -> (Settings, Vec<String>) {
    let mut settings = Settings::new();
    let mut unknown = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with("CILIUM_")) else { continue };
        let Some(setting) = SETTINGS.iter().find(|setting| setting.environment() == name) else {
            if name != "CILIUM_SOCK" {
                unknown.push(format!(
                    "the environment variable {name} is no setting of the agent and means nothing to it"
                ));
            }
            continue;
        };
        match value.into_string() {
            Ok(value) => {
                settings.insert(setting.name, Given { values: vec![value], origin: Origin::Environment });
            }
            Err(_) => faults.push(Fault::new(setting.name, &Origin::Environment, "the value is not UTF-8 text")),
        }
    }
    (settings, unknown)
}

/// Reads a configuration file: `name = value` or `name: value` a line, `#` at the start of a line a comment, settings
/// of kind `List` repeatable.
pub fn from_file(path: &Path, text: &str, faults: &mut Vec<Fault>) -> Settings {
    let mut settings = Settings::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let origin = Origin::File { path: path.to_owned(), line: number + 1 };
        let Some((name, value)) = line.split_once(['=', ':']) else {
            faults.push(Fault::new(line, &origin, "a line must read `name = value`"));
            continue;
        };
        let (name, value) = (name.trim().trim_start_matches("--"), unquote(value.trim()));
        let Some(setting) = Setting::find(name) else {
            faults.push(Fault::new(name, &origin, "there is no such setting"));
            continue;
        };
        match settings.get_mut(setting.name) {
            None => {
                settings.insert(setting.name, Given { values: vec![value.to_owned()], origin });
            }
            Some(given) if setting.kind == Kind::List => given.values.push(value.to_owned()),
            Some(_) => faults.push(Fault::new(name, &origin, "it was set already further up")),
        }
    }
    settings
}

fn unquote(value: &str) -> &str {
    let inner = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

/// Puts the sources on top of each other, strongest first.
pub fn merge(sources: impl IntoIterator<Item = Settings>) -> Settings {
    let mut merged = Settings::new();
    for source in sources {
        for (name, given) in source {
            merged.entry(name).or_insert(given);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command_line(args: &[&str]) -> CommandLine {
        from_command_line(std::iter::once("cilium-agent").chain(args.iter().copied()).map(OsString::from)).unwrap()
    }

    #[test]
    fn a_switch_alone_means_true() {
        let line = command_line(&["--masquerade=false", "--debug", "--enable-ipv6"]);
        let value = |name| line.settings[name].values[0].as_str();
        assert_eq!([value("masquerade"), value("debug"), value("enable-ipv6")], ["false", "true", "true"]);
    }

    #[test]
    fn lists_are_repeatable_and_settings_work_with_cleanup() {
        let line =
            command_line(&["cleanup", "--force", "--kvstore-opt", "a=1", "--kvstore-opt", "b=2", "--lib-dir", "/x"]);
        assert_eq!(line.settings["kvstore-opt"].values, ["a=1", "b=2"]);
        assert_eq!(line.settings["lib-dir"].values, ["/x"]);
        assert_eq!(line.cleanup, Some(CleanupScope { all_state: false, force: true }));
    }

    #[test]
    fn settings_before_the_subcommand_hold_for_it() {
        assert_eq!(command_line(&["--lib-dir", "/x", "cleanup"]).settings["lib-dir"].values, ["/x"]);
    }

    #[test]
    fn an_unknown_flag_is_an_error() {
        assert!(from_command_line(["cilium-agent", "--tunel=vxlan"].map(OsString::from)).is_err());
    }

    #[test]
    fn file_faults_name_their_lines() {
        let mut faults = Vec::new();
        let text = "# comment\nmtu = 1400\n\nno line\nipv4_range = 10.0.0.0/16\nmtu: 1500\nkvstore-opt=a=1\nkvstore-opt: \"b=2\"\n";
        let settings = from_file(Path::new("/etc/agent.conf"), text, &mut faults);
        assert_eq!(settings["mtu"].values, ["1400"]);
        assert_eq!(settings["kvstore-opt"].values, ["a=1", "b=2"]);
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            [
                "no line (/etc/agent.conf line 4): a line must read `name = value`",
                "ipv4_range (/etc/agent.conf line 5): there is no such setting",
                "mtu (/etc/agent.conf line 6): it was set already further up",
            ]
        );
    }

    #[test]
    fn unknown_variables_are_warnings_and_foreign_ones_nothing() {
        let variables = [("CILIUM_MTU", "9000"), ("CILIUM_SOCK", "/x"), ("CILIUM_TAG", "1"), ("HOME", "/root")];
        let mut faults = Vec::new();
        let (settings, unknown) =
            from_environment(variables.map(|(name, value)| (name.into(), value.into())), &mut faults);
        assert_eq!(settings.keys().copied().collect::<Vec<_>>(), ["mtu"]);
        assert_eq!((unknown.len(), faults.len()), (1, 0));
    }

    #[test]
    fn the_first_source_wins() {
        let of = |value: &str, origin| Settings::from([("mtu", Given { values: vec![value.to_owned()], origin })]);
        let merged = merge([of("1", Origin::Flag), of("2", Origin::Environment)]);
        assert_eq!(merged["mtu"].values, ["1"]);
    }
}

//! `cilium config`: what the agent runs with, and changing what can be changed while it runs.

use super::Session;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Cell, Layout, Page, Table};
use api::config::{Configuration, ConfigurationChange};

/// Show the agent's configuration, or change it while the agent runs
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cilium config\n  cilium config PolicyEnforcement=always")]
pub struct Args {
    /// Option to change; PolicyEnforcement (default, always or never) is the one that can be
    #[arg(value_name = "OPTION=VALUE")]
    changes: Vec<String>,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        if self.changes.is_empty() {
            let configuration: Configuration = session.agent.get("get the configuration", api::routes::CONFIG).await?;
            return session.out.show(&configuration, |configuration| table(configuration).into());
        }
        let change = change(&self.changes)?;
        let answer: serde_json::Value =
            session.agent.patch("change the configuration", api::routes::CONFIG, &change).await?;
        session.out.show(&answer, |_| Page::from(Cell::from("Configuration changed")))
    }
}

fn change(arguments: &[String]) -> Result<ConfigurationChange, Failure> {
    let mut change = ConfigurationChange::default();
    for argument in arguments {
        let Some((name, value)) = argument.split_once('=') else {
            return Err(Failure::Usage(format!("{argument}: the form is OPTION=VALUE")));
        };
        let plain: String = name.chars().filter(|c| !matches!(c, '-' | '_')).collect();
        if !plain.eq_ignore_ascii_case("PolicyEnforcement") {
            return Err(Failure::Usage(format!(
                "{name}: no such option can be changed while the agent runs; PolicyEnforcement can"
            )));
        }
        if !["default", "always", "never"].contains(&value) {
            return Err(Failure::Usage(format!("{name}: {value} is none of default, always, never")));
        }
        change.policy_enforcement = Some(value.to_owned());
    }
    Ok(change)
}

fn table(configuration: &Configuration) -> Table {
    let mut table = Table::with_header(Layout::WIDE, ["OPTION", "VALUE"]);
    table.row(row!["PolicyEnforcement", &configuration.policy_enforcement]);
    for (option, value) in &configuration.options {
        table.row(row![option, value]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    #[test]
    fn what_can_be_changed_comes_first() {
        let configuration = Configuration {
            policy_enforcement: "default".into(),
            options: [("mtu", "1500"), ("cluster-name", "default")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        };
        let expected = "\
OPTION              VALUE
PolicyEnforcement   default
cluster-name        default
mtu                 1500
";
        assert_eq!(plain(table(&configuration)), expected);
    }

    #[test]
    fn names_are_taken_in_any_spelling() {
        for name in ["PolicyEnforcement", "policy-enforcement", "policy_enforcement"] {
            let change = change(&[format!("{name}=always")]).unwrap();
            assert_eq!(change.policy_enforcement.as_deref(), Some("always"));
        }
    }

    #[test]
    fn what_cannot_be_is_a_wrong_use() {
        for argument in ["Debug=true", "PolicyEnforcement", "PolicyEnforcement=maybe"] {
            assert_eq!(change(&[argument.into()]).unwrap_err().exit_code(), 2, "{argument}");
        }
    }
}

//! `cilium completion`: scripts with which a shell completes `cilium`'s command line.

use super::{Cli, Session};
use crate::failure::Failure;
use clap::{CommandFactory, ValueEnum};
use clap_complete::Generator;
use serde_json::json;

/// Print a script with which your shell completes cilium's command line
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  source <(cilium completion bash)\n  \
                        cilium completion zsh > \"${fpath[1]}/_cilium\"\n  \
                        cilium completion fish > ~/.config/fish/completions/cilium.fish")]
pub struct Args {
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Args {
    pub fn run(self, session: &mut Session) -> Result<(), Failure> {
        let (name, script) = match self.shell {
            Shell::Bash => ("bash", script(clap_complete::Shell::Bash)),
            Shell::Zsh => ("zsh", script(clap_complete::Shell::Zsh)),
            Shell::Fish => ("fish", script(clap_complete::Shell::Fish)),
        };
        let script = script?;
        match session.out.is_json() {
            true => session.out.json(&json!({"shell": name, "script": script})),
            false => session.out.verbatim(&script),
        }
    }
}

fn script(shell: impl Generator) -> Result<String, Failure> {
    let mut command = Cli::command();
    command.set_bin_name("cilium");
    command.build();
    let mut bytes = Vec::new();
    shell.try_generate(&command, &mut bytes).map_err(|source| Failure::Write { source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

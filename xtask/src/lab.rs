//! `cargo xtask lab`: three nodes on one machine, to type into. The lab is the suite's (`tests/nodes`); this builds what
//! it needs and hands the words on.

use anyhow::{Context, Result, ensure};
use std::os::unix::process::CommandExt;
use std::process::Command;

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// up [COUNT] [-- AGENT OPTION…] | exec NODE -- COMMAND… | down
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    words: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("xtask is in no folder")?;
    if args.words.first().is_some_and(|word| word == "up") {
        let packages = ["--package", "daemon", "--package", "cli", "--package", "suite"];
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // Where xtask itself was built, so that what is there is built no second time.
        let target = folder.parent().context("xtask is in no target folder")?;
        build.args(["build", "--quiet", "--bins"]).args(packages).arg("--target-dir").arg(target);
        let status = build.status().context("run cargo")?;
        ensure!(status.success(), "cargo build: {status}");
    }
    let mut lab = Command::new(folder.join("lab-nodes"));
    if std::env::var_os("CILIUM_BIN").is_none() {
        lab.env("CILIUM_BIN", folder);
    }
    Err(lab.args(&args.words).exec()).context("run lab-nodes: is the lab up?")
}

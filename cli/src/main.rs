//! The `cilium` program: reads the command line, runs one command against the agent, and ends with a code that scripts
//! can use: 0 done, 1 refused or unwell, 2 wrong use.

mod agent;
mod commands;
mod failure;
mod render;

use clap::Parser;
use commands::{Cli, Outcome, Session};
use failure::Failure;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Unwell) => ExitCode::from(1),
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // There is nobody left to tell when standard error is closed.
            let _ = writeln!(anstream::stderr(), "{}", render::escape::lines(&failure.report()));
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<Outcome, Failure> {
    if cli.output == render::Format::Junit && !cli.command.makes_reports() {
        return Err(Failure::Usage("-o junit is for policy test alone".to_owned()));
    }
    let mut session = Session::new(&cli);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::Start { source })?;
    let outcome = runtime.block_on(cli.command.run(&mut session));
    // What was printed before a failure is shown before it is told.
    session.out.flush()?;
    outcome
}

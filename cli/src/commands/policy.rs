//! `cilium policy …`: importing, showing, deleting and questioning rules.

mod change;
mod delete;
mod diff;
mod document;
mod get;
mod import;
mod test;
mod trace;
mod validate;
mod wait;

use super::{Outcome, Session};
use crate::failure::Failure;

/// Import, show, delete and question the rules of who may talk to whom
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Import(import::Args),
    Get(get::Args),
    Delete(delete::Args),
    Diff(diff::Args),
    Test(test::Args),
    Trace(Box<trace::Args>),
    Validate(validate::Args),
    Wait(wait::Args),
}

impl Command {
    pub async fn run(self, session: &mut Session) -> Result<Outcome, Failure> {
        let done = match self {
            Command::Import(args) => args.run(session).await,
            Command::Get(args) => args.run(session).await,
            Command::Delete(args) => args.run(session).await,
            Command::Diff(args) => args.run(session).await,
            Command::Test(args) => return args.run(session),
            Command::Trace(args) => args.run(session).await,
            Command::Validate(args) => args.run(session),
            Command::Wait(args) => args.run(session).await,
        };
        done.map(|()| Outcome::Done)
    }
}

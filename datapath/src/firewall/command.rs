//! Runs one tool of the system to its end, in the calling thread's network namespace.

use std::io::{self, Write};
use std::process::Stdio;

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("run {program}")]
    Run { program: &'static str, source: io::Error },
    #[error("{program} ended with {code}: {text}", code = code.map_or("a signal".to_owned(), |c| format!("code {c}")))]
    Failed { program: &'static str, code: Option<i32>, text: String },
}

impl CommandError {
    /// The tool is not installed.
    pub fn is_missing(&self) -> bool {
        matches!(self, CommandError::Run { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

#[derive(Debug)]
pub struct Command<'a> {
    program: &'static str,
    arguments: &'a [&'a str],
    input: String,
}

#[derive(Debug)]
pub struct Output {
    program: &'static str,
    pub code: Option<i32>,
    pub text: String,
    errors: String,
}

impl<'a> Command<'a> {
    pub fn new(program: &'static str, arguments: &'a [&'a str]) -> Command<'a> {
        Command { program, arguments, input: String::new() }
    }

    pub fn input(mut self, text: String) -> Command<'a> {
        self.input = text;
        self
    }

    pub fn run(self) -> Result<Output, CommandError> {
        let failed = |source| CommandError::Run { program: self.program, source };
        // A service's search path may lack the directories of administrators.
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = std::process::Command::new(self.program)
            .args(self.arguments)
            .env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"))
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A tool that does not read its input says why in its errors.
            let _ = stdin.write_all(self.input.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        Ok(Output {
            program: self.program,
            code: output.status.code(),
            text: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

impl Output {
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    pub fn success(self) -> Result<Output, CommandError> {
        if self.succeeded() {
            return Ok(self);
        }
        let text = self.errors.trim().to_owned();
        Err(CommandError::Failed { program: self.program, code: self.code, text })
    }
}

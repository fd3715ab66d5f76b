//! `cilium debuginfo`: everything a bug report needs, as Markdown to paste or as JSON.

use super::Session;
use crate::failure::Failure;
use crate::render::escape;
use serde_json::Value;
use std::path::PathBuf;

/// Collect everything a bug report needs; it holds no secrets
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cilium debuginfo -f report.md")]
pub struct Args {
    /// Write it to this file
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let info: Value = session.agent.get("collect debug information", api::routes::DEBUGINFO).await?;
        let text = match session.out.is_json() {
            true => pretty(&info)? + "\n",
            false => markdown(&info)?,
        };
        match self.file {
            Some(path) => std::fs::write(&path, text).map_err(|source| Failure::WriteFile { path, source }),
            None => session.out.text(&text),
        }
    }
}

/// One chapter for each member of the answer.
fn markdown(info: &Value) -> Result<String, Failure> {
    let mut text = format!("# Cilium debug information\n\nClient: {}\n", super::version::CLIENT);
    match info {
        Value::Object(members) => {
            for (name, value) in members {
                text += &format!("\n## {}\n\n{}", escape::line(name), code(value)?);
            }
        }
        other => text += &format!("\n{}", code(other)?),
    }
    Ok(text)
}

/// Indented code: unlike a fence it cannot be ended by what is inside.
fn code(value: &Value) -> Result<String, Failure> {
    let text = match value {
        Value::String(text) => escape::lines(text).into_owned(),
        value => pretty(value)?,
    };
    Ok(text.lines().flat_map(|line| ["    ", line, "\n"]).collect())
}

fn pretty(value: &Value) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|source| Failure::Encode { source })?;
    Ok(escape::json(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_member_is_a_chapter() {
        let text = markdown(&json!({"status": {"state": "Ok"}, "log": "one\n```\n\u{9b}2J"})).unwrap();
        let chapters =
            "\n## status\n\n    {\n      \"state\": \"Ok\"\n    }\n\n## log\n\n    one\n    ```\n    \\x9b2J\n";
        assert!(text.starts_with("# Cilium debug information\n"), "{text}");
        assert!(text.ends_with(chapters), "{text}");
    }
}

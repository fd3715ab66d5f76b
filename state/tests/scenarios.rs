//! Stories as text: inputs, and the tables after them. `UPDATE=1 cargo test -p state --test scenarios` writes what comes
//! out into the files; the difference is then for a reader to judge.
//!
//! A line that begins with `> ` is a command (see `scenarios/script.rs`), what stands below it is its output, and lines
//! that begin with `#` are for people.

#![allow(clippy::unwrap_used, reason = "a step that fails ends the test")]

#[path = "scenarios/script.rs"]
mod script;
#[path = "scenarios/tables.rs"]
mod tables;

use script::World;
use std::path::Path;

/// Plays the commands of a scenario: the same text with the outputs that came.
fn play(text: &str) -> String {
    let mut world = World::new();
    let mut played = String::new();
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            played += &format!("{line}\n");
        }
        if let Some(command) = line.strip_prefix("> ") {
            let output = world.run(command).unwrap_or_else(|| panic!("no such command: {command}"));
            played += &format!("{line}\n{output}");
        }
    }
    played
}

#[test]
fn scenarios_come_out_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(!files.is_empty(), "no scenario in {}", folder.display());
    let mut differing = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let played = play(&text);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, played).unwrap();
        } else if let Some((n, (was, is))) = text.lines().zip(played.lines()).enumerate().find(|(_, (a, b))| a != b) {
            differing.push(format!("{}:{}\n  written {was}\n  came    {is}", path.display(), n + 1));
        } else if text != played {
            differing.push(format!("{}: one is longer than the other", path.display()));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

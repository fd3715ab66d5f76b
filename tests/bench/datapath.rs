//! The kernel programs alone, under BPF_PROG_TEST_RUN: measured by `xtask bench-bpf`, printed here beside the rest.

use crate::Effort;
use crate::table::{Goal, Table};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub fn measure(table: &mut Table, _effort: Effort) -> Result<()> {
    let output = std::process::Command::new(lab::binary("xtask")?)
        .args(["bench-bpf", "--json"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(std::process::Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "xtask bench-bpf: {}", output.status);
    let answer: Value = serde_json::from_slice(&output.stdout).context("xtask bench-bpf printed no JSON")?;
    for row in answer["rows"].as_array().context("no rows")? {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let goal = match (row["at_most"].as_f64(), row["at_least"].as_f64()) {
            (Some(limit), _) => Goal::AtMost(limit),
            (_, Some(limit)) => Goal::AtLeast(limit),
            _ => Goal::None,
        };
        let figure = row["figure"].as_f64().context("figure")?;
        match row["beside"].as_f64() {
            Some(beside) => table.ratio(&text("what"), &text("unit"), figure, (&text("beside_name"), beside), goal),
            None => table.figure(&text("what"), &text("unit"), figure, goal),
        }
    }
    Ok(())
}

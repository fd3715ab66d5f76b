//! The kernel programs alone, under BPF_PROG_TEST_RUN: measured by `xtask bench-bpf`, printed here beside the rest.

use crate::Effort;
use crate::table::{Goal, Table};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// What `xtask bench-bpf --json` prints.
#[derive(Deserialize)]
struct Report {
    rows: Vec<Row>,
    calls: Vec<String>,
    tail_calls: usize,
    verified: Vec<Verified>,
    events_lost: u64,
}

#[derive(Deserialize)]
struct Row {
    situation: String,
    /// `S`, `H` and `L` are yardsticks, the others programs of ours.
    subject: String,
    flows: u32,
    median_ns: f64,
    /// Beside what the situation names, else beside S.
    ratio: Option<f64>,
}

#[derive(Deserialize)]
struct Verified {
    program: String,
    instructions: u32,
}

pub fn measure(table: &mut Table, effort: Effort) -> Result<()> {
    let output = std::process::Command::new(lab::binary("xtask")?)
        .args(["bench-bpf", "--json", "--runs", &(effort.rounds + 3).to_string()])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(std::process::Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "xtask bench-bpf: {}", output.status);
    let report: Report = serde_json::from_slice(&output.stdout).context("read what xtask bench-bpf printed")?;
    ensure!(report.events_lost == 0, "{} events were lost, so new flows look too cheap", report.events_lost);
    for row in &report.rows {
        let (situation, beside) = row.situation.split_once(", beside ").unwrap_or((&row.situation, "S"));
        let what = format!("{situation}, {}", flows(row.flows));
        match row.ratio {
            Some(ratio) => {
                table.ratio(&what, "ns", row.median_ns, (beside, row.median_ns / ratio), goal(situation, row.flows));
            }
            None if row.subject == "H" || row.subject == "L" => table.figure(&what, "ns", row.median_ns, Goal::None),
            // The figure of S stands beside ours.
            None => {}
        }
    }
    let path = format!("established path: calls not inlined ({})", report.calls.join(", "));
    table.figure(&path, "calls", report.calls.len() as f64, Goal::AtMost(3.0));
    table.figure("established path: tail calls", "calls", report.tail_calls as f64, Goal::AtMost(1.0));
    for Verified { program, instructions } in &report.verified {
        let what = format!("{program}: what the verifier went through");
        table.figure(&what, "instructions", f64::from(*instructions), Goal::None);
    }
    Ok(())
}

fn flows(flows: u32) -> String {
    match flows {
        0 => "each packet another".to_owned(),
        1 => "1 flow".to_owned(),
        many => format!("{many} flows"),
    }
}

fn goal(situation: &str, flows: u32) -> Goal {
    match (situation, flows) {
        ("established", 1) => Goal::AtMost(3.0),
        ("established", _) => Goal::AtMost(1.5),
        ("reply", _) => Goal::AtMost(1.1),
        ("new flow, one event", _) => Goal::AtMost(1.6),
        ("new flow, 16,000 policy entries", _) => Goal::AtMost(1.5),
        _ => Goal::None,
    }
}

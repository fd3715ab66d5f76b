//! `cargo xtask bench-bpf`: nanoseconds per packet beside the yardsticks, as a table or as JSON.
//!
//! Owns the printing; measuring is `bpf::testing::bench`.

use bpf::testing::bench::{self, Report, Row, Settings};
use serde_json::{Value, json};
use std::io::Write;

#[derive(clap::Args)]
pub struct Args {
    /// Timed runs of each subject; the median is printed.
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// The core to run on, before all ordinary tasks; none when negative.
    #[arg(long, default_value_t = 1, allow_hyphen_values = true)]
    core: i32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let report = bench::run(&Settings { runs: args.runs, core: usize::try_from(args.core).ok() })?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", to_json(&report))?;
    } else {
        write!(out, "{}", table(&report))?;
    }
    Ok(())
}

fn table(report: &Report) -> String {
    let mut text = format!(
        "{:<30} {:<16} {:>8} {:>10} {:>10} {:>8}\n",
        "situation", "subject", "flows", "median ns", "least ns", "ratio"
    );
    for row in &report.rows {
        let flows = if row.flows == 0 { "-".to_owned() } else { row.flows.to_string() };
        let ratio = row.ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}"));
        text += &format!(
            "{:<30} {:<16} {:>8} {:>10.0} {:>10.0} {:>8}\n",
            row.situation, row.subject, flows, row.median, row.least, ratio
        );
    }
    let path = &report.structure;
    text += &format!("calls not inlined, established path: {} ({})\n", path.calls.len(), path.calls.join(", "));
    text += &format!("tail calls: {}\n", path.tail_calls);
    for (name, instructions) in &report.verified {
        text += &format!("verified instructions, {name}: {instructions}\n");
    }
    text + &format!("events lost: {}\n", report.lost)
}

fn to_json(report: &Report) -> Value {
    let row = |r: &Row| {
        json!({"situation": r.situation, "subject": r.subject, "flows": r.flows, "median_ns": r.median,
               "least_ns": r.least, "ratio": r.ratio})
    };
    json!({
        "rows": report.rows.iter().map(row).collect::<Vec<_>>(),
        "calls": report.structure.calls,
        "tail_calls": report.structure.tail_calls,
        "verified": report.verified.iter().map(|(name, n)| json!({"program": name, "instructions": n})).collect::<Vec<_>>(),
        "events_lost": report.lost,
    })
}

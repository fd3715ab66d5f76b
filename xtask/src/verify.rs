//! `cargo xtask verify`: loads every program and prints how much the verifier went through, against its cap.
//!
//! Owns the printing; caps are bpf/tests/verifier.toml's.

use anyhow::Context;
use bpf::names::program;
use bpf::testing::{Node, Options, verifier};
use std::io::Write;

pub fn run() -> anyhow::Result<()> {
    let caps = verifier::caps()?;
    let node = Node::new(&Options::default())?;
    let mut out = std::io::stdout().lock();
    let mut above = Vec::new();
    writeln!(out, "{:<16} {:>9} {:>9}", "program", "verified", "cap")?;
    for name in program::ALL {
        let count = verifier::count(&node, name)?;
        let cap = *caps.get(name).with_context(|| format!("verifier.toml has no cap for {name}"))?;
        writeln!(out, "{name:<16} {count:>9} {cap:>9}")?;
        if count > cap {
            above.push(name);
        }
    }
    anyhow::ensure!(above.is_empty(), "above their caps: {}", above.join(", "));
    Ok(())
}

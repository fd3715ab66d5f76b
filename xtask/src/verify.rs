//! `cargo xtask verify`: how deep every program goes into its stack, and, once loaded, how much the verifier went through;
//! each against its cap.
//!
//! Owns the printing; caps are bpf/tests/verifier.toml's, the stack's rule is `bpf::testing::stack`'s.

use anyhow::Context;
use bpf::names::program;
use bpf::testing::{Node, Options, stack, verifier};
use std::collections::BTreeMap;
use std::io::Write;

#[derive(clap::Args)]
pub struct Args {
    /// Look at the stack alone, which needs neither root nor the kernel.
    #[arg(long)]
    stack: bool,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let chains = stack::deepest(bpf::CONTAINER)?;
    let caps = verifier::caps()?;
    let node = if args.stack { None } else { Some(Node::new(&Options::default())?) };
    let mut out = std::io::stdout().lock();
    let mut above = Vec::new();
    writeln!(out, "{:<16} {:>6} {:>9} {:>9}  deepest chain", "program", "stack", "verified", "cap")?;
    for name in program::ALL {
        let chain = chains.get(name).with_context(|| format!("{name} is not in the object"))?;
        let cap = *caps.get(name).with_context(|| format!("verifier.toml has no cap for {name}"))?;
        let count = node.as_ref().map(|node| verifier::count(node, name)).transpose()?;
        let verified = count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        writeln!(out, "{name:<16} {:>6} {verified:>9} {cap:>9}  {chain}", chain.depth)?;
        if count.is_some_and(|count| count > cap) {
            above.push(format!("{name} (verified)"));
        }
        if !chain.is_taken() {
            above.push(format!("{name} (stack)"));
        }
    }
    drop(out);
    warn(&chains)?;
    anyhow::ensure!(above.is_empty(), "above their caps: {}", above.join(", "));
    Ok(())
}

/// Tells who has no room for one more variable.
fn warn(chains: &BTreeMap<String, stack::Chain>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for (name, chain) in chains.iter().filter(|(_, chain)| chain.slack() < stack::SCANT) {
        writeln!(out, "warning: {name} leaves {} of {} bytes of stack", chain.slack(), stack::LIMIT)?;
    }
    Ok(())
}

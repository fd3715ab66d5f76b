//! Developer chores, one subcommand each: `cargo xtask <chore>`.
//!
//! Owns the command line alone; each chore is a file of its own.

mod abi;
mod bench_bpf;
mod floorplan;
mod lab;
mod verify;

use clap::Parser;

/// Chores of this repository; continuous integration runs the same ones.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Write bpf/src/abi.rs from bpf/abi.h.
    Abi(abi::Args),
    /// Measure the eBPF programs beside their yardsticks (root).
    BenchBpf(bench_bpf::Args),
    /// Check who imports whom.
    Floorplan,
    /// Several nodes on this machine, to type into (root): up [COUNT] | exec NODE -- COMMAND… | down.
    Lab(lab::Args),
    /// Check how deep the eBPF programs' stacks are, and how much the verifier goes through as they are loaded (root).
    Verify(verify::Args),
}

fn main() -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Abi(args) => abi::run(&args),
        Chore::BenchBpf(args) => bench_bpf::run(&args),
        Chore::Floorplan => floorplan::run(),
        Chore::Lab(args) => lab::run(&args),
        Chore::Verify(args) => verify::run(&args),
    }
}

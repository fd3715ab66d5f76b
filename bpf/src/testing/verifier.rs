//! How much the verifier had to go through, and how much it may.
//!
//! Owns reading both; comparing is the tests' and `cargo xtask verify`'s.

use super::Node;
use anyhow::Context;
use std::collections::BTreeMap;

const CAPS: &str = include_str!("../../tests/verifier.toml");

/// `bpf/tests/verifier.toml`: program -> most instructions.
pub fn caps() -> anyhow::Result<BTreeMap<&'static str, u32>> {
    let lines = CAPS.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, cap) = line.split_once('=').with_context(|| format!("verifier.toml: {line}"))?;
            Ok((name.trim(), cap.trim().parse().with_context(|| format!("verifier.toml: {line}"))?))
        })
        .collect()
}

/// Instructions that were verified when the program was loaded (kernel 5.16 and later tell).
pub fn count(node: &Node, program: &str) -> anyhow::Result<u32> {
    let info = node.program(program)?.info()?;
    info.verified_instruction_count().context("this kernel does not tell how much it verified")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_program_has_a_cap() {
        let caps = super::caps().unwrap();
        for name in crate::names::program::ALL {
            assert!(caps.contains_key(name), "{name}");
        }
    }
}

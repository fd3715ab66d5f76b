//! `cargo xtask abi`: the Rust half of bpf/abi.h.
//!
//! Owns how C declarations become Rust ones (names, derives, byte order); what is declared is bpf/abi.h's business.

use anyhow::{Context, bail};
use bindgen::callbacks::{DeriveTrait, ImplementsTrait, ItemInfo, ItemKind, ParseCallbacks};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// Change nothing, fail when the checked-in file differs from what would be written.
    #[arg(long)]
    check: bool,
}

const HEADER: &str = "\
//! GENERATED from abi.h by `cargo xtask abi`: what both halves of the datapath share. Do not edit.
//!
//! The assertions at the end of each type make a layout that drifts a compile error.

#![allow(missing_docs, clippy::all, non_upper_case_globals, dead_code)]

pub use crate::endian::{Be16, Be32};";

/// bindgen knows the integers of stdint.h by name and writes them as Rust's; the kernel's it would write as aliases.
const WRAPPER: &str = "\
#include <linux/types.h>
#include <stdint.h>
#define __u8 uint8_t
#define __u16 uint16_t
#define __u32 uint32_t
#define __u64 uint64_t
";

pub fn run(args: &Args) -> anyhow::Result<()> {
    let bpf = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("bpf");
    let target = bpf.join("src/abi.rs");
    let text = generate(&bpf.join("abi.h"))?;
    if !args.check {
        return std::fs::write(&target, text).with_context(|| format!("write {}", target.display()));
    }
    let present = std::fs::read_to_string(&target).with_context(|| format!("read {}", target.display()))?;
    if present != text {
        bail!("{} is not what bpf/abi.h says: run `cargo xtask abi`", target.display());
    }
    Ok(())
}

fn generate(header: &Path) -> anyhow::Result<String> {
    find_libclang();
    let path = header.to_str().context("the path of abi.h is not UTF-8")?;
    let bindings = bindgen::Builder::default()
        .header_contents("wrapper.h", &format!("{WRAPPER}#include \"{path}\"\n"))
        .allowlist_file(path)
        .blocklist_type("__u16|__u32|__be16|__be32")
        .raw_line(HEADER)
        .use_core()
        .disable_header_comment()
        .generate_comments(true)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .translate_enum_integer_types(true)
        .derive_default(true)
        .derive_eq(true)
        .derive_hash(true)
        .derive_ord(true)
        .layout_tests(true)
        .formatter(bindgen::Formatter::Rustfmt)
        .parse_callbacks(Box::new(Names))
        .generate()
        .context("bindgen over abi.h")?;
    Ok(bindings.to_string())
}

/// libclang stands in a versioned directory on Debian; an explicit LIBCLANG_PATH wins.
fn find_libclang() {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return;
    }
    let newest = (14..=22).rev().map(|n| PathBuf::from(format!("/usr/lib/llvm-{n}/lib"))).find(|dir| {
        std::fs::read_dir(dir).is_ok_and(|mut entries| {
            entries.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy().starts_with("libclang")))
        })
    });
    if let Some(dir) = newest {
        // SAFETY: no other thread exists yet that could read the environment.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var("LIBCLANG_PATH", dir);
        }
    }
}

/// C's `struct policy_key` is Rust's `PolicyKey`; integers in network order keep that in their type.
#[derive(Debug)]
struct Names;

impl ParseCallbacks for Names {
    fn item_name(&self, item: ItemInfo<'_>) -> Option<String> {
        match (item.kind, item.name) {
            (_, "__be16") => Some("Be16".to_owned()),
            (_, "__be32") => Some("Be32".to_owned()),
            (ItemKind::Type, name) => Some(camel(name)),
            _ => None,
        }
    }

    fn blocklisted_type_implements_trait(&self, _name: &str, _derive: DeriveTrait) -> Option<ImplementsTrait> {
        Some(ImplementsTrait::Yes)
    }
}

fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_rust_names() {
        assert_eq!(camel("policy_key"), "PolicyKey");
        assert_eq!(camel("ct4_key"), "Ct4Key");
    }
}

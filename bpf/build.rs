//! Compiles the kernel programs with clang; the crate embeds the result.
//!
//! Owns the choice of the compiler and its flags. The kernel this runs on has no say: the object must load elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Newest first; what a distribution calls its clang when there are several.
const CLANGS: [&str; 9] =
    ["clang-19", "clang-18", "clang-17", "clang-16", "clang-15", "clang-14", "clang-21", "clang-20", "clang"];

fn main() {
    for watched in ["abi.h", "container.bpf.c", "sock.bpf.c", "lib", "bench"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    if let Err(message) = build() {
        println!("cargo::error={message}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let clang = find_clang()?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo set no OUT_DIR")?);
    for object in ["container", "sock"] {
        compile(&clang, Path::new(&format!("{object}.bpf.c")), &out.join(format!("{object}.bpf.o")))?;
    }
    if std::env::var_os("CARGO_FEATURE_TESTING").is_some() {
        for probe in ["skeleton", "driver"] {
            compile(&clang, &Path::new("bench").join(format!("{probe}.bpf.c")), &out.join(format!("{probe}.bpf.o")))?;
        }
    }
    Ok(())
}

fn find_clang() -> Result<String, String> {
    println!("cargo::rerun-if-env-changed=PATH");
    if let Ok(wanted) = std::env::var("CLANG") {
        return if answers(&wanted) { Ok(wanted) } else { Err(format!("CLANG={wanted} does not run")) };
    }
    CLANGS.iter().find(|name| answers(name)).map(|name| (*name).to_owned()).ok_or_else(|| {
        "no clang found, which compiles the eBPF programs: install the package clang (Debian: apt-get install clang-19, \
         or clang), or name a compiler in CLANG"
            .to_owned()
    })
}

fn answers(clang: &str) -> bool {
    Command::new(clang).arg("--version").output().is_ok_and(|o| o.status.success())
}

/// `-mcpu=v3` is what every kernel since 5.12 knows. Paths are kept out of the object: builds are alike everywhere.
fn compile(clang: &str, source: &Path, target: &Path) -> Result<(), String> {
    let here = std::env::var("CARGO_MANIFEST_DIR").map_err(|e| format!("CARGO_MANIFEST_DIR: {e}"))?;
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").map_err(|e| format!("CARGO_CFG_TARGET_ARCH: {e}"))?;
    let output = Command::new(clang)
        .current_dir(&here)
        .args(["--target=bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"])
        .arg(format!("-ffile-prefix-map={here}=bpf"))
        // Debian keeps <asm/...> of the kernel's headers here.
        .arg(format!("-idirafter/usr/include/{arch}-linux-gnu"))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(target)
        .output()
        .map_err(|e| format!("run {clang}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let mut message = format!("{clang} does not compile bpf/{}", source.display());
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        println!("cargo::warning={line}");
        if line.contains("file not found") {
            message.push_str(" (kernel headers: apt-get install linux-libc-dev)");
        }
    }
    Err(message)
}

//! `cargo xtask floorplan`: who may import whom, and which crate may use which foreign one.
//!
//! Owns the two tables; ARCHITECTURE.md says why they are as they are. What is true now is asked of `cargo metadata`.

use anyhow::{Context, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Our crates: what each may import of ours, and what its tests may beside that.
const ROOMS: &[(&str, &[&str], &[&str])] = &[
    // words
    ("model", &[], &[]),
    ("l7", &[], &[]),
    ("bpf", &[], &["bpf", "model", "policy"]),
    // rules
    ("policy", &["model", "l7"], &[]),
    ("api", &["model"], &[]),
    // brain
    ("state", &["model", "policy", "l7"], &[]),
    // edges: never each other, but the ones that are clients of the API
    ("datapath", &["model", "bpf"], &["datapath"]),
    ("kvstore", &[], &["kvstore"]),
    ("proxy", &["model", "l7"], &[]),
    ("hubble", &["model"], &[]),
    ("docker-plugin", &["api"], &[]),
    ("cli", &["api", "policy"], &[]),
    // hallway
    ("daemon", EVERYTHING, EVERYTHING),
    // outside the house
    ("suite", EVERYTHING, EVERYTHING),
    ("xtask", &["bpf"], &[]),
];

const EVERYTHING: &[&str] =
    &["model", "l7", "bpf", "policy", "api", "state", "datapath", "kvstore", "proxy", "hubble", "docker-plugin", "cli"];

/// Foreign crates that are kept behind a fence: who may use them. Those not named here are free to all.
const FENCES: &[(&str, &[&str])] = &[
    ("aya", &["bpf", "datapath"]),
    ("aya-obj", &["bpf", "datapath"]),
    ("bindgen", &["xtask"]),
    ("bollard", &["docker-plugin"]),
    ("clap", &["daemon", "cli", "xtask"]),
    ("etcd-client", &["kvstore"]),
    ("hyper", &["api", "docker-plugin", "daemon", "suite"]),
    ("ipnetwork", ABOVE_WORDS_AND_MODEL),
    ("libc", &["bpf", "datapath", "suite"]),
    // The daemon asks who it is and whose its socket is; the kernel's networking is datapath's alone.
    ("nix", &["datapath", "daemon", "suite"]),
    ("redb", &["kvstore"]),
    ("rtnetlink", &["datapath", "suite"]),
    // Documents: rules, API bodies, what is stored in a kvstore.
    ("serde_json", &["policy", "state", "api", "docker-plugin", "cli", "daemon", "hubble", "suite", "xtask"]),
    ("tokio", &["api", "datapath", "kvstore", "proxy", "hubble", "docker-plugin", "cli", "daemon", "suite"]),
    ("tracing", ABOVE_WORDS),
];

const ABOVE_WORDS: &[&str] =
    &["policy", "api", "state", "datapath", "kvstore", "proxy", "hubble", "docker-plugin", "cli", "daemon", "suite"];
const ABOVE_WORDS_AND_MODEL: &[&str] = &[
    "model",
    "policy",
    "api",
    "state",
    "datapath",
    "kvstore",
    "proxy",
    "hubble",
    "docker-plugin",
    "cli",
    "daemon",
    "suite",
];

/// A crate of the workspace with the names that its Cargo.toml imports.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Room {
    name: String,
    /// For building; tests come on top.
    imports: BTreeSet<String>,
    test_imports: BTreeSet<String>,
}

pub fn run() -> anyhow::Result<()> {
    let faults = faults(&rooms()?);
    if !faults.is_empty() {
        bail!("the floor plan is broken:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// What stands in the Cargo.toml files.
fn rooms() -> anyhow::Result<Vec<Room>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = std::process::Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    packages.iter().map(|package| room(package).context("read a package of cargo metadata")).collect()
}

fn room(package: &Value) -> Option<Room> {
    let mut room = Room { name: package["name"].as_str()?.to_owned(), ..Room::default() };
    for dependency in package["dependencies"].as_array()? {
        let name = dependency["name"].as_str()?.to_owned();
        let imports =
            if dependency["kind"].as_str() == Some("dev") { &mut room.test_imports } else { &mut room.imports };
        imports.insert(name);
    }
    Some(room)
}

/// Every import that the tables do not allow, in words.
fn faults(rooms: &[Room]) -> Vec<String> {
    let plan: BTreeMap<&str, _> = ROOMS.iter().map(|(name, may, tests_may)| (*name, (*may, *tests_may))).collect();
    let mut faults = Vec::new();
    for room in rooms {
        let Some((may, tests_may)) = plan.get(room.name.as_str()) else {
            faults.push(format!("{} has no place in the floor plan (xtask/src/floorplan.rs)", room.name));
            continue;
        };
        let ours: BTreeSet<&String> =
            room.imports.union(&room.test_imports).filter(|i| plan.contains_key(i.as_str())).collect();
        for import in ours {
            let for_tests = !room.imports.contains(import) && tests_may.contains(&import.as_str());
            if !may.contains(&import.as_str()) && !for_tests {
                faults.push(format!("{} must not import {import}", room.name));
            }
        }
        // Tests may use what they need of others.
        for (fenced, users) in FENCES {
            if room.imports.contains(*fenced) && !users.contains(&room.name.as_str()) {
                faults.push(format!("{} must not use {fenced}: it belongs to {}", room.name, users.join(", ")));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str, imports: &[&str], test_imports: &[&str]) -> Room {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Room { name: name.to_owned(), imports: set(imports), test_imports: set(test_imports) }
    }

    #[test]
    fn this_house_is_built_to_its_plan() {
        let rooms = rooms().unwrap();
        assert!(rooms.iter().any(|room| room.name == "bpf" && room.imports.contains("aya")), "{rooms:?}");
        assert_eq!(faults(&rooms), Vec::<String>::new());
    }

    #[test]
    fn edges_do_not_import_each_other() {
        assert_eq!(faults(&[room("datapath", &["model", "kvstore"], &[])]), ["datapath must not import kvstore"]);
        assert_eq!(faults(&[room("state", &["datapath"], &[])]), ["state must not import datapath"]);
        assert_eq!(faults(&[room("cli", &["daemon"], &[])]), ["cli must not import daemon"]);
    }

    #[test]
    fn tests_may_import_what_their_crate_may_not() {
        assert_eq!(faults(&[room("bpf", &["aya"], &["model"])]), Vec::<String>::new());
        assert_eq!(faults(&[room("bpf", &["model"], &["model"])]), ["bpf must not import model"]);
        assert_eq!(faults(&[room("bpf", &[], &["state"])]), ["bpf must not import state"]);
    }

    #[test]
    fn fences_hold_foreign_crates() {
        assert_eq!(faults(&[room("kvstore", &["redb", "etcd-client"], &[])]), Vec::<String>::new());
        assert_eq!(faults(&[room("state", &["tokio"], &[])]).len(), 1);
        assert_eq!(faults(&[room("daemon", &["aya"], &[])]), ["daemon must not use aya: it belongs to bpf, datapath"]);
        assert_eq!(faults(&[room("cli", &[], &["hyper"])]), Vec::<String>::new());
    }

    #[test]
    fn a_new_crate_needs_a_place() {
        assert_eq!(faults(&[room("utils", &[], &[])]).len(), 1);
    }

    #[test]
    fn the_plan_knows_its_own_names() {
        let names: BTreeSet<&str> = ROOMS.iter().map(|(name, ..)| *name).collect();
        let mentioned = ROOMS.iter().flat_map(|(_, may, tests)| may.iter().chain(tests.iter()));
        for name in mentioned.chain(FENCES.iter().flat_map(|(_, users)| users.iter())) {
            assert!(names.contains(name), "{name}");
        }
    }
}

//! Every policy under `examples/policies` is sound, comes back as it was written, is enforced in full unless it says
//! what it needs, and has a file of cases under `examples/tests` that all hold.

// A test's helper that panics is a test that fails.
#![allow(clippy::unwrap_used)]

use policy::unit::{Expected, Suite};
use policy::{ReadOptions, Rule, check_supported, parse_rules, read_documents, warnings};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn files(name: &str) -> BTreeSet<PathBuf> {
    std::fs::read_dir(folder(name)).unwrap().map(|file| file.unwrap().path()).collect()
}

/// The name of a policy and of its cases.
fn stem(file: &Path) -> String {
    file.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// Whether a rule says that it needs something that not every agent has (`needs=proxy`).
fn says_needs(rule: &Rule) -> bool {
    rule.rule_labels().any(|label| label.key == "needs")
}

#[test]
fn every_example_can_be_read_and_what_cannot_be_imported_says_so() {
    let (mut json, mut yaml, mut enforced) = (0, 0, 0);
    for file in files("policies") {
        let text = std::fs::read_to_string(&file).unwrap();
        let read = read_documents(&text, &ReadOptions::default());
        let rules = read.unwrap_or_else(|errors| panic!("{}:\n{errors}", file.display()));
        if !rules.iter().any(says_needs) {
            assert_eq!(check_supported(&rules), Ok(()), "{}", file.display());
            enforced += 1;
        }
        if file.extension().is_some_and(|extension| extension == "json") {
            let written: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_value(&rules).unwrap(), written, "{}", file.display());
            json += 1;
        } else {
            yaml += 1;
        }
    }
    assert!(json >= 30 && yaml >= 5 && enforced >= 25, "{json} in JSON, {yaml} in YAML, {enforced} of them enforced");
}

#[test]
fn every_example_holds_what_its_cases_expect() {
    let mut tested = BTreeSet::new();
    for file in files("tests") {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut named = Vec::new();
        let mut beside = |name: &str| {
            named.push(stem(Path::new(name)));
            std::fs::read_to_string(file.with_file_name(name)).map_err(|error| error.to_string())
        };
        let suite = Suite::read(&text, &mut beside);
        let result = suite.unwrap_or_else(|errors| panic!("{}:\n{errors}", file.display())).run();
        if let Some(case) = result.cases.iter().find(|case| !case.passed) {
            panic!(
                "{}: {}: expected {}, was {}: {:#?}",
                file.display(),
                case.name,
                case.expected,
                case.answer,
                case.sides
            );
        }
        let refused = |expected: Expected| expected == Expected::Denied;
        assert!(
            result.cases.iter().any(|case| refused(case.expected))
                && result.cases.iter().any(|case| !refused(case.expected)),
            "{} needs cases of both kinds",
            file.display()
        );
        assert_eq!(named, [stem(&file)], "{} is about another policy", file.display());
        tested.insert(stem(&file));
    }
    let policies: BTreeSet<String> = files("policies").iter().map(|file| stem(file)).collect();
    assert_eq!(tested, policies, "each policy has its cases");
}

#[test]
fn the_first_example_surprises_nobody() {
    let rules = parse_rules(include_str!("../../examples/policies/l3-l4.json")).unwrap();
    assert_eq!(warnings(&rules), []);
}

//! Every policy under `examples/policies` is sound, is enforced in full, and comes back as it was written.

use policy::{check_supported, parse_rules, warnings};
use serde_json::Value;
use std::path::Path;

#[test]
fn every_example_can_be_imported() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let rules = parse_rules(&text).unwrap_or_else(|errors| panic!("{}:\n{errors}", file.display()));
        assert_eq!(check_supported(&rules), Ok(()), "{}", file.display());
        let written: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_value(&rules).unwrap(), written, "{}", file.display());
        seen += 1;
    }
    assert!(seen >= 7, "{seen} examples");
}

#[test]
fn the_first_example_surprises_nobody() {
    let rules = parse_rules(include_str!("../../examples/policies/l3-l4.json")).unwrap();
    assert_eq!(warnings(&rules), []);
}

//! Real policy files: whether each is taken in, or refused for the reason for which Cilium refuses it.
//!
//! The files and their manifest, which says what Cilium makes of each, are no part of this repository. They are looked
//! for where `CILIUM_POLICY_CORPUS` says, else beside the repository. Where they are not, the project's own examples are
//! what is left.

use policy::{Errors, ReadOptions, Rule, parse_rules, read_documents, warnings};
use std::path::{Path, PathBuf};

/// A row of the manifest.
struct Row {
    path: PathBuf,
    holds: String,
    /// Number of rules, where the manifest says it.
    rules: Option<usize>,
    exercises: String,
    outcome: String,
}

/// The rows of all tables of the manifest that list files; a heading names the folder.
fn rows(manifest: &str) -> Vec<Row> {
    let mut folder = "";
    let mut rows = Vec::new();
    for line in manifest.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            folder = heading.strip_suffix('/').unwrap_or_default();
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [file, holds, rules, exercises, outcome, _] = cells[..] else { continue };
        if !line.starts_with('|') || folder.is_empty() || file == "file" {
            continue;
        }
        let path = Path::new(folder).join(file);
        let [holds, exercises, outcome] = [holds, exercises, outcome].map(str::to_owned);
        rows.push(Row { path, holds, rules: rules.parse().ok(), exercises, outcome });
    }
    rows
}

/// What Cilium says when it refuses a file, and what is said here for the same reason.
const REASONS: [(&str, &str); 7] = [
    ("combining ToCIDR and ToCIDRSet", "combining toCIDR and toCIDRSet in one entry is not supported"),
    ("invalid protocol \"GRE\"", "invalid protocol \"GRE\""),
    ("cannot unmarshal object into Go struct field CiliumNetworkPolicy.spec.egress", "spec.egress: must be a list"),
    ("ParseAddr(\"NODE_WITHOUT_CILIUM_IP/32\")", "\"NODE_WITHOUT_CILIUM_IP\" is not an IP address"),
    ("rule must have at least one of Ingress", "spec: a rule must have at least one of ingress"),
    ("empty policy", "empty policy"),
    ("L7 rules can only apply to TCP (not UDP)", "L7 rules can only apply to TCP (not UDP)"),
];

/// Files that Cilium accepts because it passes over a field that it does not know, and that field. Each of them allows
/// more than its author meant, so they are refused unless that is asked for.
const MISTAKEN: [(&str, &str); 6] = [
    ("examples/policies/l3_l4_combined.yaml", "spec.ingress[0].fromEndpoints[0].role"),
    ("examples/policies/multi_rule.yaml", "spec.ingress[0].fromEndpoints[0].role"),
    ("examples/policies/auth/auth.yaml", "spec.egress[0].auth"),
    ("examples/policies/l3/service/service.json", "[0].egress[0].toServices[1].k8sServiceSelector.selector.namespace"),
    ("cilium-cli/connectivity/manifests/echo-ingress-auth-fail.yaml", "spec.ingress[0].auth"),
    ("cilium-cli/connectivity/manifests/echo-ingress-mtls.yaml", "spec.ingress[0].auth"),
];

fn strict(text: &str) -> Result<Vec<Rule>, Errors> {
    read_documents(text, &ReadOptions::default())
}

fn lenient(text: &str) -> Result<Vec<Rule>, Errors> {
    read_documents(text, &ReadOptions { ignore_unknown_fields: true, ..ReadOptions::default() })
}

/// What is wrong with the outcome of one file; nothing if it is the manifest's.
fn difference(row: &Row, text: &str) -> Option<String> {
    let template = text.contains("{{");
    let found = strict(text);
    if row.outcome == "not run (template)" || template {
        return (!template || row.outcome != "not run (template)").then(|| "is it a template?".to_owned());
    }
    if let Some(reason) = row.outcome.strip_prefix("refused: ").or_else(|| row.outcome.strip_prefix("1.19: refused: "))
    {
        // Requirements went with 1.19; here they keep the meaning that they had before.
        if reason.ends_with("1.18: accepted") {
            return accepted(row, found.as_ref()).or_else(|| {
                let warned = warnings(&found.unwrap_or_default());
                (!warned.iter().any(|fault| fault.path.ends_with("fromRequires"))).then(|| "no warning".to_owned())
            });
        }
        let Some((_, expected)) = REASONS.iter().find(|(theirs, _)| reason.contains(theirs)) else {
            return Some(format!("no counterpart is known of {reason:?}"));
        };
        return [found, lenient(text)].into_iter().find_map(|found| match found {
            Ok(_) => Some(format!("accepted, but expected {expected:?}")),
            Err(errors) if errors.to_string().contains(expected) => None,
            Err(errors) => Some(format!("expected {expected:?}, found:\n{errors}")),
        });
    }
    let mistaken = MISTAKEN.iter().find(|(path, _)| Path::new(path) == row.path);
    match (row.outcome.as_str(), mistaken) {
        ("accepted", None) => accepted(row, found.as_ref()).or_else(|| accepted(row, lenient(text).as_ref())),
        ("accepted", Some((_, field))) => match found {
            Err(errors) if errors.to_string().contains(&format!("{field}: unknown field")) => {
                accepted(row, lenient(text).as_ref())
            }
            other => Some(format!("expected {field} to be refused, found {other:?}")),
        },
        ("no policy document", _) => match found {
            Ok(rules) if rules.is_empty() => None,
            other => Some(format!("expected no rules, found {other:?}")),
        },
        (other, _) => Some(format!("the outcome {other:?} is not known")),
    }
}

/// An accepted file has the number of rules that the manifest says, and its rules are the same when they have gone
/// through JSON, as they do on their way to an agent.
fn accepted(row: &Row, found: Result<&Vec<Rule>, &Errors>) -> Option<String> {
    let rules = match found {
        Ok(rules) => rules,
        Err(errors) => return Some(format!("refused:\n{errors}")),
    };
    // The manifest counts peers of Kubernetes' own policies.
    let counted = !row.holds.split(", ").any(|kind| kind.starts_with("NetworkPolicy"));
    if let Some(count) = row.rules.filter(|count| counted && *count != rules.len()) {
        return Some(format!("{} rules, not {count}", rules.len()));
    }
    let json = serde_json::to_string(rules).expect("rules can be written");
    match parse_rules(&json) {
        Ok(again) if again == *rules => None,
        other => Some(format!("other rules after going through JSON: {other:?}")),
    }
}

fn corpus() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/policies");
    let folder = std::env::var_os("CILIUM_POLICY_CORPUS").map_or_else(beside, PathBuf::from);
    folder.join("manifest.md").is_file().then_some(folder)
}

#[test]
fn every_real_policy_is_accepted_or_refused_as_cilium_does() {
    let Some(folder) = corpus() else {
        println!("no folder of real policies: only the project's own examples are read");
        return own_examples().unwrap();
    };
    let manifest = std::fs::read_to_string(folder.join("manifest.md")).unwrap();
    let rows = rows(&manifest);
    let mut differences = Vec::new();
    let mut templates = 0;
    for row in &rows {
        let text = std::fs::read_to_string(folder.join(&row.path)).unwrap();
        if text.contains("{{") {
            println!("skipped, a template: {}", row.path.display());
            templates += 1;
        }
        if let Some(difference) = difference(row, &text) {
            differences.push(format!("{}: {difference}", row.path.display()));
        }
    }
    println!("{} files, {templates} templates among them", rows.len());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!((rows.len(), templates), (492, 50));
}

/// The manifest says which files write a field in other capitals, and that a reader that does not know them would let an
/// L7 restriction vanish.
#[test]
fn field_names_in_capitals_are_not_lost() {
    let Some(folder) = corpus() else { return own_examples().unwrap() };
    let manifest = std::fs::read_to_string(folder.join("manifest.md")).unwrap();
    let mut seen = 0;
    for row in rows(&manifest).iter().filter(|row| row.exercises.contains("CAPITALS:HTTP")) {
        let text = std::fs::read_to_string(folder.join(&row.path)).unwrap();
        let rules = serde_json::to_string(&strict(&text).unwrap()).unwrap();
        let written = text.lines().map(|line| line.trim().trim_start_matches(['"', '-', ' ']).to_lowercase());
        let written = written.filter(|line| line.starts_with("http\"") || line.starts_with("http:")).count();
        assert_eq!(rules.matches("\"http\":[").count(), written, "{}", row.path.display());
        seen += 1;
    }
    assert_eq!(seen, 11);
}

fn own_examples() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/policies");
    let mut seen = 0;
    for file in std::fs::read_dir(folder)? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "json" || extension == "yaml") {
            strict(&std::fs::read_to_string(&file)?).unwrap_or_else(|errors| panic!("{}:\n{errors}", file.display()));
            seen += 1;
        }
    }
    assert!(seen >= 7, "{seen} examples");
    Ok(())
}

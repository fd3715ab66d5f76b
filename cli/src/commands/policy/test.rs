//! `cilium policy test`: policies against worlds of cases, without an agent. What a world says and what becomes of its
//! cases is `policy::unit`'s; here are files, and the ways of telling.

mod junit;

use super::super::{Outcome, Session};
use super::document::{self, Document};
use crate::failure::Failure;
use crate::render::{Cell, Format, GREEN, Page, RED};
use policy::unit::{CaseResult, Suite, SuiteResult};
use policy::{Errors, Fault, Limits};
use serde::Serialize;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Try policies on worlds of cases; no agent is needed
///
/// A test file names policies, endpoints and cases: who talks to whom, with which request, and what is expected.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cilium policy test tests/\n  cilium policy test web.yaml -o junit > report.xml")]
pub struct Args {
    /// Test files in JSON or YAML, folders of them (policies there are passed over) or - for standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Tell failed cases only
    #[arg(short, long)]
    quiet: bool,
}

/// What became of all files.
#[derive(Debug, Serialize)]
struct Report {
    passed: usize,
    /// Cases that failed, and files that could not be read.
    failed: usize,
    files: Vec<FileReport>,
}

#[derive(Debug, Serialize)]
struct FileReport {
    file: String,
    #[serde(flatten)]
    result: SuiteResult,
    /// What is wrong with the file; no case of it ran.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<Fault>,
}

impl Args {
    pub fn run(self, session: &mut Session) -> Result<Outcome, Failure> {
        let mut files = Vec::new();
        for (document, folder) in tests(&self.paths)? {
            files.push(run_file(document, &folder));
        }
        let sum = |count: fn(&FileReport) -> usize| files.iter().map(count).sum();
        let report = Report {
            passed: sum(|file| file.result.passed),
            failed: sum(|file| file.result.failed + usize::from(!file.faults.is_empty())),
            files,
        };
        match session.out.format() {
            Format::Json => session.out.json(&report)?,
            Format::Junit => session.out.verbatim(&junit::document(&report))?,
            Format::Table => session.out.page(&page(&report, self.quiet))?,
        }
        Ok(if report.failed == 0 { Outcome::Done } else { Outcome::Unwell })
    }
}

/// The test files that paths mean, each with the folder that it stands in.
fn tests(paths: &[PathBuf]) -> Result<Vec<(Document, PathBuf)>, Failure> {
    let limit = Limits::default().document_bytes as u64 + 1;
    let mut tests = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let text = document::read("standard input".to_owned(), || Ok(std::io::stdin().take(limit)))?;
            tests.push((text, PathBuf::new()));
            continue;
        }
        for file in document::files(path)? {
            let text = document::read(file.display().to_string(), || Ok(std::fs::File::open(&file)?.take(limit)))?;
            if file == *path || !Suite::is_policy(&text.text) {
                tests.push((text, file.parent().map(Path::to_owned).unwrap_or_default()));
            }
        }
    }
    Ok(tests)
}

/// Files that the test names are looked for beside it.
fn run_file(document: Document, folder: &Path) -> FileReport {
    let limit = Limits::default().document_bytes as u64 + 1;
    let mut beside = |name: &str| {
        let open = || Ok(std::fs::File::open(folder.join(name))?.take(limit));
        document::read(name.to_owned(), open).map(|document| document.text).map_err(|failure| match failure {
            Failure::Read { source, .. } => format!("cannot be read: {source}"),
            other => other.report(),
        })
    };
    let nothing = SuiteResult { passed: 0, failed: 0, cases: Vec::new() };
    let (result, faults) = match Suite::read(&document.text, &mut beside) {
        Ok(suite) => (suite.run(), Vec::new()),
        Err(Errors(faults)) => (nothing, faults),
    };
    FileReport { file: document.name, result, faults }
}

fn page(report: &Report, quiet: bool) -> Page {
    let mut page = Page::default();
    for file in &report.files {
        if !file.faults.is_empty() {
            page.line(mark(false).then(&format!("{}: the file cannot be used", file.file)));
            file.faults.iter().for_each(|fault| page.line(format!("      {fault}").as_str()));
        }
        for case in file.result.cases.iter().filter(|case| !quiet || !case.passed) {
            page.line(mark(case.passed).then(&format!("{}: {}", file.file, case.name)));
            if !case.passed {
                why(case).iter().for_each(|line| page.line(format!("      {line}").as_str()));
            }
        }
    }
    let style = if report.failed == 0 { GREEN } else { RED };
    page.line(Cell::styled(&format!("{} passed, {} failed", report.passed, report.failed), style));
    page
}

fn mark(passed: bool) -> Cell {
    if passed { Cell::styled("ok    ", GREEN) } else { Cell::styled("FAIL  ", RED) }
}

/// What a failed case is told with.
fn why(case: &CaseResult) -> Vec<String> {
    let mut lines = vec![format!("expected {}, was {}", case.expected, case.answer)];
    for side in &case.sides {
        let direction = side.direction.to_string().to_lowercase();
        lines.push(format!("{direction} of {}: {}: {}", side.of, side.verdict, side.why));
        if let Some(parsed) = &side.parsed {
            lines.extend(parsed.rules.iter().map(|rule| format!("  {rule}")));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    const RULES: &str = r#"[{"endpointSelector": {}, "ingress": [{"fromEntities": ["host"]}]}]"#;

    fn world(cases: &str) -> String {
        format!(
            r#"{{"policies": [{{"file": "rules.json"}}], "endpoints": {{"a": {{"labels": ["id=a"]}}}}, "cases": [{cases}]}}"#
        )
    }

    fn report(files: &[(&str, &str)]) -> Report {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let found = tests(&[folder.path().to_owned()]).unwrap();
        let mut files: Vec<FileReport> =
            found.into_iter().map(|(document, folder)| run_file(document, &folder)).collect();
        for file in &mut files {
            file.file = file.file.rsplit('/').next().unwrap().to_owned();
        }
        let (passed, failed) = files.iter().fold((0, 0), |(p, f), file| {
            (p + file.result.passed, f + file.result.failed + usize::from(!file.faults.is_empty()))
        });
        Report { passed, failed, files }
    }

    const FROM_HOST: &str =
        r#"{"name": "host", "from": {"entity": "host"}, "to": {"endpoint": "a"}, "port": 80, "expect": "allowed"}"#;
    const FROM_WORLD: &str =
        r#"{"name": "<world>", "from": {"entity": "world"}, "to": {"endpoint": "a"}, "port": 80, "expect": "allowed"}"#;

    #[test]
    fn each_case_is_a_line_and_failures_say_why() {
        let report = report(&[
            ("a.json", &world(&format!("{FROM_HOST}, {FROM_WORLD}"))),
            ("rules.json", RULES),
            ("b.yaml", "cases: [{}]"),
        ]);
        let expected = "\
ok    a.json: host
FAIL  a.json: <world>
      expected allowed, was denied
      egress of world: allowed: nothing is enforced there
      ingress of a: denied: no entry of the one rule for it matches: rules.json [0], and what is not allowed is refused
FAIL  b.yaml: the file cannot be used
      cases[0].from: must be given
      cases[0].to: must be given
      cases[0].expect: must be given
1 passed, 2 failed
";
        assert_eq!(plain(page(&report, false)), expected);
        assert!(!plain(page(&report, true)).contains("ok "));
    }

    #[test]
    fn reports_are_well_formed() {
        let report = report(&[("a.json", &world(&format!("{FROM_HOST}, {FROM_WORLD}"))), ("rules.json", RULES)]);
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!((&value["passed"], &value["failed"]), (&1.into(), &1.into()));
        assert_eq!(value["files"][0]["cases"][1]["answer"], "denied");
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="2" failures="1" errors="0">
  <testsuite name="a.json" tests="2" failures="1" errors="0">
    <testcase classname="a.json" name="host"/>
    <testcase classname="a.json" name="&lt;world&gt;">
      <failure message="expected allowed, was denied">expected allowed, was denied
egress of world: allowed: nothing is enforced there
ingress of a: denied: no entry of the one rule for it matches: rules.json [0], and what is not allowed is refused</failure>
    </testcase>
  </testsuite>
</testsuites>
"#;
        assert_eq!(junit::document(&report), expected);
    }

    #[test]
    fn a_file_that_is_not_there_is_a_fault_of_the_test() {
        let report = report(&[("a.json", &world(FROM_HOST))]);
        let fault = report.files[0].faults[0].to_string();
        assert!(fault.starts_with("policies[0].file: rules.json: cannot be read: "), "{fault}");
    }
}

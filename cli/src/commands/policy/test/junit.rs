//! Results of tests as the XML that test runners exchange.

use super::{FileReport, Report, why};
use std::fmt::Write;

pub(super) fn document(report: &Report) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    let errors = report.files.iter().filter(|file| !file.faults.is_empty()).count();
    let failures = report.failed - errors;
    let tests = report.passed + report.failed;
    append(&mut text, format_args!("<testsuites tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\">\n"));
    for file in &report.files {
        suite(&mut text, file);
    }
    text.push_str("</testsuites>\n");
    text
}

fn suite(text: &mut String, file: &FileReport) {
    let (name, errors) = (escaped(&file.file), usize::from(!file.faults.is_empty()));
    let (failures, tests) = (file.result.failed, file.result.cases.len() + errors);
    append(
        text,
        format_args!("  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\">\n"),
    );
    if errors > 0 {
        let faults: Vec<String> = file.faults.iter().map(ToString::to_string).collect();
        case(text, &file.file, "the file", Some(("error", "the file cannot be used", faults)));
    }
    for result in &file.result.cases {
        let lines = why(result);
        let message = lines.first().cloned().unwrap_or_default();
        case(text, &file.file, &result.name, (!result.passed).then_some(("failure", &message, lines)));
    }
    text.push_str("  </testsuite>\n");
}

fn case(text: &mut String, file: &str, name: &str, bad: Option<(&str, &str, Vec<String>)>) {
    let (file, name) = (escaped(file), escaped(name));
    append(text, format_args!("    <testcase classname=\"{file}\" name=\"{name}\""));
    let Some((kind, message, lines)) = bad else {
        text.push_str("/>\n");
        return;
    };
    let (message, lines) = (escaped(message), escaped(&lines.join("\n")));
    append(text, format_args!(">\n      <{kind} message=\"{message}\">{lines}</{kind}>\n    </testcase>\n"));
}

/// Markup becomes entities; characters that XML cannot hold become `\u{fffd}`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn append(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_replaced() {
        assert_eq!(escaped("a<b>&\"c\"\u{1b}\n"), "a&lt;b&gt;&amp;&quot;c&quot;\u{fffd}\n");
    }
}

//! What must hold for any text that somebody writes: no panic, and whatever is read says the same when it is written and
//! read again. The programs under `fuzz/` look for texts for which it does not; those they found, and others that are
//! near the edges, are kept in `fuzz/corpus` and tried with the other tests.
//!
//! Present in tests and with the feature `fuzz` only.

use crate::decode::Decoder;
use crate::fault::Path;
use crate::selector::Selector;
use crate::unit::Suite;
use crate::{Errors, Peer, PeerSelector, ReadOptions, Rule, check_supported, cidr_labels, parse_rules};
use crate::{Reader, warnings};
use model::labels::{SOURCE_ANY, SOURCE_UNSPEC};
use model::{Identity, Label, Labels};

/// A target: its name, which is that of its folder under `fuzz/corpus`, and what it does.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 5] =
    [("json", json), ("yaml", yaml), ("label", label), ("selector", selector), ("suite", suite)];

/// A JSON list of rules, as an agent is sent it.
pub fn json(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse_rules(text) {
        Ok(rules) => written_and_read(&rules),
        Err(errors) => told(&errors),
    }
}

/// A text of a policy file in any form.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut taken = false;
    for ignore_unknown_fields in [false, true] {
        let options = ReadOptions { ignore_unknown_fields, ..ReadOptions::default() };
        let mut reader = Reader::new(&options);
        let read = reader.add_text(text).and_then(|()| reader.finish());
        assert!(!taken || read.is_ok(), "fewer checks refuse what more checks take");
        match read {
            Ok(reading) => {
                assert_eq!(reading.rules.len(), reading.places.len());
                written_and_read(&reading.rules);
                taken = true;
            }
            Err(errors) => told(&errors),
        }
    }
}

/// A world of cases; every case gets an answer.
pub fn suite(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut files = |_: &str| Ok(r#"[{"endpointSelector": {}, "ingress": [{}]}]"#.to_owned());
    match Suite::read(text, &mut files) {
        Ok(suite) => {
            let result = suite.run();
            assert_eq!((result.passed + result.failed, result.cases.len()), (suite.cases(), suite.cases()));
            assert!(
                result.cases.iter().all(|case| case.sides.len() == 2 && case.sides.iter().all(|s| !s.why.is_empty()))
            );
        }
        Err(errors) => told(&errors),
    }
    let _ = Suite::is_policy(text);
}

/// The text of a label, and that of a list of them.
pub fn label(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for source in [SOURCE_ANY, SOURCE_UNSPEC] {
        if let Ok(label) = Label::parse(text, source) {
            assert_eq!(Label::parse(&label.to_string(), source).as_ref(), Ok(&label), "{text:?}");
        }
    }
    if let Ok(labels) = Labels::from_sorted_list(text) {
        assert_eq!(Labels::from_sorted_list(&labels.sorted_list()).as_ref(), Ok(&labels), "{text:?}");
        let peer = Peer::from_labels(&labels);
        let _ = (peer.is_endpoint(), PeerSelector::Labels(Selector::default()).matches(&peer));
    }
}

/// A selector in JSON.
pub fn selector(data: &[u8]) {
    let Ok(value) = serde_json::from_slice(data) else { return };
    let decode = |value| {
        let mut decoder = Decoder::default();
        let selector = Selector::decode(&mut decoder, &value, &Path::ROOT);
        decoder.faults.into_result().map(|()| selector.unwrap_or_default())
    };
    let selector: Selector = match decode(value) {
        Ok(selector) => selector,
        Err(errors) => return told(&errors),
    };
    let canonical = selector.to_string();
    let again = serde_json::from_str(&canonical).ok().and_then(|value| decode(value).ok());
    let again = again.unwrap_or_else(|| panic!("{canonical} is no selector"));
    assert_eq!(again.to_string(), canonical);
    for labels in some_labels() {
        assert_eq!(selector.matches(&labels), again.matches(&labels), "{canonical} and {labels}");
    }
}

/// Peers of every kind, for selectors to be tried on.
fn some_labels() -> Vec<Labels> {
    let mut all: Vec<Labels> = Identity::RESERVED.iter().map(|(_, name)| Labels::reserved(name)).collect();
    all.extend(["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"].iter().filter_map(|p| p.parse().ok()).map(cidr_labels));
    all.extend(
        ["", "container:a=b", "k8s:a=b;container:a=c", "container:a=", "k8s:io.kubernetes.pod.namespace=default"]
            .map(|list| list.split(';').filter_map(|text| Label::parse(text, SOURCE_ANY).ok()).collect()),
    );
    all
}

/// Rules that were taken are the same after having gone through JSON, and everything that looks at them can.
fn written_and_read(rules: &[Rule]) {
    let text = serde_json::to_string(rules).unwrap_or_else(|error| panic!("rules cannot be written: {error}"));
    match parse_rules(&text) {
        Ok(again) => assert!(again == rules, "{text}"),
        Err(errors) => panic!("{errors}\n{text}"),
    }
    if let Err(errors) = check_supported(rules) {
        told(&errors);
    }
    let _ = warnings(rules);
}

/// Faults that can be shown, and not without end.
fn told(errors: &Errors) {
    assert!(!errors.0.is_empty());
    assert!(errors.to_string().len() < 16 << 20);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kept_text_holds() {
        for (name, target) in TARGETS {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
            let mut seen = 0;
            for file in std::fs::read_dir(&folder).unwrap() {
                let file = file.unwrap().path();
                let text = std::fs::read(&file).unwrap();
                println!("{}", file.display());
                target(&text);
                seen += 1;
            }
            assert!(seen >= 20, "{seen} texts in {}", folder.display());
        }
    }
}

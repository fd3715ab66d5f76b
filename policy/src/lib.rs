//! What is allowed: the policy language, from JSON to the entries that the kernel looks packets up in.
//!
//! ```text
//! text --read_documents--> Vec<Rule> --check_supported--> Repository --Engine--> model::PolicyMap
//!                                                          \--trace--> a verdict with its reasons
//! ```
//!
//! Pure: no I/O, no clock, no randomness; equal inputs give equal outputs. Knows nothing of how identities are allocated,
//! policies stored or maps written.

mod cidr;
mod compile;
mod decode;
pub mod diff;
mod document;
mod engine;
mod entity;
mod fault;
pub mod fqdn;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod l7;
mod limits;
mod peer;
pub mod repository;
mod resolve;
pub mod rule;
mod selector;
mod support;
pub mod trace;
pub mod unit;
mod validate;

pub use cidr::{cidr_labels, contains, masked, mentioned_prefixes};
pub use decode::Written;
pub use document::{Place, ReadOptions, Reader, Reading, read_documents, read_values};
pub use engine::{Engine, Resolver, Share};
pub use entity::Entity;
pub use fault::{Errors, Fault};
pub use limits::Limits;
pub use model::ClusterName;
pub use peer::{Peer, PeerSelector};
pub use repository::Repository;
pub use resolve::{AllowLocalhost, Enforcement, Options};
pub use rule::Rule;
pub use selector::{Key, Operator, Requirement, Selector};
pub use support::{check_supported, warnings};

use fault::Path;
use serde_json::Value;

/// Reads a policy document: a JSON list of rules. Either every rule is sound, or the errors say everything that is
/// wrong with the document.
///
/// Field names are known in any case, unknown ones are refused. That the rules are sound does not mean that they can be
/// enforced: see `check_supported`. The list may be of any length, as a whole store of rules is; for what somebody
/// sends, see `parse_rules_within`.
pub fn parse_rules(json: &str) -> Result<Vec<Rule>, Errors> {
    let unbounded = Limits { document_bytes: usize::MAX, values: usize::MAX, rules: usize::MAX, ..Limits::default() };
    parse_rules_within(json, &unbounded)
}

/// The same for a document that is refused when it passes `limits`.
pub fn parse_rules_within(json: &str, limits: &Limits) -> Result<Vec<Rule>, Errors> {
    let document = document::text::rule_list(json, limits).map_err(whole_document)?;
    if document.as_array().is_some_and(|rules| rules.len() > limits.rules) {
        return Err(whole_document(limits::exceeded("rules", limits.rules)));
    }
    rules_from_value(&document)
}

/// The same for a document that has been read already.
pub fn rules_from_value(document: &Value) -> Result<Vec<Rule>, Errors> {
    if document.is_object() {
        return Err(whole_document("a policy is a list of rules: put the rule between [ and ]".to_owned()));
    }
    let mut decoder = decode::Decoder::default();
    let rules = decoder.list(document, &Path::ROOT, document::decode_rule);
    decoder.faults.into_result()?;
    Ok(rules.unwrap_or_default())
}

fn whole_document(message: String) -> Errors {
    Errors(vec![Fault { path: String::new(), message }])
}

#[cfg(test)]
mod tests;

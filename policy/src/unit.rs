//! Tests of policies: a world in one text (rules, endpoints, answers of DNS) and cases, each a connection or a request
//! with what is expected of it. What decides is the interpreter that rules are traced with, rule by rule.
//!
//! Owns the form of such texts (`world`, `case`) and the running of cases (`run`). Texts that a world names are handed
//! in; how results are shown is the caller's.

mod case;
mod run;
mod world;

pub use case::Expected;
pub use run::{CaseResult, SideResult, SuiteResult};

use crate::decode::{Decoder, Name};
use crate::document::ReadOptions;
use crate::fault::{Errors, Fault, Path};
use crate::fqdn::Outside;
use crate::l7;
use crate::repository::Repository;
use crate::resolve::Options;
use crate::trace::PortNames;
use case::Case;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use world::Endpoint;

/// A world and its cases.
#[derive(Debug)]
pub struct Suite {
    repository: Repository,
    /// Where each rule of the repository is from.
    sources: Vec<String>,
    options: Options,
    host_firewall: bool,
    endpoints: Vec<Endpoint>,
    /// The names of all endpoints' ports.
    port_names: PortNames,
    outside: Outside,
    /// Answers that were seen, by name.
    answers: BTreeMap<l7::Name, Vec<IpAddr>>,
    cases: Vec<Case>,
}

const FIELDS: &[Name] = &["description", "policies", "enforcement", "options", "endpoints", "fqdn-cache", "cases"];

/// Cases of one text.
const MAX_CASES: usize = 100_000;

/// Gives the text of a file that a world names.
pub type Files<'a> = &'a mut dyn FnMut(&str) -> Result<String, String>;

impl Suite {
    /// Reads a world and its cases, in JSON or YAML. Either all of it is sound, or the errors say all that is wrong.
    pub fn read(text: &str, files: Files<'_>) -> Result<Suite, Errors> {
        let options = ReadOptions::default();
        let values = crate::document::text::read(text, &options.limits).map_err(whole)?;
        match values.as_slice() {
            [value] => Suite::from_value(value, &options, files),
            values => Err(whole(format!("must be one document, not {}", values.len()))),
        }
    }

    /// Whether a text is a policy and no world: a folder may hold both.
    pub fn is_policy(text: &str) -> bool {
        let values = crate::document::text::read(text, &ReadOptions::default().limits).unwrap_or_default();
        let names = ["kind", "endpointSelector", "nodeSelector"];
        let of_rule = |value: &Value| {
            value.as_object().is_some_and(|members| {
                members.keys().any(|member| names.iter().any(|name| name.eq_ignore_ascii_case(member)))
            })
        };
        !values.is_empty() && values.iter().all(|value| value.is_array() || of_rule(value))
    }

    fn from_value(value: &Value, options: &ReadOptions, files: Files<'_>) -> Result<Suite, Errors> {
        let mut decoder = Decoder::default();
        let path = Path::ROOT;
        let Some(fields) = decoder.object(value, &path, FIELDS) else {
            return Err(Errors(decoder.faults.into_list()));
        };
        fields.read(&mut decoder, &path, "description", Decoder::text);
        let rules = fields.read(&mut decoder, &path, "policies", |decoder, value, path| {
            world::read_policies(decoder, value, path, options, files)
        });
        let enforcement = fields.read(&mut decoder, &path, "enforcement", world::read_enforcement);
        let settings = fields.read(&mut decoder, &path, "options", world::read_options).unwrap_or_default();
        let endpoints = fields.read(&mut decoder, &path, "endpoints", world::read_endpoints).unwrap_or_default();
        let answers = fields.read(&mut decoder, &path, "fqdn-cache", world::read_answers).unwrap_or_default();
        let cases = fields.read(&mut decoder, &path, "cases", |decoder, value, path| {
            let cases = case::read_cases(decoder, value, path, &endpoints)?;
            if cases.len() > MAX_CASES {
                decoder.faults.add(path, crate::limits::exceeded("cases in one text", MAX_CASES));
            }
            Some(cases)
        });
        decoder.faults.into_result()?;
        let rules = rules.unwrap_or_default();
        let mut repository = Repository::new();
        repository.add(rules.rules);
        let mut port_names = PortNames::default();
        endpoints.iter().for_each(|endpoint| port_names.extend(&endpoint.port_names));
        Ok(Suite {
            outside: Outside::new(&repository),
            repository,
            sources: rules.sources,
            options: Options {
                enforcement: enforcement.unwrap_or_default(),
                allow_localhost: settings.allow_localhost,
                cluster: None,
            },
            host_firewall: settings.host_firewall,
            endpoints,
            port_names,
            answers,
            cases: cases.unwrap_or_default(),
        })
    }

    pub fn cases(&self) -> usize {
        self.cases.len()
    }
}

fn whole(message: String) -> Errors {
    Errors(vec![Fault { path: String::new(), message }])
}

#[cfg(test)]
mod tests;

//! `CiliumCIDRGroup`: prefixes under a name, filled in where rules that are read together name the group.
//!
//! A group that nobody defines stays named in the rule: it selects nothing, and is refused where rules are enforced.

use super::metadata::Metadata;
use crate::cidr::{self, Length};
use crate::decode::{Decoder, Fields, Name, Written};
use crate::fault::Path;
use crate::limits::{Limits, exceeded};
use crate::rule::{CidrRule, Rule, SECTIONS};
use ipnetwork::IpNetwork;
use model::{Label, Labels};
use std::collections::BTreeMap;

pub(super) const KIND: &str = "CiliumCIDRGroup";
pub(super) const FIELDS: &[Name] = &["apiVersion", "kind", "metadata", "spec", "status"];

/// Source of the labels of groups.
const SOURCE: &str = "cidrgroup";
/// What the key of the label that bears a group's name begins with.
const NAME: &str = "io.cilium.policy.cidrgroupname/";

/// The groups of all texts, by name.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<String, Group>);

#[derive(Debug)]
struct Group {
    labels: Labels,
    prefixes: Vec<Written<IpNetwork>>,
}

impl Groups {
    /// Reads a group; of two of one name the later one counts.
    pub(super) fn read(&mut self, decoder: &mut Decoder, document: &Fields<'_>, path: &Path<'_>, metadata: &Metadata) {
        let prefixes = document.read(decoder, path, "spec", |decoder, value, path| {
            let fields = decoder.object(value, path, &["externalCIDRs"])?;
            Some(fields.read_list(decoder, path, "externalCIDRs", |decoder, value, path| {
                let text = decoder.text(value, path)?;
                let prefix = cidr::parse(&text, Length::Required);
                prefix.map_err(|message| decoder.faults.add(path, message)).ok().map(|value| Written { text, value })
            }))
        });
        let Some(prefixes) = prefixes else {
            return decoder.faults.add_missing(&path.field("spec"), "a group must have a spec");
        };
        let own = metadata.labels.iter().map(|(key, value)| Label::new(SOURCE, key.as_str(), value.as_str()));
        let named = Label::new(SOURCE, format!("{NAME}{}", metadata.name), "");
        let labels = own.chain([named]).collect();
        self.0.insert(metadata.name.clone(), Group { labels, prefixes: prefixes.unwrap_or_default() });
    }

    /// Replaces the groups that rules name by their prefixes. The error names the bound that was passed.
    pub(super) fn fill_in(&self, rules: &mut [Rule], limits: &Limits) -> Result<(), String> {
        let (mut in_all, mut compared) = (0, 0);
        for rule in rules {
            let mut in_rule = 0;
            let entries = SECTIONS.into_iter().filter_map(|(direction, verdict)| rule.section(direction, verdict));
            let sets = entries.flatten().flat_map(|entry| entry.cidr_set.iter().flatten());
            for set in sets {
                // Every selector is tried on every group, here and once more below.
                compared += if set.cidr_group_selector.is_some() { self.0.len() } else { 0 };
                if compared > limits.values {
                    return Err(exceeded("comparisons of cidrGroupSelectors with groups", limits.values));
                }
                let prefixes: usize = self.named_by(set).map(|group| group.prefixes.len()).sum();
                in_rule += prefixes * (1 + set.except.as_ref().map_or(0, Vec::len));
            }
            in_all += in_rule;
            if in_rule > limits.cidrs_per_rule {
                return Err(exceeded("prefixes of groups in one rule", limits.cidrs_per_rule));
            }
            if in_all > limits.values {
                return Err(exceeded("prefixes of groups in all rules", limits.values));
            }
            self.fill_in_rule(rule);
        }
        Ok(())
    }

    fn fill_in_rule(&self, rule: &mut Rule) {
        for (direction, verdict) in SECTIONS {
            for entry in rule.section_mut(direction, verdict).into_iter().flatten() {
                let Some(sets) = entry.cidr_set.take() else { continue };
                let filled = sets.into_iter().flat_map(|set| {
                    let groups: Vec<&Group> = self.named_by(&set).collect();
                    if groups.is_empty() {
                        return vec![set];
                    }
                    let prefixes = groups.into_iter().flat_map(|group| &group.prefixes);
                    prefixes.filter_map(|prefix| within(prefix, &set)).collect()
                });
                entry.cidr_set = Some(filled.collect());
            }
        }
    }

    fn named_by<'a>(&'a self, set: &'a CidrRule) -> impl Iterator<Item = &'a Group> {
        let by_name = set.cidr_group_ref.as_ref().and_then(|name| self.0.get(name));
        let by_labels = set.cidr_group_selector.as_ref().map(|selector| {
            let matching = self.0.values().filter(|group| selector.matches(&group.labels));
            // One that is chosen both ways, which validation refuses, is chosen once.
            matching.filter(move |group| by_name.is_none_or(|named| !std::ptr::eq(named, *group)))
        });
        by_name.into_iter().chain(by_labels.into_iter().flatten())
    }
}

/// One prefix of a group without what the element excepts; `None` when nothing of it is left.
fn within(prefix: &Written<IpNetwork>, set: &CidrRule) -> Option<CidrRule> {
    let except = set.except.as_ref().map(|except| {
        let inside = except.iter().filter(|inner| cidr::contains(prefix.value, inner.value));
        inside.cloned().collect::<Vec<_>>()
    });
    let excepted = set.except.iter().flatten().any(|outer| cidr::contains(outer.value, prefix.value));
    if excepted {
        return None;
    }
    let except = except.filter(|except| !except.is_empty());
    Some(CidrRule { cidr: Some(prefix.clone()), cidr_group_ref: None, cidr_group_selector: None, except })
}

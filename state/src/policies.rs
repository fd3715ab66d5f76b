//! The rules in force, and the policy map of each identity that an endpoint has. What rules mean is the business of the
//! `policy` crate.

use crate::Rejected;
use crate::identities::Identities;
use crate::outputs::PolicyView;
use model::{Identity, PolicyMap};
use policy::{Engine, Options, Repository};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Policies {
    options: Options,
    engine: Engine,
    /// `None` until the first document.
    in_force: Option<Document>,
    /// What a record holds of the last run, until the kvstore speaks.
    cached: Option<Document>,
    /// Why the newest document was refused.
    fault: Option<String>,
    /// The engine's, as they were when last asked for.
    maps: Arc<BTreeMap<Identity, Arc<PolicyMap>>>,
    /// Whether the engine has other rules than `in_force`, or other options.
    stale: bool,
    changed: bool,
}

/// Rules that this build enforces.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) text: Arc<str>,
    repository: Arc<Repository>,
}

impl Document {
    pub(crate) fn parse(revision: u64, text: Arc<str>) -> Result<Document, Rejected> {
        let refused = |faults: policy::Errors| Rejected::BadPolicy { revision, faults: faults.to_string() };
        let rules = policy::parse_rules(&text).map_err(refused)?;
        policy::check_supported(&rules).map_err(refused)?;
        let repository = Arc::new(Repository::from_rules(rules.into_iter().map(Arc::new), revision));
        Ok(Document { text, repository })
    }

    pub(crate) fn revision(&self) -> u64 {
        self.repository.revision()
    }
}

/// Whether a document may take the place of one with a higher revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Freshness {
    /// One event of a stream: it may be late.
    Event,
    /// What a listing found.
    Listing,
}

impl Policies {
    pub(crate) fn new(options: Options) -> Policies {
        Policies {
            options,
            engine: Engine::new(options),
            in_force: None,
            cached: None,
            fault: None,
            maps: Arc::default(),
            stale: true,
            changed: false,
        }
    }

    /// Whether a document is in force.
    pub(crate) fn is_known(&self) -> bool {
        self.in_force.is_some()
    }

    /// Revision of the rules in force; 0 if there are none.
    pub(crate) fn revision(&self) -> u64 {
        self.in_force.as_ref().map_or(0, Document::revision)
    }

    pub(crate) fn repository(&self) -> Option<&Repository> {
        self.in_force.as_ref().map(|document| &*document.repository)
    }

    /// What to keep among the records: the rules in force, or what is kept already.
    pub(crate) fn to_cache(&self) -> Option<&Document> {
        self.in_force.as_ref().or(self.cached.as_ref())
    }

    /// Puts a document in force. One that cannot be enforced leaves what is in force (at start what is cached) in place,
    /// and is shown as a fault.
    pub(crate) fn put(&mut self, revision: u64, text: Arc<str>, freshness: Freshness) -> Result<(), Rejected> {
        if freshness == Freshness::Event && revision < self.revision() {
            return Ok(());
        }
        let same = self.in_force.as_ref().is_some_and(|now| now.revision() == revision && now.text == text);
        if same && self.fault.is_none() {
            return Ok(());
        }
        match Document::parse(revision, text) {
            Ok(mut document) => {
                if let Some(before) = &self.in_force {
                    document.repository = Arc::new(document.repository.sharing(&before.repository));
                }
                self.in_force = Some(document);
                self.fault = None;
                self.note();
                Ok(())
            }
            Err(refused) => {
                self.fault = Some(refused.to_string());
                self.changed = true;
                self.use_cached();
                Err(refused)
            }
        }
    }

    /// Puts the cached document in force if there is none.
    pub(crate) fn use_cached(&mut self) {
        if self.in_force.is_none() {
            self.in_force = self.cached.clone();
            self.note();
        }
    }

    /// Changes for whom policy is enforced.
    pub(crate) fn enforce(&mut self, enforcement: policy::Enforcement) {
        if self.options.enforcement != enforcement {
            self.options.enforcement = enforcement;
            self.note();
        }
    }

    pub(crate) fn restore(&mut self, document: Document) {
        self.cached = Some(document);
        self.changed = true;
    }

    /// The policy map of each subject. Those that came out as before are the same `Arc`s.
    pub(crate) fn resolve(
        &mut self,
        identities: &Identities,
        changed: &BTreeSet<Identity>,
        subjects: &BTreeSet<Identity>,
    ) -> Arc<BTreeMap<Identity, Arc<PolicyMap>>> {
        let engine = &mut self.engine;
        // Those who leave first, those who come last: nothing is brought up to date in vain.
        let leaving: Vec<Identity> = engine.subjects().filter(|subject| !subjects.contains(subject)).collect();
        leaving.into_iter().for_each(|subject| engine.remove_subject(subject));
        for identity in changed {
            match identities.labels(*identity) {
                Some(labels) => engine.put_identity(*identity, labels),
                None => engine.remove_identity(*identity),
            }
        }
        let Some(document) = &self.in_force else { return Arc::default() };
        if std::mem::take(&mut self.stale) {
            engine.set_options(self.options);
            engine.set_rules(document.repository.rules());
        }
        for subject in subjects {
            match identities.labels(*subject) {
                Some(labels) => engine.put_subject(*subject, labels),
                None => engine.remove_subject(*subject),
            }
        }
        if !engine.take_changed().is_empty() {
            let maps = engine.subjects().filter_map(|subject| {
                let map = engine.policy(subject)?;
                let before = self.maps.get(&subject).filter(|before| ***before == **map);
                Some((subject, before.unwrap_or(map).clone()))
            });
            self.maps = Arc::new(maps.collect());
        }
        self.maps.clone()
    }

    /// The rules that a subject's policy is made of, the one with the most entries first.
    pub(crate) fn shares(&self, subject: Identity) -> Vec<policy::Share> {
        self.engine.shares(subject)
    }

    /// The policy map of a subject, as it was resolved last.
    pub(crate) fn map(&self, subject: Identity) -> Option<&PolicyMap> {
        self.maps.get(&subject).map(Arc::as_ref)
    }

    /// Whether the rules, or what is said of them, changed since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(crate) fn view(&self) -> PolicyView {
        PolicyView {
            revision: self.revision(),
            rules: self.in_force.as_ref().map_or_else(|| "[]".into(), |document| document.text.clone()),
            repository: self.in_force.as_ref().map(|document| document.repository.clone()).unwrap_or_default(),
            fault: self.fault.clone(),
            enforcement: self.options.enforcement,
        }
    }

    fn note(&mut self) {
        self.stale = true;
        self.changed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(description: &str) -> Arc<str> {
        format!(r#"[{{"endpointSelector": {{}}, "ingress": [{{}}], "description": "{description}"}}]"#).into()
    }

    fn policies() -> Policies {
        Policies::new(Options::default())
    }

    #[test]
    fn late_events_are_ignored_and_listings_are_not() {
        let mut policies = policies();
        policies.put(5, rules("five"), Freshness::Event).unwrap();
        policies.put(4, rules("four"), Freshness::Event).unwrap();
        assert_eq!(policies.revision(), 5);
        policies.put(1, "[]".into(), Freshness::Listing).unwrap();
        assert_eq!(policies.revision(), 1);
    }

    #[test]
    fn a_document_that_cannot_be_enforced_leaves_the_rules_in_force() {
        let mut policies = policies();
        policies.put(2, rules("two"), Freshness::Event).unwrap();
        let refused = policies.put(3, r#"[{"endpointSelector": {}, "ingres": []}]"#.into(), Freshness::Event);
        assert!(refused.unwrap_err().to_string().contains("[0].ingres"));
        assert_eq!(policies.revision(), 2);
        assert!(policies.view().fault.is_some());
        policies.put(4, rules("four"), Freshness::Event).unwrap();
        assert_eq!(policies.view().fault, None);
    }

    #[test]
    fn the_cached_document_serves_until_the_kvstore_speaks() {
        let mut policies = policies();
        policies.restore(Document::parse(7, rules("seven")).unwrap());
        assert!(!policies.is_known());
        policies.use_cached();
        assert_eq!(policies.revision(), 7);
        policies.put(8, rules("eight"), Freshness::Event).unwrap();
        policies.use_cached();
        assert_eq!(policies.revision(), 8);
    }

    #[test]
    fn unchanged_maps_are_the_same_object() {
        let mut policies = policies();
        policies.put(2, "[]".into(), Freshness::Event).unwrap();
        let identities = Identities::default();
        let subjects = BTreeSet::from([Identity::INIT]);
        let before = policies.resolve(&identities, &BTreeSet::new(), &subjects);
        policies.put(3, "[]".into(), Freshness::Event).unwrap();
        let after = policies.resolve(&identities, &BTreeSet::from([Identity::HOST]), &subjects);
        assert!(Arc::ptr_eq(&before[&Identity::INIT], &after[&Identity::INIT]));
    }
}

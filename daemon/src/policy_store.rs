//! The policy document in the kvstore: one key, changed by compare-and-swap, so that two imports at once are both kept
//! and none is half done.
//!
//! The kvstore is the truth. A change made here is fed to the state at once; the watch (`feed.rs`) brings it a second
//! time and brings those of others.

use kvstore::{Attempt, Backend, Entry, keys};
use model::Label;
use policy::Repository;
use policy::repository::{Change, NotFound};
use policy::rule::Rule;
use serde_json::{Value, json};
use std::sync::Arc;

/// Name of the one rule set.
const NAME: &str = "default";
/// How often a change is tried again because somebody else was quicker.
const ATTEMPTS: u32 = 32;

/// The key of the document.
pub fn key() -> String {
    keys::policy(NAME)
}

/// What is stored: rules as they were imported, and the number of their version.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub revision: u64,
    /// JSON text of a list.
    pub rules: Arc<str>,
}

impl Document {
    /// What an absent key stands for.
    pub fn empty() -> Document {
        Document { revision: Repository::new().revision(), rules: "[]".into() }
    }

    pub fn decode(bytes: &[u8]) -> Result<Document, DocumentError> {
        let value: Value = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
        let revision = value.get("revision").and_then(Value::as_u64);
        let rules = value.get("rules").filter(|rules| rules.is_array());
        match (revision, rules) {
            (Some(revision), Some(rules)) => Ok(Document { revision, rules: rules.to_string().into() }),
            _ => Err(DocumentError::Shape),
        }
    }

    fn of(repository: &Repository) -> Result<(Document, Vec<u8>), serde_json::Error> {
        let rules: Vec<&Rule> = repository.rules().iter().map(AsRef::as_ref).collect();
        let rules = serde_json::to_value(rules)?;
        let bytes = serde_json::to_vec(&json!({"revision": repository.revision(), "rules": rules}))?;
        Ok((Document { revision: repository.revision(), rules: rules.to_string().into() }, bytes))
    }

    fn repository(&self) -> Result<Repository, DocumentError> {
        let rules = policy::parse_rules(&self.rules).map_err(DocumentError::Rules)?;
        Ok(Repository::from_rules(rules.into_iter().map(Arc::new), self.revision))
    }
}

/// Why a stored document says nothing.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("it is not JSON")]
    Json(#[source] serde_json::Error),
    #[error("it is not of the form {{\"revision\": N, \"rules\": [...]}}")]
    Shape,
    #[error("its rules are not valid")]
    Rules(#[source] policy::Errors),
}

/// A change of the rules.
#[derive(Clone, Debug)]
pub enum Edit {
    Add(Vec<Rule>),
    /// As `Add`, but the rules that have all labels of a new one go first.
    Replace(Vec<Rule>),
    /// The rules that have all of these labels; at least one label.
    Delete(Vec<Label>),
    DeleteAll,
}

#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error("the policy document under {key} of the kvstore cannot be read; `cilium policy delete --all` begins anew")]
    Document { key: String, source: DocumentError },
    #[error("the rules cannot be written as JSON")]
    Encode(#[from] serde_json::Error),
    #[error("the policy document cannot be changed")]
    Store(#[from] kvstore::Error),
    #[error("others changed the policy at the same time {ATTEMPTS} times in a row: try again")]
    Contended,
}

/// Changes the document.
#[derive(Debug)]
pub struct PolicyStore {
    backend: Arc<dyn Backend>,
}

impl PolicyStore {
    pub fn new(backend: Arc<dyn Backend>) -> PolicyStore {
        PolicyStore { backend }
    }

    /// What the store holds.
    pub async fn current(&self) -> Result<Document, EditError> {
        let key = key();
        match self.backend.get(&key).await? {
            None => Ok(Document::empty()),
            Some(entry) => Document::decode(&entry.value).map_err(|source| EditError::Document { key, source }),
        }
    }

    /// Makes the change, or leaves everything as it was. `in_force` is the newest revision known: a document begun anew
    /// has a higher one.
    pub async fn edit(&self, edit: &Edit, in_force: u64) -> Result<(Change, Document), EditError> {
        let key = key();
        for _ in 0..ATTEMPTS {
            let entry = self.backend.get(&key).await?;
            let expected = entry.as_ref().map_or(0, |entry| entry.revision);
            let mut repository = match stored(entry.as_ref()) {
                Ok(repository) => repository,
                Err(_) if matches!(edit, Edit::DeleteAll) => Repository::from_rules([], in_force),
                Err(source) => return Err(EditError::Document { key, source }),
            };
            let change = apply(&mut repository, edit)?;
            let (document, bytes) = Document::of(&repository)?;
            match self.backend.compare_and_swap(&key, expected, bytes, None).await? {
                Attempt::Done(_) => return Ok((change, document)),
                Attempt::Conflict(_) => {}
            }
        }
        Err(EditError::Contended)
    }
}

fn stored(entry: Option<&Entry>) -> Result<Repository, DocumentError> {
    match entry {
        None => Ok(Repository::new()),
        Some(entry) => Document::decode(&entry.value)?.repository(),
    }
}

fn apply(repository: &mut Repository, edit: &Edit) -> Result<Change, NotFound> {
    match edit {
        Edit::Add(rules) => Ok(repository.add(rules.clone())),
        Edit::Replace(rules) => Ok(repository.replace(rules.clone())),
        Edit::Delete(labels) => repository.delete(labels),
        Edit::DeleteAll => repository.delete(&[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(name: &str) -> Vec<Rule> {
        let text = json!([{"endpointSelector": {}, "ingress": [{}], "labels": [{"key": "name", "value": name}]}]);
        policy::parse_rules(&text.to_string()).unwrap()
    }

    fn store() -> (PolicyStore, Arc<dyn Backend>) {
        let backend = kvstore::memory::open().0;
        (PolicyStore::new(Arc::clone(&backend)), backend)
    }

    #[tokio::test]
    async fn a_change_is_a_revision_and_is_readable_in_the_store() {
        let (store, backend) = store();
        let (change, document) = store.edit(&Edit::Add(rules("a")), 1).await.unwrap();
        assert_eq!((change.revision, change.added, change.removed), (2, 1, 0));
        let entry = backend.get("cilium/state/policies/v1/default").await.unwrap().unwrap();
        assert_eq!(Document::decode(&entry.value).unwrap(), document);
        assert!(document.rules.contains(r#""value":"a""#), "{}", document.rules);
    }

    #[tokio::test]
    async fn concurrent_imports_are_all_kept() {
        let (store, backend) = store();
        let store = Arc::new(store);
        let edits = (0..8).map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(
                async move { store.edit(&Edit::Add(rules(&format!("r{n}"))), 1).await.map(|(c, _)| c.revision) },
            )
        });
        let mut revisions = Vec::new();
        for edit in edits.collect::<Vec<_>>() {
            revisions.push(edit.await.unwrap().unwrap());
        }
        revisions.sort_unstable();
        assert_eq!(revisions, (2..10).collect::<Vec<_>>());
        let document = Document::decode(&backend.get(&key()).await.unwrap().unwrap().value).unwrap();
        assert_eq!(policy::parse_rules(&document.rules).unwrap().len(), 8);
    }

    #[tokio::test]
    async fn deleting_what_is_not_there_changes_nothing() {
        let (store, backend) = store();
        let label = Label::parse("name=x", model::labels::SOURCE_ANY).unwrap();
        assert!(matches!(store.edit(&Edit::Delete(vec![label]), 1).await, Err(EditError::NotFound(_))));
        assert!(backend.get(&key()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_unreadable_document_is_kept_until_it_is_deleted_on_purpose() {
        let (store, backend) = store();
        backend.put(&key(), b"garbage".to_vec(), None).await.unwrap();
        assert!(matches!(store.edit(&Edit::Add(rules("a")), 7).await, Err(EditError::Document { .. })));
        assert_eq!(backend.get(&key()).await.unwrap().unwrap().value, b"garbage");
        let (change, _) = store.edit(&Edit::DeleteAll, 7).await.unwrap();
        assert_eq!(change.revision, 8);
        assert!(store.edit(&Edit::Add(rules("a")), 8).await.is_ok());
    }

    #[test]
    fn a_document_needs_both_members() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"revision": 1}"#,
            r#"{"revision": -1, "rules": []}"#,
            r#"{"revision": 1, "rules": {}}"#,
        ] {
            assert!(Document::decode(text.as_bytes()).is_err(), "{text}");
        }
    }
}

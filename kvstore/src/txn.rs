//! The words of a write: conditions that must hold and operations that then happen, all at one revision or not at all.
//! Every other write of [`Backend`](crate::Backend) is a transaction with one operation.

use std::collections::BTreeSet;

use crate::error::Operation as What;
use crate::{Entry, Error, LeaseId, Revision};

/// Most conditions, and most operations, in one transaction (etcd's default `--max-txn-ops`).
pub const MAX_STEPS: usize = 128;
/// Longest key, bytes.
pub const MAX_KEY: usize = 16 * 1024;
/// Most bytes of keys and values in one transaction: below etcd's default request limit of 1.5 MiB.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Something that must be true of the store for a transaction to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no such key.
    Absent { key: String },
    /// The key was last written at this revision.
    Revision { key: String, revision: Revision },
    /// The key was created at this revision and has existed ever since.
    Created { key: String, revision: Revision },
    /// No key starts with this.
    Empty { prefix: String },
}

impl Condition {
    /// The key or prefix it looks at.
    pub fn subject(&self) -> &str {
        match self {
            Condition::Absent { key } | Condition::Revision { key, .. } | Condition::Created { key, .. } => key,
            Condition::Empty { prefix } => prefix,
        }
    }

    /// Whether it holds, given the entry under its key (or the first one under its prefix).
    pub(crate) fn holds(&self, found: Option<&Entry>) -> bool {
        match self {
            Condition::Absent { .. } | Condition::Empty { .. } => found.is_none(),
            Condition::Revision { revision, .. } => found.is_some_and(|entry| entry.revision == *revision),
            Condition::Created { revision, .. } => found.is_some_and(|entry| entry.created == *revision),
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a value. Without a lease the key stays until it is deleted, also where it was leased before.
    Put { key: String, value: Vec<u8>, lease: Option<LeaseId> },
    /// Deletes a key; nothing happens if there is none.
    Delete { key: String },
    /// Deletes every key that starts with this.
    DeletePrefix { prefix: String },
}

/// Conditions and changes; the changes happen together, only if all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub conditions: Vec<Condition>,
    pub changes: Vec<Change>,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All changes are made and durable. `revision` is theirs (or the store's, if nothing changed).
    Committed { revision: Revision, deleted: u64 },
    /// A condition did not hold and nothing was changed. For each condition, in order, the entry found under its key
    /// (or the first one under its prefix).
    Refused { found: Vec<Option<Entry>> },
}

impl Txn {
    pub fn new() -> Txn {
        Txn::default()
    }

    /// Adds a condition.
    pub fn when(mut self, condition: Condition) -> Txn {
        self.conditions.push(condition);
        self
    }

    /// Adds a write.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>, lease: Option<LeaseId>) -> Txn {
        self.changes.push(Change::Put { key: key.into(), value: value.into(), lease });
        self
    }

    /// Adds the deletion of one key.
    pub fn delete(mut self, key: impl Into<String>) -> Txn {
        self.changes.push(Change::Delete { key: key.into() });
        self
    }

    /// Adds the deletion of all keys with a prefix.
    pub fn delete_prefix(mut self, prefix: impl Into<String>) -> Txn {
        self.changes.push(Change::DeletePrefix { prefix: prefix.into() });
        self
    }

    /// The key that an error message names: the first one changed, or else looked at.
    pub(crate) fn subject(&self) -> &str {
        match self.changes.first() {
            Some(Change::Put { key, .. } | Change::Delete { key }) => key,
            Some(Change::DeletePrefix { prefix }) => prefix,
            None => self.conditions.first().map_or("", |condition| condition.subject()),
        }
    }

    /// Whether doing it twice gives the same store as doing it once, so that it may be repeated when its outcome is
    /// unknown.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Refuses what not every backend can do, so that a change of backend never changes what works.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |key: &str, reason| {
            Err(Error::Invalid { operation: What::Commit, key: key.chars().take(200).collect(), reason })
        };
        if self.conditions.len() > MAX_STEPS || self.changes.len() > MAX_STEPS {
            return refuse(self.subject(), "more than 128 conditions or changes in one transaction");
        }
        let mut bytes = 0;
        for condition in &self.conditions {
            // Twice: a server that refuses is also asked what was there.
            bytes += 2 * condition.subject().len();
            if condition.subject().len() > MAX_KEY {
                return refuse(condition.subject(), "a key is longer than 16 KiB");
            }
        }
        let mut touched = BTreeSet::new();
        for change in &self.changes {
            let (key, size) = match change {
                Change::Put { key, value, .. } => (key, value.len()),
                Change::Delete { key } => (key, 0),
                Change::DeletePrefix { prefix } => (prefix, 0),
            };
            if key.is_empty() && !matches!(change, Change::DeletePrefix { .. }) {
                return refuse(key, "a key is empty");
            }
            if key.len() > MAX_KEY {
                return refuse(key, "a key is longer than 16 KiB");
            }
            if !touched.insert(key.as_str()) {
                return refuse(key, "a key is changed twice in one transaction");
            }
            bytes += key.len() + size;
        }
        for change in &self.changes {
            let Change::DeletePrefix { prefix } = change else { continue };
            let below =
                touched.range::<str, _>((std::ops::Bound::Excluded(prefix.as_str()), std::ops::Bound::Unbounded));
            if below.into_iter().next().is_some_and(|key| key.starts_with(prefix.as_str())) {
                return refuse(prefix, "a key is changed twice in one transaction");
            }
        }
        if bytes > MAX_BYTES {
            return refuse(self.subject(), "more than 1 MiB in one transaction");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(txn: Txn) -> &'static str {
        match txn.check() {
            Err(Error::Invalid { reason, .. }) => reason,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn limits_are_refused() {
        assert_eq!(reason(Txn::new().put("", "v", None)), "a key is empty");
        assert_eq!(reason(Txn::new().put("k".repeat(MAX_KEY + 1), "v", None)), "a key is longer than 16 KiB");
        assert_eq!(reason(Txn::new().put("k", vec![0; MAX_BYTES], None)), "more than 1 MiB in one transaction");
        let many = (0..=MAX_STEPS).fold(Txn::new(), |txn, n| txn.delete(format!("k{n}")));
        assert_eq!(reason(many), "more than 128 conditions or changes in one transaction");
    }

    #[test]
    fn a_key_changes_once() {
        let twice = "a key is changed twice in one transaction";
        assert_eq!(reason(Txn::new().put("a", "1", None).delete("a")), twice);
        assert_eq!(reason(Txn::new().put("a/b", "1", None).delete_prefix("a/")), twice);
        assert_eq!(reason(Txn::new().delete_prefix("a/b").delete_prefix("a/")), twice);
        assert!(Txn::new().put("a", "1", None).delete_prefix("a/").check().is_ok());
    }
}

//! What can go wrong at the store, named by the operation and the key. Option errors live in `config`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::{LeaseId, Revision};

/// The error underneath; shared, so that [`Error`] can be cloned to several waiters.
pub type Cause = Arc<dyn std::error::Error + Send + Sync>;

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Open,
    Get,
    List,
    Commit,
    Watch,
    Grant,
    KeepAlive,
    Revoke,
    Lock,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Open => "open",
            Operation::Get => "get",
            Operation::List => "list",
            Operation::Commit => "commit",
            Operation::Watch => "watch",
            Operation::Grant => "grant lease",
            Operation::KeepAlive => "keep lease alive",
            Operation::Revoke => "revoke lease",
            Operation::Lock => "lock",
        })
    }
}

/// Why a store operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No server answered. Whether a write took effect is unknown.
    #[error("{operation} {key:?}: the store is not available")]
    Unavailable { operation: Operation, key: String, source: Cause },
    /// No answer in time. Whether a write took effect is unknown.
    #[error("{operation} {key:?}: no answer from the store within {after:?}")]
    TimedOut { operation: Operation, key: String, after: Duration },
    /// Wrong credentials, or a user who may not do this.
    #[error("{operation} {key:?}: the store refuses us")]
    Denied { operation: Operation, key: String, source: Cause },
    /// The store's own medium failed (disk full, quota reached, I/O error); what was there before is intact.
    #[error("{operation} {key:?}: the store cannot keep it")]
    Storage { operation: Operation, key: String, source: Cause },
    /// The server answered something that none of the other variants covers.
    #[error("{operation} {key:?}: the server refused")]
    Server { operation: Operation, key: String, source: Cause },
    /// The history asked for is no longer kept: list again and watch from there.
    #[error("watch {prefix:?} from revision {from}: that history is gone, list again")]
    Compacted { prefix: String, from: Revision },
    /// The lease has expired, was revoked, or never was.
    #[error("{operation}: no lease {lease}")]
    LeaseNotFound { operation: Operation, lease: LeaseId },
    /// Somebody else held the lock all the time.
    #[error("lock {name:?}: still held by somebody else after {waited:?}")]
    LockBusy { name: String, waited: Duration },
    /// Another process has the store file open.
    #[error("open {path}: another process is using this store", path = path.display())]
    InUse { path: PathBuf },
    /// The file was written by a version that this one cannot read; it is left alone.
    #[error("open {path}: file format {found} is not one this version reads", path = path.display())]
    Format { path: PathBuf, found: String },
    /// The key, value or transaction breaks a limit that holds for every backend.
    #[error("{operation} {key:?}: {reason}")]
    Invalid { operation: Operation, key: String, reason: &'static str },
    /// Every number of the range is taken.
    #[error("allocate under {base:?}: all numbers from {first} to {last} are taken")]
    Exhausted { base: String, first: u32, last: u32 },
    /// Other nodes changed the same key at every attempt.
    #[error("allocate {key:?} under {base:?}: lost against other nodes {attempts} times")]
    Contended { base: String, key: String, attempts: u32 },
}

/// The service behind the handle has ended (its thread or task is gone).
#[derive(Debug, thiserror::Error)]
#[error("{0} has ended")]
pub(crate) struct Ended(pub(crate) &'static str);

impl Error {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Unavailable { .. }
            | Error::TimedOut { .. }
            | Error::Storage { .. }
            | Error::LockBusy { .. }
            | Error::Contended { .. } => true,
            Error::Denied { .. }
            | Error::Server { .. }
            | Error::Compacted { .. }
            | Error::LeaseNotFound { .. }
            | Error::InUse { .. }
            | Error::Format { .. }
            | Error::Invalid { .. }
            | Error::Exhausted { .. } => false,
        }
    }

    /// Whether the store could not be reached (as opposed to: it answered no).
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::TimedOut { .. })
    }

    /// The message with all its causes on one line, for logs and status texts.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

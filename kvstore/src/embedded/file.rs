//! Opening the store's file: who may, whether it is sound, and what happens to one that is not. A file is only ever
//! renamed, never emptied or deleted.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableError};

use super::{ENTRIES, FORMAT, FORMAT_NOW, LEASED, META, REVISION};
use crate::{Cause, Error, Opened, Operation};

/// Enough for the whole store of a busy node, which is a few MiB.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Why a file did not open.
enum Refusal {
    /// Its content makes no sense.
    Corrupt(String),
    Other(Error),
}

/// Opens the file or makes it, sets aside a corrupt one, and removes what a former process left leased.
pub(super) fn open(path: &Path) -> Result<(Database, Opened), Error> {
    let (database, opened) = match open_sound(path, Check::Pages) {
        Ok(database) => (database, Opened::Ready),
        Err(Refusal::Other(error)) => return Err(error),
        Err(Refusal::Corrupt(reason)) => {
            let moved_to = set_aside(path)?;
            let fresh = open_sound(path, Check::Pages).map_err(|refusal| refusal.error(path))?;
            (fresh, Opened::SetAside { moved_to, reason })
        }
    };
    settle(&database).map_err(|cause| storage(path, Arc::new(cause)))?;
    Ok((database, opened))
}

/// Opens the file again after an I/O error: as it is, or not at all.
pub(super) fn reopen(path: &Path) -> Result<Database, Error> {
    // Checking the pages writes to the file, for which there may be no room.
    open_sound(path, Check::Content).map_err(|refusal| refusal.error(path))
}

impl Refusal {
    fn error(self, path: &Path) -> Error {
        match self {
            Refusal::Other(error) => error,
            Refusal::Corrupt(reason) => storage(path, Arc::new(io::Error::new(io::ErrorKind::InvalidData, reason))),
        }
    }
}

fn storage(path: &Path, source: Cause) -> Error {
    Error::Storage { operation: Operation::Open, key: path.display().to_string(), source }
}

/// What is doubted at an open, beside what a crash leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Every page of the file, by its checksum, and the content.
    Pages,
    /// The content alone.
    Content,
}

fn open_sound(path: &Path, check: Check) -> Result<Database, Refusal> {
    make(path).map_err(|cause| Refusal::Other(storage(path, Arc::new(cause))))?;
    // The check covers what redb knows how to doubt; against hostile bytes it may still panic.
    let attempt = std::panic::catch_unwind(|| {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(check == Check::Pages).create(path)
    });
    let database = match attempt {
        Ok(Ok(database)) => database,
        Ok(Err(error)) => return Err(classify(path, error)),
        Err(_) => return Err(Refusal::Corrupt("its pages contradict each other".to_owned())),
    };
    match std::panic::catch_unwind(AssertUnwindSafe(|| inspect(&database))) {
        Ok(Ok(FORMAT_NOW)) => Ok(database),
        Ok(Ok(other)) => {
            Err(Refusal::Other(Error::Format { path: path.to_owned(), found: format!("store layout {other}") }))
        }
        Ok(Err(redb::Error::Io(cause))) => Err(Refusal::Other(storage(path, Arc::new(cause)))),
        Ok(Err(error)) => Err(Refusal::Corrupt(error.to_string())),
        Err(_) => Err(Refusal::Corrupt("its tables cannot be read".to_owned())),
    }
}

/// Makes an empty file that only its owner may read, and makes its name durable, if there is none.
fn make(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            std::fs::File::open(folder)?.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn classify(path: &Path, error: DatabaseError) -> Refusal {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            Refusal::Other(Error::InUse { path: path.to_owned() })
        }
        DatabaseError::UpgradeRequired(version) => {
            Refusal::Other(Error::Format { path: path.to_owned(), found: format!("redb {version}") })
        }
        DatabaseError::Storage(StorageError::Corrupted(reason)) => Refusal::Corrupt(reason),
        DatabaseError::Storage(StorageError::Io(cause))
            if matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Refusal::Corrupt(cause.to_string())
        }
        other => Refusal::Other(storage(path, Arc::new(other))),
    }
}

/// Reads everything once, so that what is unreadable shows now; returns the layout's version. An empty file gets the
/// present one.
fn inspect(database: &Database) -> Result<u64, redb::Error> {
    let txn = database.begin_read()?;
    let meta = match txn.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => {
            drop(txn);
            return begin(database);
        }
        meta => meta?,
    };
    let Some(format) = meta.get(FORMAT)?.map(|format| format.value()) else {
        return Err(redb::Error::Corrupted("it has no format number".to_owned()));
    };
    if format != FORMAT_NOW {
        return Ok(format);
    }
    let last = meta.get(REVISION)?.map_or(0, |revision| revision.value());
    for item in txn.open_table(ENTRIES)?.iter()? {
        let (key, content) = item?;
        let (revision, created, _) = content.value();
        if revision > last || created > revision {
            return Err(redb::Error::Corrupted(format!("the revisions of {:?} are out of order", key.value())));
        }
    }
    for item in txn.open_table(LEASED)?.iter()? {
        item?;
    }
    Ok(format)
}

fn begin(database: &Database) -> Result<u64, redb::Error> {
    let txn = database.begin_write()?;
    txn.open_table(ENTRIES)?;
    txn.open_table(LEASED)?;
    txn.open_table(META)?.insert(FORMAT, FORMAT_NOW)?;
    txn.commit()?;
    Ok(FORMAT_NOW)
}

/// Leases end with the process that held them.
fn settle(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    let mut removed = 0_u64;
    {
        let (mut entries, mut leased) = (txn.open_table(ENTRIES)?, txn.open_table(LEASED)?);
        while let Some((key, _)) = leased.pop_first()? {
            entries.remove(key.value())?;
            removed += 1;
        }
        if removed > 0 {
            let mut meta = txn.open_table(META)?;
            let last = meta.get(REVISION)?.map_or(0, |revision| revision.value());
            meta.insert(REVISION, last + 1)?;
        }
    }
    if removed == 0 { Ok(txn.abort()?) } else { Ok(txn.commit()?) }
}

/// Renames the file to `<path>.corrupt-<unix time>`, unless somebody else is at it.
fn set_aside(path: &Path) -> Result<PathBuf, Error> {
    let failed = |cause: io::Error| storage(path, Arc::new(cause));
    let file = std::fs::File::open(path).map_err(failed)?;
    // Two starters may find the same corrupt file. The lock, and the look whether the name still means this file, keep
    // the second from setting aside what the first has begun since.
    let in_use = || Error::InUse { path: path.to_owned() };
    file.try_lock().map_err(|_| in_use())?;
    let (held, named) = (file.metadata().map_err(failed)?, std::fs::metadata(path).map_err(failed)?);
    if (held.dev(), held.ino()) != (named.dev(), named.ino()) {
        return Err(in_use());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let name = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".corrupt-{now}"));
        if n > 0 {
            name.push(format!("-{n}"));
        }
        PathBuf::from(name)
    };
    let target = (0..).map(name).find(|candidate| !candidate.exists()).unwrap_or_else(|| name(0));
    std::fs::rename(path, &target).map_err(failed)?;
    Ok(target)
}

//! The store of a node on its own: one redb file, opened by one process. A write is answered once it is on disk; what
//! arrives meanwhile goes into the next commit together, so that many small writes share one flush. Leases live in the
//! process: keys that a former one left leased are removed at open. Opening, and setting a corrupt file aside, is
//! `file`'s.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table, TableDefinition};
use tokio::sync::mpsc;

use crate::error::Ended;
use crate::local::{Draft, Fault, Local, LocalBackend, Request, Scribble, Tables, Work, Writer};
use crate::{Connection, Entry, Error, LeaseId, Listing, Opened, Operation, Revision};

mod file;

/// Key -> (revision, created, value).
const ENTRIES: TableDefinition<&str, (u64, u64, &[u8])> = TableDefinition::new("entries");
/// Key -> lease, for the keys that have one.
const LEASED: TableDefinition<&str, i64> = TableDefinition::new("leased");
/// [`REVISION`] and [`FORMAT`].
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// The store's revision.
const REVISION: &str = "revision";
/// The version of this layout.
const FORMAT: &str = "format";
const FORMAT_NOW: u64 = 1;

/// Requests that may wait for the writer before callers have to wait to queue theirs.
const QUEUE: usize = 1024;
/// Most requests in one commit.
const BATCH: usize = 256;

/// Opens the file, or makes it. A file that is not readable as a store is set aside under another name, which the
/// outcome tells, and an empty store begun. Must be called within a tokio runtime.
///
/// # Errors
/// [`Error::InUse`] if another process has it open, [`Error::Format`] if a later version wrote it, [`Error::Storage`] if
/// it cannot be read or made.
pub async fn open(path: &Path) -> Result<Connection, Error> {
    let owned = path.to_owned();
    let failed = |source| Error::Storage { operation: Operation::Open, key: path.display().to_string(), source };
    let opening = tokio::task::spawn_blocking(move || file::open(&owned));
    let (database, opened) = opening.await.map_err(|cause| failed(Arc::new(cause)))??;
    let file = File { path: path.to_owned(), database: RwLock::new(Some(database)), trouble: Mutex::new(None) };
    let revision = file.revision().map_err(|fault| match fault {
        Fault::Away(source) | Fault::Medium(source) => failed(source),
    })?;
    let local = Arc::new(Local::new(file, revision));
    let (requests, queue) = mpsc::channel(QUEUE);
    let works = local.clone();
    let thread = std::thread::Builder::new().name("kvstore-writer".to_owned()).spawn(move || write_all(&works, queue));
    let thread = thread.map_err(|cause| failed(Arc::new(cause)))?;
    let writer = Writer::Thread { requests: Some(requests), thread: Some(thread) };
    if let Opened::SetAside { moved_to, reason } = &opened {
        tracing::warn!(path = %path.display(), moved_to = %moved_to.display(), reason, "store file was corrupt, began an empty one");
    }
    Ok(Connection { backend: Arc::new(LocalBackend::new(local, writer)), opened })
}

/// The writer thread: everything that is queued goes into one commit.
fn write_all(local: &Local<File>, mut queue: mpsc::Receiver<Request>) {
    let mut waiting = Vec::new();
    while queue.blocking_recv_many(&mut waiting, BATCH) > 0 {
        let (works, answers): (Vec<Work>, Vec<_>) = waiting.drain(..).map(|r| (r.work, r.answer)).unzip();
        for (answer, result) in answers.into_iter().zip(local.apply(&works)) {
            // A caller that gave up does not want to know.
            let _ = answer.send(result);
        }
    }
}

struct File {
    path: PathBuf,
    // None after an I/O error, until the file could be opened again: redb refuses all work after one.
    database: RwLock<Option<Database>>,
    trouble: Mutex<Option<String>>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

impl File {
    fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, reader: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, Fault> {
        match &*self.database() {
            Some(database) => reader(database).map_err(Fault::medium),
            None => Err(Fault::medium(Ended("the store file"))),
        }
    }

    fn try_write(&self, scribble: Scribble<'_>) -> Result<(), Fault> {
        let guard = self.database();
        let database = guard.as_ref().ok_or_else(|| Fault::medium(Ended("the store file")))?;
        let txn = database.begin_write().map_err(Fault::medium)?;
        let mut draft = Page {
            entries: txn.open_table(ENTRIES).map_err(Fault::medium)?,
            leased: txn.open_table(LEASED).map_err(Fault::medium)?,
            meta: txn.open_table(META).map_err(Fault::medium)?,
            revision: 0,
        };
        draft.revision = draft.meta.get(REVISION).map_err(Fault::medium)?.map_or(0, |revision| revision.value());
        let before = draft.revision;
        scribble(&mut draft)?;
        let changed = draft.revision != before;
        drop(draft);
        // The default durability is Immediate: on disk when this returns.
        if changed { txn.commit().map_err(Fault::medium) } else { txn.abort().map_err(Fault::medium) }
    }

    /// After an I/O error redb wants the file to be opened anew; what was committed is still there.
    fn reopen(&self) {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *database = None;
        match file::reopen(&self.path) {
            Ok(opened) => *database = Some(opened),
            Err(error) => tracing::error!(error = error.chain(), "the store file stays closed for now"),
        }
    }

    fn note(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

impl Tables for File {
    fn get(&self, key: &str) -> Result<Option<Entry>, Fault> {
        self.read(|database| {
            let txn = database.begin_read()?;
            let (entries, leased) = (txn.open_table(ENTRIES)?, txn.open_table(LEASED)?);
            let Some(found) = entries.get(key)? else { return Ok(None) };
            Ok(Some(entry(key, found.value(), leased.get(key)?.map(|lease| lease.value()))))
        })
    }

    fn list(&self, prefix: &str) -> Result<Listing, Fault> {
        self.read(|database| {
            let txn = database.begin_read()?;
            let (entries, leased) = (txn.open_table(ENTRIES)?, txn.open_table(LEASED)?);
            let revision = txn.open_table(META)?.get(REVISION)?.map_or(0, |revision| revision.value());
            Ok(Listing { entries: below(&entries, &leased, prefix, usize::MAX)?, revision })
        })
    }

    fn write(&self, scribble: Scribble<'_>) -> Result<(), Fault> {
        if self.database().is_none() {
            self.reopen();
        }
        // redb may panic on a page that rotted since open; that must cost this batch, not the writer.
        let attempt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.try_write(scribble)));
        let result = attempt.unwrap_or_else(|_| Err(Fault::medium(Ended("the commit"))));
        match &result {
            Ok(()) => self.note(None),
            Err(Fault::Medium(cause) | Fault::Away(cause)) => {
                self.note(Some(cause.to_string()));
                self.reopen();
            }
        }
        result
    }

    fn revision(&self) -> Result<Revision, Fault> {
        self.read(|database| {
            let meta = database.begin_read()?.open_table(META)?;
            Ok(meta.get(REVISION)?.map_or(0, |revision| revision.value()))
        })
    }

    fn describe(&self) -> (String, bool) {
        let place = self.path.display();
        let size = std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        let keys = self.read(|database| Ok(database.begin_read()?.open_table(ENTRIES)?.len()?));
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (keys, trouble) {
            (Ok(keys), None) => (format!("embedded: {place}, {keys} keys, {} KiB", size / 1024), true),
            (_, Some(trouble)) => (format!("embedded: {place}: last write failed: {trouble}"), false),
            (Err(_), None) => (format!("embedded: {place}: not readable"), false),
        }
    }
}

fn entry(key: &str, (revision, created, value): (u64, u64, &[u8]), lease: Option<i64>) -> Entry {
    Entry { key: key.to_owned(), value: value.to_owned(), revision, created, lease: lease.map(LeaseId) }
}

fn below(
    entries: &impl ReadableTable<&'static str, (u64, u64, &'static [u8])>,
    leased: &impl ReadableTable<&'static str, i64>,
    prefix: &str,
    limit: usize,
) -> Result<Vec<Entry>, redb::Error> {
    let mut found = Vec::new();
    for item in entries.range(prefix..)? {
        let (key, content) = item?;
        if found.len() == limit || !key.value().starts_with(prefix) {
            break;
        }
        let lease = leased.get(key.value())?.map(|lease| lease.value());
        found.push(entry(key.value(), content.value(), lease));
    }
    Ok(found)
}

/// The tables within one write transaction.
struct Page<'txn> {
    entries: Table<'txn, &'static str, (u64, u64, &'static [u8])>,
    leased: Table<'txn, &'static str, i64>,
    meta: Table<'txn, &'static str, u64>,
    revision: Revision,
}

impl Draft for Page<'_> {
    fn get(&self, key: &str) -> Result<Option<Entry>, Fault> {
        let Some(found) = self.entries.get(key).map_err(Fault::medium)? else { return Ok(None) };
        let lease = self.leased.get(key).map_err(Fault::medium)?.map(|lease| lease.value());
        Ok(Some(entry(key, found.value(), lease)))
    }

    fn below(&self, prefix: &str, limit: usize) -> Result<Vec<Entry>, Fault> {
        below(&self.entries, &self.leased, prefix, limit).map_err(Fault::medium)
    }

    fn leased(&self, lease: LeaseId) -> Result<Vec<String>, Fault> {
        let mut keys = Vec::new();
        for item in self.leased.iter().map_err(Fault::medium)? {
            let (key, holder) = item.map_err(Fault::medium)?;
            if holder.value() == lease.0 {
                keys.push(key.value().to_owned());
            }
        }
        Ok(keys)
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn put(&mut self, entry: &Entry) -> Result<(), Fault> {
        let content = (entry.revision, entry.created, entry.value.as_slice());
        self.entries.insert(entry.key.as_str(), content).map_err(Fault::medium)?;
        match entry.lease {
            Some(lease) => self.leased.insert(entry.key.as_str(), lease.0),
            None => self.leased.remove(entry.key.as_str()),
        }
        .map_err(Fault::medium)?;
        Ok(())
    }

    fn remove(&mut self, key: &str) -> Result<(), Fault> {
        self.entries.remove(key).map_err(Fault::medium)?;
        self.leased.remove(key).map_err(Fault::medium)?;
        Ok(())
    }

    fn set_revision(&mut self, revision: Revision) -> Result<(), Fault> {
        self.meta.insert(REVISION, revision).map_err(Fault::medium)?;
        self.revision = revision;
        Ok(())
    }
}

//! One agent for each state folder: an advisory lock on a file in it, held as long as the process lives.
//!
//! The kernel releases it when the process ends, however it ends; the file itself stays and means nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("make the folder {path}")]
    MakeFolder { path: PathBuf, source: std::io::Error },
    #[error("open the lock {path}")]
    Open { path: PathBuf, source: std::io::Error },
    #[error("another cilium-agent{} uses the folder {folder}: two agents cannot share it", holder.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Held { folder: PathBuf, holder: Option<u32> },
    #[error("lock {path}")]
    Lock { path: PathBuf, source: std::io::Error },
}

/// The held lock. Dropping it releases.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Where the lock of a folder is.
    pub fn file(folder: &Path) -> PathBuf {
        folder.join("agent.lock")
    }

    /// Makes the folder if need be and takes its lock, or says who holds it.
    pub fn take(folder: &Path) -> Result<FolderLock, LockError> {
        std::fs::create_dir_all(folder).map_err(|source| LockError::MakeFolder { path: folder.to_owned(), source })?;
        let path = FolderLock::file(folder);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| LockError::Open { path: path.clone(), source })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(LockError::Held { folder: folder.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(LockError::Lock { path, source }),
        }
        // The number is for people alone; the lock does not depend on it, so a full disk is no reason to stop.
        let noted =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::warn!(path = %path.display(), %error, "the process number could not be noted in the lock file");
        }
        Ok(FolderLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let first = FolderLock::take(dir.path()).unwrap();
        match FolderLock::take(dir.path()) {
            Err(LockError::Held { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(first);
        assert!(FolderLock::take(dir.path()).is_ok());
    }

    #[test]
    fn the_folder_is_made() {
        let dir = tempfile::tempdir().unwrap();
        assert!(FolderLock::take(&dir.path().join("a/b")).is_ok());
    }
}

//! Runs a closure inside a network namespace, on a thread of its own.
//!
//! A network namespace belongs to a thread, and threads of a pool are shared: entering one on a borrowed thread would
//! leak it into whatever runs there next. So each entry costs a short-lived thread. Who lives in a namespace and what
//! is done there is the caller's.

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Why a closure could not run in a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("open network namespace {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("make a network namespace")]
    Create { source: io::Error },
    #[error("enter a network namespace")]
    Enter { source: io::Error },
}

/// An open network namespace; it lives at least as long as this value.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// The namespace that a path names, such as `/run/docker/netns/…` or `/proc/<pid>/ns/net`.
    pub fn open(path: &Path) -> Result<Namespace, NetnsError> {
        let file = File::open(path).map_err(|source| NetnsError::Open { path: path.to_owned(), source })?;
        Ok(Namespace { file })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Namespace, NetnsError> {
        Namespace::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// A new namespace that nothing but this value holds. Needs CAP_SYS_ADMIN.
    pub fn create() -> Result<Namespace, NetnsError> {
        on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Create { source: errno.into() })?;
            Namespace::current()
        })
    }

    /// Runs `work` inside the namespace and returns what it returned; a panic of `work` goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        on_own_thread(|| {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(|errno| NetnsError::Enter { source: errno.into() })?;
            Ok(work())
        })
    }

    /// The open file, for `setns` and `IFLA_NET_NS_FD`.
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, NetnsError> + Send) -> Result<T, NetnsError> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_namespace_is_named() {
        let error = Namespace::open(Path::new("/nonexistent/netns")).unwrap_err();
        assert_eq!(error.to_string(), "open network namespace /nonexistent/netns");
    }

    #[test]
    #[ignore = "needs root: make test"]
    fn a_new_namespace_has_only_its_loopback() {
        let links = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().skip(2).count();
        let before = links();
        assert_eq!(Namespace::create().unwrap().run(links).unwrap(), 1, "lo alone");
        assert_eq!(links(), before, "the caller's thread stays where it was");
    }
}

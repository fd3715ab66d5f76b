//! The API's Unix socket: made with the right owner and mode, and who may talk through it.
//!
//! Root may, and the members of the group `cilium` where there is one. The group is read from `/etc/group` itself: a
//! statically linked program has no name service.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// The group whose members may use the API.
const GROUP: &str = "cilium";

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("make the folder {path}")]
    MakeFolder { path: PathBuf, source: std::io::Error },
    #[error("another program listens on {path}")]
    InUse { path: PathBuf },
    #[error("{path} is in the way and no socket")]
    NoSocket { path: PathBuf },
    #[error("remove the socket {path} of an earlier run")]
    RemoveStale { path: PathBuf, source: std::io::Error },
    #[error("listen on {path}")]
    Bind { path: PathBuf, source: std::io::Error },
    #[error("give {path} its owner and mode")]
    Protect { path: PathBuf, source: std::io::Error },
}

/// Listens on `path`. What an earlier run left there is removed only if nobody answers on it.
pub fn bind(path: &Path, group: Option<u32>) -> Result<UnixListener, SocketError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|source| SocketError::MakeFolder { path: folder.to_owned(), source })?;
    }
    remove_stale(path)?;
    // Bound under the strictest mask: there is no moment in which another user could connect.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let listener = bound.map_err(|source| SocketError::Bind { path: path.to_owned(), source })?;
    if let Some(group) = group {
        chown(path, None, Some(group))
            .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)))
            .map_err(|source| SocketError::Protect { path: path.to_owned(), source })?;
    }
    Ok(listener)
}

/// Takes the socket away at the end, so that clients are told at once that nobody is there.
pub fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "the API's socket could not be removed");
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NoSocket { path: path.to_owned() });
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(SocketError::InUse { path: path.to_owned() });
    }
    std::fs::remove_file(path).map_err(|source| SocketError::RemoveStale { path: path.to_owned(), source })
}

/// Who may use the API besides root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    group: Option<u32>,
}

impl Admission {
    /// Looks the group up, once: `None` if the machine has no such group.
    pub fn of_this_machine() -> Admission {
        let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
        Admission { group: group_number(&text, GROUP) }
    }

    pub fn group(&self) -> Option<u32> {
        self.group
    }

    /// Whether the peer may: root, our own user, or, when there is the group, whoever the socket's mode let connect
    /// (supplementary groups do not show in the peer's credentials, so the mode is what checks them).
    pub fn admits(&self, peer_user: u32, own_user: u32) -> bool {
        peer_user == 0 || peer_user == own_user || self.group.is_some()
    }
}

/// The number of a group in the text of an `/etc/group`.
fn group_number(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_by_its_whole_name() {
        let text = "root:x:0:\ncilium-x:x:5:\ncilium:x:998:bob,alice\nbroken\n";
        assert_eq!(group_number(text, "cilium"), Some(998));
        assert_eq!(group_number("ciliums:x:1:\ncilium:x:abc:\n", "cilium"), None);
    }

    #[test]
    fn without_the_group_only_root_and_ourselves_are_admitted() {
        let admission = Admission { group: None };
        assert!(admission.admits(0, 1000) && admission.admits(1000, 1000));
        assert!(!admission.admits(1001, 1000));
        assert!(Admission { group: Some(5) }.admits(1001, 0));
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x/api.sock");
        drop(bind(&path, None).unwrap());
        let live = bind(&path, None).unwrap();
        assert!(matches!(bind(&path, None), Err(SocketError::InUse { .. })));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(live);
    }

    #[tokio::test]
    async fn other_files_are_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, None), Err(SocketError::NoSocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}

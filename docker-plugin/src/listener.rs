//! The socket in Docker's plugin folder: made without a moment in which it is missing or open to others, and removed
//! only when it is ours.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("make the plugin folder {folder}")]
    Folder { folder: PathBuf, source: io::Error },
    #[error("{socket} is served by another process: is a second agent running?")]
    Served { socket: PathBuf },
    #[error("{socket} exists and is no socket: it is left alone")]
    Foreign { socket: PathBuf },
    #[error("ask who serves {socket}")]
    Probe { socket: PathBuf, source: io::Error },
    #[error("make the socket {socket}")]
    Bind { socket: PathBuf, source: io::Error },
}

/// The plugin's socket, listening: Docker's calls queue up from now on.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that we made.
    file: (u64, u64),
}

impl Listener {
    /// Makes `<folder>/cilium.sock`, mode 0600, in place of a stale one. The file appears complete: it is made under
    /// another name and renamed.
    ///
    /// Fails when somebody answers on the present one. Must run within a Tokio runtime.
    pub fn bind(folder: impl AsRef<Path>) -> Result<Listener, BindError> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|source| BindError::Folder { folder: folder.to_owned(), source })?;
        let path = folder.join(format!("{}.sock", crate::DRIVER));
        refuse_living(&path)?;
        let new = folder.join(format!(".{}.{}", crate::DRIVER, std::process::id()));
        let made = make(&new, &path);
        if made.is_err() {
            remove_quietly(&new);
        }
        let (socket, file) = made.map_err(|source| BindError::Bind { socket: path.clone(), source })?;
        Ok(Listener { socket, path, file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection of a process of root. Others are closed unheard.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.socket.accept().await?;
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == 0 => return Ok(stream),
                Ok(peer) => tracing::warn!(uid = peer.uid(), "plugin socket: caller is not root, closed"),
                Err(error) => tracing::warn!(%error, "plugin socket: caller unknown, closed"),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another agent may have put its own socket here meanwhile.
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            remove_quietly(&self.path);
        }
    }
}

fn refuse_living(path: &Path) -> Result<(), BindError> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(BindError::Probe { socket: path.to_owned(), source }),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::Foreign { socket: path.to_owned() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(BindError::Served { socket: path.to_owned() }),
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        Err(source) => Err(BindError::Probe { socket: path.to_owned(), source }),
    }
}

fn make(new: &Path, path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    remove_quietly(new);
    let socket = UnixListener::bind(new)?;
    std::fs::set_permissions(new, Permissions::from_mode(0o600))?;
    let file = identity(new)?;
    std::fs::rename(new, path)?;
    Ok((socket, file))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn remove_quietly(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "plugin socket cannot be removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_roots_alone_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let listener = Listener::bind(folder.path().join("plugins")).unwrap();
        let path = listener.path().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(folder.path().join("plugins")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(folder.path().join("cilium.sock")).unwrap());
        assert!(folder.path().join("cilium.sock").exists());
        let listener = Listener::bind(folder.path()).unwrap();
        UnixStream::connect(listener.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_served_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let first = Listener::bind(folder.path()).unwrap();
        assert!(matches!(Listener::bind(folder.path()), Err(BindError::Served { .. })));
        UnixStream::connect(first.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cilium.sock"), "mine").unwrap();
        assert!(matches!(Listener::bind(folder.path()), Err(BindError::Foreign { .. })));
        assert_eq!(std::fs::read_to_string(folder.path().join("cilium.sock")).unwrap(), "mine");
    }

    #[tokio::test]
    async fn a_successors_socket_outlives_us() {
        let folder = tempfile::tempdir().unwrap();
        let first = Listener::bind(folder.path()).unwrap();
        std::fs::remove_file(first.path()).unwrap();
        let second = Listener::bind(folder.path()).unwrap();
        drop(first);
        assert!(second.path().exists());
    }
}

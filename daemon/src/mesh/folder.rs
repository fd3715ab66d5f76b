//! The folder with a file for each other cluster: what is in it that is meant for us.

use model::ClusterName;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Largest file that is read.
const MAX_FILE: u64 = 64 << 10;
/// Most files that are looked into.
const MAX_FILES: usize = 1024;
/// What a configuration has and a certificate beside it has not.
const MARK: &str = "endpoints:";

/// The text of a file, or why it cannot be used.
pub(super) type File = Result<String, String>;

/// The files by their names, which should be those of clusters. Hidden ones, that of this cluster itself, folders, and
/// what is no configuration and has no cluster's name are left out. A folder that is not there is an empty one.
pub(super) fn read(folder: &Path, own: ClusterName) -> Result<BTreeMap<String, File>, String> {
    let failed = |error: std::io::Error| format!("read the folder {}: {error}", folder.display());
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other.map_err(failed)?,
    };
    let mut files = BTreeMap::new();
    for entry in entries.take(MAX_FILES) {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name == own.as_str() {
            continue;
        }
        let is_clusters = ClusterName::new(&name).is_ok();
        match text(&entry.path()) {
            Ok(None) => {}
            Ok(Some(text)) if text.contains(MARK) => drop(files.insert(name, Ok(text))),
            // It may be half written.
            Ok(Some(_)) if is_clusters => {
                files.insert(name, Err(format!("it is no etcd configuration: it has no line {MARK:?}")));
            }
            Err(error) if is_clusters => drop(files.insert(name, Err(format!("it cannot be read: {error}")))),
            Ok(Some(_)) | Err(_) => {}
        }
    }
    Ok(files)
}

/// `None`: it is no file.
fn text(path: &Path) -> std::io::Result<Option<String>> {
    // A pipe would be waited for.
    if !std::fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_told_from_what_lies_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let own = ClusterName::new("a").unwrap();
        assert_eq!(read(&folder.path().join("absent"), own), Ok(BTreeMap::new()));
        let write = |name: &str, text: &[u8]| std::fs::write(folder.path().join(name), text).unwrap();
        write("a", b"endpoints: [own:1]");
        write("b", b"endpoints: [b:1]");
        write("c", b"");
        write("d", b"\xff");
        write("e", "#".repeat(MAX_FILE as usize + 1).as_bytes());
        write(".b.swp", b"endpoints: [x:1]");
        write("Not.A.Name", b"endpoints: [x:1]");
        write("ca.crt", b"-----BEGIN CERTIFICATE-----");
        std::fs::create_dir(folder.path().join("f")).unwrap();
        nix::unistd::mkfifo(&folder.path().join("g"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("h")).unwrap();
        let files = read(folder.path(), own).unwrap();
        let text = |name: &str| files.get(name).cloned();
        assert_eq!(text("b"), Some(Ok("endpoints: [b:1]".to_owned())));
        for faulty in ["c", "d", "e", "h"] {
            assert!(text(faulty).is_some_and(|file| file.is_err()), "{faulty}");
        }
        assert_eq!(files.keys().collect::<Vec<_>>(), ["Not.A.Name", "b", "c", "d", "e", "h"]);
    }
}

//! What only the file can suffer: crashes, corruption, a second opener, a full disk.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kvstore::{Backend, Connection, Error, Opened, embedded};
use redb::ReadableDatabase;

use crate::world::until;

const CRASH_PATH: &str = "KVSTORE_TEST_CRASH_PATH";

async fn open(path: &Path) -> Connection {
    embedded::open(path).await.expect("open")
}

async fn open_ready(path: &Path) -> Arc<dyn Backend> {
    let connection = open(path).await;
    assert_eq!(connection.opened, Opened::Ready);
    connection.backend
}

async fn put(backend: &Arc<dyn Backend>, key: &str, value: &str) -> u64 {
    backend.put(key, value.into(), None).await.expect("put")
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("store");
    let store = open_ready(&path).await;
    put(&store, "plain", "1").await;
    let lease = store.grant(Duration::from_secs(600)).await.expect("grant").id;
    store.put("leased", b"1".to_vec(), Some(lease)).await.expect("put");
    let last = store.list("").await.expect("list").revision;
    drop(store);
    let store = open_ready(&path).await;
    let listing = store.list("").await.expect("list");
    let keys: Vec<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["plain"], "leases end with the process");
    assert!(listing.revision > last, "and that is a change");
    assert!(matches!(store.watch("", last).await.err(), Some(Error::Compacted { .. })));
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseNotFound { .. })));
    let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(store);
    let names: Vec<_> =
        std::fs::read_dir(folder.path()).expect("read").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(names, ["store"], "one file");
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("store");
    let store = open_ready(&path).await;
    put(&store, "k", "v").await;
    let second = embedded::open(&path).await;
    assert!(matches!(&second, Err(Error::InUse { path: named }) if *named == path), "{second:?}");
    let status = child(&path).stderr(Stdio::null()).stdout(Stdio::null()).status().expect("run");
    assert!(!status.success(), "nor may another process");
    put(&store, "k", "still works").await;
    drop(store);
    assert_eq!(open_ready(&path).await.get("k").await.expect("get").expect("there").value, b"still works");
}

fn corrupt_names(folder: &Path) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).expect("read").map(|entry| entry.expect("entry").path());
    paths.filter(|path| path.to_string_lossy().contains("store.corrupt-")).collect()
}

#[tokio::test]
async fn a_corrupt_file_is_set_aside_whole() {
    let hopeless: [fn(&mut Vec<u8>); 4] = [
        |bytes| *bytes = b"not a store at all".to_vec(),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.fill(0),
        |bytes| bytes[..64].fill(0xff),
    ];
    for (n, damage) in hopeless.iter().enumerate() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("store");
        put(&open_ready(&path).await, "k", "v").await;
        let mut bytes = std::fs::read(&path).expect("read");
        damage(&mut bytes);
        std::fs::write(&path, &bytes).expect("write");
        let Connection { backend, opened: Opened::SetAside { moved_to, reason } } = open(&path).await else {
            panic!("damage {n} was not noticed")
        };
        assert_eq!(corrupt_names(folder.path()), std::slice::from_ref(&moved_to));
        assert_eq!(std::fs::read(&moved_to).expect("read"), bytes, "damage {n}: kept to the byte ({reason})");
        assert_eq!(backend.list("").await.expect("list").entries, []);
        put(&backend, "new", "v").await;
        drop(backend);
        open_ready(&path).await;
    }
}

/// Rot anywhere in the file is either noticed, or was in no page that counts.
#[tokio::test]
async fn a_rotten_byte_is_never_read_as_data() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("store");
    let store = open_ready(&path).await;
    for n in 0..200 {
        put(&store, &format!("k/{n}"), &format!("value {n}")).await;
    }
    let expected = store.list("").await.expect("list");
    drop(store);
    let sound = std::fs::read(&path).expect("read");
    let mut set_aside = 0;
    for n in 0..100 {
        let at = rand::random_range(0..sound.len());
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << rand::random_range(0..8);
        std::fs::write(&path, &bytes).expect("write");
        match embedded::open(&path).await {
            Ok(Connection { backend, opened: Opened::Ready }) => {
                assert_eq!(backend.list("").await.expect("list"), expected, "byte {at} of round {n}");
            }
            Ok(Connection { opened: Opened::SetAside { moved_to, .. }, .. }) => {
                set_aside += 1;
                std::fs::remove_file(moved_to).expect("remove");
            }
            // The version byte: a file of another version is left alone.
            Err(Error::Format { .. }) => {}
            Err(error) => panic!("byte {at} of round {n}: {}", error.chain()),
        }
    }
    assert!(set_aside > 0, "the test must hit a page that counts now and then");
}

#[tokio::test]
async fn an_unreadable_place_is_an_error() {
    let folder = tempfile::tempdir().expect("folder");
    let missing = embedded::open(&folder.path().join("no/such/folder/store")).await;
    assert!(matches!(&missing, Err(Error::Storage { key, .. }) if key.contains("no/such/folder")), "{missing:?}");
    let directory = embedded::open(folder.path()).await;
    assert!(matches!(directory, Err(Error::Storage { .. })), "{directory:?}");
}

fn child(path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["embedded::crash_child", "--exact", "--ignored", "--nocapture"]).env(CRASH_PATH, path);
    command
}

/// Not a test of its own: the process that [`acknowledged_writes_survive_a_kill`] kills.
#[test]
#[ignore = "runs as a child of acknowledged_writes_survive_a_kill"]
fn crash_child() {
    let Some(path) = std::env::var_os(CRASH_PATH) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let store = open_ready(Path::new(&path)).await;
        let round = store.list("").await.expect("list").revision;
        let lease = store.grant(Duration::from_secs(600)).await.expect("grant").id;
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let store = store.clone();
            writers.spawn(async move {
                for n in 0_u64.. {
                    let key = format!("w/{round}/{writer}/{n}");
                    put(&store, &key, &key).await;
                    // One write, so that a line is never cut in two by another writer's.
                    std::io::stdout().write_all(format!("acknowledged {key}\n").as_bytes()).expect("stdout");
                    store.put(&format!("leased/{writer}"), b"x".to_vec(), Some(lease)).await.expect("put");
                }
            });
        }
        writers.join_all().await;
    });
}

#[tokio::test]
async fn acknowledged_writes_survive_a_kill() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("store");
    let mut acknowledged: Vec<String> = Vec::new();
    for round in 0..6 {
        let mut child = child(&path).stdout(Stdio::piped()).spawn().expect("run the child");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut left = rand::random_range(20..200);
        let mut killed = false;
        // What is still in the pipe after the kill was acknowledged, too.
        for line in lines.map_while(Result::ok) {
            let Some(key) = line.strip_prefix("acknowledged ") else { continue };
            acknowledged.push(key.to_owned());
            left -= 1;
            if left == 0 {
                child.kill().expect("kill");
                killed = true;
            }
        }
        child.wait().expect("the child ends");
        assert!(killed, "round {round}: the child ended by itself");
        let store = open_ready(&path).await;
        for key in &acknowledged {
            let entry = store.get(key).await.expect("get").unwrap_or_else(|| panic!("round {round}: {key} is lost"));
            assert_eq!(entry.value, key.as_bytes());
        }
        assert_eq!(store.list("leased/").await.expect("list").entries, []);
    }
}

struct Mount(PathBuf);

impl Mount {
    fn tiny(path: PathBuf, size: &str) -> Mount {
        std::fs::create_dir(&path).expect("mount point");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(&path).status().expect("mount");
        assert!(status.success(), "mount a tmpfs");
        Mount(path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking(), "umount");
    }
}

#[tokio::test]
#[ignore = "needs root: make test"]
async fn a_full_disk_loses_nothing_and_heals() {
    let folder = tempfile::tempdir().expect("folder");
    let mount = Mount::tiny(folder.path().join("disk"), "size=6m");
    let path = mount.0.join("store");
    let store = open_ready(&path).await;
    put(&store, "old", "kept").await;
    let lease = store.grant(Duration::from_secs(600)).await.expect("grant").id;
    // To the last byte.
    let ballast = mount.0.join("ballast");
    let mut file = std::fs::File::create(&ballast).expect("ballast");
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let mut written = Vec::new();
    let error = loop {
        let key = format!("fill/{}", written.len());
        match store.put(&key, vec![rand::random(); 200_000], Some(lease)).await {
            Ok(_) => written.push(key),
            Err(error) => break error,
        }
        assert!(written.len() < 100, "the disk is never full");
    };
    assert!(matches!(error, Error::Storage { .. }) && error.is_retryable(), "{error:?}");
    assert!(error.chain().contains("No space left"), "{}", error.chain());
    let status = store.status().await;
    assert!(!status.healthy && status.text.contains("last write failed"), "{status:?}");
    assert_eq!(store.get("old").await.expect("readable").expect("there").value, b"kept");
    for key in &written {
        assert!(store.get(key).await.expect("readable").is_some(), "{key}");
    }
    std::fs::remove_file(&ballast).expect("make room");
    until("writes work again", async || store.put("new", b"v".to_vec(), None).await.is_ok()).await;
    assert!(store.status().await.healthy);
    drop(store);
    let store = open_ready(&path).await;
    let keys: Vec<String> = store.list("").await.expect("list").entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["new", "old"]);
}

#[tokio::test]
async fn a_file_of_a_later_version_is_left_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("store");
    drop(open_ready(&path).await);
    {
        let database = redb::Database::open(&path).expect("open");
        let txn = database.begin_write().expect("write");
        let meta = redb::TableDefinition::<&str, u64>::new("meta");
        txn.open_table(meta).expect("table").insert("format", 2).expect("insert");
        txn.commit().expect("commit");
    }
    let refused = embedded::open(&path).await;
    assert!(matches!(&refused, Err(Error::Format { found, .. }) if found == "store layout 2"), "{refused:?}");
    assert!(corrupt_names(folder.path()).is_empty());
    let database = redb::Database::open(&path).expect("still whole");
    assert_eq!(database.begin_read().expect("read").list_tables().expect("tables").count(), 3);
}

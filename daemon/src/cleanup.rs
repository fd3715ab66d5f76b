//! `cilium-agent cleanup`: takes away what agents of this machine made, and nothing else.
//!
//! It refuses while an agent runs: that one would make everything again.

use crate::config::Config;
use crate::config::source::CleanupScope;
use crate::lock::FolderLock;
use anyhow::Context;
use datapath::cleanup::What;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

pub async fn run(config: Config, scope: CleanupScope) -> anyhow::Result<()> {
    let lib_existed = config.lib_dir.exists();
    let locks = if lib_existed { vec![FolderLock::take(&config.lib_dir)?] } else { Vec::new() };
    if std::os::unix::net::UnixStream::connect(&config.socket_path).is_ok() {
        anyhow::bail!("an agent answers at {}: stop it first", config.socket_path.display());
    }
    if !scope.force && !confirmed(&config, scope)? {
        anyhow::bail!("nothing was done");
    }
    let bpffs = config.bpf_root.clone();
    let report = tokio::task::spawn_blocking(move || datapath::cleanup::cleanup(&bpffs, What::ALL))
        .await
        .context("remove the kernel's objects")?;
    for removed in &report.removed {
        say(&format!("removed {removed}"));
    }
    let mut failed = report.failed;
    if scope.all_state {
        remove_state(&config, &mut failed);
    }
    drop(locks);
    if scope.all_state {
        for folder in [&config.lib_dir, &config.state_dir] {
            remove_lock_and_folder(folder, &mut failed);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        anyhow::bail!("not everything could be removed:\n  {}", failed.join("\n  "))
    }
}

fn say(line: &str) {
    // Nobody reading is no reason to stop cleaning.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn confirmed(config: &Config, scope: CleanupScope) -> anyhow::Result<bool> {
    let state = if scope.all_state {
        format!(", and forgets the endpoints, addresses and policy in {}", config.lib_dir.display())
    } else {
        String::new()
    };
    say(&format!("This takes down the network of every container on networks of the driver cilium{state}."));
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("there is no terminal to ask on: give --force");
    }
    write!(std::io::stdout(), "Go on? [y/N] ").and_then(|()| std::io::stdout().flush()).context("ask")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The stores (with copies that were set aside) and the sockets.
fn remove_state(config: &Config, failed: &mut Vec<String>) {
    for path in [&config.kvstore.local, &config.kvstore.memory].into_iter().flat_map(|store| stores(store)) {
        remove(&path, failed);
    }
    remove(&config.socket_path, failed);
    remove(&config.docker_plugins.join(format!("{}.sock", docker_plugin::DRIVER)), failed);
}

/// The store's file and those beside it that begin with its name and a dot.
fn stores(store: &Path) -> Vec<PathBuf> {
    let mut paths = vec![store.to_owned()];
    let (Some(folder), Some(name)) = (store.parent(), store.file_name().and_then(|name| name.to_str())) else {
        return paths;
    };
    let prefix = format!("{name}.");
    let beside = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = beside.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)));
    paths.extend(ours.map(|entry| entry.path()));
    paths
}

fn remove(path: &Path, failed: &mut Vec<String>) {
    match std::fs::remove_file(path) {
        Ok(()) => say(&format!("removed {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => failed.push(format!("remove {}: {error}", path.display())),
    }
}

/// The lock file goes last; the folder only when nothing of anybody's is left in it.
fn remove_lock_and_folder(folder: &Path, failed: &mut Vec<String>) {
    remove(&FolderLock::file(folder), failed);
    if std::fs::remove_dir(folder).is_ok() {
        say(&format!("removed {}", folder.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_that_were_set_aside_are_the_stores_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cilium.db", "cilium.db.corrupt-5", "cilium.dbx", "other"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let mut names: Vec<_> = stores(&dir.path().join("cilium.db"))
            .iter()
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect();
        names.sort();
        assert_eq!(names, ["cilium.db", "cilium.db.corrupt-5"]);
    }
}

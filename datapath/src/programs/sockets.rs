//! The programs on the cgroup of the node's processes: what sockets ask for is served there.
//!
//! Owns loading, and the links `cilium/links/cgroup_<program>`. What the programs do is bpf/sock.bpf.c's.

use super::{AttachError, LoadError, file_name, repin};
use crate::current::Attachment;
use crate::syscall;
use crate::{Config, features};
use aya::EbpfLoader;
use aya::programs::Program;
use bpf::names::{knob, socket};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PREFIX: &str = "cgroup_";
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// Where the cgroup is looked for, and mounted if it is nowhere.
const USUAL: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
const OWN: &str = "/run/cilium/cgroupv2";

#[derive(Debug)]
struct Hooked {
    name: &'static str,
    hook: u32,
    fd: OwnedFd,
    id: u32,
}

/// This build's programs, loaded, and the cgroup that they are for.
#[derive(Debug)]
pub struct Sockets {
    programs: Vec<Hooked>,
    root: PathBuf,
    cgroup: File,
}

/// The pins of links to the cgroup.
pub fn pinned(links: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(links)? {
        let path = entry?.path();
        if file_name(&path).starts_with(PREFIX) {
            found.push(path);
        }
    }
    Ok(found)
}

/// The directory of a cgroup, mounted if nobody has.
fn root(config: &Config) -> Result<PathBuf, LoadError> {
    let failed = |path: &Path, source| LoadError::Cgroup { path: path.to_owned(), source };
    let is_cgroup =
        |path: &Path| nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type().0 == CGROUP2_MAGIC);
    if let Some(path) = &config.cgroup_root {
        let other = || io::Error::new(io::ErrorKind::InvalidInput, "it is no directory of a cgroup2 file system");
        return if is_cgroup(path) { Ok(path.clone()) } else { Err(failed(path, other())) };
    }
    if let Some(path) = USUAL.iter().map(Path::new).find(|path| is_cgroup(path)) {
        return Ok(path.to_owned());
    }
    let own = Path::new(OWN);
    if !is_cgroup(own) {
        std::fs::create_dir_all(own).map_err(|source| failed(own, source))?;
        let flags = nix::mount::MsFlags::empty();
        let mounted = nix::mount::mount(Some("cgroup2"), own, Some("cgroup2"), flags, None::<&str>);
        mounted.map_err(|errno| failed(own, errno.into()))?;
    }
    Ok(own.to_owned())
}

/// Loads the programs; the maps that they share with those on devices are in `directory`.
pub fn load(config: &Config, directory: &Path, entries: &[(&'static str, u32)]) -> Result<Sockets, LoadError> {
    let root = root(config)?;
    let cgroup = File::open(&root).map_err(|source| LoadError::Cgroup { path: root.clone(), source })?;
    // Before Linux 5.14 namespaces do not say what they are called: no frontend is the host's alone then.
    let host = syscall::netns_cookie().inspect_err(|error| {
        tracing::warn!(%error, "the host's network namespace has no cookie: services on loopback addresses, and ports of \
             this host that are taken, are not known to sockets");
    });
    let (host, tells_error) = (host.unwrap_or(0), u32::from(features::tells_error()));
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(directory);
    for (map, size) in entries {
        loader.map_max_entries(map, *size);
    }
    loader.override_global(knob::HOST_NETNS, &host, true).override_global(knob::TELLS_ERROR, &tells_error, true);
    let mut object = loader.load(bpf::SOCKETS).map_err(|source| LoadError::Maps { source })?;
    let mut programs = Vec::new();
    for (name, hook) in socket::ALL {
        let failed = |source| LoadError::Program { program: name, source };
        let fd = match object.program_mut(name) {
            Some(Program::CgroupSockAddr(program)) => {
                program.load().and_then(|()| Ok(program.fd()?.as_fd().try_clone_to_owned())).map_err(failed)?
            }
            Some(Program::CgroupSock(program)) => {
                program.load().and_then(|()| Ok(program.fd()?.as_fd().try_clone_to_owned())).map_err(failed)?
            }
            _ => return Err(LoadError::Missing { program: name }),
        };
        let pin = |source| LoadError::Pin { program: name, source };
        let fd = fd.map_err(pin)?;
        repin(fd.as_fd(), &directory.join("programs").join(name)).map_err(pin)?;
        let id = syscall::program_info(fd.as_fd()).map_err(pin)?.id;
        programs.push(Hooked { name, hook, fd, id });
    }
    Ok(Sockets { programs, root, cgroup })
}

impl Sockets {
    /// What is attached to the cgroup; `None`: nothing, and no pin.
    pub fn attachment(&self, links: &Path) -> Result<Option<Attachment>, AttachError> {
        let pins = pinned(links).map_err(|source| AttachError::List { path: links.to_owned(), source })?;
        if pins.is_empty() {
            return Ok(None);
        }
        let cgroup = self.id()?;
        let state = |program: &Hooked| {
            let link = syscall::open_pin(&pin_of(links, program.name));
            match link.and_then(|link| syscall::cgroup_link_info(link.as_fd())) {
                Ok(info) if info.cgroup != cgroup || info.hook != program.hook => Attachment::Dead,
                Ok(info) if info.program == program.id => Attachment::Current,
                Ok(_) => Attachment::Outdated,
                Err(_) => Attachment::Dead,
            }
        };
        let states: Vec<Attachment> = self.programs.iter().map(state).collect();
        Ok(Some(if states.iter().all(|state| *state == Attachment::Current) {
            Attachment::Current
        } else if states.contains(&Attachment::Dead) {
            Attachment::Dead
        } else {
            Attachment::Outdated
        }))
    }

    /// Puts the programs on the cgroup. What is there is replaced in place, with no call in between.
    pub fn attach(&self, links: &Path) -> Result<(), AttachError> {
        let cgroup = self.id()?;
        self.programs.iter().try_for_each(|program| self.attach_one(program, cgroup, &pin_of(links, program.name)))
    }

    fn attach_one(&self, program: &Hooked, cgroup: u64, path: &Path) -> Result<(), AttachError> {
        let failed = |source| AttachError::Cgroup { program: program.name, cgroup: self.root.clone(), source };
        let held = syscall::open_pin(path).and_then(|link| Ok((syscall::cgroup_link_info(link.as_fd())?, link)));
        if let Ok((info, link)) = held
            && info.cgroup == cgroup
            && info.hook == program.hook
        {
            return syscall::update_link(link.as_fd(), program.fd.as_fd()).map_err(failed);
        }
        remove(path)?;
        let link = syscall::link_cgroup(program.fd.as_fd(), self.cgroup.as_fd(), program.hook).map_err(failed)?;
        syscall::pin(link.as_fd(), path).map_err(|source| AttachError::Pin { path: path.to_owned(), source })
    }

    /// The number by which the kernel knows the cgroup.
    fn id(&self) -> Result<u64, AttachError> {
        let failed = |source| AttachError::List { path: self.root.clone(), source };
        Ok(self.cgroup.metadata().map_err(failed)?.ino())
    }
}

/// Takes the programs off their cgroup.
pub fn detach(links: &Path) -> Result<(), AttachError> {
    let mut pins = pinned(links).map_err(|source| AttachError::List { path: links.to_owned(), source })?;
    // Calls that change addresses end before those that change them back.
    pins.sort_by_key(|path| socket::ALL.iter().rev().position(|(name, _)| file_name(path).ends_with(name)));
    pins.iter().try_for_each(|path| remove(path))
}

fn pin_of(links: &Path, program: &str) -> PathBuf {
    links.join(format!("{PREFIX}{program}"))
}

fn remove(path: &Path) -> Result<(), AttachError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(AttachError::Unpin { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

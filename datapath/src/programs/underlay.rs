//! The program on devices that are not ours: by which other nodes are reached, where programs take Geneve packets out.
//!
//! Owns its links and filters. On which devices it has to be is `plan::tunnel`'s.

use super::{AttachError, Loaded, Programs, filter_program, repin};
use crate::current::Attachment;
use crate::filters::{self, GUEST, Side};
use crate::netlink::Netlink;
use crate::syscall;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

const PREFIX: &str = "dev";

/// The devices on which a program was put, by the pins in the directory of links.
pub fn pinned(links: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(links)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix(PREFIX).and_then(|name| name.split_once('_')).and_then(|(n, _)| n.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    Ok(found)
}

/// Takes the filter of a device without tcx away; what is absent is no error.
pub fn remove_filter(netlink: &mut Netlink, ifindex: u32) -> Result<(), AttachError> {
    let answers = netlink.execute(vec![filters::remove(ifindex, Side::Ingress, GUEST)])?;
    match answers.into_iter().find_map(Result::err) {
        // No device, no clsact on it, or no filter there.
        Some(refused) if !matches!(refused.errno, libc::ENODEV | libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP) => {
            Err(AttachError::UnderlayFilter { ifindex, source: refused })
        }
        _ => Ok(()),
    }
}

impl Programs {
    /// What is attached to devices that are not ours.
    pub fn underlays(&self, netlink: &mut Netlink) -> Result<BTreeMap<u32, Attachment>, AttachError> {
        let pinned = pinned(&self.links);
        let pinned = pinned.map_err(|source| AttachError::List { path: self.links.clone(), source })?;
        let mut found = BTreeMap::new();
        for (ifindex, path) in pinned {
            found.insert(ifindex, self.underlay_of(netlink, ifindex, &path)?);
        }
        Ok(found)
    }

    fn underlay_of(&self, netlink: &mut Netlink, ifindex: u32, path: &Path) -> Result<Attachment, AttachError> {
        let program = if self.tcx {
            let info = syscall::open_pin(path).and_then(|link| syscall::link_info(link.as_fd())).ok();
            info.filter(|info| info.ifindex == ifindex).map(|info| info.program)
        } else {
            filter_program(netlink, ifindex, Side::Ingress, GUEST)?
        };
        Ok(match program {
            Some(id) if id == self.underlay.id => Attachment::Current,
            Some(_) => Attachment::Outdated,
            None => Attachment::Dead,
        })
    }

    /// Puts the program on a device. One that is there is replaced in place, with no packet in between.
    pub fn attach_underlay(&self, netlink: &mut Netlink, ifindex: u32) -> Result<(), AttachError> {
        let path = self.underlay_pin(ifindex);
        let Loaded { name, hook, side, fd, .. } = &self.underlay;
        if self.tcx {
            return self.attach_underlay_tcx(ifindex, &path);
        }
        let requests = vec![filters::add_qdisc(ifindex), filters::put(ifindex, *side, GUEST, name, fd.as_fd())];
        debug_assert_eq!(*hook, syscall::Hook::TcxIngress);
        // The pin comes first: by it the filter is found again.
        repin(fd.as_fd(), &path).map_err(|source| AttachError::Pin { path, source })?;
        let refused = netlink.execute(requests)?.into_iter().find_map(|answer| match answer {
            Err(refused) if refused.errno != libc::EEXIST => Some(refused),
            _ => None,
        });
        refused.map_or(Ok(()), |source| Err(AttachError::UnderlayFilter { ifindex, source }))
    }

    fn attach_underlay_tcx(&self, ifindex: u32, path: &Path) -> Result<(), AttachError> {
        let Loaded { name, hook, fd, .. } = &self.underlay;
        let failed = |source| AttachError::Underlay { program: name, ifindex, source };
        let held = syscall::open_pin(path).and_then(|link| Ok((syscall::link_info(link.as_fd())?, link)));
        if let Ok((info, link)) = held
            && info.ifindex == ifindex
        {
            return syscall::update_link(link.as_fd(), fd.as_fd()).map_err(failed);
        }
        remove_pin(path)?;
        let link = syscall::link(fd.as_fd(), ifindex, *hook).map_err(failed)?;
        syscall::pin(link.as_fd(), path).map_err(|source| AttachError::Pin { path: path.to_owned(), source })
    }

    /// Takes the program away from a device, be it there or gone.
    pub fn detach_underlay(&self, netlink: &mut Netlink, ifindex: u32) -> Result<(), AttachError> {
        if !self.tcx {
            remove_filter(netlink, ifindex)?;
        }
        remove_pin(&self.underlay_pin(ifindex))
    }

    fn underlay_pin(&self, ifindex: u32) -> PathBuf {
        self.links.join(format!("{PREFIX}{ifindex}_{}", self.underlay.name))
    }
}

fn remove_pin(path: &Path) -> Result<(), AttachError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(AttachError::Unpin { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

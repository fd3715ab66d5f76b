//! A bpffs that nobody sees: mounted nowhere, gone with its last file descriptor.
//!
//! Owns that mount; aya pins maps there because the programs ask for pinning by name.

use anyhow::Context;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

/// A private directory for pins.
pub struct Pins(OwnedFd);

impl Pins {
    /// Needs root and a kernel with fsmount(2) (5.2).
    pub fn new() -> anyhow::Result<Pins> {
        let context = descriptor(libc::SYS_fsopen, [c"bpf".as_ptr() as i64, 0, 0, 0, 0]).context("fsopen bpffs")?;
        let fd = i64::from(context.as_raw_fd());
        call(libc::SYS_fsconfig, [fd, i64::from(libc::FSCONFIG_CMD_CREATE), 0, 0, 0]).context("create bpffs")?;
        let mount = descriptor(libc::SYS_fsmount, [fd, 0, 0, 0, 0]).context("fsmount bpffs")?;
        Ok(Pins(mount))
    }

    /// The directory, as this process can name it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

fn call(number: i64, a: [i64; 5]) -> std::io::Result<i64> {
    // SAFETY: the callers pass integers and pointers to constant strings, as the named call wants them.
    match unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4]) } {
        -1 => Err(std::io::Error::last_os_error()),
        n => Ok(n),
    }
}

fn descriptor(number: i64, a: [i64; 5]) -> std::io::Result<OwnedFd> {
    let fd = call(number, a)?;
    let fd = i32::try_from(fd).map_err(std::io::Error::other)?;
    // SAFETY: the call has just returned it, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

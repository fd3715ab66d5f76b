//! A network device with a chosen interface number, in a network namespace of the thread's own.
//!
//! Owns both: the programs read the number of the device that a packet is on, and the kernel wants that device to be.

use anyhow::Context;
use std::fs::File;
use std::os::fd::AsRawFd;

/// `TUNSETIFINDEX` of <linux/if_tun.h>; libc does not have it.
const TUNSETIFINDEX: libc::Ioctl = 0x4004_54da;

/// Exists until it is dropped.
pub struct Tap(#[allow(dead_code)] File);

impl Tap {
    /// A device numbered `ifindex` in the calling thread's network namespace.
    pub fn new(ifindex: u32) -> anyhow::Result<Tap> {
        let file = File::options().read(true).write(true).open("/dev/net/tun").context("open /dev/net/tun")?;
        // SAFETY: both requests read what they are given and keep no pointer.
        unsafe {
            if libc::ioctl(file.as_raw_fd(), TUNSETIFINDEX, &raw const ifindex) < 0 {
                return Err(std::io::Error::last_os_error()).context("choose the number of a tap device");
            }
            let mut request: libc::ifreq = std::mem::zeroed();
            request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
            if libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) < 0 {
                return Err(std::io::Error::last_os_error()).context("make a tap device");
            }
        }
        Ok(Tap(file))
    }
}

/// Moves the calling thread into a network namespace of its own; it ends with the thread and what it opened.
pub fn own_network() -> anyhow::Result<()> {
    // SAFETY: no memory is involved; other threads are not.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
        return Err(std::io::Error::last_os_error()).context("unshare the network namespace");
    }
    Ok(())
}

//! A network device with a chosen interface number, in a network namespace of the thread's own.
//!
//! Owns both: the programs read the number of the device that a packet is on, and the kernel wants that device to be.

use anyhow::Context;
use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

/// `TUNSETIFINDEX` of <linux/if_tun.h>; libc does not have it.
const TUNSETIFINDEX: libc::Ioctl = 0x4004_54da;
/// Bytes of `struct virtio_net_hdr`, which stands before each frame.
const FRAME_HEADER: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: a checksum is still to be written.
const NEEDS_CHECKSUM: u8 = 1;

/// How the kernel is to hold a frame that arrives.
#[derive(Clone, Copy, Default, Debug)]
pub struct Arrival {
    /// How many bytes can be read in place; of a frame shorter than a page all of them can.
    pub linear: u16,
    /// Where the bytes start whose checksum is still to be written; a program cannot cut the packet before that.
    pub unfinished_checksum: Option<u16>,
}

/// Exists until it is dropped.
pub struct Tap {
    file: File,
    request: libc::ifreq,
}

impl Tap {
    /// A device numbered `ifindex` in the calling thread's network namespace.
    pub fn new(ifindex: u32) -> anyhow::Result<Tap> {
        let file = File::options().read(true).write(true).open("/dev/net/tun").context("open /dev/net/tun")?;
        ioctl(&file, TUNSETIFINDEX, std::ptr::from_ref(&ifindex)).context("choose the number of a tap device")?;
        let mut request = unnamed();
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        // The kernel writes the name that it gave.
        ioctl(&file, libc::TUNSETIFF, std::ptr::from_mut(&mut request)).context("make a tap device")?;
        Ok(Tap { file, request })
    }

    pub fn name(&self) -> anyhow::Result<String> {
        let bytes: Vec<u8> = self.request.ifr_name.iter().map(|c| *c as u8).collect();
        Ok(CStr::from_bytes_until_nul(&bytes).context("a name without an end")?.to_str()?.to_owned())
    }

    pub fn up(&self) -> anyhow::Result<()> {
        let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
        let mut request = libc::ifreq { ifr_name: self.request.ifr_name, ..unnamed() };
        request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
        ioctl(&socket, libc::SIOCSIFFLAGS, std::ptr::from_ref(&request)).context("bring a tap device up")
    }

    pub fn send(&self, frame: &[u8], arrival: Arrival) -> anyhow::Result<()> {
        let mut bytes = [0; FRAME_HEADER].to_vec();
        bytes[2..4].copy_from_slice(&arrival.linear.to_ne_bytes());
        if let Some(start) = arrival.unfinished_checksum {
            bytes[0] = NEEDS_CHECKSUM;
            bytes[6..8].copy_from_slice(&start.to_ne_bytes());
        }
        bytes.extend(frame);
        (&self.file).write_all(&bytes).context("send through a tap device")
    }
}

fn unnamed() -> libc::ifreq {
    // SAFETY: integers and arrays of them, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

fn ioctl<T>(file: &impl AsRawFd, request: libc::Ioctl, argument: *const T) -> std::io::Result<()> {
    // SAFETY: each request here reads or writes one value of the type that it is called with, and keeps no pointer.
    if unsafe { libc::ioctl(file.as_raw_fd(), request, argument) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Moves the calling thread into a network namespace of its own; it ends with the thread and what it opened.
pub fn own_network() -> anyhow::Result<()> {
    // SAFETY: no memory is involved; other threads are not.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
        return Err(std::io::Error::last_os_error()).context("unshare the network namespace");
    }
    Ok(())
}

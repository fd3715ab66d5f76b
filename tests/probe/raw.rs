//! Packets that no ordinary socket makes: SCTP's first two, also where the kernel does not speak it, and ready ones.

use anyhow::{Context, Result, bail, ensure};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SCTP: i32 = 132;
/// What opens an association, and what answers it.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// A raw socket; std's type sends to, and hears from, addresses whose port says nothing.
fn socket(ipv4: bool, protocol: i32) -> Result<UdpSocket> {
    let family = if ipv4 { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no memory is handed over, and the answer is checked before it is taken for a descriptor, which is ours.
    #[allow(unsafe_code)]
    let fd = unsafe {
        let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        ensure!(fd >= 0, "open a raw socket: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    Ok(fd.into())
}

/// Sends an IP packet as it is.
pub fn send(host: IpAddr, hex: &str) -> Result<()> {
    let digits: Vec<u32> = hex.chars().map(|c| c.to_digit(16).context("hex")).collect::<Result<_>>()?;
    let packet: Vec<u8> =
        digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8)).collect();
    let socket = socket(host.is_ipv4(), libc::IPPROTO_RAW)?;
    socket.send_to(&packet, SocketAddr::new(host, 0)).context("send a packet")?;
    Ok(())
}

/// Answers whoever wants an association with the port, in both families.
pub fn answer_associations(port: u16) -> Result<()> {
    for ipv4 in [true, false] {
        let socket = socket(ipv4, SCTP)?;
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((n, from)) = socket.recv_from(&mut buffer) {
                if let Some((INIT, source, to)) = parse(&buffer[..n], ipv4)
                    && to == port
                {
                    let _ = socket.send_to(&chunk(INIT_ACK, port, source), SocketAddr::new(from.ip(), 0));
                }
            }
        });
    }
    Ok(())
}

/// Asks for an association and waits for the answer, with which the question is settled.
pub fn ask_for_association(target: SocketAddr, limit: Duration) -> Result<()> {
    let socket = socket(target.is_ipv4(), SCTP)?;
    // Of one port's associations two may lead to one backend, and only one of those is answered.
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let asked = ASKED.fetch_add(1, Ordering::Relaxed);
    let ours = 20_000 + (std::process::id().wrapping_mul(601).wrapping_add(asked) % 20_000) as u16;
    socket.send_to(&chunk(INIT, ours, target.port()), SocketAddr::new(target.ip(), 0))?;
    let deadline = Instant::now() + limit;
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("no answer");
        }
        socket.set_read_timeout(Some(left))?;
        let (n, from) = socket.recv_from(&mut buffer).context("no answer")?;
        let answer = parse(&buffer[..n], target.is_ipv4());
        if from.ip() == target.ip() && answer == Some((INIT_ACK, target.port(), ours)) {
            return Ok(());
        }
    }
}

/// Kind, source and destination port of an SCTP packet. With IPv4 a raw socket hears the IP header too.
fn parse(packet: &[u8], ipv4: bool) -> Option<(u8, u16, u16)> {
    let header = if ipv4 { usize::from(packet.first()? & 15) * 4 } else { 0 };
    let packet = packet.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    Some((*packet.get(12)?, port(0)?, port(2)?))
}

/// An SCTP packet of one INIT or INIT ACK chunk.
fn chunk(kind: u8, from: u16, to: u16) -> Vec<u8> {
    let tag: u32 = if kind == INIT { 0 } else { 1 };
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([kind, 0, 0, 20]);
    // Its tag, the room for what comes, streams each way, the first number.
    packet.extend([1_u32, 65_536, 0x0001_0001, 1].map(u32::to_be_bytes).concat());
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
}

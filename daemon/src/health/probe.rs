//! One question to one address: an ICMP echo, or an HTTP request to a responder. Each is bounded in time.

use super::HELLO;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(5);

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("no answer within {LIMIT:?}")]
    NoAnswer,
    #[error("open a socket for ICMP")]
    Open(#[source] io::Error),
    #[error("send an echo request")]
    Send(#[source] io::Error),
    #[error("receive an echo reply")]
    Receive(#[source] io::Error),
    #[error("connect")]
    Connect(#[source] io::Error),
    #[error("speak HTTP")]
    Http(#[from] hyper::Error),
    #[error("answered with status {0}")]
    Status(StatusCode),
}

/// Sends an ICMP echo request and waits for its reply.
pub async fn icmp(to: IpAddr) -> Result<Duration, ProbeError> {
    bounded(echo(to)).await
}

/// Asks the responder at an address whether it is there.
pub async fn http(to: SocketAddr) -> Result<Duration, ProbeError> {
    bounded(hello(to)).await
}

async fn bounded(probe: impl Future<Output = Result<(), ProbeError>>) -> Result<Duration, ProbeError> {
    let started = Instant::now();
    match tokio::time::timeout(LIMIT, probe).await {
        Ok(Ok(())) => Ok(started.elapsed()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ProbeError::NoAnswer),
    }
}

async fn echo(to: IpAddr) -> Result<(), ProbeError> {
    let echo = Echo::new(to.is_ipv4(), rand::random());
    let socket = open(to).map_err(ProbeError::Open)?;
    // From now on only packets from there are received.
    socket.connect((to, 0)).await.map_err(ProbeError::Send)?;
    socket.send(&echo.request()).await.map_err(ProbeError::Send)?;
    let mut buffer = [0; 512];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(ProbeError::Receive)?;
        if echo.is_reply(buffer.get(..length).unwrap_or_default()) {
            return Ok(());
        }
    }
}

/// A raw ICMP socket. The runtime knows no such kind, but it reads and writes it as it does UDP.
fn open(to: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let raw = socket(family, SockType::Raw, flags, protocol)?;
    UdpSocket::from_std(std::net::UdpSocket::from(raw))
}

const HEADER: usize = 8;
const IPV4_HEADER: usize = 20;

/// An echo request that no other is taken for: identifier, sequence number and payload are random.
struct Echo {
    ipv4: bool,
    token: [u8; 12],
}

impl Echo {
    fn new(ipv4: bool, token: [u8; 12]) -> Echo {
        Echo { ipv4, token }
    }

    fn message(&self, kind: u8) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0];
        message.extend(self.token);
        message
    }

    fn request(&self) -> Vec<u8> {
        let mut message = self.message(if self.ipv4 { 8 } else { 128 });
        // Of ICMPv6 the kernel writes the checksum: it covers the addresses.
        if self.ipv4 {
            let sum = checksum(&message);
            message.splice(2..4, sum.to_be_bytes());
        }
        message
    }

    /// `packet` is as a raw socket gives it: of IPv4 the IP header comes with it.
    fn is_reply(&self, packet: &[u8]) -> bool {
        let message = if self.ipv4 {
            let header = packet.first().map_or(IPV4_HEADER, |first| usize::from(first & 0xf) * 4);
            packet.get(header..).unwrap_or_default()
        } else {
            packet
        };
        let wanted = self.message(if self.ipv4 { 0 } else { 129 });
        message.len() == wanted.len()
            && message.get(..2) == wanted.get(..2)
            && message.get(4..HEADER + 8) == wanted.get(4..HEADER + 8)
    }
}

/// The Internet checksum of a message with an even number of bytes.
fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

async fn hello(to: SocketAddr) -> Result<(), ProbeError> {
    let stream = TcpStream::connect(to).await.map_err(ProbeError::Connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = hyper::Uri::from_static(HELLO);
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("cilium-health"));
    request.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    let answer = async {
        let status = sender.send_request(request).await?.status();
        if status == StatusCode::OK { Ok(()) } else { Err(ProbeError::Status(status)) }
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection ended: the request knows how.
        _ = connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        let request = Echo::new(true, *b"0123456789ab").request();
        assert_eq!(checksum(&request), 0, "a message with its checksum sums up to nothing");
    }

    #[test]
    fn only_the_reply_to_the_request_is_one() {
        for ipv4 in [true, false] {
            let echo = Echo::new(ipv4, *b"0123456789ab");
            let header = if ipv4 { vec![0x45; 20] } else { vec![] };
            let packet = |message: Vec<u8>| [header.clone(), message].concat();
            let reply = |echo: &Echo| packet(echo.message(if ipv4 { 0 } else { 129 }));
            assert!(echo.is_reply(&reply(&echo)));
            assert!(!echo.is_reply(&reply(&Echo::new(ipv4, *b"0123456789ac"))));
            assert!(!echo.is_reply(&packet(echo.request())), "the request itself, on the same machine");
            assert!(!echo.is_reply(&[]));
        }
    }

    proptest! {
        #[test]
        fn no_packet_panics(ipv4: bool, packet in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Echo::new(ipv4, [7; 12]).is_reply(&packet);
        }
    }
}

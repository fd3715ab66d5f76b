//! Real packets between namespaces: connections, datagrams, echo requests.

use datapath::netns::Namespace;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// What is refused is dropped: nobody says so, and this long is waited for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);
/// An answer that must come is waited for so long.
const ANSWER: Duration = Duration::from_secs(20);

/// Whether an answer is hoped for or feared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hope {
    Passes,
    Dropped,
}

impl Hope {
    fn wait(self) -> Duration {
        if self == Hope::Passes { ANSWER } else { SILENCE }
    }
}

/// Where a socket lives: in a container, in the world, or on the node (the test's own thread).
pub trait Place {
    fn at<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T;
}

impl Place for Namespace {
    fn at<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.run(work).unwrap()
    }
}

/// The node's own namespace.
pub struct Here;

impl Place for Here {
    fn at<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        work()
    }
}

/// Opens a connection, sends a line and reads it back; both ends close.
pub fn tcp(from: &impl Place, to: &impl Place, address: IpAddr, port: u16, hope: Hope) -> bool {
    tcp_stream(from, to, address, port, hope).is_some_and(|(mut client, mut server)| talk(&mut client, &mut server))
}

/// An open connection: the client's end and the server's.
pub fn tcp_stream(
    from: &impl Place,
    to: &impl Place,
    address: IpAddr,
    port: u16,
    hope: Hope,
) -> Option<(TcpStream, TcpStream)> {
    let target = SocketAddr::new(address, port);
    let listener = to.at(|| bound(|| TcpListener::bind(target)));
    let client = from.at(|| TcpStream::connect_timeout(&target, hope.wait())).ok()?;
    let (server, _) = listener.accept().unwrap();
    Some((client, server))
}

/// Whether a connection to one address is answered by a server that has another: somebody translates in between.
pub fn translated(from: &impl Place, to: &impl Place, asked: SocketAddr, serves: SocketAddr, hope: Hope) -> bool {
    let listener = to.at(|| bound(|| TcpListener::bind(serves)));
    let Ok(mut client) = from.at(|| TcpStream::connect_timeout(&asked, hope.wait())) else { return false };
    let (mut server, _) = listener.accept().unwrap();
    talk(&mut client, &mut server)
}

/// A process that the node is just starting holds our former socket until it executes its program.
fn bound<S>(bind: impl Fn() -> io::Result<S>) -> S {
    let deadline = Instant::now() + ANSWER;
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => std::thread::yield_now(),
            bound => return bound.unwrap(),
        }
    }
}

/// Sends a line each way; `false`: one did not come through.
pub fn talk(client: &mut TcpStream, server: &mut TcpStream) -> bool {
    one_way(client, server, ANSWER) && one_way(server, client, ANSWER)
}

/// Whether a line does not come through.
pub fn is_cut(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    !one_way(from, to, SILENCE)
}

fn one_way(from: &mut TcpStream, to: &mut TcpStream, wait: Duration) -> bool {
    to.set_read_timeout(Some(wait)).unwrap();
    let mut line = [0; 5];
    from.write_all(b"hello").is_ok() && to.read_exact(&mut line).is_ok() && &line == b"hello"
}

/// Sends a datagram of `size` bytes and has it sent back.
pub fn udp(from: &impl Place, to: &impl Place, address: IpAddr, port: u16, size: usize, hope: Hope) -> bool {
    let server = to.at(|| bound(|| UdpSocket::bind((address, port))));
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u8; 16].into() };
    let client = from.at(|| UdpSocket::bind((any, 0))).unwrap();
    let datagram: Vec<u8> = (0..size).map(|n| n as u8).collect();
    let mut buffer = vec![0; 65_536];
    client.send_to(&datagram, (address, port)).unwrap();
    server.set_read_timeout(Some(hope.wait())).unwrap();
    let Ok((length, peer)) = server.recv_from(&mut buffer) else { return false };
    assert_eq!(buffer[..length], datagram);
    server.send_to(&buffer[..length], peer).unwrap();
    client.set_read_timeout(Some(hope.wait())).unwrap();
    client.recv_from(&mut buffer).is_ok_and(|(length, _)| buffer[..length] == datagram)
}

/// What came back on an echo request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Reply,
    TimeExceeded,
    TooBig,
    Nothing,
}

/// Sends an echo request with `size` bytes of data and a time to live.
pub fn echo(from: &impl Place, to: IpAddr, ttl: u8, size: usize, hope: Hope) -> Answer {
    from.at(|| match to {
        IpAddr::V4(_) => Echo { family: AddressFamily::Inet, protocol: SockProtocol::Icmp }.ask(to, ttl, size, hope),
        IpAddr::V6(_) => Echo { family: AddressFamily::Inet6, protocol: SockProtocol::IcmpV6 }.ask(to, ttl, size, hope),
    })
}

struct Echo {
    family: AddressFamily,
    protocol: SockProtocol,
}

impl Echo {
    fn ask(&self, to: IpAddr, ttl: u8, size: usize, hope: Hope) -> Answer {
        static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(1);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let fd = socket::socket(self.family, SockType::Raw, SockFlag::empty(), self.protocol).unwrap();
        let v4 = self.family == AddressFamily::Inet;
        if v4 {
            socket::setsockopt(&fd, socket::sockopt::Ipv4Ttl, &i32::from(ttl)).unwrap();
        } else {
            socket::setsockopt(&fd, socket::sockopt::Ipv6Ttl, &i32::from(ttl)).unwrap();
        }
        let request = request(v4, id, size);
        let target = SockaddrStorage::from(SocketAddr::new(to, 0));
        // A packet that is too big for the route is refused at once once the route has learned so.
        if let Err(errno) = socket::sendto(fd.as_raw_fd(), &request, &target, MsgFlags::empty()) {
            assert_eq!(errno, nix::errno::Errno::EMSGSIZE);
            return Answer::TooBig;
        }
        let socket = UdpSocket::from(fd);
        let deadline = Instant::now() + hope.wait();
        let mut buffer = vec![0; 65_536];
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left)).unwrap();
            match socket.recv(&mut buffer) {
                Ok(length) => {
                    // A raw IPv4 socket gives the IP header too.
                    let head = if v4 { usize::from(buffer[0] & 15) * 4 } else { 0 };
                    if let Some(answer) = answer(v4, &buffer[head..length], id) {
                        return answer;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => panic!("{error}"),
            }
        }
        Answer::Nothing
    }
}

fn request(v4: bool, id: u16, size: usize) -> Vec<u8> {
    let mut bytes = vec![if v4 { 8 } else { 128 }, 0, 0, 0];
    bytes.extend(id.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.resize(8 + size, 0x5a);
    if v4 {
        let mut sum: u32 = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        bytes[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    bytes
}

/// What a message says about our request; `None`: it is about another.
fn answer(v4: bool, message: &[u8], id: u16) -> Option<Answer> {
    // An error quotes the IP header and at least eight bytes of what it is about.
    let quoted = 8 + if v4 { 20 } else { 40 };
    let id_at = |at: usize| message.get(at..at + 2) == Some(&id.to_be_bytes()[..]);
    match (message[0], v4) {
        (0, true) | (129, false) if id_at(4) => Some(Answer::Reply),
        (11, true) | (3, false) if id_at(quoted + 4) => Some(Answer::TimeExceeded),
        (3, true) if message[1] == 4 && id_at(quoted + 4) => Some(Answer::TooBig),
        (2, false) if id_at(quoted + 4) => Some(Answer::TooBig),
        _ => None,
    }
}

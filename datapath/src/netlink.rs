//! One rtnetlink socket that is spoken to without waiting in between: a batch of changes is one `sendmsg`.
//!
//! The kernel works on a route netlink request inside `sendmsg`, so an asynchronous client only adds task switches to
//! it. Owns framing, sequence numbers, acknowledgements and dumps; what the messages mean is `links` and `routes`.

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `nlmsgerr` is the error number and the header of the request at fault.
const ACK: usize = HEADER + 4 + HEADER;
const NLM_F_ACK_TLVS: u16 = 512;
/// The text that the kernel sends with a refusal (`NLMSGERR_ATTR_MSG`).
const ATTR_TEXT: u16 = 1;
/// Requests for one `sendmsg`: so many acknowledgements fit into the default receive buffer (208 KiB) with room left.
const BATCH: usize = 128;
/// A dump is cut into messages of at most 32 KiB by the kernel.
const RECEIVE: usize = 64 * 1024;
/// How often a dump is taken again when the tables changed while it ran.
const DUMP_ATTEMPTS: usize = 5;

/// The conversation with the kernel failed; nothing is known about what it did.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("open a route netlink socket")]
    Open { source: io::Error },
    #[error("send {requests} route netlink requests")]
    Send { requests: usize, source: io::Error },
    #[error("receive a route netlink answer")]
    Receive { source: io::Error },
    #[error("a route netlink answer is malformed")]
    Malformed,
    #[error("the kernel refused to list a table")]
    Dump { source: Refused },
    #[error("a table changed {DUMP_ATTEMPTS} times while it was listed")]
    Unsettled,
}

/// The kernel understood a request and refused it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}", io::Error::from_raw_os_error(*errno), text.as_ref().map(|t| format!(" ({t})")).unwrap_or_default())]
pub struct Refused {
    /// Positive error number.
    pub errno: i32,
    /// The kernel's own words, if it had any.
    pub text: Option<String>,
}

/// One change.
#[derive(Debug, Clone)]
pub struct Request {
    pub message: RouteNetlinkMessage,
    flags: u16,
}

impl Request {
    /// Makes something that must not be there yet.
    pub fn create(message: RouteNetlinkMessage) -> Request {
        Request { message, flags: NLM_F_CREATE | NLM_F_EXCL }
    }

    /// Makes something or puts it in the place of what is there.
    pub fn replace(message: RouteNetlinkMessage) -> Request {
        Request { message, flags: NLM_F_CREATE | NLM_F_REPLACE }
    }

    /// Changes or deletes something that is there.
    pub fn change(message: RouteNetlinkMessage) -> Request {
        Request { message, flags: 0 }
    }
}

/// The socket, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: Option<Socket>,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    pub fn open() -> Result<Netlink, NetlinkError> {
        let socket = connect().map_err(|source| NetlinkError::Open { source })?;
        Ok(Netlink { socket: Some(socket), sequence: 0, buffer: Vec::with_capacity(RECEIVE) })
    }

    /// Carries out the requests in order, each whether or not those before it were refused, and answers one by one.
    ///
    /// After an error of the conversation itself the socket is made anew by the next call.
    pub fn execute(&mut self, requests: Vec<Request>) -> Result<Vec<Result<(), Refused>>, NetlinkError> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let batch: Vec<_> = requests.by_ref().take(BATCH).collect();
            match self.execute_batch(batch) {
                Ok(batch) => answers.extend(batch),
                Err(error) => {
                    self.socket = None;
                    return Err(error);
                }
            }
        }
        Ok(answers)
    }

    /// Lists a table. Entries that the decoder does not understand are left out: they are nobody's of ours.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.dump_once(message.clone()) {
                Ok(Some(entries)) => return Ok(entries),
                Ok(None) => {}
                Err(error) => {
                    self.socket = None;
                    return Err(error);
                }
            }
        }
        Err(NetlinkError::Unsettled)
    }

    fn execute_batch(&mut self, batch: Vec<Request>) -> Result<Vec<Result<(), Refused>>, NetlinkError> {
        let count = batch.len();
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(count * 256);
        for request in batch {
            self.append(&mut bytes, request.message, NLM_F_ACK | request.flags);
        }
        self.send(&bytes, count)?;
        let mut answers: Vec<Option<Result<(), Refused>>> = vec![None; count];
        let mut missing = count;
        while missing > 0 {
            self.receive()?;
            for message in frames(&self.buffer) {
                let message = message?;
                let slot = answers.get_mut(message.sequence.wrapping_sub(first) as usize);
                if let (NLMSG_ERROR, Some(slot @ None)) = (message.kind, slot) {
                    *slot = Some(acknowledgement(message)?);
                    missing -= 1;
                }
            }
        }
        Ok(answers.into_iter().map(|answer| answer.unwrap_or(Ok(()))).collect())
    }

    /// `None`: the table changed meanwhile.
    fn dump_once(&mut self, message: RouteNetlinkMessage) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
        let mut bytes = Vec::with_capacity(256);
        self.append(&mut bytes, message, NLM_F_DUMP);
        self.send(&bytes, 1)?;
        let mut entries = Vec::new();
        let mut interrupted = false;
        loop {
            self.receive()?;
            for message in frames(&self.buffer) {
                let message = message?;
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE => return Ok((!interrupted).then_some(entries)),
                    NLMSG_ERROR => acknowledgement(message)
                        .and_then(|answer| answer.map_err(|source| NetlinkError::Dump { source }))?,
                    _ => match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message.bytes) {
                        Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(entry), .. }) => entries.push(entry),
                        Ok(_) => {}
                        Err(error) => tracing::debug!(%error, "an entry of a route netlink table is not understood"),
                    },
                }
            }
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    fn send(&mut self, bytes: &[u8], requests: usize) -> Result<(), NetlinkError> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect().map_err(|source| NetlinkError::Open { source })?,
        };
        let sent = socket.send(bytes, 0);
        self.socket = Some(socket);
        sent.map(drop).map_err(|source| NetlinkError::Send { requests, source })
    }

    /// Fills `buffer` with one datagram.
    fn receive(&mut self) -> Result<(), NetlinkError> {
        let Some(socket) = &self.socket else {
            return Err(NetlinkError::Receive { source: io::ErrorKind::NotConnected.into() });
        };
        self.buffer.clear();
        loop {
            match socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(NetlinkError::Receive { source }),
            }
        }
    }
}

fn connect() -> io::Result<Socket> {
    use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
    use nix::sys::time::{TimeVal, TimeValLike};
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_cap_ack(true)?;
    socket.set_ext_ack(true)?;
    // Kernels before 4.20 do not filter dumps; the readers filter again.
    let _ = socket.set_netlink_get_strict_chk(true);
    // An acknowledgement can be lost when the receive buffer is full; waiting for ever would stop the reconciler.
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(5))?;
    Ok(socket)
}

pub(crate) struct Frame<'a> {
    pub kind: u16,
    flags: u16,
    sequence: u32,
    pub bytes: &'a [u8],
}

pub(crate) fn frames(mut buffer: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, NetlinkError>> {
    std::iter::from_fn(move || {
        if buffer.is_empty() {
            return None;
        }
        let frame = frame(buffer);
        let taken = frame.as_ref().map_or(buffer.len(), |f| f.bytes.len().next_multiple_of(4).min(buffer.len()));
        buffer = &buffer[taken..];
        Some(frame)
    })
}

fn frame(buffer: &[u8]) -> Result<Frame<'_>, NetlinkError> {
    let length = u32_at(buffer, 0)? as usize;
    let bytes = buffer.get(..length).filter(|b| b.len() >= HEADER).ok_or(NetlinkError::Malformed)?;
    Ok(Frame { kind: u16_at(bytes, 4)?, flags: u16_at(bytes, 6)?, sequence: u32_at(bytes, 8)?, bytes })
}

fn acknowledgement(frame: Frame<'_>) -> Result<Result<(), Refused>, NetlinkError> {
    let error = u32_at(frame.bytes, HEADER)? as i32;
    if error == 0 {
        return Ok(Ok(()));
    }
    let text =
        if frame.flags & NLM_F_ACK_TLVS != 0 { text_of(frame.bytes.get(ACK..).unwrap_or_default()) } else { None };
    Ok(Err(Refused { errno: -error, text }))
}

fn text_of(mut attributes: &[u8]) -> Option<String> {
    while attributes.len() >= 4 {
        let length = usize::from(u16_at(attributes, 0).ok()?);
        let value = attributes.get(4..length)?;
        if u16_at(attributes, 2).ok()? & 0x3fff == ATTR_TEXT {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, NetlinkError> {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes).ok_or(NetlinkError::Malformed)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, NetlinkError> {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes).ok_or(NetlinkError::Malformed)
}

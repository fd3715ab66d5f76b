//! Programs on a device without tcx: a clsact qdisc and one direct-action filter on each side, at a fixed place, so that
//! another program can take its place in one step. For kernels before 6.6.

use crate::netlink::Request;
use rtnetlink::packet_core::{DefaultNla, Emitable};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The place of our filters on devices of ours: nobody comes before them.
pub const FIRST: u32 = 1;
/// On other people's devices: "ci" in ASCII. Theirs come first, and lose nothing if they let ours have the rest.
pub const GUEST: u32 = 0x6369;
const HANDLE: u16 = 1;

const CLSACT: u16 = 0xffff;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const ETH_P_ALL: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;

/// A side of a clsact qdisc (`TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Ingress = 0xfff2,
    Egress = 0xfff3,
}

/// The qdisc that carries filters of both sides.
pub fn add_qdisc(ifindex: u32) -> Request {
    let mut message = at(ifindex, TcHandle { major: 0xffff, minor: 0xfff1 });
    message.header.handle = TcHandle { major: CLSACT, minor: 0 };
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    Request::create(RouteNetlinkMessage::NewQueueDiscipline(message))
}

/// Puts a program on a side, in place of the one that is there.
pub fn put(ifindex: u32, side: Side, priority: u32, name: &str, program: BorrowedFd<'_>) -> Request {
    let mut message = ours(ifindex, side, priority);
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    let mut text = name.as_bytes().to_vec();
    text.push(0);
    let options = [
        DefaultNla::new(TCA_BPF_FD, (program.as_raw_fd() as u32).to_ne_bytes().to_vec()),
        DefaultNla::new(TCA_BPF_NAME, text),
        DefaultNla::new(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes().to_vec()),
    ];
    let mut bytes = vec![0; options.as_slice().buffer_len()];
    options.as_slice().emit(&mut bytes);
    message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS | NLA_F_NESTED, bytes)));
    Request::replace(RouteNetlinkMessage::NewTrafficFilter(message))
}

/// Lists the filters of a side.
pub fn list(ifindex: u32, side: Side) -> RouteNetlinkMessage {
    let mut message = at(ifindex, TcHandle { major: CLSACT, minor: side as u16 });
    message.header.info = 0;
    RouteNetlinkMessage::GetTrafficFilter(message)
}

/// Takes away what is at our place.
pub fn remove(ifindex: u32, side: Side, priority: u32) -> Request {
    let mut message = ours(ifindex, side, priority);
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    Request::change(RouteNetlinkMessage::DelTrafficFilter(message))
}

/// The kernel's number of the program in a listed filter, if it stands at our place.
pub fn program_of(message: &TcMessage, priority: u32) -> Option<u32> {
    if message.header.info >> 16 != priority || u32::from(message.header.handle) != u32::from(HANDLE) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(_) | TcAttribute::Other(_) => {
            let mut bytes = vec![0; attribute.buffer_len()];
            attribute.emit(&mut bytes);
            // The options are attributes inside of an attribute.
            number_in(bytes.get(4..)?, TCA_BPF_ID)
        }
        _ => None,
    })
}

fn number_in(mut attributes: &[u8], wanted: u16) -> Option<u32> {
    while let [l0, l1, k0, k1, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([k0, k1]) & 0x3fff == wanted {
            return value.try_into().ok().map(u32::from_ne_bytes);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn ours(ifindex: u32, side: Side, priority: u32) -> TcMessage {
    let mut message = at(ifindex, TcHandle { major: CLSACT, minor: side as u16 });
    message.header.handle = TcHandle { major: 0, minor: HANDLE };
    message.header.info = priority << 16 | u32::from(ETH_P_ALL.to_be());
    message
}

fn at(ifindex: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = ifindex as i32;
    message.header.parent = parent;
    message
}

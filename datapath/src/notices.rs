//! What others change in the kernel under our hands, as the kernel tells it.
//!
//! Owns the sockets that listen. What is done about a change is `worker`'s and `addresses`'s.

use crate::addresses::is_reachable;
use crate::links::{Device, HOST_DEVICE, HOST_PEER, TUNNEL, ifindex};
use crate::netlink::frames;
use crate::routes;
use model::EndpointId;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// Groups of route netlink (`RTNLGRP_*`).
pub const LINKS: u32 = 1;
pub const ADDRESSES: [u32; 2] = [5, 9];
pub const ROUTES: [u32; 2] = [7, 11];
/// `NFNLGRP_NFTABLES`.
const NFTABLES: u32 = 7;

/// Messages of nftables: `NFNL_SUBSYS_NFTABLES << 8` and these.
const SUBSYSTEM: u16 = 10;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;

/// A listening socket.
pub struct Notices {
    socket: TokioSocket,
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}

impl Notices {
    /// Listens to groups of a netlink protocol in the calling thread's network namespace. Needs a tokio runtime.
    pub fn open(protocol: isize, groups: &[u32]) -> io::Result<Notices> {
        let mut socket = TokioSocket::new(protocol)?;
        socket.socket_mut().bind_auto()?;
        for group in groups {
            socket.socket_mut().add_membership(*group)?;
        }
        Ok(Notices { socket })
    }

    /// Listens to changes of nftables rules, those made by iptables included.
    pub fn firewall() -> io::Result<Notices> {
        Notices::open(NETLINK_NETFILTER, &[NFTABLES])
    }

    /// The next notices; `None`: some were lost.
    pub async fn next(&self) -> Option<Vec<u8>> {
        match self.socket.recv_from_full().await {
            Ok((bytes, _)) => Some(bytes),
            Err(error) => {
                // ENOBUFS: they came faster than they were read.
                if error.raw_os_error() != Some(libc::ENOBUFS) {
                    tracing::debug!(%error, "listening to the kernel's notices");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                None
            }
        }
    }
}

/// What is known of a device after some notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    Up,
    Down,
    Gone,
}

/// What notices about devices say of ours.
#[derive(Debug, Default)]
pub struct Devices {
    pub endpoints: BTreeMap<EndpointId, Seen>,
    /// An end of the `cilium_host` pair was touched.
    pub host: Option<Seen>,
    pub tunnel: Option<Seen>,
    /// An address that others can reach came or went on a device that is not ours.
    pub addresses: bool,
}

impl Devices {
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.host.is_none() && self.tunnel.is_none() && !self.addresses
    }

    pub fn note(&mut self, bytes: &[u8]) {
        for frame in frames(bytes).map_while(Result::ok) {
            let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(frame.bytes) else { continue };
            let (message, gone) = match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => (message, false),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) => (message, true),
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message),
                ) => {
                    let reachable = |(device, ip)| device < ifindex(TUNNEL) && is_reachable(ip);
                    self.addresses |= routes::decode_address(&message).is_some_and(reachable);
                    continue;
                }
                _ => continue,
            };
            let device = Device::decode(&message);
            let seen = match (gone, device.up) {
                (true, _) => Seen::Gone,
                (false, true) => Seen::Up,
                (false, false) => Seen::Down,
            };
            if device.is_doomed() {
                // It is gone for us already, and another may have its number when this is read.
            } else if let Some(id) = device.endpoint() {
                self.endpoints.insert(id, seen);
            } else if device.name == HOST_DEVICE || device.name == HOST_PEER {
                self.host = Some(seen);
            } else if device.ifindex == ifindex(TUNNEL) {
                self.tunnel = Some(seen);
            }
        }
    }
}

/// Whether notices of nftables are about something that the firewall rests on: our table, or a chain FORWARD.
pub fn touches_firewall(bytes: &[u8]) -> bool {
    frames(bytes).map_while(Result::ok).any(|frame| {
        if frame.kind >> 8 != SUBSYSTEM {
            return false;
        }
        // Message header, then family, version and a number.
        let names = names(frame.bytes.get(20..).unwrap_or_default());
        let ours = names.iter().any(|name| name == crate::firewall::TABLE);
        let forward = names.iter().any(|name| name == "FORWARD" || name == "filter");
        match frame.kind & 0xff {
            DELTABLE => ours || forward,
            NEWCHAIN | DELCHAIN | NEWRULE | DELRULE => ours || names.iter().any(|name| name == "FORWARD"),
            _ => false,
        }
    })
}

/// The first three attributes of tables, chains and rules hold the names of table and chain, where they are text.
fn names(mut attributes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    while let [l0, l1, k0, k1, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let kind = u16::from_ne_bytes([k0, k1]) & 0x3fff;
        let Some(value) = attributes.get(4..length) else { break };
        if kind <= 3
            && let Ok(text) = std::str::from_utf8(value)
        {
            names.push(text.trim_end_matches('\0').to_owned());
        }
        let Some(rest) = attributes.get(length.next_multiple_of(4)..) else { break };
        attributes = rest;
    }
    names
}

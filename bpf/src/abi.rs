//! GENERATED from abi.h by `cargo xtask abi`: what both halves of the datapath share. Do not edit.
//!
//! The assertions at the end of each type make a layout that drifts a compile error.

#![allow(missing_docs, clippy::all, non_upper_case_globals, dead_code)]

pub use crate::endian::{Be16, Be32};

pub const ABI_VERSION: u32 = 5;
pub const LXC_IFINDEX_BASE: u32 = 65536;
pub const LXC_SLOTS: u32 = 65536;
pub const IDENTITY_HOST: u32 = 1;
pub const IDENTITY_HEALTH: u32 = 4;
pub const IDENTITY_INIT: u32 = 5;
pub const IDENTITY_REMOTE_NODE: u32 = 6;
pub const IDENTITY_WORLD_IPV4: u32 = 9;
pub const IDENTITY_WORLD_IPV6: u32 = 10;
pub const IDENTITY_FIRST_CLUSTER: u32 = 256;
pub const IDENTITY_CLUSTER_SHIFT: u32 = 16;
pub const IDENTITY_FIRST_LOCAL: u32 = 16777216;
pub const FAMILY_IPV4: u32 = 1;
pub const FAMILY_IPV6: u32 = 2;
pub const ENDPOINT_VALID: u32 = 1;
pub const ENDPOINT_INTERNAL: u32 = 2;
pub const POLICY_SLOTS: u32 = 65536;
pub const POLICY_INGRESS: u32 = 0;
pub const POLICY_EGRESS: u32 = 1;
pub const POLICY_PEER: u32 = 0;
pub const POLICY_ANY_PEER: u32 = 1;
pub const POLICY_CLASS_EXACT: u32 = 16;
pub const POLICY_CLASS_ANY_PROTOCOL: u32 = 17;
pub const POLICY_CLASSES: u32 = 18;
pub const POLICY_KEY_EGRESS: u32 = 128;
pub const POLICY_DENY: u32 = 1;
pub const IPCACHE_LPM_FAMILY_BITS: u32 = 32;
pub const IDENTITY_ENTRIES: u32 = 131072;
pub const NODE_NUMBERS: u32 = 65535;
pub const GENEVE_NONE: u32 = 0;
pub const GENEVE_DEVICE: u32 = 1;
pub const GENEVE_PROGRAMS: u32 = 2;
pub const CT_ASKER_NONE: u32 = 0;
pub const CT_ASKER_A: u32 = 1;
pub const CT_ASKER_B: u32 = 2;
pub const CT_OPENED_BY_B: u32 = 1;
pub const CT_HAIRPIN: u32 = 2;
pub const CT_TUNNEL: u32 = 4;
pub const CT_SERVICE: u32 = 8;
pub const CT_DIRECT: u32 = 16;
pub const CT_SNAT: u32 = 32;
pub const REPORT_SHIFT: u32 = 6;
pub const LB_SERVICES: u32 = 524288;
pub const LB_BACKENDS: u32 = 524288;
pub const LB_MAGLEV: u32 = 1;
pub const LB_SOURCE_RANGES: u32 = 4;
pub const LB_LOOPBACK: u32 = 8;
pub const LB_INTERNAL: u32 = 0;
pub const LB_EXTERNAL: u32 = 1;
pub const LB_ROW: u32 = 16;
pub const LB_PLACE_ROWS: u32 = 262144;
pub const LB_SOURCE_SERVICE_BITS: u32 = 32;
pub const METRIC_REASONS: u32 = 256;
pub const REASON_FORWARDED: u32 = 0;
pub const REASON_EVENT_LOST: u32 = 1;
pub const DIRECTION_INGRESS: u32 = 1;
pub const DIRECTION_EGRESS: u32 = 2;
pub const EVENT_CAPTURE: u32 = 128;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct Endpoint {
    pub policy: u32,
    pub identity: u32,
    pub ipv4: Be32,
    pub flags: u16,
    pub pad0: u16,
    pub ipv6: [u8; 16usize],
    pub mac: [u8; 6usize],
    pub node_mac: [u8; 6usize],
    pub pad1: [u8; 20usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Endpoint"][::core::mem::size_of::<Endpoint>() - 64usize];
    ["Alignment of Endpoint"][::core::mem::align_of::<Endpoint>() - 4usize];
    ["Offset of field: Endpoint::policy"][::core::mem::offset_of!(Endpoint, policy) - 0usize];
    ["Offset of field: Endpoint::identity"][::core::mem::offset_of!(Endpoint, identity) - 4usize];
    ["Offset of field: Endpoint::ipv4"][::core::mem::offset_of!(Endpoint, ipv4) - 8usize];
    ["Offset of field: Endpoint::flags"][::core::mem::offset_of!(Endpoint, flags) - 12usize];
    ["Offset of field: Endpoint::pad0"][::core::mem::offset_of!(Endpoint, pad0) - 14usize];
    ["Offset of field: Endpoint::ipv6"][::core::mem::offset_of!(Endpoint, ipv6) - 16usize];
    ["Offset of field: Endpoint::mac"][::core::mem::offset_of!(Endpoint, mac) - 32usize];
    ["Offset of field: Endpoint::node_mac"][::core::mem::offset_of!(Endpoint, node_mac) - 38usize];
    ["Offset of field: Endpoint::pad1"][::core::mem::offset_of!(Endpoint, pad1) - 44usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct PolicyHeader {
    pub id: u32,
    pub identity: u32,
    pub classes: [[u32; 2usize]; 2usize],
    pub pad: [u32; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PolicyHeader"][::core::mem::size_of::<PolicyHeader>() - 32usize];
    ["Alignment of PolicyHeader"][::core::mem::align_of::<PolicyHeader>() - 4usize];
    ["Offset of field: PolicyHeader::id"][::core::mem::offset_of!(PolicyHeader, id) - 0usize];
    ["Offset of field: PolicyHeader::identity"][::core::mem::offset_of!(PolicyHeader, identity) - 4usize];
    ["Offset of field: PolicyHeader::classes"][::core::mem::offset_of!(PolicyHeader, classes) - 8usize];
    ["Offset of field: PolicyHeader::pad"][::core::mem::offset_of!(PolicyHeader, pad) - 24usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct PolicyKey {
    pub policy: u32,
    pub identity: u32,
    pub port: u16,
    pub protocol: u8,
    pub class_direction: u8,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PolicyKey"][::core::mem::size_of::<PolicyKey>() - 12usize];
    ["Alignment of PolicyKey"][::core::mem::align_of::<PolicyKey>() - 4usize];
    ["Offset of field: PolicyKey::policy"][::core::mem::offset_of!(PolicyKey, policy) - 0usize];
    ["Offset of field: PolicyKey::identity"][::core::mem::offset_of!(PolicyKey, identity) - 4usize];
    ["Offset of field: PolicyKey::port"][::core::mem::offset_of!(PolicyKey, port) - 8usize];
    ["Offset of field: PolicyKey::protocol"][::core::mem::offset_of!(PolicyKey, protocol) - 10usize];
    ["Offset of field: PolicyKey::class_direction"][::core::mem::offset_of!(PolicyKey, class_direction) - 11usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct PolicyEntry {
    pub flags: u8,
    pub precedence: u8,
    pub proxy_port: u16,
    pub pad: u32,
    pub packets: u64,
    pub bytes: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of PolicyEntry"][::core::mem::size_of::<PolicyEntry>() - 24usize];
    ["Alignment of PolicyEntry"][::core::mem::align_of::<PolicyEntry>() - 8usize];
    ["Offset of field: PolicyEntry::flags"][::core::mem::offset_of!(PolicyEntry, flags) - 0usize];
    ["Offset of field: PolicyEntry::precedence"][::core::mem::offset_of!(PolicyEntry, precedence) - 1usize];
    ["Offset of field: PolicyEntry::proxy_port"][::core::mem::offset_of!(PolicyEntry, proxy_port) - 2usize];
    ["Offset of field: PolicyEntry::pad"][::core::mem::offset_of!(PolicyEntry, pad) - 4usize];
    ["Offset of field: PolicyEntry::packets"][::core::mem::offset_of!(PolicyEntry, packets) - 8usize];
    ["Offset of field: PolicyEntry::bytes"][::core::mem::offset_of!(PolicyEntry, bytes) - 16usize];
};
pub const MATCH_NONE: PolicyMatch = 0;
pub const MATCH_L3_ONLY: PolicyMatch = 1;
pub const MATCH_L3_L4: PolicyMatch = 2;
pub const MATCH_L4_ONLY: PolicyMatch = 3;
pub const MATCH_ALL: PolicyMatch = 4;
pub const MATCH_L3_PROTO: PolicyMatch = 5;
pub const MATCH_PROTO_ONLY: PolicyMatch = 6;
pub type PolicyMatch = u32;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct IpcacheKey {
    pub family: u8,
    pub pad: [u8; 3usize],
    pub address: [u8; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IpcacheKey"][::core::mem::size_of::<IpcacheKey>() - 20usize];
    ["Alignment of IpcacheKey"][::core::mem::align_of::<IpcacheKey>() - 1usize];
    ["Offset of field: IpcacheKey::family"][::core::mem::offset_of!(IpcacheKey, family) - 0usize];
    ["Offset of field: IpcacheKey::pad"][::core::mem::offset_of!(IpcacheKey, pad) - 1usize];
    ["Offset of field: IpcacheKey::address"][::core::mem::offset_of!(IpcacheKey, address) - 4usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct IpcacheLpmKey {
    pub prefix: u32,
    pub key: IpcacheKey,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IpcacheLpmKey"][::core::mem::size_of::<IpcacheLpmKey>() - 24usize];
    ["Alignment of IpcacheLpmKey"][::core::mem::align_of::<IpcacheLpmKey>() - 4usize];
    ["Offset of field: IpcacheLpmKey::prefix"][::core::mem::offset_of!(IpcacheLpmKey, prefix) - 0usize];
    ["Offset of field: IpcacheLpmKey::key"][::core::mem::offset_of!(IpcacheLpmKey, key) - 4usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct IpcacheEntry {
    pub identity: u32,
    pub slot: u16,
    pub pad: u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of IpcacheEntry"][::core::mem::size_of::<IpcacheEntry>() - 8usize];
    ["Alignment of IpcacheEntry"][::core::mem::align_of::<IpcacheEntry>() - 4usize];
    ["Offset of field: IpcacheEntry::identity"][::core::mem::offset_of!(IpcacheEntry, identity) - 0usize];
    ["Offset of field: IpcacheEntry::slot"][::core::mem::offset_of!(IpcacheEntry, slot) - 4usize];
    ["Offset of field: IpcacheEntry::pad"][::core::mem::offset_of!(IpcacheEntry, pad) - 6usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct Vtep {
    pub family: u8,
    pub strict: u8,
    pub clusters: [u8; 2usize],
    pub node: u32,
    pub address: [u8; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Vtep"][::core::mem::size_of::<Vtep>() - 24usize];
    ["Alignment of Vtep"][::core::mem::align_of::<Vtep>() - 4usize];
    ["Offset of field: Vtep::family"][::core::mem::offset_of!(Vtep, family) - 0usize];
    ["Offset of field: Vtep::strict"][::core::mem::offset_of!(Vtep, strict) - 1usize];
    ["Offset of field: Vtep::clusters"][::core::mem::offset_of!(Vtep, clusters) - 2usize];
    ["Offset of field: Vtep::node"][::core::mem::offset_of!(Vtep, node) - 4usize];
    ["Offset of field: Vtep::address"][::core::mem::offset_of!(Vtep, address) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct Ct4Key {
    pub a: Be32,
    pub b: Be32,
    pub pa: Be16,
    pub pb: Be16,
    pub protocol: u8,
    pub asker: u8,
    pub pad: [u8; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Ct4Key"][::core::mem::size_of::<Ct4Key>() - 16usize];
    ["Alignment of Ct4Key"][::core::mem::align_of::<Ct4Key>() - 4usize];
    ["Offset of field: Ct4Key::a"][::core::mem::offset_of!(Ct4Key, a) - 0usize];
    ["Offset of field: Ct4Key::b"][::core::mem::offset_of!(Ct4Key, b) - 4usize];
    ["Offset of field: Ct4Key::pa"][::core::mem::offset_of!(Ct4Key, pa) - 8usize];
    ["Offset of field: Ct4Key::pb"][::core::mem::offset_of!(Ct4Key, pb) - 10usize];
    ["Offset of field: Ct4Key::protocol"][::core::mem::offset_of!(Ct4Key, protocol) - 12usize];
    ["Offset of field: Ct4Key::asker"][::core::mem::offset_of!(Ct4Key, asker) - 13usize];
    ["Offset of field: Ct4Key::pad"][::core::mem::offset_of!(Ct4Key, pad) - 14usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct Ct6Key {
    pub a: [u8; 16usize],
    pub b: [u8; 16usize],
    pub pa: Be16,
    pub pb: Be16,
    pub protocol: u8,
    pub asker: u8,
    pub pad: [u8; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Ct6Key"][::core::mem::size_of::<Ct6Key>() - 40usize];
    ["Alignment of Ct6Key"][::core::mem::align_of::<Ct6Key>() - 2usize];
    ["Offset of field: Ct6Key::a"][::core::mem::offset_of!(Ct6Key, a) - 0usize];
    ["Offset of field: Ct6Key::b"][::core::mem::offset_of!(Ct6Key, b) - 16usize];
    ["Offset of field: Ct6Key::pa"][::core::mem::offset_of!(Ct6Key, pa) - 32usize];
    ["Offset of field: Ct6Key::pb"][::core::mem::offset_of!(Ct6Key, pb) - 34usize];
    ["Offset of field: Ct6Key::protocol"][::core::mem::offset_of!(Ct6Key, protocol) - 36usize];
    ["Offset of field: Ct6Key::asker"][::core::mem::offset_of!(Ct6Key, asker) - 37usize];
    ["Offset of field: Ct6Key::pad"][::core::mem::offset_of!(Ct6Key, pad) - 38usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct CtEntry {
    pub stamp: [u32; 2usize],
    pub slot: [u16; 2usize],
    pub ipcache_generation: u32,
    pub seen: u32,
    pub flags: u8,
    pub tcp_flags: [u8; 2usize],
    pub reported: [u8; 2usize],
    pub pad: u8,
    pub node: u16,
    pub service: u32,
    pub packets: [u64; 2usize],
    pub bytes: [u64; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CtEntry"][::core::mem::size_of::<CtEntry>() - 64usize];
    ["Alignment of CtEntry"][::core::mem::align_of::<CtEntry>() - 8usize];
    ["Offset of field: CtEntry::stamp"][::core::mem::offset_of!(CtEntry, stamp) - 0usize];
    ["Offset of field: CtEntry::slot"][::core::mem::offset_of!(CtEntry, slot) - 8usize];
    ["Offset of field: CtEntry::ipcache_generation"][::core::mem::offset_of!(CtEntry, ipcache_generation) - 12usize];
    ["Offset of field: CtEntry::seen"][::core::mem::offset_of!(CtEntry, seen) - 16usize];
    ["Offset of field: CtEntry::flags"][::core::mem::offset_of!(CtEntry, flags) - 20usize];
    ["Offset of field: CtEntry::tcp_flags"][::core::mem::offset_of!(CtEntry, tcp_flags) - 21usize];
    ["Offset of field: CtEntry::reported"][::core::mem::offset_of!(CtEntry, reported) - 23usize];
    ["Offset of field: CtEntry::pad"][::core::mem::offset_of!(CtEntry, pad) - 25usize];
    ["Offset of field: CtEntry::node"][::core::mem::offset_of!(CtEntry, node) - 26usize];
    ["Offset of field: CtEntry::service"][::core::mem::offset_of!(CtEntry, service) - 28usize];
    ["Offset of field: CtEntry::packets"][::core::mem::offset_of!(CtEntry, packets) - 32usize];
    ["Offset of field: CtEntry::bytes"][::core::mem::offset_of!(CtEntry, bytes) - 48usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct Frag4Key {
    pub source: Be32,
    pub destination: Be32,
    pub id: Be16,
    pub protocol: u8,
    pub pad: u8,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Frag4Key"][::core::mem::size_of::<Frag4Key>() - 12usize];
    ["Alignment of Frag4Key"][::core::mem::align_of::<Frag4Key>() - 4usize];
    ["Offset of field: Frag4Key::source"][::core::mem::offset_of!(Frag4Key, source) - 0usize];
    ["Offset of field: Frag4Key::destination"][::core::mem::offset_of!(Frag4Key, destination) - 4usize];
    ["Offset of field: Frag4Key::id"][::core::mem::offset_of!(Frag4Key, id) - 8usize];
    ["Offset of field: Frag4Key::protocol"][::core::mem::offset_of!(Frag4Key, protocol) - 10usize];
    ["Offset of field: Frag4Key::pad"][::core::mem::offset_of!(Frag4Key, pad) - 11usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct Frag6Key {
    pub source: [u8; 16usize],
    pub destination: [u8; 16usize],
    pub id: Be32,
    pub protocol: u8,
    pub pad: [u8; 3usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Frag6Key"][::core::mem::size_of::<Frag6Key>() - 40usize];
    ["Alignment of Frag6Key"][::core::mem::align_of::<Frag6Key>() - 4usize];
    ["Offset of field: Frag6Key::source"][::core::mem::offset_of!(Frag6Key, source) - 0usize];
    ["Offset of field: Frag6Key::destination"][::core::mem::offset_of!(Frag6Key, destination) - 16usize];
    ["Offset of field: Frag6Key::id"][::core::mem::offset_of!(Frag6Key, id) - 32usize];
    ["Offset of field: Frag6Key::protocol"][::core::mem::offset_of!(Frag6Key, protocol) - 36usize];
    ["Offset of field: Frag6Key::pad"][::core::mem::offset_of!(Frag6Key, pad) - 37usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct FragEntry {
    pub source_port: Be16,
    pub destination_port: Be16,
    pub seen: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of FragEntry"][::core::mem::size_of::<FragEntry>() - 8usize];
    ["Alignment of FragEntry"][::core::mem::align_of::<FragEntry>() - 4usize];
    ["Offset of field: FragEntry::source_port"][::core::mem::offset_of!(FragEntry, source_port) - 0usize];
    ["Offset of field: FragEntry::destination_port"][::core::mem::offset_of!(FragEntry, destination_port) - 2usize];
    ["Offset of field: FragEntry::seen"][::core::mem::offset_of!(FragEntry, seen) - 4usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct LbKey {
    pub address: [u8; 16usize],
    pub port: Be16,
    pub protocol: u8,
    pub family: u8,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LbKey"][::core::mem::size_of::<LbKey>() - 20usize];
    ["Alignment of LbKey"][::core::mem::align_of::<LbKey>() - 2usize];
    ["Offset of field: LbKey::address"][::core::mem::offset_of!(LbKey, address) - 0usize];
    ["Offset of field: LbKey::port"][::core::mem::offset_of!(LbKey, port) - 16usize];
    ["Offset of field: LbKey::protocol"][::core::mem::offset_of!(LbKey, protocol) - 18usize];
    ["Offset of field: LbKey::family"][::core::mem::offset_of!(LbKey, family) - 19usize];
};
pub const LB_CLUSTER_IP: LbKind = 1;
pub const LB_NODE_PORT: LbKind = 2;
pub const LB_EXTERNAL_IP: LbKind = 3;
pub const LB_LOAD_BALANCER: LbKind = 4;
pub const LB_HOST_PORT: LbKind = 5;
pub type LbKind = u32;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct LbService {
    pub number: u32,
    pub first: [u32; 2usize],
    pub places: [u32; 2usize],
    pub affinity: u32,
    pub kind: u8,
    pub flags: u8,
    pub pad: [u8; 2usize],
    pub id: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LbService"][::core::mem::size_of::<LbService>() - 32usize];
    ["Alignment of LbService"][::core::mem::align_of::<LbService>() - 4usize];
    ["Offset of field: LbService::number"][::core::mem::offset_of!(LbService, number) - 0usize];
    ["Offset of field: LbService::first"][::core::mem::offset_of!(LbService, first) - 4usize];
    ["Offset of field: LbService::places"][::core::mem::offset_of!(LbService, places) - 12usize];
    ["Offset of field: LbService::affinity"][::core::mem::offset_of!(LbService, affinity) - 20usize];
    ["Offset of field: LbService::kind"][::core::mem::offset_of!(LbService, kind) - 24usize];
    ["Offset of field: LbService::flags"][::core::mem::offset_of!(LbService, flags) - 25usize];
    ["Offset of field: LbService::pad"][::core::mem::offset_of!(LbService, pad) - 26usize];
    ["Offset of field: LbService::id"][::core::mem::offset_of!(LbService, id) - 28usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct LbRow {
    pub backend: [u32; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LbRow"][::core::mem::size_of::<LbRow>() - 64usize];
    ["Alignment of LbRow"][::core::mem::align_of::<LbRow>() - 4usize];
    ["Offset of field: LbRow::backend"][::core::mem::offset_of!(LbRow, backend) - 0usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct LbBackend {
    pub number: u32,
    pub port: Be16,
    pub family: u8,
    pub pad: u8,
    pub address: [u8; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LbBackend"][::core::mem::size_of::<LbBackend>() - 24usize];
    ["Alignment of LbBackend"][::core::mem::align_of::<LbBackend>() - 4usize];
    ["Offset of field: LbBackend::number"][::core::mem::offset_of!(LbBackend, number) - 0usize];
    ["Offset of field: LbBackend::port"][::core::mem::offset_of!(LbBackend, port) - 4usize];
    ["Offset of field: LbBackend::family"][::core::mem::offset_of!(LbBackend, family) - 6usize];
    ["Offset of field: LbBackend::pad"][::core::mem::offset_of!(LbBackend, pad) - 7usize];
    ["Offset of field: LbBackend::address"][::core::mem::offset_of!(LbBackend, address) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct LbReverse {
    pub number: u32,
    pub port: Be16,
    pub family: u8,
    pub pad: u8,
    pub address: [u8; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LbReverse"][::core::mem::size_of::<LbReverse>() - 24usize];
    ["Alignment of LbReverse"][::core::mem::align_of::<LbReverse>() - 4usize];
    ["Offset of field: LbReverse::number"][::core::mem::offset_of!(LbReverse, number) - 0usize];
    ["Offset of field: LbReverse::port"][::core::mem::offset_of!(LbReverse, port) - 4usize];
    ["Offset of field: LbReverse::family"][::core::mem::offset_of!(LbReverse, family) - 6usize];
    ["Offset of field: LbReverse::pad"][::core::mem::offset_of!(LbReverse, pad) - 7usize];
    ["Offset of field: LbReverse::address"][::core::mem::offset_of!(LbReverse, address) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct SnatKey {
    pub backend: [u8; 16usize],
    pub backend_port: Be16,
    pub port: Be16,
    pub protocol: u8,
    pub family: u8,
    pub pad: [u8; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SnatKey"][::core::mem::size_of::<SnatKey>() - 24usize];
    ["Alignment of SnatKey"][::core::mem::align_of::<SnatKey>() - 2usize];
    ["Offset of field: SnatKey::backend"][::core::mem::offset_of!(SnatKey, backend) - 0usize];
    ["Offset of field: SnatKey::backend_port"][::core::mem::offset_of!(SnatKey, backend_port) - 16usize];
    ["Offset of field: SnatKey::port"][::core::mem::offset_of!(SnatKey, port) - 18usize];
    ["Offset of field: SnatKey::protocol"][::core::mem::offset_of!(SnatKey, protocol) - 20usize];
    ["Offset of field: SnatKey::family"][::core::mem::offset_of!(SnatKey, family) - 21usize];
    ["Offset of field: SnatKey::pad"][::core::mem::offset_of!(SnatKey, pad) - 22usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct SnatEntry {
    pub claim: u64,
    pub client: [u8; 16usize],
    pub client_port: Be16,
    pub pad: [u8; 6usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SnatEntry"][::core::mem::size_of::<SnatEntry>() - 32usize];
    ["Alignment of SnatEntry"][::core::mem::align_of::<SnatEntry>() - 8usize];
    ["Offset of field: SnatEntry::claim"][::core::mem::offset_of!(SnatEntry, claim) - 0usize];
    ["Offset of field: SnatEntry::client"][::core::mem::offset_of!(SnatEntry, client) - 8usize];
    ["Offset of field: SnatEntry::client_port"][::core::mem::offset_of!(SnatEntry, client_port) - 24usize];
    ["Offset of field: SnatEntry::pad"][::core::mem::offset_of!(SnatEntry, pad) - 26usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct LbClient {
    pub client: [u8; 16usize],
    pub service: u32,
    pub by_cookie: u8,
    pub pad: [u8; 3usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LbClient"][::core::mem::size_of::<LbClient>() - 24usize];
    ["Alignment of LbClient"][::core::mem::align_of::<LbClient>() - 4usize];
    ["Offset of field: LbClient::client"][::core::mem::offset_of!(LbClient, client) - 0usize];
    ["Offset of field: LbClient::service"][::core::mem::offset_of!(LbClient, service) - 16usize];
    ["Offset of field: LbClient::by_cookie"][::core::mem::offset_of!(LbClient, by_cookie) - 20usize];
    ["Offset of field: LbClient::pad"][::core::mem::offset_of!(LbClient, pad) - 21usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct LbAffinity {
    pub backend: u32,
    pub seen: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LbAffinity"][::core::mem::size_of::<LbAffinity>() - 8usize];
    ["Alignment of LbAffinity"][::core::mem::align_of::<LbAffinity>() - 4usize];
    ["Offset of field: LbAffinity::backend"][::core::mem::offset_of!(LbAffinity, backend) - 0usize];
    ["Offset of field: LbAffinity::seen"][::core::mem::offset_of!(LbAffinity, seen) - 4usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct LbMember {
    pub service: u32,
    pub backend: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LbMember"][::core::mem::size_of::<LbMember>() - 8usize];
    ["Alignment of LbMember"][::core::mem::align_of::<LbMember>() - 4usize];
    ["Offset of field: LbMember::service"][::core::mem::offset_of!(LbMember, service) - 0usize];
    ["Offset of field: LbMember::backend"][::core::mem::offset_of!(LbMember, backend) - 4usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct LbSource {
    pub prefix: u32,
    pub service: u32,
    pub address: [u8; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LbSource"][::core::mem::size_of::<LbSource>() - 24usize];
    ["Alignment of LbSource"][::core::mem::align_of::<LbSource>() - 4usize];
    ["Offset of field: LbSource::prefix"][::core::mem::offset_of!(LbSource, prefix) - 0usize];
    ["Offset of field: LbSource::service"][::core::mem::offset_of!(LbSource, service) - 4usize];
    ["Offset of field: LbSource::address"][::core::mem::offset_of!(LbSource, address) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct LbPeer {
    pub cookie: u64,
    pub address: [u8; 16usize],
    pub port: Be16,
    pub family: u8,
    pub pad: [u8; 5usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LbPeer"][::core::mem::size_of::<LbPeer>() - 32usize];
    ["Alignment of LbPeer"][::core::mem::align_of::<LbPeer>() - 8usize];
    ["Offset of field: LbPeer::cookie"][::core::mem::offset_of!(LbPeer, cookie) - 0usize];
    ["Offset of field: LbPeer::address"][::core::mem::offset_of!(LbPeer, address) - 8usize];
    ["Offset of field: LbPeer::port"][::core::mem::offset_of!(LbPeer, port) - 24usize];
    ["Offset of field: LbPeer::family"][::core::mem::offset_of!(LbPeer, family) - 26usize];
    ["Offset of field: LbPeer::pad"][::core::mem::offset_of!(LbPeer, pad) - 27usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct LbAsked {
    pub address: [u8; 16usize],
    pub port: Be16,
    pub family: u8,
    pub pad: u8,
    pub service: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LbAsked"][::core::mem::size_of::<LbAsked>() - 24usize];
    ["Alignment of LbAsked"][::core::mem::align_of::<LbAsked>() - 4usize];
    ["Offset of field: LbAsked::address"][::core::mem::offset_of!(LbAsked, address) - 0usize];
    ["Offset of field: LbAsked::port"][::core::mem::offset_of!(LbAsked, port) - 16usize];
    ["Offset of field: LbAsked::family"][::core::mem::offset_of!(LbAsked, family) - 18usize];
    ["Offset of field: LbAsked::pad"][::core::mem::offset_of!(LbAsked, pad) - 19usize];
    ["Offset of field: LbAsked::service"][::core::mem::offset_of!(LbAsked, service) - 20usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct Metric {
    pub packets: [u64; 4usize],
    pub bytes: [u64; 4usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Metric"][::core::mem::size_of::<Metric>() - 64usize];
    ["Alignment of Metric"][::core::mem::align_of::<Metric>() - 8usize];
    ["Offset of field: Metric::packets"][::core::mem::offset_of!(Metric, packets) - 0usize];
    ["Offset of field: Metric::bytes"][::core::mem::offset_of!(Metric, bytes) - 32usize];
};
pub const MONITOR_DROPS: MonitorLevel = 0;
pub const MONITOR_VERDICTS: MonitorLevel = 1;
pub const MONITOR_MEDIUM: MonitorLevel = 2;
pub const MONITOR_ALL: MonitorLevel = 3;
pub type MonitorLevel = u32;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct Runtime {
    pub ipcache_generation: u32,
    pub monitor: u32,
    pub tunnel4: Be32,
    pub tunnel6: [u8; 16usize],
    pub tunnel_mtu: u32,
    pub node4: Be32,
    pub node6: [u8; 16usize],
    pub pad: [u32; 3usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Runtime"][::core::mem::size_of::<Runtime>() - 64usize];
    ["Alignment of Runtime"][::core::mem::align_of::<Runtime>() - 4usize];
    ["Offset of field: Runtime::ipcache_generation"][::core::mem::offset_of!(Runtime, ipcache_generation) - 0usize];
    ["Offset of field: Runtime::monitor"][::core::mem::offset_of!(Runtime, monitor) - 4usize];
    ["Offset of field: Runtime::tunnel4"][::core::mem::offset_of!(Runtime, tunnel4) - 8usize];
    ["Offset of field: Runtime::tunnel6"][::core::mem::offset_of!(Runtime, tunnel6) - 12usize];
    ["Offset of field: Runtime::tunnel_mtu"][::core::mem::offset_of!(Runtime, tunnel_mtu) - 28usize];
    ["Offset of field: Runtime::node4"][::core::mem::offset_of!(Runtime, node4) - 32usize];
    ["Offset of field: Runtime::node6"][::core::mem::offset_of!(Runtime, node6) - 36usize];
    ["Offset of field: Runtime::pad"][::core::mem::offset_of!(Runtime, pad) - 52usize];
};
pub const EVENT_DROP: EventKind = 1;
pub const EVENT_TRACE: EventKind = 4;
pub const EVENT_VERDICT: EventKind = 5;
pub type EventKind = u32;
pub const POINT_TO_ENDPOINT: ObservationPoint = 0;
pub const POINT_TO_HOST: ObservationPoint = 2;
pub const POINT_TO_STACK: ObservationPoint = 3;
pub const POINT_TO_OVERLAY: ObservationPoint = 4;
pub const POINT_FROM_ENDPOINT: ObservationPoint = 5;
pub const POINT_FROM_OVERLAY: ObservationPoint = 9;
pub type ObservationPoint = u32;
pub const CT_NEW: CtState = 0;
pub const CT_ESTABLISHED: CtState = 1;
pub const CT_REPLY: CtState = 2;
pub const CT_RELATED: CtState = 3;
pub type CtState = u32;
#[repr(C)]
#[derive(Debug, Copy, Clone, Hash, PartialOrd, Ord, PartialEq, Eq)]
pub struct Event {
    pub timestamp: u64,
    pub kind: u8,
    pub reason: u8,
    pub point: u8,
    pub direction: u8,
    pub ct_state: u8,
    pub matched: u8,
    pub family: u8,
    pub protocol: u8,
    pub source_identity: u32,
    pub destination_identity: u32,
    pub source_slot: u16,
    pub destination_slot: u16,
    pub source_port: u16,
    pub destination_port: u16,
    pub ifindex: u32,
    pub length: u32,
    pub captured: u16,
    pub cpu: u16,
    pub pad: u32,
    pub packet: [u8; 128usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of Event"][::core::mem::size_of::<Event>() - 176usize];
    ["Alignment of Event"][::core::mem::align_of::<Event>() - 8usize];
    ["Offset of field: Event::timestamp"][::core::mem::offset_of!(Event, timestamp) - 0usize];
    ["Offset of field: Event::kind"][::core::mem::offset_of!(Event, kind) - 8usize];
    ["Offset of field: Event::reason"][::core::mem::offset_of!(Event, reason) - 9usize];
    ["Offset of field: Event::point"][::core::mem::offset_of!(Event, point) - 10usize];
    ["Offset of field: Event::direction"][::core::mem::offset_of!(Event, direction) - 11usize];
    ["Offset of field: Event::ct_state"][::core::mem::offset_of!(Event, ct_state) - 12usize];
    ["Offset of field: Event::matched"][::core::mem::offset_of!(Event, matched) - 13usize];
    ["Offset of field: Event::family"][::core::mem::offset_of!(Event, family) - 14usize];
    ["Offset of field: Event::protocol"][::core::mem::offset_of!(Event, protocol) - 15usize];
    ["Offset of field: Event::source_identity"][::core::mem::offset_of!(Event, source_identity) - 16usize];
    ["Offset of field: Event::destination_identity"][::core::mem::offset_of!(Event, destination_identity) - 20usize];
    ["Offset of field: Event::source_slot"][::core::mem::offset_of!(Event, source_slot) - 24usize];
    ["Offset of field: Event::destination_slot"][::core::mem::offset_of!(Event, destination_slot) - 26usize];
    ["Offset of field: Event::source_port"][::core::mem::offset_of!(Event, source_port) - 28usize];
    ["Offset of field: Event::destination_port"][::core::mem::offset_of!(Event, destination_port) - 30usize];
    ["Offset of field: Event::ifindex"][::core::mem::offset_of!(Event, ifindex) - 32usize];
    ["Offset of field: Event::length"][::core::mem::offset_of!(Event, length) - 36usize];
    ["Offset of field: Event::captured"][::core::mem::offset_of!(Event, captured) - 40usize];
    ["Offset of field: Event::cpu"][::core::mem::offset_of!(Event, cpu) - 42usize];
    ["Offset of field: Event::pad"][::core::mem::offset_of!(Event, pad) - 44usize];
    ["Offset of field: Event::packet"][::core::mem::offset_of!(Event, packet) - 48usize];
};
impl Default for Event {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
pub const DROP_INVALID_SOURCE: DropReason = 132;
pub const DROP_POLICY_DENIED: DropReason = 133;
pub const DROP_INVALID_PACKET: DropReason = 134;
pub const DROP_CT_INVALID_HEADER: DropReason = 135;
pub const DROP_TOO_LONG: DropReason = 136;
pub const DROP_CT_UNKNOWN_PROTOCOL: DropReason = 137;
pub const DROP_UNSUPPORTED_L3: DropReason = 139;
pub const DROP_WRITE_ERROR: DropReason = 141;
pub const DROP_TUNNEL_KEY: DropReason = 147;
pub const DROP_UNROUTABLE: DropReason = 151;
pub const DROP_NO_ENDPOINT: DropReason = 152;
pub const DROP_CT_INSERT_FAILED: DropReason = 155;
pub const DROP_INVALID_EXTENSION: DropReason = 156;
pub const DROP_FRAGMENTED: DropReason = 157;
pub const DROP_NO_SERVICE: DropReason = 158;
pub const DROP_NAT_NO_MAPPING: DropReason = 161;
pub const DROP_UNKNOWN_CT_STATE: DropReason = 163;
pub const DROP_NO_POLICY: DropReason = 165;
pub const DROP_UNSUPPORTED_L2: DropReason = 166;
pub const DROP_NO_FIB: DropReason = 169;
pub const DROP_ENCAPSULATION: DropReason = 170;
pub const DROP_INVALID_IDENTITY: DropReason = 171;
pub const DROP_UNKNOWN_SENDER: DropReason = 172;
pub const DROP_CLUSTER_IP: DropReason = 174;
pub const DROP_FRAGMENT_NOT_FOUND: DropReason = 175;
pub const DROP_FORBIDDEN_ICMP6: DropReason = 176;
pub const DROP_NOT_IN_SOURCE_RANGE: DropReason = 177;
pub const DROP_NO_PROXY: DropReason = 180;
pub const DROP_POLICY_DENY: DropReason = 181;
pub const DROP_TTL_EXCEEDED: DropReason = 196;
pub type DropReason = u32;

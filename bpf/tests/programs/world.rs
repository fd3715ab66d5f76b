//! A node with three containers, each test's own.
//!
//! Owns the addresses, and how a policy of `model` becomes map entries.

use bpf::abi;
use bpf::testing::node::{ACT_OK, ACT_REDIRECT, ACT_SHOT};
use bpf::testing::packet::Packet;
use bpf::testing::{Node, Options, Ran};
use model::{Direction, Identity, PolicyEntry, PolicyKey, PolicyMap, Protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Containers by slot; their identity is 1000 more.
pub const A: u32 = 5;
pub const B: u32 = 6;
/// On an internal network.
pub const C: u32 = 7;

pub fn identity(slot: u32) -> Identity {
    Identity(1000 + slot)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    V4,
    V6,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    /// A container's address.
    pub fn of(self, slot: u32) -> IpAddr {
        self.pick(Ipv4Addr::new(10, 15, 0, slot as u8), Ipv6Addr::new(0xf00d, 0, 0, 0, 0, 0, 0xa0f, slot as u16))
    }

    /// The host's address, in the address cache as such.
    pub fn host(self) -> IpAddr {
        self.pick(Ipv4Addr::new(10, 15, 0, 1), Ipv6Addr::new(0xf00d, 0, 0, 0, 0, 0, 0xa0f, 1))
    }

    /// Nobody in particular.
    pub fn world(self) -> IpAddr {
        self.pick(Ipv4Addr::new(192, 0, 2, 9), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9))
    }

    /// The identity of what is in no address cache.
    pub fn outside(self) -> Identity {
        if self == Family::V4 { Identity::WORLD_IPV4 } else { Identity::WORLD_IPV6 }
    }

    /// Within the prefix that has the identity `CIDR`.
    pub fn cidr(self) -> IpAddr {
        self.pick(Ipv4Addr::new(198, 51, 100, 7), Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 7))
    }

    pub fn icmp(self) -> Protocol {
        if self == Family::V4 { Protocol::ICMP } else { Protocol::ICMPV6 }
    }

    pub fn echo_type(self) -> u16 {
        if self == Family::V4 { 8 } else { 128 }
    }

    fn pick(self, v4: Ipv4Addr, v6: Ipv6Addr) -> IpAddr {
        if self == Family::V4 { v4.into() } else { v6.into() }
    }
}

/// The identity of 198.51.100.0/24 and 2001:db8:51::/48.
pub const CIDR: Identity = Identity(Identity::FIRST_LOCAL + 3);

pub fn mac(slot: u32) -> [u8; 6] {
    [2, 0, 0, 0, 1, slot as u8]
}

pub fn node_mac(slot: u32) -> [u8; 6] {
    [2, 0, 0, 0, 2, slot as u8]
}

/// The number of a container's host-side device.
pub fn device(slot: u32) -> u32 {
    abi::LXC_IFINDEX_BASE + slot
}

/// A device of the host that is no container's: where the world comes in.
pub const UPLINK: u32 = 3;

/// The node's own underlay addresses.
pub const NODE4: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);

pub struct World {
    pub node: Node,
    next_policy: u32,
    generation: u32,
}

impl World {
    /// All containers refuse everything.
    pub fn new() -> World {
        World::with(&Options::default())
    }

    pub fn with(options: &Options) -> World {
        let node = Node::new(options).expect("the programs load: needs root");
        let mut world = World { node, next_policy: 0x5_0000, generation: 0 };
        for slot in [A, B, C] {
            world.node.set_endpoint(slot, endpoint(slot)).unwrap();
            world.set_policy(slot, &PolicyMap::default());
            for family in FAMILIES {
                world.set_address(family.of(slot), identity(slot), slot);
            }
        }
        for family in FAMILIES {
            world.set_address(family.host(), Identity::HOST, 0);
            let (key, bits) = (ipcache_key(family.cidr()), if family == Family::V4 { 24 } else { 48 });
            world.node.set_ipcache(key, bits, abi::IpcacheEntry { identity: CIDR.0, ..Default::default() }).unwrap();
        }
        world.monitor(abi::MONITOR_MEDIUM);
        world
    }

    /// Everything is allowed for all.
    pub fn open() -> World {
        let mut world = World::new();
        world.allow_all(&[A, B, C]);
        world
    }

    pub fn allow_all(&mut self, slots: &[u32]) {
        for slot in slots {
            self.set_policy(*slot, &PolicyMap::allow_all());
        }
    }

    /// Puts a policy in force under a new id, as user space does: entries, header, endpoint.
    pub fn set_policy(&mut self, slot: u32, policy: &PolicyMap) -> u32 {
        self.next_policy += 1;
        let id = self.next_policy;
        for (key, entry) in policy.iter() {
            self.node.set_policy(key_of(id, &key), entry_of(&entry)).unwrap();
        }
        self.node.set_header(header_of(id, identity(slot), policy)).unwrap();
        self.change_endpoint(slot, |endpoint| endpoint.policy = id);
        id
    }

    pub fn change_endpoint(&mut self, slot: u32, change: impl FnOnce(&mut abi::Endpoint)) {
        let mut endpoint = self.node.endpoint(slot).unwrap();
        change(&mut endpoint);
        self.node.set_endpoint(slot, endpoint).unwrap();
    }

    /// Writes the address cache and raises its generation.
    pub fn set_address(&mut self, address: IpAddr, identity: Identity, slot: u32) {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let entry = abi::IpcacheEntry { identity: identity.0, slot: slot as u16, ..Default::default() };
        self.node.set_ipcache(ipcache_key(address), bits, entry).unwrap();
        self.generation += 1;
        self.monitor(abi::MONITOR_MEDIUM);
    }

    pub fn monitor(&mut self, monitor: u32) {
        let (tunnel4, tunnel6) = (NODE4.into(), NODE6.octets());
        let ipcache_generation = self.generation;
        let runtime = abi::Runtime { ipcache_generation, monitor, tunnel4, tunnel6, ..Default::default() };
        self.node.set_runtime(runtime).unwrap();
    }

    /// The largest packet that the tunnel takes.
    pub fn limit_tunnel(&mut self, tunnel_mtu: u32) {
        let (ipcache_generation, monitor) = (self.generation, abi::MONITOR_MEDIUM);
        let runtime = abi::Runtime { ipcache_generation, monitor, tunnel_mtu, ..Default::default() };
        self.node.set_runtime(runtime).unwrap();
    }

    pub fn leave(&mut self, slot: u32, packet: &Packet) -> Ran {
        self.node.leave(slot, &packet.build()).unwrap()
    }

    /// From the host itself.
    pub fn enter_from_host(&mut self, slot: u32, packet: &Packet) -> Ran {
        self.node.enter(slot, 0, &packet.build()).unwrap()
    }

    /// From outside.
    pub fn enter_from_world(&mut self, slot: u32, packet: &Packet) -> Ran {
        self.node.enter(slot, UPLINK, &packet.build()).unwrap()
    }

    /// Leaves `slot` and is delivered to a container of this node.
    #[track_caller]
    pub fn delivered(&mut self, slot: u32, packet: &Packet) {
        let ran = self.leave(slot, packet);
        assert_eq!(ran.action, ACT_REDIRECT, "{packet:?}: {:?}", self.node.events());
    }

    /// Leaves `slot` for the host's stack.
    #[track_caller]
    pub fn reaches_stack(&mut self, slot: u32, packet: &Packet) {
        let ran = self.leave(slot, packet);
        assert_eq!(ran.action, ACT_OK, "{packet:?}: {:?}", self.node.events());
    }

    /// The action was a drop: it was counted and reported for `reason`, in `direction`.
    #[track_caller]
    pub fn dropped(&mut self, ran: &Ran, reason: u32, direction: u32) -> abi::Event {
        assert_eq!(ran.action, ACT_SHOT, "not dropped: {:?}", self.node.events());
        let events = self.node.events().unwrap();
        let event = events.last().copied().expect("a drop is reported");
        assert_eq!(u32::from(event.kind), abi::EVENT_DROP, "{event:?}");
        assert_eq!((u32::from(event.reason), u32::from(event.direction)), (reason, direction), "{event:?}");
        assert!(self.node.metric(reason, direction).unwrap().0 > 0, "a drop is counted");
        event
    }

    #[track_caller]
    pub fn leave_dropped(&mut self, slot: u32, packet: &Packet, reason: u32) -> abi::Event {
        let ran = self.leave(slot, packet);
        self.dropped(&ran, reason, abi::DIRECTION_EGRESS)
    }

    /// Refused by the other end's policy.
    #[track_caller]
    pub fn refused_there(&mut self, slot: u32, packet: &Packet, reason: u32) -> abi::Event {
        let ran = self.leave(slot, packet);
        self.dropped(&ran, reason, abi::DIRECTION_INGRESS)
    }

    /// How many flows of the family are known.
    pub fn flows(&self, family: Family) -> usize {
        match family {
            Family::V4 => self.node.flows4().unwrap().len(),
            Family::V6 => self.node.flows6().unwrap().len(),
        }
    }

    /// Changes the only flow of the family.
    pub fn change_flow(&mut self, family: Family, change: impl FnOnce(&mut abi::CtEntry)) {
        match family {
            Family::V4 => {
                let [(key, mut entry)] = self.node.flows4().unwrap()[..] else { panic!("one flow") };
                change(&mut entry);
                self.node.set_flow4(key, entry).unwrap();
            }
            Family::V6 => {
                let [(key, mut entry)] = self.node.flows6().unwrap()[..] else { panic!("one flow") };
                change(&mut entry);
                self.node.set_flow6(key, entry).unwrap();
            }
        }
    }

    /// The only flow of the family.
    pub fn flow(&self, family: Family) -> abi::CtEntry {
        match family {
            Family::V4 => match self.node.flows4().unwrap()[..] {
                [(_, entry)] => entry,
                ref all => panic!("{} flows", all.len()),
            },
            Family::V6 => match self.node.flows6().unwrap()[..] {
                [(_, entry)] => entry,
                ref all => panic!("{} flows", all.len()),
            },
        }
    }
}

pub fn endpoint(slot: u32) -> abi::Endpoint {
    let (IpAddr::V4(ipv4), IpAddr::V6(ipv6)) = (Family::V4.of(slot), Family::V6.of(slot)) else { panic!("families") };
    let internal = if slot == C { abi::ENDPOINT_INTERNAL } else { 0 };
    abi::Endpoint {
        identity: identity(slot).0,
        ipv4: ipv4.into(),
        ipv6: ipv6.octets(),
        flags: (abi::ENDPOINT_VALID | internal) as u16,
        mac: mac(slot),
        node_mac: node_mac(slot),
        ..Default::default()
    }
}

pub fn ipcache_key(address: IpAddr) -> abi::IpcacheKey {
    let mut key = abi::IpcacheKey::default();
    match address {
        IpAddr::V4(a) => {
            key.family = abi::FAMILY_IPV4 as u8;
            key.address[..4].copy_from_slice(&a.octets());
        }
        IpAddr::V6(a) => {
            key.family = abi::FAMILY_IPV6 as u8;
            key.address = a.octets();
        }
    }
    key
}

pub fn key_of(policy: u32, key: &PolicyKey) -> abi::PolicyKey {
    let egress = if key.direction == Direction::Egress { abi::POLICY_KEY_EGRESS as u8 } else { 0 };
    abi::PolicyKey {
        policy,
        identity: key.identity.0,
        port: key.port,
        protocol: key.protocol.map_or(0, |p| p.0),
        class_direction: key.class() | egress,
    }
}

pub fn entry_of(entry: &PolicyEntry) -> abi::PolicyEntry {
    abi::PolicyEntry {
        flags: if entry.deny { abi::POLICY_DENY as u8 } else { 0 },
        precedence: entry.precedence,
        proxy_port: entry.proxy_port,
        ..Default::default()
    }
}

pub fn header_of(id: u32, subject: Identity, policy: &PolicyMap) -> abi::PolicyHeader {
    let mut header = abi::PolicyHeader { id, identity: subject.0, ..Default::default() };
    for key in policy.keys() {
        let whose = if key.identity == Identity::UNKNOWN { abi::POLICY_ANY_PEER } else { abi::POLICY_PEER };
        header.classes[key.direction as usize][whose as usize] |= 1 << key.class();
    }
    header
}

/// A policy of these entries.
pub fn policy(entries: impl IntoIterator<Item = (PolicyKey, PolicyEntry)>) -> PolicyMap {
    entries.into_iter().collect::<PolicyMap>().enforcing(true, true)
}

/// Lets `peer` open one TCP port.
pub fn one_port(direction: Direction, peer: Identity, port: u16) -> (PolicyKey, PolicyEntry) {
    (PolicyKey::one_port(direction, peer, Protocol::TCP, port), PolicyEntry::ALLOW)
}

/// Lets everything go in a direction.
pub fn any(direction: Direction) -> (PolicyKey, PolicyEntry) {
    (PolicyKey::any_port(direction, Identity::UNKNOWN), PolicyEntry::ALLOW)
}

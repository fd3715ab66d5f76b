//! The programs loaded into maps of their own, as on a node of which nobody knows.
//!
//! Owns loading, running and reading back; packets are made in `packet`.

use super::pins::Pins;
use super::tap::{self, Arrival, Tap};
use crate::abi;
use crate::names::{knob, map, program};
use anyhow::Context;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, ProgramArray, RingBuf};
use aya::programs::{SchedClassifier, TcAttachType, TestRun, tc};
use aya::{Ebpf, EbpfLoader, TestRunOptions};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What differs from the programs as they stand.
#[derive(Default)]
pub struct Options {
    /// Values of `names::knob`.
    pub knobs: Vec<(&'static str, u32)>,
    /// Sizes of maps; conntrack is small unless named, the real size takes long to make.
    pub sizes: Vec<(&'static str, u32)>,
    /// Maps are taken from and left in this directory, so that two nodes can share them.
    pub pins: Option<std::path::PathBuf>,
}

const SMALL: [(&str, u32); 16] = [
    (map::CT4, 4096),
    (map::CT6, 4096),
    (map::IPCACHE, 4096),
    (map::IPCACHE_LPM, 4096),
    (map::POLICY, 16384),
    (map::IDENTITIES, 4096),
    (map::TUNNEL, 4096),
    (map::NODES, 4096),
    (map::EVENTS, 1 << 20),
    (map::LB_SERVICES, 4096),
    (map::LB_PLACES, 4096),
    (map::LB_BACKENDS, 4096),
    (map::LB_REVERSE, 4096),
    (map::LB_AFFINITY, 4096),
    (map::LB_AFFINITY_MATCH, 4096),
    (map::LB_SOURCE_RANGE, 4096),
];

/// Room in front of and behind what a program may make of a packet.
const ROOM: usize = 4096;

/// The programs and their maps.
pub struct Node {
    ebpf: Ebpf,
    taps: BTreeMap<u32, Tap>,
    attached: BTreeSet<u32>,
    driver: Option<Ebpf>,
    _pins: Option<Pins>,
}

/// What a program did with a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// `TC_ACT_*`.
    pub action: i32,
    pub packet: Vec<u8>,
}

/// Left to whoever is next.
pub const ACT_UNSPEC: i32 = -1;
/// Delivered.
pub const ACT_OK: i32 = 0;
/// Dropped.
pub const ACT_SHOT: i32 = 2;
/// Sent to another device.
pub const ACT_REDIRECT: i32 = 7;

impl Node {
    /// Loads the programs; needs root. The calling thread gets a network namespace of its own.
    pub fn new(options: &Options) -> anyhow::Result<Node> {
        tap::own_network()?;
        let (pins, directory) = match &options.pins {
            Some(directory) => (None, directory.clone()),
            None => {
                let pins = Pins::new()?;
                let directory = pins.path();
                (Some(pins), directory)
            }
        };
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(directory);
        for (name, size) in SMALL.iter().chain(&options.sizes) {
            loader.map_max_entries(name, *size);
        }
        for (name, value) in &options.knobs {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(crate::CONTAINER).context("load the programs' object")?;
        for name in program::ALL {
            let program: &mut SchedClassifier = ebpf.program_mut(name).context(name)?.try_into()?;
            program.load().with_context(|| format!("load {name}"))?;
        }
        Ok(Node { ebpf, taps: BTreeMap::new(), attached: BTreeSet::new(), driver: None, _pins: pins })
    }

    /// The loaded program.
    pub fn program(&self, name: &str) -> anyhow::Result<&SchedClassifier> {
        Ok(self.ebpf.program(name).context("no such program")?.try_into()?)
    }

    fn map(&self, name: &str) -> anyhow::Result<&Map> {
        self.ebpf.map(name).with_context(|| format!("no map {name}"))
    }

    fn map_mut(&mut self, name: &str) -> anyhow::Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    /// An endpoint; its device is made on its first packet.
    pub fn set_endpoint(&mut self, slot: u32, endpoint: abi::Endpoint) -> anyhow::Result<()> {
        Array::<_, abi::Endpoint>::try_from(self.map_mut(map::LXC)?)?.set(slot, endpoint, 0)?;
        Ok(())
    }

    pub fn endpoint(&self, slot: u32) -> anyhow::Result<abi::Endpoint> {
        Ok(Array::<_, abi::Endpoint>::try_from(self.map(map::LXC)?)?.get(&slot, 0)?)
    }

    pub fn set_header(&mut self, header: abi::PolicyHeader) -> anyhow::Result<()> {
        let slot = header.id % abi::POLICY_SLOTS;
        Array::<_, abi::PolicyHeader>::try_from(self.map_mut(map::POLICIES)?)?.set(slot, header, 0)?;
        Ok(())
    }

    pub fn set_policy(&mut self, key: abi::PolicyKey, entry: abi::PolicyEntry) -> anyhow::Result<()> {
        let mut map = HashMap::<_, abi::PolicyKey, abi::PolicyEntry>::try_from(self.map_mut(map::POLICY)?)?;
        Ok(map.insert(key, entry, 0)?)
    }

    pub fn remove_policy(&mut self, key: abi::PolicyKey) -> anyhow::Result<()> {
        let mut map = HashMap::<_, abi::PolicyKey, abi::PolicyEntry>::try_from(self.map_mut(map::POLICY)?)?;
        Ok(map.remove(&key)?)
    }

    pub fn policy(&self, key: abi::PolicyKey) -> anyhow::Result<abi::PolicyEntry> {
        Ok(HashMap::<_, abi::PolicyKey, abi::PolicyEntry>::try_from(self.map(map::POLICY)?)?.get(&key, 0)?)
    }

    /// Whole addresses go to the hash, shorter prefixes to the trie.
    pub fn set_ipcache(&mut self, key: abi::IpcacheKey, bits: u32, entry: abi::IpcacheEntry) -> anyhow::Result<()> {
        let whole = if u32::from(key.family) == abi::FAMILY_IPV4 { 32 } else { 128 };
        if bits == whole {
            let map = self.map_mut(map::IPCACHE)?;
            return Ok(HashMap::<_, abi::IpcacheKey, abi::IpcacheEntry>::try_from(map)?.insert(key, entry, 0)?);
        }
        let key = Key::new(abi::IPCACHE_LPM_FAMILY_BITS + bits, key);
        let map = self.map_mut(map::IPCACHE_LPM)?;
        Ok(LpmTrie::<_, abi::IpcacheKey, abi::IpcacheEntry>::try_from(map)?.insert(&key, entry, 0)?)
    }

    pub fn set_runtime(&mut self, runtime: abi::Runtime) -> anyhow::Result<()> {
        Array::<_, abi::Runtime>::try_from(self.map_mut(map::RUNTIME)?)?.set(0, runtime, 0)?;
        Ok(())
    }

    pub fn flows4(&self) -> anyhow::Result<Vec<(abi::Ct4Key, abi::CtEntry)>> {
        let map = HashMap::<_, abi::Ct4Key, abi::CtEntry>::try_from(self.map(map::CT4)?)?;
        Ok(map.iter().collect::<Result<_, _>>()?)
    }

    pub fn flows6(&self) -> anyhow::Result<Vec<(abi::Ct6Key, abi::CtEntry)>> {
        let map = HashMap::<_, abi::Ct6Key, abi::CtEntry>::try_from(self.map(map::CT6)?)?;
        Ok(map.iter().collect::<Result<_, _>>()?)
    }

    pub fn set_flow4(&mut self, key: abi::Ct4Key, entry: abi::CtEntry) -> anyhow::Result<()> {
        Ok(HashMap::<_, abi::Ct4Key, abi::CtEntry>::try_from(self.map_mut(map::CT4)?)?.insert(key, entry, 0)?)
    }

    pub fn set_flow6(&mut self, key: abi::Ct6Key, entry: abi::CtEntry) -> anyhow::Result<()> {
        Ok(HashMap::<_, abi::Ct6Key, abi::CtEntry>::try_from(self.map_mut(map::CT6)?)?.insert(key, entry, 0)?)
    }

    /// (packets, bytes) of a reason in a direction, over all CPUs.
    pub fn metric(&self, reason: u32, direction: u32) -> anyhow::Result<(u64, u64)> {
        let values = PerCpuArray::<_, abi::Metric>::try_from(self.map(map::METRICS)?)?.get(&reason, 0)?;
        let direction = direction as usize;
        Ok(values.iter().fold((0, 0), |sum, m| (sum.0 + m.packets[direction], sum.1 + m.bytes[direction])))
    }

    /// Takes all events out of the ring.
    pub fn events(&mut self) -> anyhow::Result<Vec<abi::Event>> {
        let mut ring = RingBuf::try_from(self.map_mut(map::EVENTS)?)?;
        let mut events = Vec::new();
        while let Some(record) = ring.next() {
            anyhow::ensure!(record.len() == size_of::<abi::Event>(), "a record of {} bytes", record.len());
            // SAFETY: as many bytes as the type has, any of which are a value of it; the copy wants no alignment.
            events.push(unsafe { std::ptr::read_unaligned(record.as_ptr().cast::<abi::Event>()) });
        }
        Ok(events)
    }

    /// Writes into a hash.
    pub fn put<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: K, value: V) -> anyhow::Result<()> {
        Ok(HashMap::<_, K, V>::try_from(self.map_mut(name)?)?.insert(key, value, 0)?)
    }

    /// Deletes from a hash what is there.
    pub fn delete<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: K) -> anyhow::Result<()> {
        Ok(HashMap::<_, K, V>::try_from(self.map_mut(name)?)?.remove(&key)?)
    }

    /// Writes into an array.
    pub fn set<V: aya::Pod>(&mut self, name: &str, index: u32, value: V) -> anyhow::Result<()> {
        Ok(Array::<_, V>::try_from(self.map_mut(name)?)?.set(index, value, 0)?)
    }

    /// Reads from an array.
    pub fn get<V: aya::Pod>(&self, name: &str, index: u32) -> anyhow::Result<V> {
        Ok(Array::<_, V>::try_from(self.map(name)?)?.get(&index, 0)?)
    }

    /// Raw access for what the shorthands leave out.
    pub fn map_data(&mut self, name: &str) -> anyhow::Result<&mut MapData> {
        match self.map_mut(name)? {
            Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data) | Map::RingBuf(data) => {
                Ok(data)
            }
            _ => anyhow::bail!("{name} is of another type"),
        }
    }

    /// What leaves the container in `slot`.
    pub fn leave(&mut self, slot: u32, packet: &[u8]) -> anyhow::Result<Ran> {
        self.run(program::FROM_CONTAINER, slot, 0, packet)
    }

    /// What the stack sends to the container in `slot`; `from` is the interface number it came in on, 0: the host.
    pub fn enter(&mut self, slot: u32, from: u32, packet: &[u8]) -> anyhow::Result<Ran> {
        self.run(program::TO_CONTAINER, slot, from, packet)
    }

    /// Runs a program once on the device of `slot`.
    pub fn run(&mut self, name: &str, slot: u32, from: u32, packet: &[u8]) -> anyhow::Result<Ran> {
        let ifindex = self.device(slot)?;
        self.run_on(name, ifindex, from, packet)
    }

    /// Runs a program once on a device that is there.
    pub fn run_on(&self, name: &str, ifindex: u32, from: u32, packet: &[u8]) -> anyhow::Result<Ran> {
        let mut out = vec![0; packet.len() + ROOM];
        let result = self
            .program(name)?
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                ctx_in: Some(&SkBuff { ifindex, ingress_ifindex: from, ..SkBuff::default() }.bytes()),
                ..TestRunOptions::new()
            })
            .with_context(|| format!("run {name}"))?;
        out.truncate(result.data_size_out as usize);
        Ok(Ran { action: result.return_value as i32, packet: out })
    }

    /// The number of a slot's device, which is made when it is not there.
    fn device(&mut self, slot: u32) -> anyhow::Result<u32> {
        let ifindex = abi::LXC_IFINDEX_BASE + slot;
        if let Entry::Vacant(free) = self.taps.entry(slot) {
            free.insert(Tap::new(ifindex)?);
        }
        Ok(ifindex)
    }

    /// Runs a program on the first `length` bytes of a frame, be that in the middle of a header.
    pub fn run_cut(&mut self, name: &str, slot: u32, from: u32, frame: &[u8], length: usize) -> anyhow::Result<i32> {
        let ifindex = self.device(slot)?;
        let program = self.before(name, "cut")?;
        let control = [u32::try_from(length)?, 0, 0, 0, 0];
        let context = SkBuff { ifindex, ingress_ifindex: from, control };
        // Longer than any header, so that test_run finds no fault with it.
        let mut padded = frame.to_vec();
        padded.resize(frame.len().max(128), 0);
        let options =
            TestRunOptions { data_in: Some(&padded), ctx_in: Some(&context.bytes()), ..TestRunOptions::new() };
        Ok(program.test_run(options).with_context(|| format!("run {name} on {length} bytes"))?.return_value as i32)
    }

    /// Lets a frame come out of the tunnel: from a node, as one of an identity.
    pub fn carried(&mut self, from: IpAddr, identity: u32, frame: &[u8]) -> anyhow::Result<Ran> {
        let ifindex = self.device(0)?;
        let program = self.before(program::FROM_OVERLAY, "carry")?;
        let outer = match from {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let mut control = [identity, 0, 0, 0, 0];
        for (word, bytes) in control[1..].iter_mut().zip(outer.octets().chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into()?);
        }
        let context = SkBuff { ifindex, ingress_ifindex: ifindex, control };
        let mut out = vec![0; frame.len() + ROOM];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context.bytes()),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).context("run from_overlay")?;
        out.truncate(result.data_size_out as usize);
        Ok(Ran { action: result.return_value as i32, packet: out })
    }

    /// The program that makes ready what test_run cannot, and goes on with `name`.
    fn before(&mut self, name: &str, maker: &str) -> anyhow::Result<&SchedClassifier> {
        let subject = self.program(name)?.fd()?.try_clone()?;
        if self.driver.is_none() {
            self.driver = Some(driver()?);
        }
        let driver = self.driver.as_mut().context("no driver")?;
        ProgramArray::try_from(driver.map_mut("subject").context("no map of subjects")?)?.set(0, &subject, 0)?;
        Ok(driver.program(maker).context("no such driver")?.try_into()?)
    }

    /// The node behind which a prefix is.
    pub fn set_vtep(&mut self, key: abi::IpcacheKey, bits: u32, vtep: abi::Vtep) -> anyhow::Result<()> {
        let key = Key::new(abi::IPCACHE_LPM_FAMILY_BITS + bits, key);
        let map = self.map_mut(map::TUNNEL)?;
        Ok(LpmTrie::<_, abi::IpcacheKey, abi::Vtep>::try_from(map)?.insert(&key, vtep, 0)?)
    }

    /// A node that is believed, by one of its addresses and its number.
    pub fn set_node(&mut self, key: abi::IpcacheKey, number: u32) -> anyhow::Result<()> {
        Ok(HashMap::<_, abi::IpcacheKey, u32>::try_from(self.map_mut(map::NODES)?)?.insert(key, number, 0)?)
    }

    /// An identity that is believed of what comes through the tunnel.
    pub fn set_identity(&mut self, identity: u32) -> anyhow::Result<()> {
        Ok(HashMap::<_, u32, u32>::try_from(self.map_mut(map::IDENTITIES)?)?.insert(identity, 1, 0)?)
    }

    pub fn remove_identity(&mut self, identity: u32) -> anyhow::Result<()> {
        Ok(HashMap::<_, u32, u32>::try_from(self.map_mut(map::IDENTITIES)?)?.remove(&identity)?)
    }

    /// Lets a frame really arrive on the device of `slot`, where from_container is attached, in a form that test_run
    /// cannot give it. What became of it is seen in counters and events.
    pub fn arrive(&mut self, slot: u32, frame: &[u8], arrival: Arrival) -> anyhow::Result<()> {
        self.device(slot)?;
        let tap = self.taps.get(&slot).context("no device")?;
        let name = tap.name()?;
        if self.attached.insert(slot) {
            tap.up()?;
            // Where there is no tcx (before 6.6) programs hang on this; where there is, it does no harm.
            tc::qdisc_add_clsact(&name).context("add clsact")?;
            let program: &mut SchedClassifier =
                self.ebpf.program_mut(program::FROM_CONTAINER).context("no from_container")?.try_into()?;
            program.attach(&name, TcAttachType::Ingress).context("attach from_container")?;
        }
        tap.send(frame, arrival)
    }

    /// The clock of conntrack: the low 32 bits of jiffies.
    pub fn clock(&self) -> anyhow::Result<u32> {
        let options = TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::new() };
        Ok(self.program(program::CLOCK)?.test_run(options).context("run clock")?.return_value)
    }
}

fn driver() -> anyhow::Result<Ebpf> {
    let mut driver = Ebpf::load(super::bench::DRIVER).context("load the driver")?;
    for name in ["cut", "carry"] {
        let program: &mut SchedClassifier = driver.program_mut(name).context(name)?.try_into()?;
        program.load().with_context(|| format!("load {name}"))?;
    }
    Ok(driver)
}

/// The parts of a `struct __sk_buff` that test_run takes and that are of use here.
#[derive(Default)]
struct SkBuff {
    ingress_ifindex: u32,
    ifindex: u32,
    /// cb
    control: [u32; 5],
}

impl SkBuff {
    fn bytes(&self) -> [u8; 68] {
        let mut bytes = [0; 68];
        let control = self.control.iter().enumerate().map(|(n, value)| (48 + 4 * n, *value));
        for (at, value) in [(36, self.ingress_ifindex), (40, self.ifindex)].into_iter().chain(control) {
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}

/// The knob that puts slot 0 so that the loopback device is `slot`.
pub fn loopback_is(slot: u32) -> (&'static str, u32) {
    (knob::LXC_IFINDEX_BASE, 1u32.wrapping_sub(slot))
}

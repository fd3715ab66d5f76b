//! Nanoseconds per packet of the programs beside the yardsticks S (least map work of a verdict), H (bare hash look-up) and
//! L (bare trie look-up), all in one run, interleaved.
//!
//! Owns the measuring; what the figures should be is written in the performance notes. The packets come from
//! `bench/driver.bpf.c`, whose own cost is taken off. Only ratios of one run mean anything.

use super::node::{Node, Options, loopback_is};
use super::pins::Pins;
use super::{fixture, structure};
use crate::abi;
use crate::names::{map, program};
use anyhow::Context;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, ProgramArray};
use aya::programs::{SchedClassifier, TestRun};
use aya::{Ebpf, EbpfLoader, Pod, TestRunOptions};
use std::net::Ipv4Addr;

static SKELETON: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/skeleton.bpf.o"));
pub(super) static DRIVER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/driver.bpf.o"));

/// Conntrack size of both sides of the comparison.
const FLOWS: u32 = 1 << 20;
/// Room for one event of each of the most flows between two readings.
const EVENT_BYTES: u32 = 1 << 26;
/// Entries of all policies, small and large.
const POLICIES: u32 = 1 << 16;
const PACKET: usize = 200;
const ACK: u32 = 0x10;
const SYN: u32 = 0x02;
/// Sent to no port that a policy allows.
const DENIED_PORT: u32 = 9;
/// Entries of the tries and of the policies that the flows measured do not hit.
const PREFIXES: u32 = 10_000;

/// How to measure.
pub struct Settings {
    /// Timed runs of each subject; the median counts.
    pub runs: usize,
    /// The core that everything runs on, under SCHED_FIFO; `None`: as it comes.
    pub core: Option<usize>,
}

/// One measured subject in one situation.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    pub situation: String,
    pub subject: &'static str,
    pub flows: u32,
    /// Net of the driver, per packet.
    pub median: f64,
    pub least: f64,
    /// Median beside that of S in the same situation, or beside what `situation` says.
    pub ratio: Option<f64>,
}

/// All that was measured.
pub struct Report {
    pub rows: Vec<Row>,
    pub structure: structure::Path,
    /// Programs and how many instructions the verifier went through.
    pub verified: Vec<(&'static str, u32)>,
    /// Events that found no room during the runs; not 0: the figures of new flows are too good.
    pub lost: u64,
}

struct Traffic {
    flows: u32,
    port: u32,
    tcp_flags: u32,
    fresh: bool,
    reply: bool,
    vary_address: bool,
    ipv6: bool,
    spread: u32,
    destination: Ipv4Addr,
}

impl Traffic {
    /// To the services.
    fn service(flows: u32) -> Traffic {
        Traffic { port: fixture::SERVICE_PORT, destination: fixture::SERVICE, ..Traffic::established(flows) }
    }

    fn established(flows: u32) -> Traffic {
        Traffic {
            flows,
            port: fixture::PORT,
            tcp_flags: ACK,
            fresh: false,
            reply: false,
            vary_address: false,
            ipv6: false,
            spread: 0,
            destination: fixture::CALLED,
        }
    }
}

/// A driver with its traffic; the subject is set for each run.
struct Driver(Ebpf);

impl Driver {
    fn new(traffic: &Traffic) -> anyhow::Result<Driver> {
        let source = u32::from_ne_bytes(fixture::CALLER.octets());
        let destination = u32::from_ne_bytes(traffic.destination.octets());
        let mut ebpf = EbpfLoader::new()
            .override_global("flows", &traffic.flows, true)
            .override_global("port", &traffic.port, true)
            .override_global("tcp_flags", &traffic.tcp_flags, true)
            .override_global("fresh", &u32::from(traffic.fresh), true)
            .override_global("reply", &u32::from(traffic.reply), true)
            .override_global("vary_address", &u32::from(traffic.vary_address), true)
            .override_global("ipv6", &u32::from(traffic.ipv6), true)
            .override_global("spread", &traffic.spread, true)
            .override_global("source", &source, true)
            .override_global("destination", &destination, true)
            .load(DRIVER)
            .context("load the driver")?;
        for name in ["driver", "nothing"] {
            load(&mut ebpf, name)?;
        }
        Ok(Driver(ebpf))
    }

    /// Nanoseconds per packet, and the last action.
    fn run(&mut self, subject: Option<&SchedClassifier>, packets: u32) -> anyhow::Result<(f64, i32)> {
        let fd = match subject {
            Some(program) => program.fd()?.try_clone()?,
            None => classifier(&self.0, "nothing")?.fd()?.try_clone()?,
        };
        let mut subjects = ProgramArray::try_from(self.0.map_mut("subject").context("no map of subjects")?)?;
        subjects.set(0, &fd, 0).context("set the subject")?;
        let packet = [0; PACKET];
        let options = TestRunOptions { data_in: Some(&packet), repeat: packets, ..TestRunOptions::new() };
        let result = classifier(&self.0, "driver")?.test_run(options).context("run the driver")?;
        Ok((result.duration.as_nanos() as f64, result.return_value as i32))
    }
}

fn load(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<()> {
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    program.load().with_context(|| format!("load {name}"))
}

fn classifier<'a>(ebpf: &'a Ebpf, name: &str) -> anyhow::Result<&'a SchedClassifier> {
    Ok(ebpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

/// The yardsticks, filled to answer the fixture's traffic.
struct Yardstick(Ebpf);

impl Yardstick {
    fn new() -> anyhow::Result<Yardstick> {
        let mut ebpf = Ebpf::load(SKELETON).context("load the yardsticks")?;
        for name in ["skeleton", "balancer", "bare_hash", "bare_lpm"] {
            load(&mut ebpf, name)?;
        }
        let mut yardstick = Yardstick(ebpf);
        for (address, identity, slot) in
            [(fixture::CALLER, fixture::CALLER_IDENTITY, 1), (fixture::CALLED, fixture::CALLED_IDENTITY, 2)]
        {
            yardstick.insert("s_hosts", u32::from_ne_bytes(address.octets()), [identity, slot])?;
            let map = yardstick.0.map_mut("s_endpoints").context("no s_endpoints")?;
            Array::<_, [u32; 4]>::try_from(map)?.set(slot, [1, 0x0200_0000, 0x0b00_0002, 0x0900_0000], 0)?;
        }
        for port in fixture::ports() {
            let be = u32::from(u16::try_from(port)?.to_be());
            yardstick.insert("s_policy", [fixture::CALLED_IDENTITY, be | 6 << 16 | 1 << 24], 1u64)?;
            yardstick.insert("s_policy", [fixture::CALLER_IDENTITY, be | 6 << 16], 1u64)?;
        }
        Ok(yardstick)
    }

    /// The services of the fixture.
    fn fill_services(&mut self) -> anyhow::Result<()> {
        let called = u32::from_ne_bytes(fixture::CALLED.octets());
        for (n, port) in (0..).zip(fixture::ports()) {
            let be = |port: u32| u16::try_from(port).map(|port| u32::from(port.to_be()));
            self.insert(
                "s_services",
                [u32::from_ne_bytes(fixture::SERVICE.octets()), be(fixture::SERVICE_PORT + n)? | 6 << 16],
                [n, 1],
            )?;
            let map = self.0.map_mut("s_places").context("no s_places")?;
            Array::<_, u32>::try_from(map)?.set(n, n, 0)?;
            let map = self.0.map_mut("s_backends").context("no s_backends")?;
            Array::<_, [u32; 2]>::try_from(map)?.set(n, [called, be(port)?], 0)?;
        }
        Ok(())
    }

    fn insert<K: Pod, V: Pod>(&mut self, name: &str, key: K, value: V) -> anyhow::Result<()> {
        let map = self.0.map_mut(name).with_context(|| format!("no map {name}"))?;
        Ok(HashMap::<_, K, V>::try_from(map)?.insert(key, value, 0)?)
    }

    /// So many host routes, from the caller's address on.
    fn fill_trie(&mut self, prefixes: u32) -> anyhow::Result<()> {
        let mut trie = LpmTrie::<_, [u32; 5], [u32; 2]>::try_from(self.0.map_mut("l_table").context("no l_table")?)?;
        for n in 0..prefixes {
            let address = (u32::from(fixture::CALLER) + n).to_be();
            trie.insert(&Key::new(160, [1, address, 0, 0, 0]), [n, 0], 0)?;
        }
        Ok(())
    }
}

/// Measures everything. The calling thread is moved to a network namespace of its own, and to the chosen core.
pub fn run(settings: &Settings) -> anyhow::Result<Report> {
    if let Some(core) = settings.core {
        alone_on(core)?;
    }
    let mut bench = Bench::new(settings.runs)?;
    bench.established()?;
    bench.established_ipv6()?;
    bench.new_flows()?;
    bench.policy_sizes()?;
    bench.denied()?;
    bench.services()?;
    bench.look_ups()?;
    let structure = structure::Path::of(bench.forward.program(program::FROM_CONTAINER)?)?;
    let mut verified = Vec::new();
    for name in [program::FROM_CONTAINER, program::TO_CONTAINER] {
        verified.push((name, bench.forward.program(name)?.info()?.verified_instruction_count().unwrap_or(0)));
    }
    Ok(Report { rows: bench.rows, structure, verified, lost: bench.lost })
}

struct Bench {
    runs: usize,
    /// Its loopback device is the caller's.
    forward: Node,
    /// The same maps, and the loopback device is the called one's.
    backward: Node,
    yardstick: Yardstick,
    rows: Vec<Row>,
    lost: u64,
    lost_before: u64,
    _pins: Pins,
}

/// Median and least of `values`, net of `floor`.
fn summary(mut values: Vec<f64>, floor: f64) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN) - floor;
    (at(values.len() / 2), at(0))
}

impl Bench {
    fn new(runs: usize) -> anyhow::Result<Bench> {
        let pins = Pins::new()?;
        let node = |slot| {
            Node::new(&Options {
                knobs: vec![loopback_is(slot)],
                sizes: vec![
                    (map::CT4, FLOWS),
                    (map::CT6, FLOWS),
                    (map::EVENTS, EVENT_BYTES),
                    (map::POLICY, POLICIES),
                    (map::LB_SERVICES, abi::LB_SERVICES),
                    (map::LB_REVERSE, abi::LB_SERVICES),
                ],
                pins: Some(pins.path()),
            })
        };
        let mut forward = node(fixture::CALLER_SLOT)?;
        let backward = node(fixture::CALLED_SLOT)?;
        fixture::fill(&mut forward)?;
        Ok(Bench {
            runs,
            forward,
            backward,
            yardstick: Yardstick::new()?,
            rows: Vec::new(),
            lost: 0,
            lost_before: 0,
            _pins: pins,
        })
    }

    /// Events are read between runs, as a reader would beside them; what found no room by now is no loss of the next.
    fn drain(&mut self) -> anyhow::Result<()> {
        self.forward.events()?;
        self.lost_before = self.lost_ever()?;
        Ok(())
    }

    /// The same after a timed run: losses count.
    fn drain_timed(&mut self) -> anyhow::Result<()> {
        self.lost += self.lost_ever()? - self.lost_before;
        self.drain()
    }

    fn lost_ever(&self) -> anyhow::Result<u64> {
        let directions = [abi::DIRECTION_INGRESS, abi::DIRECTION_EGRESS];
        let counts = directions.iter().map(|direction| self.forward.metric(abi::REASON_EVENT_LOST, *direction));
        counts.map(|count| count.map(|(packets, _)| packets)).sum()
    }

    /// Every flow once in both directions, so that all of them are there and established.
    fn warm(&mut self, flows: u32, ipv6: bool) -> anyhow::Result<()> {
        for (tcp_flags, reply) in [(SYN, false), (SYN | ACK, true), (ACK, false), (ACK, true)] {
            let traffic = Traffic { tcp_flags, reply, ipv6, fresh: true, ..Traffic::established(flows) };
            let mut driver = Driver::new(&traffic)?;
            let node = if reply { &self.backward } else { &self.forward };
            let (_, action) = driver.run(Some(node.program(program::FROM_CONTAINER)?), flows)?;
            anyhow::ensure!(action == super::node::ACT_REDIRECT, "action {action} while warming up");
            if !reply && !ipv6 {
                Driver::new(&traffic)?.run(Some(classifier(&self.yardstick.0, "skeleton")?), flows)?;
            }
            self.drain()?;
        }
        Ok(())
    }

    fn push(
        &mut self,
        situation: &str,
        subject: &'static str,
        flows: u32,
        (median, least): (f64, f64),
        beside: Option<f64>,
    ) {
        let ratio = beside.map(|other| median / other);
        self.rows.push(Row { situation: situation.to_owned(), subject, flows, median, least, ratio });
    }

    fn established(&mut self) -> anyhow::Result<()> {
        for (flows, packets) in [(1, 500_000), (60_000, 600_000), (300_000, 600_000)] {
            self.warm(flows, false)?;
            let mut ahead = Driver::new(&Traffic::established(flows))?;
            let mut back = Driver::new(&Traffic { reply: true, ..Traffic::established(flows) })?;
            let mut times: [Vec<f64>; 5] = Default::default();
            for round in 0..=self.runs {
                let from_container = self.forward.program(program::FROM_CONTAINER)?;
                let floor = ahead.run(None, packets)?;
                let skeleton = ahead.run(Some(classifier(&self.yardstick.0, "skeleton")?), packets)?;
                let ours = ahead.run(Some(from_container), packets)?;
                self.drain_timed()?;
                let back_floor = back.run(None, packets)?;
                let reply = back.run(Some(self.backward.program(program::FROM_CONTAINER)?), packets)?;
                self.drain_timed()?;
                for (_, action) in [skeleton, ours, reply] {
                    anyhow::ensure!(action == super::node::ACT_REDIRECT, "action {action} in place of a redirect");
                }
                if round > 0 {
                    let found = [floor, skeleton, ours, back_floor, reply];
                    times.iter_mut().zip(found).for_each(|(times, (time, _))| times.push(time));
                }
            }
            let [floor, skeleton, ours, back_floor, reply] = times;
            let (floor, back_floor) = (summary(floor, 0.0).0, summary(back_floor, 0.0).0);
            let skeleton = summary(skeleton, floor);
            let ours = summary(ours, floor);
            self.push("established", "S", flows, skeleton, None);
            self.push("established", "from_container", flows, ours, Some(skeleton.0));
            self.push("reply, beside forward", "from_container", flows, summary(reply, back_floor), Some(ours.0));
        }
        Ok(())
    }

    /// S knows no IPv6: beside our own IPv4.
    fn established_ipv6(&mut self) -> anyhow::Result<()> {
        for (flows, packets) in [(1, 500_000), (60_000, 600_000), (300_000, 600_000)] {
            self.warm(flows, true)?;
            let mut driver = Driver::new(&Traffic { ipv6: true, ..Traffic::established(flows) })?;
            let mut times: [Vec<f64>; 2] = Default::default();
            for round in 0..=self.runs {
                let floor = driver.run(None, packets)?;
                let ours = driver.run(Some(self.forward.program(program::FROM_CONTAINER)?), packets)?;
                self.drain_timed()?;
                anyhow::ensure!(ours.1 == super::node::ACT_REDIRECT, "action {} in place of a redirect", ours.1);
                if round > 0 {
                    times.iter_mut().zip([floor, ours]).for_each(|(times, (time, _))| times.push(time));
                }
            }
            let [floor, ours] = times;
            let ours = summary(ours, summary(floor, 0.0).0);
            let ipv4 = self
                .rows
                .iter()
                .find(|row| row.situation == "established" && row.subject == "from_container" && row.flows == flows);
            let beside = ipv4.map(|row| row.median);
            self.push("established IPv6, beside IPv4", "from_container", flows, ours, beside);
        }
        Ok(())
    }

    fn new_flows(&mut self) -> anyhow::Result<()> {
        const PACKETS: u32 = 30_000;
        let traffic = Traffic { tcp_flags: SYN, fresh: true, ..Traffic::established(1) };
        // Flows of the rows before must not be met again.
        let mut driver = Driver::new(&Traffic { port: fixture::PORT + 100, ..traffic })?;
        let mut times: [Vec<f64>; 3] = Default::default();
        for _ in 0..self.runs {
            let found = [
                driver.run(None, PACKETS)?,
                driver.run(Some(classifier(&self.yardstick.0, "skeleton")?), PACKETS)?,
                driver.run(Some(self.forward.program(program::FROM_CONTAINER)?), PACKETS)?,
            ];
            self.drain_timed()?;
            for (_, action) in &found[1..] {
                anyhow::ensure!(*action == super::node::ACT_REDIRECT, "action {action} in place of a redirect");
            }
            times.iter_mut().zip(found).for_each(|(times, (time, _))| times.push(time));
        }
        let [floor, skeleton, ours] = times;
        let floor = summary(floor, 0.0).0;
        let skeleton = summary(skeleton, floor);
        self.push("new flow, one event", "S", 0, skeleton, None);
        self.push("new flow, one event", "from_container", 0, summary(ours, floor), Some(skeleton.0));
        Ok(())
    }

    /// New flows between endpoints whose policies have few entries and many; each flow is let through by another one.
    fn policy_sizes(&mut self) -> anyhow::Result<()> {
        const PACKETS: u32 = 30_000;
        let sizes = [(21, 30_000, 10), (31, 10_000, 16_000)];
        let mut drivers = Vec::new();
        for (policy, port, spread) in sizes {
            fixture::fill_policies(&mut self.forward, policy, port..port + spread)?;
            let traffic = Traffic { tcp_flags: SYN, fresh: true, port, spread, ..Traffic::established(1) };
            drivers.push(Driver::new(&traffic)?);
        }
        let mut times: [[Vec<f64>; 2]; 2] = Default::default();
        for _ in 0..self.runs {
            for (((policy, ..), driver), times) in sizes.iter().zip(&mut drivers).zip(&mut times) {
                fixture::use_policies(&mut self.forward, *policy)?;
                let (floor, _) = driver.run(None, PACKETS)?;
                let (time, action) = driver.run(Some(self.forward.program(program::FROM_CONTAINER)?), PACKETS)?;
                self.drain_timed()?;
                anyhow::ensure!(action == super::node::ACT_REDIRECT, "action {action} in place of a redirect");
                times[0].push(floor);
                times[1].push(time);
            }
        }
        fixture::use_policies(&mut self.forward, fixture::CALLER_POLICY)?;
        let [few, many] = times.map(|[floor, ours]| summary(ours, summary(floor, 0.0).0));
        self.push("new flow, 10 policy entries", "from_container", 0, few, None);
        self.push("new flow, 16,000 policy entries, beside 10 entries", "from_container", 0, many, Some(few.0));
        Ok(())
    }

    fn denied(&mut self) -> anyhow::Result<()> {
        const PACKETS: u32 = 100_000;
        let mut driver = Driver::new(&Traffic { tcp_flags: SYN, port: DENIED_PORT, ..Traffic::established(1) })?;
        let mut times: [Vec<f64>; 3] = Default::default();
        for _ in 0..self.runs {
            let found = [
                driver.run(None, PACKETS)?,
                driver.run(Some(classifier(&self.yardstick.0, "skeleton")?), PACKETS)?,
                driver.run(Some(self.forward.program(program::FROM_CONTAINER)?), PACKETS)?,
            ];
            self.drain_timed()?;
            for (_, action) in &found[1..] {
                anyhow::ensure!(*action == super::node::ACT_SHOT, "action {action} in place of a drop");
            }
            times.iter_mut().zip(found).for_each(|(times, (time, _))| times.push(time));
        }
        let [floor, skeleton, ours] = times;
        let floor = summary(floor, 0.0).0;
        let skeleton = summary(skeleton, floor);
        self.push("denied, S without event", "S", 0, skeleton, None);
        self.push("denied, S without event", "from_container", 0, summary(ours, floor), Some(skeleton.0));
        Ok(())
    }

    /// Flows to a service, with few services and with many; S_lb in place of S.
    fn services(&mut self) -> anyhow::Result<()> {
        const PACKETS: u32 = 30_000;
        const FEW: u32 = 10;
        const MANY: u32 = 100_000;
        self.yardstick.fill_services()?;
        let mut few = Vec::new();
        // Flows of the rows before must not be met again.
        for (others, port) in [(FEW, 50), (MANY, 100)] {
            fixture::fill_services(&mut self.forward, others)?;
            for (flows, packets) in [(1, 500_000), (60_000, 600_000)] {
                for tcp_flags in [SYN, ACK] {
                    let traffic = Traffic { tcp_flags, fresh: true, ..Traffic::service(flows) };
                    self.beside_balancer(&traffic, flows, 1)?;
                }
                let beside = self.beside_balancer(&Traffic::service(flows), packets, self.runs)?;
                few.push(self.push_service("service, established", flows, others == MANY, beside, &few));
            }
            let traffic = Traffic { tcp_flags: SYN, fresh: true, ..Traffic::service(1) };
            let traffic = Traffic { port: fixture::SERVICE_PORT + port, ..traffic };
            let beside = self.beside_balancer(&traffic, PACKETS, self.runs)?;
            few.push(self.push_service("service, new flow", 0, others == MANY, beside, &few));
        }
        Ok(())
    }

    /// S_lb and the program on one traffic.
    fn beside_balancer(&mut self, traffic: &Traffic, packets: u32, runs: usize) -> anyhow::Result<[(f64, f64); 2]> {
        let mut driver = Driver::new(traffic)?;
        let mut times: [Vec<f64>; 3] = Default::default();
        for _ in 0..runs {
            let found = [
                driver.run(None, packets)?,
                driver.run(Some(classifier(&self.yardstick.0, "balancer")?), packets)?,
                driver.run(Some(self.forward.program(program::FROM_CONTAINER)?), packets)?,
            ];
            self.drain_timed()?;
            for (_, action) in &found[1..] {
                anyhow::ensure!(*action == super::node::ACT_REDIRECT, "action {action} in place of a redirect");
            }
            times.iter_mut().zip(found).for_each(|(times, (time, _))| times.push(time));
        }
        let [floor, balancer, ours] = times;
        let floor = summary(floor, 0.0).0;
        Ok([summary(balancer, floor), summary(ours, floor)])
    }

    /// Rows of one traffic; with many services beside what it took with few. Tells what it took.
    fn push_service(
        &mut self,
        situation: &'static str,
        flows: u32,
        many: bool,
        [balancer, ours]: [(f64, f64); 2],
        few: &[(&'static str, u32, f64)],
    ) -> (&'static str, u32, f64) {
        if many {
            let beside = few.iter().find(|row| row.0 == situation && row.1 == flows).map(|row| row.2);
            self.push(&format!("{situation}, 100,000 beside 10"), "from_container", flows, ours, beside);
        } else {
            self.push(situation, "S_lb", flows, balancer, None);
            self.push(situation, "from_container", flows, ours, Some(balancer.0));
        }
        (situation, flows, ours.0)
    }

    fn look_ups(&mut self) -> anyhow::Result<()> {
        self.yardstick.fill_trie(PREFIXES)?;
        for (name, subject, flows, vary_address) in [
            ("bare_hash", "H", 1, false),
            ("bare_hash", "H", 60_000, false),
            ("bare_hash", "H", 300_000, false),
            ("bare_lpm", "L", 10, true),
            ("bare_lpm", "L", PREFIXES, true),
        ] {
            let traffic = Traffic { vary_address, ..Traffic::established(flows) };
            Driver::new(&Traffic { fresh: true, ..traffic })?.run(Some(classifier(&self.yardstick.0, name)?), flows)?;
            let mut driver = Driver::new(&traffic)?;
            let mut times: [Vec<f64>; 2] = Default::default();
            for round in 0..=self.runs {
                let found =
                    [driver.run(None, 500_000)?, driver.run(Some(classifier(&self.yardstick.0, name)?), 500_000)?];
                anyhow::ensure!(found[1].1 == super::node::ACT_OK, "{name} missed: action {}", found[1].1);
                if round > 0 {
                    times.iter_mut().zip(found).for_each(|(times, (time, _))| times.push(time));
                }
            }
            let [floor, bare] = times;
            let floor = summary(floor, 0.0).0;
            self.push(if vary_address { "bare trie" } else { "bare hash" }, subject, flows, summary(bare, floor), None);
        }
        Ok(())
    }
}

/// Keeps everything else off: one core, before all ordinary tasks.
fn alone_on(core: usize) -> anyhow::Result<()> {
    // SAFETY: plain structures that the calls read.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) < 0 {
            return Err(std::io::Error::last_os_error()).with_context(|| format!("stay on core {core}"));
        }
        let priority = libc::sched_param { sched_priority: 10 };
        if libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) < 0 {
            return Err(std::io::Error::last_os_error()).context("run before ordinary tasks");
        }
    }
    Ok(())
}

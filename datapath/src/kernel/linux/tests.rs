//! The real kernel in a namespace of its own, without packets: what was written is what is read.

use super::*;
use crate::operation::Domain;
use crate::plan::Settings;
use crate::reconcile::Reconciler;
use crate::reconcile::tests::snapshot;
use crate::{Config, programs};
use model::Identity;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use proptest::strategy::{Just, Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::time::Instant;

const SETTINGS: Settings = Settings {
    masquerade: false,
    tunnel: crate::Tunnel::Vxlan { port: 8472 },
    node: crate::NodeAddresses { v4: None, v6: None },
    sockets: false,
};

/// Runs `test` on a thread with namespaces of its own and a BPF file system in them; the kernel takes all away with it.
pub(crate) fn on_own_kernel(test: impl FnOnce(Arc<Maps>, Programs) + Send) {
    let work = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root is needed");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let config = Config {
            bpffs: directory.path().join("bpf"),
            conntrack_max_v4: 4096,
            conntrack_max_v6: 4096,
            policy_max: 4096,
            ipcache_max: 4096,
            lb_places_max: 4096,
            sockets: false,
            ..Config::default()
        };
        let (programs, maps) = programs::load(&config).unwrap();
        test(Arc::new(maps), programs);
        nix::mount::umount2(&config.bpffs, nix::mount::MntFlags::MNT_DETACH).unwrap();
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(work).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
#[ignore = "needs root: make test"]
fn what_is_recorded_is_what_is_read() {
    on_own_kernel(|maps, programs| {
        // What snapshots have for an address of the host is one.
        ip("link set lo up");
        ip("addr add 172.31.0.1/32 dev lo");
        let mut reconciler = Reconciler::new(Linux::new(maps, programs, Default::default()).unwrap(), SETTINGS);
        let mut runner = TestRunner::deterministic();
        let strategy = snapshot(Just(true));
        for _ in 0..24 {
            let mut desired = strategy.new_tree(&mut runner).unwrap().current();
            // Routes name their network's gateway as source, so it has to be there.
            desired.gateways.insert([10, 15, 0, 1].into());
            let status = reconciler.round(&desired, Instant::now());
            assert_eq!(status.failing, Default::default());
            let now = Instant::now();
            reconciler.sweep(now + std::time::Duration::from_secs(1));
            reconciler.kernel().undertaker.wait();
            let held = reconciler.current().clone();
            let network = reconciler.kernel().network().unwrap();
            assert_eq!(network, held.network);
            let mut bpf = reconciler.kernel().bpf(&Bpf::default()).unwrap();
            // Whatever is taken to be there, what is there is read.
            for expected in [held.bpf.clone(), another_ipcache(&held.bpf, true), another_ipcache(&held.bpf, false)] {
                assert_eq!(reconciler.kernel().bpf(&expected).unwrap(), bpf);
            }
            bpf.flows_stale = held.bpf.flows_stale;
            // Of nodes that are gone the kernel remembers no number.
            assert!(bpf.last_node <= held.bpf.last_node);
            bpf.last_node = held.bpf.last_node;
            // Nothing enforces a direction in the kernel; it is for people.
            assert_eq!(bpf, held.bpf);
            [Domain::Network, Domain::Bpf].into_iter().for_each(|domain| reconciler.distrust(domain));
            let before = reconciler.status().operations;
            reconciler.round(&desired, now);
            assert_eq!(reconciler.status().operations, before + 1, "only flows are told to look again");
        }
    });
}

/// A picture with an entry more, or with the first one missing and the last one another.
fn another_ipcache(held: &Bpf, more: bool) -> Bpf {
    let mut other = held.clone();
    let entry = IpcacheEntry { identity: Identity(9999), endpoint: None };
    if more {
        other.ipcache.insert("192.0.2.99/32".parse().unwrap(), entry);
        return other;
    }
    let (first, last) = (held.ipcache.keys().next().copied(), held.ipcache.keys().last().copied());
    last.map(|prefix| other.ipcache.insert(prefix, entry));
    first.map(|prefix| other.ipcache.remove(&prefix));
    other
}

#[test]
#[ignore = "needs root: make test"]
fn a_foreign_device_in_the_way_is_a_failure_of_that_endpoint_alone() {
    on_own_kernel(|maps, programs| {
        ip("link set lo up");
        ip("addr add 172.31.0.1/32 dev lo");
        let mut reconciler = Reconciler::new(Linux::new(maps, programs, Default::default()).unwrap(), SETTINGS);
        let mut runner = TestRunner::deterministic();
        let mut desired = loop {
            let desired = snapshot(Just(true)).new_tree(&mut runner).unwrap().current();
            if desired.endpoints.len() >= 2 {
                break desired;
            }
        };
        desired.gateways.insert([10, 15, 0, 1].into());
        let victim = desired.endpoints.values().next().unwrap().clone();
        ip(&format!("link add {} type veth peer name stranger", victim.ifname));
        let status = reconciler.round(&desired, Instant::now());
        let failing: Vec<_> = status.failing.keys().cloned().collect();
        assert_eq!(failing, [model::desired::Object::Endpoint(victim.id)]);
        assert!(status.failing[&failing[0]].message.contains("File exists"), "{status:?}");
        ip(&format!("link del {}", victim.ifname));
        assert!(reconciler.round(&desired, Instant::now()).failing.is_empty());
    });
}

/// Many amendments go together; one that cannot be had takes nothing from the others, and leaves nothing behind.
#[test]
#[ignore = "needs root: make test"]
fn an_amendment_at_fault_fails_alone() {
    use crate::current::PolicyId;
    use crate::maps::policy;
    use model::{Direction, Identity, PolicyEntry, PolicyKey, PolicyMap};
    let about = |peers: std::ops::Range<u32>| -> PolicyMap {
        let key = |peer| PolicyKey::any_port(Direction::Ingress, Identity(peer));
        peers.map(|peer| (key(peer), PolicyEntry::ALLOW)).collect()
    };
    on_own_kernel(|maps, _| {
        let (former, small, large) = (about(300..303), about(302..310), about(302..302 + 4096));
        let ids = [1, 2, 3, 4].map(PolicyId);
        for id in &ids[..3] {
            policy::write(&maps, *id, Identity(900 + id.0), &former).unwrap();
        }
        let said = |id: &PolicyId| policy::read(&maps).unwrap().policies.get(id).map(|held| held.map.clone());
        let all = ids.map(|id| (id, &former, &small));
        let results = policy::amend_all(&maps, &all);
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, true, false]);
        assert!(ids[..3].iter().all(|id| said(id).is_some_and(|map| map.has_same_entries(&small))));
        assert!(said(&ids[3]).is_none());
        // The table has room for 4096 entries.
        let results = policy::amend_all(&maps, &[(ids[0], &small, &former), (ids[1], &small, &large)]);
        assert!(results[0].is_ok() && matches!(results[1], Err(crate::maps::MapError::Full { .. })), "{results:?}");
        assert!(said(&ids[0]).unwrap().has_same_entries(&former));
        assert!(said(&ids[1]).unwrap().has_same_entries(&small));
        let results = policy::amend_all(&maps, &[(ids[0], &former, &small), (ids[2], &small, &former)]);
        assert!(results.iter().all(Result::is_ok));
        assert!(said(&ids[0]).unwrap().has_same_entries(&small) && said(&ids[2]).unwrap().has_same_entries(&former));
    });
}

fn ip(arguments: &str) {
    let status = std::process::Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

mod flows {
    use super::on_own_kernel;
    use crate::Timeouts;
    use crate::gc::{Collector, Walk};
    use crate::maps::{conntrack, endpoints};
    use crate::syscall::test_run;
    use bpf::abi::{self, Be16};
    use model::EndpointId;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    #[test]
    #[ignore = "needs root: make test"]
    fn flows_that_are_over_or_whose_endpoint_is_gone_are_collected() {
        on_own_kernel(|maps, programs| {
            let clock = programs.clock().unwrap();
            let now = test_run(clock.as_fd()).unwrap();
            let timeouts = Timeouts::default();
            let day = crate::clock::ticks(std::time::Duration::from_secs(86_400));
            let slot = crate::current::Slot {
                policy: crate::current::PolicyId(1),
                identity: model::Identity(300),
                internal: false,
                ipv4: None,
                ipv6: None,
                mac: model::Mac::default(),
                node_mac: model::Mac::default(),
            };
            endpoints::write(&maps, EndpointId(7), &slot).unwrap();
            for (port, slot, seen) in [(1, 7, now), (2, 8, now), (3, 7, now.wrapping_sub(day)), (4, 0, now)] {
                let key = abi::Ct4Key { pa: Be16::new(port), protocol: 17, ..Default::default() };
                let entry = abi::CtEntry { slot: [slot, 0], seen, ..Default::default() };
                maps.ct4.put(&key, &entry).unwrap();
                let key = abi::Ct6Key { pa: Be16::new(port), protocol: 6, ..Default::default() };
                maps.ct6.put(&key, &entry).unwrap();
            }
            let stop = Arc::new(AtomicBool::new(false));
            let collector = Collector::new(maps.clone(), clock.try_clone().unwrap(), timeouts, stop);
            assert_eq!(collector.walk().unwrap(), Walk { seen: 8, removed: 4 });
            let left = conntrack::read(&maps, 100, &timeouts, now).unwrap();
            let mut ports: Vec<_> = left.iter().map(|flow| flow.source.port).collect();
            ports.sort_unstable();
            assert_eq!(ports, [1, 1, 4, 4]);
            assert_eq!(conntrack::flush(&maps).unwrap(), 4);
            assert!(conntrack::read(&maps, 100, &timeouts, now).unwrap().is_empty());
        });
    }
}

#[test]
#[ignore = "needs root: make test"]
fn what_is_recorded_of_services_is_what_is_read() {
    on_own_kernel(|maps, programs| {
        ip("link set lo up");
        let mut reconciler = Reconciler::new(Linux::new(maps, programs, Default::default()).unwrap(), SETTINGS);
        let mut runner = TestRunner::deterministic();
        let strategy = crate::reconcile::tests::services::services();
        let mut now = Instant::now();
        for _ in 0..48 {
            let mut desired = strategy.new_tree(&mut runner).unwrap().current();
            desired.settled = true;
            for _ in 0..3 {
                now += std::time::Duration::from_secs(60);
                let status = reconciler.round(&desired, now);
                assert_eq!(status.failing, Default::default());
                now += std::time::Duration::from_secs(60);
                reconciler.sweep(now);
            }
            let read = reconciler.kernel().services().unwrap();
            let held = &reconciler.current().services;
            assert!(held.is_as_read(&read), "{held:#?}\n{read:#?}");
            assert_eq!((&held.written, &held.free), (&read.written, &read.free));
        }
        // One among many is a few writes.
        let mut desired = model::desired::Datapath { settled: true, ..Default::default() };
        let any = loop {
            let some = strategy.new_tree(&mut runner).unwrap().current().services;
            if let Some((_, service)) = some.iter().next().filter(|(_, service)| service.backends.len() > 2) {
                break service.clone();
            }
        };
        let at = |n: u32| model::L4Address {
            ip: std::net::Ipv4Addr::from(0x0a60_0000 + n).into(),
            port: 80,
            protocol: model::Protocol::TCP,
        };
        for n in 0..100 {
            desired.services.insert(at(n), any.clone());
        }
        assert_eq!(reconciler.round(&desired, now).failing, Default::default());
        desired.services.insert(at(100), any.clone());
        let before = reconciler.status().operations;
        assert_eq!(reconciler.round(&desired, now).failing, Default::default());
        assert!(reconciler.status().operations - before < 20);
    });
}

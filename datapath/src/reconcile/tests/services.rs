//! Services on the fake kernel: whatever fails and whenever the agent ends, an entry names nothing that is not there.

use super::*;
use crate::current::services::{Services, rows};
use model::service::{Algorithm, ServiceType, Table};
use model::{L4Address, LoadBalancer, Protocol, ServiceId};
use std::net::SocketAddr;

fn l4(address: [u8; 4], port: u16) -> L4Address {
    L4Address { ip: IpAddr::from(address), port, protocol: Protocol::TCP }
}

/// A frontend with these backends, of which the first `placed` get new flows.
fn balancer(id: u32, backends: BTreeSet<u8>, placed: usize, local: usize, ranges: u8) -> Arc<LoadBalancer> {
    let backends: Arc<[L4Address]> = backends.into_iter().map(|n| l4([10, 15, 0, n], 80)).collect();
    let table = |count: usize, times: u16| {
        let count = count.min(backends.len()) as u16;
        let places = (0..count * times).map(|place| place % count.max(1)).collect();
        Table { by: if times > 1 { Algorithm::Maglev } else { Algorithm::Random }, places }
    };
    let ranges = (ranges > 0).then(|| (1..ranges).map(|n| format!("192.168.{n}.0/24").parse().unwrap()).collect());
    Arc::new(LoadBalancer {
        id: ServiceId(id),
        kind: ServiceType::LoadBalancer,
        internal: table(placed, 1),
        external: table(local, 7),
        affinity: id.is_multiple_of(2).then_some(id),
        source_ranges: ranges,
        backends,
    })
}

pub(crate) fn services() -> impl Strategy<Value = Datapath> {
    let parts = (1u32..5, btree_set(1u8..8, 0..6), 0usize..6, 0usize..6, 0u8..4);
    let balancer =
        parts.prop_map(|(id, backends, placed, local, ranges)| balancer(id, backends, placed, local, ranges));
    let services = btree_map((1u8..6).prop_map(|n| l4([10, 96, 0, n], 80)), balancer, 0..5);
    (services, prop_oneof![4 => Just(true), 1 => Just(false)]).prop_map(|(services, settled)| Datapath {
        services: services.into_iter().collect(),
        settled,
        ..Datapath::default()
    })
}

/// What holds after every single operation.
fn sound(before: &Current, operation: &Operation, after: &Current) {
    let (before, after) = (&before.services, &after.services);
    for (address, frontend) in &after.frontends {
        for places in frontend.places.iter().filter(|places| !places.backends.is_empty()) {
            let written = after.written.get(&places.row);
            assert_eq!(
                written,
                Some(&places.backends),
                "{address} names places that are not there after {operation:?}"
            );
        }
        // Of who merely still has flows an agent that has just started does not know from the kernel.
        for backend in frontend.placed() {
            assert!(after.backends.get(backend.0).is_some(), "{address} names nobody after {operation:?}");
        }
        let reverse = after.reverse.get(frontend.number.0);
        assert_eq!(reverse, Some(SocketAddr::new(address.ip, address.port)), "after {operation:?}");
        for backend in frontend.members() {
            assert!(after.members.contains(&(frontend.number, backend)), "{address} after {operation:?}");
        }
        for prefix in frontend.sources.iter().flat_map(|sources| sources.iter()) {
            assert!(after.sources.contains(&(frontend.number, *prefix)), "{address} after {operation:?}");
        }
    }
    let used = |services: &Services| {
        let places = services.frontends.values().flat_map(|frontend| frontend.places.iter().cloned());
        places.filter(|places| !places.backends.is_empty()).map(|p| (p.row, p.backends)).collect::<BTreeMap<_, _>>()
    };
    let mut end = 0;
    for (row, backends) in used(after) {
        assert!(row >= end, "two tables on row {row} after {operation:?}");
        end = row + rows(backends.len());
    }
    match operation {
        Operation::WritePlaces(_, places) => {
            let (start, end) = (places.row, places.row + rows(places.backends.len()));
            let over = used(before).iter().any(|(row, backends)| start < row + rows(backends.len()) && *row < end);
            assert!(!over, "{operation:?} over a table that is in use");
        }
        Operation::PutBackend(_, number, _) => {
            assert!(number.0 > before.backends.last, "{number:?} is given out again")
        }
        Operation::PutReverse(_, number) => {
            let again = before.frontends.values().any(|frontend| frontend.number == *number);
            assert!(number.0 > before.reverse.last || again, "{number:?} is given out again");
        }
        _ => {}
    }
}

/// The kernel holds what is wanted of services and nothing else.
fn assert_services(held: &Services, desired: &Datapath) {
    assert_eq!(held.frontends.keys().collect::<Vec<_>>(), desired.services.keys().collect::<Vec<_>>());
    let (mut used, mut members, mut sources, mut tables) = (BTreeSet::new(), 0, 0, BTreeSet::new());
    for (address, wanted) in desired.services.iter() {
        let frontend = &held.frontends[address];
        assert_eq!((frontend.id, frontend.kind), (wanted.id, wanted.kind));
        for (places, table) in frontend.places.iter().zip([&wanted.internal, &wanted.external]) {
            let backend = |at: &u16| wanted.backends[usize::from(*at)];
            let table: Vec<_> = table.places.iter().map(backend).map(|b| Some(SocketAddr::new(b.ip, b.port))).collect();
            let placed: Vec<_> = places.backends.iter().map(|number| held.backends.get(number.0)).collect();
            assert_eq!(placed, table);
            tables.extend((!placed.is_empty()).then_some(places.row));
        }
        used.extend(wanted.backends.iter().map(|backend| SocketAddr::new(backend.ip, backend.port)));
        assert_eq!(frontend.affinity != 0, wanted.affinity.is_some());
        members += frontend.members().len();
        sources += wanted.source_ranges.as_ref().map_or(0, |ranges| ranges.len());
        assert_eq!(frontend.sources.is_some(), wanted.source_ranges.is_some());
    }
    assert_eq!(held.backends.iter().map(|(_, address)| address).collect::<BTreeSet<_>>(), used);
    assert_eq!((held.members.len(), held.sources.len()), (members, sources));
    assert_eq!(held.reverse.iter().count(), held.frontends.len());
    assert_eq!(held.written.keys().copied().collect::<BTreeSet<_>>(), tables);
    let free = held.rows - held.written.values().map(|backends| rows(backends.len())).sum::<u32>();
    assert_eq!(held.free.at_least(1, (0, 0)).map(|(length, _)| length).sum::<u32>(), free);
}

fn kernel(state: Current) -> Fake {
    Fake { state, witness: Some(Box::new(sound)), ..Fake::default() }
}

/// Rounds and sweeps until nothing is due.
fn settle(reconciler: &mut Reconciler<Fake>, desired: &Datapath, now: &mut Instant) -> Status {
    let mut status = reconciler.round(desired, *now);
    for _ in 0..20 {
        *now += LAST_RETRY;
        reconciler.sweep(*now);
        status = reconciler.round(desired, *now);
    }
    *now += LAST_RETRY;
    reconciler.sweep(*now);
    status
}

proptest! {
    #[test]
    fn every_snapshot_is_reached_whatever_fails_before(
        snapshots in vec(services(), 1..6), faults in vec((0usize..5, 0usize..40, any::<bool>()), 0..6),
    ) {
        let mut reconciler = Reconciler::new(kernel(Current::default()), SETTINGS);
        let mut now = Instant::now();
        let mut faults = faults.into_iter().cycle();
        for desired in &snapshots {
            // Some operations fail, and perhaps the agent ends in the middle.
            let Some((several, first, ends)) = faults.next() else { continue };
            let mut count = 0;
            reconciler.kernel().refuse = Some(Box::new(move |_| {
                count += 1;
                let fails = count > first && (ends || count <= first + several);
                fails.then(|| "told to fail".to_owned())
            }));
            reconciler.round(desired, now);
            now += GRACE;
            reconciler.sweep(now);
            reconciler.kernel().refuse = None;
            if ends {
                let state = reconciler.kernel().state.clone();
                reconciler = Reconciler::new(kernel(state), SETTINGS);
            }
        }
        let last = Datapath { settled: true, ..snapshots[snapshots.len() - 1].clone() };
        let status = settle(&mut reconciler, &last, &mut now);
        prop_assert_eq!(status.failing, BTreeMap::new());
        assert_services(&reconciler.current().services, &last);
        prop_assert!(reconciler.current().services.as_if_read().is_as_read(&reconciler.kernel().state.services.as_if_read()));
        // A restart changes nothing that is right.
        let state = reconciler.kernel().state.clone();
        let mut reconciler = Reconciler::new(kernel(state), SETTINGS);
        settle(&mut reconciler, &last, &mut now);
        let touched = reconciler.kernel().log.iter().filter(|operation| operation.domain() == Domain::Services);
        prop_assert_eq!(touched.count(), 0);
    }
}

#[test]
fn what_is_merely_unrecognised_stays() {
    let balanced = balancer(1, BTreeSet::from([1, 2]), 2, 2, 0);
    let all = Datapath {
        services: [(l4([10, 96, 0, 1], 80), balanced.clone())].into_iter().collect(),
        settled: true,
        ..Datapath::default()
    };
    let mut now = Instant::now();
    let mut reconciler = Reconciler::new(kernel(Current::default()), SETTINGS);
    settle(&mut reconciler, &all, &mut now);
    let state = reconciler.kernel().state.clone();
    let mut reconciler = Reconciler::new(kernel(state), SETTINGS);
    let nothing = Datapath::default();
    settle(&mut reconciler, &nothing, &mut now);
    assert_services(&reconciler.current().services, &all);
    settle(&mut reconciler, &Datapath { settled: true, ..nothing.clone() }, &mut now);
    assert_services(&reconciler.current().services, &nothing);
}

#[test]
fn one_service_among_many_costs_what_it_differs_in() {
    let address = |n: u32| l4([10, 96, (n >> 8) as u8, n as u8], 80);
    let backends = || BTreeSet::from([1, 2, 3]);
    let mut desired = Datapath { settled: true, ..Datapath::default() };
    for n in 0..200 {
        desired.services.insert(address(n), balancer(n + 1, backends(), 3, 3, 0));
    }
    let mut reconciler = Reconciler::new(Fake::default(), SETTINGS);
    let mut now = Instant::now();
    reconciler.round(&desired, now);
    reconciler.kernel().log.clear();
    now += GRACE;
    reconciler.sweep(now);
    desired.services.insert(address(200), balancer(201, backends(), 3, 3, 0));
    reconciler.round(&desired, now);
    let log = std::mem::take(&mut reconciler.kernel().log);
    assert_eq!(log.len(), 4, "reverse, two tables, the service: {log:?}");
    desired.services.insert(address(7), balancer(8, BTreeSet::from([1, 2]), 2, 2, 0));
    reconciler.round(&desired, now);
    reconciler.sweep(now + GRACE);
    let log = std::mem::take(&mut reconciler.kernel().log);
    assert_eq!(log.len(), 6, "two tables, the service, two that are released, a member: {log:?}");
}

#[test]
fn a_service_without_room_is_named_and_the_others_go_on() {
    let state = Current { services: Services::new(2), ..Current::default() };
    let (first, second) = (l4([10, 96, 0, 1], 80), l4([10, 96, 0, 2], 80));
    let mut desired = Datapath { settled: true, ..Datapath::default() };
    desired.services.insert(first, balancer(1, BTreeSet::from([1]), 1, 1, 0));
    desired.services.insert(second, balancer(3, BTreeSet::from([1, 2]), 2, 2, 0));
    let mut reconciler = Reconciler::new(kernel(state), SETTINGS);
    let mut now = Instant::now();
    let status = settle(&mut reconciler, &desired, &mut now);
    assert!(status.failing[&Object::Service(second)].full, "{:?}", status.failing);
    assert!(reconciler.kernel().state.services.frontends.contains_key(&first));
    desired.services.remove(&first);
    let status = settle(&mut reconciler, &desired, &mut now);
    assert_eq!(status.failing, BTreeMap::new());
    assert_services(&reconciler.current().services, &desired);
    // A table that names a backend that is not there is no table.
    let mut wrong = (*balancer(1, BTreeSet::from([1]), 1, 1, 0)).clone();
    wrong.internal.places = Arc::new([1]);
    desired.services.insert(first, Arc::new(wrong));
    let status = settle(&mut reconciler, &desired, &mut now);
    assert!(!status.failing[&Object::Service(first)].full, "{:?}", status.failing);
}

//! Services: which numbers and places a frontend gets, and in which order it comes, changes and goes.
//!
//! A frontend is switched by one write of its entry, after all that the entry names is there; what it named before stays
//! for a while (`retire`), as packets that looked it up before the switch may still follow it. Costs what differs.

use super::{Plan, Seen, Stage};
use crate::clock;
use crate::current::services::{BackendNumber, Extents, Frontend, Places, ServiceNumber, Services, rows};
use crate::operation::Operation;
use bpf::abi;
use ipnetwork::IpNetwork;
use model::desired::{Datapath, Object};
use model::service::Table;
use model::{L4Address, LoadBalancer};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Why a frontend cannot be had.
enum Fault {
    Full(String),
    Wrong(String),
}

pub fn plan(plan: &mut Plan, current: &Services, desired: &Datapath, seen: &Seen) {
    let mut draft = Draft::new(current);
    let mut gone = Vec::new();
    current.same.differences(&desired.services, |address, _, wanted| match wanted {
        Some(wanted) => match draft.frontend(address, wanted) {
            Ok(frontend) => change(plan, &mut draft, *address, frontend),
            Err(fault) => {
                draft.give_back();
                let object = Object::Service(*address);
                let (full, message) = match fault {
                    Fault::Full(message) => (true, message),
                    Fault::Wrong(message) => (false, message),
                };
                if full {
                    plan.full.insert(object.clone());
                }
                plan.failures.insert(object, message);
            }
        },
        None => gone.push(*address),
    });
    gone.extend(current.strays.iter().filter(|stray| !desired.services.contains_key(stray)));
    for address in gone {
        if desired.settled || seen.services.contains(&address) {
            remove(plan, current, address);
        }
    }
    if desired.settled {
        for (number, address) in &current.orphans {
            retire_numbers(plan, current, *address, *number);
        }
        plan.retired.extend(current.idle.iter().map(|number| Operation::RemoveBackend(*number)));
    }
}

/// Brings a frontend from what the kernel holds to what it is to be.
fn change(plan: &mut Plan, draft: &mut Draft<'_>, address: L4Address, frontend: Frontend) {
    let current = draft.current;
    let former = current.frontends.get(&address);
    let mut needs: Vec<(Stage, Operation)> = Vec::new();
    let backends = std::mem::take(&mut draft.added).into_iter();
    needs.extend(backends.map(|(number, at)| (Stage::Backends, Operation::PutBackend(address, number, at))));
    let number = frontend.number;
    if current.reverse.get(number.0) != Some(SocketAddr::new(address.ip, address.port)) {
        needs.push((Stage::Frontends, Operation::PutReverse(address, number)));
    }
    let members = frontend.members();
    let new = members.iter().filter(|backend| !current.members.contains(&(number, **backend)));
    needs.extend(new.map(|backend| (Stage::Frontends, Operation::PutMember(address, number, *backend))));
    let sources = frontend.sources.iter().flat_map(|sources| sources.iter());
    let new = sources.filter(|prefix| !current.sources.contains(&(number, **prefix)));
    needs.extend(new.map(|prefix| (Stage::Frontends, Operation::PutSource(address, number, *prefix))));
    // What needs nothing but places may go first of all: it only turns away from backends.
    let here = frontend.backends.iter().all(|backend| current.backends.get(backend.0).is_some());
    let early = needs.is_empty() && here;
    let (places, switch) = if early { (Stage::Relief, Stage::Relieve) } else { (Stage::Places, Stage::Services) };
    let mut written = BTreeSet::new();
    for places_of in frontend.places.iter().filter(|places| !places.backends.is_empty()) {
        if current.written.get(&places_of.row) != Some(&places_of.backends) && written.insert(places_of.row) {
            needs.push((places, Operation::WritePlaces(address, places_of.clone())));
        }
    }
    if former.is_some_and(|former| former.is_same(&frontend)) && needs.is_empty() {
        plan.known.push((address, frontend.clone()));
    } else {
        needs.push((switch, Operation::PutService(address, frontend.clone())));
    }
    needs.into_iter().for_each(|(stage, operation)| plan.add(stage, operation));
    let rows = former.iter().flat_map(|former| &former.places).filter(|places| !places.backends.is_empty());
    let rows: BTreeSet<u32> = rows.map(|places| places.row).filter(|row| !frontend.has_row(*row)).collect();
    plan.retired.extend(rows.into_iter().map(|row| Operation::ReleasePlaces(address, row)));
    let old = current.members_of(number).filter(|backend| !members.contains(backend));
    old.for_each(|backend| plan.add(Stage::Leave, Operation::RemoveMember(address, number, backend)));
    let kept = |prefix: &IpNetwork| frontend.sources.as_ref().is_some_and(|sources| sources.contains(prefix));
    let old = current.sources_of(number).filter(|prefix| !kept(prefix));
    old.for_each(|prefix| plan.add(Stage::Leave, Operation::RemoveSource(address, number, prefix)));
}

fn remove(plan: &mut Plan, current: &Services, address: L4Address) {
    let Some(former) = current.frontends.get(&address) else { return };
    plan.add(Stage::Relieve, Operation::RemoveService(address));
    let rows = former.places.iter().filter(|places| !places.backends.is_empty()).map(|places| places.row);
    let rows: BTreeSet<u32> = rows.collect();
    plan.retired.extend(rows.into_iter().map(|row| Operation::ReleasePlaces(address, row)));
    retire_numbers(plan, current, address, former.number);
}

/// All that is said of a service number.
fn retire_numbers(plan: &mut Plan, current: &Services, address: L4Address, number: ServiceNumber) {
    let members = current.members_of(number).map(|backend| Operation::RemoveMember(address, number, backend));
    plan.retired.extend(members);
    let sources = current.sources_of(number).map(|prefix| Operation::RemoveSource(address, number, prefix));
    plan.retired.extend(sources);
    plan.retired.push(Operation::RemoveReverse(address, number));
}

/// What a round gives out on top of what is there.
struct Draft<'a> {
    current: &'a Services,
    last_service: u32,
    last_backend: u32,
    services: BTreeSet<u32>,
    backends: HashMap<SocketAddr, BackendNumber>,
    indices: BTreeSet<u32>,
    /// Backends that the frontend at hand adds.
    added: Vec<(BackendNumber, SocketAddr)>,
    /// How much of each free extent is taken, by where it begins.
    taken: BTreeMap<u32, u32>,
    /// Where to look on for a length: all before is taken.
    cursor: BTreeMap<u32, (u32, u32)>,
}

impl<'a> Draft<'a> {
    fn new(current: &'a Services) -> Draft<'a> {
        Draft {
            current,
            last_service: current.reverse.last,
            last_backend: current.backends.last,
            services: BTreeSet::new(),
            backends: HashMap::new(),
            indices: BTreeSet::new(),
            added: Vec::new(),
            taken: BTreeMap::new(),
            cursor: BTreeMap::new(),
        }
    }

    /// What a frontend is to be in the kernel. Gives out what it needs of numbers and places.
    fn frontend(&mut self, address: &L4Address, wanted: &LoadBalancer) -> Result<Frontend, Fault> {
        self.added.clear();
        let former = self.current.frontends.get(address);
        let numbers = wanted.backends.iter().map(|backend| self.backend(address, backend));
        let numbers: Vec<BackendNumber> = numbers.collect::<Result<_, _>>()?;
        let internal = self.places(former, &wanted.internal, &numbers, None)?;
        let external = self.places(former, &wanted.external, &numbers, Some(&internal))?;
        let number = match former {
            Some(former) => former.number,
            None => self.service()?,
        };
        let mut backends = numbers;
        backends.sort_unstable();
        backends.dedup();
        let sources = wanted.source_ranges.as_ref().map(|ranges| {
            let ranges = ranges.iter().filter(|range| range.is_ipv4() == address.ip.is_ipv4());
            let ranges = ranges.filter_map(|range| IpNetwork::new(range.network(), range.prefix()).ok());
            ranges.collect::<BTreeSet<_>>().into_iter().collect()
        });
        let affinity = wanted.affinity.map(|seconds| clock::ticks(Duration::from_secs(seconds.into())));
        Ok(Frontend {
            number,
            id: wanted.id,
            kind: wanted.kind,
            by: [wanted.internal.by, wanted.external.by],
            places: [internal, external],
            affinity: affinity.unwrap_or(0).min(i32::MAX as u32),
            sources,
            backends: backends.into(),
        })
    }

    /// The frontend at hand cannot be had: what it adds is not written.
    fn give_back(&mut self) {
        for (_, address) in self.added.drain(..) {
            self.backends.remove(&address);
        }
    }

    fn service(&mut self) -> Result<ServiceNumber, Fault> {
        let taken = &self.services;
        let next = |last| self.current.reverse.next(last);
        let number = next(self.last_service).filter(|n| !taken.contains(&(n % abi::LB_SERVICES)));
        let full = || Fault::Full(format!("there is room for {} services", abi::LB_SERVICES));
        let number = number.ok_or_else(full)?;
        self.last_service = number;
        self.services.insert(number % abi::LB_SERVICES);
        Ok(ServiceNumber(number))
    }

    fn backend(&mut self, frontend: &L4Address, backend: &L4Address) -> Result<BackendNumber, Fault> {
        if backend.ip.is_ipv4() != frontend.ip.is_ipv4() {
            return Err(Fault::Wrong(format!("its backend {backend} is of the other family")));
        }
        let address = SocketAddr::new(backend.ip, backend.port);
        if let Some(number) = self.current.number_of(address).or_else(|| self.backends.get(&address).copied()) {
            return Ok(number);
        }
        let taken = &self.indices;
        let number = self.current.backends.next(self.last_backend).filter(|n| !taken.contains(&(n % abi::LB_BACKENDS)));
        let full = || Fault::Full(format!("there is room for {} backends", abi::LB_BACKENDS));
        let number = number.ok_or_else(full)?;
        self.last_backend = number;
        self.indices.insert(number % abi::LB_BACKENDS);
        self.backends.insert(address, BackendNumber(number));
        self.added.push((BackendNumber(number), address));
        Ok(BackendNumber(number))
    }

    /// Where a table stands or is to stand: where it was if it is as it was, or where its neighbour is that is alike.
    fn places(
        &mut self,
        former: Option<&Frontend>,
        table: &Table,
        numbers: &[BackendNumber],
        neighbour: Option<&Places>,
    ) -> Result<Places, Fault> {
        let number = |at: &u16| numbers.get(usize::from(*at)).copied();
        let wrong = || Fault::Wrong("its table names a backend that it has not".to_owned());
        let backends = table.places.iter().map(number).collect::<Option<Arc<[BackendNumber]>>>().ok_or_else(wrong)?;
        if backends.is_empty() {
            return Ok(Places::default());
        }
        let mut known = neighbour.into_iter().chain(former.iter().flat_map(|former| &former.places));
        if let Some(places) = known.find(|places| places.backends == backends) {
            return Ok(places.clone());
        }
        let row = self.room(rows(backends.len())).ok_or_else(|| {
            let rows = u64::from(self.current.rows);
            Fault::Full(format!(
                "there is no room for its {} places among {}",
                backends.len(),
                rows * abi::LB_ROW as u64
            ))
        })?;
        Ok(Places { row, backends })
    }

    fn room(&mut self, length: u32) -> Option<u32> {
        let free: &Extents = &self.current.free;
        let after = self.cursor.get(&length).copied().unwrap_or_default();
        for (whole, start) in free.at_least(length, after) {
            let taken = self.taken.entry(start).or_default();
            if whole - *taken >= length {
                let row = start + *taken;
                *taken += length;
                self.cursor.insert(length, (whole, start));
                return Some(row);
            }
        }
        None
    }
}

//! What the kernel holds of services: frontends, their places, the numbers of all, and the room that is left.
//!
//! Owns the picture and its bookkeeping. What is wanted instead is `plan::services`'.

use crate::operation::Operation;
use bpf::abi;
use ipnetwork::IpNetwork;
use model::service::{Algorithm, ServiceType};
use model::{L4Address, LoadBalancer, Protocol, ServiceId, SharedMap};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// What stands for a frontend in this kernel. Never 0, not used again while the maps live and numbers last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceNumber(pub u32);

/// What stands for a backend in this kernel, likewise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackendNumber(pub u32);

/// Programs return numbers as signed ones.
const LAST_NUMBER: u32 = i32::MAX as u32;

/// A row of places; without backends there are none, wherever they begin.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// Of `abi::LB_ROW` places each.
    pub row: u32,
    pub backends: Arc<[BackendNumber]>,
}

/// How many rows so many places take.
pub fn rows(places: usize) -> u32 {
    u32::try_from(places.div_ceil(abi::LB_ROW as usize)).unwrap_or(u32::MAX)
}

/// What the programs know of a frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frontend {
    pub number: ServiceNumber,
    pub id: ServiceId,
    pub kind: ServiceType,
    /// By where flows begin: `abi::LB_INTERNAL`, `abi::LB_EXTERNAL`.
    pub by: [Algorithm; 2],
    pub places: [Places; 2],
    /// Jiffies, 0: none.
    pub affinity: u32,
    /// Of the frontend's family, in ascending order.
    pub sources: Option<Arc<[IpNetwork]>>,
    /// All that flows may rest on, in ascending order. Of what was read from the kernel only those that have places.
    pub backends: Arc<[BackendNumber]>,
}

impl Frontend {
    /// Whether the kernel would hold the same for both.
    pub fn is_same(&self, other: &Frontend) -> bool {
        let kernel = |f: &Frontend| (f.number, f.id, f.kind, f.by, f.affinity, f.sources.clone());
        kernel(self) == kernel(other) && self.places == other.places
    }

    /// Those that get new flows.
    pub fn placed(&self) -> BTreeSet<BackendNumber> {
        self.places.iter().flat_map(|places| places.backends.iter().copied()).collect()
    }

    /// Those that a client may be sent to again.
    pub fn members(&self) -> BTreeSet<BackendNumber> {
        if self.affinity == 0 { BTreeSet::new() } else { self.placed() }
    }

    pub fn has_row(&self, row: u32) -> bool {
        self.places.iter().any(|places| places.row == row && !places.backends.is_empty())
    }
}

/// Numbers and addresses, in an array of which the index is the number modulo its size.
#[derive(Clone, PartialEq, Debug)]
pub struct Numbers {
    by_index: BTreeMap<u32, (u32, SocketAddr)>,
    size: u32,
    /// The largest that was ever given out.
    pub last: u32,
}

impl Numbers {
    pub fn new(size: u32) -> Numbers {
        Numbers { by_index: BTreeMap::new(), size, last: 0 }
    }

    pub fn get(&self, number: u32) -> Option<SocketAddr> {
        self.by_index.get(&(number % self.size)).filter(|(held, _)| *held == number).map(|(_, address)| *address)
    }

    pub fn insert(&mut self, number: u32, address: SocketAddr) {
        self.by_index.insert(number % self.size, (number, address));
        self.last = self.last.max(number);
    }

    pub fn remove(&mut self, number: u32) {
        if self.get(number).is_some() {
            self.by_index.remove(&(number % self.size));
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, SocketAddr)> {
        self.by_index.values().copied()
    }

    /// The first number after `last` of which the place is free; `None`: there is none.
    pub fn next(&self, last: u32) -> Option<u32> {
        let after = |number: u32| if number >= LAST_NUMBER { 1 } else { number + 1 };
        let candidates = std::iter::successors(Some(after(last)), |number| Some(after(*number)));
        let size = self.size as usize;
        candidates.take(size).find(|number| !self.by_index.contains_key(&(number % self.size)))
    }
}

/// What is free of a range of numbers.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Extents {
    by_start: BTreeMap<u32, u32>,
    by_length: BTreeSet<(u32, u32)>,
}

impl Extents {
    /// All of `length` from 0 on.
    pub fn new(length: u32) -> Extents {
        let mut extents = Extents::default();
        extents.give(0, length);
        extents
    }

    /// Those of at least a length, and where they begin, the shortest first.
    pub fn at_least(&self, length: u32, after: (u32, u32)) -> impl Iterator<Item = (u32, u32)> {
        self.by_length.range((length, 0).max(after)..).copied()
    }

    fn put(&mut self, start: u32, length: u32) {
        if length > 0 {
            self.by_start.insert(start, length);
            self.by_length.insert((length, start));
        }
    }

    fn cut(&mut self, start: u32) -> u32 {
        let length = self.by_start.remove(&start).unwrap_or(0);
        self.by_length.remove(&(length, start));
        length
    }

    /// Takes a part of one of them; what is not free is left alone.
    pub fn take(&mut self, start: u32, length: u32) {
        let Some((begin, whole)) = self.by_start.range(..=start).next_back().map(|(b, w)| (*b, *w)) else { return };
        let (end, whole_end) = (start + length, begin + whole);
        if end <= whole_end {
            self.cut(begin);
            self.put(begin, start - begin);
            self.put(end, whole_end - end);
        }
    }

    /// Gives back what was taken.
    pub fn give(&mut self, start: u32, length: u32) {
        let (mut start, mut length) = (start, length);
        if let Some((before, of)) = self.by_start.range(..start).next_back().map(|(b, o)| (*b, *o))
            && before + of == start
        {
            self.cut(before);
            (start, length) = (before, length + of);
        }
        if self.by_start.contains_key(&(start + length)) {
            length += self.cut(start + length);
        }
        self.put(start, length);
    }
}

/// Everything in the maps of services.
#[derive(Clone, PartialEq, Debug)]
pub struct Services {
    pub frontends: BTreeMap<L4Address, Frontend>,
    /// Addresses of backends.
    pub backends: Numbers,
    numbers: HashMap<SocketAddr, BackendNumber>,
    /// By how many frontends a backend is named; absent: by none.
    users: HashMap<BackendNumber, u32>,
    /// Backends that the last frontend gave up since this was last looked at.
    pub idle: BTreeSet<BackendNumber>,
    /// Addresses of frontends.
    pub reverse: Numbers,
    pub members: BTreeSet<(ServiceNumber, BackendNumber)>,
    pub sources: BTreeSet<(ServiceNumber, IpNetwork)>,
    /// What is written, by row, that may be in use.
    pub written: BTreeMap<u32, Arc<[BackendNumber]>>,
    pub free: Extents,
    /// How many there are, free or not.
    pub rows: u32,
    /// Numbers of services that no frontend has, left by an agent that ended; what is said of them may go.
    pub orphans: Vec<(ServiceNumber, L4Address)>,
    /// Of the snapshots' what the kernel is known to be equal to.
    pub same: SharedMap<L4Address, Arc<LoadBalancer>>,
    /// Frontends that the kernel has beside those of `same`.
    pub strays: BTreeSet<L4Address>,
}

impl Default for Services {
    /// Nothing, in maps of the usual size.
    fn default() -> Services {
        Services::new(abi::LB_PLACE_ROWS)
    }
}

impl Services {
    /// Nothing, and room for so many rows of places.
    pub fn new(rows: u32) -> Services {
        Services {
            frontends: BTreeMap::new(),
            backends: Numbers::new(abi::LB_BACKENDS),
            numbers: HashMap::new(),
            users: HashMap::new(),
            idle: BTreeSet::new(),
            reverse: Numbers::new(abi::LB_SERVICES),
            members: BTreeSet::new(),
            sources: BTreeSet::new(),
            written: BTreeMap::new(),
            free: Extents::new(rows),
            rows,
            orphans: Vec::new(),
            same: SharedMap::new(),
            strays: BTreeSet::new(),
        }
    }

    /// The backends of which a service says that a client may be sent there again.
    pub fn members_of(&self, number: ServiceNumber) -> impl Iterator<Item = BackendNumber> {
        let range = (number, BackendNumber(0))..=(number, BackendNumber(u32::MAX));
        self.members.range(range).map(|(_, backend)| *backend)
    }

    /// From where a service may be asked.
    pub fn sources_of(&self, number: ServiceNumber) -> impl Iterator<Item = IpNetwork> {
        let least = IpNetwork::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let least = IpNetwork::new(least.ip(), 0).unwrap_or(least);
        self.sources.range((number, least)..).take_while(move |(of, _)| *of == number).map(|(_, prefix)| *prefix)
    }

    pub fn number_of(&self, address: SocketAddr) -> Option<BackendNumber> {
        self.numbers.get(&address).copied()
    }

    pub fn is_used(&self, number: BackendNumber) -> bool {
        self.users.contains_key(&number)
    }

    /// Notes a backend that is there.
    pub fn note_backend(&mut self, number: BackendNumber, address: SocketAddr) {
        self.backends.insert(number.0, address);
        self.numbers.insert(address, number);
    }

    /// Notes places that are written.
    pub fn note_places(&mut self, places: &Places) {
        self.free.take(places.row, rows(places.backends.len()));
        self.written.insert(places.row, places.backends.clone());
    }

    /// Notes a frontend that is there, in the place of another.
    pub fn note_frontend(&mut self, address: L4Address, frontend: Frontend) {
        for number in frontend.backends.iter() {
            *self.users.entry(*number).or_default() += 1;
        }
        if let Some(former) = self.frontends.insert(address, frontend) {
            self.give_up(&former);
        }
    }

    fn give_up(&mut self, former: &Frontend) {
        for number in former.backends.iter() {
            let Some(users) = self.users.get_mut(number) else { continue };
            *users -= 1;
            if *users == 0 {
                self.users.remove(number);
                self.idle.insert(*number);
            }
        }
    }

    /// After all was read: what nothing uses, and what is not known to be wanted.
    pub fn complete(&mut self) {
        let unused = self.backends.iter().map(|(number, _)| BackendNumber(number)).filter(|n| !self.is_used(*n));
        self.idle = unused.collect();
        self.strays = self.frontends.keys().copied().collect();
        let numbers: BTreeSet<ServiceNumber> = self.frontends.values().map(|frontend| frontend.number).collect();
        let said = self.reverse.iter().map(|(number, _)| ServiceNumber(number));
        let said = said.chain(self.members.iter().map(|(number, _)| *number));
        let said: BTreeSet<_> = said.chain(self.sources.iter().map(|(number, _)| *number)).collect();
        let nobody = L4Address { ip: Ipv4Addr::UNSPECIFIED.into(), port: 0, protocol: Protocol(0) };
        // Not all that is said of a number may have been written; it is given out all the same.
        let last = said.last().map_or(0, |number| number.0);
        self.reverse.last = self.reverse.last.max(last);
        self.orphans = said.difference(&numbers).map(|number| (*number, nobody)).collect();
    }

    /// Whether the kernel held the same when both were read.
    pub fn is_as_read(&self, read: &Services) -> bool {
        let frontends = self.frontends.len() == read.frontends.len()
            && self.frontends.iter().zip(&read.frontends).all(|((a, x), (b, y))| a == b && x.is_same(y));
        frontends
            && (self.rows, &self.written) == (read.rows, &read.written)
            && self.backends == read.backends
            && self.reverse == read.reverse
            && self.members == read.members
            && self.sources == read.sources
    }

    /// What a reader of the maps would make of them.
    #[cfg(test)]
    pub fn as_if_read(&self) -> Services {
        let mut read = Services::new(self.rows);
        for (number, address) in self.backends.iter() {
            read.note_backend(BackendNumber(number), address);
        }
        for (number, address) in self.reverse.iter() {
            read.reverse.insert(number, address);
        }
        (read.backends.last, read.reverse.last) = (self.backends.last, self.reverse.last);
        (read.members, read.sources) = (self.members.clone(), self.sources.clone());
        for (address, frontend) in &self.frontends {
            let backends = frontend.placed().into_iter().collect();
            frontend.places.iter().filter(|places| !places.backends.is_empty()).for_each(|p| read.note_places(p));
            read.note_frontend(*address, Frontend { backends, ..frontend.clone() });
        }
        read.complete();
        read
    }

    pub fn record(&mut self, operation: &Operation) {
        match operation {
            Operation::PutBackend(_, number, address) => self.note_backend(*number, *address),
            Operation::WritePlaces(_, places) => self.note_places(places),
            Operation::PutReverse(frontend, number) => {
                self.reverse.insert(number.0, SocketAddr::new(frontend.ip, frontend.port));
            }
            Operation::PutMember(_, number, backend) => {
                self.members.insert((*number, *backend));
                self.reverse.last = self.reverse.last.max(number.0);
            }
            Operation::PutSource(_, number, prefix) => {
                self.sources.insert((*number, *prefix));
                self.reverse.last = self.reverse.last.max(number.0);
            }
            Operation::PutService(address, frontend) => self.note_frontend(*address, frontend.clone()),
            Operation::RemoveService(address) => {
                if let Some(former) = self.frontends.remove(address) {
                    self.give_up(&former);
                }
                self.strays.remove(address);
                self.same.remove(address);
            }
            Operation::RemoveMember(_, number, backend) => drop(self.members.remove(&(*number, *backend))),
            Operation::RemoveSource(_, number, prefix) => drop(self.sources.remove(&(*number, *prefix))),
            Operation::ReleasePlaces(_, row) => {
                if let Some(backends) = self.written.remove(row) {
                    self.free.give(*row, rows(backends.len()));
                }
            }
            Operation::RemoveReverse(_, number) => {
                self.reverse.remove(number.0);
                self.orphans.retain(|(orphan, _)| orphan != number);
            }
            Operation::RemoveBackend(number) => {
                self.idle.remove(number);
                if let Some(address) = self.backends.get(number.0) {
                    self.backends.remove(number.0);
                    if self.number_of(address) == Some(*number) {
                        self.numbers.remove(&address);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_taken_is_not_free_and_what_is_given_is_whole_again(
            lengths in proptest::collection::vec(1u32..9, 1..20), order: prop::sample::Index,
        ) {
            let mut extents = Extents::new(100);
            let mut taken: Vec<(u32, u32)> = Vec::new();
            for length in lengths {
                let Some((_, start)) = extents.at_least(length, (0, 0)).next() else { continue };
                prop_assert!(taken.iter().all(|(s, l)| start + length <= *s || s + l <= start));
                extents.take(start, length);
                taken.push((start, length));
            }
            if !taken.is_empty() {
                let at = order.index(taken.len());
                taken.rotate_left(at);
            }
            for (start, length) in taken {
                extents.give(start, length);
            }
            prop_assert_eq!(extents, Extents::new(100));
        }
    }

    #[test]
    fn a_number_is_not_given_out_twice_and_its_place_is_free() {
        let mut numbers = Numbers::new(4);
        let address = "10.0.0.1:80".parse().unwrap();
        assert_eq!(numbers.next(0), Some(1));
        for number in 1..=3 {
            numbers.insert(number, address);
        }
        numbers.remove(2);
        // 4 and 6 are free, 5 is where 1 stands.
        assert_eq!(numbers.next(numbers.last), Some(4));
        numbers.insert(4, address);
        assert_eq!(numbers.next(numbers.last), Some(6));
        numbers.insert(6, address);
        assert_eq!(numbers.next(numbers.last), None);
        assert_eq!((numbers.get(2), numbers.get(6)), (None, Some(address)));
        assert_eq!(Numbers::new(4).next(LAST_NUMBER), Some(1));
    }
}

//! Tables by which every node finds the same backend for the same flow, and of which few places change when backends come
//! or go: what `--bpf-lb-algorithm=maglev` asks for.
//!
//! Each place likes the backends in an order of its own, which follows from its number, their addresses and the seed alone;
//! a backend with twice the weight is twice as often the first. Nobody gets more places than its weight's share and a
//! little more: of those who like it, it takes the places that like it best, and the others go to the next of their order
//! (Gale and Shapley's deferred acceptance, of which the outcome does not depend on who comes first). So where one leaves,
//! its places go to others, and hardly any other place changes hands. Maglev's own way of filling a table, by turns, moves
//! three times as many at the same size, since who is late in one place is late in the next.

use super::places::Weighted;
use model::L4Address;
use std::net::IpAddr;
use std::sync::Arc;

/// The sizes that can be chosen: Cilium's.
pub const SIZES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071];
pub const DEFAULT_SIZE: u32 = 16_381;
/// Cilium's, so that the default is as known as it is there.
pub const DEFAULT_SEED: &str = "JLfvgnHc2kaSUFaI";

/// A backend gets no more places than its share and one in so many of it.
const SLACK: u64 = 50;

/// A backend, as places see it.
struct Candidate {
    index: u16,
    hash: u64,
    /// How much costlier it is than the heaviest; in 1/2^16.
    factor: u64,
    most: usize,
}

/// How little a place likes a backend, and which: the lowest is chosen.
type Rank = (u64, u16);

/// The table. `addresses` are those of the indices, and `backends` are in ascending order of their addresses, on every
/// node alike. `size` is one of `SIZES`.
pub(crate) fn table(backends: &[Weighted], addresses: &[L4Address], size: u32, seed: u64) -> Arc<[u16]> {
    match backends {
        [] => return Arc::new([]),
        // One alone has all places, however many there are.
        [(only, _)] => return Arc::new([*only]),
        _ => {}
    }
    let candidates = candidates(backends, addresses, size, seed);
    let equal = candidates.iter().all(|candidate| candidate.factor == ONE);
    let places = if equal { fill(&candidates, size, plain) } else { fill(&candidates, size, weighted) };
    let index = |(_, at): &Rank| candidates.get(usize::from(*at)).map(|candidate| candidate.index);
    places.iter().filter_map(index).collect()
}

const ONE: u64 = 1 << 16;

fn candidates(backends: &[Weighted], addresses: &[L4Address], size: u32, seed: u64) -> Vec<Candidate> {
    let heaviest = backends.iter().map(|(_, weight)| u64::from(*weight)).max().unwrap_or(1);
    let sum: u64 = backends.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let candidate = |(index, weight): &Weighted| {
        let weight = u64::from(*weight).max(1);
        // In this order: it fits, and all together find room.
        let most = (u64::from(size) * weight * (SLACK + 1)).div_ceil(sum.max(1) * SLACK);
        let address = addresses.get(usize::from(*index))?;
        let (hash, most) = (hash(address, seed), usize::try_from(most).unwrap_or(usize::MAX));
        Some(Candidate { index: *index, hash, factor: heaviest * ONE / weight, most })
    };
    backends.iter().filter_map(candidate).collect()
}

/// Whom each place ends with.
fn fill(candidates: &[Candidate], size: u32, cost: impl Fn(u32, u64) -> u64) -> Vec<Rank> {
    let size = size as usize;
    let best = |place: usize, may: &dyn Fn(Rank) -> bool| {
        let salt = salt(place);
        let ranks = (0_u16..).zip(candidates).map(|(at, c)| (cost(liking(c.hash ^ salt), c.factor), at));
        ranks.filter(|rank| may(*rank)).min().unwrap_or((u64::MAX, u16::MAX))
    };
    // By far the most of the work: no more than it takes.
    let first = |place: usize| {
        let salt = salt(place);
        let mut best = (u64::MAX, u16::MAX);
        for (at, candidate) in (0_u16..).zip(candidates) {
            let cost = cost(liking(candidate.hash ^ salt), candidate.factor);
            if cost < best.0 {
                best = (cost, at);
            }
        }
        best
    };
    let mut places: Vec<Rank> = (0..size).map(first).collect();
    // Whom each has, best first; and those whom it has no room for.
    let mut held: Vec<Vec<(u64, usize)>> = vec![Vec::new(); candidates.len()];
    for (place, (cost, at)) in places.iter().enumerate() {
        if let Some(held) = held.get_mut(usize::from(*at)) {
            held.push((*cost, place));
        }
    }
    let mut refused = Vec::new();
    for (held, candidate) in held.iter_mut().zip(candidates) {
        held.sort_unstable();
        refused.extend(held.drain(candidate.most.min(held.len())..).map(|(_, place)| place));
    }
    while let Some(place) = refused.pop() {
        let Some(rank) = places.get_mut(place) else { continue };
        let before = *rank;
        *rank = best(place, &|rank| rank > before);
        let (cost, at) = *rank;
        let at = usize::from(at);
        if let (Some(held), Some(candidate)) = (held.get_mut(at), candidates.get(at)) {
            let entry = (cost, place);
            held.insert(held.partition_point(|other| *other < entry), entry);
            if held.len() > candidate.most {
                refused.extend(held.pop().map(|(_, place)| place));
            }
        }
    }
    places
}

/// What makes a place differ from the others.
fn salt(place: usize) -> u64 {
    (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// How much a place likes a backend.
fn liking(mixed: u64) -> u32 {
    let wide = u128::from(mixed) * 0xa076_1d64_78bd_642f;
    (((wide >> 64) as u64 ^ wide as u64) >> 32) as u32
}

/// Where all weights are equal: in the same order as `weighted`.
fn plain(liking: u32, _: u64) -> u64 {
    u64::from(!liking)
}

/// The cost of which the least is as likely a backend's as its weight says: -log(liking) / weight.
fn weighted(liking: u32, factor: u64) -> u64 {
    (u64::from(minus_log(liking)) * factor) >> 8
}

const STEPS: usize = 256;

/// The binary logarithms of 1 to 2, in 1/2^20. Whole numbers only: they are the same on every machine.
const LOGARITHMS: [u32; STEPS + 1] = {
    let mut table = [0; STEPS + 1];
    let mut n = 0;
    while n <= STEPS {
        // 1 to 2 in 1/2^31, squared again and again: whether that is above 2 is the next bit.
        let (mut value, mut bits, mut bit) = (((STEPS + n) as u64) << 23, 0_u32, 0);
        if n == STEPS {
            (value, bits, bit) = (0, 1 << 20, 20);
        }
        while bit < 20 {
            value = (value * value) >> 31;
            bits <<= 1;
            if value >> 32 > 0 {
                value >>= 1;
                bits |= 1;
            }
            bit += 1;
        }
        table[n] = bits;
        n += 1;
    }
    table
};

/// -log2(x / 2^32) in 1/2^20.
fn minus_log(x: u32) -> u32 {
    let x = x | 1;
    let zeros = x.leading_zeros();
    let (step, rest) = ((x << zeros) >> 23 & 0xff, u64::from((x << zeros) & 0x7f_ffff));
    let at = |n: u32| LOGARITHMS.get(n as usize).copied().unwrap_or_default();
    let (low, high) = (at(step), at(step + 1));
    let log = low + ((u64::from(high - low) * rest) >> 23) as u32;
    ((zeros + 1) << 20) - log
}

/// The seed that a text stands for.
pub fn seed(text: &str) -> u64 {
    mix(text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// The same on every machine.
fn hash(address: &L4Address, seed: u64) -> u64 {
    let (high, low) = match address.ip {
        IpAddr::V4(ip) => (0, u64::from(u32::from(ip))),
        IpAddr::V6(ip) => {
            let bits = u128::from(ip);
            ((bits >> 64) as u64, bits as u64)
        }
    };
    let rest = u64::from(address.port) << 8 | u64::from(address.protocol.0);
    [high, low, rest].into_iter().fold(seed, |hash, part| mix(hash ^ part))
}

/// Spreads each bit over all (the finish of MurmurHash3, with a step before it so that 0 does not stay 0).
fn mix(bits: u64) -> u64 {
    let mut bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ bits >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ bits >> 33
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Protocol;

    fn addresses(count: u16) -> Vec<L4Address> {
        let address = |n: u16| {
            let [high, low] = n.to_be_bytes();
            L4Address { ip: IpAddr::from([10, 15, high, low]), port: 8080, protocol: Protocol::TCP }
        };
        (0..count).map(address).collect()
    }

    fn equal(count: u16) -> Vec<Weighted> {
        (0..count).map(|index| (index, 100)).collect()
    }

    fn without(count: u16, gone: u16) -> Vec<Weighted> {
        equal(count).into_iter().filter(|(index, _)| *index != gone).collect()
    }

    #[test]
    fn every_place_is_taken_and_shares_are_even() {
        let table = table(&equal(100), &addresses(100), DEFAULT_SIZE, seed(DEFAULT_SEED));
        assert_eq!(table.len(), 16_381);
        let mut counts = [0_u32; 100];
        table.iter().for_each(|index| counts[usize::from(*index)] += 1);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*most <= 168 && *least >= 120, "{least} to {most}");
    }

    #[test]
    fn few_flows_to_survivors_move_when_one_of_a_hundred_leaves() {
        let (addresses, seed) = (addresses(100), seed(DEFAULT_SEED));
        let before = table(&equal(100), &addresses, DEFAULT_SIZE, seed);
        let mut worst = 0.0_f64;
        let mut sum = 0.0;
        for gone in (0..100).step_by(9) {
            let after = table(&without(100, gone), &addresses, DEFAULT_SIZE, seed);
            let survivors = before.iter().zip(&*after).filter(|(before, _)| **before != gone);
            let (kept, moved): (Vec<_>, Vec<_>) = survivors.partition(|(before, after)| before == after);
            let share = moved.len() as f64 / (kept.len() + moved.len()) as f64;
            worst = worst.max(share);
            sum += share / 12.0;
        }
        println!("mean {:.3} %, worst {:.3} %", sum * 100.0, worst * 100.0);
        assert!(worst <= 0.01, "{worst}");
    }

    #[test]
    fn weights_are_shares() {
        let table = table(&[(0, 100), (1, 50), (2, 10)], &addresses(3), 16_381, seed("x"));
        let share = |wanted| table.iter().filter(|index| **index == wanted).count() as f64 / table.len() as f64;
        for (index, wanted) in [(0, 100.0 / 160.0), (1, 50.0 / 160.0), (2, 10.0 / 160.0)] {
            assert!((share(index) - wanted).abs() < wanted / 40.0, "{index}: {} of {wanted}", share(index));
        }
    }

    #[test]
    fn who_takes_another_weight_moves_little_else() {
        let (addresses, mut backends) = (addresses(10), equal(10));
        let before = table(&backends, &addresses, DEFAULT_SIZE, 1);
        backends[3].1 = 50;
        let after = table(&backends, &addresses, DEFAULT_SIZE, 1);
        let moved = before.iter().zip(&*after).filter(|(before, after)| before != after && **before != 3).count();
        assert!(moved * 100 <= before.len(), "{moved} of {}", before.len());
    }

    #[test]
    fn logarithms_are_right() {
        for x in [1_u32, 3, 1000, 1 << 20, (1 << 20) + 12_345, 1 << 31, u32::MAX] {
            let (x, exact) = (minus_log(x), -(f64::from(x | 1) / 4_294_967_296.0).log2());
            assert!((f64::from(x) / 1_048_576.0 - exact).abs() < 0.0001, "{x} {exact}");
        }
        assert!((0..=u32::MAX / 4096).map(|n| minus_log(n * 4096 + 1)).is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn one_alone_needs_one_place_and_nobody_none() {
        assert_eq!(&*table(&[(4, 1)], &addresses(5), DEFAULT_SIZE, 1), [4]);
        assert!(table(&[], &addresses(5), DEFAULT_SIZE, 1).is_empty());
    }
}

//! How the places of a table are shared out among backends by their weights.

use std::sync::Arc;

/// Most places of a table that is gone through at random: what weights ask for beyond that is rounded.
const MOST: usize = 16_384;

/// A backend's index, and its weight, which is not 0.
pub(crate) type Weighted = (u16, u16);

/// As many places for each as its weight says, beside the others': the smallest such table, rounded where that would be
/// too large. Everybody has one place at least.
pub(crate) fn by_weight(backends: &[Weighted]) -> Arc<[u16]> {
    let shares = shares(backends);
    backends.iter().zip(shares).flat_map(|((index, _), places)| std::iter::repeat_n(*index, places)).collect()
}

fn shares(backends: &[Weighted]) -> Vec<usize> {
    let divisor = backends.iter().fold(0, |divisor, (_, weight)| common_divisor(divisor, *weight)).max(1);
    let exact: Vec<usize> = backends.iter().map(|(_, weight)| usize::from(weight / divisor)).collect();
    let sum: usize = exact.iter().sum();
    let most = MOST.max(backends.len());
    if sum <= most {
        return exact;
    }
    exact.iter().map(|share| (share * most / sum).max(1)).collect()
}

fn common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_have_one_place_each() {
        assert_eq!(&*by_weight(&[(0, 100), (2, 100), (5, 100)]), [0, 2, 5]);
        assert_eq!(&*by_weight(&[]), [0_u16; 0]);
    }

    #[test]
    fn places_are_as_weights() {
        assert_eq!(&*by_weight(&[(0, 100), (1, 50)]), [0, 0, 1]);
        let places = by_weight(&[(0, 1), (1, 65_535), (2, 65_521)]);
        let count = |wanted| places.iter().filter(|index| **index == wanted).count();
        assert!(places.len() <= MOST + 3, "{}", places.len());
        assert_eq!(count(0), 1);
        assert!(count(1).abs_diff(count(2)) <= 4, "{} {}", count(1), count(2));
    }
}

//! Numbers to be given: those of addresses, and ports. A range may be as large as IPv6 makes them; only what is taken of it
//! is ever gone through.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use skiff_base::cidr::{Cidr, Family, number};
use skiff_base::ids::Ids;

/// Upstream's shortest prefix of a range of Services: what is larger is not given from.
const SHORTEST_V6_PREFIX: u8 = 64;

/// Numbers of one range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) first: u128,
    pub(super) last: u128,
    /// Numbers below this are given only to those who ask for them, while others are left.
    dynamic_from: u128,
}

impl Pool {
    /// `share` and `cap` bound the part that is kept for those who ask for a certain number.
    pub(super) fn new(range: RangeInclusive<u128>, share: u128, cap: u128) -> Self {
        let (first, last) = range.into_inner();
        let size = last.saturating_sub(first) + 1;
        let kept = if size < 16 { 0 } else { (size / share).clamp(16, cap).min(size / 2) };
        Self { first, last, dynamic_from: first + kept }
    }

    /// The addresses of a range: without the network's own, and without IPv4's broadcast address.
    pub(super) fn of_range(range: Cidr) -> Option<Self> {
        let is_v6 = range.family() == Family::V6;
        if is_v6 && range.bits() < SHORTEST_V6_PREFIX {
            return None;
        }
        let (first, last) = (number(range.base()) + 1, number(range.last()));
        let last = if is_v6 { last } else { last.saturating_sub(1) };
        (first <= last).then(|| Self::new(first..=last, 16, 256))
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// A number of the upper part, free or not.
    pub(super) fn guess(&self, ids: &Ids) -> u128 {
        let size = self.last.saturating_sub(self.dynamic_from) + 1;
        self.dynamic_from + u128::from(ids.next_u64()) % size
    }

    /// Any free number, from the upper part if there is one.
    pub(super) fn free(&self, taken: &BTreeSet<u128>, ids: &Ids) -> Option<u128> {
        let free_in = |first: u128, last: u128| {
            let size = last.checked_sub(first)? + 1;
            let start = u128::from(ids.next_u64()) % size;
            let mut candidates = (0..size).map(|step| first + (start + step) % size);
            candidates.find(|number| !taken.contains(number))
        };
        free_in(self.dynamic_from, self.last).or_else(|| free_in(self.first, self.dynamic_from - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_gives_its_upper_part_first_and_all_of_it_in_the_end() {
        let ids = Ids::seeded(1);
        let pool = Pool::new(1..=64, 16, 256);
        assert_eq!(pool.dynamic_from, 17);
        assert!((0..1000).all(|_| (17..=64).contains(&pool.guess(&ids))));
        let (mut taken, mut given) = (BTreeSet::new(), Vec::new());
        while let Some(number) = pool.free(&taken, &ids) {
            taken.insert(number);
            given.push(number);
        }
        assert!(given[..48].iter().all(|number| *number >= 17));
        given.sort_unstable();
        assert_eq!(given, (1..=64).collect::<Vec<_>>());
        taken.remove(&5);
        assert_eq!(pool.free(&taken, &ids), Some(5));
    }

    #[test]
    fn ranges_of_both_families_are_pools() {
        let pool = |text: &str| Pool::of_range(text.parse().expect("a range"));
        let bounds = |text: &str| {
            let pool = pool(text).expect("a pool");
            let family = text.parse::<Cidr>().expect("a range").family();
            [pool.first, pool.dynamic_from, pool.last].map(|number| family.address(number).to_string())
        };
        assert_eq!(bounds("10.96.0.0/12"), ["10.96.0.1", "10.96.1.1", "10.111.255.254"]);
        assert_eq!(bounds("10.0.0.0/28"), ["10.0.0.1", "10.0.0.1", "10.0.0.14"]);
        assert_eq!(bounds("fd00:10:96::/112"), ["fd00:10:96::1", "fd00:10:96::101", "fd00:10:96::ffff"]);
        assert_eq!(bounds("fd00:10:96::/64"), ["fd00:10:96::1", "fd00:10:96::101", "fd00:10:96:0:ffff:ffff:ffff:ffff"]);
        assert_eq!((pool("fd00:10:96::/63"), pool("10.0.0.0/32")), (None, None));
        let (ids, large) = (Ids::seeded(1), pool("fd00::/64").expect("a pool"));
        assert!((0..1000).all(|_| large.contains(large.guess(&ids))));
    }
}

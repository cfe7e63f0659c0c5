//! The addresses of one range that nobody has, in the order in which they are given out. A range of IPv6 is far too large
//! to be gone through: it is kept as stretches of addresses, of which those never used are one.

use std::collections::VecDeque;
use std::net::IpAddr;

use skiff_base::Cidr;

use crate::family::number;

/// How many stretches are kept at most. As many single addresses has the largest range of IPv4 that a node gets; of a
/// greater range so many unused ones are left that those given back need not be remembered.
const MAX_STRETCHES: usize = 1 << 16;

/// The free addresses of a range.
#[derive(Debug)]
pub(super) struct Pool {
    range: Cidr,
    /// First and last number of each; the front is given out first.
    free: VecDeque<(u128, u128)>,
}

impl Pool {
    /// All addresses of the range but the first, which is the gateway's, and those that are taken. It goes on behind the
    /// one that was given out last.
    pub(super) fn new(range: Cidr, taken: impl IntoIterator<Item = IpAddr>, last: Option<IpAddr>) -> Self {
        let mut taken: Vec<u128> = taken.into_iter().filter(|address| range.contains(*address)).map(number).collect();
        taken.sort_unstable();
        let (first, end) = range.hosts();
        let middle = last.filter(|last| range.contains(*last)).map_or(first, number).clamp(first, end);
        let mut free = VecDeque::new();
        let stretches =
            [middle.checked_add(1).map(|next| (next, end)), first.checked_add(1).map(|next| (next, middle))];
        for (mut next, last) in stretches.into_iter().flatten() {
            for hole in taken.iter().copied().filter(|hole| (next..=last).contains(hole)).collect::<Vec<_>>() {
                if next < hole {
                    free.push_back((next, hole - 1));
                }
                next = hole + 1;
            }
            if next <= last {
                free.push_back((next, last));
            }
        }
        Self { range, free }
    }

    /// Whose addresses they are.
    pub(super) fn range(&self) -> Cidr {
        self.range
    }

    /// The one that has been unused for longest, as far as that is known.
    pub(super) fn first(&self) -> Option<IpAddr> {
        self.free.front().map(|(first, _)| self.range.family().address(*first))
    }

    /// The first one is not free any more.
    pub(super) fn take_first(&mut self) {
        match self.free.front_mut() {
            Some((first, last)) if *first < *last => *first += 1,
            _ => drop(self.free.pop_front()),
        }
    }

    /// An address comes back; it is given out after all others.
    pub(super) fn give_back(&mut self, address: IpAddr) {
        if !self.range.contains(address) {
            return;
        }
        let (back, has_room) = (number(address), self.free.len() < MAX_STRETCHES);
        match self.free.back_mut() {
            Some((_, last)) if last.checked_add(1) == Some(back) => *last = back,
            _ if has_room => self.free.push_back((back, back)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// The next ones, as the last part of each.
    fn take(pool: &mut Pool, count: usize) -> Vec<String> {
        let next = |_| {
            let first = pool.first()?.to_string();
            pool.take_first();
            first.rsplit(['.', ':']).next().map(str::to_owned)
        };
        (0..count).map_while(next).collect()
    }

    #[test]
    fn both_families_go_round_in_the_same_way() {
        for (range, base) in [("10.244.0.0/29", "10.244.0."), ("fd00::/125", "fd00::")] {
            let at = |last: u8| address(&format!("{base}{last}"));
            let new = |taken: &[u8], last: Option<u8>| {
                Pool::new(range.parse().expect("a range"), taken.iter().map(|last| at(*last)), last.map(at))
            };
            assert_eq!(take(&mut new(&[], None), 9), ["2", "3", "4", "5", "6"]);
            assert_eq!(take(&mut new(&[], Some(4)), 9), ["5", "6", "2", "3", "4"]);
            assert_eq!(take(&mut new(&[3, 5, 6], Some(4)), 9), ["2", "4"]);
            assert_eq!(take(&mut new(&[2, 3, 4, 5, 6], Some(6)), 9), Vec::<String>::new());
            let mut pool = new(&[2, 3], Some(3));
            pool.give_back(at(3));
            pool.give_back(at(2));
            pool.give_back(address("192.0.2.1"));
            assert_eq!(take(&mut pool, 9), ["4", "5", "6", "3", "2"]);
        }
    }

    #[test]
    fn a_huge_range_costs_nothing() {
        let range = "fd00:10:244::/48".parse().expect("a range");
        let mut pool = Pool::new(range, [address("fd00:10:244::3")], None);
        assert_eq!(take(&mut pool, 3), ["2", "4", "5"]);
        for number in (0..200_000_u32).rev() {
            pool.give_back(range.nth(number).expect("within"));
        }
        assert!(pool.free.len() <= MAX_STRETCHES);
        assert_eq!(take(&mut pool, 1), ["6"]);
        let everything = Pool::new("::/0".parse().expect("a range"), [], None);
        assert_eq!(everything.free, [(2, u128::MAX - 1)]);
    }
}

//! How many seats a request takes. Pure.
//! See <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#seats-occupied-by-a-request>.

use std::time::Duration;

/// How long a request is taken to last until it has ended, as upstream's.
pub const ESTIMATED_SECONDS: f64 = 0.003;
/// So much of what is read stands for one seat.
const BYTES_PER_SEAT: u64 = 100_000;
/// What a list from the cache has in memory of its own at most: it is sent as it is made.
const STREAMED_BYTES: u64 = 1_000_000;
/// The most seats of any list.
const MAX_SEATS: u32 = 100;
/// The most seats of any write.
const MAX_WRITE_SEATS: u32 = 10;
/// So many watches, told of a write, take a seat for so long.
const WATCHES_PER_SEAT: u32 = 10;
const EVENT_SECONDS: f64 = 0.005;

/// What a request takes of its level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Width {
    /// The seats while it is worked on.
    pub first: u32,
    /// The seats after that, for what it sets off; and for how long.
    pub last: u32,
    /// How long that is.
    pub after: Duration,
}

impl Width {
    /// What sets nothing off.
    pub fn of(seats: u32) -> Self {
        Self { first: seats, last: 0, after: Duration::ZERO }
    }

    /// What it has all the time.
    pub fn seats(self) -> u32 {
        self.first.max(self.last)
    }

    /// The seats' time that it is taken to need.
    pub fn work_seconds(self) -> f64 {
        f64::from(self.first) * ESTIMATED_SECONDS + f64::from(self.last) * self.after.as_secs_f64()
    }
}

/// A write, of which so many watches are told: what is too wide for the level takes longer instead.
pub fn write(watches: usize, most: u32) -> Width {
    let watches = u32::try_from(watches).unwrap_or(u32::MAX);
    if watches < WATCHES_PER_SEAT {
        return Width::of(1);
    }
    let wanted = watches.div_ceil(WATCHES_PER_SEAT);
    let last = wanted.min(most.clamp(1, MAX_WRITE_SEATS));
    Width { first: 1, last, after: Duration::from_secs_f64(f64::from(wanted) * EVENT_SECONDS / f64::from(last)) }
}

/// What a list reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// How many objects there are of the kind, and how large they are together.
    pub objects: u64,
    /// In bytes.
    pub bytes: u64,
    /// How many are asked for at a time; 0 for all.
    pub limit: u64,
    /// Whether it is about one object by its name.
    pub is_single: bool,
    /// Whether it is answered from the cache.
    pub is_cached: bool,
    /// Whether only some are selected.
    pub is_selective: bool,
}

/// The seats of a list, and of a watch that begins with one.
pub fn list(listed: &Listed, most: u32) -> u32 {
    let Listed { objects, bytes, limit, .. } = *listed;
    let asked = if limit > 0 { limit.min(objects) } else { objects };
    let read = match listed {
        Listed { is_single: true, .. } => 1.min(objects),
        Listed { is_cached: false, is_selective: true, .. } => asked.max(objects / 2),
        _ => asked,
    };
    let memory = read * bytes.checked_div(objects).unwrap_or(0);
    let memory = if listed.is_cached { memory.min(STREAMED_BYTES) } else { memory };
    let seats = u32::try_from(memory.div_ceil(BYTES_PER_SEAT)).unwrap_or(MAX_SEATS);
    seats.clamp(1, most.clamp(1, MAX_SEATS))
}

/// The most seats that one request may take of a level: a part of its own, so that others go on beside it.
pub fn most(nominal: u32, hand: usize) -> u32 {
    let part = (f64::from(nominal) * 0.15).ceil() as u32;
    let of_hand = u32::try_from(hand).ok().filter(|hand| *hand > 0).map_or(u32::MAX, |hand| nominal.div_ceil(hand));
    part.min(of_hand).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_follow_what_is_read() {
        let all = Listed {
            objects: 10_000,
            bytes: 20_000_000,
            limit: 0,
            is_single: false,
            is_cached: false,
            is_selective: false,
        };
        for (listed, most, expected) in [
            (all, 1000, 100),
            (all, 37, 37),
            (Listed { is_cached: true, ..all }, 1000, 10),
            (Listed { limit: 500, ..all }, 1000, 10),
            (Listed { limit: 500, is_selective: true, ..all }, 1000, 100),
            (Listed { is_single: true, ..all }, 1000, 1),
            (Listed { objects: 0, bytes: 0, ..all }, 1000, 1),
            (all, 0, 1),
        ] {
            assert_eq!(list(&listed, most), expected, "{listed:?}");
        }
        for (watches, most, expected) in [
            (9, 37, (1, 0, 0)),
            (10, 37, (1, 1, 5)),
            (95, 37, (1, 10, 5)),
            (1000, 37, (1, 10, 50)),
            (60, 3, (1, 3, 10)),
        ] {
            let Width { first, last, after } = write(watches, most);
            assert_eq!((first, last, after.as_millis()), expected, "{watches}");
        }
        assert_eq!((most(245, 6), most(49, 6), most(13, 0), most(0, 6)), (37, 8, 2, 1));
    }
}

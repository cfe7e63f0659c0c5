//! Which images to remove from the node, decided purely.
//! See <https://kubernetes.io/docs/concepts/architecture/garbage-collection/#containers-images>.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skiff_base::Timestamp;

/// An image on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The runtime's id.
    pub id: String,
    /// Its size.
    pub bytes: u64,
    /// Whether it must stay.
    pub pinned: bool,
}

/// What is remembered of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// When it was seen first.
    pub found: Timestamp,
    /// When it was last seen in use.
    pub used: Timestamp,
}

/// By id.
pub type Memories = BTreeMap<String, Memory>;

/// Brings what is remembered up to date.
pub fn remember(memories: &Memories, images: &[Held], in_use: &BTreeSet<String>, now: Timestamp) -> Memories {
    let each = images.iter().map(|image| {
        let known = memories.get(&image.id).copied();
        let mut memory = known.unwrap_or(Memory { found: now, used: Timestamp::UNIX_EPOCH });
        if in_use.contains(&image.id) {
            memory.used = now;
        }
        (image.id.clone(), memory)
    });
    each.collect()
}

/// How images are chosen.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How long an image stays at least.
    pub min_age: Duration,
    /// How long one that nothing uses stays at most; for ever where that is zero.
    pub max_age: Duration,
    /// Bytes to win.
    pub wanted_bytes: u64,
}

/// The images to remove, the one that was not used for the longest time first; and the bytes that that will win.
pub fn choose(
    memories: &Memories,
    images: &[Held],
    in_use: &BTreeSet<String>,
    rules: Rules,
    now: Timestamp,
) -> (Vec<String>, u64) {
    let age = |since: Timestamp| now.duration_since(since).unsigned_abs();
    let mut free: Vec<(Memory, &Held)> = images
        .iter()
        .filter(|image| !image.pinned && !in_use.contains(&image.id))
        .filter_map(|image| Some((*memories.get(&image.id)?, image)))
        .filter(|(memory, _)| age(memory.found) >= rules.min_age)
        .collect();
    free.sort_by(|(a, x), (b, y)| (a.used, a.found, &x.id).cmp(&(b.used, b.found, &y.id)));
    let (mut chosen, mut won) = (Vec::new(), 0);
    for (memory, image) in free {
        let old = !rules.max_age.is_zero() && age(memory.used.max(memory.found)) > rules.max_age;
        if old || won < rules.wanted_bytes {
            won += image.bytes;
            chosen.push(image.id.clone());
        }
    }
    (chosen, won)
}

/// The bytes to win on a file system that is filled beyond `high` percent, down to `low`; zero where it is not.
pub fn wanted(capacity: u64, available: u64, high: u64, low: u64) -> u64 {
    let used = 100u64.saturating_sub(available.saturating_mul(100).checked_div(capacity).unwrap_or(100));
    if used < high {
        return 0;
    }
    (capacity / 100 * (100 - low)).saturating_sub(available)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a valid time")
    }

    fn image(id: &str, bytes: u64) -> Held {
        Held { id: id.to_owned(), bytes, pinned: id == "pause" }
    }

    #[test]
    fn the_longest_unused_images_go_until_enough_is_won() {
        let images = [image("a", 10), image("b", 10), image("c", 10), image("pause", 10), image("new", 10)];
        let used = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let mut memories = remember(&Memories::new(), &images[..4], &used(&["b"]), at(0));
        memories = remember(&memories, &images[..4], &used(&["c"]), at(100));
        memories = remember(&memories, &images, &used(&["c"]), at(300));
        let rules = Rules { min_age: Duration::from_secs(120), max_age: Duration::ZERO, wanted_bytes: 15 };
        let chosen = choose(&memories, &images, &used(&["c"]), rules, at(310));
        assert_eq!(chosen, (vec!["a".to_owned(), "b".to_owned()], 20));
        let rules = Rules { wanted_bytes: 0, max_age: Duration::from_secs(305), ..rules };
        assert_eq!(choose(&memories, &images, &used(&[]), rules, at(310)).0, ["a", "b"]);
        assert_eq!(choose(&memories, &images, &used(&["a", "b"]), rules, at(310)).0, [""; 0]);
    }

    #[test]
    fn images_are_removed_from_one_mark_down_to_the_other() {
        assert_eq!(wanted(1000, 200, 85, 80), 0);
        assert_eq!(wanted(1000, 150, 85, 80), 50);
        assert_eq!(wanted(1000, 20, 85, 80), 180);
        assert_eq!(wanted(0, 0, 85, 80), 0);
    }
}

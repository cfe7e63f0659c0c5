//! Numbers for things that are said more than once, as long as somebody says them.

use std::collections::BTreeMap;

/// Things with their numbers. A number is never used again.
#[derive(Debug)]
pub(super) struct Interner<K> {
    entries: BTreeMap<K, Entry>,
    next: u32,
}

#[derive(Debug)]
struct Entry {
    number: u32,
    uses: u32,
    is_fresh: bool,
}

/// What has come into use and what has gone out of it.
#[derive(Debug)]
pub(super) struct Swept<K> {
    pub(super) fresh: Vec<(u32, K)>,
    pub(super) gone: Vec<(u32, K)>,
}

impl<K> Default for Interner<K> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), next: 0 }
    }
}

impl<K: Ord + Clone> Interner<K> {
    /// The thing's number, which it keeps until it is given back as often as it was taken.
    pub(super) fn take(&mut self, thing: &K) -> u32 {
        if let Some(entry) = self.entries.get_mut(thing) {
            entry.uses += 1;
            return entry.number;
        }
        let number = self.next;
        self.next += 1;
        self.entries.insert(thing.clone(), Entry { number, uses: 1, is_fresh: true });
        number
    }

    /// The number of what is in use.
    pub(super) fn number(&self, thing: &K) -> Option<u32> {
        self.entries.get(thing).map(|entry| entry.number)
    }

    /// One use less.
    pub(super) fn give_back(&mut self, thing: &K) {
        if let Some(entry) = self.entries.get_mut(thing) {
            entry.uses -= 1;
        }
    }

    /// What is new and what is out of use since the last time. What was both in the meantime is neither.
    pub(super) fn sweep(&mut self) -> Swept<K> {
        let mut swept = Swept { fresh: Vec::new(), gone: Vec::new() };
        self.entries.retain(|thing, entry| {
            let was_there = !std::mem::replace(&mut entry.is_fresh, false);
            match (entry.uses > 0, was_there) {
                (true, false) => swept.fresh.push((entry.number, thing.clone())),
                (false, true) => swept.gone.push((entry.number, thing.clone())),
                _ => {}
            }
            entry.uses > 0
        });
        swept
    }

    /// Everything with its number.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &K)> {
        self.entries.iter().map(|(thing, entry)| (entry.number, thing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_lasts_as_long_as_its_thing_is_used() {
        let mut interner = Interner::default();
        assert_eq!([interner.take(&"a"), interner.take(&"b"), interner.take(&"a")], [0, 1, 0]);
        assert_eq!(interner.sweep().fresh, [(0, "a"), (1, "b")]);
        interner.give_back(&"a");
        interner.give_back(&"b");
        assert_eq!(interner.take(&"c"), 2);
        interner.give_back(&"c");
        let swept = interner.sweep();
        assert_eq!((swept.fresh, swept.gone), (vec![], vec![(1, "b")]));
        assert_eq!(interner.all().collect::<Vec<_>>(), [(0, &"a")]);
        assert_eq!(interner.take(&"b"), 3);
    }
}

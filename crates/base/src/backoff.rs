//! Exponential back-off per key, as controllers, image pulls and container restarts use it.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Delays that double from `initial` to `cap`, and are forgotten after `2 * cap` of quiet.
#[derive(Debug)]
pub struct Backoff<K> {
    initial: Duration,
    cap: Duration,
    entries: HashMap<K, Entry>,
}

#[derive(Debug)]
struct Entry {
    delay: Duration,
    last: Duration,
}

impl<K: Eq + Hash + Clone> Backoff<K> {
    /// The kubelet's container restarts use 10 s and 300 s, controllers 5 ms and 1000 s.
    pub fn new(initial: Duration, cap: Duration) -> Self {
        Self { initial, cap, entries: HashMap::new() }
    }

    /// Records a failure of `key` at monotonic time `now`; returns how long to wait before the next try.
    pub fn next(&mut self, key: &K, now: Duration) -> Duration {
        let (initial, cap) = (self.initial, self.cap);
        let entry = self.entries.entry(key.clone()).or_insert(Entry { delay: Duration::ZERO, last: now });
        let expired = now.saturating_sub(entry.last) > cap * 2;
        entry.delay = if entry.delay.is_zero() || expired { initial } else { (entry.delay * 2).min(cap) };
        entry.last = now;
        entry.delay
    }

    /// The delay in force for `key`, zero where it never failed.
    pub fn current(&self, key: &K) -> Duration {
        self.entries.get(key).map_or(Duration::ZERO, |entry| entry.delay)
    }

    /// Whether `key` must still wait at monotonic time `now`, and how long.
    pub fn remaining(&self, key: &K, now: Duration) -> Option<Duration> {
        let entry = self.entries.get(key)?;
        (entry.last + entry.delay).checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Forgets `key`: its next failure starts from the initial delay.
    pub fn reset(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// Drops the keys that have been quiet for longer than twice the cap.
    pub fn gc(&mut self, now: Duration) {
        let limit = self.cap * 2;
        self.entries.retain(|_, entry| now.saturating_sub(entry.last) <= limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn delays_double_up_to_the_cap_and_are_forgotten() {
        let mut backoff = Backoff::new(10 * SECOND, 300 * SECOND);
        let delays: Vec<_> = (0..7u32).map(|n| backoff.next(&"a", n * SECOND).as_secs()).collect();
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.next(&"a", 700 * SECOND).as_secs(), 10);
        backoff.reset(&"a");
        assert_eq!(backoff.current(&"a"), Duration::ZERO);
    }

    #[test]
    fn the_wait_runs_out() {
        let mut backoff = Backoff::new(10 * SECOND, 300 * SECOND);
        backoff.next(&"a", SECOND);
        assert_eq!(backoff.remaining(&"a", 4 * SECOND), Some(7 * SECOND));
        assert_eq!(backoff.remaining(&"a", 11 * SECOND), None);
    }
}

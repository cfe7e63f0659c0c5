//! Answers that hold for a while: so many at most, because whoever asks decides what is remembered.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;

/// Answers by their questions, each with the time until which it holds. Times are those of a monotonic clock.
#[derive(Debug)]
pub struct Remembered<K, V> {
    most: usize,
    known: Mutex<HashMap<K, (V, Duration)>>,
}

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    /// Nothing yet, and never more than `most`: while so many hold, others are not remembered.
    pub fn new(most: usize) -> Self {
        Self { most, known: Mutex::default() }
    }

    /// The answer, where there is one that holds.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, question: &Q, now: Duration) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let known = self.known.lock();
        known.get(question).filter(|(_, until)| now < *until).map(|(answer, _)| answer.clone())
    }

    /// Remembers an answer for a while; not where that is none.
    pub fn put(&self, question: K, answer: V, now: Duration, holds: Duration) {
        if holds.is_zero() {
            return;
        }
        let mut known = self.known.lock();
        if known.len() >= self.most {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() < self.most {
            known.insert(question, (answer, now + holds));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_hold_for_a_while_and_are_so_many_at_most() {
        let second = Duration::from_secs;
        let known = Remembered::new(2);
        known.put("a", 1, second(0), second(5));
        known.put("b", 2, second(0), second(9));
        known.put("c", 3, second(1), second(9));
        assert_eq!(["a", "b", "c"].map(|question| known.get(question, second(4))), [Some(1), Some(2), None]);
        assert_eq!(known.get("a", second(5)), None);
        known.put("c", 3, second(5), second(9));
        known.put("d", 4, second(9), Duration::ZERO);
        assert_eq!(["a", "b", "c", "d"].map(|question| known.get(question, second(6))), [None, Some(2), Some(3), None]);
    }
}

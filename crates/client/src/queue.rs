//! A queue of keys: each key waits at most once, is worked on by one worker at a time, and comes back later
//! with exponential back-off when its work failed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};
use std::fmt::Display;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use skiff_base::backoff::Backoff;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The first retry of a failed key comes after this; upstream's controllers wait as long.
const RETRY_INITIAL: Duration = Duration::from_millis(5);
/// Retries come at least this often; upstream's wait up to 1000 s, too long for people who wait for one node.
const RETRY_CAP: Duration = Duration::from_secs(60);

/// A deduplicating, delaying, rate-limiting queue. The number of entries is bounded by the number of keys.
pub struct WorkQueue<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    start: Instant,
}

struct State<T> {
    ready: VecDeque<T>,
    waiting: HashSet<T>,
    running: HashSet<T>,
    delayed: BinaryHeap<Reverse<(Instant, T)>>,
    backoff: Backoff<T>,
    closed: bool,
}

impl<T: Clone + Eq + Hash + Ord> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Eq + Hash + Ord> WorkQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            running: HashSet::new(),
            delayed: BinaryHeap::new(),
            backoff: Backoff::new(RETRY_INITIAL, RETRY_CAP),
            closed: false,
        };
        Self { state: Mutex::new(state), wake: Notify::new(), start: Instant::now() }
    }

    /// Asks for `key` to be worked on; if it is being worked on now, once more afterwards.
    pub fn add(&self, key: T) {
        let mut state = self.state.lock();
        if state.waiting.insert(key.clone()) && !state.running.contains(&key) {
            state.ready.push_back(key);
            self.wake.notify_one();
        }
    }

    /// Asks for `key` to be worked on after a delay.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.state.lock().delayed.push(Reverse((Instant::now() + delay, key)));
        self.wake.notify_one();
    }

    /// Asks for `key` to be worked on again because its work failed; each time later.
    pub fn retry(&self, key: T) {
        let delay = self.state.lock().backoff.next(&key, self.start.elapsed());
        self.add_after(key, delay);
    }

    /// The work on `key` succeeded: its next failure starts with the shortest delay again.
    pub fn forget(&self, key: &T) {
        self.state.lock().backoff.reset(key);
    }

    /// Takes the next key, waiting for one; `None` once the queue is closed. [`WorkQueue::done`] must follow.
    pub async fn next(&self) -> Option<T> {
        loop {
            let notified = self.wake.notified();
            let deadline = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                state.promote(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.running.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(key);
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match deadline {
                Some(at) => {
                    tokio::select! {
                        () = notified => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => notified.await,
            }
        }
    }

    /// Ends the work on `key` that [`WorkQueue::next`] began.
    pub fn done(&self, key: &T) {
        let mut state = self.state.lock();
        state.running.remove(key);
        if state.waiting.contains(key) {
            state.ready.push_back(key.clone());
            self.wake.notify_one();
        }
    }

    /// Works on one key after the other until the queue is closed. A key whose work failed, or is not finished
    /// (`Ok(false)`), comes again later.
    pub async fn work<E: Display, F: Future<Output = Result<bool, E>>>(&self, what: &str, attend_to: impl Fn(T) -> F)
    where
        T: Display,
    {
        while let Some(key) = self.next().await {
            match attend_to(key.clone()).await {
                Ok(true) => self.forget(&key),
                Ok(false) => self.retry(key.clone()),
                Err(error) => {
                    tracing::debug!(%key, %error, "{what} not finished");
                    self.retry(key.clone());
                }
            }
            self.done(&key);
        }
    }

    /// Wakes all workers with `None`, now and from now on.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_waiters();
        self.wake.notify_one();
    }

    /// How many keys are ready to be worked on.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Whether no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone + Eq + Hash + Ord> State<T> {
    /// Moves the delayed keys whose time has come to the ready ones.
    fn promote(&mut self, now: Instant) {
        while self.delayed.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, key))) = self.delayed.pop() else { return };
            if self.waiting.insert(key.clone()) && !self.running.contains(&key) {
                self.ready.push_back(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_is_worked_on_by_one_at_a_time() {
        let queue = WorkQueue::new();
        queue.add(1);
        queue.add(1);
        assert_eq!(queue.next().await, Some(1));
        queue.add(1);
        assert!(queue.is_empty(), "it is being worked on");
        queue.done(&1);
        assert_eq!(queue.next().await, Some(1));
        queue.done(&1);
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn delayed_keys_come_in_the_order_of_their_times() {
        let queue = WorkQueue::new();
        queue.add_after(2, Duration::from_secs(2));
        queue.add_after(1, Duration::from_secs(1));
        queue.retry(3);
        assert_eq!(queue.next().await, Some(3));
        assert_eq!(queue.next().await, Some(1));
        assert_eq!(queue.next().await, Some(2));
        queue.close();
        assert_eq!(queue.next().await, None);
    }
}

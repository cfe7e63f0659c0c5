//! A queue of keys: each key waits at most once, is worked on by one worker at a time, and comes back later
//! with exponential back-off when its work failed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skiff_base::backoff::Backoff;
use skiff_base::figures::{Family, Series, Source};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The first retry of a failed key comes after this; upstream's controllers wait as long.
const RETRY_INITIAL: Duration = Duration::from_millis(5);
/// Retries come at least this often; upstream's wait up to 1000 s, too long for people who wait for one node.
const RETRY_CAP: Duration = Duration::from_secs(60);

static ADDS: Family = Family::counter("workqueue_adds_total", "Keys that were added to queues.");
static RETRIES: Family = Family::counter("workqueue_retries_total", "Keys whose work failed and that come again.");
static WAITED: Family =
    Family::histogram("workqueue_queue_duration_seconds", "How long keys waited in queues.", 1, 10, 9);
static WORKED: Family = Family::histogram("workqueue_work_duration_seconds", "How long keys were worked on.", 1, 10, 9);
static DEPTH: Family = Family::gauge("workqueue_depth", "Keys that wait in queues.");
static UNFINISHED: Family =
    Family::gauge("workqueue_unfinished_work_seconds", "How long the work under way has taken, of all keys together.");
static LONGEST: Family = Family::gauge(
    "workqueue_longest_running_processor_seconds",
    "How long that work has taken that has been under way for longest.",
);

/// The figures of one queue.
struct Figures {
    adds: Series,
    retries: Series,
    waited: Series,
    worked: Series,
    /// Held for as long as the queue is there.
    sources: Mutex<Vec<Arc<Source>>>,
}

/// A deduplicating, delaying, rate-limiting queue. The number of entries is bounded by the number of keys.
pub struct WorkQueue<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    start: Instant,
    figures: Option<Figures>,
}

struct State<T> {
    ready: VecDeque<T>,
    /// Since when each key waits.
    waiting: HashMap<T, Instant>,
    /// Since when each key is worked on.
    running: HashMap<T, Instant>,
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
            waiting: HashMap::new(),
            running: HashMap::new(),
            delayed: BinaryHeap::new(),
            backoff: Backoff::new(RETRY_INITIAL, RETRY_CAP),
            closed: false,
        };
        Self { state: Mutex::new(state), wake: Notify::new(), start: Instant::now(), figures: None }
    }

    /// Asks for `key` to be worked on; if it is being worked on now, once more afterwards.
    pub fn add(&self, key: T) {
        let mut state = self.state.lock();
        if !state.note_waiting(&key, Instant::now()) {
            return;
        }
        if let Some(figures) = &self.figures {
            figures.adds.inc();
        }
        if !state.running.contains_key(&key) {
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
        if let Some(figures) = &self.figures {
            figures.retries.inc();
        }
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
                let now = Instant::now();
                let promoted = state.promote(now);
                if let Some(figures) = &self.figures {
                    (0..promoted).for_each(|_| figures.adds.inc());
                }
                if let Some(key) = state.ready.pop_front() {
                    let since = state.waiting.remove(&key).unwrap_or(now);
                    state.running.insert(key.clone(), now);
                    if let Some(figures) = &self.figures {
                        figures.waited.took(now.saturating_duration_since(since));
                    }
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
        let began = state.running.remove(key);
        if let Some((figures, began)) = self.figures.as_ref().zip(began) {
            figures.worked.took(began.elapsed());
        }
        if state.waiting.contains_key(key) {
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

impl<T: Clone + Eq + Hash + Ord + Send + 'static> WorkQueue<T> {
    /// An empty queue whose figures are told under this name.
    pub fn named(name: &str) -> Arc<Self> {
        let labels = format!("name={name:?}");
        let figures = Figures {
            adds: ADDS.with(&labels),
            retries: RETRIES.with(&labels),
            waited: WAITED.with(&labels),
            worked: WORKED.with(&labels),
            sources: Mutex::default(),
        };
        let queue = Arc::new(Self { figures: Some(figures), ..Self::new() });
        let tell = |family: &'static Family, value: fn(&State<T>) -> f64| {
            let (weak, labels) = (Arc::downgrade(&queue), labels.clone());
            let source: Arc<Source> = Arc::new(move || {
                weak.upgrade().map(|queue| (labels.clone(), value(&queue.state.lock()))).into_iter().collect()
            });
            family.told_by(&source);
            source
        };
        let all = vec![
            tell(&DEPTH, |state| state.ready.len() as f64),
            tell(&UNFINISHED, |state| state.running.values().map(|began| began.elapsed().as_secs_f64()).sum()),
            tell(&LONGEST, |state| {
                state.running.values().map(|began| began.elapsed().as_secs_f64()).fold(0.0, f64::max)
            }),
        ];
        if let Some(figures) = &queue.figures {
            *figures.sources.lock() = all;
        }
        queue
    }
}

impl<T: Clone + Eq + Hash + Ord> State<T> {
    /// Moves the delayed keys whose time has come to the ready ones.
    /// Says how many did not wait already.
    fn promote(&mut self, now: Instant) -> usize {
        let mut promoted = 0;
        while self.delayed.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, key))) = self.delayed.pop() else { break };
            if self.note_waiting(&key, now) {
                promoted += 1;
                if !self.running.contains_key(&key) {
                    self.ready.push_back(key);
                }
            }
        }
        promoted
    }

    /// False where the key waits already.
    fn note_waiting(&mut self, key: &T, now: Instant) -> bool {
        if self.waiting.contains_key(key) {
            return false;
        }
        self.waiting.insert(key.clone(), now);
        true
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

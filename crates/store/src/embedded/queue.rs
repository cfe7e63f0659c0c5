//! What waits for the writer, and how long it may wait to be worth a sync.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use skiff_base::clock::SharedClock;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{Change, Outcome, Revision, StoreError, Transaction};

/// The most requests of one batch: about what a fast disk syncs in the time that it takes to decide them.
const BATCH_REQUESTS: usize = 1024;

/// The most bytes of one batch, so that a sync does not take long.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Where several wait for each sync, the next one lingers for this part of the time that the last one took, until as many
/// wait again: those who were just answered come back at once, and need not wait for another sync.
const LINGER_DIVISOR: u32 = 4;

/// A sync that takes longer than this is the exception that nobody should wait for.
const LONGEST_LINGER: Duration = Duration::from_millis(2);

/// What the writer is asked for.
pub(super) enum Request {
    /// Decide and write.
    Commit {
        transaction: Transaction,
        reply: oneshot::Sender<Result<Outcome, StoreError>>,
        permit: OwnedSemaphorePermit,
    },
    /// Forget history.
    Compact { revision: Revision, reply: oneshot::Sender<Result<(), StoreError>> },
}

impl Request {
    fn size_bytes(&self) -> usize {
        match self {
            Self::Compact { .. } => 0,
            Self::Commit { transaction, .. } => transaction.changes.iter().map(change_bytes).sum(),
        }
    }
}

fn change_bytes(change: &Change) -> usize {
    match change {
        Change::Put { key, value } => key.len() + value.len(),
        Change::Delete { key } => key.len(),
    }
}

/// The requests that wait for the writer. The callers hold permits, so that it is bounded.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    closed: bool,
    /// How many requests are worth to wake the thread for.
    wanted: usize,
    /// When there is something else to do.
    deadline: Option<Duration>,
}

/// What the writing thread is woken for.
pub(super) enum Work {
    Requests(Vec<Request>),
    Deadline,
    Close,
}

impl Queue {
    /// Hands a request over; gives it back when the store is closing.
    pub(super) fn push(&self, request: Request) -> Result<(), Request> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(request);
        }
        waiting.requests.push_back(request);
        if waiting.requests.len() >= waiting.wanted {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Whether nobody waits, so that nobody is overtaken.
    pub(super) fn is_empty(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.requests.is_empty() && !waiting.closed
    }

    /// No request is taken any more; those that wait are still done.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_one();
    }

    /// When the thread is to be woken though nobody asks for anything.
    pub(super) fn set_deadline(&self, deadline: Option<Duration>) {
        let mut waiting = self.waiting.lock();
        let is_sooner = deadline.is_some_and(|new| waiting.deadline.is_none_or(|old| new < old));
        waiting.deadline = deadline;
        if is_sooner {
            self.changed.notify_one();
        }
    }

    /// Sleeps until there is something to do.
    pub(super) fn next(&self, linger: &Linger, clock: &SharedClock) -> Work {
        let mut waiting = self.waiting.lock();
        loop {
            if !waiting.requests.is_empty() {
                let until = clock.monotonic() + linger.at_most;
                waiting.wanted = linger.for_requests;
                while waiting.requests.len() < linger.for_requests && !waiting.closed {
                    let left = until.saturating_sub(clock.monotonic());
                    if left.is_zero() || self.changed.wait_for(&mut waiting, left).timed_out() {
                        break;
                    }
                }
                waiting.wanted = 0;
                return Work::Requests(take_batch(&mut waiting.requests));
            }
            if waiting.closed {
                return Work::Close;
            }
            match waiting.deadline {
                None => self.changed.wait(&mut waiting),
                Some(deadline) => {
                    let left = deadline.saturating_sub(clock.monotonic());
                    if left.is_zero() {
                        waiting.deadline = None;
                        return Work::Deadline;
                    }
                    self.changed.wait_for(&mut waiting, left);
                }
            }
        }
    }
}

/// How long a batch may wait to be worth its sync.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Linger {
    for_requests: usize,
    at_most: Duration,
}

impl Linger {
    /// Whether nobody came together with others lately.
    pub(super) fn is_for_nobody(&self) -> bool {
        self.for_requests == 0
    }

    /// After a batch of so many requests, which took so long.
    pub(super) fn after(requests: usize, took: Duration) -> Self {
        // One who writes alone is never held up.
        let for_requests = if requests > 1 { requests } else { 0 };
        Self { for_requests, at_most: (took / LINGER_DIVISOR).min(LONGEST_LINGER) }
    }
}

fn take_batch(requests: &mut VecDeque<Request>) -> Vec<Request> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < BATCH_REQUESTS && bytes < BATCH_BYTES {
        let Some(request) = requests.pop_front() else {
            break;
        };
        bytes += request.size_bytes();
        batch.push(request);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_come_together_wait_for_each_other() {
        let sync = Duration::from_millis(1);
        assert!(Linger::after(1, sync).is_for_nobody());
        let linger = Linger::after(40, sync);
        assert_eq!((linger.for_requests, linger.at_most), (40, sync / LINGER_DIVISOR));
        assert_eq!(Linger::after(40, Duration::from_secs(1)).at_most, LONGEST_LINGER);
    }
}

//! The one thread that changes the store: it takes all requests that wait, decides them in order, writes them to the
//! disk with one sync, and only then lets anybody see them. Relaxed commits are seen at once and written a little later.
//! It sleeps while there is nothing to do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use skiff_base::clock::SharedClock;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::disk::{Disk, Fact, Operation, record, record_key};
use super::state::{Decision, Entry, Overlay, garbage};
use super::{EmbeddedOptions, Shared};
use crate::{Change, Durability, Outcome, Revision, StoreError, Transaction};

/// The most requests of one batch: about what a fast disk syncs in the time that it takes to decide them.
const BATCH_REQUESTS: usize = 1024;

/// The most bytes of one batch, so that a sync does not take long.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Where several wait for each sync, the next one lingers for this part of the time that the last one took, until as many
/// wait again: those who were just answered come back at once, and need not wait for another sync.
const LINGER_DIVISOR: u32 = 4;

/// A sync that takes longer than this is the exception that nobody should wait for.
const LONGEST_LINGER: Duration = Duration::from_millis(2);

/// How many revisions are reserved for relaxed commits with one write. After a crash the revision leaps by as much.
const RESERVE_REVISIONS: u64 = 1000;

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
    requests: Mutex<(VecDeque<Request>, bool)>,
    changed: Condvar,
}

enum Work {
    Requests(Vec<Request>),
    Deadline,
    Close,
}

impl Queue {
    /// Hands a request over; gives it back when the store is closing.
    pub(super) fn push(&self, request: Request) -> Result<(), Request> {
        let mut queue = self.requests.lock();
        if queue.1 {
            return Err(request);
        }
        queue.0.push_back(request);
        self.changed.notify_one();
        Ok(())
    }

    /// No request is taken any more; those that wait are still done.
    pub(super) fn close(&self) {
        self.requests.lock().1 = true;
        self.changed.notify_one();
    }

    fn next(&self, deadline: Option<Duration>, linger: &Linger, clock: &SharedClock) -> Work {
        let mut queue = self.requests.lock();
        loop {
            if !queue.0.is_empty() {
                let until = clock.monotonic() + linger.at_most;
                while queue.0.len() < linger.for_requests && !queue.1 {
                    let left = until.saturating_sub(clock.monotonic());
                    if left.is_zero() || self.changed.wait_for(&mut queue, left).timed_out() {
                        break;
                    }
                }
                return Work::Requests(take_batch(&mut queue.0));
            }
            if queue.1 {
                return Work::Close;
            }
            match deadline {
                None => self.changed.wait(&mut queue),
                Some(deadline) => {
                    let left = deadline.saturating_sub(clock.monotonic());
                    if left.is_zero() {
                        return Work::Deadline;
                    }
                    self.changed.wait_for(&mut queue, left);
                }
            }
        }
    }
}

/// How long a batch may wait to be worth its sync.
#[derive(Debug, Default)]
struct Linger {
    for_requests: usize,
    at_most: Duration,
}

impl Linger {
    /// After a batch of so many requests, which took so long.
    fn after(requests: usize, took: Duration) -> Self {
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

/// A decided request, and whom to tell once it holds.
type Answer = (oneshot::Sender<Result<Outcome, StoreError>>, Outcome, OwnedSemaphorePermit);

/// The state of the writing thread.
pub(super) struct Writer<D> {
    shared: Arc<Shared>,
    options: EmbeddedOptions,
    disk: D,
    /// Operations that are visible or useful already, and not yet on the disk.
    pending: Vec<Operation>,
    pending_deadline: Option<Duration>,
    progress_deadline: Option<Duration>,
    last_progress: Option<Duration>,
    /// Relaxed commits may use revisions up to here.
    reserved: Revision,
    failed: Option<StoreError>,
}

impl<D: Disk> Writer<D> {
    pub(super) fn new(shared: Arc<Shared>, options: EmbeddedOptions, disk: D, reserved: Revision) -> Self {
        Self {
            shared,
            options,
            disk,
            pending: Vec::new(),
            pending_deadline: None,
            progress_deadline: None,
            last_progress: None,
            reserved,
            failed: None,
        }
    }

    /// Works until the store is closed.
    pub(super) fn run(mut self) {
        let mut linger = Linger::default();
        loop {
            let deadline = [self.pending_deadline, self.progress_deadline].into_iter().flatten().min();
            match self.shared.queue.next(deadline, &linger, &self.options.clock) {
                Work::Requests(requests) => {
                    let (count, began) = (requests.len(), self.options.clock.monotonic());
                    self.process(requests);
                    linger = Linger::after(count, self.options.clock.monotonic().saturating_sub(began));
                }
                Work::Deadline => self.meet_deadlines(),
                Work::Close => break,
            }
        }
        self.finish();
    }

    fn meet_deadlines(&mut self) {
        let now = self.options.clock.monotonic();
        if self.pending_deadline.is_some_and(|deadline| deadline <= now) {
            // A failure has been logged, and is the answer to every later commit.
            self.flush(Vec::new()).unwrap_or_default();
        }
        if self.progress_deadline.is_some_and(|deadline| deadline <= now) {
            self.tell_progress(now);
        }
    }

    fn process(&mut self, requests: Vec<Request>) {
        let mut batch = Batch::new(self.shared.state.read().revision());
        let mut compactions = Vec::new();
        for request in requests {
            match request {
                Request::Compact { revision, reply } => compactions.push((revision, reply)),
                Request::Commit { transaction, reply, permit } => {
                    let outcome = batch.decide(transaction, &self.shared);
                    batch.answers.push((reply, outcome, permit));
                }
            }
        }
        self.commit(batch);
        for (revision, reply) in compactions {
            let done = self.compact(revision);
            // A caller that has gone away does not want to know.
            reply.send(done).unwrap_or_default();
        }
    }

    fn commit(&mut self, batch: Batch) {
        let Batch { entries, answers, durable, revision, .. } = batch;
        if !entries.is_empty() {
            if let Some(error) = &self.failed {
                return refuse(answers, error);
            }
            let records: Vec<Operation> = entries.iter().flat_map(|entry| &entry.events).map(record).collect();
            let relaxed = entries.len() as u64 > durable;
            if durable > 0 || revision > self.reserved {
                if relaxed && revision + RESERVE_REVISIONS / 2 > self.reserved {
                    self.reserve(revision + RESERVE_REVISIONS);
                }
                if let Err(error) = self.flush(records) {
                    return refuse(answers, &error);
                }
            } else {
                self.postpone(records);
            }
            self.publish(entries);
        }
        for (reply, outcome, _permit) in answers {
            // A caller that has gone away does not want to know.
            reply.send(Ok(outcome)).unwrap_or_default();
        }
    }

    fn reserve(&mut self, up_to: Revision) {
        self.reserved = up_to;
        self.pending.push(Fact::Reserved.put(up_to));
    }

    fn postpone(&mut self, operations: Vec<Operation>) {
        self.pending.extend(operations);
        if self.pending_deadline.is_none() && !self.pending.is_empty() {
            self.pending_deadline = Some(self.options.clock.monotonic() + self.options.relaxed_delay);
        }
    }

    /// Writes what was postponed and then `operations`. After a failure nothing is written any more: what the disk
    /// holds is then not known, and only opening it again tells.
    fn flush(&mut self, operations: Vec<Operation>) -> Result<(), StoreError> {
        self.pending_deadline = None;
        let mut all = std::mem::take(&mut self.pending);
        all.extend(operations);
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if all.is_empty() {
            return Ok(());
        }
        self.disk.write(all).inspect_err(|error| {
            tracing::error!(%error, "the store takes no more writes");
            self.failed = Some(error.clone());
        })
    }

    fn publish(&mut self, entries: Vec<Entry>) {
        let now = self.options.clock.monotonic();
        let watchers = &self.shared.watchers;
        let (first, target) = {
            let mut state = self.shared.state.write();
            let first = state.revision();
            for entry in entries {
                state.apply(Entry { at: now, ..entry });
            }
            (first, state.trim_target(&self.options.history, now))
        };
        let others = {
            let state = self.shared.state.read();
            let touched = |range: &crate::KeyRange| {
                state.entries_after(first).flat_map(|entry| &entry.events).any(|event| range.contains(&event.key))
            };
            watchers.wake_touched(touched)
        };
        if let Some(target) = target {
            self.trim(target);
        }
        if others {
            match self.last_progress {
                Some(last) if now < last + self.options.progress_interval => {
                    self.progress_deadline = Some(last + self.options.progress_interval);
                }
                _ => self.tell_progress(now),
            }
        }
    }

    fn tell_progress(&mut self, now: Duration) {
        self.progress_deadline = None;
        self.last_progress = Some(now);
        self.shared.watchers.wake_all();
    }

    fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        let checked = {
            let state = self.shared.state.read();
            if revision <= state.compacted() {
                Err(StoreError::Compacted { oldest: state.compacted() })
            } else {
                state.check(revision)
            }
        };
        self.trim(checked?);
        Ok(())
    }

    fn trim(&mut self, target: Revision) {
        let gaps_before: Vec<_> = self.shared.state.read().gaps().to_vec();
        let (forgotten, gaps) = {
            let mut state = self.shared.state.write();
            let forgotten = state.trim(target);
            self.shared.watchers.forget(&forgotten, target);
            (forgotten, state.gaps().to_vec())
        };
        let mut operations = vec![Fact::Compacted.put(target)];
        operations.extend(
            garbage(&forgotten).into_iter().map(|(revision, key)| Operation::Remove(record_key(revision, &key))),
        );
        let closed = gaps_before.into_iter().filter(|gap| !gaps.contains(gap));
        operations.extend(closed.map(|(first, _)| Fact::Gap(first).remove()));
        self.postpone(operations);
    }

    /// Leaves the disk so that the next start knows that nothing was lost.
    fn finish(mut self) {
        let revision = self.shared.state.read().revision();
        if self.reserved > revision {
            self.reserve(revision);
        }
        if let Err(error) = self.flush(Vec::new()) {
            tracing::warn!(%error, "closing the store");
        }
    }
}

/// The requests of one turn, decided.
struct Batch {
    overlay: Overlay,
    entries: Vec<Entry>,
    answers: Vec<Answer>,
    /// How many of the entries are to be durable.
    durable: u64,
    revision: Revision,
}

impl Batch {
    fn new(revision: Revision) -> Self {
        Self { overlay: Overlay::default(), entries: Vec::new(), answers: Vec::new(), durable: 0, revision }
    }

    fn decide(&mut self, transaction: Transaction, shared: &Shared) -> Outcome {
        let durability = transaction.durability;
        let revision = self.revision + 1;
        let decision = shared.state.read().decide(transaction, &self.overlay, revision);
        match decision {
            Decision::Nothing(outcome) => outcome,
            Decision::Change(events) => {
                self.overlay.add(&events);
                self.entries.push(Entry { revision, at: Duration::ZERO, events });
                self.durable += u64::from(durability == Durability::Durable);
                self.revision = revision;
                Outcome::Committed(revision)
            }
        }
    }
}

fn refuse(answers: Vec<Answer>, error: &StoreError) {
    for (reply, _, _permit) in answers {
        // A caller that has gone away does not want to know.
        reply.send(Err(error.clone())).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_come_together_wait_for_each_other() {
        let sync = Duration::from_millis(1);
        assert_eq!(Linger::after(1, sync).for_requests, 0);
        let linger = Linger::after(40, sync);
        assert_eq!((linger.for_requests, linger.at_most), (40, sync / LINGER_DIVISOR));
        assert_eq!(Linger::after(40, Duration::from_secs(1)).at_most, LONGEST_LINGER);
    }
}

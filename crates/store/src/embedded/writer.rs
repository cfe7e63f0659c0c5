//! What changes the store: it takes all requests that wait, decides them in order, writes them to the disk with one sync,
//! and only then lets anybody see them. Relaxed commits are seen at once and written a little later.
//! A thread does this, which sleeps while there is nothing to do. Who writes alone, to a disk that is quick, does it where
//! it stands: handing over to the thread and back would take as long as the sync.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::disk::{Disk, Fact, Operation, record, record_key};
use super::queue::{Linger, Request, Work};
use super::state::{Decision, Entry, Overlay, garbage};
use super::{EmbeddedOptions, Shared};
use crate::{Durability, Outcome, Revision, StoreError, Transaction, slice};

/// A caller that waits for the disk keeps others of its thread from running: not for longer than many a request takes.
const LONGEST_STAND: Duration = Duration::from_micros(500);

/// How many revisions are reserved for relaxed commits with one write. After a crash the revision leaps by as much.
const RESERVE_REVISIONS: u64 = 1000;

/// How long a disk that failed is left alone. Trying takes the engine's start, of which many have to be borne.
const PAUSE: Duration = Duration::from_secs(1);

/// Why nothing is written, and until when nothing is tried.
struct Failure {
    error: StoreError,
    until: Duration,
}

/// A decided request, and whom to tell once it holds.
type Answer = (oneshot::Sender<Result<Outcome, StoreError>>, Outcome, OwnedSemaphorePermit);

/// The writer, while the store is open; whoever holds the lock writes.
pub(super) type Desk = Mutex<Option<Writer>>;

/// The only one who changes the state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    options: EmbeddedOptions,
    disk: Box<dyn Disk>,
    /// Operations that are visible or useful already, and not yet on the disk.
    pending: Vec<Operation>,
    pending_deadline: Option<Duration>,
    progress_deadline: Option<Duration>,
    last_progress: Option<Duration>,
    /// Relaxed commits may use revisions up to here.
    reserved: Revision,
    failed: Option<Failure>,
    linger: Linger,
    /// Whether the last sync was over so soon that a caller may wait for the next one where it stands.
    is_quick: bool,
}

/// Works as the store's thread until the store is closed.
pub(super) fn run(desk: &Desk, shared: &Shared, options: &EmbeddedOptions) {
    // It works for microseconds between two waits for the disk; all who write wait for it, however busy others are.
    slice::shorten_once();
    let mut linger = Linger::default();
    loop {
        let work = shared.queue.next(&linger, &options.clock);
        let mut desk = desk.lock();
        let Some(writer) = desk.as_mut() else { return };
        match work {
            Work::Requests(requests) => writer.serve(requests),
            Work::Deadline => writer.meet_deadlines(),
            Work::Close => break,
        }
        linger = writer.linger;
        shared.queue.set_deadline(writer.deadline());
    }
    if let Some(writer) = desk.lock().take() {
        writer.finish();
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, options: EmbeddedOptions, disk: Box<dyn Disk>, reserved: Revision) -> Self {
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
            linger: Linger::default(),
            is_quick: false,
        }
    }

    /// When there is something to do though nobody asks for it.
    fn deadline(&self) -> Option<Duration> {
        [self.pending_deadline, self.progress_deadline].into_iter().flatten().min()
    }

    /// Does what a caller asks for where the caller stands; gives it back where others wait, or come together.
    pub(super) fn serve_alone(&mut self, transaction: Transaction) -> Result<Result<Outcome, StoreError>, Transaction> {
        // Where the disk has failed it takes long to try it again.
        let has_to_wait = transaction.durability == Durability::Durable && !self.is_quick || self.failed.is_some();
        if has_to_wait || !self.linger.is_for_nobody() || !self.shared.queue.is_empty() {
            return Err(transaction);
        }
        let began = self.options.clock.monotonic();
        let mut batch = Batch::new(self.shared.state.read().revision());
        let outcome = batch.decide(transaction, &self.shared);
        let written = self.commit(batch.entries, batch.durable, batch.revision);
        self.note(1, began);
        self.shared.queue.set_deadline(self.deadline());
        Ok(written.map(|()| outcome))
    }

    fn serve(&mut self, requests: Vec<Request>) {
        let (count, began) = (requests.len(), self.options.clock.monotonic());
        self.process(requests);
        self.note(count, began);
    }

    /// Learns from how long so many requests took.
    fn note(&mut self, count: usize, began: Duration) {
        let took = self.options.clock.monotonic().saturating_sub(began);
        self.linger = Linger::after(count, took);
        self.is_quick = took <= LONGEST_STAND;
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
        let Batch { entries, answers, durable, revision, .. } = batch;
        let written = self.commit(entries, durable, revision);
        for (reply, outcome, _permit) in answers {
            // A caller that has gone away does not want to know.
            reply.send(written.clone().map(|()| outcome)).unwrap_or_default();
        }
        for (revision, reply) in compactions {
            let done = self.compact(revision);
            // A caller that has gone away does not want to know.
            reply.send(done).unwrap_or_default();
        }
    }

    /// Writes entries that were decided, and shows them. `revision` is that of the last one.
    fn commit(&mut self, entries: Vec<Entry>, durable: u64, revision: Revision) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.mend()?;
        let records: Vec<Operation> = entries.iter().flat_map(|entry| &entry.events).map(record).collect();
        let relaxed = entries.len() as u64 > durable;
        if durable > 0 || revision > self.reserved {
            if relaxed && revision + RESERVE_REVISIONS / 2 > self.reserved {
                self.reserve(revision + RESERVE_REVISIONS);
            }
            self.flush(records)?;
        } else {
            self.postpone(records);
        }
        self.publish(entries);
        Ok(())
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

    /// Writes what was postponed and then `operations`. If that fails, `operations` are forgotten, and nothing is written
    /// until the disk is mended.
    fn flush(&mut self, operations: Vec<Operation>) -> Result<(), StoreError> {
        self.pending_deadline = None;
        if let Some(failure) = &self.failed {
            return Err(failure.error.clone());
        }
        let seen = self.pending.len();
        self.pending.extend(operations);
        if self.pending.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.disk.write(&self.pending) {
            tracing::error!(%error, "the store takes no writes until its disk does");
            self.pending.truncate(seen);
            self.fail(error.clone());
            return Err(error);
        }
        self.pending.clear();
        Ok(())
    }

    fn fail(&mut self, error: StoreError) {
        self.failed = Some(Failure { error, until: self.options.clock.monotonic() + PAUSE });
    }

    /// After a failure: tries now and then whether the disk takes writes again. What had failed may have reached it all
    /// the same; nobody was told of it, so it is taken away, and what was shown and not written is written first.
    fn mend(&mut self) -> Result<(), StoreError> {
        let Some(Failure { error, until }) = &self.failed else { return Ok(()) };
        if self.options.clock.monotonic() < *until {
            return Err(error.clone());
        }
        let revision = self.shared.state.read().revision();
        if let Err(error) = self.disk.recover(revision) {
            self.fail(error.clone());
            return Err(error);
        }
        self.failed = None;
        self.flush(Vec::new())?;
        tracing::info!("the store takes writes again");
        Ok(())
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

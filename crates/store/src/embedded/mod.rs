//! The embedded store: all keys and their recent history in memory, one log on the disk.
//! Reads never touch the disk; one thread writes (see `writer`); an idle store does nothing at all.

mod ahead;
mod disk;
mod queue;
mod state;
#[cfg(test)]
mod tests;
mod versions;
mod watch;
mod writer;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use skiff_base::SystemClock;
use skiff_base::clock::SharedClock;
use tokio::sync::{Semaphore, oneshot};

use crate::{
    Change, KeyRange, KeyValue, Outcome, RangeResult, Revision, Snapshot, Store, StoreError, Transaction, WatchEvent,
    WatchStream,
};
use disk::{Disk, Fact, FjallDisk, Operation};
use queue::{Queue, Request};
use state::State;
use watch::Watchers;
use writer::{Desk, Writer};

/// The most commits that wait for the writer; further ones wait for a place.
const WAITING_COMMITS: usize = 4096;

/// The longest key: the engine takes 64 KiB with what the store adds; no key of the API comes near.
const KEY_BYTES: usize = 32 * 1024;

/// How many keys of a snapshot are written at a time.
const RESTORED_KEYS: usize = 1000;

/// How far the revision leaps when a snapshot is restored: more than was written since it was taken.
const RESTORE_LEAP: Revision = 1_000_000;

/// How much history is kept, for reads at a revision and for watches that resume. The first limit that is passed counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Revisions.
    pub revisions: usize,
    /// Bytes of keys and of replaced values.
    pub bytes: usize,
    /// Age; looked at when something is written.
    pub age: Duration,
}

impl Default for HistoryLimits {
    /// Upstream's API server compacts etcd every five minutes, so that its clients can count on five to ten.
    fn default() -> Self {
        Self { revisions: 20_000, bytes: 16 * 1024 * 1024, age: Duration::from_secs(600) }
    }
}

/// What can be set on the embedded store.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// Where the time comes from.
    pub clock: SharedClock,
    /// How much history is kept.
    pub history: HistoryLimits,
    /// How long a relaxed commit may stay off the disk.
    pub relaxed_delay: Duration,
    /// Watches of quiet ranges are told how far they are, at most this often.
    pub progress_interval: Duration,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            history: HistoryLimits::default(),
            relaxed_delay: Duration::from_secs(1),
            progress_interval: Duration::from_millis(20),
        }
    }
}

/// What the readers, the watches and the writer share.
struct Shared {
    state: RwLock<State>,
    watchers: Watchers,
    queue: Queue,
    closed: AtomicBool,
}

/// The store in this process.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    desk: Arc<Desk>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Where the log lies, where that is a real disk.
    folder: Option<PathBuf>,
}

impl EmbeddedStore {
    /// Opens the store in the folder `path`, which is made where it is missing. Reads all of it, so it may take a while.
    pub fn open(path: impl AsRef<Path>, options: EmbeddedOptions) -> Result<Arc<Self>, StoreError> {
        let loaded = FjallDisk::open(path.as_ref(), options.clock.monotonic())?;
        Self::start(loaded.disk, loaded.state, loaded.reserved, options)
    }

    /// Makes a store in the folder `path`, which must not be there, with what a snapshot holds. Keys keep their
    /// revisions; the present one leaps, so that nobody who saw what came after the snapshot takes up where it was.
    ///
    /// # Errors
    /// The folder is there, or cannot be written.
    pub fn restore(path: impl AsRef<Path>, snapshot: &Snapshot) -> Result<(), StoreError> {
        let path = path.as_ref();
        if path.exists() {
            return Err(StoreError::Unavailable(format!(
                "restoring the store {}: it is there already",
                path.display()
            )));
        }
        let mut disk = FjallDisk::open(path, Duration::ZERO)?.disk;
        for part in snapshot.items.chunks(RESTORED_KEYS) {
            disk.write(&part.iter().map(restored).collect::<Vec<_>>())?;
        }
        disk.write(&[Fact::Compacted.put(snapshot.revision + RESTORE_LEAP)])
    }

    fn start(
        mut disk: impl Disk + 'static,
        mut state: State,
        reserved: Revision,
        options: EmbeddedOptions,
    ) -> Result<Arc<Self>, StoreError> {
        if reserved > state.revision() {
            // The last process did not close the store, and may have shown revisions that never reached the disk.
            let first = state.revision() + 1;
            disk.write(&[Fact::Gap(first).put(reserved)])?;
            state.skip_to_after(reserved);
        }
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            watchers: Watchers::default(),
            queue: Queue::default(),
            closed: AtomicBool::new(false),
        });
        let folder = disk.folder();
        let writer = Writer::new(shared.clone(), options.clone(), Box::new(disk), reserved);
        let desk = Arc::new(Desk::new(Some(writer)));
        let of_thread = (desk.clone(), shared.clone());
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer::run(&of_thread.0, &of_thread.1, &options))
            .map_err(|error| StoreError::Unavailable(format!("starting the store's writer: {error}")))?;
        let places = Arc::new(Semaphore::new(WAITING_COMMITS));
        Ok(Arc::new(Self { shared, places, desk, thread: Mutex::new(Some(thread)), folder }))
    }

    /// Finishes the commits that wait, writes what was postponed and lets go of the folder. Reads go on; watches end.
    pub fn close(&self) {
        self.shared.queue.close();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer had panicked");
        }
        self.shared.closed.store(true, Ordering::Release);
        self.shared.watchers.wake_all();
    }

    /// How many watches are open.
    pub fn watches(&self) -> usize {
        self.shared.watchers.count()
    }

    /// Commits where the caller stands, if nobody else writes; else gives the transaction back.
    fn commit_alone(&self, transaction: Transaction) -> Result<Result<Outcome, StoreError>, Transaction> {
        let Some(mut desk) = self.desk.try_lock() else { return Err(transaction) };
        let Some(writer) = desk.as_mut() else { return Err(transaction) };
        writer.serve_alone(transaction)
    }

    async fn ask<T>(
        &self,
        request: Request,
        reply: oneshot::Receiver<Result<T, StoreError>>,
        operation: &str,
    ) -> Result<T, StoreError> {
        let gone = || StoreError::Unavailable(format!("{operation}: the store is closed"));
        self.shared.queue.push(request).map_err(|_| gone())?;
        reply.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait::async_trait]
impl Store for EmbeddedStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.state.read().revision())
    }

    fn whole_since(&self) -> Revision {
        self.shared.state.read().whole_since()
    }

    fn size_bytes(&self) -> Option<u64> {
        disk::size_of(self.folder.as_ref()?).ok()
    }

    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<(Revision, Option<KeyValue>), StoreError> {
        let state = self.shared.state.read();
        Ok((at.unwrap_or(state.revision()), state.get(key, at)?))
    }

    async fn range(&self, range: &KeyRange, at: Option<Revision>, limit: usize) -> Result<RangeResult, StoreError> {
        self.shared.state.read().range(range, at, limit)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        check_keys(&transaction)?;
        let transaction = match self.commit_alone(transaction) {
            Ok(outcome) => return outcome,
            Err(transaction) => transaction,
        };
        let closed = |_| StoreError::Unavailable("commit: the store is closed".into());
        let permit = self.places.clone().acquire_owned().await.map_err(closed)?;
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Commit { transaction, reply, permit }, answer, "commit").await
    }

    async fn watch(&self, range: KeyRange, after: Revision) -> Result<WatchStream, StoreError> {
        watch::open(&self.shared, range, after)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Compact { revision, reply }, answer, "compact").await
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.shared.watchers.wake_all();
        Ok(())
    }
}

fn restored(item: &KeyValue) -> Operation {
    let (key, revision) = (item.key.clone(), item.mod_revision);
    disk::record(&WatchEvent { revision, key, value: Some(item.clone()), previous: None })
}

fn check_keys(transaction: &Transaction) -> Result<(), StoreError> {
    let mut seen: HashSet<&Bytes> = HashSet::new();
    for change in &transaction.changes {
        let (Change::Put { key, .. } | Change::Delete { key }) = change;
        if key.is_empty() || key.len() > KEY_BYTES {
            return Err(StoreError::Unavailable(format!(
                "commit: a key has {} bytes, 1 to {KEY_BYTES} are possible",
                key.len()
            )));
        }
        if !seen.insert(key) {
            let key = String::from_utf8_lossy(key);
            return Err(StoreError::Unavailable(format!("commit: the key {key} is changed twice in one transaction")));
        }
    }
    Ok(())
}

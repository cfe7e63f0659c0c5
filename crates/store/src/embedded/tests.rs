//! The writer on a disk that fails, on a clock that stands still.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::thread::ThreadId;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use skiff_base::Timestamp;
use skiff_base::clock::ManualClock;

use super::disk::Operation;
use super::*;
use crate::{Durability, WatchItem};

const FULL: &str = "writing to the store /x: No space left on device (os error 28)";

/// A disk that remembers its batches, and fails when it is told to.
#[derive(Clone, Default)]
struct FakeDisk {
    batches: Arc<Mutex<Vec<Vec<Operation>>>>,
    /// The threads that wrote them.
    writers: Arc<Mutex<Vec<ThreadId>>>,
    broken: Arc<AtomicBool>,
    /// The revisions to which it went back.
    recovered: Arc<Mutex<Vec<Revision>>>,
}

impl FakeDisk {
    fn check(&self) -> Result<(), StoreError> {
        let is_broken = self.broken.load(Ordering::Relaxed);
        if is_broken { Err(StoreError::Unavailable(FULL.into())) } else { Ok(()) }
    }
}

impl Disk for FakeDisk {
    fn write(&mut self, operations: &[Operation]) -> Result<(), StoreError> {
        self.check()?;
        self.batches.lock().push(operations.to_vec());
        self.writers.lock().push(std::thread::current().id());
        Ok(())
    }

    fn recover(&mut self, revision: Revision) -> Result<(), StoreError> {
        self.check()?;
        self.recovered.lock().push(revision);
        Ok(())
    }
}

fn start(disk: &FakeDisk) -> (Arc<EmbeddedStore>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH));
    // A still clock never reaches the deadline of what is postponed: it is written with the next durable commit only.
    let options = EmbeddedOptions {
        clock: clock.clone(),
        relaxed_delay: Duration::from_secs(3600),
        ..EmbeddedOptions::default()
    };
    let store = EmbeddedStore::start(disk.clone(), State::new(0, Vec::new()), 0, options).unwrap();
    (store, clock)
}

async fn put(store: &EmbeddedStore, key: &'static str, durability: Durability) -> Result<Outcome, StoreError> {
    let change = Change::Put { key: Bytes::from_static(key.as_bytes()), value: Bytes::from_static(b"1") };
    store.commit(Transaction { changes: vec![change], durability, ..Transaction::default() }).await
}

#[tokio::test]
async fn a_full_disk_stops_commits_and_nothing_else() {
    let disk = FakeDisk::default();
    let (store, clock) = start(&disk);
    let mut watch = store.watch(KeyRange::prefix(""), 1).await.unwrap();
    put(&store, "a", Durability::Durable).await.unwrap();
    disk.broken.store(true, Ordering::Relaxed);
    assert_eq!(put(&store, "b", Durability::Durable).await.unwrap_err().to_string(), FULL);
    assert_eq!(put(&store, "c", Durability::Relaxed).await.unwrap_err().to_string(), FULL);
    clock.advance(Duration::from_secs(1));
    assert_eq!(put(&store, "c", Durability::Relaxed).await.unwrap_err().to_string(), FULL, "it is full still");
    let all = store.range(&KeyRange::prefix(""), None, 0).await.unwrap();
    assert_eq!((all.items.len(), all.revision), (1, 2), "what failed is not seen");
    assert!(matches!(watch.next().await, Some(Ok(WatchItem::Events(events))) if events[0].key == "a"));
    store.close();
    assert_eq!(disk.batches.lock().len(), 1);
}

#[tokio::test]
async fn a_disk_that_has_space_again_is_written_to() {
    let disk = FakeDisk::default();
    let (store, clock) = start(&disk);
    for key in ["a", "b"] {
        put(&store, key, Durability::Relaxed).await.unwrap();
    }
    assert_eq!(disk.batches.lock().len(), 1, "the first one reserves revisions, the second one waits");
    disk.broken.store(true, Ordering::Relaxed);
    put(&store, "lost", Durability::Durable).await.unwrap_err();
    disk.broken.store(false, Ordering::Relaxed);
    put(&store, "early", Durability::Durable).await.unwrap_err();
    assert!(disk.recovered.lock().is_empty(), "it is left alone for a while");
    clock.advance(Duration::from_secs(1));
    put(&store, "c", Durability::Durable).await.unwrap();
    assert_eq!(*disk.recovered.lock(), [3], "what failed had a revision that was never shown");
    let keys = |batch: &Vec<Operation>| {
        let key = |operation: &Operation| match operation {
            Operation::Put(key, _) | Operation::Remove(key) => String::from_utf8_lossy(&key[8..]).into_owned(),
        };
        batch.iter().map(key).collect::<Vec<_>>()
    };
    assert_eq!(disk.batches.lock()[1..].iter().map(keys).collect::<Vec<_>>(), [["b"], ["c"]]);
    assert_eq!(store.revision().await.unwrap(), 4);
}

#[tokio::test]
async fn who_writes_alone_writes_where_it_stands() {
    let disk = FakeDisk::default();
    let (store, _clock) = start(&disk);
    for key in ["a", "b"] {
        // The first one shows how quick the disk is; the thread, which answers before it takes note of that, is waited for.
        put(&store, key, Durability::Durable).await.unwrap();
        drop(store.desk.lock());
    }
    {
        // Somebody else writes: what comes meanwhile goes to the thread.
        let busy = store.desk.lock();
        let waiting = put(&store, "c", Durability::Durable);
        let mut waiting = std::pin::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(busy);
        waiting.await.unwrap();
    }
    let here = std::thread::current().id();
    assert_eq!(disk.writers.lock().iter().map(|writer| *writer == here).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(store.revision().await.unwrap(), 4);
}

#[tokio::test]
async fn relaxed_commits_wait_for_the_next_durable_one() {
    let disk = FakeDisk::default();
    let (store, _clock) = start(&disk);
    put(&store, "a", Durability::Relaxed).await.unwrap();
    assert_eq!(disk.batches.lock().len(), 1, "the first one reserves revisions");
    for key in ["a", "b", "c"] {
        put(&store, key, Durability::Relaxed).await.unwrap();
    }
    assert_eq!(store.revision().await.unwrap(), 5, "they are seen at once");
    assert_eq!(disk.batches.lock().len(), 1);
    put(&store, "d", Durability::Durable).await.unwrap();
    assert_eq!(disk.batches.lock()[1].len(), 4, "they are written in their order, with the durable one");
    store.close();
    assert_eq!(disk.batches.lock()[2], [Fact::Reserved.put(6)], "a clean end gives the reserved revisions back");
}

#[tokio::test]
async fn an_idle_store_writes_nothing() {
    let disk = FakeDisk::default();
    let (store, clock) = start(&disk);
    put(&store, "a", Durability::Durable).await.unwrap();
    clock.advance(Duration::from_secs(100_000));
    store.request_progress().await.unwrap();
    store.close();
    assert_eq!(disk.batches.lock().len(), 1);
}

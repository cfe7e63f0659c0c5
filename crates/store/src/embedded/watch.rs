//! Watches of the embedded store. A watch has no queue of its own: it is a place in the shared history, so that a slow
//! one costs nothing, and it falls behind only when history that it has not read is forgotten.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Shared;
use super::state::{Entry, State};
use crate::{KeyRange, Revision, StoreError, WatchItem, WatchStream};

/// How many items a watch takes from the history under one lock.
const FETCH_ITEMS: usize = 128;

/// A watch as the writer sees it.
#[derive(Debug)]
struct Slot {
    range: KeyRange,
    /// The last revision that the watch has taken from the history; changed under the state's lock only.
    cursor: AtomicU64,
    lagged: AtomicBool,
    wake: Notify,
}

impl Slot {
    fn touched_by(&self, entry: &Entry) -> bool {
        entry.events.iter().any(|event| self.range.contains(&event.key))
    }
}

/// All watches that are open.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    slots: Mutex<Vec<Weak<Slot>>>,
}

impl Watchers {
    fn open(&self, range: KeyRange, after: Revision) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            range,
            cursor: AtomicU64::new(after),
            lagged: AtomicBool::new(false),
            wake: Notify::new(),
        });
        let mut slots = self.slots.lock();
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(&slot));
        slot
    }

    /// How many watches are open.
    pub(super) fn count(&self) -> usize {
        self.slots.lock().iter().filter(|slot| slot.strong_count() > 0).count()
    }

    /// Wakes the watches that a new entry concerns; says whether there are others.
    pub(super) fn wake_touched(&self, touched: impl Fn(&KeyRange) -> bool) -> bool {
        let mut others = false;
        for slot in self.slots.lock().iter().filter_map(Weak::upgrade) {
            if touched(&slot.range) {
                slot.wake.notify_one();
            } else {
                others = true;
            }
        }
        others
    }

    /// Wakes every watch, to tell how far it is.
    pub(super) fn wake_all(&self) {
        for slot in self.slots.lock().iter().filter_map(Weak::upgrade) {
            slot.wake.notify_one();
        }
    }

    /// Called under the state's write lock when `forgotten` leaves the history: a watch that missed none of its own
    /// events moves on, the others have fallen behind.
    pub(super) fn forget(&self, forgotten: &[Entry], compacted: Revision) {
        for slot in self.slots.lock().iter().filter_map(Weak::upgrade) {
            let cursor = slot.cursor.load(Ordering::Relaxed);
            if cursor >= compacted {
                continue;
            }
            if forgotten.iter().any(|entry| entry.revision > cursor && slot.touched_by(entry)) {
                slot.lagged.store(true, Ordering::Relaxed);
                slot.wake.notify_one();
            } else {
                slot.cursor.store(compacted, Ordering::Relaxed);
            }
        }
    }
}

/// The reading side of a watch.
struct Reader {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    items: VecDeque<WatchItem>,
    /// The last revision that was told to the caller.
    told: Revision,
    ended: bool,
}

/// Opens a watch of the changes after `after`.
pub(super) fn open(shared: &Arc<Shared>, range: KeyRange, after: Revision) -> Result<WatchStream, StoreError> {
    let slot = {
        let state = shared.state.read();
        state.check(after)?;
        shared.watchers.open(range, after)
    };
    let reader = Reader { shared: shared.clone(), slot, items: VecDeque::new(), told: after, ended: false };
    Ok(Box::pin(futures_util::stream::unfold(reader, |mut reader| async move {
        let item = reader.next().await?;
        Some((item, reader))
    })))
}

impl Reader {
    async fn next(&mut self) -> Option<Result<WatchItem, StoreError>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(item) = self.items.pop_front() {
                return Some(Ok(item));
            }
            // Read before the history is: what was committed before the store closed is still delivered.
            let closed = self.shared.closed.load(Ordering::Acquire);
            if let Err(error) = self.fill() {
                self.ended = true;
                return Some(Err(error));
            }
            if !self.items.is_empty() {
                continue;
            }
            if closed {
                self.ended = true;
                return Some(Err(StoreError::Unavailable("watch: the store is closed".into())));
            }
            self.slot.wake.notified().await;
        }
    }

    fn fill(&mut self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let state = shared.state.read();
        if self.slot.lagged.load(Ordering::Relaxed) {
            return Err(StoreError::Lagged);
        }
        let cursor = self.take(&state);
        self.slot.cursor.store(cursor, Ordering::Relaxed);
        if self.items.is_empty() && cursor > self.told {
            self.items.push_back(WatchItem::Progress(cursor));
            self.told = cursor;
        }
        Ok(())
    }

    /// Takes the next items; returns the revision up to which everything in the range was taken.
    fn take(&mut self, state: &State) -> Revision {
        for entry in state.entries_after(self.slot.cursor.load(Ordering::Relaxed)) {
            if self.items.len() >= FETCH_ITEMS {
                return self.told;
            }
            let mine = |event: &&crate::WatchEvent| self.slot.range.contains(&event.key);
            let events: Vec<_> = entry.events.iter().filter(mine).cloned().collect();
            if !events.is_empty() {
                self.items.push_back(WatchItem::Events(events));
                self.told = entry.revision;
            }
        }
        state.revision()
    }
}

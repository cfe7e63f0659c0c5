//! Revisions, transactions, watch and compaction, as etcd means them, over keys and bytes.
//! No kind is known here; only the API server depends on this crate.
//! The trait and its data stand in this file; each back end has a module of its own.

pub mod embedded;
pub mod etcd;
pub mod slice;
pub mod snapshot;

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

pub use embedded::{EmbeddedOptions, EmbeddedStore, HistoryLimits};
pub use etcd::{EtcdOptions, EtcdStore, EtcdTls};
pub use snapshot::Snapshot;

/// A point in the store's history. Every transaction that changes something makes the next one; 0 is before all.
pub type Revision = u64;

/// A key with its value at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key (since it was last deleted).
    pub create_revision: Revision,
    /// The revision of the last change.
    pub mod_revision: Revision,
}

/// A half-open range of keys, `start <= key < end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// The first key after the range.
    pub end: Bytes,
}

/// What a range read gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeResult {
    /// The revision that was read.
    pub revision: Revision,
    /// The keys in order.
    pub items: Vec<KeyValue>,
    /// How many further keys the range holds beyond the limit.
    pub remaining: u64,
}

/// How long a write may stay in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Acknowledged only when it is on the disk.
    #[default]
    Durable,
    /// Acknowledged at once, on the disk a little later: for Leases and Events.
    Relaxed,
}

/// A condition of a transaction: the key's mod revision is this one (0: the key is absent).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// The mod revision that it must have.
    pub mod_revision: Revision,
}

/// A change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Writes a value.
    Put {
        /// The key.
        key: Bytes,
        /// The new value.
        value: Bytes,
    },
    /// Removes a key; removing an absent key is no change.
    Delete {
        /// The key.
        key: Bytes,
    },
}

/// A transaction: all changes at one revision, where all comparisons hold; else nothing. How many there may be of each
/// is told by [`Store::transaction_limit`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// The changes.
    pub changes: Vec<Change>,
    /// The durability asked for.
    pub durability: Durability,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Written at this revision.
    Committed(Revision),
    /// A comparison failed; the present state of the compared keys, in their order, and the present revision.
    Failed {
        /// The present revision.
        revision: Revision,
        /// What the compared keys hold now.
        current: Vec<Option<KeyValue>>,
    },
}

/// A change as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// The revision that made the change.
    pub revision: Revision,
    /// The key.
    pub key: Bytes,
    /// The new value, or `None` where the key was removed.
    pub value: Option<KeyValue>,
    /// What stood there before; an etcd that is being compacted may not know it any more.
    pub previous: Option<KeyValue>,
}

/// What a watch yields: all events of one revision at a time, in order, or the reason that it ends.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchItem, StoreError>> + Send>>;

/// One step of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// All changes in the range that one revision made.
    Events(Vec<WatchEvent>),
    /// Nothing in the range changed up to and including this revision.
    Progress(Revision),
}

/// Why the store cannot answer.
#[derive(Debug, thiserror::Error, Clone)]
pub enum StoreError {
    /// The revision asked for is gone.
    #[error("required revision has been compacted (oldest available is {oldest})")]
    Compacted {
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// The revision asked for is not there yet.
    #[error("required revision {asked} is a future revision (current is {current})")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// What there is.
        current: Revision,
    },
    /// The watcher was too slow and lost its place.
    #[error("watcher fell behind and was dropped")]
    Lagged,
    /// The disk, or the remote store, failed; names the operation.
    #[error("{0}")]
    Unavailable(String),
    /// A value cannot be made into what is stored, or read back from it.
    #[error("{0}")]
    Transform(String),
}

/// The storage that the API server stands on. Reads at revision `None` see every acknowledged write.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The present revision.
    async fn revision(&self) -> Result<Revision, StoreError>;
    /// The revision after which no change is missing that a watcher may have seen. An ended process may have shown
    /// changes of relaxed durability that it lost.
    fn whole_since(&self) -> Revision {
        0
    }
    /// One key.
    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<(Revision, Option<KeyValue>), StoreError>;
    /// Keys of a range in order, `limit` 0 for all.
    async fn range(&self, range: &KeyRange, at: Option<Revision>, limit: usize) -> Result<RangeResult, StoreError>;
    /// Compares and changes.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError>;
    /// All changes in the range after revision `after`, without gap or repeat.
    async fn watch(&self, range: KeyRange, after: Revision) -> Result<WatchStream, StoreError>;
    /// Forgets the history before `revision`; present values always stay.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
    /// What the store's files take on this machine's disk; none where they lie elsewhere.
    fn size_bytes(&self) -> Option<u64> {
        None
    }
    /// The most comparisons, and the most changes, of one transaction.
    fn transaction_limit(&self) -> usize {
        usize::MAX
    }
    /// Asks that every watch which is further than it has told says so soon, with a [`WatchItem::Progress`].
    async fn request_progress(&self) -> Result<(), StoreError>;
}

impl KeyRange {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start: Bytes = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                break;
            }
        }
        Self { start, end: end.into() }
    }

    /// Whether a key lies in the range; an empty `end` means no upper bound.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && (self.end.is_empty() || key < self.end.as_ref())
    }
}

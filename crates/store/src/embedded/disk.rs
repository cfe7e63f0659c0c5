//! What lies on the disk, and how it is written and read: one log in `fjall`, ordered by revision.
//!
//! | key | value |
//! |---|---|
//! | revision (8 bytes, big end first), then the key | 1, create revision, value; or 0 where the key was removed |
//! | revision 0, then a name | facts about the store: format, compacted revision, reserved revision, gaps |
//!
//! A value is written once. When history is forgotten, the records that nothing refers to are removed from the log.

use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::ahead::Ahead;
use super::state::{Entry, State};
use super::versions;
use crate::{KeyValue, Revision, StoreError, WatchEvent};

/// The version of the layout above.
const FORMAT: u64 = 1;

/// All values are read once, at the start; after that nothing reads, so that a block cache would be waste.
const CACHE_BYTES: u64 = 256 * 1024;

/// Small, because what is in it is in memory already; large enough for a burst of writes between two flushes.
const MEMTABLE_BYTES: u64 = 2 * 1024 * 1024;

/// The size of a table file: small, so that forgotten records leave the folder soon.
const TABLE_BYTES: u64 = 2 * 1024 * 1024;

/// The least that the engine takes: journals beyond this are flushed and removed.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

/// The engine keeps the marks of removed records, and what they removed, until a merge of all tables. One is made when
/// this much, or twice what the last one left, has been written since.
const MERGE_BYTES: u64 = 32 * 1024 * 1024;

/// A disk that was full is written to again when this much is free: a journal, and the tables of a memtable.
const ROOM_BYTES: usize = 8 * 1024 * 1024;

/// About what the engine's journal adds to each record, and to all that are written at once.
const ITEM_BYTES: u64 = 21;
const BATCH_BYTES: u64 = 26;

/// Table files that are held open.
const OPEN_FILES: usize = 16;
/// The unit in which the system counts what files take.
const BLOCK_BYTES: u64 = 512;

const KEYSPACE: &str = "log";

const TAG_REMOVED: u8 = 0;
const TAG_VALUE: u8 = 1;

/// A write to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    /// Writes a record.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a record.
    Remove(Vec<u8>),
}

impl Operation {
    fn bytes(&self) -> u64 {
        let bytes = match self {
            Self::Put(key, value) => key.len() + value.len(),
            Self::Remove(key) => key.len(),
        };
        bytes as u64
    }
}

/// Where the writer puts its batches; a seam, so that failing disks can be tested.
pub(super) trait Disk: Send {
    /// Writes all or nothing, and returns when it would survive a power cut.
    fn write(&mut self, operations: &[Operation]) -> Result<(), StoreError>;
    /// After a failed write: makes sure that the disk takes writes again, and that it holds nothing later than `revision`.
    ///
    /// # Errors
    /// It takes none yet; it may be asked again.
    fn recover(&mut self, revision: Revision) -> Result<(), StoreError>;
    /// Where it lies, where it is a real one.
    fn folder(&self) -> Option<PathBuf> {
        None
    }
}

/// The record that one event makes.
pub(super) fn record(event: &WatchEvent) -> Operation {
    let value = match &event.value {
        None => vec![TAG_REMOVED],
        Some(value) => {
            let mut bytes = Vec::with_capacity(9 + value.value.len());
            bytes.push(TAG_VALUE);
            bytes.extend_from_slice(&value.create_revision.to_be_bytes());
            bytes.extend_from_slice(&value.value);
            bytes
        }
    };
    Operation::Put(record_key(event.revision, &event.key), value)
}

/// The key of a record.
pub(super) fn record_key(revision: Revision, key: &[u8]) -> Vec<u8> {
    [&revision.to_be_bytes(), key].concat()
}

/// A fact about the store, beside the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fact {
    /// The layout's version.
    Format,
    /// History up to here is forgotten.
    Compacted,
    /// Revisions up to here may have been shown without being on the disk.
    Reserved,
    /// Revisions from this one (to the value) may have been shown and lost.
    Gap(Revision),
}

impl Fact {
    fn key(self) -> Vec<u8> {
        let name = match self {
            Self::Format => "format".into(),
            Self::Compacted => "compacted".into(),
            Self::Reserved => "reserved".into(),
            Self::Gap(first) => format!("gap/{first:020}"),
        };
        record_key(0, name.as_bytes())
    }

    fn parse(name: &[u8]) -> Option<Self> {
        match name {
            b"format" => Some(Self::Format),
            b"compacted" => Some(Self::Compacted),
            b"reserved" => Some(Self::Reserved),
            _ => std::str::from_utf8(name).ok()?.strip_prefix("gap/")?.parse().ok().map(Self::Gap),
        }
    }

    /// Writes the fact.
    pub(super) fn put(self, value: u64) -> Operation {
        Operation::Put(self.key(), value.to_be_bytes().to_vec())
    }

    /// Removes the fact.
    pub(super) fn remove(self) -> Operation {
        Operation::Remove(self.key())
    }
}

/// The log on a real disk.
pub(super) struct FjallDisk {
    /// None while it cannot be opened again after a failure.
    engine: Option<Engine>,
    path: PathBuf,
}

struct Engine {
    database: Database,
    keyspace: Keyspace,
    ahead: Ahead,
    written_bytes: u64,
    merge_at_bytes: u64,
    merge: Option<JoinHandle<()>>,
}

/// A log that was opened, with what it holds.
pub(super) struct Loaded {
    pub(super) disk: FjallDisk,
    pub(super) state: State,
    /// The last revision that may have been shown without being on the disk.
    pub(super) reserved: Revision,
}

impl FjallDisk {
    /// Opens or makes the log in the folder `path`, and reads it; `at` is the age that what is read is given.
    pub(super) fn open(path: &Path, at: Duration) -> Result<Loaded, StoreError> {
        std::fs::create_dir_all(path).map_err(|error| io_error("creating the folder of", path, &error))?;
        probe(path)?;
        caught(path, || {
            let engine = Engine::open(path).map_err(|error| describe("opening", path, &error))?;
            engine.load(path, at)
        })
    }

    fn open_again(&mut self, revision: Revision) -> Result<Engine, StoreError> {
        // The engine knows no way back from a failure: it is closed and opened again, as by a start of the server.
        self.engine = None;
        caught(&self.path, || {
            let open = || Engine::open(&self.path).map_err(|error| describe("opening", &self.path, &error));
            if probe_room(&self.path).is_err() {
                // A table that did not fit holds what room there was, and what has come since: a start takes it away.
                drop(open()?);
                probe_room(&self.path)?;
            }
            let mut engine = open()?;
            let unseen = engine.unseen(revision).map_err(|error| describe("reading", &self.path, &error))?;
            engine.write(&unseen).map_err(|error| describe("writing to", &self.path, &error))?;
            Ok(engine)
        })
    }
}

impl Engine {
    fn open(path: &Path) -> Result<Self, fjall::Error> {
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .max_cached_files(Some(OPEN_FILES))
            .max_journaling_size(JOURNAL_BYTES)
            .manual_journal_persist(true)
            .worker_threads(1)
            .open()?;
        let options = || {
            KeyspaceCreateOptions::default()
                .manual_journal_persist(true)
                .max_memtable_size(MEMTABLE_BYTES)
                .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(TABLE_BYTES)))
        };
        let keyspace = database.keyspace(KEYSPACE, options)?;
        let merge_at_bytes = merge_threshold(&keyspace);
        let ahead = Ahead::new(path);
        Ok(Self { database, keyspace, ahead, written_bytes: 0, merge_at_bytes, merge: None })
    }

    fn load(self, path: &Path, at: Duration) -> Result<Loaded, StoreError> {
        let mut loader = Loader { path, facts: Facts::default(), state: None, entry: None, at };
        for item in self.keyspace.iter() {
            let (key, value) = item.into_inner().map_err(|error| describe("reading", path, &error))?;
            loader.add(&key, &value)?;
        }
        let (state, facts) = loader.finish()?;
        let mut disk = FjallDisk { engine: Some(self), path: path.to_path_buf() };
        if facts.format.is_none() {
            disk.write(&[Fact::Format.put(FORMAT)])?;
        }
        Ok(Loaded { disk, state, reserved: facts.reserved })
    }

    /// What removes the records after `revision`: a write that failed may have reached the disk.
    fn unseen(&self, revision: Revision) -> Result<Vec<Operation>, fjall::Error> {
        let records = self.keyspace.range(record_key(revision + 1, b"")..);
        records.map(|record| Ok(Operation::Remove(record.key()?.to_vec()))).collect()
    }

    fn write(&mut self, operations: &[Operation]) -> Result<(), fjall::Error> {
        let bytes = operations.iter().map(|operation| operation.bytes() + ITEM_BYTES).sum::<u64>();
        self.ahead.prepare(bytes + BATCH_BYTES);
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        for operation in operations {
            match operation {
                Operation::Put(key, value) => batch.insert(&self.keyspace, key.as_slice(), value.as_slice()),
                Operation::Remove(key) => batch.remove(&self.keyspace, key.as_slice()),
            }
        }
        batch.commit()
    }

    /// Merges all tables on a thread of its own, where enough has been written; the writer goes on meanwhile.
    fn maintain(&mut self) {
        if self.merge.as_ref().is_some_and(|merge| !merge.is_finished()) {
            return;
        }
        if let Some(finished) = self.merge.take() {
            join(finished);
            self.merge_at_bytes = merge_threshold(&self.keyspace);
        }
        if self.written_bytes < self.merge_at_bytes {
            return;
        }
        self.written_bytes = 0;
        let keyspace = self.keyspace.clone();
        let merge = move || {
            if let Err(error) = keyspace.major_compact() {
                tracing::warn!(%error, "the store's tables could not be merged");
            }
        };
        match std::thread::Builder::new().name("store-merge".into()).spawn(merge) {
            Ok(thread) => self.merge = Some(thread),
            Err(error) => tracing::warn!(%error, "the store's tables could not be merged"),
        }
    }
}

fn merge_threshold(keyspace: &Keyspace) -> u64 {
    MERGE_BYTES.max(2 * keyspace.disk_space())
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("merging the store's tables panicked");
    }
}

impl Drop for Engine {
    /// Nothing holds the folder any more when the store is closed.
    fn drop(&mut self) {
        if let Some(merge) = self.merge.take() {
            join(merge);
        }
    }
}

/// What the files of a folder take on the disk; they come and go meanwhile.
pub(super) fn size_of(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(about) = entry.metadata() else { continue };
        bytes += if about.is_dir() { size_of(&entry.path()).unwrap_or(0) } else { about.blocks() * BLOCK_BYTES };
    }
    Ok(bytes)
}

impl Disk for FjallDisk {
    fn folder(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    fn write(&mut self, operations: &[Operation]) -> Result<(), StoreError> {
        let path = &self.path;
        let engine = self.engine.as_mut().ok_or_else(|| describe("writing to", path, &fjall::Error::Poisoned))?;
        engine.write(operations).map_err(|error| describe("writing to", path, &error))?;
        engine.written_bytes += operations.iter().map(Operation::bytes).sum::<u64>();
        engine.maintain();
        Ok(())
    }

    fn recover(&mut self, revision: Revision) -> Result<(), StoreError> {
        self.engine = Some(self.open_again(revision)?);
        Ok(())
    }
}

#[derive(Default)]
struct Facts {
    format: Option<u64>,
    compacted: Revision,
    reserved: Revision,
    gaps: Vec<(Revision, Revision)>,
}

/// Builds the state from the log; the facts come first, because they stand under revision 0.
struct Loader<'a> {
    path: &'a Path,
    facts: Facts,
    state: Option<State>,
    entry: Option<Entry>,
    at: Duration,
}

impl Loader<'_> {
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let (revision, name) =
            key.split_first_chunk::<8>().ok_or_else(|| corrupt(self.path, "a record without a revision"))?;
        match u64::from_be_bytes(*revision) {
            0 => self.add_fact(name, value),
            revision => self.add_record(revision, name, value),
        }
    }

    fn add_fact(&mut self, name: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let value =
            value.try_into().map(u64::from_be_bytes).map_err(|_| corrupt(self.path, "a fact that is no number"))?;
        match Fact::parse(name) {
            Some(Fact::Format) if value > FORMAT => {
                let path = self.path.display();
                return Err(StoreError::Unavailable(format!(
                    "opening the store {path}: written by a newer version (format {value}, this one knows {FORMAT})"
                )));
            }
            Some(Fact::Format) => self.facts.format = Some(value),
            Some(Fact::Compacted) => self.facts.compacted = value,
            Some(Fact::Reserved) => self.facts.reserved = value,
            Some(Fact::Gap(first)) => self.facts.gaps.push((first, value)),
            None => return Err(corrupt(self.path, "an unknown fact")),
        }
        Ok(())
    }

    fn add_record(&mut self, revision: Revision, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let key = Bytes::copy_from_slice(key);
        let value = match value.split_first() {
            Some((&TAG_REMOVED, [])) => None,
            Some((&TAG_VALUE, rest)) if rest.len() >= 8 => {
                let (created, value) = rest.split_at(8);
                let create_revision = created.try_into().map(u64::from_be_bytes).expect("eight bytes were split off");
                let value = Bytes::copy_from_slice(value);
                Some(KeyValue { key: key.clone(), value, create_revision, mod_revision: revision })
            }
            _ => {
                return Err(corrupt(self.path, "a record that is neither a value nor a removal"));
            }
        };
        if self.entry.as_ref().is_some_and(|entry| entry.revision != revision) {
            self.flush();
        }
        let previous = self.state().value(&key).cloned();
        let entry = self.entry.get_or_insert_with(|| Entry { revision, at: Duration::ZERO, events: Vec::new() });
        entry.events.push(WatchEvent { revision, key, value, previous });
        Ok(())
    }

    fn state(&mut self) -> &mut State {
        let facts = &self.facts;
        self.state.get_or_insert_with(|| State::new(facts.compacted, facts.gaps.clone()))
    }

    fn flush(&mut self) {
        if let Some(entry) = self.entry.take() {
            let at = self.at;
            self.state().apply(Entry { at, ..entry });
        }
    }

    fn finish(mut self) -> Result<(State, Facts), StoreError> {
        self.flush();
        self.state();
        let state = self.state.take().ok_or_else(|| corrupt(self.path, "no state"))?;
        Ok((state, self.facts))
    }
}

/// Runs what opens the engine, which checks some of what it reads with assertions: a damaged file must be an error all the
/// same.
fn caught<T>(path: &Path, open: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    if let Some(what) = versions::damaged(path).map_err(|error| io_error("reading", path, &error))? {
        return Err(corrupt(path, &what));
    }
    let opened = catch_unwind(AssertUnwindSafe(open));
    opened.unwrap_or_else(|_| Err(corrupt(path, "the engine cannot make sense of its files")))
}

/// Writes to the folder before the engine does, for an error that says what is wrong.
fn probe(path: &Path) -> Result<(), StoreError> {
    probe_with(path, b"")
}

/// Whether there is room for the engine to open and go on for a while.
fn probe_room(path: &Path) -> Result<(), StoreError> {
    probe_with(path, &vec![1; ROOM_BYTES])
}

fn probe_with(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let file = path.join(".writable");
    let written = std::fs::File::create(&file).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_data()
    });
    // A file that was written in part takes the room that is missing.
    let removed = std::fs::remove_file(&file);
    written.and(removed).map_err(|error| io_error("writing to", path, &error))
}

fn io_error(operation: &str, path: &Path, error: &io::Error) -> StoreError {
    let path = path.display();
    let cure = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space and start again",
        io::ErrorKind::PermissionDenied => "; is it owned by another user?",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a folder that can be written to",
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
            "; it is corrupt: restore it from a backup, or remove it to start anew"
        }
        _ => "",
    };
    StoreError::Unavailable(format!("{operation} the store {path}: {error}{cure}"))
}

fn corrupt(path: &Path, what: &str) -> StoreError {
    let path = path.display();
    StoreError::Unavailable(format!(
        "opening the store {path}: it is corrupt ({what}); restore it from a backup, or remove it to start anew"
    ))
}

fn describe(operation: &str, path: &Path, error: &fjall::Error) -> StoreError {
    match error {
        fjall::Error::Locked => {
            let path = path.display();
            StoreError::Unavailable(format!("{operation} the store {path}: it is in use by another process"))
        }
        fjall::Error::Io(error) => io_error(operation, path, error),
        fjall::Error::Storage(fjall::LsmError::Io(error)) => io_error(operation, path, error),
        fjall::Error::Poisoned => {
            let path = path.display();
            StoreError::Unavailable(format!("{operation} the store {path}: an earlier write failed"))
        }
        error => corrupt(path, &format!("{error:?}")),
    }
}

//! The watch cache of one resource: all its objects as stored bytes with the facts that selectors need, the latest
//! changes, and the watchers. Changes are encoded once for all watchers; a watcher that nothing concerns is not woken.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use skiff_kinds::ResourceDef;
use skiff_object::{Object, Status};
use skiff_store::{KeyValue, Revision, WatchEvent};

use crate::codec;
use crate::encryption;
use crate::failure::{Result, expired};
use crate::metrics::StoreFigures;
use crate::storage::events::{Batch, Change, Event, Message};
use crate::storage::facts::{Facts, Labels};
use crate::storage::filter::Filter;
use crate::storage::keys;
use crate::storage::line::{self, Refused};

/// How many changes of a resource are kept for watchers that come back.
const HISTORY_CHANGES: usize = 1024;
/// How many bytes of replaced objects these may hold.
const HISTORY_BYTES: usize = 4 * 1024 * 1024;
/// How many events may wait for a watcher before it is dropped as too slow.
const WATCHER_QUEUE: usize = 1024;
/// Changes that come together are told together up to about this size: a frame of HTTP/2 and a record of TLS hold no more.
const BATCH_BYTES: usize = 16 * 1024;

/// One object, as stored.
#[derive(Debug)]
pub struct Entry {
    /// Its key in the store.
    pub key: Bytes,
    /// The revision of its last change.
    pub revision: Revision,
    /// The stored bytes, shared with the store.
    pub value: Bytes,
    /// Whether it is on its way out.
    pub is_deleting: bool,
    namespace_start: u32,
    name_start: u32,
    labels: Labels,
    fields: Box<[Box<str>]>,
}

impl Entry {
    /// What the cache keeps of a stored object.
    pub fn new(def: &ResourceDef, prefix_length: usize, pair: KeyValue) -> Self {
        let path = &pair.key[prefix_length..];
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let name_start = prefix_length + slash.map_or(0, |slash| slash + 1);
        let Facts { labels, fields, is_deleting } = Facts::of(def, &pair.value);
        Self {
            key: pair.key,
            revision: pair.mod_revision,
            value: pair.value,
            is_deleting,
            namespace_start: prefix_length as u32,
            name_start: name_start as u32,
            labels,
            fields,
        }
    }

    /// Every object is stored as one.
    fn is_readable(&self) -> bool {
        self.value.first() == Some(&b'{')
    }

    /// Whether it could be decrypted.
    ///
    /// # Errors
    /// It could not, and why.
    pub fn check_readable(&self) -> Result<()> {
        if self.is_readable() {
            return Ok(());
        }
        let why = encryption::unreadable(&self.key, &self.value);
        Err(Status::internal(why.unwrap_or_else(|| "the stored object is damaged".to_owned())).into())
    }

    fn text(&self, from: usize, to: usize) -> &str {
        std::str::from_utf8(&self.key[from..to]).unwrap_or("")
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.text(self.name_start as usize, self.key.len())
    }

    /// `metadata.namespace`, or empty.
    pub fn namespace(&self) -> &str {
        let end = self.name_start.saturating_sub(1).max(self.namespace_start);
        self.text(self.namespace_start as usize, end as usize)
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| **name == *key).map(|(_, value)| value.as_ref())
    }

    /// The value of the kind's selectable field at `index`.
    pub fn field(&self, index: usize) -> &str {
        self.fields.get(index).map_or("", |value| value)
    }
}

struct Watcher {
    filter: Filter,
    bookmarks: bool,
    queue: line::Sender<Message>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Bytes, Arc<Entry>>,
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    /// All changes after this revision are in the history.
    complete_after: Revision,
    /// The revision that the content stems from, or was filled at.
    applied: Revision,
    /// The revision of the last change.
    changed: Revision,
    watchers: HashMap<u64, Watcher>,
    next_watcher: u64,
    /// How many events were given to watchers.
    sent: u64,
    /// How large all objects are together.
    bytes: usize,
    /// The keys of objects that cannot be read, because nobody can decrypt them.
    unreadable: BTreeSet<Bytes>,
}

/// The watch cache of one resource.
pub struct ResourceCache {
    /// The kind as it is stored.
    pub def: Arc<ResourceDef>,
    /// The prefix of its keys.
    pub prefix: String,
    /// How the store does of them.
    pub figures: StoreFigures,
    state: Mutex<State>,
}

/// A watcher's end: unregisters itself when it is dropped.
pub struct Subscription {
    /// What had happened, or stood there, when the watch began.
    pub initial: Vec<Event>,
    /// The revision that the initial part leads to.
    pub revision: Revision,
    /// What happens from then on; ends when the watcher was too slow.
    pub queue: line::Receiver<Message>,
    id: u64,
    cache: Arc<ResourceCache>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.cache.state.lock().watchers.remove(&self.id);
    }
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With all that is there.
    Everything,
    /// With what happens from now on.
    Now,
    /// With what happened after this revision.
    After(Revision),
}

impl ResourceCache {
    /// An empty cache; [`ResourceCache::load`] fills it.
    pub fn new(def: Arc<ResourceDef>) -> Self {
        let prefix = keys::prefix(keys::storage_group(&def), &def.plural);
        Self { def, prefix, figures: StoreFigures::default(), state: Mutex::default() }
    }

    /// What the cache keeps of a stored object.
    pub fn entry(&self, pair: KeyValue) -> Arc<Entry> {
        Arc::new(Entry::new(&self.def, self.prefix.len(), pair))
    }

    /// Replaces the content by what the store holds at `revision`; watchers must begin anew.
    pub fn load(&self, items: Vec<KeyValue>, revision: Revision) {
        let entries: BTreeMap<_, _> = items.into_iter().map(|pair| (pair.key.clone(), self.entry(pair))).collect();
        let unreadable = entries.values().filter(|entry| !entry.is_readable()).map(|entry| entry.key.clone()).collect();
        let bytes = entries.values().map(|entry| entry.value.len()).sum();
        let mut state = self.state.lock();
        let (next_watcher, sent) = (state.next_watcher, state.sent);
        *state = State {
            entries,
            complete_after: revision,
            applied: revision,
            changed: revision,
            next_watcher,
            sent,
            bytes,
            unreadable,
            ..State::default()
        };
        state.tell_of_unreadable();
    }

    /// Takes over the changes of some revisions, in their order, and tells the watchers.
    pub fn apply(&self, events: Vec<WatchEvent>) {
        let Some(last) = events.last().map(|event| event.revision) else { return };
        // What is kept of them is read out of the objects before anybody has to wait for the lock.
        let read = |event: WatchEvent| (event.revision, event.key, event.value.map(|pair| self.entry(pair)));
        let changes: Vec<_> = events.into_iter().map(read).collect();
        let mut state = self.state.lock();
        let known = state.applied;
        state.applied = known.max(last);
        let (mut together, mut size) = (Vec::new(), 0);
        for (revision, key, now) in changes.into_iter().filter(|(revision, ..)| *revision > known) {
            let Some(change) = state.change(revision, key, now) else { continue };
            size += size_of(change.now.as_ref().or(change.before.as_ref()));
            together.push(change);
            if size >= BATCH_BYTES {
                state.tell(&std::mem::take(&mut together));
                size = 0;
            }
        }
        state.tell(&together);
    }

    /// Lets watchers that want bookmarks know how far the world is.
    pub fn bookmark(&self, reached: Revision) {
        self.state.lock().watchers.retain(|_, watcher| {
            if !watcher.bookmarks {
                return true;
            }
            // A full queue will bring its reader newer news than this; only a closed one ends the watch.
            watcher.queue.send(Message::Bookmark(reached), 0) != Err(Refused::Abandoned)
        });
    }

    /// Ends all watches, so that their clients come back and find the new state of things.
    pub fn disconnect(&self) {
        self.state.lock().watchers.clear();
    }

    /// Whether all of it can be read; no list and no watch can do without the rest.
    ///
    /// # Errors
    /// An object cannot be decrypted.
    pub fn check_readable(&self) -> Result<()> {
        self.state.lock().check_readable()
    }

    /// The revision of the last change.
    pub fn changed(&self) -> Revision {
        self.state.lock().changed
    }

    /// How many watchers there are.
    pub fn watcher_count(&self) -> usize {
        self.state.lock().watchers.len()
    }

    /// How many events were given to watchers.
    pub fn sent_events(&self) -> u64 {
        self.state.lock().sent
    }

    /// How many objects there are.
    pub fn object_count(&self) -> usize {
        self.state.lock().entries.len()
    }

    /// How many objects there are, and how large they are together, in bytes.
    pub fn weight(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.entries.len() as u64, state.bytes as u64)
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let key = keys::object(&self.prefix, namespace, name);
        self.state.lock().entries.get(&key).cloned()
    }

    /// One object, decoded; what cannot be decoded is an error, never an absence.
    pub fn object(&self, namespace: &str, name: &str) -> Result<Option<Object>> {
        self.get(namespace, name).map(|entry| self.decode(&entry)).transpose()
    }

    /// Decodes an object to the kind that is stored.
    pub fn decode(&self, entry: &Entry) -> Result<Object> {
        codec::decode_stored(&self.def, &entry.value, entry.revision)
    }

    /// Everything that is selected, in the order of keys.
    pub fn select(&self, filter: &Filter) -> Vec<Arc<Entry>> {
        self.state.lock().select(&self.prefix, filter)
    }

    /// Everything that is selected with the revision at which it stood so; `reached` as in [`ResourceCache::subscribe`].
    pub fn list(&self, filter: &Filter, reached: Revision) -> (Vec<Arc<Entry>>, Revision) {
        let state = self.state.lock();
        (state.select(&self.prefix, filter), state.applied.max(reached))
    }

    /// Everything that is selected, decoded.
    pub fn objects(&self, filter: &Filter) -> Result<Vec<Object>> {
        self.select(filter).iter().map(|entry| self.decode(entry)).collect()
    }

    /// Begins a watch. `reached` is the revision up to which all caches are known to be.
    pub fn subscribe(
        self: &Arc<Self>,
        start: Start,
        filter: Filter,
        bookmarks: bool,
        reached: Revision,
    ) -> Result<Subscription> {
        let (sender, queue) = line::line(WATCHER_QUEUE);
        let mut state = self.state.lock();
        state.check_readable()?;
        let initial = match start {
            Start::Now => Vec::new(),
            Start::Everything => {
                let there = state.select(&self.prefix, &filter).into_iter();
                let added = there.map(|entry| Change { revision: entry.revision, now: Some(entry), before: None });
                added.filter_map(|change| Event::of(&change, &filter)).collect()
            }
            Start::After(revision) if revision < state.complete_after => return Err(expired()),
            Start::After(revision) => {
                let first = state.history.partition_point(|change| change.revision <= revision);
                state.history.range(first..).filter_map(|change| Event::of(change, &filter)).collect()
            }
        };
        state.sent += initial.len() as u64;
        let id = state.next_watcher;
        state.next_watcher += 1;
        state.watchers.insert(id, Watcher { filter, bookmarks, queue: sender });
        let revision = state.applied.max(reached);
        Ok(Subscription { initial, revision, queue, id, cache: self.clone() })
    }
}

impl State {
    fn check_readable(&self) -> Result<()> {
        let first = self.unreadable.first().and_then(|key| self.entries.get(key));
        first.map_or(Ok(()), |entry| entry.check_readable())
    }

    /// Keeps in mind what cannot be read. Who watches is sent away: what would be told is not the whole truth.
    fn look_at(&mut self, now: Option<&Arc<Entry>>, before: Option<&Arc<Entry>>) {
        if let Some(before) = before.filter(|_| !self.unreadable.is_empty()) {
            self.unreadable.remove(&before.key);
        }
        if let Some(now) = now.filter(|now| !now.is_readable()) {
            self.unreadable.insert(now.key.clone());
            self.watchers.clear();
            self.tell_of_unreadable();
        }
    }

    fn tell_of_unreadable(&self) {
        if let Err(failure) = self.check_readable() {
            let (count, why) = (self.unreadable.len(), &failure.0.message);
            tracing::error!(count, why, "stored objects cannot be read");
        }
    }

    fn select(&self, prefix: &str, filter: &Filter) -> Vec<Arc<Entry>> {
        let start = match &filter.namespace {
            Some(namespace) => format!("{prefix}{namespace}/"),
            None => prefix.to_owned(),
        };
        if let (Some(namespace), Some(name)) = (&filter.namespace, &filter.name) {
            let found = self.entries.get(&keys::object(prefix, namespace, name));
            return found.filter(|entry| filter.matches(entry)).cloned().into_iter().collect();
        }
        let within = self.entries.range(Bytes::copy_from_slice(start.as_bytes())..);
        let within = within.take_while(|(key, _)| key.starts_with(start.as_bytes())).map(|(_, entry)| entry);
        if filter.is_unselective() {
            return within.cloned().collect();
        }
        within.filter(|entry| filter.matches(entry)).cloned().collect()
    }

    /// Takes over the new state of an object; none where nothing has changed.
    fn change(&mut self, revision: Revision, key: Bytes, now: Option<Arc<Entry>>) -> Option<Arc<Change>> {
        let before = match &now {
            Some(entry) => self.entries.insert(key, entry.clone()),
            None => self.entries.remove(&key),
        };
        if before.is_none() && now.is_none() {
            return None;
        }
        self.changed = revision;
        self.bytes = self.bytes + size_of(now.as_ref()) - size_of(before.as_ref());
        self.look_at(now.as_ref(), before.as_ref());
        let change = Arc::new(Change { revision, now, before });
        self.remember(change.clone());
        Some(change)
    }

    fn remember(&mut self, change: Arc<Change>) {
        self.history_bytes += weight(&change);
        self.history.push_back(change);
        while self.history.len() > HISTORY_CHANGES || self.history_bytes > HISTORY_BYTES {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes -= weight(&oldest);
            self.complete_after = oldest.revision;
        }
    }

    fn tell(&mut self, changes: &[Arc<Change>]) {
        if self.watchers.is_empty() || changes.is_empty() {
            return;
        }
        let (all, sent) = (Batch::of(changes), &mut self.sent);
        self.watchers.retain(|_, watcher| {
            let Some(seen) = all.seen_by(changes, &watcher.filter) else { return true };
            let count = seen.events().len();
            *sent += count as u64;
            // A watcher that does not keep up is dropped: its client comes back from where it was.
            watcher.queue.send(Message::Events(seen), count).is_ok()
        });
    }
}

/// How large an object is, where there is one.
fn size_of(entry: Option<&Arc<Entry>>) -> usize {
    entry.map_or(0, |entry| entry.value.len())
}

/// What a remembered change keeps alive that would be gone otherwise.
fn weight(change: &Change) -> usize {
    size_of(change.before.as_ref())
}

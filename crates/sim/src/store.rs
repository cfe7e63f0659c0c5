//! A store in memory without threads of its own, so that virtual time never passes while it works, and that shows every
//! write to an onlooker at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use parking_lot::Mutex;
use skiff_store::{
    Change, KeyRange, KeyValue, Outcome, RangeResult, Revision, Store, StoreError, Transaction, WatchEvent, WatchItem,
    WatchStream,
};
use tokio::sync::watch;

type Onlooker = Box<dyn Fn(&WatchEvent) + Send + Sync>;

/// The store. It forgets nothing; a run is short.
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    newest: watch::Sender<Revision>,
    onlooker: Onlooker,
}

#[derive(Default)]
struct State {
    revision: Revision,
    keys: BTreeMap<Bytes, Vec<(Revision, Option<KeyValue>)>>,
    log: Vec<(Revision, Vec<WatchEvent>)>,
}

impl State {
    fn at(versions: &[(Revision, Option<KeyValue>)], at: Revision) -> Option<&KeyValue> {
        versions.iter().rev().find(|(revision, _)| *revision <= at)?.1.as_ref()
    }

    fn current(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    /// The first revision after `after` that changed something in the range.
    fn next(&self, range: &KeyRange, after: Revision) -> Option<(Revision, Vec<WatchEvent>)> {
        let from = self.log.partition_point(|(revision, _)| *revision <= after);
        self.log[from..].iter().find_map(|(revision, events)| {
            let inside: Vec<_> = events.iter().filter(|event| range.contains(&event.key)).cloned().collect();
            (!inside.is_empty()).then_some((*revision, inside))
        })
    }

    fn apply(&mut self, change: Change) -> Option<WatchEvent> {
        let revision = self.revision + 1;
        let (key, value) = match change {
            Change::Put { key, value } => (key, Some(value)),
            Change::Delete { key } => (key, None),
        };
        let previous = self.current(&key).cloned();
        if value.is_none() && previous.is_none() {
            return None;
        }
        let created = previous.as_ref().map_or(revision, |previous| previous.create_revision);
        let value =
            value.map(|value| KeyValue { key: key.clone(), value, create_revision: created, mod_revision: revision });
        self.keys.entry(key.clone()).or_default().push((revision, value.clone()));
        Some(WatchEvent { revision, key, value, previous })
    }
}

impl MemoryStore {
    /// An empty store; `onlooker` sees each write before anybody else does.
    pub fn new(onlooker: Onlooker) -> Self {
        Self { state: Arc::default(), newest: watch::Sender::new(0), onlooker }
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.state.lock().revision)
    }

    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<(Revision, Option<KeyValue>), StoreError> {
        let state = self.state.lock();
        let at = at.unwrap_or(state.revision);
        Ok((at, state.keys.get(key).and_then(|versions| State::at(versions, at)).cloned()))
    }

    async fn range(&self, range: &KeyRange, at: Option<Revision>, limit: usize) -> Result<RangeResult, StoreError> {
        let state = self.state.lock();
        let revision = at.unwrap_or(state.revision);
        let found = state.keys.range(range.start.clone()..).take_while(|(key, _)| range.contains(key));
        let mut items: Vec<_> = found.filter_map(|(_, versions)| State::at(versions, revision)).cloned().collect();
        let kept = if limit == 0 { items.len() } else { limit.min(items.len()) };
        let remaining = (items.len() - kept) as u64;
        items.truncate(kept);
        Ok(RangeResult { revision, items, remaining })
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let mut state = self.state.lock();
        let revision_of = |key: &Bytes| state.current(key).map_or(0, |current| current.mod_revision);
        if transaction.compares.iter().any(|compare| revision_of(&compare.key) != compare.mod_revision) {
            let current = transaction.compares.iter().map(|compare| state.current(&compare.key).cloned()).collect();
            return Ok(Outcome::Failed { revision: state.revision, current });
        }
        let events: Vec<_> = transaction.changes.into_iter().filter_map(|change| state.apply(change)).collect();
        if events.is_empty() {
            return Ok(Outcome::Committed(state.revision));
        }
        state.revision += 1;
        let revision = state.revision;
        events.iter().for_each(|event| (self.onlooker)(event));
        state.log.push((revision, events));
        drop(state);
        self.newest.send_replace(revision);
        Ok(Outcome::Committed(revision))
    }

    async fn watch(&self, range: KeyRange, after: Revision) -> Result<WatchStream, StoreError> {
        let start = (self.state.clone(), self.newest.subscribe(), after, after);
        Ok(Box::pin(stream::unfold(start, move |(state, mut newest, mut at, told)| {
            let range = range.clone();
            async move {
                loop {
                    newest.borrow_and_update();
                    let next = state.lock().next(&range, at);
                    if let Some((revision, events)) = next {
                        return Some((Ok(WatchItem::Events(events)), (state, newest, revision, revision)));
                    }
                    at = state.lock().revision.max(at);
                    if at > told {
                        return Some((Ok(WatchItem::Progress(at)), (state, newest, at, at)));
                    }
                    newest.changed().await.ok()?;
                }
            }
        })))
    }

    async fn compact(&self, _: Revision) -> Result<(), StoreError> {
        Ok(())
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        let revision = self.state.lock().revision;
        self.newest.send_replace(revision);
        Ok(())
    }
}

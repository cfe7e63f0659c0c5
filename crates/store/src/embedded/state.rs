//! The keys and their recent history in memory, and every decision about them.
//! Nothing here waits, reads a clock, or touches the disk.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;

use super::HistoryLimits;
use crate::{Change, KeyRange, KeyValue, Outcome, RangeResult, Revision, StoreError, Transaction, WatchEvent};

/// What an event costs in memory beyond its keys and values, roughly.
const EVENT_OVERHEAD_BYTES: usize = 256;

/// History is let grow by this part of its limit before it is cut, so that cutting is rare.
const SLACK_DIVISOR: usize = 8;

/// The changes of one revision.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) revision: Revision,
    /// Monotonic time of the commit (of the start of the process, for what an earlier process wrote).
    pub(super) at: Duration,
    pub(super) events: Vec<WatchEvent>,
}

impl Entry {
    /// What this entry alone keeps in memory: the values that it replaced.
    fn size_bytes(&self) -> usize {
        let previous = |event: &WatchEvent| event.previous.as_ref().map_or(0, |previous| previous.value.len());
        self.events.iter().map(|event| EVENT_OVERHEAD_BYTES + event.key.len() + previous(event)).sum()
    }
}

/// What a transaction would do.
pub(super) enum Decision {
    /// These changes, at the revision that was passed in.
    Change(Vec<WatchEvent>),
    /// Nothing: a comparison failed, or there was nothing to change.
    Nothing(Outcome),
}

/// Changes that are decided and not yet visible.
#[derive(Default)]
pub(super) struct Overlay {
    keys: HashMap<Bytes, Option<KeyValue>>,
}

impl Overlay {
    /// Lets the next decision see these events.
    pub(super) fn add(&mut self, events: &[WatchEvent]) {
        for event in events {
            self.keys.insert(event.key.clone(), event.value.clone());
        }
    }
}

/// The records on disk that nothing refers to any more, by revision and key.
pub(super) type Garbage = Vec<(Revision, Bytes)>;

/// All keys at the present revision, and how they came to be since the compacted one.
#[derive(Debug)]
pub(super) struct State {
    current: BTreeMap<Bytes, KeyValue>,
    history: VecDeque<Entry>,
    history_bytes: usize,
    revision: Revision,
    compacted: Revision,
    /// Revisions that an earlier process may have shown and lost, first and last.
    gaps: Vec<(Revision, Revision)>,
}

impl State {
    pub(super) fn new(compacted: Revision, gaps: Vec<(Revision, Revision)>) -> Self {
        // An empty store is at revision 1, as etcd is: 0 means "no revision" to the API server.
        let revision = compacted.max(1);
        Self { current: BTreeMap::new(), history: VecDeque::new(), history_bytes: 0, revision, compacted, gaps }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<&KeyValue> {
        self.current.get(key)
    }

    /// Leaves out the revisions after the present one up to `last`; the present one is then `last + 1`.
    pub(super) fn skip_to_after(&mut self, last: Revision) {
        self.gaps.push((self.revision + 1, last));
        self.revision = last + 1;
    }

    /// The first revision after the last gap.
    pub(super) fn whole_since(&self) -> Revision {
        self.gaps.iter().map(|(_, last)| last + 1).max().unwrap_or(0)
    }

    /// The revision to read or to watch after, where its state is known.
    pub(super) fn check(&self, at: Revision) -> Result<Revision, StoreError> {
        if at > self.revision {
            return Err(StoreError::Future { asked: at, current: self.revision });
        }
        if at < self.compacted {
            return Err(StoreError::Compacted { oldest: self.compacted });
        }
        match self.gaps.iter().find(|(first, last)| (*first..=*last).contains(&at)) {
            Some((_, last)) => Err(StoreError::Compacted { oldest: last + 1 }),
            None => Ok(at),
        }
    }

    /// The entries after a revision, oldest first.
    pub(super) fn entries_after(&self, after: Revision) -> impl DoubleEndedIterator<Item = &Entry> {
        let first = self.history.partition_point(|entry| entry.revision <= after);
        self.history.range(first..)
    }

    pub(super) fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<KeyValue>, StoreError> {
        let now = self.current.get(key);
        let Some(at) = at else {
            return Ok(now.cloned());
        };
        let at = self.check(at)?;
        if now.is_some_and(|value| value.mod_revision <= at) {
            return Ok(now.cloned());
        }
        let mut changes = self.entries_after(at).flat_map(|entry| &entry.events);
        Ok(match changes.find(|event| event.key == key) {
            Some(event) => event.previous.clone(),
            None => now.cloned(),
        })
    }

    pub(super) fn range(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
        limit: usize,
    ) -> Result<RangeResult, StoreError> {
        let revision = at.map_or(Ok(self.revision), |at| self.check(at))?;
        // What was different then: the value before the first change after that revision.
        let mut then: BTreeMap<&Bytes, Option<&KeyValue>> = BTreeMap::new();
        for event in self.entries_after(revision).rev().flat_map(|entry| &entry.events) {
            if range.contains(&event.key) {
                then.insert(&event.key, event.previous.as_ref());
            }
        }
        let unchanged = self.current_in(range).filter(|(key, _)| !then.contains_key(key)).map(|(_, value)| value);
        let mut values = merge(unchanged, then.values().flatten().copied());
        let limit = if limit == 0 { usize::MAX } else { limit };
        let items: Vec<KeyValue> = values.by_ref().take(limit).cloned().collect();
        Ok(RangeResult { revision, items, remaining: values.count() as u64 })
    }

    fn current_in(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, &KeyValue)> {
        let empty = !range.end.is_empty() && range.start >= range.end;
        let end = if range.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&range.end) };
        let keys = (!empty).then(|| self.current.range::<Bytes, _>((Bound::Included(&range.start), end)));
        keys.into_iter().flatten()
    }

    /// What `transaction` would do at `revision` on top of `overlay`.
    pub(super) fn decide(&self, transaction: Transaction, overlay: &Overlay, revision: Revision) -> Decision {
        let look = |key: &Bytes| match overlay.keys.get(key) {
            Some(value) => value.as_ref(),
            None => self.current.get(key),
        };
        let holds =
            |compare: &crate::Compare| look(&compare.key).map_or(0, |value| value.mod_revision) == compare.mod_revision;
        if !transaction.compares.iter().all(holds) {
            let current = transaction.compares.iter().map(|compare| look(&compare.key).cloned()).collect();
            return Decision::Nothing(Outcome::Failed { revision: revision - 1, current });
        }
        let mut events: Vec<WatchEvent> = Vec::with_capacity(transaction.changes.len());
        for change in transaction.changes {
            let (key, value) = match change {
                Change::Put { key, value } => (key, Some(value)),
                Change::Delete { key } => (key, None),
            };
            let previous = look(&key).cloned();
            if value.is_none() && previous.is_none() {
                continue;
            }
            let create_revision = previous.as_ref().map_or(revision, |previous| previous.create_revision);
            let value =
                value.map(|value| KeyValue { key: key.clone(), value, create_revision, mod_revision: revision });
            events.push(WatchEvent { revision, key, value, previous });
        }
        if events.is_empty() { Decision::Nothing(Outcome::Committed(revision - 1)) } else { Decision::Change(events) }
    }

    /// Makes the changes of one revision visible.
    pub(super) fn apply(&mut self, entry: Entry) {
        for event in &entry.events {
            match &event.value {
                Some(value) => self.current.insert(event.key.clone(), value.clone()),
                None => self.current.remove(&event.key),
            };
        }
        self.revision = self.revision.max(entry.revision);
        if entry.revision > self.compacted {
            self.history_bytes += entry.size_bytes();
            self.history.push_back(entry);
        }
    }

    /// The revision up to which history is to be forgotten now, if it is.
    pub(super) fn trim_target(&self, limits: &HistoryLimits, now: Duration) -> Option<Revision> {
        let oldest = self.history.front()?;
        let age = |entry: &Entry| now.saturating_sub(entry.at);
        let due = self.history.len() > limits.revisions + limits.revisions / SLACK_DIVISOR
            || self.history_bytes > limits.bytes + limits.bytes / SLACK_DIVISOR
            || age(oldest) > limits.age + limits.age / SLACK_DIVISOR as u32;
        if !due {
            return None;
        }
        let (mut count, mut bytes) = (self.history.len(), self.history_bytes);
        let mut target = None;
        for entry in &self.history {
            if count <= limits.revisions && bytes <= limits.bytes && age(entry) <= limits.age {
                break;
            }
            count -= 1;
            bytes -= entry.size_bytes();
            target = Some(entry.revision);
        }
        target
    }

    /// Forgets the history up to and including `target`; returns the forgotten entries, oldest first.
    pub(super) fn trim(&mut self, target: Revision) -> Vec<Entry> {
        let count = self.history.partition_point(|entry| entry.revision <= target);
        let forgotten: Vec<Entry> = self.history.drain(..count).collect();
        self.history_bytes -= forgotten.iter().map(Entry::size_bytes).sum::<usize>();
        self.compacted = self.compacted.max(target);
        self.gaps.retain(|(_, last)| *last >= target);
        forgotten
    }

    /// The gaps that still matter.
    pub(super) fn gaps(&self) -> &[(Revision, Revision)] {
        &self.gaps
    }
}

/// What forgotten entries leave on the disk without use: the values that they replaced, and the marks of removals.
pub(super) fn garbage(forgotten: &[Entry]) -> Garbage {
    let mut garbage = Garbage::new();
    for event in forgotten.iter().flat_map(|entry| &entry.events) {
        garbage.extend(event.previous.as_ref().map(|previous| (previous.mod_revision, event.key.clone())));
        if event.value.is_none() {
            garbage.push((event.revision, event.key.clone()));
        }
    }
    garbage
}

/// Merges two sequences that are ordered by key and share none.
fn merge<'a>(
    left: impl Iterator<Item = &'a KeyValue>,
    right: impl Iterator<Item = &'a KeyValue>,
) -> impl Iterator<Item = &'a KeyValue> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some(a), Some(b)) if b.key < a.key => right.next(),
        (Some(_), _) => left.next(),
        (None, _) => right.next(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Bytes {
        Bytes::copy_from_slice(name.as_bytes())
    }

    fn write(state: &mut State, changes: Vec<Change>, at: Duration) -> Revision {
        let revision = state.revision() + 1;
        let transaction = Transaction { changes, ..Transaction::default() };
        if let Decision::Change(events) = state.decide(transaction, &Overlay::default(), revision) {
            state.apply(Entry { revision, at, events });
        }
        state.revision()
    }

    fn put(name: &str, value: &str) -> Change {
        Change::Put { key: key(name), value: key(value) }
    }

    fn shown(state: &State, at: Revision, limit: usize) -> String {
        match state.range(&KeyRange::prefix(""), Some(at), limit) {
            Ok(found) => {
                let text = |kv: &KeyValue| {
                    format!("{}={}", String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value))
                };
                format!("{} +{}", found.items.iter().map(text).collect::<Vec<_>>().join(" "), found.remaining)
            }
            Err(error) => error.to_string(),
        }
    }

    fn sample() -> State {
        let mut state = State::new(0, Vec::new());
        write(&mut state, vec![put("a", "1"), put("c", "1")], Duration::ZERO);
        write(&mut state, vec![put("b", "1")], Duration::ZERO);
        write(&mut state, vec![put("a", "2"), Change::Delete { key: key("c") }], Duration::ZERO);
        write(&mut state, vec![put("c", "2")], Duration::ZERO);
        state
    }

    #[test]
    fn every_revision_can_be_read_and_paged() {
        let state = sample();
        assert_eq!(shown(&state, 1, 0), " +0");
        assert_eq!(shown(&state, 2, 0), "a=1 c=1 +0");
        assert_eq!(shown(&state, 3, 2), "a=1 b=1 +1");
        assert_eq!(shown(&state, 4, 0), "a=2 b=1 +0");
        assert_eq!(shown(&state, 5, 1), "a=2 +2");
        assert_eq!(shown(&state, 6, 0), "required revision 6 is a future revision (current is 5)");
        assert_eq!(state.get(b"c", Some(4)).expect("readable"), None);
        assert_eq!(state.get(b"c", Some(3)).expect("readable").expect("present").value, "1");
    }

    #[test]
    fn trimming_names_what_the_disk_may_forget() {
        let mut state = sample();
        let forgotten = state.trim(4);
        assert_eq!(garbage(&forgotten), vec![(2, key("a")), (2, key("c")), (4, key("c"))]);
        assert_eq!(shown(&state, 3, 0), "required revision has been compacted (oldest available is 4)");
        assert_eq!(shown(&state, 4, 0), "a=2 b=1 +0");
        assert_eq!(state.history_bytes, state.history.iter().map(Entry::size_bytes).sum::<usize>());
    }

    #[test]
    fn history_is_cut_by_count_bytes_and_age() {
        let mut state = State::new(0, Vec::new());
        for n in 0..100 {
            write(&mut state, vec![put("a", "value")], Duration::from_secs(n));
        }
        let wide = HistoryLimits { revisions: 1000, bytes: 1 << 20, age: Duration::from_secs(1000) };
        let now = Duration::from_secs(100);
        assert_eq!(state.trim_target(&wide, now), None);
        assert_eq!(state.trim_target(&HistoryLimits { revisions: 10, ..wide }, now), Some(91));
        assert_eq!(state.trim_target(&HistoryLimits { age: Duration::from_secs(20), ..wide }, now), Some(81));
        let each = EVENT_OVERHEAD_BYTES + 6;
        assert_eq!(state.trim_target(&HistoryLimits { bytes: 5 * each, ..wide }, now), Some(96));
    }

    #[test]
    fn revisions_that_may_have_been_lost_cannot_be_read() {
        let mut state = sample();
        state.skip_to_after(20);
        assert_eq!(state.revision(), 21);
        assert_eq!(shown(&state, 5, 0), "a=2 b=1 c=2 +0");
        assert_eq!(shown(&state, 6, 0), "required revision has been compacted (oldest available is 21)");
        assert_eq!(shown(&state, 20, 0), "required revision has been compacted (oldest available is 21)");
        assert_eq!(shown(&state, 21, 0), "a=2 b=1 c=2 +0");
        state.trim(21);
        assert!(state.gaps().is_empty());
    }
}

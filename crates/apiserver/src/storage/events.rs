//! What watchers are told: changes as one of them sees them, and their encodings, which all who see the same share.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use skiff_store::Revision;

use crate::codec::{self, Heads};
use crate::http::negotiate::Media;
use crate::storage::cache::Entry;
use crate::storage::filter::Filter;

/// A change of one object.
#[derive(Debug)]
pub struct Change {
    /// The revision that made it.
    pub revision: Revision,
    /// The object now, or `None` where it was deleted.
    pub now: Option<Arc<Entry>>,
    /// The object before, or `None` where it was created.
    pub before: Option<Arc<Entry>>,
}

/// What a watcher is told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// The object came, or came to be selected.
    Added,
    /// The object changed.
    Modified,
    /// The object went, or ceased to be selected.
    Deleted,
}

impl Happened {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

impl Change {
    /// What a watcher with this filter is told, and of which state of the object.
    pub fn seen_by(&self, filter: &Filter) -> Option<(Happened, &Arc<Entry>)> {
        let now = self.now.as_ref().filter(|entry| filter.matches(entry));
        let before = self.before.as_ref().filter(|entry| filter.matches(entry));
        match (before, now) {
            (None, Some(now)) => Some((Happened::Added, now)),
            (Some(_), Some(now)) => Some((Happened::Modified, now)),
            (Some(before), None) => Some((Happened::Deleted, before)),
            (None, None) => None,
        }
    }
}

/// What a watcher is told, with its encoding, which all watchers share while it is under way.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub happened: Happened,
    /// To which state of the object.
    pub entry: Arc<Entry>,
    /// The revision that did it.
    pub revision: Revision,
    frames: Arc<Frames>,
}

/// The encodings of one change, each made when the first watcher wants it.
#[derive(Debug, Default)]
struct Frames {
    /// The whole object in JSON, as the kind that is stored.
    whole: [OnceLock<Bytes>; 3],
    /// In other forms, of which a change has few.
    others: Mutex<Vec<(Happened, Form, Bytes)>>,
}

/// A form in which events are sent, apart from the most common one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The group and version that the events state.
    pub version: Arc<str>,
    /// The encoding.
    pub media: Media,
    /// Whether only the metadata is sent.
    pub metadata: bool,
}

impl Event {
    /// What a watcher with this filter is told of a change.
    pub fn of(change: &Change, filter: &Filter) -> Option<Self> {
        let (happened, entry) = change.seen_by(filter)?;
        Some(Self { happened, entry: entry.clone(), revision: change.revision, frames: Arc::default() })
    }

    /// The same event of another view of the object.
    pub fn with_entry(&self, entry: Arc<Entry>) -> Self {
        Self { entry, frames: Arc::default(), ..self.clone() }
    }

    /// The revision that the object is sent with: a deleted one carries the revision that deleted it.
    pub fn object_revision(&self) -> Revision {
        if self.happened == Happened::Deleted { self.revision } else { self.entry.revision }
    }

    /// The whole object's watch event as the kind that is stored, encoded at most once.
    pub fn frame(&self, heads: &Heads) -> Bytes {
        let encode = || {
            let mut out = BytesMut::with_capacity(self.entry.value.len() + heads.typed.len() + 64);
            out.put_slice(b"{\"type\":\"");
            out.put_slice(self.happened.name().as_bytes());
            out.put_slice(b"\",\"object\":");
            codec::write_sent(&mut out, &heads.typed, &self.entry.value, self.object_revision());
            out.put_slice(b"}\n");
            out.freeze()
        };
        self.frames.whole[self.happened as usize].get_or_init(encode).clone()
    }

    /// The event in another form, encoded by the first watcher that wants it.
    pub fn frame_in(&self, form: &Form, encode: impl FnOnce() -> Bytes) -> Bytes {
        let mut others = self.frames.others.lock();
        let known = others.iter().find(|(happened, of, _)| *happened == self.happened && of == form);
        if let Some((_, _, frame)) = known {
            return frame.clone();
        }
        let frame = encode();
        others.push((self.happened, form.clone(), frame.clone()));
        frame
    }
}

/// Events that came together, with their encodings, which all watchers that see just these share while they are under way.
#[derive(Debug)]
pub struct Batch {
    events: Vec<Event>,
    whole: OnceLock<Bytes>,
    others: Mutex<Vec<(Form, Bytes)>>,
}

impl Batch {
    fn new(events: Vec<Event>) -> Self {
        Self { events, whole: OnceLock::new(), others: Mutex::default() }
    }

    /// What one is told who sees everything.
    pub fn of(changes: &[Arc<Change>]) -> Arc<Self> {
        let everything = Filter::default();
        Arc::new(Self::new(changes.iter().filter_map(|change| Event::of(change, &everything)).collect()))
    }

    /// What a watcher with this filter is told where `self` is [`Batch::of`] the changes: mostly the same.
    pub fn seen_by(self: &Arc<Self>, changes: &[Arc<Change>], filter: &Filter) -> Option<Arc<Self>> {
        let both = || changes.iter().zip(&self.events);
        let is_same = |(change, event): (&Arc<Change>, &Event)| {
            change.seen_by(filter).is_some_and(|(happened, _)| happened == event.happened)
        };
        if both().all(is_same) {
            return Some(self.clone());
        }
        let seen = both().filter_map(|(change, event)| {
            let (happened, entry) = change.seen_by(filter)?;
            Some(Event { happened, entry: entry.clone(), ..event.clone() })
        });
        let seen: Vec<_> = seen.collect();
        (!seen.is_empty()).then(|| Arc::new(Self::new(seen)))
    }

    /// The events, of which there is at least one, in their order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// All of them as [`Event::frame`] has them, encoded at most once.
    pub fn frame(&self, heads: &Heads) -> Bytes {
        self.whole.get_or_init(|| joined(self.events.iter().map(|event| event.frame(heads)))).clone()
    }

    /// All of them in another form, encoded by the first watcher that wants it.
    pub fn frame_in(&self, form: &Form, encode: impl FnMut(&Event) -> Bytes) -> Bytes {
        let mut others = self.others.lock();
        if let Some((_, frame)) = others.iter().find(|(of, _)| of == form) {
            return frame.clone();
        }
        let frame = joined(self.events.iter().map(encode));
        others.push((form.clone(), frame.clone()));
        frame
    }
}

/// Encoded events one after the other; one alone is not copied.
pub fn joined(frames: impl Iterator<Item = Bytes>) -> Bytes {
    let mut frames: Vec<Bytes> = frames.collect();
    if frames.len() == 1 {
        return frames.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(frames.iter().map(Bytes::len).sum());
    frames.iter().for_each(|frame| all.put_slice(frame));
    all.freeze()
}

/// What a watcher receives.
#[derive(Debug, Clone)]
pub enum Message {
    /// Changes that concern it.
    Events(Arc<Batch>),
    /// Nothing else happened up to this revision.
    Bookmark(Revision),
}

impl Message {
    /// The events that it brings.
    pub fn events(&self) -> &[Event] {
        match self {
            Self::Events(batch) => batch.events(),
            Self::Bookmark(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_kinds::ResourceDef;
    use skiff_object::GroupVersionResource;
    use skiff_store::KeyValue;

    use super::*;

    fn config_maps() -> ResourceDef {
        skiff_kinds::by_resource(&GroupVersionResource::new("", "v1", "configmaps"))
            .expect("there are ConfigMaps")
            .clone()
    }

    /// A ConfigMap whose label `app` is this.
    fn entry(name: &str, app: &str, revision: Revision) -> Arc<Entry> {
        let prefix = "/registry/configmaps/";
        let value = json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": app}}});
        let pair = KeyValue {
            key: format!("{prefix}default/{name}").into(),
            value: value.to_string().into(),
            create_revision: revision,
            mod_revision: revision,
        };
        Arc::new(Entry::new(&config_maps(), prefix.len(), pair))
    }

    fn changes() -> Vec<Arc<Change>> {
        let change = |revision, now, before| Arc::new(Change { revision, now, before });
        vec![
            change(5, Some(entry("a", "web", 5)), None),
            change(6, Some(entry("b", "web", 6)), Some(entry("b", "db", 3))),
            change(7, None, Some(entry("c", "db", 4))),
        ]
    }

    fn told(batch: &Batch) -> String {
        let tell = |event: &Event| format!("{} {} {}", event.happened.name(), event.entry.name(), event.revision);
        batch.events().iter().map(tell).collect::<Vec<_>>().join(", ")
    }

    fn selecting(labels: &str) -> Filter {
        Filter::new(&config_maps(), &config_maps(), "default", labels, "").expect("a good selector")
    }

    #[test]
    fn who_sees_all_of_it_shares_it() {
        let changes = changes();
        let all = Batch::of(&changes);
        assert_eq!(told(&all), "ADDED a 5, MODIFIED b 6, DELETED c 7");
        for filter in [Filter::default(), Filter::namespace("default"), selecting("app in (web, db)")] {
            assert!(Arc::ptr_eq(&all, &all.seen_by(&changes, &filter).expect("it is seen")));
        }
    }

    #[test]
    fn others_see_what_concerns_them() {
        let changes = changes();
        let all = Batch::of(&changes);
        let seen = |filter| all.seen_by(&changes, &filter).map(|batch| told(&batch)).unwrap_or_default();
        assert_eq!(seen(selecting("app=web")), "ADDED a 5, ADDED b 6");
        assert_eq!(seen(selecting("app=db")), "DELETED b 6, DELETED c 7");
        assert_eq!(seen(Filter::namespace("other")), "");
    }

    #[test]
    fn a_batch_is_encoded_once() {
        let all = Batch::of(&changes());
        let form = Form { version: "v1".into(), media: Media::Json, metadata: true };
        let mut encoded = 0;
        for _ in 0..2 {
            let frame = all.frame_in(&form, |event| {
                encoded += 1;
                Bytes::from(format!("{};", event.entry.name()))
            });
            assert_eq!(frame, "a;b;c;");
        }
        assert_eq!(encoded, 3);
    }
}

//! Events: what happened to an object, for people. Recording never waits and never fails the caller;
//! equal events are counted up in one object, as upstream does.
//! See <https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use skiff_base::bucket::Bucket;
use skiff_base::clock::{SharedClock, rfc3339};
use tokio::sync::mpsc;

use crate::{Client, Kind, Patch};

/// Events that wait to be written; more are dropped, with a word in the log.
const QUEUE: usize = 1000;
/// How many distinct events are remembered for counting.
const REMEMBERED: usize = 4096;
/// About one object so many events are written at once, then one in this time; upstream's limits. Whoever makes ten
/// thousand Pods for one owner would else write as many events.
const BURST: f64 = 25.0;
const REFILL: f64 = 1.0 / 300.0;
/// A component writes so many events at once, then so many in each second: twice what upstream's scheduler may, so that
/// telling of thousands of Pods does not take the time in which they could be placed.
const COMPONENT_BURST: f64 = 200.0;
const COMPONENT_RATE: f64 = 100.0;
/// One dropped event of so many is told of in the log.
const TELL_EVERY: u64 = 1000;

/// Records events in the name of one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Entry>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Entry {
    object: ObjectId,
    warning: bool,
    reason: String,
    message: String,
}

/// The parts of an ObjectReference, hashable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ObjectId {
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    field_path: Option<String>,
    resource_version: NotCompared,
}

/// Carried along, but two events of one object at different revisions are the same event.
#[derive(Debug, Clone, Default)]
struct NotCompared(String);

impl PartialEq for NotCompared {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for NotCompared {}

impl std::hash::Hash for NotCompared {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl Recorder {
    /// A recorder for `component` (on node `host`, if it is tied to one), writing with `client` from a task of its own.
    pub fn start(client: Client, clock: SharedClock, component: &str, host: &str) -> Self {
        let (queue, entries) = mpsc::channel(QUEUE);
        let source = EventSource {
            component: Some(component.to_owned()),
            host: Some(host.to_owned()).filter(|host| !host.is_empty()),
        };
        tokio::spawn(write_all(client, clock, source, entries));
        Self { queue, dropped: Arc::default() }
    }

    /// Records that all went as it should.
    pub fn normal<K: Kind>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.record(&reference(object), false, reason, message.into());
    }

    /// Records that something went wrong.
    pub fn warning<K: Kind>(&self, object: &K, reason: &str, message: impl Into<String>) {
        self.record(&reference(object), true, reason, message.into());
    }

    /// Records an event about any reference, such as one that names a container by its field path.
    pub fn record(&self, object: &ObjectReference, warning: bool, reason: &str, message: String) {
        let object = ObjectId {
            api_version: object.api_version.clone().unwrap_or_default(),
            kind: object.kind.clone().unwrap_or_default(),
            namespace: object.namespace.clone().unwrap_or_default(),
            name: object.name.clone().unwrap_or_default(),
            uid: object.uid.clone().unwrap_or_default(),
            field_path: object.field_path.clone(),
            resource_version: NotCompared(object.resource_version.clone().unwrap_or_default()),
        };
        let entry = Entry { object, warning, reason: reason.to_owned(), message };
        if let Err(error) = self.queue.try_send(entry) {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed);
            if dropped.is_multiple_of(TELL_EVERY) {
                tracing::warn!(reason, %error, dropped = dropped + 1, "events dropped");
            }
        }
    }
}

/// A reference to an object, as events carry it.
pub fn reference<K: Kind>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(<K as k8s_openapi::Resource>::KIND.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// The events written so far, oldest forgotten first.
#[derive(Default)]
struct Memory {
    written: HashMap<Arc<Entry>, (String, i32)>,
    order: VecDeque<Arc<Entry>>,
    /// How many events may still be written about an object.
    allowances: HashMap<ObjectId, Bucket>,
}

async fn write_all(client: Client, clock: SharedClock, source: EventSource, mut entries: mpsc::Receiver<Entry>) {
    let mut memory = Memory::default();
    let mut pace = Bucket::full(COMPONENT_BURST, clock.monotonic());
    while let Some(entry) = entries.recv().await {
        while let Err(wait) = pace.take(COMPONENT_RATE, COMPONENT_BURST, clock.monotonic()) {
            tokio::time::sleep(wait).await;
        }
        write(&client, &clock, &source, &mut memory, entry).await;
    }
}

async fn write(client: &Client, clock: &SharedClock, source: &EventSource, memory: &mut Memory, entry: Entry) {
    let namespace = if entry.object.namespace.is_empty() { "default" } else { &entry.object.namespace }.to_owned();
    let now = clock.now();
    if !memory.allows(&entry.object, clock.monotonic()) {
        return;
    }
    if let Some((name, count)) = memory.written.get_mut(&entry) {
        *count += 1;
        let patch = Patch::Merge(json!({"count": *count, "lastTimestamp": rfc3339(now)}));
        match client.patch::<Event>(&namespace, name, "", &patch).await {
            Ok(_) => return,
            Err(error) if error.is_not_found() => {}
            Err(error) => return tracing::debug!(%error, reason = %entry.reason, "event not counted up"),
        }
    }
    // The name is unique by the nanosecond, as upstream's events are.
    let name = format!("{}.{:x}", entry.object.name, now.as_nanosecond());
    let event = new_event(&entry, name.clone(), namespace, now, source);
    match client.create(&event).await {
        Ok(_) => memory.remember(entry, name),
        Err(error) => tracing::debug!(%error, reason = %entry.reason, "event not written"),
    }
}

impl Memory {
    /// Whether one more event about the object may be written.
    fn allows(&mut self, object: &ObjectId, now: Duration) -> bool {
        // A container's events count among its Pod's.
        let object = &ObjectId { field_path: None, ..object.clone() };
        if !self.allowances.contains_key(object) {
            if self.allowances.len() >= REMEMBERED {
                // Those that are full again need not be remembered.
                self.allowances.retain(|_, allowance| !allowance.is_full(REFILL, BURST, now));
            }
            if self.allowances.len() >= REMEMBERED {
                self.allowances.clear();
            }
            self.allowances.insert(object.clone(), Bucket::full(BURST, now));
        }
        self.allowances.get_mut(object).is_none_or(|allowance| allowance.take(REFILL, BURST, now).is_ok())
    }

    fn remember(&mut self, entry: Entry, name: String) {
        let entry = Arc::new(entry);
        if self.written.insert(entry.clone(), (name, 1)).is_none() {
            self.order.push_back(entry);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.written.remove(&oldest);
        }
    }
}

fn new_event(
    entry: &Entry,
    name: String,
    namespace: String,
    now: skiff_base::Timestamp,
    source: &EventSource,
) -> Event {
    let object = &entry.object;
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: ObjectReference {
            api_version: some(&object.api_version),
            kind: some(&object.kind),
            namespace: some(&object.namespace),
            name: some(&object.name),
            uid: some(&object.uid),
            resource_version: some(&object.resource_version.0),
            field_path: object.field_path.clone(),
        },
        type_: Some(if entry.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(entry.reason.clone()),
        message: Some(entry.message.clone()),
        source: Some(source.clone()),
        reporting_component: source.component.clone().unwrap_or_default().into(),
        reporting_instance: source.host.clone().unwrap_or_default().into(),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> ObjectId {
        ObjectId {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: "d".into(),
            name: name.into(),
            uid: "u".into(),
            field_path: None,
            resource_version: NotCompared::default(),
        }
    }

    #[test]
    fn about_one_object_25_events_are_written_at_once_and_then_one_in_five_minutes() {
        let mut memory = Memory::default();
        let mut written =
            |name: &str, at: u64| (0..100).filter(|_| memory.allows(&object(name), Duration::from_secs(at))).count();
        assert_eq!(written("a", 0), 25);
        assert_eq!(written("b", 0), 25);
        assert_eq!(written("a", 299), 0);
        assert_eq!(written("a", 600), 2);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut memory = Memory::default();
        for number in 0..3 * REMEMBERED {
            assert!(memory.allows(&object(&number.to_string()), Duration::ZERO));
        }
        assert!(memory.allowances.len() <= REMEMBERED);
    }
}

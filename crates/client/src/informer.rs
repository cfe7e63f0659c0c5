//! Shared informers: one list and watch per kind and process, one decoded `Arc` per object for all who read.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use skiff_base::backoff::Backoff;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cache::{Cache, IndexOf, Packing};
use crate::client::decode;
use crate::compact;
use crate::outline::{Outline, Outlines};
use crate::wire::decode_unowned;
use crate::{Client, Error, Kind, ListOptions, Resource, Revision, WatchOptions};

/// The shortest and the longest pause before a broken watch is made again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
const JSON: &str = "application/json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Lists of metadata are a kind of their own, and the server insists on it.
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// Namespace (empty for cluster-scoped kinds) and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// Builds a key.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object's metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// What happened to an object in the cache.
#[derive(Debug)]
pub enum Change<K> {
    /// It came.
    Added(Arc<K>),
    /// It changed.
    Updated {
        /// What it was.
        old: Arc<K>,
        /// What it is.
        new: Arc<K>,
    },
    /// It went; this is the last that was seen of it.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest that is known of the object.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Updated { new: object, .. } | Self::Deleted(object) => object,
        }
    }
}

/// An object of which only the metadata is wanted.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartialObject {
    /// The object's own version (or that of PartialObjectMetadata).
    #[serde(default)]
    pub api_version: String,
    /// The object's own kind (or PartialObjectMetadata).
    #[serde(default)]
    pub kind: String,
    /// The metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

/// What tells an object from others, and a state of it from earlier ones.
struct Facts<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
    version: &'a str,
}

impl Facts<'_> {
    fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace, self.name)
    }
}

fn facts_of_kind<K: Kind>(object: &K) -> Facts<'_> {
    let meta = object.metadata();
    Facts {
        namespace: meta.namespace.as_deref().unwrap_or_default(),
        name: meta.name.as_deref().unwrap_or_default(),
        uid: meta.uid.as_deref().unwrap_or_default(),
        version: meta.resource_version.as_deref().unwrap_or_default(),
    }
}

fn facts_of_outline(object: &Outline) -> Facts<'_> {
    Facts { namespace: &object.namespace, name: &object.name, uid: &object.uid, version: &object.version }
}

type Handler<K> = Arc<dyn Fn(&Change<K>) + Send + Sync>;

/// For how long handlers are called: until the reading that they belong to ends, or (0) the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Term(u64);

/// A cache of all objects of a kind (or of a selection), kept up to date by a watch. Cheap to clone.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
    term: Term,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), term: self.term }
    }
}

/// The objects of a cache by what they say. Cheap to clone.
pub struct Index<K> {
    informer: Informer<K>,
    at: usize,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self { informer: self.informer.clone(), at: self.at }
    }
}

impl<K> Index<K> {
    /// The objects that say this, ordered by namespace and name.
    pub fn of(&self, value: &str) -> Vec<Arc<K>> {
        self.informer.shared.objects.read().found(self.at, value)
    }
}

struct Shared<K> {
    objects: RwLock<Cache<K>>,
    handlers: RwLock<Vec<(Term, Handler<K>)>>,
    synced: watch::Sender<bool>,
    facts: fn(&K) -> Facts<'_>,
    task: Mutex<Option<tokio::task::AbortHandle>>,
}

impl<K> Shared<K> {
    /// Ends the watch, and lets go of the handlers and all that they hold.
    fn end(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
        let handlers = std::mem::take(&mut *self.handlers.write());
        drop(handlers);
    }

    /// Lets go of the handlers of one term.
    fn end_term(&self, term: Term) {
        let mut handlers = self.handlers.write();
        let (ended, others) = std::mem::take(&mut *handlers).into_iter().partition(|(of, _)| *of == term);
        *handlers = others;
        drop(handlers);
        // What they hold may be informers: not under the lock.
        drop::<Vec<_>>(ended);
    }
}

impl<K> Drop for Shared<K> {
    fn drop(&mut self) {
        self.end();
    }
}

/// What an informer reads.
#[derive(Debug, Clone)]
struct Scope {
    resource: Resource,
    namespace: String,
    label_selector: String,
    field_selector: String,
    accept: &'static str,
}

impl<K: DeserializeOwned + Send + Sync + 'static> Informer<K> {
    fn new(facts: fn(&K) -> Facts<'_>, packing: Option<Packing<K>>) -> Self {
        let shared = Shared {
            objects: RwLock::new(Cache::new(packing)),
            handlers: RwLock::default(),
            synced: watch::Sender::new(false),
            facts,
            task: Mutex::new(None),
        };
        Self { shared: Arc::new(shared), term: Term::default() }
    }

    fn start(client: Client, scope: Scope, facts: fn(&K) -> Facts<'_>, packing: Option<Packing<K>>) -> Self {
        let informer = Self::new(facts, packing);
        // The task holds the cache weakly: when the last reader lets go, the watch ends.
        let sink: Arc<dyn Sink> = Arc::new(WeakSink(Arc::downgrade(&informer.shared)));
        let task = tokio::spawn(reflect(client, scope, sink));
        *informer.shared.task.lock() = Some(task.abort_handle());
        informer
    }

    /// What ends it or one term's reading of it, without holding on to it.
    fn ender(&self) -> Ender {
        let shared = Arc::downgrade(&self.shared);
        Box::new(move |term| match (shared.upgrade(), term) {
            (Some(shared), Some(term)) => shared.end_term(term),
            (Some(shared), None) => shared.end(),
            (None, _) => {}
        })
    }

    /// The same, read in a term.
    pub(crate) fn in_term(&self, term: Term) -> Self {
        Self { shared: self.shared.clone(), term }
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.by_key(&ObjectKey::new(namespace, name))
    }

    /// One object by key.
    pub fn by_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.objects.read().get(key)
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.objects.read().all().collect()
    }

    /// All objects of a namespace, ordered by name.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.shared.objects.read().of_namespace(namespace)
    }

    /// Namespaces and names of all objects, in their order.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.shared.objects.read().keys().cloned().collect()
    }

    /// How many objects there are in a namespace.
    pub fn count_namespace(&self, namespace: &str) -> usize {
        self.shared.objects.read().count_of_namespace(namespace)
    }

    /// Finds objects by what they say, without looking at all of them. Whoever asks for an index of the same name shares
    /// it; the first one's `of` is what counts.
    pub fn index(&self, name: &'static str, of: IndexOf<K>) -> Index<K> {
        let at = self.shared.objects.write().add_index(name, of);
        Index { informer: self.clone(), at }
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.shared.objects.read().len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `handler` for every object that is there now (as added) and for every change from now on.
    /// Handlers run on the informer's task: they must be quick and must not wait, and are meant to add keys to a queue.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let handler: Handler<K> = Arc::new(handler);
        // Registered under the write lock of the handlers, so that no change falls between the two steps.
        let mut handlers = self.shared.handlers.write();
        for key in self.keys() {
            self.by_key(&key).into_iter().for_each(|object| handler(&Change::Added(object)));
        }
        handlers.push((self.term, handler));
    }

    /// Waits until the first list is in the cache.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives in `self.shared`, which outlives this wait, so the wait cannot fail.
        synced.wait_for(|synced| *synced).await.map(drop).unwrap_or_default();
    }

    /// Whether the first list is in the cache.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }
}

/// The reflector's view of a cache, without its type.
trait Sink: Send + Sync {
    /// Puts a whole list in place of what was there; false when nobody reads any more.
    fn replace(&self, items: &[Box<RawValue>]) -> bool;
    /// Applies one event.
    fn apply(&self, kind: &str, object: &[u8]) -> Applied;
}

/// What became of an event.
enum Applied {
    /// Nobody reads any more.
    Unread,
    /// It is in the cache; this is its revision, where the object could be read.
    Seen(Option<String>),
}

struct WeakSink<K>(std::sync::Weak<Shared<K>>);

impl<K: DeserializeOwned + Send + Sync + 'static> Sink for WeakSink<K> {
    fn replace(&self, items: &[Box<RawValue>]) -> bool {
        let Some(shared) = self.0.upgrade() else { return false };
        let mut seen = HashSet::with_capacity(items.len());
        for item in items {
            if let Some(object) = shared.decode(item.get().as_bytes()) {
                seen.insert((shared.facts)(&object).key());
                shared.put(object);
            }
        }
        let gone: Vec<_> = shared.objects.read().keys().filter(|key| !seen.contains(*key)).cloned().collect();
        for key in gone {
            shared.remove(&key, None);
        }
        shared.synced.send_replace(true);
        true
    }

    fn apply(&self, kind: &str, object: &[u8]) -> Applied {
        let Some(shared) = self.0.upgrade() else { return Applied::Unread };
        let Some(object) = shared.decode(object) else { return Applied::Seen(Revision::of(object)) };
        let version = Some((shared.facts)(&object).version.to_owned()).filter(|version| !version.is_empty());
        match kind {
            "ADDED" | "MODIFIED" => shared.put(object),
            "DELETED" => {
                let key = (shared.facts)(&object).key();
                shared.remove(&key, Some(Arc::new(object)));
            }
            other => tracing::warn!(kind = other, "watch event of unknown type"),
        }
        Applied::Seen(version)
    }
}

impl<K: DeserializeOwned + 'static> Shared<K> {
    /// An object that cannot be decoded is said loudly; the server should never have let it in.
    fn decode(&self, object: &[u8]) -> Option<K> {
        // No reader of a cache looks at the fields' owners; a write without them leaves them as they are.
        let decoded = decode_unowned(std::any::type_name::<K>(), object);
        decoded.map_err(|error| tracing::error!(%error, "object in the cluster cannot be read")).ok()
    }

    fn put(&self, object: K) {
        let object = Arc::new(object);
        let Facts { uid, version, .. } = (self.facts)(&object);
        let key = (self.facts)(&object).key();
        let handlers = self.handlers.read();
        let old = self.objects.write().insert(key, object.clone());
        let change = match old {
            Some(old) if (self.facts)(&old).uid != uid => {
                // Deleted and made again while nobody looked: two objects, two changes.
                handlers.iter().for_each(|(_, handler)| handler(&Change::Deleted(old.clone())));
                Change::Added(object)
            }
            Some(old) if (self.facts)(&old).version == version => return,
            Some(old) => Change::Updated { old, new: object },
            None => Change::Added(object),
        };
        handlers.iter().for_each(|(_, handler)| handler(&change));
    }

    fn remove(&self, key: &ObjectKey, last: Option<Arc<K>>) {
        let handlers = self.handlers.read();
        let Some(old) = self.objects.write().remove(key) else { return };
        let change = Change::Deleted(last.unwrap_or(old));
        handlers.iter().for_each(|(_, handler)| handler(&change));
    }
}

/// Lists and watches for ever, until the sink says that nobody reads any more.
async fn reflect(client: Client, scope: Scope, sink: Arc<dyn Sink>) {
    let start = Instant::now();
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut version = String::new();
    loop {
        let began = start.elapsed();
        match follow(&client, &scope, &*sink, &mut version).await {
            Ok(true) if start.elapsed() - began > RETRY.1 => backoff.reset(&()),
            Ok(true) => {}
            Ok(false) => return,
            Err(error) if error.is_expired() => version.clear(),
            Err(error) => {
                tracing::warn!(resource = %scope.resource.plural, %error, "list and watch broke off");
            }
        }
        tokio::time::sleep(backoff.next(&(), start.elapsed())).await;
    }
}

/// One list (where no version is known) and one watch; `Ok(false)` when nobody reads any more.
async fn follow(client: &Client, scope: &Scope, sink: &dyn Sink, version: &mut String) -> Result<bool, Error> {
    if version.is_empty() {
        let options = ListOptions {
            label_selector: scope.label_selector.clone(),
            field_selector: scope.field_selector.clone(),
            ..ListOptions::default()
        };
        let list = client.list_raw(&scope.resource, &scope.namespace, &options, scope.accept_list()).await?;
        if !sink.replace(&list.items) {
            return Ok(false);
        }
        *version = list.metadata.resource_version.unwrap_or_default();
    }
    let options = WatchOptions {
        label_selector: scope.label_selector.clone(),
        field_selector: scope.field_selector.clone(),
        resource_version: version.clone(),
    };
    let mut events = client.watch(&scope.resource, &scope.namespace, &options, scope.accept).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if event.kind == "ERROR" {
            let status = decode(&scope.resource.plural, &event.object)?;
            return Err(Error::Api(Box::new(status)));
        }
        let seen = if event.kind == "BOOKMARK" {
            Revision::of(&event.object)
        } else {
            match sink.apply(&event.kind, &event.object) {
                Applied::Unread => return Ok(false),
                Applied::Seen(seen) => seen,
            }
        };
        if let Some(seen) = seen {
            *version = seen;
        }
    }
    Ok(true)
}

/// Ends an informer, or one term's reading of it.
type Ender = Box<dyn Fn(Option<Term>) + Send>;

/// The informers of one process: each kind is listed, watched and decoded once, however many read it.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    started: Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send>>>>,
    outlines: Arc<Mutex<HashMap<Resource, Outlines>>>,
    /// Of those kinds of which whole objects are read.
    of_whole: Arc<Mutex<HashMap<Resource, Outlines>>>,
    ends: Arc<Mutex<Vec<Ender>>>,
    term: Term,
    terms: Arc<AtomicU64>,
}

impl Informers {
    /// Informers that read with the rights of `client`.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            started: Arc::default(),
            outlines: Arc::default(),
            of_whole: Arc::default(),
            ends: Arc::default(),
            term: Term::default(),
            terms: Arc::default(),
        }
    }

    /// What they read with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The informer of a kind, started at the first call.
    pub fn of<K: Kind>(&self) -> Informer<K> {
        let mut started = self.started.lock();
        let entry = started.entry(TypeId::of::<K>()).or_insert_with(|| {
            let scope = Scope::of(K::resource(), JSON);
            let informer = Informer::<K>::start(self.client.clone(), scope, facts_of_kind, compact::packing());
            self.ends.lock().push(informer.ender());
            self.of_whole.lock().insert(K::resource(), Outlines::of_whole(informer.clone()));
            Box::new(informer)
        });
        entry.downcast_ref::<Informer<K>>().expect("the entry was made for this type").in_term(self.term)
    }

    /// A private informer for a selection, such as the Pods of one node; it ends when the last clone is dropped.
    pub fn selected<K: Kind>(&self, namespace: &str, label_selector: &str, field_selector: &str) -> Informer<K> {
        let scope = Scope {
            namespace: namespace.to_owned(),
            label_selector: label_selector.to_owned(),
            field_selector: field_selector.to_owned(),
            ..Scope::of(K::resource(), JSON)
        };
        Informer::start(self.client.clone(), scope, facts_of_kind, compact::packing())
    }

    /// The metadata of all objects of a resource that is known only at run time. Where whole objects of it are read
    /// already, it is taken from those.
    pub fn metadata(&self, resource: &Resource) -> Outlines {
        let mut outlines = self.outlines.lock();
        let entry = outlines.entry(resource.clone()).or_insert_with(|| {
            if let Some(of_whole) = self.of_whole.lock().get(resource) {
                return of_whole.clone();
            }
            let scope = Scope::of(resource.clone(), METADATA);
            let informer = Informer::start(self.client.clone(), scope, facts_of_outline, None);
            self.ends.lock().push(informer.ender());
            Outlines::alone(informer)
        });
        entry.in_term(self.term)
    }

    /// The same informers for a reader that ends before the process does: [`end_term`](Self::end_term) lets go of what it
    /// had itself told.
    #[must_use]
    pub fn term(&self) -> Self {
        Self { term: Term(self.terms.fetch_add(1, Ordering::Relaxed) + 1), ..self.clone() }
    }

    /// Ends the term that this value stands for: nothing is told to its handlers any more, and what they hold is let go.
    /// Nothing, where it stands for the process.
    pub fn end_term(&self) {
        if self.term != Term::default() {
            self.ends.lock().iter().for_each(|end| end(Some(self.term)));
        }
    }

    /// Ends the informers that are shared: they watch no more and tell nobody. Handlers that look into informers hold on to
    /// them, so that without this those would go on when all their readers are gone.
    pub fn end(&self) {
        let ends = std::mem::take(&mut *self.ends.lock());
        ends.iter().for_each(|end| end(None));
    }

    /// Stops sharing the metadata of a resource that is no longer served.
    pub fn forget_metadata(&self, resource: &Resource) {
        self.outlines.lock().remove(resource);
    }
}

impl Scope {
    fn accept_list(&self) -> &'static str {
        if self.accept == METADATA { METADATA_LIST } else { self.accept }
    }

    fn of(resource: Resource, accept: &'static str) -> Self {
        Self {
            resource,
            namespace: String::new(),
            label_selector: String::new(),
            field_selector: String::new(),
            accept,
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    #[test]
    fn who_reads_for_a_term_lets_go_in_its_end() {
        let informer = Informer::<Pod>::new(facts_of_kind, None);
        let sink = WeakSink(Arc::downgrade(&informer.shared));
        let happens = |name: &str| {
            let pod = json!({"metadata": {"name": name, "namespace": "default", "resourceVersion": "1"}});
            sink.apply("ADDED", pod.to_string().as_bytes());
        };
        let held = Arc::new(Mutex::new(Vec::new()));
        let (of_process, of_term) = (held.clone(), held.clone());
        let read_in_term = informer.in_term(Term(1));
        informer.on_change(move |change| of_process.lock().push(format!("process {}", name_of(change))));
        // A handler that looks into the informer holds on to it.
        let looked_into = read_in_term.clone();
        read_in_term.on_change(move |change| {
            of_term.lock().push(format!("term {} of {}", name_of(change), looked_into.len()));
        });
        happens("a");
        let end = informer.ender();
        end(Some(Term(2)));
        happens("b");
        end(Some(Term(1)));
        happens("c");
        assert_eq!(*held.lock(), ["process a", "term a of 1", "process b", "term b of 2", "process c"]);
        assert_eq!(Arc::strong_count(&held), 2, "what the ended handler held is let go");
    }

    fn name_of(change: &Change<Pod>) -> String {
        change.object().metadata.name.clone().unwrap_or_default()
    }
}

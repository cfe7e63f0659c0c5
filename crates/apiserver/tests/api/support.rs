//! A server on a store in memory, on a clock that stands still, with ids that are the same in every run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use skiff_apiserver::http::body;
use skiff_apiserver::{ApiServer, Body, Config, UserInfo};
use skiff_base::clock::ManualClock;
use skiff_base::ids::Ids;
use skiff_store::{
    Change, KeyRange, KeyValue, Outcome, RangeResult, Revision, Store, StoreError, Transaction, WatchEvent, WatchItem,
    WatchStream,
};
use tokio::sync::mpsc;

/// A store without a disk, that keeps all its history.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: Revision,
    /// Older states than this are forgotten.
    oldest: Revision,
    /// All values of a key, with the revision that wrote them; `None` is a deletion.
    keys: BTreeMap<Bytes, Vec<(Revision, Option<KeyValue>)>>,
    watchers: Vec<(KeyRange, mpsc::UnboundedSender<Result<WatchItem, StoreError>>)>,
}

impl State {
    fn at(&self, key: &[u8], revision: Revision) -> Option<KeyValue> {
        let history = self.keys.get(key)?;
        history.iter().rev().find(|(at, _)| *at <= revision)?.1.clone()
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.state.lock().revision)
    }

    fn whole_since(&self) -> Revision {
        self.state.lock().revision
    }

    async fn get(&self, key: &[u8], at: Option<Revision>) -> Result<(Revision, Option<KeyValue>), StoreError> {
        let state = self.state.lock();
        Ok((state.revision, state.at(key, at.unwrap_or(state.revision))))
    }

    async fn range(&self, range: &KeyRange, at: Option<Revision>, limit: usize) -> Result<RangeResult, StoreError> {
        let state = self.state.lock();
        let at = at.unwrap_or(state.revision);
        if at < state.oldest {
            return Err(StoreError::Compacted { oldest: state.oldest });
        }
        if at > state.revision {
            return Err(StoreError::Future { asked: at, current: state.revision });
        }
        let keys = state.keys.keys().filter(|key| range.contains(key));
        let mut items: Vec<_> = keys.filter_map(|key| state.at(key, at)).collect();
        let limit = if limit == 0 { items.len() } else { limit };
        let remaining = items.len().saturating_sub(limit) as u64;
        items.truncate(limit);
        Ok(RangeResult { revision: at, items, remaining })
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let mut state = self.state.lock();
        let now = state.revision;
        let current: Vec<_> = transaction.compares.iter().map(|compare| state.at(&compare.key, now)).collect();
        let revision_of = |found: &Option<KeyValue>| found.as_ref().map_or(0, |pair| pair.mod_revision);
        if current.iter().zip(&transaction.compares).any(|(found, compare)| revision_of(found) != compare.mod_revision)
        {
            return Ok(Outcome::Failed { revision: now, current });
        }
        let (revision, mut events) = (now + 1, Vec::new());
        for change in transaction.changes {
            let (key, value) = match change {
                Change::Put { key, value } => (key, Some(value)),
                Change::Delete { key } => (key, None),
            };
            let previous = state.at(&key, now);
            let create_revision = previous.as_ref().map_or(revision, |pair| pair.create_revision);
            let value =
                value.map(|value| KeyValue { key: key.clone(), value, create_revision, mod_revision: revision });
            state.keys.entry(key.clone()).or_default().push((revision, value.clone()));
            events.push(WatchEvent { revision, key, value, previous });
        }
        state.revision = revision;
        state.watchers.retain(|(range, sender)| {
            let events: Vec<_> = events.iter().filter(|event| range.contains(&event.key)).cloned().collect();
            events.is_empty() || sender.send(Ok(WatchItem::Events(events))).is_ok()
        });
        Ok(Outcome::Committed(revision))
    }

    async fn watch(&self, range: KeyRange, after: Revision) -> Result<WatchStream, StoreError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        assert_eq!(after, state.revision, "this store watches from now on only");
        state.watchers.push((range, sender));
        let next = |mut receiver: mpsc::UnboundedReceiver<_>| async move { Some((receiver.recv().await?, receiver)) };
        Ok(Box::pin(futures_util::stream::unfold(receiver, next)))
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.state.lock().oldest = revision;
        Ok(())
    }
}

/// A folder that is gone when the test is.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("skiff-api-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder of the test's own");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("removing {}: {error}", self.0.display());
        }
    }
}

/// A cluster to try requests on.
pub struct Cluster {
    pub store: Arc<dyn Store>,
    pub server: Arc<ApiServer>,
    pub clock: Arc<ManualClock>,
    /// Who asks, unless a request says otherwise.
    pub user: UserInfo,
}

pub fn config(store: Arc<dyn Store>, clock: Arc<ManualClock>) -> Config {
    Config::new(store, clock, Arc::new(Ids::seeded(1)))
}

impl Cluster {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        let clock = Arc::new(ManualClock::at("2026-01-02T03:04:05Z".parse().expect("a time")));
        let mut config = config(Arc::new(MemoryStore::default()), clock.clone());
        adjust(&mut config);
        let store = config.store.clone();
        let server = ApiServer::new(config).await.expect("a server on a store in memory");
        Self { store, server, clock, user: UserInfo::new("admin", &["system:masters"]) }
    }

    /// Sends a request as it would be typed: `METHOD target`, header lines, a blank line, a body.
    pub async fn send(&self, text: &str) -> Response<Body> {
        let text = text.trim_start();
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        self.send_bytes(head, body.trim().to_owned()).await
    }

    /// The same with a body that is no text.
    pub async fn send_bytes(&self, head: &str, body: impl Into<Bytes>) -> Response<Body> {
        let mut lines = head.lines().map(str::trim);
        let (method, target) = lines.next().and_then(|line| line.split_once(' ')).expect("METHOD target");
        let mut request =
            Request::builder().method(Method::from_bytes(method.as_bytes()).expect("a method")).uri(target);
        let mut user = Some(self.user.clone());
        for line in lines {
            let (name, value) = line.split_once(": ").expect("Name: value");
            match name {
                // Nobody's word for who asks.
                "User" if value == "-" => user = None,
                "User" => user = Some(UserInfo::new(value, &[])),
                _ => request = request.header(name, value),
            }
        }
        let mut request = request.body(body::full(body)).expect("a request");
        if let Some(user) = user {
            request.extensions_mut().insert(user);
        }
        self.server.handle(request).await
    }

    /// The answer's status, warnings and body as text; JSON indented, on one line where it is short.
    pub async fn answer(&self, text: &str) -> String {
        let answer = self.send(text).await;
        let mut shown = answer.status().as_str().to_owned();
        for warning in answer.headers().get_all("warning") {
            shown.push_str(&format!("\nWarning: {}", warning.to_str().expect("text")));
        }
        let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
        shown.push('\n');
        shown.push_str(&match serde_json::from_slice::<serde_json::Value>(&body) {
            Ok(tree) => serde_json::to_string_pretty(&tree).expect("a tree"),
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        });
        shown.push('\n');
        shown
    }

    /// The answer's tree; panics where the request fails.
    pub async fn tree(&self, text: &str) -> serde_json::Value {
        let answer = self.send(text).await;
        let code = answer.status();
        let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
        assert!(code.is_success(), "{text}\n{code} {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("JSON")
    }

    /// Just code and message, for requests that fail (or code alone where they do not).
    pub async fn outcome(&self, text: &str) -> String {
        let answer = self.send(text).await;
        let code = answer.status();
        let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
        let tree: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = tree["message"].as_str().unwrap_or("");
        format!("{} {}", code.as_u16(), message).trim_end().to_owned()
    }
}

/// Waits until a custom resource definition is in force.
pub async fn established(cluster: &Cluster, name: &str) {
    holds(cluster, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", name, "Established").await;
}

/// Waits until a condition of an object is true.
pub async fn holds(cluster: &Cluster, collection: &str, name: &str, condition: &str) {
    let mut watch = Watch::open(cluster, &format!("GET {collection}?watch=1&fieldSelector=metadata.name={name}")).await;
    loop {
        for event in watch.next().await {
            let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|one| one["type"] == condition && one["status"] == "True") {
                return;
            }
        }
    }
}

/// A watch that is under way.
pub struct Watch(Body);

impl Watch {
    pub async fn open(cluster: &Cluster, text: &str) -> Self {
        let answer = cluster.send(text).await;
        assert_eq!(answer.status(), 200);
        Self(answer.into_body())
    }

    /// The next events as `TYPE name@revision`, as many as come in one piece.
    pub async fn next(&mut self) -> Vec<serde_json::Value> {
        let Some(frame) = self.0.frame().await else { return Vec::new() };
        let data = frame.expect("a frame").into_data().expect("data");
        let lines = data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).expect("an event")).collect()
    }

    pub async fn short(&mut self) -> String {
        let events = self.next().await;
        let show = |event: &serde_json::Value| {
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
            format!("{} {name}", event["type"].as_str().unwrap_or("?"))
        };
        events.iter().map(show).collect::<Vec<_>>().join(", ")
    }
}

//! As much of an API server as a node needs: objects as trees, watches, and no rules.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_client::{Body, Transport, TransportError};
use skiff_object::Status;
use skiff_object::meta::Meta;
use tokio::sync::{mpsc, watch};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    revision: u64,
    watchers: Vec<Watcher>,
}

struct Watcher {
    collection: String,
    selector: String,
    events: mpsc::UnboundedSender<Bytes>,
}

pub(super) struct FakeApi {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

impl FakeApi {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: watch::Sender::new(0) })
    }

    /// Puts an object at its path and tells the watchers.
    pub(super) fn put(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.state.lock();
        state.revision += 1;
        object.set_at(&["metadata", "resourceVersion"], state.revision.to_string());
        object.default_at(&["metadata", "uid"], format!("uid-{}", state.revision));
        object.default_at(&["metadata", "creationTimestamp"], "2026-01-01T00:00:00Z");
        let kind = if state.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        state.objects.insert(path.to_owned(), object.clone());
        state.tell(kind, path, &object);
        self.changed.send_replace(state.revision);
        object
    }

    pub(super) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    pub(super) fn list(&self, collection: &str) -> Vec<Value> {
        let state = self.state.lock();
        state.objects.iter().filter(|(path, _)| is_in(path, collection)).map(|(_, object)| object.clone()).collect()
    }

    pub(super) fn remove(&self, path: &str) -> Option<Value> {
        let mut state = self.state.lock();
        let object = state.objects.remove(path)?;
        state.revision += 1;
        state.tell("DELETED", path, &object);
        self.changed.send_replace(state.revision);
        Some(object)
    }

    /// Waits until the objects are as they should be.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            while !holds(self) {
                changed.changed().await.expect("the sender lives as long as the API");
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!("in vain waited for {what}; there is: {:#?}", self.state.lock().objects);
        }
    }

    fn answer(&self, request: &Request<Bytes>) -> Result<Response<Body>, Status> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or("").to_owned();
        let not_found = || Status::failure(404, skiff_object::Reason::NotFound, format!("{path} not found"));
        let body = || serde_json::from_slice::<Value>(request.body()).expect("a request's body is JSON");
        let parent = path.trim_end_matches("/status").to_owned();
        match *request.method() {
            Method::GET if query.contains("watch=") => Ok(self.watch(&path, &query)),
            Method::GET if is_collection(&path) => {
                let state = self.state.lock();
                let chosen = state.objects.iter().filter(|(key, _)| is_in(key, &path));
                let items: Vec<_> =
                    chosen.map(|(_, object)| object).filter(|o| selects(&selector(&query), o)).collect();
                let list = json!({"metadata": {"resourceVersion": state.revision.to_string()}, "items": items});
                Ok(plain(200, &list))
            }
            Method::GET => self.get(&path).map(|object| plain(200, &object)).ok_or_else(not_found),
            Method::POST if path.ends_with("/token") => {
                let status = json!({"token": "a-token", "expirationTimestamp": "2999-01-01T00:00:00Z"});
                Ok(plain(201, &json!({"spec": body()["spec"], "status": status})))
            }
            Method::POST => {
                let object = body();
                let path = format!("{path}/{}", object.name());
                if self.get(&path).is_some() {
                    return Err(Status::failure(409, skiff_object::Reason::AlreadyExists, "exists"));
                }
                Ok(plain(201, &self.put(&path, object)))
            }
            Method::PATCH => {
                let mut object = self.get(&parent).ok_or_else(not_found)?;
                merge(&mut object, body());
                Ok(plain(200, &self.put(&parent, object)))
            }
            Method::DELETE => self.remove(&path).map(|object| plain(200, &object)).ok_or_else(not_found),
            _ => Err(Status::bad_request("not offered by this API")),
        }
    }

    fn watch(&self, path: &str, query: &str) -> Response<Body> {
        let (events, receiver) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        // What came between the list and the watch.
        let after = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")?.parse().ok()).unwrap_or(0);
        for (key, object) in &state.objects {
            let revision: u64 = object.resource_version().parse().unwrap_or(0);
            if is_in(key, path) && revision > after && selects(&selector(query), object) {
                events.send(line("MODIFIED", object)).expect("the receiver is here");
            }
        }
        state.watchers.push(Watcher { collection: path.to_owned(), selector: selector(query), events });
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|bytes| (Ok(Frame::data(bytes)), receiver))
        });
        Response::new(StreamBody::new(stream.boxed()).boxed_unsync())
    }
}

impl State {
    fn tell(&mut self, kind: &str, path: &str, object: &Value) {
        self.watchers.retain(|watcher| {
            let wanted = is_in(path, &watcher.collection) && selects(&watcher.selector, object);
            !wanted || watcher.events.send(line(kind, object)).is_ok()
        });
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    Bytes::from(format!("{}\n", json!({"type": kind, "object": object})))
}

fn is_collection(path: &str) -> bool {
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    let rest = if parts[0] == "api" { &parts[2..] } else { &parts[3..] };
    match rest {
        [_] => true,
        ["namespaces", _] => false,
        ["namespaces", _, _] => true,
        _ => false,
    }
}

/// Whether an object's path lies in a collection, of one namespace or of all.
fn is_in(path: &str, collection: &str) -> bool {
    let Some((own, _)) = path.rsplit_once('/') else { return false };
    if own == collection {
        return true;
    }
    let (Some(at), Some((prefix, plural))) = (own.find("/namespaces/"), collection.rsplit_once('/')) else {
        return false;
    };
    &own[..at] == prefix && own.rsplit_once('/').is_some_and(|(_, last)| last == plural)
}

fn selector(query: &str) -> String {
    let found = query.split('&').find_map(|pair| pair.strip_prefix("fieldSelector="));
    found.unwrap_or("").replace("%3D", "=").replace("%3d", "=")
}

fn selects(selector: &str, object: &Value) -> bool {
    let Some((field, value)) = selector.split_once('=') else { return true };
    object.str_at(&field.split('.').collect::<Vec<_>>()) == value
}

/// A merge patch in which lists are replaced; directives of strategic patches are dropped.
fn merge(object: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) => {
            if !object.is_object() {
                *object = json!({});
            }
            for (field, value) in fields {
                if value.is_null() {
                    object.as_object_mut().expect("it was made one").remove(&field);
                } else {
                    merge(&mut object[field], value);
                }
            }
        }
        Value::Array(items) => {
            *object = items.into_iter().filter(|item| item.get("$patch").is_none()).collect();
        }
        other => *object = other,
    }
}

fn plain(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).expect("a valid code");
    response
}

/// The API as a transport.
pub(super) struct InMemory(pub(super) Arc<FakeApi>);

#[async_trait]
impl Transport for InMemory {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, TransportError> {
        Ok(self
            .0
            .answer(&request)
            .unwrap_or_else(|status| plain(status.code, &serde_json::to_value(&status).expect("a status is JSON"))))
    }
}

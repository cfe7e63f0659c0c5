//! What the runner does when a write was done and its answer was lost: a plan that is made before the caches show it must
//! not do the same to another object.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::clock::SystemClock;
use skiff_base::ids::Ids;
use skiff_client::{Body, Client, Informer, Informers, ObjectKey, Transport, TransportError};
use tokio::sync::mpsc;

use crate::plan::{Action, Plan};
use crate::runner::{Controller, Failure, Runner, Setup};

/// What is told of an object that was written.
const CHANGED: &str = r#"{"metadata": {"resourceVersion": "3"}}"#;

/// A server that does the first write and does not get its answer through.
struct Lossy {
    pods: Value,
    writes: Arc<Mutex<Vec<String>>>,
    events: Mutex<Option<mpsc::UnboundedReceiver<Bytes>>>,
}

#[async_trait::async_trait]
impl Transport for Lossy {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, TransportError> {
        let whole = |text: String| Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
        if request.method() == Method::GET {
            if !request.uri().path().ends_with("/pods") {
                return Ok(Response::new(whole(CHANGED.to_owned())));
            }
            if !request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                let list = json!({"kind": "PodList", "metadata": {"resourceVersion": "2"}, "items": self.pods});
                return Ok(Response::new(whole(list.to_string())));
            }
            let mut events = self.events.lock().take().expect("one watch");
            let frames = stream::poll_fn(move |context| events.poll_recv(context));
            let frames = futures_util::StreamExt::map(frames, |line| Ok(http_body::Frame::data(line)));
            return Ok(Response::new(StreamBody::new(frames).boxed_unsync()));
        }
        let name = match *request.method() {
            Method::POST => serde_json::from_slice::<Value>(request.body()).expect("an object")["metadata"]["name"]
                .as_str()
                .map(str::to_owned),
            _ => request.uri().path().rsplit('/').next().map(str::to_owned),
        };
        let write = format!("{} {}", request.method(), name.unwrap_or_default());
        let mut writes = self.writes.lock();
        let is_second = writes.contains(&write);
        writes.push(write);
        if writes.len() == 1 {
            return Err(TransportError::new("write", "its answer was lost"));
        }
        if *request.method() == Method::POST && is_second {
            let refusal = json!({"kind": "Status", "status": "Failure", "reason": "AlreadyExists", "code": 409});
            let mut response = Response::new(whole(refusal.to_string()));
            *response.status_mut() = StatusCode::CONFLICT;
            return Ok(response);
        }
        Ok(Response::new(whole(CHANGED.to_owned())))
    }
}

/// Wants one Pod that was changed once, and each time it is asked it thinks of another to delete or to create.
struct Fickle {
    pods: Informer<Pod>,
    asked: AtomicUsize,
}

impl Controller for Fickle {
    fn plan(&self, _: &ObjectKey, _: Timestamp, _: Option<&Failure>) -> Plan {
        let mut plan = Plan::nothing();
        let active: Vec<_> = self.pods.list().into_iter().filter(|pod| crate::pods::is_active(pod)).collect();
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        match active.len() {
            0 => plan.burst(vec![Action::create(&pod(&format!("new-{asked}")))]),
            1 if active[0].metadata.resource_version.as_deref() == Some("1") => plan.then(Action::update(&*active[0])),
            1 => {}
            count => plan.burst(vec![Action::delete(&*active[asked % count])]),
        }
        plan
    }
}

fn pod(name: &str) -> Pod {
    crate::testing::object(&format!(
        "{{metadata: {{name: {name}, namespace: d, uid: {name}, resourceVersion: '1'}}, status: {{phase: Running}}}}"
    ))
}

/// Begins with these Pods, and sees that `shown` of the first write is seen only after some seconds.
async fn check(pods: &[Pod], shown: Value, expected: &[&str]) {
    let (watch, events) = mpsc::unbounded_channel();
    let writes = Arc::new(Mutex::new(Vec::new()));
    let server = Lossy { pods: json!(pods), writes: writes.clone(), events: Mutex::new(Some(events)) };
    let client = Client::new(Arc::new(server), "test");
    let informers = Informers::new(client.clone());
    let mut setup = Setup::new(&informers, Arc::new(Ids::seeded(1)));
    let key = ObjectKey::new("d", "owner");
    setup.on_change::<Pod>(|_| vec![ObjectKey::new("d", "owner")]);
    let controller = Fickle { pods: setup.informer(), asked: AtomicUsize::new(0) };
    let queue = setup.queue.clone();
    let running = tokio::spawn(Runner::run("test", setup, Arc::new(controller), client, Arc::new(SystemClock::new())));
    queue.add(key.clone());
    tokio::time::sleep(Duration::from_secs(5)).await;
    queue.add(key.clone());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(*writes.lock(), expected, "before it is seen");
    watch.send(Bytes::from(format!("{shown}\n"))).expect("the informer watches");
    queue.add(key);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(*writes.lock(), expected, "when it is seen");
    running.abort();
    informers.end();
}

fn changed(name: &str) -> Pod {
    let mut pod = pod(name);
    pod.metadata.resource_version = Some("3".to_owned());
    pod
}

#[tokio::test(start_paused = true)]
async fn a_deletion_whose_answer_is_lost_is_made_again_and_no_other_in_its_place() {
    let mut ending = json!(changed("a"));
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-31T12:00:00Z");
    let shown = json!({"type": "MODIFIED", "object": ending});
    check(&[pod("a"), changed("b")], shown, &["DELETE a", "DELETE a"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_creation_whose_answer_is_lost_is_made_again_under_the_same_name() {
    let shown = json!({"type": "ADDED", "object": changed("new-0")});
    check(&[], shown, &["POST new-0", "POST new-0"]).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_change_whose_answer_is_lost_nothing_is_planned_until_it_is_seen() {
    let shown = json!({"type": "MODIFIED", "object": changed("a")});
    check(&[pod("a")], shown, &["PUT a"]).await;
}

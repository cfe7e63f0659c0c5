//! What was asked of the server, by whom and with what outcome, written down as the user's policy has it: to a log
//! file, to a program of the user's, or both.
//! See <https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/>.

mod batch;
mod event;
pub mod log;
pub mod policy;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::clock::{SharedClock, rfc3339_micro};
use skiff_kinds::protobuf;
use skiff_object::Object;
use skiff_object::meta::Meta;
use skiff_object::node::{Format, Node};

use self::event::{Event, ObjectReference, User};
use self::policy::{Level, Policy, Ruling, Stage};
use crate::call::UserInfo;
use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::http::body;
use crate::http::request::RequestInfo;
use crate::serve::PeerAddress;
pub use crate::webhook::remote::Settings as Remote;

/// How much of a client's name for itself is kept.
const AGENT_LIMIT_BYTES: usize = 1024;

/// What is written down, and where.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What is written down of which requests.
    pub policy: Policy,
    /// The log file.
    pub log: Option<log::Settings>,
    /// The program that gets the records.
    pub webhook: Option<Remote>,
}

/// Writes records.
pub struct Auditor {
    policy: Policy,
    log: Option<log::Log>,
    webhook: Option<batch::Batches>,
    clock: SharedClock,
}

/// What a request's head tells before anybody looked at who makes it.
#[derive(Clone)]
pub struct Head {
    audit_id: String,
    uri: String,
    source_ips: Vec<String>,
    user_agent: String,
    received: String,
}

impl Auditor {
    /// Opens the log and starts to send; must be called within a runtime.
    ///
    /// # Errors
    /// The log cannot be opened.
    pub fn start(settings: Settings, clock: SharedClock) -> io::Result<Self> {
        let log = settings.log.map(|log| log::Log::open(log, clock.clone())).transpose()?;
        Ok(Self { policy: settings.policy, log, webhook: settings.webhook.map(batch::Batches::start), clock })
    }

    /// Notes a request that has just come.
    pub fn note(&self, parts: &http::request::Parts, audit_id: &str) -> Head {
        let peer = parts.extensions.get::<PeerAddress>().map(|peer| peer.0.ip().to_string());
        let agent = text(&parts.headers, USER_AGENT.as_str());
        let cut = agent.floor_char_boundary(AGENT_LIMIT_BYTES);
        let shortened = if cut < agent.len() { "...TRUNCATED" } else { "" };
        Head {
            audit_id: audit_id.to_owned(),
            uri: parts.uri.path_and_query().map_or("/", |uri| uri.as_str()).to_owned(),
            source_ips: source_ips(&parts.headers, peer),
            user_agent: format!("{}{shortened}", &agent[..cut]),
            received: rfc3339_micro(self.clock.now()),
        }
    }

    /// Begins the record of a request, and writes down that it came; `None` where the policy wants nothing of it.
    pub fn begin(self: &Arc<Self>, head: &Head, user: &UserInfo, info: &RequestInfo) -> Option<Arc<Trail>> {
        let ruling = self.policy.rule(user, info);
        if ruling.level == Level::None {
            return None;
        }
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: ruling.level,
            audit_id: head.audit_id.clone(),
            stage: Stage::RequestReceived,
            request_uri: head.uri.clone(),
            verb: info.verb.clone(),
            user: User::from(user),
            impersonated_user: None,
            source_ips: head.source_ips.clone(),
            user_agent: head.user_agent.clone(),
            object_ref: ObjectReference::of(info),
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: head.received.clone(),
            stage_timestamp: String::new(),
            annotations: Default::default(),
        };
        let trail = Trail { auditor: self.clone(), ruling, event: Mutex::new(event), last: Stage::ResponseComplete };
        trail.write(Stage::RequestReceived);
        Some(Arc::new(trail))
    }

    /// Writes down that nobody knows who made a request, though it said so.
    pub fn refused(self: &Arc<Self>, head: &Head, info: &RequestInfo, headers: &HeaderMap) -> Option<Arc<Trail>> {
        let trail = self.begin(head, &UserInfo::default(), info)?;
        let bearer = headers.contains_key(http::header::AUTHORIZATION);
        let how = if bearer { "bearer" } else { "x509" };
        let message = format!("Authentication failed, attempted: {how}");
        trail.event.lock().response_status = Some(json!({"metadata": {}, "message": message}));
        let mut trail = Arc::into_inner(trail)?;
        trail.last = Stage::ResponseStarted;
        Some(Arc::new(trail))
    }

    fn write(&self, event: &Event) {
        let record = match serde_json::to_vec(event) {
            Ok(record) => Bytes::from(record),
            Err(error) => return tracing::error!(%error, "an audit record cannot be encoded"),
        };
        if let Some(log) = &self.log
            && let Err(error) = log.write(&record)
        {
            tracing::error!(%error, "an audit record is lost");
        }
        if let Some(webhook) = &self.webhook
            && let Err(why) = webhook.add(record)
        {
            tracing::error!(why, "an audit record is lost");
        }
    }
}

/// The record of one request while it is under way. The last stage is written down when nothing holds it any more:
/// whatever becomes of a request, its end is told.
pub struct Trail {
    auditor: Arc<Auditor>,
    ruling: Ruling,
    event: Mutex<Event>,
    last: Stage,
}

impl Trail {
    /// Tells as whom the user acts.
    pub fn impersonated(&self, user: &UserInfo) {
        self.event.lock().impersonated_user = Some(User::from(user));
    }

    /// Adds a note; the first of a key counts.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.event.lock().annotations.entry(key.into()).or_insert_with(|| value.into());
    }

    /// Whether objects are written down, and what changes them may be.
    pub fn has_objects(&self) -> bool {
        self.ruling.level >= Level::Request
    }

    /// Tells whether the user was let do it, and why.
    pub fn authorized(&self, outcome: &Result<String>) {
        let (decision, reason) = match outcome {
            Ok(reason) => ("allow", reason.as_str()),
            Err(_) => ("forbid", ""),
        };
        self.annotate("authorization.k8s.io/decision", decision);
        self.annotate("authorization.k8s.io/reason", reason);
    }

    /// Tells what was sent. What the object says of itself completes what the path says of it.
    pub fn requested(&self, media: &str, body: &[u8]) {
        let Some(mut object) = read(media, body) else { return };
        let mut event = self.event.lock();
        if let Some(reference) = &mut event.object_ref {
            let empty_or = |own: &mut String, value: &str| {
                if own.is_empty() {
                    value.clone_into(own);
                }
            };
            empty_or(&mut reference.namespace, object.str_at(&["metadata", "namespace"]));
            empty_or(&mut reference.name, object.str_at(&["metadata", "name"]));
            empty_or(&mut reference.uid, object.str_at(&["metadata", "uid"]));
            empty_or(&mut reference.resource_version, object.str_at(&["metadata", "resourceVersion"]));
        }
        if self.has_objects() {
            self.shorten(&mut object);
            event.request_object = Some(object);
        }
    }

    /// Tells that the answer to a request that goes on has begun.
    pub fn started(&self, code: u16) {
        self.event.lock().response_status.get_or_insert_with(|| json!({"metadata": {}}))["code"] = code.into();
        self.write(Stage::ResponseStarted);
    }

    /// Tells what was answered, and gives the answer back.
    pub async fn answered(&self, answer: Answer) -> Answer {
        let code = answer.status().as_u16();
        self.event.lock().response_status.get_or_insert_with(|| json!({"metadata": {}}))["code"] = code.into();
        let is_delete = self.event.lock().verb.starts_with("delete");
        let may_be_status = code >= 400 || is_delete;
        let whole = answer.body().size_hint().exact().is_some();
        if !whole || !(may_be_status || self.ruling.level == Level::RequestResponse) {
            return answer;
        }
        let (parts, sent) = answer.into_parts();
        let bytes = match sent.collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) => {
                tracing::debug!(%error, "an answer that was all there cannot be read");
                Bytes::new()
            }
        };
        self.told(&parts.headers, &bytes);
        Answer::from_parts(parts, body::full(bytes))
    }

    fn told(&self, headers: &HeaderMap, bytes: &Bytes) {
        let zipped = headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) == Some(b"gzip");
        let plain = if zipped { answer::gunzip(bytes).ok().map(Bytes::from) } else { Some(bytes.clone()) };
        let media = text(headers, CONTENT_TYPE.as_str());
        let media = media.split(';').next().unwrap_or("").trim();
        let Some(mut object) = plain.and_then(|plain| read(media, &plain)) else { return };
        let mut event = self.event.lock();
        if object.str_at(&["kind"]) == "Status" && object.str_at(&["apiVersion"]) == "v1" {
            let status = event.response_status.get_or_insert_with(|| json!({"metadata": {}}));
            for field in ["status", "message", "reason", "details", "code"] {
                if let Some(value) = object.get(field) {
                    status[field] = value.clone();
                }
            }
        }
        if self.ruling.level == Level::RequestResponse {
            self.shorten(&mut object);
            event.response_object = Some(object);
        }
    }

    /// Takes out the owners of fields where the policy does not want them.
    fn shorten(&self, object: &mut Object) {
        if !self.ruling.without_managed_fields {
            return;
        }
        let drop_from = |object: &mut Value| {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        };
        drop_from(object);
        object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(drop_from);
    }

    fn write(&self, stage: Stage) {
        if self.ruling.omitted.contains(&stage) {
            return;
        }
        let mut event = self.event.lock();
        event.stage = stage;
        event.stage_timestamp = rfc3339_micro(self.auditor.clock.now());
        self.auditor.write(&event);
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = "APIServer panic'd";
            self.event.lock().response_status = Some(
                json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": text, "code": 500}),
            );
            return self.write(Stage::Panic);
        }
        self.write(self.last);
    }
}

/// Ends the record of a request, or lets what goes on hold it.
pub async fn tell(trail: Arc<Trail>, answer: Answer, goes_on: bool) -> Answer {
    if !goes_on {
        return trail.answered(answer).await;
    }
    trail.started(answer.status().as_u16());
    let (parts, body) = answer.into_parts();
    Answer::from_parts(parts, body::holding(body, trail))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// The addresses that a request came by: those that proxies tell of, then the connection's own.
fn source_ips(headers: &HeaderMap, peer: Option<String>) -> Vec<String> {
    let forwarded = text(headers, "x-forwarded-for").split(',').chain([text(headers, "x-real-ip")]);
    let told = forwarded.map(str::trim).filter(|ip| ip.parse::<std::net::IpAddr>().is_ok()).map(str::to_owned);
    let mut all: Vec<String> = told.collect();
    if let Some(peer) = peer.filter(|peer| all.last() != Some(peer)) {
        all.push(peer);
    }
    all
}

/// A body as a tree, in whichever form it is; `None` where it is none.
fn read(media: &str, body: &[u8]) -> Option<Value> {
    if body.is_empty() {
        return None;
    }
    if media == protobuf::MEDIA_TYPE {
        return protobuf::tree(body).ok();
    }
    let format = if media.contains("yaml") { Format::Yaml } else { Format::Json };
    Node::parse(body, format).ok().map(Node::into_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_tell_where_a_request_comes_from() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("10.0.0.1, nonsense,fd00::1"));
        headers.insert("x-real-ip", HeaderValue::from_static("10.0.0.2"));
        let ips = source_ips(&headers, Some("10.0.0.2".to_owned()));
        assert_eq!(ips, ["10.0.0.1", "fd00::1", "10.0.0.2"]);
        assert_eq!(source_ips(&HeaderMap::new(), None), Vec::<String>::new());
    }

    #[test]
    fn bodies_are_read_in_every_form() {
        assert_eq!(read("application/json", b"[1]"), Some(json!([1])));
        assert_eq!(read("application/apply-patch+yaml", b"a: 1"), Some(json!({"a": 1})));
        assert_eq!(read("text/plain", b"ok"), None);
        assert_eq!(read("", b""), None);
    }
}

//! The verbs of the API. The work is done on bytes, once for all kinds; the typed methods only decode.

use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{Method, Request, Response, header};
use http_body_util::{BodyDataStream, BodyExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use skiff_object::{Reason, Status};

use crate::{Body, Error, Kind, Resource, Transport, TransportError, WatchEvent};

/// The largest answer that is read into memory; watches are not bounded by it.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// The longest single event of a watch; twice what an object may measure.
const MAX_EVENT_BYTES: usize = 8 << 20;

/// A client with one identity. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: Arc<str>,
}

/// How a list or watch is narrowed.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// `app=web`.
    pub label_selector: String,
    /// `spec.nodeName=n1`.
    pub field_selector: String,
    /// Empty for the most recent state.
    pub resource_version: String,
    /// The most items in one answer; 0 for all.
    pub limit: u32,
    /// Where the last answer left off.
    pub continue_token: String,
}

/// How a watch is narrowed and where it starts.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// `app=web`.
    pub label_selector: String,
    /// `spec.nodeName=n1`.
    pub field_selector: String,
    /// The revision after which events are wanted; empty starts with the present state.
    pub resource_version: String,
}

/// How an object is deleted.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Seconds that a Pod has to end; `None` leaves it to the Pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<&'static str>,
    /// Delete only the object that is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
}

/// What must hold of an object for it to be deleted.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// Its UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Its resourceVersion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// Deletes only the object with this UID.
    pub fn of_uid(uid: impl Into<String>) -> Self {
        let preconditions = Preconditions { uid: Some(uid.into()), resource_version: None };
        Self { preconditions: Some(preconditions), ..Self::default() }
    }
}

/// A change to part of an object.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902.
    Json(serde_json::Value),
    /// RFC 7386.
    Merge(serde_json::Value),
    /// Kubernetes' own, which merges lists by key.
    Strategic(serde_json::Value),
}

/// A list answer.
#[derive(Debug, Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
pub struct ObjectList<K> {
    /// Revision and continuation.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The objects.
    #[serde(default = "Vec::new", deserialize_with = "null_is_empty")]
    pub items: Vec<K>,
}

fn null_is_empty<'de, D, K>(deserializer: D) -> Result<Vec<K>, D::Error>
where
    D: serde::Deserializer<'de>,
    K: DeserializeOwned,
{
    Ok(Option::<Vec<K>>::deserialize(deserializer)?.unwrap_or_default())
}

/// The events of a watch; ends when the server ends it.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Error>> + Send>>;

impl Client {
    /// A client over `transport`; `user_agent` names the part, `kube-scheduler`.
    pub fn new(transport: Arc<dyn Transport>, user_agent: impl Into<Arc<str>>) -> Self {
        Self { transport, user_agent: user_agent.into() }
    }

    /// Sends a request as it is; a refusal comes back as [`Error::Api`].
    ///
    /// # Errors
    /// The server refused or was not reached.
    pub async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Body>, Error> {
        let agent =
            header::HeaderValue::from_str(&self.user_agent).map_err(|error| Error::decode("user agent", error))?;
        request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
        let response = self.transport.send(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let body = read_all(response).await?;
        let status = serde_json::from_slice::<Status>(&body)
            .unwrap_or_else(|_| Status::failure(code, reason_of(code), String::from_utf8_lossy(&body).into_owned()));
        Err(Error::Api(Box::new(status)))
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Bytes, Error> {
        let response = self.send(request).await?;
        Ok(read_all(response).await?)
    }

    /// `GET path`, decoded.
    ///
    /// # Errors
    /// The server refused, was not reached, or answered something else.
    pub async fn get_path<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        decode(path, &self.exchange(build(Method::GET, path, None, Bytes::new())?).await?)
    }

    /// Sends JSON with any method, decoding the answer.
    ///
    /// # Errors
    /// As [`Client::get_path`].
    pub async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        decode(path, &self.exchange(build(method, path, Some("application/json"), encode(path, body)?)?).await?)
    }

    /// Reads one object.
    ///
    /// # Errors
    /// As [`Client::get_path`].
    pub async fn get<K: Kind>(&self, namespace: &str, name: &str) -> Result<K, Error> {
        self.get_path(&K::resource().object_path(namespace, name, "")).await
    }

    /// Reads a collection; an empty namespace means all of them.
    ///
    /// # Errors
    /// As [`Client::get_path`].
    pub async fn list<K: Kind>(&self, namespace: &str, options: &ListOptions) -> Result<ObjectList<K>, Error> {
        self.get_path(&format!("{}{}", K::resource().path(namespace), options.query())).await
    }

    /// Creates an object in its own namespace.
    ///
    /// # Errors
    /// As [`Client::get_path`].
    pub async fn create<K: Kind>(&self, object: &K) -> Result<K, Error> {
        let namespace = object.metadata().namespace.as_deref().unwrap_or("");
        self.send_json(Method::POST, &K::resource().path(namespace), object).await
    }

    /// Replaces an object.
    ///
    /// # Errors
    /// As [`Client::get_path`]; a conflict where the object carries an old resourceVersion.
    pub async fn update<K: Kind>(&self, object: &K) -> Result<K, Error> {
        self.update_subresource(object, "").await
    }

    /// Replaces an object's status.
    ///
    /// # Errors
    /// As [`Client::update`].
    pub async fn update_status<K: Kind>(&self, object: &K) -> Result<K, Error> {
        self.update_subresource(object, "status").await
    }

    async fn update_subresource<K: Kind>(&self, object: &K, subresource: &str) -> Result<K, Error> {
        let meta = object.metadata();
        let (namespace, name) = (meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
        self.send_json(Method::PUT, &K::resource().object_path(namespace, name, subresource), object).await
    }

    /// Changes part of an object, or of a subresource where that is not empty.
    ///
    /// # Errors
    /// As [`Client::get_path`].
    pub async fn patch<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Patch,
    ) -> Result<K, Error> {
        let path = K::resource().object_path(namespace, name, subresource);
        decode(&path, &self.patch_raw(&path, patch).await?)
    }

    /// Changes part of the object at a path, leaving the answer as it came.
    ///
    /// # Errors
    /// As [`Client::get_path`].
    pub async fn patch_raw(&self, path: &str, patch: &Patch) -> Result<Bytes, Error> {
        let (media, body) = match patch {
            Patch::Json(body) => ("application/json-patch+json", body),
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
        };
        self.exchange(build(Method::PATCH, path, Some(media), encode(path, body)?)?).await
    }

    /// Deletes an object. The answer (the object, or a Status) is dropped.
    ///
    /// # Errors
    /// As [`Client::get_path`].
    pub async fn delete<K: Kind>(&self, namespace: &str, name: &str, options: &DeleteOptions) -> Result<(), Error> {
        self.delete_path(&K::resource().object_path(namespace, name, ""), options).await
    }

    /// Deletes the object, or the whole collection, at a path.
    ///
    /// # Errors
    /// As [`Client::get_path`].
    pub async fn delete_path(&self, path: &str, options: &DeleteOptions) -> Result<(), Error> {
        let body = encode(path, options)?;
        self.exchange(build(Method::DELETE, path, Some("application/json"), body)?).await.map(drop)
    }

    /// Watches a collection. `accept` is the media type to ask for, mostly `application/json`.
    ///
    /// # Errors
    /// As [`Client::get_path`]; a compacted revision comes as an `ERROR` event or as [`Error::is_expired`].
    pub async fn watch(
        &self,
        resource: &Resource,
        namespace: &str,
        options: &WatchOptions,
        accept: &str,
    ) -> Result<WatchStream, Error> {
        let path = format!("{}{}", resource.path(namespace), options.query());
        let mut request = build(Method::GET, &path, None, Bytes::new())?;
        set_accept(&mut request, accept)?;
        let response = self.send(request).await?;
        Ok(Box::pin(lines(path, response.into_body())))
    }

    /// Reads a collection as a tree of still encoded objects.
    pub(crate) async fn list_raw(
        &self,
        resource: &Resource,
        namespace: &str,
        options: &ListOptions,
        accept: &str,
    ) -> Result<ObjectList<Box<RawValue>>, Error> {
        let path = format!("{}{}", resource.path(namespace), options.query());
        let mut request = build(Method::GET, &path, None, Bytes::new())?;
        set_accept(&mut request, accept)?;
        decode(&path, &self.exchange(request).await?)
    }
}

fn set_accept(request: &mut Request<Bytes>, accept: &str) -> Result<(), Error> {
    let value = header::HeaderValue::from_str(accept).map_err(|error| Error::decode("accept header", error))?;
    request.headers_mut().insert(header::ACCEPT, value);
    Ok(())
}

fn build(method: Method, path: &str, media: Option<&str>, body: Bytes) -> Result<Request<Bytes>, Error> {
    let mut builder = Request::builder().method(method).uri(path).header(header::ACCEPT, "application/json");
    if let Some(media) = media {
        builder = builder.header(header::CONTENT_TYPE, media);
    }
    builder.body(body).map_err(|error| Error::decode(format!("request path {path:?}"), error))
}

fn encode(what: &str, value: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Error::decode(what, error))
}

pub(crate) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::decode(what, error))
}

async fn read_all(response: Response<Body>) -> Result<Bytes, TransportError> {
    let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    let collected = limited.collect().await.map_err(|error| TransportError::new("read answer", error))?;
    Ok(collected.to_bytes())
}

/// Splits a body into lines and reads each as a watch event.
fn lines(path: String, body: Body) -> impl Stream<Item = Result<WatchEvent, Error>> + Send {
    let lines =
        Lines { path, body: body.into_data_stream(), rest: Bytes::new(), begun: BytesMut::new(), has_failed: false };
    stream::unfold(lines, Lines::next)
}

/// The lines of a body. A piece that has whole lines is not copied.
struct Lines {
    path: String,
    body: BodyDataStream<Body>,
    /// What is still to be looked at of the last piece.
    rest: Bytes,
    /// The beginning of a line that earlier pieces had.
    begun: BytesMut,
    has_failed: bool,
}

impl Lines {
    async fn next(mut self) -> Option<(Result<WatchEvent, Error>, Self)> {
        loop {
            while let Some(line) = self.line() {
                if !line.is_empty() {
                    return Some((WatchEvent::read(&self.path, line), self));
                }
            }
            if self.has_failed {
                return None;
            }
            let failure: Error = match self.body.next().await? {
                Ok(bytes) if self.begun.len() + bytes.len() <= MAX_EVENT_BYTES => {
                    self.rest = bytes;
                    continue;
                }
                Ok(_) => Error::decode(&self.path, format!("an event is longer than {MAX_EVENT_BYTES} bytes")),
                Err(error) => TransportError::new(format!("watch {}", self.path), error).into(),
            };
            self.has_failed = true;
            return Some((Err(failure), self));
        }
    }

    /// The next whole line, without its end; where there is none, what is left is kept as the beginning of one.
    fn line(&mut self) -> Option<Bytes> {
        let Some(end) = memchr::memchr(b'\n', &self.rest) else {
            self.begun.extend_from_slice(&std::mem::take(&mut self.rest));
            return None;
        };
        let line = self.rest.split_to(end);
        self.rest.advance(1);
        if self.begun.is_empty() {
            return Some(line);
        }
        self.begun.extend_from_slice(&line);
        Some(std::mem::take(&mut self.begun).freeze())
    }
}

fn query(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(byte as char),
                other => text.push_str(&format!("%{other:02X}")),
            }
        }
    }
    text
}

impl ListOptions {
    fn query(&self) -> String {
        let limit = if self.limit == 0 { String::new() } else { self.limit.to_string() };
        query(&[
            ("labelSelector", &self.label_selector),
            ("fieldSelector", &self.field_selector),
            ("resourceVersion", &self.resource_version),
            ("limit", &limit),
            ("continue", &self.continue_token),
        ])
    }
}

impl WatchOptions {
    fn query(&self) -> String {
        query(&[
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("labelSelector", &self.label_selector),
            ("fieldSelector", &self.field_selector),
            ("resourceVersion", &self.resource_version),
        ])
    }
}

/// The reason that a code stands for where the answer is no Status: paths below which nothing is served say so in words.
fn reason_of(code: u16) -> Reason {
    match code {
        401 => Reason::Unauthorized,
        403 => Reason::Forbidden,
        404 => Reason::NotFound,
        405 => Reason::MethodNotAllowed,
        429 => Reason::TooManyRequests,
        503 => Reason::ServiceUnavailable,
        _ => Reason::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        let options = ListOptions { label_selector: "app in (a,b)".into(), limit: 5, ..Default::default() };
        assert_eq!(options.query(), "?labelSelector=app%20in%20%28a%2Cb%29&limit=5");
        assert_eq!(ListOptions::default().query(), "");
    }

    #[tokio::test]
    async fn events_are_split_at_line_ends_wherever_the_chunks_end() {
        let chunks = [&b"{\"type\":\"ADDED\",\"obj"[..], b"ect\":{}}\n{\"type\":\"DELETED\",\"object\":{}}\n"];
        let frames = chunks.map(|chunk| Ok(http_body::Frame::data(Bytes::from_static(chunk))));
        let body = http_body_util::StreamBody::new(stream::iter(frames)).boxed_unsync();
        let kinds: Vec<_> = lines("/x".into(), body).map(|event| event.expect("valid").kind).collect().await;
        assert_eq!(kinds, ["ADDED", "DELETED"]);
    }
}

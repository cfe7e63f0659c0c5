//! Watches: what was there or had happened, then every change as it comes, with bookmarks, until the time is up.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use serde_json::{Value, json};
use skiff_base::clock::SharedClock;
use skiff_kinds::protobuf;
use skiff_object::{Object, Status};
use skiff_store::Revision;
use tokio::time::Sleep;

use crate::call::Call;
use crate::custom::convert;
use crate::failure::Result;
use crate::http::answer::Answer;
use crate::http::body::{self, BoxError};
use crate::http::negotiate::{self, Accepted, Include, Media, Shape};
use crate::read::options::ListOptions;
use crate::read::{list, present, socket};
use crate::server::ApiServer;
use crate::storage::cache::{Start, Subscription};
use crate::storage::catalogue::Served;
use crate::storage::events::{Batch, Event, Form, Happened, Message, joined};
use crate::storage::filter::Filter;
use crate::storage::hub::Hub;

/// A watch without a time limit of its own ends after this long, and at most twice as long, as upstream's.
const MIN_TIMEOUT_SECONDS: u64 = 1800;
/// Events that are there already are sent together up to about this size.
const PIECE_BYTES: usize = 64 * 1024;
/// Events that wait are sent together up to about this size: a frame of HTTP/2 and a record of TLS hold no more, and what
/// is copied is still in the processor's cache when it is encrypted.
const LIVE_PIECE_BYTES: usize = 16 * 1024;
/// A larger piece is sent as it is: all watchers share it, and copying it costs more than a frame of its own.
const JOINED_PIECE_BYTES: usize = 4 * 1024;

/// Answers a watch, over a WebSocket where the client wants to go on with one.
pub async fn watch(server: &Arc<ApiServer>, call: &Call, parts: &mut Parts) -> Result<Answer> {
    let media_type = negotiate::stream_type(&call.accepted)?;
    let events = match open(server, call).await? {
        Opened::Feed(feed) => stream::unfold(feed, Feed::next).left_stream(),
        Opened::Refused(event) => stream::iter([Ok(event)]).right_stream(),
    };
    if socket::is_wanted(&call.headers) {
        return socket::events(&call.headers, parts.extensions.remove::<OnUpgrade>(), call.accepted.media, events);
    }
    Ok(streaming(media_type, events))
}

/// A watch that was begun.
enum Opened {
    Feed(Box<Feed>),
    /// One event says why not.
    Refused(Bytes),
}

async fn open(server: &Arc<ApiServer>, call: &Call) -> Result<Opened> {
    let filter = list::filter_of(call)?;
    let options = ListOptions::of_watch(&call.query)?;
    let revision = options.watch_revision(&call.served.def.group_resource())?;
    let (start, initial_end) = start_of(&options, revision);
    let reached = match revision {
        Some(revision) if options.initial_events == Some(true) => server.hub.wait_for(revision).await?,
        // A revision that is still to come is waited for in silence, as by upstream.
        Some(_) => server.hub.reached(),
        None => server.hub.fresh().await?,
    };
    let timeout = match options.timeout_seconds {
        0 => Duration::from_secs(MIN_TIMEOUT_SECONDS + server.ids().next_u64() % MIN_TIMEOUT_SECONDS),
        seconds => Duration::from_secs(seconds),
    };
    let mut converter = Converter::of(server, call, &filter).await?;
    let filter = if converter.is_some() { filter.without_own_fields() } else { filter };
    let mut subscription = match call.served.cache.subscribe(start, filter, options.bookmarks, reached) {
        Ok(subscription) => subscription,
        Err(failure) if failure.0.code == 410 => return Ok(Opened::Refused(refused(call, reached))),
        Err(failure) => return Err(failure),
    };
    if let Some(converter) = &mut converter {
        let mut shown = Vec::with_capacity(subscription.initial.len());
        for event in &subscription.initial {
            shown.extend(converter.view(event).await?);
        }
        subscription.initial = shown;
    }
    let mut encoder = Encoder::new(call, server.clock().clone());
    let after_initial = initial_end.then(|| encoder.bookmark(subscription.revision, true));
    let feed = Feed {
        encoder,
        converter,
        subscription,
        sent: 0,
        after: if let Start::After(revision) = start { revision } else { 0 },
        after_initial,
        deadline: Box::pin(tokio::time::sleep(timeout)),
        last_bookmark: options.bookmarks.then(|| server.hub.clone()),
    };
    Ok(Opened::Feed(Box::new(feed)))
}

/// Where the watch begins, and whether a bookmark marks the end of what was there.
fn start_of(options: &ListOptions, revision: Option<u64>) -> (Start, bool) {
    match (options.initial_events, revision) {
        (Some(true), _) => (Start::Everything, options.bookmarks),
        (_, None | Some(0)) => (Start::Now, false),
        (_, Some(revision)) => (Start::After(revision), false),
    }
}

/// A watch from a forgotten revision is told so by an event, as upstream does.
fn refused(call: &Call, reached: u64) -> Bytes {
    let asked = call.query.text("resourceVersion");
    let status = Status::expired(format!("too old resource version: {asked} ({reached})"));
    frame(call.accepted.media, "ERROR", json!(status))
}

fn streaming(
    media_type: &'static str,
    pieces: impl futures_util::Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
) -> Answer {
    let mut answer = Answer::new(body::stream(pieces));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    answer
}

/// A watch under way.
struct Feed {
    encoder: Encoder,
    converter: Option<Converter>,
    subscription: Subscription,
    /// How many of the initial events were sent.
    sent: usize,
    /// What happened up to this revision is not told.
    after: Revision,
    after_initial: Option<Bytes>,
    deadline: Pin<Box<Sleep>>,
    /// Where a watch wants bookmarks it ends with one, so that the next can begin there.
    last_bookmark: Option<Arc<Hub>>,
}

impl Feed {
    /// Stays where it is: what moves with each step takes room in the step as well.
    async fn next(mut self: Box<Self>) -> Option<(Result<Bytes, BoxError>, Box<Self>)> {
        if let Some(piece) = self.next_initial() {
            return Some((Ok(piece), self));
        }
        let message = tokio::select! {
            biased;
            message = self.subscription.queue.next() => message?,
            () = &mut self.deadline => return self.last().await,
        };
        let mut piece = self.encode(message).await;
        let waiting = self.subscription.queue.taken();
        if waiting > 0 && piece.len() < JOINED_PIECE_BYTES {
            // Those that wait are mostly of one size: a piece that grows is copied each time.
            let capacity = (piece.len() * (waiting + 1)).min(LIVE_PIECE_BYTES + piece.len());
            let mut joined = BytesMut::with_capacity(capacity);
            joined.put_slice(&piece);
            while joined.len() < LIVE_PIECE_BYTES {
                let Some(message) = self.subscription.queue.next_waiting() else { break };
                joined.put_slice(&self.encode(message).await);
            }
            piece = joined.freeze();
        }
        Some((Ok(piece), self))
    }

    /// A message as it is sent: a custom object in the version that is watched.
    async fn encode(&mut self, message: Message) -> Bytes {
        let batch = match message {
            Message::Events(batch) => batch,
            Message::Bookmark(revision) if revision <= self.after => return Bytes::new(),
            Message::Bookmark(revision) => return self.encoder.bookmark(revision, false),
        };
        let is_news = |event: &&Event| event.revision > self.after;
        let is_all_news = batch.events().first().is_some_and(|event| is_news(&event));
        match &mut self.converter {
            None if is_all_news => self.encoder.batch(&batch),
            None => joined(batch.events().iter().filter(is_news).map(|event| self.encoder.event(event))),
            // Apart, so that a watch that waits does not hold the room for it.
            Some(converter) => {
                let news = batch.events().iter().filter(is_news).cloned().collect();
                Box::pin(converted(converter, &mut self.encoder, news)).await
            }
        }
    }

    /// The end of a watch whose time is up.
    async fn last(mut self: Box<Self>) -> Option<(Result<Bytes, BoxError>, Box<Self>)> {
        // All that happened up to this revision is in the queue already.
        let reached = self.last_bookmark.take()?.reached().max(self.after);
        let mut piece = BytesMut::new();
        while let Some(message) = self.subscription.queue.next_waiting() {
            piece.put_slice(&self.encode(message).await);
        }
        piece.put_slice(&self.encoder.bookmark(reached, false));
        Some((Ok(piece.freeze()), self))
    }

    fn next_initial(&mut self) -> Option<Bytes> {
        if self.sent < self.subscription.initial.len() {
            let mut piece = BytesMut::new();
            while piece.len() < PIECE_BYTES && self.sent < self.subscription.initial.len() {
                piece.put_slice(&self.encoder.event(&self.subscription.initial[self.sent]));
                self.sent += 1;
            }
            if self.sent == self.subscription.initial.len() {
                // What was sent need not be kept for as long as the watch lasts.
                self.subscription.initial = Vec::new();
                self.sent = 0;
            }
            return Some(piece.freeze());
        }
        self.after_initial.take()
    }
}

/// Shows custom objects in the version that is watched.
struct Converter {
    server: Weak<ApiServer>,
    served: Arc<Served>,
    /// Where fields of the version's own are selected by: the selection, and the keys of what it selects now.
    selection: Option<(Filter, HashSet<Bytes>)>,
}

impl Converter {
    async fn of(server: &Arc<ApiServer>, call: &Call, filter: &Filter) -> Result<Option<Self>> {
        if call.served.def.custom.is_none() {
            return Ok(None);
        }
        let served = call.served.clone();
        let mut selection = None;
        if filter.has_own_fields() {
            let now = served.cache.select(&filter.without_own_fields());
            let now = convert::entries(server, &served, now).await?;
            let selected = now.iter().filter(|entry| filter.matches(&convert::extracted(&served, entry)));
            selection = Some((filter.clone(), selected.map(|entry| entry.key.clone()).collect()));
        }
        Ok(Some(Self { server: Arc::downgrade(server), served, selection }))
    }

    /// An event as the version shows it; none where it does not concern what is selected.
    async fn view(&mut self, event: &Event) -> Result<Option<Event>> {
        let Some(server) = self.server.upgrade() else { return Ok(Some(event.clone())) };
        let mut entries = convert::entries(&server, &self.served, vec![event.entry.clone()]).await?;
        let mut event = match entries.pop() {
            Some(entry) if !Arc::ptr_eq(&entry, &event.entry) => event.with_entry(entry),
            _ => event.clone(),
        };
        let Some((filter, known)) = &mut self.selection else { return Ok(Some(event)) };
        let is_there = event.happened != Happened::Deleted;
        let now = is_there && filter.matches(&convert::extracted(&self.served, &event.entry));
        let before = if now { !known.insert(event.entry.key.clone()) } else { known.remove(&event.entry.key) };
        let happened = match (before, now) {
            // What was there at the beginning is told as it comes.
            (true, true) if event.happened == Happened::Added => Happened::Added,
            (true, true) => Happened::Modified,
            (false, true) => Happened::Added,
            (true, false) => Happened::Deleted,
            (false, false) => return Ok(None),
        };
        if happened != event.happened {
            event = event.with_entry(event.entry.clone());
            event.happened = happened;
        }
        Ok(Some(event))
    }
}

/// Events of custom objects in the version that is watched.
async fn converted(converter: &mut Converter, encoder: &mut Encoder, events: Vec<Event>) -> Bytes {
    let mut piece = BytesMut::new();
    for event in events {
        match converter.view(&event).await {
            Ok(Some(event)) => piece.put_slice(&encoder.event(&event)),
            Ok(None) => {}
            Err(failure) => piece.put_slice(&frame(encoder.accepted.media, "ERROR", json!(*failure.0))),
        }
    }
    piece.freeze()
}

/// Writes events in the form that the client accepts.
struct Encoder {
    served: Arc<Served>,
    accepted: Accepted,
    form: Form,
    /// Whether the stored bytes are what is sent.
    as_stored: bool,
    clock: SharedClock,
    columns_sent: bool,
}

impl Encoder {
    fn new(call: &Call, clock: SharedClock) -> Self {
        let (served, accepted) = (call.served.clone(), call.accepted);
        let metadata = matches!(accepted.shape, Shape::Metadata { .. });
        let is_own_version = served.def.version == served.cache.def.version && served.conversion.is_none();
        let as_stored = is_own_version && accepted.shape == Shape::Object && accepted.media == Media::Json;
        let version = if accepted.is_beta { "v1beta1".to_owned() } else { served.def.group_version().to_string() };
        let form = Form { version: version.into(), media: accepted.media, metadata };
        Self { served, accepted, form, as_stored, clock, columns_sent: false }
    }

    /// What came together, encoded once for all watchers that see just this.
    fn batch(&mut self, batch: &Batch) -> Bytes {
        if self.as_stored {
            return batch.frame(&self.served.heads);
        }
        if matches!(self.accepted.shape, Shape::Table(_)) {
            return joined(batch.events().iter().map(|event| self.encode(event)));
        }
        let form = self.form.clone();
        batch.frame_in(&form, |event| self.event(event))
    }

    fn event(&mut self, event: &Event) -> Bytes {
        if self.as_stored {
            return event.frame(&self.served.heads);
        }
        // A Table's ages are those of the moment, and its columns are sent once.
        if matches!(self.accepted.shape, Shape::Table(_)) {
            return self.encode(event);
        }
        let form = self.form.clone();
        event.frame_in(&form, || self.encode(event))
    }

    fn encode(&mut self, event: &Event) -> Bytes {
        let (stored, revision) = (&event.entry.value, event.object_revision());
        let decoded = match self.accepted.shape {
            Shape::Metadata { .. } => present::decode_metadata(stored, revision),
            _ => present::decode(&self.served, stored, revision),
        };
        match decoded {
            Ok(object) => frame(self.accepted.media, event.happened.name(), self.shaped(object)),
            Err(failure) => frame(self.accepted.media, "ERROR", json!(*failure.0)),
        }
    }

    fn shaped(&mut self, object: Object) -> Value {
        let shaped = present::shape(&self.served.def, &object, &self.accepted, self.clock.now());
        let Some(mut shaped) = shaped else { return object };
        if matches!(self.accepted.shape, Shape::Table(_)) {
            if self.columns_sent {
                // The client knows the columns from the first event.
                shaped["columnDefinitions"] = Value::Null;
            }
            self.columns_sent = true;
        }
        shaped
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let def = &self.served.def;
        let object = json!({"kind": def.kind, "apiVersion": def.group_version().to_string(), "metadata": metadata});
        let mut shown = match self.accepted.shape {
            Shape::Object => object,
            Shape::Metadata { .. } => present::partial(&object),
            Shape::Table(include) => {
                let row = if include == Include::None { Value::Null } else { present::partial(&object) };
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": null,
                    "metadata": {"resourceVersion": revision.to_string()}, "rows": [{"cells": [], "object": row}]})
            }
        };
        if self.accepted.shape != Shape::Object {
            present::state_version(&mut shown, &self.accepted);
        }
        frame(self.accepted.media, "BOOKMARK", shown)
    }
}

/// One event of a watch as it is sent.
fn frame(media: Media, kind: &str, object: Value) -> Bytes {
    if let (Media::Protobuf, Some(encoded)) = (media, protobuf::encode_any(&object)) {
        return protobuf::encode_event(kind, &encoded).into();
    }
    let mut encoded = present::encode(&json!({"type": kind, "object": object})).to_vec();
    encoded.push(b'\n');
    encoded.into()
}

//! Lists: from the watch cache, or from the store at a named revision; whole or in pages.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>.

use std::io::Write;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use serde_json::json;
use skiff_kinds::protobuf;
use skiff_object::{Object, Status};
use skiff_store::{KeyRange, StoreError};

use crate::call::Call;
use crate::codec;
use crate::custom::convert;
use crate::failure::{Failure, Result};
use crate::http::answer::{self, Answer};
use crate::http::body::{self, Body, Stretches};
use crate::http::negotiate::{Media, Shape};
use crate::read::options::{Continue, ListOptions};
use crate::read::present;
use crate::server::ApiServer;
use crate::storage::cache::Entry;
use crate::storage::filter::Filter;

/// Lists are sent in pieces of about this size.
const PIECE_BYTES: usize = 64 * 1024;
/// How many keys are read from the store at a time while a page is filled.
const STORE_PAGE: usize = 1000;

/// What a client is told whose list began too long ago.
const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can \
    start a new list without the continue parameter, or use the continue token in this response to retrieve the \
    remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were \
    created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// A list, or a page of one.
pub struct Page {
    /// The objects.
    pub entries: Vec<Arc<Entry>>,
    /// The revision at which they stood so.
    pub revision: u64,
    /// The token for the next page, or empty.
    pub next: String,
    /// How many objects are left, where that is known.
    pub remaining: Option<u64>,
}

/// Answers a list.
pub async fn list(server: &ApiServer, call: &Call) -> Result<Answer> {
    let filter = filter_of(call)?;
    let mut page = page(server, call, &filter).await?;
    if !matches!(call.accepted.shape, Shape::Metadata { .. }) {
        page.entries = convert::entries(server, &call.served, page.entries).await?;
    }
    render(call, page).await
}

/// What a request's path and selectors select.
pub fn filter_of(call: &Call) -> Result<Filter> {
    let (query, served) = (&call.query, &call.served);
    let namespace = call.info.namespace_of(&served.def);
    // Each version of a custom kind has fields of its own, which are looked at once objects are in that version.
    let stored = if served.def.custom.is_some() { &served.def } else { &served.cache.def };
    let mut filter =
        Filter::new(stored, &served.def, namespace, query.text("labelSelector"), query.text("fieldSelector"))?;
    if !call.info.name.is_empty() {
        if filter.name.as_ref().is_some_and(|name| *name != call.info.name) {
            return Err(Status::bad_request("fieldSelector metadata.name doesn't match requested name").into());
        }
        filter.name = Some(call.info.name.clone());
    }
    Ok(filter)
}

/// Finds the page that a request asks for; of custom objects in the version that it names.
pub async fn page(server: &ApiServer, call: &Call, filter: &Filter) -> Result<Page> {
    if call.served.def.custom.is_none() || !filter.has_own_fields() {
        return stored_page(server, call, filter).await;
    }
    let mut page = stored_page(server, call, &filter.without_own_fields()).await?;
    let entries = convert::entries(server, &call.served, page.entries).await?;
    page.entries = entries.iter().map(|entry| convert::extracted(&call.served, entry)).collect();
    page.entries.retain(|entry| filter.matches(entry));
    page.remaining = None;
    Ok(page)
}

/// Finds the page that a request asks for, of objects as they are stored.
async fn stored_page(server: &ApiServer, call: &Call, filter: &Filter) -> Result<Page> {
    let options = ListOptions::of_list(&call.query)?;
    if let Some(from) = options.next_page()? {
        return next_page(server, call, filter, from, options.limit).await;
    }
    let revision = options.revision()?;
    if let (true, Some(revision)) = (options.is_exact(revision), revision) {
        return exact_page(server, call, filter, revision, "", options.limit).await;
    }
    let reached = match revision {
        None => server.hub.fresh().await?,
        Some(revision) => server.hub.wait_for(revision).await?,
    };
    // Whoever takes any state takes all of it, as from upstream's cache.
    let limit = if revision == Some(0) { 0 } else { options.limit };
    call.served.cache.check_readable()?;
    let (mut entries, revision) = call.served.cache.list(filter, reached);
    let (mut next, mut remaining) = (String::new(), None);
    if limit > 0 && entries.len() > limit {
        remaining = filter.is_unselective().then_some((entries.len() - limit) as u64);
        entries.truncate(limit);
        next = token(call, revision, entries.last());
    }
    Ok(Page { entries, revision, next, remaining })
}

/// The token that leads behind the last object of a page.
fn token(call: &Call, revision: u64, last: Option<&Arc<Entry>>) -> String {
    let prefix = call.served.cache.prefix.len();
    let last = last.map_or("", |entry| std::str::from_utf8(&entry.key[prefix..]).unwrap_or(""));
    Continue::new(i64::try_from(revision).unwrap_or(i64::MAX), format!("{last}\0")).encode()
}

/// The page that follows another; where its state is forgotten, the client is told how to go on without it.
async fn next_page(server: &ApiServer, call: &Call, filter: &Filter, from: Continue, limit: usize) -> Result<Page> {
    let revision = match u64::try_from(from.rv) {
        Ok(revision) => revision,
        Err(_) => server.store().revision().await?,
    };
    exact_page(server, call, filter, revision, &from.start, limit).await.map_err(|mut failure| {
        if failure.0.code == 410 {
            failure.0.message = CONTINUE_EXPIRED.to_owned();
            failure.0.metadata.insert("continue".into(), Continue::new(-1, from.start).encode().into());
        }
        failure
    })
}

/// A page of the state at one revision, from the store's history.
async fn exact_page(
    server: &ApiServer,
    call: &Call,
    filter: &Filter,
    revision: u64,
    start: &str,
    limit: usize,
) -> Result<Page> {
    let cache = &call.served.cache;
    let scope = match &filter.namespace {
        Some(namespace) => format!("{}{namespace}/", cache.prefix),
        None => cache.prefix.clone(),
    };
    let mut range = KeyRange::prefix(scope);
    if !start.is_empty() {
        range.start = range.start.max(Bytes::from(format!("{}{start}", cache.prefix)));
    }
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    if range.start >= range.end {
        // The token stems from another namespace, behind this one.
        return Ok(Page { entries, revision, next: String::new(), remaining: None });
    }
    loop {
        let chunk = if limit == 0 { STORE_PAGE } else { STORE_PAGE.min(limit - entries.len() + 1) };
        let result = server.store().range(&range, Some(revision), chunk).await.map_err(page_error)?;
        let more = result.remaining > 0;
        if let Some(last) = result.items.last() {
            range.start = [last.key.as_ref(), b"\0"].concat().into();
        }
        for (index, pair) in result.items.iter().enumerate() {
            let entry = cache.entry(pair.clone());
            entry.check_readable()?;
            if !filter.matches(&entry) {
                continue;
            }
            if limit > 0 && entries.len() == limit {
                let left = (result.items.len() - index) as u64 + result.remaining;
                let remaining = filter.is_unselective().then_some(left);
                let next = token(call, revision, entries.last());
                return Ok(Page { entries, revision, next, remaining });
            }
            entries.push(entry);
        }
        if !more {
            return Ok(Page { entries, revision, next: String::new(), remaining: None });
        }
    }
}

fn page_error(error: StoreError) -> Failure {
    match error {
        StoreError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old.").into(),
        other => other.into(),
    }
}

/// Writes a page in the shape that the client accepts.
async fn render(call: &Call, page: Page) -> Result<Answer> {
    if call.accepted.shape == (Shape::Metadata { list: false }) {
        return Err(present::not_in_shape(call, "PartialObjectMetadata, but the requested object is a list", "List"));
    }
    let as_stored = call.accepted.shape == Shape::Object && call.served.conversion.is_none();
    match call.accepted.media {
        Media::Json if as_stored && !call.accepted.pretty => Ok(raw(call, page)),
        Media::Protobuf => in_protobuf(call, &page).await,
        _ => {
            let mut list = head(call, &page);
            let field = if list["kind"] == "Table" { "rows" } else { "items" };
            list[field] = encoded(&page, |entry| item(call, entry)).await?.into();
            Ok(answer::tree(200, &list, &call.accepted))
        }
    }
}

/// A list without its items.
fn head(call: &Call, page: &Page) -> Object {
    let (def, revision) = (&call.served.def, page.revision.to_string());
    let mut head = match call.accepted.shape {
        Shape::Table(_) => present::table_head(def, &revision),
        Shape::Metadata { .. } => json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"resourceVersion": revision}}),
        Shape::Object => json!({"kind": list_kind(call), "apiVersion": def.group_version().to_string(),
            "metadata": {"resourceVersion": revision}}),
    };
    present::state_version(&mut head, &call.accepted);
    if !page.next.is_empty() {
        head["metadata"]["continue"] = page.next.as_str().into();
    }
    if let Some(remaining) = page.remaining {
        head["metadata"]["remainingItemCount"] = remaining.into();
    }
    head
}

/// An object as it stands in a list.
fn item(call: &Call, entry: &Entry) -> Result<Object> {
    let decode = || present::decode(&call.served, &entry.value, entry.revision);
    match call.accepted.shape {
        Shape::Table(include) => Ok(present::row(&call.served.def, &decode()?, include, call.now)),
        Shape::Metadata { .. } => {
            let mut metadata = present::partial(&present::decode_metadata(&entry.value, entry.revision)?);
            present::state_version(&mut metadata, &call.accepted);
            Ok(metadata)
        }
        Shape::Object => decode(),
    }
}

/// All entries as they are sent. Others have the thread in between: there may be many.
async fn encoded<T>(page: &Page, encode: impl Fn(&Entry) -> Result<T>) -> Result<Vec<T>> {
    let (mut all, mut stretches) = (Vec::with_capacity(page.entries.len()), Stretches::default());
    for entry in &page.entries {
        all.push(encode(entry)?);
        stretches.did(entry.value.len()).await;
    }
    Ok(all)
}

/// The list in protobuf: each object's message once, and the frame around them.
async fn in_protobuf(call: &Call, page: &Page) -> Result<Answer> {
    let name = match call.accepted.shape {
        Shape::Object => call.served.def.schema.as_ref(),
        _ => "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata",
    };
    let unknown = || Status::internal(format_args!("{name} is unknown to protobuf"));
    let definition = skiff_kinds::schema::definition(name).ok_or_else(unknown)?;
    let messages = encoded(page, |entry| Ok(protobuf::message(definition, &item(call, entry)?))).await?;
    let frame = protobuf::ListFrame::new(&head(call, page), messages.iter().map(Vec::len)).ok_or_else(unknown)?;
    let mut whole = frame.head.clone();
    for message in messages {
        frame.item(&mut whole, message.len());
        whole.extend_from_slice(&message);
    }
    whole.extend_from_slice(frame.tail());
    Ok(answer::bytes(200, whole, protobuf::MEDIA_TYPE, &call.accepted))
}

fn list_kind(call: &Call) -> String {
    let def = &call.served.def;
    if def.list_kind.is_empty() { format!("{}List", def.kind) } else { def.list_kind.to_string() }
}

/// The list as stored bytes behind one another, encoded while it is sent.
fn raw(call: &Call, page: Page) -> Answer {
    let mut head = format!(
        "{{\"kind\":{:?},\"apiVersion\":{:?},\"metadata\":{{\"resourceVersion\":\"{}\"",
        list_kind(call),
        call.served.def.group_version().to_string(),
        page.revision
    );
    if !page.next.is_empty() {
        head.push_str(&format!(",\"continue\":\"{}\"", page.next));
    }
    if let Some(remaining) = page.remaining {
        head.push_str(&format!(",\"remainingItemCount\":{remaining}"));
    }
    head.push_str("},\"items\":[");
    let size: usize = page.entries.iter().map(|entry| entry.value.len() + 64).sum();
    let pieces = Pieces { head, entries: page.entries, next: 0, item_head: call.served.heads.item.clone() };
    if size <= PIECE_BYTES {
        let whole: Vec<Bytes> = pieces.collect();
        return answer::bytes(200, whole.concat(), "application/json", &call.accepted);
    }
    let is_gzipped = call.accepted.gzip && size >= answer::GZIP_FROM_BYTES;
    let body = if is_gzipped { in_turns(Gzipped::of(pieces)) } else { in_turns(pieces) };
    let mut answer = Answer::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if is_gzipped {
        answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        answer.headers_mut().insert(http::header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    answer
}

/// A body of pieces, each made when it can be sent. Others have the thread after each.
fn in_turns(pieces: impl Iterator<Item = Bytes> + Send + 'static) -> Body {
    body::stream(futures_util::stream::unfold(pieces, async |mut pieces| {
        let piece = pieces.next()?;
        tokio::task::yield_now().await;
        Some((Ok(piece), pieces))
    }))
}

/// Pieces, compressed one by one.
struct Gzipped {
    pieces: Pieces,
    /// None once all is compressed.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Gzipped {
    fn of(pieces: Pieces) -> Self {
        Self { pieces, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl Iterator for Gzipped {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let encoder = self.encoder.as_mut()?;
        let Some(piece) = self.pieces.next() else {
            let last = self.encoder.take()?.finish();
            return Some(last.expect("writing to memory cannot fail").into());
        };
        encoder.write_all(&piece).expect("writing to memory cannot fail");
        Some(std::mem::take(encoder.get_mut()).into())
    }
}

/// A list's encoding, piece by piece.
struct Pieces {
    head: String,
    entries: Vec<Arc<Entry>>,
    next: usize,
    item_head: Box<str>,
}

impl Pieces {
    /// How much the next piece takes at most: a piece that grows is copied each time.
    fn next_bytes(&self) -> usize {
        /// The revision, the comma and the brackets beside the parts that are counted.
        const SLACK_BYTES: usize = 32;
        let mut bytes = self.head.len() + SLACK_BYTES;
        for entry in &self.entries[self.next..] {
            if bytes >= PIECE_BYTES {
                break;
            }
            bytes += self.item_head.len() + entry.value.len() + SLACK_BYTES;
        }
        bytes
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.next > self.entries.len() {
            return None;
        }
        let mut piece = BytesMut::with_capacity(self.next_bytes());
        piece.put_slice(std::mem::take(&mut self.head).as_bytes());
        while let Some(entry) = self.entries.get(self.next) {
            if piece.len() >= PIECE_BYTES {
                return Some(piece.freeze());
            }
            if self.next > 0 {
                piece.put_u8(b',');
            }
            codec::write_sent(&mut piece, &self.item_head, &entry.value, entry.revision);
            self.next += 1;
        }
        piece.put_slice(b"]}\n");
        self.next = self.entries.len() + 1;
        Some(piece.freeze())
    }
}

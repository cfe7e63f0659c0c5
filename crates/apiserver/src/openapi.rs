//! The OpenAPI documents, v2 and v3, made when they are first asked for and kept compressed, with their fingerprints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, LOCATION, VARY};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use skiff_kinds::{ResourceDef, openapi};
use skiff_object::{GroupVersion, Status};

use crate::aggregation::remote::Remote;
use crate::aggregation::told;
use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::http::body;
use crate::http::negotiate;
use crate::http::query::Query;
use crate::server::ApiServer;
use crate::storage::catalogue::{Served, Snapshot};

/// How many documents are kept: those of v2 and of v3, for one state of the catalogue.
const MAX_DOCUMENTS: usize = 128;
/// How long a document that is named with its hash stays what it is; a year is the most that caches heed.
const HASHED_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The media type of the v2 document in protobuf, as it is asked for.
const PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The same as it is answered: the one that is asked for is no valid media type.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const JSON: &str = "application/json";

/// Documents that were asked for.
#[derive(Default)]
pub struct Documents {
    /// Compressed, with the fingerprint of the kinds that they describe.
    made: Mutex<HashMap<String, (String, Bytes)>>,
    prints: Mutex<Option<Arc<Fingerprints>>>,
}

/// The fingerprints of one state of the catalogue.
pub struct Fingerprints {
    of: Arc<Snapshot>,
    /// Of what other servers said.
    told: Vec<u64>,
    /// Of all kinds.
    pub whole: String,
    versions: Vec<(GroupVersion, String)>,
    /// Of what is in no group's version.
    plain: Vec<(String, String)>,
}

impl Fingerprints {
    fn of(snapshot: Arc<Snapshot>, remotes: &[Arc<Remote>]) -> Self {
        let mut versions: BTreeMap<GroupVersion, Vec<u64>> = BTreeMap::new();
        for served in &snapshot.ordered {
            versions.entry(served.def.group_version()).or_default().push(served.fingerprint());
        }
        let print = |(version, kinds): (GroupVersion, Vec<u64>)| (version, openapi::fingerprint(kinds.into_iter()));
        let mut versions: Vec<_> = versions.into_iter().map(print).collect();
        let foreign = |remote: &Arc<Remote>| {
            let version = GroupVersion::new(&remote.group, &remote.version);
            Some((version, remote.told.lock().v3.clone()?))
        };
        versions.extend(remotes.iter().filter_map(foreign));
        let (told, own) = (told_by(remotes), snapshot.ordered.iter().map(|served| served.fingerprint()));
        let whole = openapi::fingerprint(own.chain(told.iter().copied()));
        let groups: BTreeSet<&str> = versions.iter().map(|(version, _)| version.group.as_str()).collect();
        let print_of_plain = openapi::fingerprint(std::iter::empty());
        let names = openapi::plain_names(groups.into_iter()).into_iter();
        let plain = names.map(|name| (name, print_of_plain.clone())).collect();
        Self { of: snapshot, told, whole, versions, plain }
    }
}

fn told_by(remotes: &[Arc<Remote>]) -> Vec<u64> {
    remotes.iter().map(|remote| remote.told.lock().fingerprint).collect()
}

impl Documents {
    /// The fingerprints of what is served now.
    pub fn fingerprints(&self, snapshot: &Arc<Snapshot>, remotes: &[Arc<Remote>]) -> Arc<Fingerprints> {
        let mut prints = self.prints.lock();
        match &*prints {
            Some(known) if Arc::ptr_eq(&known.of, snapshot) && known.told == told_by(remotes) => known.clone(),
            _ => prints.insert(Arc::new(Fingerprints::of(snapshot.clone(), remotes))).clone(),
        }
    }

    /// A document under a name, compressed; made anew where the fingerprint is another.
    pub fn get(&self, name: &str, fingerprint: &str, make: impl FnOnce() -> Option<Vec<u8>>) -> Option<Bytes> {
        if let Some((_, bytes)) = self.made.lock().get(name).filter(|(of, _)| of == fingerprint) {
            return Some(bytes.clone());
        }
        let bytes = answer::gzip(&make()?);
        let mut made = self.made.lock();
        if made.len() >= MAX_DOCUMENTS {
            made.clear();
        }
        made.insert(name.to_owned(), (fingerprint.to_owned(), bytes.clone()));
        Some(bytes)
    }
}

/// Answers a path below `/openapi`.
pub fn answer(server: &ApiServer, parts: &Parts, query: &Query, path: &str) -> Result<Option<Answer>> {
    let Some(rest) = path.strip_prefix("/openapi/") else { return Ok(None) };
    let (snapshot, remotes) = (server.catalogue.snapshot(), server.aggregator.remotes());
    let prints = server.documents.fingerprints(&snapshot, &remotes);
    let version = match rest.split('/').collect::<Vec<_>>()[..] {
        ["v2"] => return v2(server, parts, &snapshot, &prints).map(Some),
        ["v3"] => return index(parts, &prints).map(Some),
        ["v3", "api", version] => GroupVersion::new("", version),
        ["v3", "apis", group, version] => GroupVersion::new(group, version),
        ["v3", ..] => return plain(server, parts, query, &rest["v3/".len()..], &prints).map(Some),
        _ => return Err(Status::no_such_path().into()),
    };
    let found = prints.versions.iter().find(|(own, _)| *own == version);
    let (_, fingerprint) = found.ok_or_else(Status::no_such_path)?;
    v3(server, parts, query, &snapshot, &version, fingerprint).map(Some)
}

fn index(parts: &Parts, prints: &Fingerprints) -> Result<Answer> {
    let text = answer::to_json(&openapi::v3_index(&prints.versions, &prints.plain), false);
    let mut answer = sent(&parts.headers, &prints.whole, JSON, answer::gzip(&text))?;
    answer.headers_mut().remove(VARY);
    Ok(answer)
}

fn v2(server: &ApiServer, parts: &Parts, snapshot: &Snapshot, prints: &Fingerprints) -> Result<Answer> {
    let offers = [JSON, PROTOBUF_ASKED, PROTOBUF];
    let Some(chosen) = negotiate::first_of(&parts.headers, &offers) else { return Ok(not_acceptable()) };
    let media = if chosen == JSON { JSON } else { PROTOBUF };
    let make = || {
        let mut document = openapi::v2_document(&defs(&snapshot.ordered));
        for remote in server.aggregator.remotes().iter() {
            let part = remote.told.lock().v2.clone();
            part.iter().for_each(|part| told::add_v2(&mut document, part));
        }
        Some(if media == JSON { answer::to_json(&document, false) } else { openapi::gnostic::encode(&document) })
    };
    let name = if media == JSON { "v2" } else { "v2 in protobuf" };
    let found = server.documents.get(name, &prints.whole, make).ok_or_else(Status::no_such_path)?;
    sent(&parts.headers, &prints.whole, media, found)
}

fn v3(
    server: &ApiServer,
    parts: &Parts,
    query: &Query,
    snapshot: &Snapshot,
    version: &GroupVersion,
    fingerprint: &str,
) -> Result<Answer> {
    named(server, parts, query, fingerprint, || openapi::v3_document(&defs(&snapshot.ordered), version))
}

fn plain(server: &ApiServer, parts: &Parts, query: &Query, name: &str, prints: &Fingerprints) -> Result<Answer> {
    let found = prints.plain.iter().find(|(own, _)| own == name);
    let (_, fingerprint) = found.ok_or_else(Status::no_such_path)?;
    named(server, parts, query, fingerprint, || openapi::v3_plain_document(name))
}

/// A document that may be asked for with its hash, and then stays what it is.
fn named(
    server: &ApiServer,
    parts: &Parts,
    query: &Query,
    fingerprint: &str,
    make: impl FnOnce() -> Option<Value>,
) -> Result<Answer> {
    if negotiate::first_of(&parts.headers, &[JSON]).is_none() {
        return Ok(not_acceptable());
    }
    let path = parts.uri.path();
    let hash = query.text("hash");
    if !hash.is_empty() && hash != fingerprint {
        return Ok(moved(&format!("{path}?hash={fingerprint}")));
    }
    let make = || Some(answer::to_json(&make()?, false));
    let found = server.documents.get(path, fingerprint, make).ok_or_else(Status::no_such_path)?;
    let mut answer = sent(&parts.headers, fingerprint, JSON, found)?;
    if !hash.is_empty() {
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        if let Ok(value) = HeaderValue::from_str(&expiry(server)) {
            headers.insert(EXPIRES, value);
        }
    }
    Ok(answer)
}

fn defs(ordered: &[Arc<Served>]) -> Vec<&ResourceDef> {
    ordered.iter().map(|served| served.def.as_ref()).collect()
}

fn expiry(server: &ApiServer) -> String {
    let then = server.clock().now() + HASHED_LIFE;
    then.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// A path that names an old hash leads to the document as it is now.
fn moved(place: &str) -> Answer {
    let mut answer = Answer::new(body::empty());
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(value) = HeaderValue::from_str(place) {
        answer.headers_mut().insert(LOCATION, value);
    }
    answer
}

fn not_acceptable() -> Answer {
    let mut answer = Answer::new(body::empty());
    *answer.status_mut() = StatusCode::NOT_ACCEPTABLE;
    answer
}

/// A compressed document with its ETag, or 304 where the client has it already.
fn sent(asked: &HeaderMap, fingerprint: &str, media: &'static str, compressed: Bytes) -> Result<Answer> {
    let etag = format!("\"{fingerprint}\"");
    let mut answer = if negotiate::has_etag(asked, &etag) {
        let mut answer = Answer::new(body::empty());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else if negotiate::accepts_gzip(asked) {
        let mut answer = Answer::new(body::full(compressed));
        answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
        answer
    } else {
        let mut answer = Answer::new(body::full(answer::gunzip(&compressed).map_err(Status::internal)?));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
        answer
    };
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(VARY, HeaderValue::from_static(ACCEPT.as_str()));
    if let Ok(value) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, value);
    }
    Ok(answer)
}

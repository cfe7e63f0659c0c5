//! The OpenAPI documents, v2 and v3, made when they are first asked for and kept compressed.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::request::Parts;
use parking_lot::Mutex;
use skiff_kinds::{ResourceDef, openapi};
use skiff_object::{GroupVersion, Object, Status};

use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::http::body;
use crate::http::negotiate;
use crate::server::ApiServer;

/// How many documents are kept: the one of v2 and those of v3, for one state of the catalogue.
const MAX_DOCUMENTS: usize = 128;

/// The media type of the v2 document in protobuf, as it is asked for.
const PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The same as it is answered: the one that is asked for is no valid media type.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Documents that were asked for, compressed, with the fingerprint of the catalogue that they describe.
#[derive(Default)]
pub struct Documents {
    made: Mutex<HashMap<String, (String, Bytes)>>,
}

/// Answers a path below `/openapi`.
pub fn answer(server: &ApiServer, parts: &Parts, path: &str) -> Result<Option<Answer>> {
    let Some(rest) = path.strip_prefix("/openapi/") else { return Ok(None) };
    let snapshot = server.catalogue.snapshot();
    let shared: Vec<Arc<ResourceDef>> = snapshot.ordered.iter().map(|served| served.def.clone()).collect();
    let defs: Vec<&ResourceDef> = shared.iter().map(AsRef::as_ref).collect();
    if rest == "v3" {
        return Ok(Some(answer::bytes(
            200,
            answer::to_json(&openapi::v3_index(&defs), false),
            "application/json",
            &Default::default(),
        )));
    }
    let fingerprint = openapi::fingerprint(&defs);
    if rest == "v2" && wants_protobuf(parts) {
        return Ok(Some(protobuf_head()));
    }
    let version = match rest.split('/').collect::<Vec<_>>()[..] {
        ["v2"] => None,
        ["v3", "api", version] => Some(GroupVersion::new("", version)),
        ["v3", "apis", group, version] => Some(GroupVersion::new(group, version)),
        _ => return Err(Status::no_such_path().into()),
    };
    let make = || match &version {
        None => Some(openapi::v2_document(&defs)),
        Some(version) => openapi::v3_document(&defs, version),
    };
    let found = server.documents.get(rest, &fingerprint, make).ok_or_else(Status::no_such_path)?;
    Ok(Some(document(parts, &fingerprint, found)?))
}

fn wants_protobuf(parts: &Parts) -> bool {
    let accept = parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    accept.contains(PROTOBUF_ASKED) && !accept.contains("json")
}

/// The v2 document in protobuf, without definitions: clients of our day ask for it only where v3 does not name a kind,
/// and so learn that nobody does.
fn protobuf_head() -> Answer {
    let text = |tag: u8, text: &str| [&[tag, text.len() as u8], text.as_bytes()].concat();
    let info = [text(0x0a, "Kubernetes"), text(0x12, "v1.36.0")].concat();
    let document = [text(0x0a, "2.0"), vec![0x12, info.len() as u8], info].concat();
    answer::bytes(200, document, PROTOBUF, &Default::default())
}

impl Documents {
    fn get(&self, path: &str, fingerprint: &str, make: impl FnOnce() -> Option<Object>) -> Option<Bytes> {
        if let Some((_, bytes)) = self.made.lock().get(path).filter(|(of, _)| of == fingerprint) {
            return Some(bytes.clone());
        }
        let bytes = answer::gzip(&answer::to_json(&make()?, false));
        let mut made = self.made.lock();
        if made.len() >= MAX_DOCUMENTS {
            made.clear();
        }
        made.insert(path.to_owned(), (fingerprint.to_owned(), bytes.clone()));
        Some(bytes)
    }
}

fn document(parts: &Parts, fingerprint: &str, compressed: Bytes) -> Result<Answer> {
    let etag = format!("\"{fingerprint}\"");
    let known = parts.headers.get(IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == etag.as_bytes());
    let mut answer = if known {
        let mut answer = Answer::new(body::empty());
        *answer.status_mut() = http::StatusCode::NOT_MODIFIED;
        answer
    } else if negotiate::accepts_gzip(&parts.headers) {
        let mut answer = Answer::new(body::full(compressed));
        answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        answer
    } else {
        Answer::new(body::full(answer::gunzip(&compressed).map_err(Status::internal)?))
    };
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(value) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, value);
    }
    Ok(answer)
}

//! The OpenAPI documents, v2 and v3, made when they are first asked for and kept compressed.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
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

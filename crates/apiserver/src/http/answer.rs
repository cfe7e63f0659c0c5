//! Answers: from a tree, from bytes, from a failure; encoded as the client accepts them.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY};
use http::{Response, StatusCode};
use serde::Serialize;
use skiff_kinds::protobuf;
use skiff_object::{Object, Status};

use crate::failure::Failure;
use crate::http::body::{self, Body};
use crate::http::negotiate::{Accepted, Media};

/// Answers below this size are not worth compressing, as upstream finds.
pub const GZIP_FROM_BYTES: usize = 128 * 1024;

/// An answer.
pub type Answer = Response<Body>;

/// The answer of a tree.
pub fn tree(code: u16, object: &Object, accepted: &Accepted) -> Answer {
    match accepted.media {
        Media::Yaml => bytes(code, to_yaml(object), "application/yaml", accepted),
        Media::Json => bytes(code, json_text(object, accepted), "application/json", accepted),
        Media::Protobuf => match protobuf::encode_any(object) {
            Some(encoded) => bytes(code, encoded, protobuf::MEDIA_TYPE, accepted),
            // What protobuf does not know is not offered in it; should it come here, it is still told.
            None => bytes(code, to_json(object, false), "application/json", accepted),
        },
    }
}

/// The answer of plain data whose fields come in the order of its type.
pub fn data(code: u16, data: &impl Serialize, accepted: &Accepted) -> Answer {
    match accepted.media {
        Media::Json => bytes(code, json_text(data, accepted), "application/json", accepted),
        _ => tree(code, &serde_json::to_value(data).expect("plain data can always be encoded"), accepted),
    }
}

/// The answer of JSON that is encoded already.
pub fn json(code: u16, encoded: Bytes, accepted: &Accepted) -> Answer {
    if accepted.media == Media::Json && !accepted.pretty {
        return bytes(code, encoded, "application/json", accepted);
    }
    match serde_json::from_slice::<Object>(&encoded) {
        Ok(object) => tree(code, &object, accepted),
        Err(error) => failure(Status::internal(format_args!("encoding the answer: {error}")).into(), accepted),
    }
}

/// The answer of a failure.
pub fn failure(failure: Failure, accepted: &Accepted) -> Answer {
    let status = *failure.0;
    let retry_after = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    let object = serde_json::to_value(&status).expect("a Status is plain data");
    let code = if status.code == 0 { 500 } else { status.code };
    let mut answer = tree(code, &object, accepted);
    if retry_after > 0 {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after));
    }
    answer
}

/// The answer of a plain text.
pub fn text(code: u16, text: impl Into<Bytes>) -> Answer {
    bytes(code, text.into(), "text/plain; charset=utf-8", &Accepted::default())
}

/// The answer of bytes with their media type.
pub fn bytes(code: u16, encoded: impl Into<Bytes>, media: &'static str, accepted: &Accepted) -> Answer {
    let mut encoded: Bytes = encoded.into();
    let compressed = accepted.gzip && encoded.len() >= GZIP_FROM_BYTES;
    if compressed {
        encoded = gzip(&encoded);
    }
    let mut answer = Response::new(body::full(encoded));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    if compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    answer
}

/// Adds upstream's warning headers.
pub fn warn(answer: &mut Answer, warnings: &[String]) {
    for warning in warnings {
        let text = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            answer.headers_mut().append(http::header::WARNING, value);
        }
    }
}

/// JSON as an answer: with a line's end where it is one line.
fn json_text(object: &impl Serialize, accepted: &Accepted) -> Vec<u8> {
    let mut text = to_json(object, accepted.pretty);
    if !accepted.pretty {
        text.push(b'\n');
    }
    text
}

/// JSON, indented where people read it.
pub fn to_json(object: &(impl Serialize + ?Sized), pretty: bool) -> Vec<u8> {
    let encoded = if pretty { serde_json::to_vec_pretty(object) } else { serde_json::to_vec(object) };
    encoded.expect("plain data with string keys can always be encoded")
}

/// The fast level: the answer's reader is near, and the CPU is shared with the cluster.
pub fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    let written = encoder.write_all(plain).and_then(|()| encoder.finish());
    written.expect("writing to memory cannot fail").into()
}

/// What was compressed by [`gzip`].
pub fn gunzip(compressed: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(compressed).read_to_end(&mut plain)?;
    Ok(plain)
}

fn to_yaml(object: &Object) -> Vec<u8> {
    crate::codec::to_yaml(object).into_bytes()
}

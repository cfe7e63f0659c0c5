//! What a watch brings, read without a look at what nobody wants: a line is taken apart once, and the fields' owners, often
//! the larger part of an object, are skipped.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::Error;
use crate::client::decode;

/// How events of Kubernetes' API servers begin, and what stands between their type and their object.
const HEAD: &[u8] = br#"{"type":""#;
const MIDDLE: &[u8] = br#"","object":"#;
const OWNERS: &[u8] = b"managedFields";

/// One event of a watch, its object still encoded.
#[derive(Debug)]
pub struct WatchEvent {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    pub kind: String,
    /// The object, or a Status where the type is `ERROR`.
    pub object: Bytes,
}

impl WatchEvent {
    /// Takes a line of a watch apart. What is in the object is looked at by who decodes it.
    pub(crate) fn read(path: &str, line: Bytes) -> Result<Self, Error> {
        match as_usual(&line) {
            Some((kind, object)) => Ok(Self { kind: kind.to_owned(), object: line.slice(object) }),
            None => Self::read_any(path, &line),
        }
    }

    /// An event whose fields stand in another order, or with spaces between them.
    fn read_any(path: &str, line: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Line {
            #[serde(rename = "type")]
            kind: String,
            object: Box<RawValue>,
        }
        let line: Line = decode(path, line)?;
        Ok(Self { kind: line.kind, object: Bytes::copy_from_slice(line.object.get().as_bytes()) })
    }
}

fn as_usual(line: &[u8]) -> Option<(&str, Range<usize>)> {
    let rest = line.strip_prefix(HEAD)?;
    let length = rest.iter().position(|byte| !byte.is_ascii_uppercase())?;
    let object = rest[length..].strip_prefix(MIDDLE)?.strip_suffix(b"}")?;
    let begin = line.len() - 1 - object.len();
    Some((std::str::from_utf8(&rest[..length]).ok()?, begin..line.len() - 1))
}

/// Of an object only which revision it is; all else is skipped.
#[derive(Debug, Default, Deserialize)]
pub struct Revision {
    #[serde(default)]
    metadata: RevisionMetadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RevisionMetadata {
    resource_version: Option<String>,
}

impl Revision {
    /// The `resourceVersion` of what is an object and has one.
    pub fn of(object: &[u8]) -> Option<String> {
        serde_json::from_slice(object).ok().and_then(Self::into_text)
    }

    /// The `resourceVersion`, where there is one.
    pub fn into_text(self) -> Option<String> {
        self.metadata.resource_version
    }
}

/// Decodes an object without its `managedFields`.
pub(crate) fn decode_unowned<T: DeserializeOwned>(what: &str, object: &[u8]) -> Result<T, Error> {
    match owners_of(object) {
        Some(owners) => {
            let parts = [&object[..owners.start], b"null", &object[owners.end..]];
            decode(what, &parts.concat())
        }
        None => decode(what, object),
    }
}

/// Where the value of `metadata.managedFields` is. What is no JSON gives anything; decoding it fails all the same.
fn owners_of(object: &[u8]) -> Option<Range<usize>> {
    let mut reader = Reader { text: object, at: 0 };
    let metadata = reader.field(b"metadata")?;
    let mut inner = Reader { text: object, at: metadata };
    let begin = inner.field(OWNERS)?;
    let mut value = Reader { text: object, at: begin };
    value.skip_value()?;
    Some(begin..value.at)
}

/// Goes over JSON without spaces, as servers write it; where there are some, nothing is found.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// The beginning of the value of a field of the object that begins here.
    fn field(&mut self, name: &[u8]) -> Option<usize> {
        self.take(b'{')?;
        loop {
            let begin = self.at + 1;
            self.skip_string()?;
            let key = &self.text[begin..self.at - 1];
            self.take(b':')?;
            if key == name {
                return Some(self.at);
            }
            self.skip_value()?;
            self.take(b',')?;
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.text.get(self.at) == Some(&byte)).then(|| self.at += 1)
    }

    fn skip_string(&mut self) -> Option<()> {
        self.take(b'"')?;
        loop {
            let next = self.at + memchr::memchr2(b'"', b'\\', self.text.get(self.at..)?)?;
            if self.text[next] == b'"' {
                self.at = next + 1;
                return Some(());
            }
            // Whatever is escaped does not end the string.
            self.at = next + 2;
        }
    }

    fn skip_value(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.text.get(self.at)? {
                b'"' => self.skip_string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                // The end of what surrounds the value; it belongs to that.
                b'}' | b']' | b',' if depth == 0 => return Some(()),
                _ => self.at += 1,
            }
            if depth == 0 && !matches!(self.text.get(self.at), Some(byte) if is_plain(*byte)) {
                return Some(());
            }
        }
    }
}

/// Part of a number or of `true`, `false`, `null`.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    fn read(line: &str) -> (String, String) {
        let event = WatchEvent::read("/x", Bytes::copy_from_slice(line.as_bytes())).expect("an event");
        (event.kind, String::from_utf8(event.object.to_vec()).expect("text"))
    }

    #[test]
    fn events_are_taken_apart_however_they_are_written() {
        let told = |kind: &str, object: &str| (kind.to_owned(), object.to_owned());
        assert_eq!(read(r#"{"type":"ADDED","object":{"a":{}}}"#), told("ADDED", r#"{"a":{}}"#));
        assert_eq!(read(r#"{"object":{"a":1},"type":"DELETED"}"#), told("DELETED", r#"{"a":1}"#));
        assert_eq!(read(r#"{ "type": "MODIFIED", "object": {"a": 1} }"#), told("MODIFIED", r#"{"a": 1}"#));
        assert!(WatchEvent::read("/x", Bytes::from_static(b"{\"type\":\"ADDED\"}")).is_err());
    }

    fn without(object: &str) -> Value {
        decode_unowned("object", object.as_bytes()).expect("JSON")
    }

    #[test]
    fn owners_of_fields_are_left_out_wherever_they_stand() {
        let owners = r#"[{"manager":"a \"[{ \\","fieldsV1":{"f:spec":{"k:{\"name\":\"x\"}":{}}},"n":-1.5e3}]"#;
        for (before, after) in [
            ("", ""),
            ("\"name\":\"managedFields\",", ",\"labels\":{\"a\":\"]\"}"),
            ("\"labels\":{\"managedFields\":\"x\"},\"generation\":1,\"x\":true,\"y\":null,", ""),
        ] {
            let object = format!(
                r#"{{"kind":"Pod","metadata":{{{before}"managedFields":{owners}{after}}},"spec":{{"managedFields":[1]}}}}"#
            );
            let mut expected: Value = serde_json::from_str(&object).expect("JSON");
            expected["metadata"]["managedFields"] = Value::Null;
            assert_eq!(without(&object), expected);
        }
    }

    #[test]
    fn objects_without_them_are_read_as_they_are() {
        for object in
            [r#"{}"#, r#"{"metadata":{}}"#, r#"{"metadata":{"name":"a"},"spec":{}}"#, r#"{ "metadata" : {} }"#]
        {
            assert_eq!(without(object), serde_json::from_str::<Value>(object).expect("JSON"));
        }
        let pod: Pod =
            decode_unowned("pod", br#"{"metadata":{"name":"a","managedFields":[{"manager":"m"}]}}"#).expect("a pod");
        assert_eq!((pod.metadata.name.as_deref(), pod.metadata.managed_fields), (Some("a"), None));
    }

    #[test]
    fn what_is_cut_off_is_refused_and_does_not_panic() {
        let whole = json!({"metadata": {"name": "a\\\"", "managedFields": [{"a": ["\\"]}]}, "spec": {}}).to_string();
        for end in 0..whole.len() {
            assert!(decode_unowned::<Value>("object", &whole.as_bytes()[..end]).is_err(), "{end}");
        }
    }
}

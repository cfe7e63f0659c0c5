//! How objects lie in the store, and how stored bytes become what is sent.
//!
//! A stored value is the object's JSON without `kind`, `apiVersion` and `metadata.resourceVersion`, and begins with
//! `{"metadata":{`. So an answer, a list item or a watch event is a short head (kind, version, revision) followed by
//! the stored bytes as they are: nothing is parsed to be sent.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use skiff_kinds::ResourceDef;
use skiff_object::{Object, Status, yaml};

use crate::failure::Result;

/// How every stored value begins.
const STORED_HEAD: &[u8] = b"{\"metadata\":{";

/// How the mark of a custom object's version stands in its metadata, where it is stored.
const MARK: &[u8] = b"\"~\":\"";
/// The field of the mark.
const MARK_FIELD: &str = "~";

/// The mark of stored bytes: under which version and schema they were written. Built-in kinds have none.
pub fn mark(stored: &[u8]) -> Option<&str> {
    let rest = stored.get(STORED_HEAD.len()..)?.strip_prefix(MARK)?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()
}

/// Encodes an object for the store.
pub fn encode_stored(object: &Object) -> Bytes {
    encode_marked(object, "")
}

/// Encodes an object for the store, with the mark of its version.
pub fn encode_marked(object: &Object, mark: &str) -> Bytes {
    let mut encoded = Vec::with_capacity(1024);
    encoded.extend_from_slice(STORED_HEAD);
    let metadata = object.get("metadata").and_then(Value::as_object);
    let fields =
        metadata.into_iter().flatten().filter(|(key, _)| !matches!(key.as_str(), "resourceVersion" | MARK_FIELD));
    if !mark.is_empty() {
        encoded.extend_from_slice(MARK);
        encoded.extend_from_slice(mark.as_bytes());
        encoded.push(b'"');
    }
    for (index, (key, value)) in fields.enumerate() {
        if index > 0 || !mark.is_empty() {
            encoded.push(b',');
        }
        write_field(&mut encoded, key, value);
    }
    encoded.push(b'}');
    for (key, value) in object.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "metadata" | "kind" | "apiVersion") {
            encoded.push(b',');
            write_field(&mut encoded, key, value);
        }
    }
    encoded.push(b'}');
    // It is kept for long, and the room that it was written into is up to twice as large.
    Bytes::copy_from_slice(&encoded)
}

/// Writes a field of an object.
pub fn write_field(encoded: &mut Vec<u8>, key: &str, value: &Value) {
    write_text(encoded, key);
    encoded.push(b':');
    write_value(encoded, value);
}

fn write_value(encoded: &mut Vec<u8>, value: &Value) {
    match value {
        Value::String(text) => write_text(encoded, text),
        Value::Object(map) => {
            encoded.push(b'{');
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    encoded.push(b',');
                }
                write_field(encoded, key, value);
            }
            encoded.push(b'}');
        }
        Value::Array(items) => {
            encoded.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    encoded.push(b',');
                }
                write_value(encoded, item);
            }
            encoded.push(b']');
        }
        scalar => serde_json::to_writer(encoded, scalar).expect("a scalar can always be encoded"),
    }
}

/// Bits for those of eight bytes that do not stand for themselves in a text of JSON: the lowest one that is set is in the
/// first of them.
fn special(bytes: [u8; 8]) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x80 * ONES;
    let word = u64::from_le_bytes(bytes);
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & HIGHS;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    below(word, 0x20) | is(b'"') | is(b'\\')
}

/// Whether there is nothing to escape in a text, seen eight bytes at a time: most texts are short, and have nothing.
fn is_plain(text: &[u8]) -> bool {
    let (words, rest) = text.as_chunks();
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().all(|word| special(*word) == 0) && special(last) == 0
}

/// How many bytes come before the first one that does not stand for itself in a text of JSON, or before the end.
pub fn plain_length(text: &[u8]) -> usize {
    let (words, rest) = text.as_chunks();
    for (index, word) in words.iter().enumerate() {
        let found = special(*word);
        if found != 0 {
            return index * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let is_special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    text.len() - rest.len() + rest.iter().position(is_special).unwrap_or(rest.len())
}

/// Most texts have nothing to escape, which is seen faster than each byte is looked up.
fn write_text(encoded: &mut Vec<u8>, text: &str) {
    if !is_plain(text.as_bytes()) {
        return serde_json::to_writer(encoded, text).expect("a text can always be encoded");
    }
    encoded.push(b'"');
    encoded.extend_from_slice(text.as_bytes());
    encoded.push(b'"');
}

/// The text of a stored value from its metadata on.
pub fn stored_metadata(stored: &[u8]) -> Option<&[u8]> {
    stored.starts_with(STORED_HEAD).then(|| &stored[STORED_HEAD.len() - 1..])
}

/// Decodes a stored value to the tree that a client of `def` knows.
pub fn decode_stored(def: &ResourceDef, stored: &[u8], revision: u64) -> Result<Object> {
    let mut object = from_json(stored).map_err(|error| {
        Status::internal(format_args!("decoding a stored object of {}: {error}", def.group_resource()))
    })?;
    if let Some(map) = object.as_object_mut() {
        map.insert("kind".into(), def.kind.as_ref().into());
        map.insert("apiVersion".into(), def.group_version().to_string().into());
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove(MARK_FIELD);
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
    Ok(object)
}

/// What stands before the revision in an object that is sent.
#[derive(Debug, Clone)]
pub struct Heads {
    /// With kind and version, for single objects and watch events.
    pub typed: Box<str>,
    /// For list items; built-in kinds leave kind and version out there, as upstream does.
    pub item: Box<str>,
}

impl Heads {
    /// The heads of a kind.
    pub fn of(def: &ResourceDef) -> Self {
        let typed = format!(
            "{{\"kind\":{:?},\"apiVersion\":{:?},\"metadata\":{{\"resourceVersion\":\"",
            def.kind,
            def.group_version().to_string()
        );
        let custom = def.inline_schema.is_some();
        let item = if custom { typed.clone() } else { "{\"metadata\":{\"resourceVersion\":\"".to_owned() };
        Self { typed: typed.into(), item: item.into() }
    }
}

/// Appends a stored value as it is sent.
pub fn write_sent(out: &mut BytesMut, head: &str, stored: &[u8], revision: u64) {
    debug_assert!(stored.starts_with(STORED_HEAD));
    out.put_slice(head.as_bytes());
    out.put_slice(revision.to_string().as_bytes());
    out.put_slice(b"\",");
    let rest = &stored[STORED_HEAD.len().min(stored.len())..];
    let marked = mark(stored).map_or(0, |mark| MARK.len() + mark.len() + 1);
    // Behind the mark stands a comma: no object is without a name.
    out.put_slice(&rest[if marked == 0 { 0 } else { (marked + 1).min(rest.len()) }..]);
}

/// A stored value as it is sent.
pub fn sent(head: &str, stored: &[u8], revision: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(head.len() + stored.len() + 16);
    write_sent(&mut out, head, stored, revision);
    // Answers in JSON end with a line's end, as upstream's do.
    out.put_u8(b'\n');
    out.freeze()
}

/// YAML of a tree.
pub fn to_yaml(object: &Object) -> String {
    yaml::write(object).expect("a tree can always be written")
}

/// Reads JSON. That it is text is checked once for all of it, which is faster than for each name and value.
pub fn from_json(text: &[u8]) -> serde_json::Result<Object> {
    std::str::from_utf8(text).map_or_else(|_| serde_json::from_slice(text), serde_json::from_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_kinds::base::{BASE, text};

    use super::*;

    #[test]
    fn texts_are_written_as_json_has_them() {
        for byte in 0..128_u8 {
            for place in 0..20 {
                let mut text = "größer, größer".to_owned();
                text.insert(text.char_indices().nth(place).map_or(text.len(), |(at, _)| at), char::from(byte));
                let mut encoded = Vec::new();
                write_text(&mut encoded, &text);
                assert_eq!(serde_json::from_slice::<String>(&encoded).expect("a text"), text);
                let needs_escape = byte < 0x20 || matches!(byte, b'"' | b'\\');
                assert_eq!(is_plain(text.as_bytes()), !needs_escape, "{text:?}");
                let first = text.bytes().position(|other| other == byte).filter(|_| needs_escape);
                assert_eq!(plain_length(text.as_bytes()), first.unwrap_or(text.len()), "{text:?}");
            }
        }
    }

    #[test]
    fn stored_bytes_are_sent_as_they_are_behind_a_head() {
        let def = ResourceDef { kind: text("ConfigMap"), plural: text("configmaps"), ..BASE };
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"a": "\"b\""},
            "metadata": {"name": "x", "uid": "u", "resourceVersion": "3"}});
        let stored = encode_stored(&object);
        assert_eq!(stored, r#"{"metadata":{"name":"x","uid":"u"},"data":{"a":"\"b\""}}"#);
        let bytes = sent(&Heads::of(&def).typed, &stored, 7);
        let expected = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"x","uid":"u"},"data":{"a":"\"b\""}}"#;
        assert_eq!(bytes, format!("{expected}\n"));
        let decoded = decode_stored(&def, &stored, 7).expect("it was encoded just now");
        assert_eq!(decoded, serde_json::from_str::<Object>(expected).expect("valid JSON"));
    }
}

//! Objects as protobuf, driven by the type table: `k8s\0`, and then a `runtime.Unknown` around the object's message.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>.

mod decode;
mod encode;
mod wire;

use serde_json::json;
use skiff_object::node::Node;
use skiff_object::{GroupVersionKind, Object};

use crate::schema::{Definition, Shape, definition};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// The media type of watches.
pub const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// What every encoded object begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Fields of `runtime.Unknown`.
mod unknown {
    pub(super) const TYPE: u32 = 1;
    pub(super) const RAW: u32 = 2;
    pub(super) const CONTENT_ENCODING: u32 = 3;
    pub(super) const CONTENT_TYPE: u32 = 4;
}

/// Encodes an object (or a list, or a Status) of a definition. Its kind and version are those that it states.
pub fn encode(definition: &Definition, object: &Object) -> Vec<u8> {
    let text = |field: &str| object.get(field).and_then(Object::as_str).unwrap_or("");
    let mut kind = Vec::new();
    wire::text(&mut kind, 1, text("apiVersion"));
    wire::text(&mut kind, 2, text("kind"));
    let mut message = Vec::new();
    encode::message(&mut message, definition, object);
    let mut out = MAGIC.to_vec();
    wire::bytes(&mut out, unknown::TYPE, &kind);
    wire::bytes(&mut out, unknown::RAW, &message);
    wire::text(&mut out, unknown::CONTENT_ENCODING, "");
    wire::text(&mut out, unknown::CONTENT_TYPE, "");
    out
}

/// Encodes one event of a watch, with its length in front; `object` is what [`encode`] gave.
pub fn encode_event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    wire::bytes(&mut raw, 1, object);
    let mut event = Vec::new();
    wire::text(&mut event, 1, kind);
    wire::bytes(&mut event, 2, &raw);
    let mut out = u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    out.extend(event);
    out
}

/// Reads an encoded object of any built-in kind to the tree that JSON would have given, with its kind and version.
/// Empty values stand for what was not set; decoding the tree as its kind drops them.
///
/// # Errors
/// The text says what is wrong with the body.
pub fn tree(body: &[u8]) -> Result<Object, String> {
    let (stated, raw) = open(body).ok_or("the body is no Kubernetes protobuf message")?;
    let definition = definition_of(&stated).ok_or_else(|| format!("no kind {stated} is known in protobuf"))?;
    let mut object = decode::message(definition, raw).ok_or_else(|| format!("the message of {stated} is malformed"))?;
    object["apiVersion"] = json!(stated.api_version());
    object["kind"] = json!(stated.kind);
    Ok(object)
}

fn open(body: &[u8]) -> Option<(GroupVersionKind, &[u8])> {
    let mut stated = GroupVersionKind::default();
    let mut raw: &[u8] = &[];
    for field in wire::fields(body.strip_prefix(MAGIC)?) {
        match field? {
            (unknown::TYPE, wire::Value::Bytes(kind)) => stated = decode::type_meta(kind)?,
            (unknown::RAW, wire::Value::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    Some((stated, raw))
}

/// The definition of a kind; options belong to every group.
fn definition_of(kind: &GroupVersionKind) -> Option<&'static Definition> {
    if let Some(def) = crate::by_kind(kind) {
        return definition(&def.schema);
    }
    definition(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{}", kind.kind))
}

/// Whether a value of a shape is one message with scalars of its own, not described by fields of the table.
fn is_special(definition: &Definition) -> bool {
    definition.shape != Shape::Struct
}

/// A value that is kept as JSON within a message.
fn json_bytes(value: &Object) -> Vec<u8> {
    serde_json::to_vec(value).expect("a tree can always be encoded")
}

/// JSON that was kept within a message.
fn json_value(bytes: &[u8]) -> Option<Object> {
    Node::parse(bytes, skiff_object::node::Format::Json).ok().map(Node::into_value)
}

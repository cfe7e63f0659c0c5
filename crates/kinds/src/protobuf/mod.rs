//! Objects as protobuf, driven by the type table: `k8s\0`, and then a `runtime.Unknown` around the object's message.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>.

mod decode;
mod encode;
pub(crate) mod wire;

use serde_json::json;
use skiff_object::node::Node;
use skiff_object::{GroupVersion, GroupVersionKind, Object};

use crate::schema::{Definition, Shape, definition};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// The media type of watches.
pub const STREAM_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";
/// What every encoded object begins with.
const MAGIC: &[u8] = b"k8s\0";

/// The bytes of the length before each event of a watch.
const LENGTH_BYTES: usize = 4;

/// Fields of `runtime.Unknown`.
mod unknown {
    pub(super) const TYPE: u32 = 1;
    pub(super) const RAW: u32 = 2;
}

/// The end of a `runtime.Unknown`: its fields 3 and 4, content encoding and content type, are empty.
const TAIL: &[u8] = b"\x1a\x00\x22\x00";

/// Encodes an object (or a list, or a Status) of a definition. Its kind and version are those that it states.
pub fn encode(definition: &Definition, object: &Object) -> Vec<u8> {
    let text = |field: &str| object.get(field).and_then(Object::as_str).unwrap_or("");
    encode_as(definition, text("apiVersion"), text("kind"), object)
}

fn encode_as(definition: &Definition, version: &str, kind: &str, object: &Object) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    type_meta(&mut out, version, kind);
    wire::nested(&mut out, unknown::RAW, |out| encode::message(out, definition, object));
    out.extend(TAIL);
    out
}

/// Encodes an object of whatever kind it states; `None` where protobuf does not know that kind. What states no version,
/// as a part of discovery, is `v1`.
pub fn encode_any(object: &Object) -> Option<Vec<u8>> {
    let text = |field: &str| object.get(field).and_then(Object::as_str);
    let (version, kind) = (text("apiVersion").unwrap_or("v1"), text("kind")?);
    let of = GroupVersion::parse(version)?;
    Some(encode_as(definition_of(&GroupVersionKind::new(of.group, of.version, kind))?, version, kind, object))
}

/// The message of an object alone, as it stands in a list; its kind and version are not part of it.
pub fn message(definition: &Definition, object: &Object) -> Vec<u8> {
    let mut out = Vec::new();
    encode::message(&mut out, definition, object);
    out
}

/// A list that is encoded around its items' messages: what stands before them, before each of them, and at the end.
pub struct ListFrame {
    /// What stands before the first item.
    pub head: Vec<u8>,
    items: u32,
}

impl ListFrame {
    /// The frame of a list that states its kind, its version and its metadata, for items of `sizes` bytes.
    /// `None` where protobuf does not know that kind.
    pub fn new(list: &Object, sizes: impl Iterator<Item = usize>) -> Option<Self> {
        let kind = GroupVersionKind::of(list)?;
        let definition = definition_of(&kind)?;
        let items = *definition.field("items")?.numbers.first()?;
        let metadata = message(definition, list);
        let content: usize = sizes.map(|size| wire::nested_size(items, size)).sum();
        let mut head = MAGIC.to_vec();
        type_meta(&mut head, &kind.api_version(), &kind.kind);
        wire::nested_head(&mut head, unknown::RAW, metadata.len() + content);
        // The old list of metadata has its items before its metadata; readers take fields in any order.
        head.extend(metadata);
        Some(Self { head, items })
    }

    /// Writes what stands before an item of that size.
    pub fn item(&self, out: &mut Vec<u8>, size: usize) {
        wire::nested_head(out, self.items, size);
    }

    /// What stands behind the last item.
    pub fn tail(&self) -> &'static [u8] {
        TAIL
    }
}

fn type_meta(out: &mut Vec<u8>, version: &str, kind: &str) {
    wire::nested(out, unknown::TYPE, |out| {
        wire::text(out, 1, version);
        wire::text(out, 2, kind);
    });
}

/// Encodes one event of a watch, with its length in front; `object` is what [`encode`] gave.
pub fn encode_event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = vec![0; LENGTH_BYTES];
    wire::text(&mut out, 1, kind);
    wire::nested(&mut out, 2, |out| wire::bytes(out, 1, object));
    let length = u32::try_from(out.len() - LENGTH_BYTES).unwrap_or(u32::MAX);
    out[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
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

/// The definition of a kind that can be written in protobuf: built-in kinds and their lists, and the kinds of the API
/// machinery itself (`Status`, options, discovery, metadata alone), some of which belong to every group.
pub fn definition_of(kind: &GroupVersionKind) -> Option<&'static Definition> {
    if let Some(def) = crate::by_kind(kind) {
        return definition(&def.schema);
    }
    if let Some(item) = crate::known().iter().find(|def| is_list_of(kind, def)) {
        let (package, _) = item.schema.rsplit_once('.')?;
        return definition(&format!("{package}.{}", kind.kind));
    }
    let own = match (kind.group.as_str(), kind.version.as_str(), kind.kind.as_str()) {
        ("apidiscovery.k8s.io", version, kind) => format!("io.k8s.api.apidiscovery.{version}.{kind}"),
        ("meta.k8s.io", "v1beta1", "PartialObjectMetadataList") => {
            "io.k8s.apimachinery.pkg.apis.meta.v1beta1.PartialObjectMetadataList".to_owned()
        }
        (_, _, kind) => format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"),
    };
    definition(&own)
}

fn is_list_of(kind: &GroupVersionKind, def: &crate::ResourceDef) -> bool {
    def.list_kind == kind.kind && def.version == kind.version && def.group == kind.group
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

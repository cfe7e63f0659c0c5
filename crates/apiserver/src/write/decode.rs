//! Step 3: from a request's body to the tree of the kind that the path names.

use std::borrow::Cow;

use serde_json::Value;
use skiff_kinds::decode::{self, Decoded, FieldValidation};
use skiff_kinds::{ResourceDef, protobuf};
use skiff_object::node::{Format, Node};
use skiff_object::{Object, Status};

use crate::call::Call;
use crate::custom;
use crate::failure::Result;
use crate::http::negotiate::content_type;
use crate::write::Target;

/// How deep an object may be nested. What is stored is read again with a limit of 128, and who owns which field is told
/// in it by a tree that is a few levels deeper.
const DEPTH_LIMIT: usize = 100;

/// The media types of request bodies; custom kinds do not take the last one.
const BODY_TYPES: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// A body as text, and its format, as its type says. Protobuf becomes the JSON that says the same.
fn text<'a>(call: &Call, body: &'a [u8]) -> Result<(Format, Cow<'a, [u8]>)> {
    // Options and scales are built-in kinds everywhere; a custom kind's own objects are unknown to protobuf.
    let writes_own = matches!(call.info.verb.as_str(), "create" | "update") && call.info.subresource != "scale";
    let is_custom = call.served.def.inline_schema.is_some() && writes_own;
    match content_type(&call.headers) {
        "" | "application/json" => Ok((Format::Json, body.into())),
        "application/yaml" => Ok((Format::Yaml, body.into())),
        protobuf::MEDIA_TYPE if !is_custom => Ok((Format::Json, transcode(body)?.into())),
        _ => Err(Status::unsupported_media_type(&BODY_TYPES[..if is_custom { 2 } else { 3 }]).into()),
    }
}

fn transcode(body: &[u8]) -> Result<Vec<u8>> {
    let tree = protobuf::tree(body).map_err(Status::bad_request)?;
    Ok(tree.to_string().into_bytes())
}

/// Reads the object that a create or an update carries, checked as the query asks.
pub fn checked(target: &Target<'_>, body: &[u8]) -> Result<Object> {
    let (format, body) = text(target.call, body)?;
    let decoded = decode::decode(&target.served.def, &body, format, strictness(target))?;
    warned(target, decoded)
}

/// Reads a body as another kind than the path's own; unknown fields are dropped.
pub fn as_kind(call: &Call, def: &ResourceDef, body: &[u8]) -> Result<Object> {
    let (format, body) = text(call, body)?;
    Ok(decode::decode(def, &body, format, FieldValidation::Ignore)?.object)
}

/// Brings what a patch made into the shape of the kind, checked as the query asks.
pub fn recheck(target: &Target<'_>, tree: Object) -> Result<Object> {
    let decoded = decode::decode_tree(&target.served.def, tree, strictness(target))?;
    warned(target, decoded)
}

/// How much the decoder refuses by itself. Of a custom kind it knows the metadata alone: what is wrong there is told
/// together with what the schema does not name.
fn strictness(target: &Target<'_>) -> FieldValidation {
    match target.options.field_validation {
        FieldValidation::Strict if target.served.def.inline_schema.is_some() => FieldValidation::Warn,
        asked => asked,
    }
}

/// Adds the warnings to the answer; what a custom kind's schema does not name is dropped, or an error.
fn warned(target: &Target<'_>, decoded: Decoded) -> Result<Object> {
    let mut object = decoded.object;
    if is_too_deep(&object, DEPTH_LIMIT) {
        let text = format!("the object is nested more than {DEPTH_LIMIT} levels deep");
        return Err(Status::bad_request(text).into());
    }
    let mut faults = decoded.warnings;
    if let Some(schema) = &target.served.def.inline_schema {
        let dropped = custom::schema::prune(schema, &mut object);
        faults.extend(dropped.iter().map(|path| format!("unknown field {path:?}")));
        faults.sort_by_key(|fault| !fault.starts_with("duplicate"));
        if target.options.field_validation == FieldValidation::Strict && !faults.is_empty() {
            let (kind, version) = (&target.served.def.kind, &target.served.def.version);
            let text = format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}",
                faults.join(", ")
            );
            return Err(Status::bad_request(text).into());
        }
    }
    if target.options.field_validation != FieldValidation::Ignore {
        faults.into_iter().for_each(|fault| target.call.warn(fault));
    }
    Ok(object)
}

/// Whether a tree has more levels than that.
fn is_too_deep(tree: &Value, levels: usize) -> bool {
    match tree {
        Value::Array(items) => levels == 0 || items.iter().any(|node| is_too_deep(node, levels - 1)),
        Value::Object(fields) => levels == 0 || fields.values().any(|node| is_too_deep(node, levels - 1)),
        _ => false,
    }
}

/// Reads a body as a tree of no particular kind; built-in kinds know no nulls, so that they are dropped.
pub fn tree(call: &Call, body: &[u8]) -> Result<Object> {
    let (format, body) = text(call, body)?;
    let node = Node::parse(&body, format).map_err(|error| Status::bad_request(error.to_string()))?;
    let mut tree = node.into_value();
    prune_nulls(&mut tree);
    Ok(tree)
}

fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

//! The shapes in which objects are shown: as they are, as `PartialObjectMetadata`, as rows of a `Table`.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables>.

use bytes::Bytes;
use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_kinds::{Column, ResourceDef};
use skiff_object::meta::Meta;
use skiff_object::{Object, Reason, Status};

use crate::call::Call;
use crate::codec;
use crate::failure::{Failure, Result};
use crate::http::answer::{self, Answer};
use crate::http::negotiate::{Accepted, Include, Media, Shape};
use crate::storage::catalogue::Served;

/// Answers with a stored object.
pub fn stored(call: &Call, code: u16, stored: &[u8], revision: u64) -> Result<Answer> {
    let as_stored = call.accepted.shape == Shape::Object && call.served.conversion.is_none();
    if as_stored && call.accepted.media != Media::Protobuf {
        let bytes = codec::sent(&call.served.heads.typed, stored, revision);
        return Ok(answer::json(code, bytes, &call.accepted));
    }
    let object = match call.accepted.shape {
        Shape::Metadata { .. } => decode_metadata(stored, revision)?,
        _ => decode(&call.served, stored, revision)?,
    };
    object_answer(call, code, &object)
}

/// Answers with an object.
pub fn object_answer(call: &Call, code: u16, object: &Object) -> Result<Answer> {
    if call.accepted.shape == (Shape::Metadata { list: true }) {
        return Err(not_in_shape(call, "PartialObjectMetadataList, but the requested object is not a list", ""));
    }
    let shaped = shape(&call.served.def, object, &call.accepted, call.now);
    Ok(answer::tree(code, shaped.as_ref().unwrap_or(object), &call.accepted))
}

/// 406 for an object that is wanted as a list, or a list that is wanted as an object.
pub fn not_in_shape(call: &Call, why: &str, suffix: &str) -> Failure {
    let def = &call.served.def;
    let group = def.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    let text = format!("you requested {why} (*{group}.{}{suffix})", def.kind);
    Status::failure(406, Reason::NotAcceptable, text).into()
}

/// Answers with a list of objects that are not stored.
pub fn list_answer(call: &Call, objects: &[Object]) -> Answer {
    let def = &call.served.def;
    let list = match call.accepted.shape {
        Shape::Table(include) => {
            let mut table = table_head(def, "");
            let rows = objects.iter().map(|object| row(def, object, include, call.now));
            table["rows"] = rows.collect();
            table
        }
        _ => json!({"kind": format!("{}List", def.kind), "apiVersion": def.group_version().to_string(),
            "metadata": {}, "items": objects}),
    };
    answer::tree(200, &list, &call.accepted)
}

/// Decodes stored bytes to the kind that is served.
pub fn decode(served: &Served, stored: &[u8], revision: u64) -> Result<Object> {
    let mut object = codec::decode_stored(&served.def, stored, revision)?;
    if let Some(conversion) = served.conversion {
        (conversion.from_storage)(&mut object);
    }
    Ok(object)
}

/// Decodes of stored bytes what `PartialObjectMetadata` shows.
pub fn decode_metadata(stored: &[u8], revision: u64) -> Result<Object> {
    let foreign = || Status::internal("a stored object does not begin with its metadata");
    let mut reader = serde_json::Deserializer::from_slice(codec::stored_metadata(stored).ok_or_else(foreign)?);
    let undecodable = |error| Status::internal(format_args!("decoding a stored object's metadata: {error}"));
    let mut metadata = <Object as serde::Deserialize>::deserialize(&mut reader).map_err(undecodable)?;
    metadata["resourceVersion"] = revision.to_string().into();
    metadata.remove_at(&["~"]);
    Ok(json!({"metadata": metadata}))
}

/// The object in another shape than its own, where one is asked for.
pub fn shape(def: &ResourceDef, object: &Object, accepted: &Accepted, now: Timestamp) -> Option<Object> {
    let mut shaped = match accepted.shape {
        Shape::Object => return None,
        Shape::Metadata { .. } => partial(object),
        Shape::Table(include) => {
            let mut table = table_head(def, object.resource_version());
            table["rows"] = vec![row(def, object, include, now)].into();
            table
        }
    };
    state_version(&mut shaped, accepted);
    Some(shaped)
}

/// Tables and metadata state the version that was asked for; they are the same in both.
pub fn state_version(shaped: &mut Object, accepted: &Accepted) {
    if accepted.is_beta {
        shaped["apiVersion"] = "meta.k8s.io/v1beta1".into();
    }
}

/// `PartialObjectMetadata` of an object.
pub fn partial(object: &Object) -> Object {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

/// A Table without rows.
pub fn table_head(def: &ResourceDef, revision: &str) -> Object {
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": revision},
        "columnDefinitions": columns(def),
        "rows": [],
    })
}

/// A Table's row.
pub fn row(def: &ResourceDef, object: &Object, include: Include, now: Timestamp) -> Value {
    let shown = match include {
        Include::None => Value::Null,
        Include::Metadata => partial(object),
        Include::Object => object.clone(),
    };
    json!({"cells": (def.row)(def, object, now), "object": shown})
}

fn columns(def: &ResourceDef) -> Value {
    if def.columns.is_empty() {
        return json!([
            {"name": "Name", "type": "string", "format": "name", "priority": 0,
             "description": "Name must be unique within a namespace. Is required when creating resources."},
            {"name": "Created At", "type": "date", "format": "", "priority": 0,
             "description": "CreationTimestamp is the server's time at which the object was created."},
        ]);
    }
    let column = |column: &Column| {
        json!({"name": column.name, "type": column.kind, "format": column.format,
               "description": column.description, "priority": column.priority})
    };
    def.columns.iter().map(column).collect()
}

/// Encodes plain data.
pub fn encode(object: &Object) -> Bytes {
    answer::to_json(object, false).into()
}

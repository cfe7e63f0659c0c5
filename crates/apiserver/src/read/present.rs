//! The shapes in which objects are shown: as they are, as `PartialObjectMetadata`, as rows of a `Table`.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables>.

use bytes::Bytes;
use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_kinds::{Column, ResourceDef};
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::call::Call;
use crate::codec;
use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::http::negotiate::{Include, Shape};
use crate::storage::catalogue::Served;

/// Answers with a stored object.
pub fn stored(call: &Call, code: u16, stored: &[u8], revision: u64) -> Result<Answer> {
    if call.accepted.shape == Shape::Object && call.served.conversion.is_none() {
        let bytes = codec::sent(&call.served.heads.typed, stored, revision);
        return Ok(answer::json(code, bytes, &call.accepted));
    }
    let object = decode(&call.served, stored, revision)?;
    Ok(object_answer(call, code, &object))
}

/// Answers with an object.
pub fn object_answer(call: &Call, code: u16, object: &Object) -> Answer {
    let shaped = shape(&call.served.def, object, call.accepted.shape, call.now);
    answer::tree(code, shaped.as_ref().unwrap_or(object), &call.accepted)
}

/// Answers with a list of objects that are not stored.
pub fn list_answer(call: &Call, objects: &[Object]) -> Answer {
    let def = &call.served.def;
    let list = match call.accepted.shape {
        Shape::Table(include) => {
            let mut table = table_head(def, "");
            table["rows"] = objects.iter().map(|object| row(def, object, include, call.now)).collect();
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

/// The object in another shape than its own, where one is asked for.
pub fn shape(def: &ResourceDef, object: &Object, shape: Shape, now: Timestamp) -> Option<Object> {
    match shape {
        Shape::Object => None,
        Shape::Metadata => Some(partial(object)),
        Shape::Table(include) => {
            let mut table = table_head(def, object.resource_version());
            table["rows"] = vec![row(def, object, include, now)].into();
            Some(table)
        }
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

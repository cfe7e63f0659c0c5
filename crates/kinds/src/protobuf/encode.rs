//! From trees to messages. As upstream's encoder does, numbers, texts and booleans that are not pointers are written
//! even when they are empty, and fields stand in the order of their numbers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::{is_special, json_bytes, wire};
use crate::schema::{Definition, Field, Presence, Shape, Type};

/// Writes the message of an object.
pub(super) fn message(out: &mut Vec<u8>, definition: &Definition, object: &Value) {
    if is_special(definition) {
        return special(out, definition, object);
    }
    level(out, definition, &definition.wire_order, 0, object);
}

/// Writes the fields whose numbers agree up to `depth`; those of embedded messages are nested.
fn level(out: &mut Vec<u8>, definition: &Definition, places: &[usize], depth: usize, object: &Value) {
    let of = |place: usize| &definition.fields[place];
    for group in places.chunk_by(|left, right| of(*left).numbers[depth] == of(*right).numbers[depth]) {
        let first = of(group[0]);
        let number = first.numbers[depth];
        if first.numbers.len() > depth + 1 {
            wire::nested(out, number, |out| level(out, definition, group, depth + 1, object));
        } else {
            field(out, number, first, object.get(first.name).filter(|value| !value.is_null()));
        }
    }
}

fn field(out: &mut Vec<u8>, number: u32, field: &Field, value: Option<&Value>) {
    let is_pointer = matches!(field.presence, Presence::Pointer | Presence::Nullable);
    match (&field.ty, value) {
        (Type::List(item), Some(Value::Array(items))) if is_list_message(field) => {
            wire::nested(out, number, |out| items.iter().for_each(|value| one(out, 1, item, value)));
        }
        (Type::List(item), Some(Value::Array(items))) => items.iter().for_each(|value| one(out, number, item, value)),
        (Type::Map(ty), Some(Value::Object(entries))) => {
            for (key, value) in entries {
                wire::nested(out, number, |out| {
                    wire::text(out, 1, key);
                    one(out, 2, ty, value);
                });
            }
        }
        (Type::List(_) | Type::Map(_), _) => {}
        (ty, Some(value)) => one(out, number, ty, value),
        (Type::Bytes, None) => {}
        (_, None) if is_pointer => {}
        (ty, None) => one(out, number, ty, &Value::Null),
    }
}

/// Lists that upstream gave a type of their own are a message around their items.
fn is_list_message(field: &Field) -> bool {
    field.go == Some("v1.Verbs")
}

/// Writes one value that is no list; null stands for an empty one.
fn one(out: &mut Vec<u8>, number: u32, ty: &Type, value: &Value) {
    match ty {
        Type::String => wire::text(out, number, value.as_str().unwrap_or("")),
        Type::Int32 | Type::Int64 => wire::integer(out, number, value.as_i64().unwrap_or(0)),
        Type::Bool => wire::integer(out, number, i64::from(value.as_bool().unwrap_or(false))),
        Type::Double => wire::double(out, number, value.as_f64().unwrap_or(0.0)),
        Type::Bytes => wire::bytes(out, number, &STANDARD.decode(value.as_str().unwrap_or("")).unwrap_or_default()),
        // A list as the value of a map is a message around its items.
        Type::List(item) => wire::nested(out, number, |out| {
            value.as_array().into_iter().flatten().for_each(|value| one(out, 1, item, value));
        }),
        Type::Map(_) => {}
        Type::Ref(_) => wire::nested(out, number, |out| {
            if let Some(definition) = ty.definition() {
                message(out, definition, value);
            }
        }),
    }
}

fn special(out: &mut Vec<u8>, definition: &Definition, value: &Value) {
    match (definition.shape, value) {
        (Shape::Quantity, _) => wire::text(out, 1, value.as_str().unwrap_or("0")),
        (Shape::IntOrString, _) => {
            wire::integer(out, 1, i64::from(value.is_string()));
            wire::integer(out, 2, value.as_i64().unwrap_or(0));
            wire::text(out, 3, value.as_str().unwrap_or(""));
        }
        (Shape::Time | Shape::MicroTime, Value::String(text)) => {
            let time: Timestamp = text.parse().unwrap_or_default();
            let nanos = if definition.shape == Shape::MicroTime { time.subsec_nanosecond() } else { 0 };
            wire::integer(out, 1, time.as_second());
            wire::integer(out, 2, i64::from(nanos));
        }
        (Shape::Raw, Value::Null) | (Shape::Any, Value::Null) => {}
        (Shape::Raw, value) => wire::bytes(out, 1, &json_bytes(value)),
        (Shape::Any, value) => any(out, definition, value),
        _ => {}
    }
}

/// Types of custom resource definitions that are one thing or another.
fn any(out: &mut Vec<u8>, definition: &Definition, value: &Value) {
    let schema = |out: &mut Vec<u8>, number: u32, value: &Value| {
        wire::nested(out, number, |out| {
            if let Some(definition) = json_schema(definition) {
                message(out, definition, value);
            }
        });
    };
    match (definition.short_name(), value) {
        ("JSON", value) => wire::bytes(out, 1, &json_bytes(value)),
        ("JSONSchemaPropsOrBool", Value::Bool(allows)) => wire::integer(out, 1, i64::from(*allows)),
        ("JSONSchemaPropsOrBool", value) => {
            wire::integer(out, 1, 1);
            schema(out, 2, value);
        }
        ("JSONSchemaPropsOrArray", Value::Array(all)) => all.iter().for_each(|value| schema(out, 2, value)),
        ("JSONSchemaPropsOrStringArray", Value::Array(all)) => {
            all.iter().for_each(|value| wire::text(out, 2, value.as_str().unwrap_or("")));
        }
        ("JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray", value) => schema(out, 1, value),
        _ => {}
    }
}

/// The schema type beside which a definition stands.
pub(super) fn json_schema(definition: &Definition) -> Option<&'static Definition> {
    crate::schema::definition(&format!("{}.JSONSchemaProps", definition.package()))
}

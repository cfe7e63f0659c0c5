//! From messages to trees. Fields that the table does not know are skipped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_object::{GroupVersion, GroupVersionKind, Map};

use super::encode::json_schema;
use super::{is_special, json_value, wire};
use crate::scalar;
use crate::schema::{Definition, Field, Shape, Type};

/// How deep messages may be nested; the deepest types of the API (schemas) are recursive.
const DEPTH_LIMIT: usize = 100;

/// The kind that a `runtime.Unknown` states.
pub(super) fn type_meta(bytes: &[u8]) -> Option<GroupVersionKind> {
    let mut out = GroupVersionKind::default();
    for field in wire::fields(bytes) {
        match field? {
            (1, wire::Value::Bytes(text)) => {
                let version = GroupVersion::parse(std::str::from_utf8(text).ok()?)?;
                (out.group, out.version) = (version.group, version.version);
            }
            (2, wire::Value::Bytes(text)) => out.kind = std::str::from_utf8(text).ok()?.to_owned(),
            _ => {}
        }
    }
    Some(out)
}

/// Reads the message of an object; `None` where it is malformed.
pub(super) fn message(definition: &Definition, bytes: &[u8]) -> Option<Value> {
    read(definition, bytes, DEPTH_LIMIT)
}

fn read(definition: &Definition, bytes: &[u8], depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    if is_special(definition) {
        return special(definition, bytes, depth);
    }
    let mut map = Map::new();
    level(&mut map, definition, &[], bytes, depth)?;
    Some(Value::Object(map))
}

/// Reads the fields of a message, or of one that is embedded under the numbers `above`.
fn level(map: &mut Map, definition: &Definition, above: &[u32], bytes: &[u8], depth: usize) -> Option<()> {
    for field in wire::fields(bytes) {
        let (number, value) = field?;
        let is_it = |numbers: &[u32]| numbers.starts_with(above) && numbers.get(above.len()) == Some(&number);
        match definition.fields.iter().find(|field| is_it(&field.numbers)) {
            Some(field) if field.numbers.len() > above.len() + 1 => {
                if let wire::Value::Bytes(bytes) = value {
                    level(map, definition, &[above, &[number]].concat(), bytes, depth)?;
                }
            }
            Some(field) => add(map, field, value, depth)?,
            None => {}
        }
    }
    Some(())
}

fn add(map: &mut Map, field: &Field, value: wire::Value<'_>, depth: usize) -> Option<()> {
    match &field.ty {
        Type::List(_) if field.go == Some("v1.Verbs") => {
            map.insert(field.name.to_owned(), one(&field.ty, value, depth)?);
        }
        Type::List(item) => {
            let entry = map.entry(field.name).or_insert_with(|| json!([]));
            let items = entry.as_array_mut()?;
            match (&**item, value) {
                (Type::Int32 | Type::Int64, wire::Value::Bytes(packed)) => {
                    items.extend(wire::packed(packed)?.into_iter().map(|value| json!(value as i64)));
                }
                (item, value) => items.push(one(item, value, depth)?),
            }
        }
        Type::Map(ty) => {
            let wire::Value::Bytes(bytes) = value else { return None };
            let (mut key, mut inner) = (String::new(), None);
            for field in wire::fields(bytes) {
                match field? {
                    (1, wire::Value::Bytes(text)) => key = std::str::from_utf8(text).ok()?.to_owned(),
                    (2, value) => inner = Some(one(ty, value, depth)?),
                    _ => {}
                }
            }
            let entry = map.entry(field.name).or_insert_with(|| json!({}));
            entry.as_object_mut()?.insert(key, inner.unwrap_or(Value::Null));
        }
        ty => {
            map.insert(field.name.to_owned(), one(ty, value, depth)?);
        }
    }
    Some(())
}

fn one(ty: &Type, value: wire::Value<'_>, depth: usize) -> Option<Value> {
    Some(match (ty, value) {
        (Type::String, wire::Value::Bytes(bytes)) => json!(std::str::from_utf8(bytes).ok()?),
        (Type::Bytes, wire::Value::Bytes(bytes)) => json!(STANDARD.encode(bytes)),
        (Type::Int32 | Type::Int64, wire::Value::Varint(value)) => json!(value as i64),
        (Type::Bool, wire::Value::Varint(value)) => json!(value != 0),
        (Type::Double, wire::Value::Fixed64(bits)) => json!(f64::from_bits(bits)),
        (Type::Ref(_), wire::Value::Bytes(bytes)) => read(ty.definition()?, bytes, depth)?,
        (Type::List(item), wire::Value::Bytes(bytes)) => {
            let items = wire::fields(bytes).map(|field| one(item, field?.1, depth));
            Value::Array(items.collect::<Option<_>>()?)
        }
        _ => return None,
    })
}

/// The last value of each of the first three fields.
fn parts(bytes: &[u8]) -> Option<[Option<wire::Value<'_>>; 3]> {
    let mut out = [None; 3];
    for field in wire::fields(bytes) {
        let (number, value) = field?;
        if let Some(slot) = usize::try_from(number).ok().and_then(|number| out.get_mut(number - 1)) {
            *slot = Some(value);
        }
    }
    Some(out)
}

fn special(definition: &Definition, bytes: &[u8], depth: usize) -> Option<Value> {
    let text = |value: Option<wire::Value<'_>>| match value {
        Some(wire::Value::Bytes(bytes)) => std::str::from_utf8(bytes).ok().map(str::to_owned),
        _ => Some(String::new()),
    };
    let number = |value: Option<wire::Value<'_>>| match value {
        Some(wire::Value::Varint(value)) => value as i64,
        _ => 0,
    };
    let [first, second, third] = parts(bytes)?;
    Some(match definition.shape {
        Shape::Quantity => json!(text(first)?),
        Shape::IntOrString if number(first) == 0 => json!(number(second)),
        Shape::IntOrString => json!(text(third)?),
        Shape::Time | Shape::MicroTime if first.is_none() => Value::Null,
        Shape::Time | Shape::MicroTime => {
            let time = Timestamp::new(number(first), i32::try_from(number(second)).ok()?).ok()?;
            json!(scalar::time(&time.to_string(), definition.shape == Shape::MicroTime).ok()?)
        }
        Shape::Raw => match first {
            Some(wire::Value::Bytes(raw)) => json_value(raw)?,
            _ => Value::Null,
        },
        Shape::Any => any(definition, bytes, depth)?,
        Shape::Struct => return None,
    })
}

fn any(definition: &Definition, bytes: &[u8], depth: usize) -> Option<Value> {
    let schema = |value: wire::Value<'_>| match value {
        wire::Value::Bytes(bytes) => read(json_schema(definition)?, bytes, depth),
        _ => None,
    };
    let name = definition.short_name();
    let mut out = if name == "CustomResourceSubresourceStatus" { json!({}) } else { Value::Null };
    let mut list = Vec::new();
    for field in wire::fields(bytes) {
        match (name, field?) {
            ("JSON", (1, wire::Value::Bytes(raw))) => out = json_value(raw)?,
            ("JSONSchemaPropsOrBool", (1, wire::Value::Varint(allows))) if !out.is_object() => out = json!(allows != 0),
            ("JSONSchemaPropsOrBool", (2, value)) => out = schema(value)?,
            ("JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray", (1, value)) => out = schema(value)?,
            ("JSONSchemaPropsOrArray", (2, value)) => list.push(schema(value)?),
            ("JSONSchemaPropsOrStringArray", (2, wire::Value::Bytes(text))) => {
                list.push(json!(std::str::from_utf8(text).ok()?));
            }
            _ => {}
        }
    }
    Some(if list.is_empty() { out } else { Value::Array(list) })
}

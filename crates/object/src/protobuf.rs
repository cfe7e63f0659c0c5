//! Protobuf bodies, read to the tree that JSON would have given. One reader for all kinds, driven by a table of
//! messages that the caller has; a few messages have a JSON form of their own.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>.

use std::sync::Arc;

use serde_json::Value;

use crate::Map;

/// How a protobuf body begins.
const MAGIC: &[u8] = b"k8s\0";
/// Messages in messages deeper than this are an attack.
const MAX_DEPTH: usize = 200;
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// The type of a field's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    String,
    /// True or false.
    Bool,
    /// A whole number of up to 64 bits.
    Integer,
    /// A floating-point number.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// Another message, by name.
    Message(Arc<str>),
}

/// How many values a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One; zero means absent where `omit_empty` is set.
    Single,
    /// One, and zero is a value: a pointer upstream.
    Pointer,
    /// A list.
    List,
    /// A map with text keys.
    Map,
}

/// A field of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The number on the wire.
    pub number: u64,
    /// The name in JSON; empty where the message's fields stand in its parent's place.
    pub name: Arc<str>,
    /// Whether an empty value is left out.
    pub omit_empty: bool,
    /// How many values.
    pub shape: Shape,
    /// Of which type.
    pub kind: Kind,
}

/// Where the shapes of messages are looked up.
pub trait Messages {
    /// The fields of a message.
    fn fields(&self, message: &str) -> Option<Arc<[Field]>>;
}

/// Why a body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The body does not begin as a protobuf body does.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The wire format is broken.
    #[error("proto: {0}")]
    Wire(&'static str),
    /// The message is not known.
    #[error("no protobuf message {0:?} is known")]
    Unknown(String),
}

type Outcome<T> = Result<T, ProtobufError>;

/// What is in the envelope of a body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope<'a> {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// The message itself.
    pub raw: &'a [u8],
}

/// Opens the envelope of a body.
///
/// # Errors
/// The body is no protobuf body.
pub fn open(body: &[u8]) -> Outcome<Envelope<'_>> {
    let mut reader = Reader(body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?);
    let mut envelope = Envelope::default();
    while let Some((number, value)) = reader.next()? {
        match (number, value) {
            (1, Wire::Bytes(bytes)) => {
                let mut meta = Reader(bytes);
                while let Some((number, value)) = meta.next()? {
                    match (number, value) {
                        (1, Wire::Bytes(bytes)) => envelope.api_version = text(bytes)?,
                        (2, Wire::Bytes(bytes)) => envelope.kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => envelope.raw = bytes,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Reads a message to the tree that JSON would have given.
///
/// # Errors
/// The bytes are no such message, or the message is not known.
pub fn decode(messages: &dyn Messages, message: &str, raw: &[u8]) -> Outcome<Map> {
    let mut map = Map::new();
    decode_into(messages, message, raw, &mut map, 0)?;
    Ok(map)
}

fn decode_into(messages: &dyn Messages, message: &str, raw: &[u8], map: &mut Map, depth: usize) -> Outcome<()> {
    if depth > MAX_DEPTH {
        return Err(ProtobufError::Wire("messages are nested too deeply"));
    }
    let fields = messages.fields(message).ok_or_else(|| ProtobufError::Unknown(message.to_owned()))?;
    let mut reader = Reader(raw);
    while let Some((number, wire)) = reader.next()? {
        // What is not known comes from a newer client and is dropped, as upstream drops it.
        let Some(field) = fields.iter().find(|field| field.number == number) else { continue };
        if let (true, Kind::Message(inner), Wire::Bytes(bytes)) = (field.name.is_empty(), &field.kind, &wire) {
            decode_into(messages, inner, bytes, map, depth + 1)?;
            continue;
        }
        match field.shape {
            Shape::List => {
                let items = map.entry(field.name.as_ref()).or_insert_with(|| Value::Array(Vec::new()));
                let items = items.as_array_mut().ok_or(ProtobufError::Wire("a list and a value share a name"))?;
                list_items(messages, field, &wire, items, depth)?;
            }
            Shape::Map => {
                let (key, value) = map_entry(messages, field, &wire, depth)?;
                let entries = map.entry(field.name.as_ref()).or_insert_with(|| Value::Object(Map::new()));
                let entries = entries.as_object_mut().ok_or(ProtobufError::Wire("a map and a value share a name"))?;
                entries.insert(key, value);
            }
            Shape::Single | Shape::Pointer => {
                let value = value(messages, &field.kind, &wire, depth)?;
                let dropped = value.is_null() || (field.shape == Shape::Single && field.omit_empty && is_zero(&value));
                if !dropped {
                    map.insert(field.name.to_string(), value);
                }
            }
        }
    }
    Ok(())
}

/// Whether a scalar is what upstream leaves out; messages never are.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

fn list_items(
    messages: &dyn Messages,
    field: &Field,
    wire: &Wire<'_>,
    items: &mut Vec<Value>,
    depth: usize,
) -> Outcome<()> {
    // Numbers may come packed into one field.
    if let (Kind::Integer | Kind::Bool, Wire::Bytes(packed)) = (&field.kind, wire) {
        let mut reader = Reader(packed);
        while !reader.0.is_empty() {
            let number = Wire::Number(reader.varint()?);
            items.push(value(messages, &field.kind, &number, depth)?);
        }
        return Ok(());
    }
    items.push(value(messages, &field.kind, wire, depth)?);
    Ok(())
}

fn map_entry(messages: &dyn Messages, field: &Field, wire: &Wire<'_>, depth: usize) -> Outcome<(String, Value)> {
    let Wire::Bytes(bytes) = wire else { return Err(ProtobufError::Wire("a map entry is no message")) };
    let (mut key, mut found) = (String::new(), None);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, &wire) {
            (1, Wire::Bytes(bytes)) => key = text(bytes)?,
            (2, _) => found = Some(value(messages, &field.kind, &wire, depth)?),
            _ => {}
        }
    }
    let value = match found {
        Some(value) => value,
        None => empty(messages, &field.kind, depth)?,
    };
    Ok((key, value))
}

/// What an absent value of a map entry means.
fn empty(messages: &dyn Messages, kind: &Kind, depth: usize) -> Outcome<Value> {
    match kind {
        Kind::String | Kind::Bytes => Ok("".into()),
        Kind::Bool => Ok(false.into()),
        Kind::Integer | Kind::Double => Ok(0.into()),
        Kind::Message(_) => value(messages, kind, &Wire::Bytes(&[]), depth),
    }
}

fn value(messages: &dyn Messages, kind: &Kind, wire: &Wire<'_>, depth: usize) -> Outcome<Value> {
    Ok(match (kind, wire) {
        (Kind::String, Wire::Bytes(bytes)) => text(bytes)?.into(),
        (Kind::Bytes, Wire::Bytes(bytes)) => base64(bytes).into(),
        (Kind::Bool, Wire::Number(number)) => (*number != 0).into(),
        // Negative numbers come as their two's complement in 64 bits.
        (Kind::Integer, Wire::Number(number)) => (*number as i64).into(),
        (Kind::Double, Wire::Fixed(bits)) => f64::from_bits(*bits).into(),
        (Kind::Message(name), Wire::Bytes(bytes)) => match special(messages, name, bytes, depth)? {
            Some(value) => value,
            None => {
                let mut map = Map::new();
                decode_into(messages, name, bytes, &mut map, depth + 1)?;
                Value::Object(map)
            }
        },
        _ => return Err(ProtobufError::Wire("wrong wireType")),
    })
}

/// The messages whose JSON is not an object of their fields.
fn special(messages: &dyn Messages, name: &str, raw: &[u8], depth: usize) -> Outcome<Option<Value>> {
    let fields = || Reader(raw).all();
    let first = |number: u64| -> Outcome<Option<Wire<'_>>> {
        Ok(fields()?.into_iter().find(|(other, _)| *other == number).map(|(_, wire)| wire))
    };
    let bytes = |number: u64| -> Outcome<&[u8]> {
        Ok(match first(number)? {
            Some(Wire::Bytes(bytes)) => bytes,
            _ => &[],
        })
    };
    let number = |number: u64| -> Outcome<u64> {
        Ok(match first(number)? {
            Some(Wire::Number(value)) => value,
            _ => 0,
        })
    };
    let message = |inner: &[u8]| -> Outcome<Value> {
        let mut map = Map::new();
        decode_into(messages, "apiextensions.v1.JSONSchemaProps", inner, &mut map, depth + 1)?;
        Ok(Value::Object(map))
    };
    Ok(Some(match name {
        "Quantity" => text(bytes(1)?)?.into(),
        "IntOrString" if number(1)? == 0 => (number(2)? as i32).into(),
        "IntOrString" => text(bytes(3)?)?.into(),
        "Time" | "MicroTime" if raw.is_empty() => Value::Null,
        "Time" | "MicroTime" => time(number(1)? as i64, number(2)? as i32, name == "MicroTime")?,
        "RawExtension" | "FieldsV1" | "Json" => embedded(messages, bytes(1)?, depth)?,
        "Items" => fields()?
            .into_iter()
            .filter_map(|(_, wire)| if let Wire::Bytes(bytes) = wire { Some(text(bytes)) } else { None })
            .collect::<Outcome<Vec<String>>>()?
            .into(),
        "SchemaOrBool" if first(2)?.is_some() => message(bytes(2)?)?,
        "SchemaOrBool" => (number(1)? != 0).into(),
        "SchemaOrArray" if first(1)?.is_some() => message(bytes(1)?)?,
        "SchemaOrArray" => repeated(&fields()?, 2).map(message).collect::<Outcome<Vec<_>>>()?.into(),
        "SchemaOrStringArray" if first(1)?.is_some() => message(bytes(1)?)?,
        "SchemaOrStringArray" => repeated(&fields()?, 2).map(text).collect::<Outcome<Vec<_>>>()?.into(),
        _ => return Ok(None),
    }))
}

fn repeated<'a>(fields: &'a [(u64, Wire<'a>)], number: u64) -> impl Iterator<Item = &'a [u8]> {
    fields.iter().filter_map(move |(other, wire)| match wire {
        Wire::Bytes(bytes) if *other == number => Some(*bytes),
        _ => None,
    })
}

/// An object inside an object: JSON as it is, or a body of its own.
fn embedded(messages: &dyn Messages, raw: &[u8], depth: usize) -> Outcome<Value> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    if !raw.starts_with(MAGIC) {
        return serde_json::from_slice(raw).map_err(|_| ProtobufError::Wire("an embedded object is no JSON"));
    }
    let envelope = open(raw)?;
    let name = message_name(&envelope.api_version, &envelope.kind);
    let mut map = Map::new();
    map.insert("apiVersion".into(), envelope.api_version.as_str().into());
    map.insert("kind".into(), envelope.kind.as_str().into());
    decode_into(messages, &name, envelope.raw, &mut map, depth + 1)?;
    Ok(Value::Object(map))
}

/// The message of a kind: `apps.v1.Deployment`, `core.v1.Pod`, `meta.DeleteOptions`.
pub fn message_name(api_version: &str, kind: &str) -> String {
    if matches!(kind, "DeleteOptions" | "Status" | "PartialObjectMetadata" | "PartialObjectMetadataList") {
        return format!("meta.{kind}");
    }
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("core", api_version));
    let package = group.split('.').next().unwrap_or(group);
    format!("{package}.{version}.{kind}")
}

fn time(seconds: i64, nanos: i32, micro: bool) -> Outcome<Value> {
    let at = skiff_base::Timestamp::new(seconds, if micro { nanos } else { 0 });
    let at = at.map_err(|_| ProtobufError::Wire("a time is out of range"))?;
    Ok(if micro { skiff_base::clock::rfc3339_micro(at) } else { skiff_base::clock::rfc3339(at) }.into())
}

fn text(bytes: &[u8]) -> Outcome<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Wire("a text is not UTF-8"))
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A value on the wire.
#[derive(Debug, Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// Reads fields off bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn all(mut self) -> Outcome<Vec<(u64, Wire<'a>)>> {
        let mut fields = Vec::new();
        while let Some(field) = self.next()? {
            fields.push(field);
        }
        Ok(fields)
    }

    fn next(&mut self) -> Outcome<Option<(u64, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            VARINT => Wire::Number(self.varint()?),
            FIXED64 => Wire::Fixed(u64::from_le_bytes(self.array()?)),
            FIXED32 => Wire::Fixed(u64::from(u32::from_le_bytes(self.array()?))),
            BYTES => {
                let length =
                    usize::try_from(self.varint()?).map_err(|_| ProtobufError::Wire("a length is too large"))?;
                Wire::Bytes(self.take(length)?)
            }
            _ => return Err(ProtobufError::Wire("illegal wireType")),
        };
        Ok(Some((tag >> 3, wire)))
    }

    fn varint(&mut self) -> Outcome<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Wire("integer overflow"))
    }

    fn take(&mut self, length: usize) -> Outcome<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ProtobufError::Wire("unexpected EOF"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("exactly so many bytes were taken"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Table;

    impl Messages for Table {
        fn fields(&self, message: &str) -> Option<Arc<[Field]>> {
            let field = |number, name: &str, omit_empty, shape, kind| Field {
                number,
                name: name.into(),
                omit_empty,
                shape,
                kind,
            };
            let message_kind = |name: &str| Kind::Message(name.into());
            let fields = match message {
                "core.v1.Thing" => vec![
                    field(1, "name", false, Shape::Single, Kind::String),
                    field(2, "count", true, Shape::Single, Kind::Integer),
                    field(3, "replicas", true, Shape::Pointer, Kind::Integer),
                    field(4, "labels", true, Shape::Map, Kind::String),
                    field(5, "", true, Shape::Single, message_kind("Source")),
                    field(6, "limits", true, Shape::Map, message_kind("Quantity")),
                    field(7, "port", true, Shape::Single, message_kind("IntOrString")),
                    field(8, "created", true, Shape::Single, message_kind("Time")),
                    field(9, "data", true, Shape::Single, Kind::Bytes),
                    field(10, "items", true, Shape::List, Kind::String),
                ],
                "Source" => vec![field(1, "path", true, Shape::Single, Kind::String)],
                _ => return None,
            };
            Some(fields.into())
        }
    }

    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, value.len() as u8][..], value].concat()
    }

    #[test]
    fn a_message_becomes_the_tree_that_json_gives() {
        let raw = [
            bytes(1, b""),
            vec![2 << 3, 0],
            vec![3 << 3, 0],
            bytes(4, &[bytes(1, b"a"), bytes(2, b"b")].concat()),
            bytes(5, &bytes(1, b"/x")),
            bytes(6, &[bytes(1, b"cpu"), bytes(2, &bytes(1, b"100m"))].concat()),
            bytes(7, &[vec![1 << 3, 1], bytes(3, b"http")].concat()),
            bytes(8, &[1 << 3, 60]),
            bytes(9, b"hi"),
            bytes(10, b"one"),
            bytes(10, b"two"),
            bytes(15, b"from the future"),
        ]
        .concat();
        let expected = json!({
            "name": "", "replicas": 0, "labels": {"a": "b"}, "path": "/x", "limits": {"cpu": "100m"}, "port": "http",
            "created": "1970-01-01T00:01:00Z", "data": "aGk=", "items": ["one", "two"],
        });
        assert_eq!(Value::Object(decode(&Table, "core.v1.Thing", &raw).expect("valid")), expected);
    }

    #[test]
    fn broken_bytes_are_refused() {
        for raw in [&[0x0a, 5, b'x'][..], &[0xff; 12], &[0x0b], &[0x08, 1]] {
            assert!(decode(&Table, "core.v1.Thing", raw).is_err(), "{raw:?}");
        }
        assert_eq!(open(b"{}"), Err(ProtobufError::NoMagic));
    }

    #[test]
    fn kinds_have_messages() {
        assert_eq!(message_name("v1", "Pod"), "core.v1.Pod");
        assert_eq!(message_name("rbac.authorization.k8s.io/v1", "Role"), "rbac.v1.Role");
        assert_eq!(message_name("v1", "DeleteOptions"), "meta.DeleteOptions");
    }
}

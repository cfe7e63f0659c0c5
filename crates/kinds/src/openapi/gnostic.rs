//! The v2 document in protobuf, by the messages of gnostic's `openapi.v2`, as discovery clients ask for it.
//! See <https://github.com/google/gnostic/blob/main/openapiv2/OpenAPIv2.proto>.

use serde_json::{Map, Value};

use crate::protobuf::wire;

/// How a field of a message is written.
enum Form {
    Text,
    Bool,
    Integer,
    Double,
    /// A repeated text.
    Texts,
    /// A value of any type, as YAML.
    Any,
    /// A repeated value of any type.
    Anys,
    /// Another message.
    Message(fn(&mut Vec<u8>, &Value)),
    /// A repeated message.
    Messages(fn(&mut Vec<u8>, &Value)),
}

/// A field: its name in JSON, its number, its form.
type Field = (&'static str, u32, Form);

const DOCUMENT: [Field; 6] = [
    ("swagger", 1, Form::Text),
    ("info", 2, Form::Message(info)),
    ("paths", 8, Form::Message(paths)),
    ("definitions", 9, Form::Message(schemas)),
    ("security", 12, Form::Messages(requirement)),
    ("securityDefinitions", 13, Form::Message(securities)),
];

const SCHEMA: [Field; 27] = [
    ("$ref", 1, Form::Text),
    ("format", 2, Form::Text),
    ("title", 3, Form::Text),
    ("description", 4, Form::Text),
    ("default", 5, Form::Any),
    ("multipleOf", 6, Form::Double),
    ("maximum", 7, Form::Double),
    ("exclusiveMaximum", 8, Form::Bool),
    ("minimum", 9, Form::Double),
    ("exclusiveMinimum", 10, Form::Bool),
    ("maxLength", 11, Form::Integer),
    ("minLength", 12, Form::Integer),
    ("pattern", 13, Form::Text),
    ("maxItems", 14, Form::Integer),
    ("minItems", 15, Form::Integer),
    ("uniqueItems", 16, Form::Bool),
    ("maxProperties", 17, Form::Integer),
    ("minProperties", 18, Form::Integer),
    ("required", 19, Form::Texts),
    ("enum", 20, Form::Anys),
    ("additionalProperties", 21, Form::Message(additional)),
    ("type", 22, Form::Message(type_item)),
    ("items", 23, Form::Message(items)),
    ("allOf", 24, Form::Messages(schema)),
    ("properties", 25, Form::Message(schemas)),
    ("readOnly", 27, Form::Bool),
    ("example", 30, Form::Any),
];
/// The number of a schema's extensions.
const SCHEMA_EXTENSIONS: u32 = 31;

const PATH_ITEM: [Field; 8] = [
    ("get", 2, Form::Message(operation)),
    ("put", 3, Form::Message(operation)),
    ("post", 4, Form::Message(operation)),
    ("delete", 5, Form::Message(operation)),
    ("options", 6, Form::Message(operation)),
    ("head", 7, Form::Message(operation)),
    ("patch", 8, Form::Message(operation)),
    ("parameters", 9, Form::Messages(parameter)),
];

const OPERATION: [Field; 9] = [
    ("tags", 1, Form::Texts),
    ("summary", 2, Form::Text),
    ("description", 3, Form::Text),
    ("operationId", 5, Form::Text),
    ("produces", 6, Form::Texts),
    ("consumes", 7, Form::Texts),
    ("parameters", 8, Form::Messages(parameter)),
    ("responses", 9, Form::Message(responses)),
    ("schemes", 10, Form::Texts),
];
/// The number of an operation's extensions.
const OPERATION_EXTENSIONS: u32 = 13;

const BODY_PARAMETER: [Field; 5] = [
    ("description", 1, Form::Text),
    ("name", 2, Form::Text),
    ("in", 3, Form::Text),
    ("required", 4, Form::Bool),
    ("schema", 5, Form::Message(schema)),
];

const QUERY_PARAMETER: [Field; 7] = [
    ("required", 1, Form::Bool),
    ("in", 2, Form::Text),
    ("description", 3, Form::Text),
    ("name", 4, Form::Text),
    ("type", 6, Form::Text),
    ("format", 7, Form::Text),
    ("uniqueItems", 20, Form::Bool),
];

const PATH_PARAMETER: [Field; 7] = [
    ("required", 1, Form::Bool),
    ("in", 2, Form::Text),
    ("description", 3, Form::Text),
    ("name", 4, Form::Text),
    ("type", 5, Form::Text),
    ("format", 6, Form::Text),
    ("uniqueItems", 19, Form::Bool),
];

const API_KEY: [Field; 4] =
    [("type", 1, Form::Text), ("name", 2, Form::Text), ("in", 3, Form::Text), ("description", 4, Form::Text)];

/// Writes a v2 document.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    fields(&mut out, &DOCUMENT, document);
    out
}

fn fields(out: &mut Vec<u8>, message: &[Field], value: &Value) {
    for (name, number, form) in message {
        let Some(value) = value.get(*name) else { continue };
        let items = || value.as_array().into_iter().flatten();
        match form {
            Form::Text => text(out, *number, value.as_str().unwrap_or("")),
            Form::Bool if value == &Value::Bool(true) => wire::integer(out, *number, 1),
            Form::Bool => {}
            Form::Integer => match value.as_i64() {
                None | Some(0) => {}
                Some(whole) => wire::integer(out, *number, whole),
            },
            Form::Double => match value.as_f64() {
                None | Some(0.0) => {}
                Some(real) => wire::double(out, *number, real),
            },
            Form::Texts => items().for_each(|item| wire::text(out, *number, item.as_str().unwrap_or(""))),
            Form::Any => wire::nested(out, *number, |out| any(out, value)),
            Form::Anys => items().for_each(|item| wire::nested(out, *number, |out| any(out, item))),
            Form::Message(write) => wire::nested(out, *number, |out| write(out, value)),
            Form::Messages(write) => items().for_each(|item| wire::nested(out, *number, |out| write(out, item))),
        }
    }
}

fn text(out: &mut Vec<u8>, number: u32, text: &str) {
    if !text.is_empty() {
        wire::text(out, number, text);
    }
}

/// JSON is YAML.
fn any(out: &mut Vec<u8>, value: &Value) {
    wire::text(out, 2, &value.to_string());
}

/// A map, as a list of pairs in field `number`.
fn pairs(out: &mut Vec<u8>, number: u32, map: Option<&Map<String, Value>>, write: fn(&mut Vec<u8>, &Value)) {
    for (name, value) in map.into_iter().flatten() {
        wire::nested(out, number, |out| {
            text(out, 1, name);
            wire::nested(out, 2, |out| write(out, value));
        });
    }
}

fn extensions(out: &mut Vec<u8>, number: u32, value: &Value) {
    for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        wire::nested(out, number, |out| {
            text(out, 1, name);
            wire::nested(out, 2, |out| any(out, value));
        });
    }
}

fn info(out: &mut Vec<u8>, value: &Value) {
    fields(out, &[("title", 1, Form::Text), ("version", 2, Form::Text)], value);
}

fn paths(out: &mut Vec<u8>, value: &Value) {
    pairs(out, 2, value.as_object(), path_item);
}

fn path_item(out: &mut Vec<u8>, value: &Value) {
    fields(out, &PATH_ITEM, value);
}

fn operation(out: &mut Vec<u8>, value: &Value) {
    fields(out, &OPERATION, value);
    extensions(out, OPERATION_EXTENSIONS, value);
}

/// A parameter is nested in the messages that tell of which sort it is.
fn parameter(out: &mut Vec<u8>, value: &Value) {
    wire::nested(out, 1, |out| match value["in"].as_str() {
        Some("body") => wire::nested(out, 1, |out| fields(out, &BODY_PARAMETER, value)),
        place => wire::nested(out, 2, |out| {
            if place == Some("path") {
                wire::nested(out, 4, |out| fields(out, &PATH_PARAMETER, value));
            } else {
                wire::nested(out, 3, |out| fields(out, &QUERY_PARAMETER, value));
            }
        }),
    });
}

fn responses(out: &mut Vec<u8>, value: &Value) {
    pairs(out, 1, value.as_object(), |out, value| wire::nested(out, 1, |out| response(out, value)));
}

fn response(out: &mut Vec<u8>, value: &Value) {
    text(out, 1, value["description"].as_str().unwrap_or(""));
    if let Some(of) = value.get("schema") {
        wire::nested(out, 2, |out| wire::nested(out, 1, |out| schema(out, of)));
    }
}

fn schemas(out: &mut Vec<u8>, value: &Value) {
    pairs(out, 1, value.as_object(), schema);
}

fn schema(out: &mut Vec<u8>, value: &Value) {
    fields(out, &SCHEMA, value);
    extensions(out, SCHEMA_EXTENSIONS, value);
}

fn additional(out: &mut Vec<u8>, value: &Value) {
    match value {
        // One of two: it is written even where it is false.
        Value::Bool(allowed) => wire::integer(out, 2, i64::from(*allowed)),
        value => wire::nested(out, 1, |out| schema(out, value)),
    }
}

fn type_item(out: &mut Vec<u8>, value: &Value) {
    wire::text(out, 1, value.as_str().unwrap_or(""));
}

fn items(out: &mut Vec<u8>, value: &Value) {
    wire::nested(out, 1, |out| schema(out, value));
}

fn requirement(out: &mut Vec<u8>, value: &Value) {
    pairs(out, 1, value.as_object(), |out, scopes| {
        for scope in scopes.as_array().into_iter().flatten() {
            wire::text(out, 1, scope.as_str().unwrap_or(""));
        }
    });
}

fn securities(out: &mut Vec<u8>, value: &Value) {
    pairs(out, 1, value.as_object(), |out, value| wire::nested(out, 2, |out| fields(out, &API_KEY, value)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_written_by_gnostics_numbers() {
        let mut out = Vec::new();
        schema(&mut out, &json!({"type": "object", "x-a": [1], "additionalProperties": false, "maximum": 0}));
        let additional = b"\xaa\x01\x02\x10\x00";
        let kind = b"\xb2\x01\x08\x0a\x06object";
        let extension = b"\xfa\x01\x0c\x0a\x03x-a\x12\x05\x12\x03[1]";
        assert_eq!(out, [&additional[..], kind, extension].concat());
    }

    #[test]
    fn every_key_of_the_document_is_written() {
        let document = super::super::v2_document(crate::builtin());
        let mut unknown = std::collections::BTreeSet::new();
        let known = |message: &[Field], value: &Value, unknown: &mut std::collections::BTreeSet<String>| {
            let keys = value.as_object().expect("a map").keys();
            let new = keys.filter(|key| !key.starts_with("x-") && !message.iter().any(|field| field.0 == *key));
            unknown.extend(new.cloned());
        };
        known(&DOCUMENT, &document, &mut unknown);
        for item in document["paths"].as_object().expect("paths").values() {
            known(&PATH_ITEM, item, &mut unknown);
            for (name, part) in item.as_object().expect("a map") {
                if name != "parameters" {
                    known(&OPERATION, part, &mut unknown);
                }
            }
        }
        for definition in document["definitions"].as_object().expect("definitions").values() {
            known(&SCHEMA, definition, &mut unknown);
            for property in definition["properties"].as_object().into_iter().flatten().map(|(_, value)| value) {
                known(&SCHEMA, property, &mut unknown);
            }
        }
        assert_eq!(unknown, std::collections::BTreeSet::new());
    }
}

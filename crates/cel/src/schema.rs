//! Schemas of custom resources, as far as expressions need them: which type a node has in an expression, how large its
//! values may be, and how a JSON value is seen through it.
//! See <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules>.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::types::{Decl, ObjectType, Type};

/// The largest request, which bounds what a value without limits of its own may hold.
const REQUEST_BYTES: u64 = 3 * 1024 * 1024;
const LEAST_STRING: u64 = 2;
const LEAST_DURATION: u64 = 3;
const MOST_DURATION: u64 = 32;
const DATE_BYTES: u64 = 12;
const LEAST_DATETIME: u64 = 21;
const MOST_DATETIME: u64 = 37;
/// How deep a schema is followed.
pub const DEPTH_LIMIT: usize = 64;

/// What kind of value a schema describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `x-kubernetes-int-or-string`
    IntOrString,
    /// `string`
    String,
    /// `string`, format `byte`
    Bytes,
    /// `string`, format `duration`
    Duration,
    /// `string`, format `date`
    Date,
    /// `string`, format `date-time`
    DateTime,
    /// `integer`
    Integer,
    /// `number`
    Number,
    /// `boolean`
    Boolean,
    /// `array`
    List,
    /// `object` with properties
    Object,
    /// `object` with additional properties
    Map,
    /// No type: its values are not seen in expressions.
    Hidden,
}

/// How the items of a list are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// By position.
    Atomic,
    /// Each is there once.
    Set,
    /// By these keys.
    Map(Vec<String>),
}

/// A schema, as expressions see it.
#[derive(Debug)]
pub struct Schema {
    /// What it describes.
    pub kind: Kind,
    /// The fields of an object, by their names in JSON, with their names in expressions.
    pub fields: BTreeMap<String, Arc<Schema>>,
    /// The items of a list or the values of a map.
    pub item: Option<Arc<Schema>>,
    /// How a list's items are told apart.
    pub list: ListKind,
    /// The type in expressions; `None` where it is not seen in them.
    pub decl: Option<Arc<Decl>>,
}

impl Schema {
    /// Reads a schema; `root` tells that it is that of a whole (or embedded) resource.
    pub fn read(json: &Json, root: bool, name: &str) -> Arc<Self> {
        Arc::new(read(json, root, name, 0))
    }
}

fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json.get(key).and_then(Json::as_str).unwrap_or("")
}

fn flag(json: &Json, key: &str) -> bool {
    json.get(key).and_then(Json::as_bool).unwrap_or(false)
}

fn count(json: &Json, key: &str) -> Option<u64> {
    json.get(key).and_then(Json::as_i64).map(|value| value.max(0) as u64)
}

fn read(json: &Json, root: bool, name: &str, depth: usize) -> Schema {
    let mut schema =
        Schema { kind: kind(json), fields: BTreeMap::new(), item: None, list: list_kind(json), decl: None };
    if depth > DEPTH_LIMIT {
        schema.kind = Kind::Hidden;
        return schema;
    }
    let below =
        |json: &Json, name: &str| Arc::new(read(json, flag(json, "x-kubernetes-embedded-resource"), name, depth + 1));
    match schema.kind {
        Kind::List => schema.item = json.get("items").map(|items| below(items, &format!("{name}.@idx"))),
        Kind::Map => {
            let values = json.get("additionalProperties");
            schema.item = values.map(|values| below(values, &format!("{name}.@elem")));
        }
        Kind::Object => {
            for (field, property) in json.get("properties").and_then(Json::as_object).into_iter().flatten() {
                schema.fields.insert(field.clone(), below(property, &format!("{name}.{field}")));
            }
            if root {
                add_resource_fields(&mut schema.fields, name);
            }
        }
        _ => {}
    }
    schema.decl = decl(&schema, json, name);
    schema
}

fn kind(json: &Json) -> Kind {
    if flag(json, "x-kubernetes-int-or-string") {
        return Kind::IntOrString;
    }
    match (text(json, "type"), text(json, "format")) {
        ("string", "byte") => Kind::Bytes,
        ("string", "duration") => Kind::Duration,
        ("string", "date") => Kind::Date,
        ("string", "date-time") => Kind::DateTime,
        ("string", _) => Kind::String,
        ("integer", _) => Kind::Integer,
        ("number", _) => Kind::Number,
        ("boolean", _) => Kind::Boolean,
        ("array", _) => Kind::List,
        ("object", _) if json.get("additionalProperties").is_some_and(Json::is_object) => Kind::Map,
        ("object", _) => Kind::Object,
        _ => Kind::Hidden,
    }
}

fn list_kind(json: &Json) -> ListKind {
    match text(json, "x-kubernetes-list-type") {
        "set" => ListKind::Set,
        "map" => {
            let keys = json.get("x-kubernetes-list-map-keys").and_then(Json::as_array);
            ListKind::Map(keys.into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect())
        }
        _ => ListKind::Atomic,
    }
}

/// Every resource shows its type and its name, whatever its schema says of them.
fn add_resource_fields(fields: &mut BTreeMap<String, Arc<Schema>>, name: &str) {
    let string = || Schema::read(&serde_json::json!({"type": "string"}), false, name);
    let is_whole =
        ["kind", "apiVersion"].iter().all(|field| fields.get(*field).is_some_and(|s| s.kind == Kind::String))
            && fields.get("metadata").is_some_and(|metadata| {
                ["name", "generateName"]
                    .iter()
                    .all(|field| metadata.fields.get(*field).is_some_and(|s| s.kind == Kind::String))
            });
    if is_whole {
        return;
    }
    fields.insert("kind".into(), string());
    fields.insert("apiVersion".into(), string());
    let metadata = serde_json::json!({"type": "object",
        "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}}});
    fields.insert("metadata".into(), Schema::read(&metadata, false, &format!("{name}.metadata")));
}

fn decl(schema: &Schema, json: &Json, name: &str) -> Option<Arc<Decl>> {
    let simple = |ty: Type, least_bytes: u64, most: u64| Some(Arc::new(Decl { ty, most, least_bytes, item: None }));
    let unlimited = REQUEST_BYTES - 2;
    let most_letters = || count(json, "maxLength").map(|letters| letters.saturating_mul(4));
    match schema.kind {
        Kind::Hidden => None,
        Kind::IntOrString => simple(Type::Dyn, 1, most_letters().unwrap_or(unlimited)),
        Kind::String => {
            let words = json.get("enum").and_then(Json::as_array).filter(|words| !words.is_empty());
            let longest =
                words.map(|words| words.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0) as u64);
            simple(Type::String, LEAST_STRING, most_letters().or(longest).unwrap_or(unlimited))
        }
        Kind::Bytes => simple(Type::Bytes, LEAST_STRING, count(json, "maxLength").unwrap_or(unlimited)),
        Kind::Duration => simple(Type::Duration, LEAST_DURATION, MOST_DURATION),
        Kind::Date => simple(Type::Timestamp, DATE_BYTES, DATE_BYTES),
        Kind::DateTime => simple(Type::Timestamp, LEAST_DATETIME, MOST_DATETIME),
        Kind::Integer => simple(Type::Int, 1, 0),
        Kind::Number => simple(Type::Double, 1, 0),
        Kind::Boolean => simple(Type::Bool, 4, 0),
        Kind::List => {
            let item = schema.item.as_ref()?.decl.clone()?;
            let most = count(json, "maxItems").unwrap_or((REQUEST_BYTES - 2) / (item.least_bytes + 1));
            Some(Arc::new(Decl { ty: Type::list(item.ty.clone()), most, least_bytes: 2, item: Some(item) }))
        }
        Kind::Map => {
            let item = schema.item.as_ref()?.decl.clone()?;
            let most = count(json, "maxProperties").unwrap_or((REQUEST_BYTES - 2) / (item.least_bytes + 6));
            let ty = Type::map(Type::String, item.ty.clone());
            Some(Arc::new(Decl { ty, most, least_bytes: 2, item: Some(item) }))
        }
        Kind::Object => Some(object_decl(schema, json, name)),
    }
}

fn object_decl(schema: &Schema, json: &Json, name: &str) -> Arc<Decl> {
    let required: Vec<&str> =
        json.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    let mut least_bytes = 2u64;
    let mut fields = BTreeMap::new();
    for (field, property) in &schema.fields {
        let Some(decl) = &property.decl else { continue };
        let has_default = json.pointer("/properties").and_then(|all| all.get(field)?.get("default")).is_some();
        if required.contains(&field.as_str()) && !has_default {
            least_bytes = least_bytes.saturating_add(field.len() as u64 + decl.least_bytes + 4);
        }
        if let Some(escaped) = escape(field) {
            fields.insert(escaped, decl.clone());
        }
    }
    let ty = Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields, open: false }));
    Arc::new(Decl { ty, most: 0, least_bytes, item: None })
}

const RESERVED: [&str; 18] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
];

/// A property's name as expressions write it; `None` where they cannot.
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) || matches!(name, "var" | "void" | "while") {
        return Some(format!("__{name}__"));
    }
    let mut escaped = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(letter) = rest.chars().next() {
        if rest.starts_with("__") {
            escaped.push_str("__underscores__");
            rest = &rest[2..];
            continue;
        }
        match letter {
            '.' => escaped.push_str("__dot__"),
            '-' => escaped.push_str("__dash__"),
            '/' => escaped.push_str("__slash__"),
            letter if letter.is_ascii_alphanumeric() || letter == '_' => escaped.push(letter),
            _ => return None,
        }
        rest = &rest[letter.len_utf8()..];
    }
    (!escaped.is_empty() && !escaped.starts_with(|letter: char| letter.is_ascii_digit())).then_some(escaped)
}

/// The property's name that an expression's name stands for.
pub fn unescape(name: &str) -> String {
    if !name.contains("__") {
        return name.to_owned();
    }
    if let Some(word) = name.strip_prefix("__").and_then(|rest| rest.strip_suffix("__"))
        && (RESERVED.contains(&word) || matches!(word, "var" | "void" | "while"))
    {
        return word.to_owned();
    }
    const MARKS: [(&str, &str); 4] =
        [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(letter) = rest.chars().next() {
        match MARKS.iter().find(|(mark, _)| rest.starts_with(mark)) {
            Some((mark, plain)) => {
                out.push_str(plain);
                rest = &rest[mark.len()..];
            }
            None => {
                out.push(letter);
                rest = &rest[letter.len_utf8()..];
            }
        }
    }
    out
}

//! From a request's body to an object: types are checked, unknown and doubled fields found, and the tree is brought
//! into the one shape in which upstream writes it (nulls and empty values that mean nothing are left out, required
//! parts are there, quantities and times are canonical).
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation>.

use std::collections::HashSet;

use serde_json::{Number, Value, json};
use skiff_object::node::{Format, Node};
use skiff_object::{GroupVersionKind, Map, Object, Status};

use crate::def::ResourceDef;
use crate::scalar;
use crate::schema::{Definition, Field, Presence, Shape, Type, definition};

/// How many unknown and doubled fields are told of in one answer.
const STRICT_FAULTS_LIMIT: usize = 100;
/// How much of a body that cannot be read is shown in the message.
const SUMMARY_LIMIT_BYTES: usize = 30;

/// What becomes of fields that are unknown or written twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, and the answer warns of each.
    #[default]
    Warn,
    /// The request fails.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter `fieldValidation`; empty is the default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// An object in upstream's shape, and what to warn of.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object.
    pub object: Object,
    /// One text per unknown or doubled field.
    pub warnings: Vec<String>,
}

/// Reads a request's body as an object of a kind.
///
/// # Errors
/// 400, in upstream's words: the body is malformed, is of another kind, has a mistyped field, or (if `validation` is
/// strict) an unknown or doubled one.
pub fn decode(def: &ResourceDef, body: &[u8], format: Format, validation: FieldValidation) -> Result<Decoded, Status> {
    let node = Node::parse(body, format).map_err(|error| {
        let kind = &def.kind;
        let summary = summary(body);
        // The commonest of all: nothing was sent, or only a part.
        let is_cut = format == Format::Json && error.to_string().starts_with("EOF while parsing");
        let why = if is_cut { "unexpected end of JSON input".to_owned() } else { error.to_string() };
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {why} ({summary})"
        ))
    })?;
    decode_node(def, node, validation)
}

/// Brings a tree (such as a patch's result) into an object of a kind.
///
/// # Errors
/// As [`decode`].
pub fn decode_tree(def: &ResourceDef, tree: Object, validation: FieldValidation) -> Result<Decoded, Status> {
    decode_node(def, tree.into(), validation)
}

fn decode_node(def: &ResourceDef, node: Node, validation: FieldValidation) -> Result<Decoded, Status> {
    let actual = actual_kind(def, &node)?;
    let cannot = |why: &str| {
        let (kind, version, wanted) = (&actual.kind, &actual.version, &def.kind);
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {wanted}: {why}"))
    };
    if actual.kind != def.kind {
        return Err(cannot(&format!("the kind does not match the expected kind {:?}", def.kind)));
    }
    let mut decoder = Decoder::default();
    let mut object = decoder.object(def, node).map_err(|why| cannot(&why))?;
    object.insert("apiVersion".to_owned(), json!(def.group_version().to_string()));
    object.insert("kind".to_owned(), json!(def.kind));
    match validation {
        FieldValidation::Strict if !decoder.faults.is_empty() => {
            Err(cannot(&format!("strict decoding error: {}", decoder.faults.join(", "))))
        }
        FieldValidation::Ignore => Ok(Decoded { object: Value::Object(object), warnings: Vec::new() }),
        _ => Ok(Decoded { object: Value::Object(object), warnings: decoder.faults }),
    }
}

/// An object of a kind in which nothing is set: what server-side apply compares a new object with.
pub fn blank(def: &ResourceDef) -> Object {
    let nothing = Node::Map(Vec::new());
    decode_node(def, nothing, FieldValidation::Ignore).map_or(Value::Null, |decoded| decoded.object)
}

/// Reads a value of a definition that is no kind of the catalogue, such as `DeleteOptions`; unknown fields are dropped.
///
/// # Errors
/// The text says what is mistyped.
pub fn decode_definition(definition: &'static Definition, node: Node) -> Result<Object, String> {
    let mut decoder = Decoder::default();
    let decoded = decoder.definition(definition, node).map_err(|Malformed(why)| why)?;
    decoder.mistyped.map_or(Ok(decoded), Err)
}

/// Group, version and kind that the body states, completed by those of the path.
fn actual_kind(def: &ResourceDef, node: &Node) -> Result<GroupVersionKind, Status> {
    let unrecognized = |why: String| {
        let kind = &def.kind;
        Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why}"))
    };
    let text = |key: &str| match node.get(key) {
        None | Some(Node::Null) => Ok(""),
        Some(Node::Text(text)) => Ok(text.as_str()),
        Some(other) => Err(unrecognized(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go struct field .{key} of type string",
            word(other)
        ))),
    };
    if !matches!(node, Node::Map(_)) {
        let word = word(node);
        return Err(unrecognized(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {word} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
        )));
    }
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    let expected = def.group_version().to_string();
    if !version.is_empty() && version != expected {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )));
    }
    let kind = if kind.is_empty() { def.kind.as_ref() } else { kind };
    Ok(GroupVersionKind::new(def.group.as_ref(), def.version.as_ref(), kind))
}

fn summary(body: &[u8]) -> String {
    let shown = &body[..body.len().min(SUMMARY_LIMIT_BYTES)];
    let more = if body.len() > SUMMARY_LIMIT_BYTES { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => {
            let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

/// Go's word for a kind of JSON value.
fn word(node: &Node) -> &'static str {
    match node {
        Node::Null => "null",
        Node::Bool(_) => "bool",
        Node::Number(_) => "number",
        Node::Text(_) => "string",
        Node::List(_) => "array",
        Node::Map(_) => "object",
    }
}

/// A text that stands for something (a quantity, a time) and is malformed: decoding ends there. The text is Go's.
///
/// Values of a wrong type are different: decoding goes on, and the first of them is told of at the end.
struct Malformed(String);

/// One step on the way to a value. Put into words only where something is wrong there, which is seldom.
enum Place {
    Field(&'static str),
    Key(String),
    Index(usize),
}

/// The way as strict faults show it: `spec.containers[0]`.
fn way(places: &[Place]) -> String {
    let mut text = String::new();
    for place in places {
        let name = match place {
            Place::Field(name) => name,
            Place::Key(name) => name.as_str(),
            Place::Index(index) => {
                text.push_str(&format!("[{index}]"));
                continue;
            }
        };
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(name);
    }
    text
}

/// Where the decoder stands, and what it found on the way.
#[derive(Default)]
struct Decoder {
    /// Where it is, as strict faults show it.
    strict_path: Vec<Place>,
    /// Names of fields only, as type errors show them.
    field_path: Vec<&'static str>,
    /// The innermost struct.
    owner: &'static str,
    faults: Vec<String>,
    /// The first value of a wrong type.
    mistyped: Option<String>,
}

impl Decoder {
    fn object(&mut self, def: &ResourceDef, node: Node) -> Result<Map, String> {
        let decoded = match definition(&def.schema) {
            Some(definition) => self.definition(definition, node),
            None => self.custom(node),
        };
        let decoded = decoded.map_err(|Malformed(why)| why)?;
        match (self.mistyped.take(), decoded) {
            (Some(why), _) => Err(why),
            (None, Value::Object(map)) => Ok(map),
            (None, _) => Ok(Map::new()),
        }
    }

    /// A kind that the table does not know: its metadata is typed, the rest is for its own schema to judge.
    fn custom(&mut self, node: Node) -> Result<Value, Malformed> {
        let Node::Map(entries) = node else { return Ok(node.into_value()) };
        let mut map = Map::new();
        for (name, value) in entries {
            if map.contains_key(&name) {
                self.fault("duplicate field", &name);
            }
            let value = match definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") {
                Some(metadata) if name == "metadata" => {
                    self.strict_path.push(Place::Field("metadata"));
                    self.field_path.push("metadata");
                    let value = self.definition(metadata, value)?;
                    self.strict_path.pop();
                    self.field_path.pop();
                    value
                }
                _ => {
                    if value.has_duplicates() {
                        self.strict_path.push(Place::Key(name.clone()));
                        self.repeated(&value);
                        self.strict_path.pop();
                    }
                    value.into_value()
                }
            };
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }

    /// Tells of fields that are there twice, in a tree that no table describes.
    fn repeated(&mut self, node: &Node) {
        match node {
            Node::Map(entries) => {
                let mut seen = HashSet::with_capacity(entries.len());
                for (name, value) in entries {
                    if !seen.insert(name) {
                        self.fault("duplicate field", name);
                    }
                    self.strict_path.push(Place::Key(name.clone()));
                    self.repeated(value);
                    self.strict_path.pop();
                }
            }
            Node::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.strict_path.push(Place::Index(index));
                    self.repeated(item);
                    self.strict_path.pop();
                }
            }
            _ => {}
        }
    }

    fn fault(&mut self, what: &str, name: &str) {
        let separator = if self.strict_path.is_empty() { "" } else { "." };
        let text = format!("{what} \"{}{separator}{name}\"", way(&self.strict_path));
        if self.faults.len() < STRICT_FAULTS_LIMIT && !self.faults.contains(&text) {
            self.faults.push(text);
        }
    }

    fn mistyped_text(&self, value: impl std::fmt::Display, go: &str) -> String {
        if self.field_path.is_empty() {
            return format!("json: cannot unmarshal {value} into Go value of type {go}");
        }
        let (owner, path) = (self.owner, self.field_path.join("."));
        format!("json: cannot unmarshal {value} into Go struct field {owner}.{path} of type {go}")
    }

    /// Notes a value of a wrong type, which is left out.
    fn mistyped(&mut self, value: impl std::fmt::Display, go: &str) -> Value {
        if self.mistyped.is_none() {
            self.mistyped = Some(self.mistyped_text(value, go));
        }
        Value::Null
    }

    fn definition(&mut self, definition: &'static Definition, node: Node) -> Result<Value, Malformed> {
        match definition.shape {
            Shape::Struct => self.structure(definition, node),
            Shape::Raw => Ok(node.into_value()),
            Shape::Any => any(definition, node).map_err(Malformed),
            Shape::Quantity => match &node {
                Node::Null => Ok(json!("0")),
                Node::Text(text) => scalar::quantity(text).map(Value::String).map_err(Malformed),
                Node::Number(number) => scalar::quantity(&number.to_string()).map(Value::String).map_err(Malformed),
                // What upstream's parser makes of brackets and words.
                _ => scalar::quantity("?").map(Value::String).map_err(Malformed),
            },
            Shape::IntOrString => match node {
                Node::Null => Ok(json!(0)),
                Node::Text(text) => Ok(Value::String(text)),
                Node::Number(number) if number.as_i64().is_some_and(|value| i32::try_from(value).is_ok()) => {
                    Ok(Value::Number(number))
                }
                Node::Number(number) => Err(Malformed(self.mistyped_text(format!("number {number}"), "int32"))),
                other => Err(Malformed(self.mistyped_text(word(&other), "int32"))),
            },
            Shape::Time | Shape::MicroTime => match node {
                Node::Null => Ok(Value::Null),
                Node::Text(text) => {
                    scalar::time(&text, definition.shape == Shape::MicroTime).map(Value::String).map_err(Malformed)
                }
                other => Err(Malformed(self.mistyped_text(word(&other), "string"))),
            },
        }
    }

    fn structure(&mut self, definition: &'static Definition, node: Node) -> Result<Value, Malformed> {
        let entries = match node {
            Node::Map(entries) => entries,
            Node::Null => Vec::new(),
            other => return Ok(self.mistyped(word(&other), &definition.go_type())),
        };
        let outer = std::mem::replace(&mut self.owner, definition.short_name());
        let mut seen = vec![false; definition.fields.len()];
        let mut map = Map::new();
        for (name, value) in entries {
            let Ok(index) = definition.fields.binary_search_by(|field| field.name.cmp(name.as_str())) else {
                self.fault("unknown field", &name);
                continue;
            };
            let field = &definition.fields[index];
            if std::mem::replace(&mut seen[index], true) {
                self.fault("duplicate field", &name);
            }
            if value == Node::Null {
                continue;
            }
            let depth = self.field_path.len();
            self.enter(field);
            let value = self.value(&field.ty, field.go, value)?;
            self.leave(depth);
            if field.presence == Presence::OmitEmpty && is_empty(&value) {
                map.remove(field.name);
            } else {
                map.insert(name, value);
            }
        }
        self.owner = outer;
        complete(definition, &mut map);
        Ok(Value::Object(map))
    }

    fn enter(&mut self, field: &Field) {
        self.strict_path.push(Place::Field(field.name));
        self.field_path.extend(field.via);
        self.field_path.push(field.name);
    }

    fn leave(&mut self, depth: usize) {
        self.strict_path.pop();
        self.field_path.truncate(depth);
    }

    fn value(&mut self, ty: &'static Type, go: Option<&'static str>, node: Node) -> Result<Value, Malformed> {
        let go_type = || go.map_or_else(|| go_type(ty), str::to_owned);
        match (ty, node) {
            (Type::Ref(_), node) => {
                let definition = ty.definition().expect("a reference has a definition");
                self.definition(definition, node)
            }
            (_, Node::Null) => Ok(zero(ty)),
            (Type::String, Node::Text(text)) => Ok(Value::String(text)),
            (Type::Bool, Node::Bool(value)) => Ok(Value::Bool(value)),
            (Type::Int32, Node::Number(number)) => {
                Ok(self.integer(number, i64::from(i32::MIN), i64::from(i32::MAX), &go_type()))
            }
            (Type::Int64, Node::Number(number)) => Ok(self.integer(number, i64::MIN, i64::MAX, &go_type())),
            (Type::Double, Node::Number(number)) => Ok(Value::Number(number)),
            (Type::Bytes, Node::Text(text)) => scalar::base64(text).map(Value::String).map_err(Malformed),
            (Type::List(item), Node::List(items)) => self.list(item, go, items),
            (Type::Map(value), Node::Map(entries)) => self.map(value, go, entries),
            (_, other) => Ok(self.mistyped(word(&other), &go_type())),
        }
    }

    fn integer(&mut self, number: Number, low: i64, high: i64, go: &str) -> Value {
        match number.as_i64() {
            Some(value) if (low..=high).contains(&value) => Value::Number(number),
            _ => self.mistyped(format!("number {number}"), go),
        }
    }

    fn list(&mut self, item: &'static Type, go: Option<&'static str>, items: Vec<Node>) -> Result<Value, Malformed> {
        let go = go.and_then(|go| go.strip_prefix("[]"));
        let mut out = Vec::with_capacity(items.len());
        for (index, node) in items.into_iter().enumerate() {
            self.strict_path.push(Place::Index(index));
            out.push(self.value(item, go, node)?);
            self.strict_path.pop();
        }
        Ok(Value::Array(out))
    }

    fn map(
        &mut self,
        value: &'static Type,
        go: Option<&'static str>,
        entries: Vec<(String, Node)>,
    ) -> Result<Value, Malformed> {
        let go = go.and_then(|go| Some(go.strip_prefix("map[")?.split_once(']')?.1));
        let mut map = Map::new();
        for (key, node) in entries {
            if map.contains_key(&key) {
                self.fault("duplicate field", &key);
            }
            self.strict_path.push(Place::Key(key.clone()));
            let value = self.value(value, go, node)?;
            self.strict_path.pop();
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A value of any shape. Where it may be a schema, that is brought into shape too; upstream drops unknown fields there
/// without telling of them.
fn any(outer: &Definition, node: Node) -> Result<Value, String> {
    if !outer.short_name().starts_with("JSONSchemaPropsOr") {
        return Ok(node.into_value());
    }
    match (definition(&format!("{}.JSONSchemaProps", outer.package())), node) {
        (Some(schema), node @ Node::Map(_)) => decode_definition(schema, node),
        (Some(_), Node::List(items)) => {
            items.into_iter().map(|item| any(outer, item)).collect::<Result<_, _>>().map(Value::Array)
        }
        (_, node) => Ok(node.into_value()),
    }
}

fn go_type(ty: &Type) -> String {
    match ty {
        Type::String => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Double => "float64".to_owned(),
        Type::List(item) => format!("[]{}", go_type(item)),
        Type::Map(value) => format!("map[string]{}", go_type(value)),
        Type::Ref(_) => ty.definition().map_or_else(String::new, Definition::go_type),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// What upstream writes for a value that nobody set.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::String => json!(""),
        Type::Int32 | Type::Int64 | Type::Double => json!(0),
        Type::Bool => json!(false),
        Type::Bytes | Type::List(_) | Type::Map(_) => Value::Null,
        Type::Ref(_) => {
            let definition = ty.definition().expect("a reference has a definition");
            match definition.shape {
                Shape::Struct => {
                    let mut map = Map::new();
                    complete(definition, &mut map);
                    Value::Object(map)
                }
                Shape::Quantity => json!("0"),
                Shape::IntOrString => json!(0),
                Shape::Time | Shape::MicroTime | Shape::Raw | Shape::Any => Value::Null,
            }
        }
    }
}

/// Adds the fields that upstream always writes.
fn complete(definition: &'static Definition, map: &mut Map) {
    for field in &definition.fields {
        let missing = match field.presence {
            Presence::Always => zero(&field.ty),
            Presence::Nullable => Value::Null,
            Presence::OmitEmpty | Presence::Pointer => continue,
        };
        if !map.contains_key(field.name) {
            map.insert(field.name.to_owned(), missing);
        }
    }
}

//! The values that expressions work on. What comes from an object is not copied: a list or a map of JSON is looked at
//! where it lies, through its schema if it has one.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map as JsonMap, Value as Json};

use crate::error::EvalError;
use crate::eval::Machine;
use crate::library::Opaque;
use crate::schema::{Kind, ListKind, Schema, escape, unescape};
use crate::types::Type;

/// What an evaluation gives.
pub type Result<T> = std::result::Result<T, EvalError>;

/// A text, borrowed or shared.
#[derive(Clone)]
pub enum Text<'a> {
    /// Lies in the object.
    Borrowed(&'a str),
    /// Was made.
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// A value.
#[derive(Clone)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number without sign.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// A text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A point in time.
    Timestamp(jiff::Timestamp),
    /// A span of time in nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// A value or none.
    Optional(Option<Rc<Value<'a>>>),
    /// A type.
    Type(Type),
    /// A value of a library.
    Opaque(Opaque),
}

/// A list.
#[derive(Clone)]
pub enum List<'a> {
    /// Of an object, seen through the list's schema.
    Json(&'a [Json], Option<&'a Schema>),
    /// Made by an expression.
    Own(Rc<Vec<Value<'a>>>),
}

/// A map or an object.
#[derive(Clone)]
pub enum Map<'a> {
    /// Of an object; with a schema, it is an object of fields or a map of values.
    Json(&'a JsonMap<String, Json>, Option<&'a Schema>),
    /// Made by an expression.
    Own(Rc<BTreeMap<Key<'a>, Value<'a>>>),
    /// An object of a named type, made by an expression.
    Struct(Rc<Struct<'a>>),
    /// Fields that are made when they are asked for.
    Lazy(Rc<dyn Lazy<'a> + 'a>),
}

/// An object of a named type, made by an expression.
pub struct Struct<'a> {
    /// The type's name.
    pub name: Arc<str>,
    /// Its fields.
    pub fields: BTreeMap<Arc<str>, Value<'a>>,
}

/// Fields that are made when they are asked for.
pub trait Lazy<'a> {
    /// The value of a field, where there is one; what making it costs is added to the machine's.
    fn get(&self, field: &str, machine: &mut Machine<'a>) -> Option<Result<Value<'a>>>;
}

/// A key of a map.
#[derive(Clone, Debug)]
pub enum Key<'a> {
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number beyond the range of the signed ones.
    Uint(u64),
    /// A text.
    String(Text<'a>),
}

impl<'a> Key<'a> {
    /// The key that a value is; numbers of different types that are the same are the same key.
    pub fn of(value: &Value<'a>) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Int(*value),
            Value::Uint(value) => i64::try_from(*value).map_or(Self::Uint(*value), Self::Int),
            Value::Double(value) => {
                let whole = exact_int(*value)?;
                Self::Int(whole)
            }
            Value::String(text) => Self::String(text.clone()),
            _ => return None,
        })
    }

    /// The value that the key is.
    pub fn value(&self) -> Value<'a> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Uint(value) => Value::Uint(*value),
            Self::String(text) => Value::String(text.clone()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::Int(_) => 1,
            Self::Uint(_) => 2,
            Self::String(_) => 3,
        }
    }
}

fn exact_int(value: f64) -> Option<i64> {
    const BOUND: f64 = 9_223_372_036_854_775_808.0;
    (value.fract() == 0.0 && (-BOUND..BOUND).contains(&value)).then_some(value as i64)
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Uint(a), Self::Uint(b)) => a.cmp(b),
            (Self::String(a), Self::String(b)) => a[..].cmp(&b[..]),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl<'a> Value<'a> {
    /// A text that lies somewhere.
    pub fn str(text: &'a str) -> Self {
        Self::String(Text::Borrowed(text))
    }

    /// A text that was made.
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Shared(text.into()))
    }

    /// A list that was made.
    pub fn list(items: Vec<Value<'a>>) -> Self {
        Self::List(List::Own(Rc::new(items)))
    }

    /// An optional with a value.
    pub fn some(value: Value<'a>) -> Self {
        Self::Optional(Some(Rc::new(value)))
    }

    /// A JSON value, seen through its schema if it has one.
    pub fn json(json: &'a Json, schema: Option<&'a Schema>) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) if schema.is_some_and(|schema| schema.kind == Kind::Number) => {
                    Self::Double(value as f64)
                }
                (Some(value), _) => Self::Int(value),
                (None, Some(value)) => Self::Uint(value),
                (None, None) => {
                    let value = number.as_f64().unwrap_or(f64::NAN);
                    let whole = exact_int(value).filter(|_| schema.is_some_and(|s| s.kind == Kind::Integer));
                    whole.map_or(Self::Double(value), Self::Int)
                }
            },
            Json::String(text) => schema.and_then(|schema| typed_text(text, schema.kind)).unwrap_or(Self::str(text)),
            Json::Array(items) => Self::List(List::Json(items, schema)),
            Json::Object(map) => Self::Map(Map::Json(map, schema)),
        }
    }

    /// How the value counts in costs.
    pub fn size(&self) -> u64 {
        match self {
            Self::String(text) => text.chars().count() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Opaque(opaque) => opaque.size(),
            _ => 1,
        }
    }

    /// The type that the value has.
    pub fn type_of(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Timestamp(_) => Type::Timestamp,
            Self::Duration(_) => Type::Duration,
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Self::Optional(_) => Type::optional(Type::Dyn),
            Self::Type(_) => Type::Type(Arc::new(Type::Dyn)),
            Self::Opaque(opaque) => Type::Opaque(opaque.type_name()),
        }
    }

    /// Whether two values are equal. Lists that are sets or maps are so without regard to order.
    pub fn equals(&self, other: &Value<'a>, machine: &mut Machine<'a>) -> Result<bool> {
        machine.work(1)?;
        Ok(match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(_) | Self::Uint(_) | Self::Double(_), Self::Int(_) | Self::Uint(_) | Self::Double(_)) => {
                compare_numbers(self, other) == Some(Ordering::Equal)
            }
            (Self::String(a), Self::String(b)) => {
                machine.work(a.len() as u64 / 64)?;
                a[..] == b[..]
            }
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::List(a), Self::List(b)) => a.equals(b, machine)?,
            (Self::Map(a), Self::Map(b)) => a.equals(b, machine)?,
            (Self::Optional(None), Self::Optional(None)) => true,
            (Self::Optional(Some(a)), Self::Optional(Some(b))) => a.equals(b, machine)?,
            (Self::Type(a), Self::Type(b)) => same_type(a, b),
            (Self::Opaque(a), Self::Opaque(b)) => a.equals(b),
            _ => false,
        })
    }

    /// The JSON that says the same; `None` where there is none.
    pub fn to_json(&self, machine: &mut Machine<'a>) -> Result<Json> {
        machine.work(1)?;
        Ok(match self {
            Self::Null | Self::Optional(None) => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Int(value) => (*value).into(),
            Self::Uint(value) => (*value).into(),
            Self::Double(value) => serde_json::Number::from_f64(*value).map_or(Json::Null, Json::Number),
            Self::String(text) => {
                machine.work(text.len() as u64 / 16)?;
                Json::String(text.to_string())
            }
            Self::Bytes(bytes) => {
                use base64::Engine as _;
                Json::String(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Self::Timestamp(time) => Json::String(time.to_string()),
            Self::Duration(nanos) => Json::String(crate::time::duration_text(*nanos)),
            Self::List(list) => {
                let mut items = Vec::new();
                for index in 0..list.len() {
                    items.push(list.get(index).to_json(machine)?);
                }
                Json::Array(items)
            }
            Self::Map(map) => map.to_json(machine)?,
            Self::Optional(Some(value)) => value.to_json(machine)?,
            Self::Opaque(Opaque::Quantity(quantity)) => Json::String(quantity.to_string()),
            Self::Type(_) | Self::Opaque(_) => {
                return Err(EvalError::new(format!("unsupported conversion of {} to JSON", self.type_of())));
            }
        })
    }
}

/// Types as values: the parameters do not count.
fn same_type(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::List(_), Type::List(_)) | (Type::Map(..), Type::Map(..)) => true,
        (Type::Optional(_), Type::Optional(_)) | (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}

/// The time or the bytes that a text is by its format.
fn typed_text<'a>(text: &'a str, kind: Kind) -> Option<Value<'a>> {
    match kind {
        Kind::Duration => crate::time::parse_duration(text).ok().map(Value::Duration),
        Kind::Date => crate::time::parse_timestamp(&format!("{text}T00:00:00Z")).ok().map(Value::Timestamp),
        Kind::DateTime => crate::time::parse_timestamp(text).ok().map(Value::Timestamp),
        Kind::Bytes => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).ok().map(|bytes| Value::Bytes(bytes.into()))
        }
        _ => None,
    }
}

/// How two numbers of any types compare; not at all where one is no number.
pub fn compare_numbers(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Int(a), Value::Double(b)) => compare_whole(i128::from(*a), *b),
        (Value::Uint(a), Value::Double(b)) => compare_whole(i128::from(*a), *b),
        (Value::Double(a), Value::Int(b)) => compare_whole(i128::from(*b), *a).map(Ordering::reverse),
        (Value::Double(a), Value::Uint(b)) => compare_whole(i128::from(*b), *a).map(Ordering::reverse),
        _ => None,
    }
}

fn compare_whole(whole: i128, double: f64) -> Option<Ordering> {
    const BOUND: f64 = 1e30;
    if double.is_nan() {
        return None;
    }
    if double >= BOUND {
        return Some(Ordering::Less);
    }
    if double <= -BOUND {
        return Some(Ordering::Greater);
    }
    let floor = double.floor();
    let order = whole.cmp(&(floor as i128));
    Some(if order == Ordering::Equal && double > floor { Ordering::Less } else { order })
}

impl<'a> List<'a> {
    /// How many items there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(items, _) => items.len(),
            Self::Own(items) => items.len(),
        }
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at an index below the length.
    pub fn get(&self, index: usize) -> Value<'a> {
        match self {
            Self::Json(items, schema) => Value::json(&items[index], schema.and_then(|schema| schema.item.as_deref())),
            Self::Own(items) => items[index].clone(),
        }
    }

    /// The items one after the other.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    fn kind(&self) -> &'a ListKind {
        match self {
            Self::Json(_, Some(schema)) => &schema.list,
            _ => &ListKind::Atomic,
        }
    }

    /// Whether a value is among the items.
    pub fn contains(&self, value: &Value<'a>, machine: &mut Machine<'a>) -> Result<bool> {
        for item in self.iter() {
            if item.equals(value, machine)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn equals(&self, other: &List<'a>, machine: &mut Machine<'a>) -> Result<bool> {
        if self.len() != other.len() {
            return Ok(false);
        }
        let kind = match self.kind() {
            ListKind::Atomic => other.kind(),
            kind => kind,
        };
        match kind {
            ListKind::Atomic => {
                for index in 0..self.len() {
                    if !self.get(index).equals(&other.get(index), machine)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            ListKind::Set => {
                for item in self.iter() {
                    if !other.contains(&item, machine)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            ListKind::Map(keys) => {
                for item in self.iter() {
                    let twin = other.by_keys(&item, keys, machine)?;
                    let same = match twin {
                        Some(index) => item.equals(&other.get(index), machine)?,
                        None => false,
                    };
                    if !same {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    /// The item that has the same keys as another.
    fn by_keys(&self, item: &Value<'a>, keys: &[String], machine: &mut Machine<'a>) -> Result<Option<usize>> {
        let key_of = |value: &Value<'a>, key: &str| match value {
            Value::Map(map) => map.json_field(key),
            _ => None,
        };
        for index in 0..self.len() {
            machine.work(1)?;
            let other = self.get(index);
            let mut same = true;
            for key in keys {
                same &= match (key_of(item, key), key_of(&other, key)) {
                    (Some(a), Some(b)) => a.equals(&b, machine)?,
                    (None, None) => true,
                    _ => false,
                };
            }
            if same {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Two lists in one. Lists whose items are told apart are united: what is in both is there once.
    pub fn plus(self, other: &List<'a>, machine: &mut Machine<'a>) -> Result<Self> {
        let kind = self.kind();
        let mut items = match self {
            Self::Own(items) => items,
            Self::Json(..) => {
                machine.work(self.len() as u64)?;
                Rc::new(self.iter().collect())
            }
        };
        if Rc::strong_count(&items) > 1 {
            machine.work(items.len() as u64)?;
        }
        machine.work(other.len() as u64)?;
        let list = Rc::make_mut(&mut items);
        match kind {
            ListKind::Atomic => list.extend(other.iter()),
            ListKind::Set | ListKind::Map(_) => {
                for item in other.iter() {
                    let mine = List::Own(Rc::new(std::mem::take(list)));
                    let found = match kind {
                        ListKind::Map(keys) => mine.by_keys(&item, keys, machine)?,
                        _ => mine.iter().position(|own| own.equals(&item, machine).unwrap_or(false)),
                    };
                    let List::Own(shared) = mine else { continue };
                    *list = Rc::unwrap_or_clone(shared);
                    match (found, kind) {
                        (Some(index), ListKind::Map(_)) => list[index] = item,
                        (Some(_), _) => {}
                        (None, _) => list.push(item),
                    }
                }
            }
        }
        Ok(Self::Own(items))
    }
}

impl<'a> Map<'a> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(map, _) => map.len(),
            Self::Own(map) => map.len(),
            Self::Struct(object) => object.fields.len(),
            Self::Lazy(_) => 1,
        }
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value under a name in JSON, in a map that came from JSON.
    fn json_field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Self::Json(map, schema) => map.get(name).map(|value| Value::json(value, child(*schema, name))),
            Self::Own(map) => map.get(&Key::String(Text::Borrowed(name)) as &Key).cloned(),
            Self::Struct(object) => object.fields.get(name).cloned(),
            Self::Lazy(_) => None,
        }
    }

    /// The value of a field or under a key that is a text, where it is there.
    pub fn field(&self, name: &str, machine: &mut Machine<'a>) -> Option<Result<Value<'a>>> {
        match self {
            Self::Json(map, Some(schema)) if schema.kind == Kind::Object => {
                let name = if name.contains("__") { unescape(name) } else { name.to_owned() };
                let field = schema.fields.get(&name)?;
                map.get(&name).map(|value| Ok(Value::json(value, Some(field))))
            }
            Self::Json(..) | Self::Own(_) | Self::Struct(_) => self.json_field(name).map(Ok),
            Self::Lazy(lazy) => lazy.get(name, machine),
        }
    }

    /// The value under a key.
    pub fn get(&self, key: &Value<'a>, machine: &mut Machine<'a>) -> Option<Result<Value<'a>>> {
        match (self, key) {
            (_, Value::String(name)) => self.field(name, machine),
            (Self::Own(map), key) => Key::of(key).and_then(|key| map.get(&key).cloned()).map(Ok),
            _ => None,
        }
    }

    /// The keys in order.
    pub fn keys(&self) -> Vec<Key<'a>> {
        let text = |name: &'a str| Key::String(Text::Borrowed(name));
        match self {
            Self::Json(map, Some(schema)) if schema.kind == Kind::Object => {
                let seen = map.keys().filter(|name| schema.fields.contains_key(*name));
                seen.filter_map(|name| escape(name)).map(|name| Key::String(Text::Shared(name.into()))).collect()
            }
            Self::Json(map, _) => map.keys().map(|name| text(name)).collect(),
            Self::Own(map) => map.keys().cloned().collect(),
            Self::Struct(object) => object.fields.keys().map(|name| Key::String(Text::Shared(name.clone()))).collect(),
            Self::Lazy(_) => Vec::new(),
        }
    }

    fn equals(&self, other: &Map<'a>, machine: &mut Machine<'a>) -> Result<bool> {
        if self.len() != other.len() {
            return Ok(false);
        }
        for key in self.keys() {
            let key = key.value();
            let same = match (self.get(&key, machine), other.get(&key, machine)) {
                (Some(a), Some(b)) => a?.equals(&b?, machine)?,
                _ => false,
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn to_json(&self, machine: &mut Machine<'a>) -> Result<Json> {
        if let Self::Json(map, _) = self {
            machine.work(map.len() as u64)?;
            return Ok(Json::Object((*map).clone()));
        }
        let mut out = JsonMap::new();
        for key in self.keys() {
            let Key::String(name) = &key else {
                return Err(EvalError::new("a map with keys that are no texts is no JSON object"));
            };
            if let Some(value) = self.field(name, machine) {
                out.insert(name.to_string(), value?.to_json(machine)?);
            }
        }
        Ok(Json::Object(out))
    }
}

fn child<'a>(schema: Option<&'a Schema>, name: &str) -> Option<&'a Schema> {
    let schema = schema?;
    match schema.kind {
        Kind::Object => schema.fields.get(name).map(AsRef::as_ref),
        _ => schema.item.as_deref(),
    }
}

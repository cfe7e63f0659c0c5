//! What server-side apply must know of a type: which parts of a value have owners of their own.

use serde_json::Value;

use super::set::{Element, Scalar};

/// How a value merges.
#[derive(Clone, Copy)]
pub enum Schema<'a> {
    /// It is one thing.
    Scalar,
    /// It is a list or a map that is owned as a whole.
    Atomic,
    /// Nothing is known: maps merge by key, lists are owned as a whole.
    Deduced,
    /// Each field or key has owners of its own.
    Map(&'a dyn MapSchema),
    /// Each item has owners of its own.
    List(&'a dyn ListSchema),
}

/// An object, or a map.
pub trait MapSchema: Sync {
    /// Whether the field is declared by name; keys of maps are not.
    fn is_declared(&self, name: &str) -> bool;
    /// Whether no other fields than the declared ones may be there.
    fn is_closed(&self) -> bool;
    /// How the field's value merges.
    fn field(&self, name: &str) -> Schema<'_>;
}

/// A list whose items have owners of their own.
pub trait ListSchema: Sync {
    /// The keys that tell items apart; none for a set of scalars.
    fn keys(&self) -> Vec<&str>;
    /// The value of a key that an item leaves out.
    fn key_default(&self, key: &str) -> Option<Value>;
    /// How an item merges.
    fn item(&self) -> Schema<'_>;
}

/// What a value is, seen through its schema.
pub(super) enum View<'a> {
    /// It is owned as a whole.
    Leaf,
    /// It is owned by field; null where nothing is there.
    Map(Option<&'a crate::Map>, Schema<'a>),
    /// It is owned by item.
    List(&'a [Value], &'a dyn ListSchema),
}

/// Looks at a value; `None` stands for one that is absent and fits any schema.
pub(super) fn view<'a>(schema: Schema<'a>, value: Option<&'a Value>) -> View<'a> {
    match (schema, value) {
        (Schema::Scalar | Schema::Atomic, _) => View::Leaf,
        (Schema::Map(_), None | Some(Value::Null)) => View::Map(None, schema),
        (Schema::Deduced, Some(Value::Null)) => View::Map(None, schema),
        (Schema::Map(_) | Schema::Deduced, Some(Value::Object(map))) => View::Map(Some(map), schema),
        (Schema::List(list), None | Some(Value::Null)) => View::List(&[], list),
        (Schema::List(list), Some(Value::Array(items))) => View::List(items, list),
        _ => View::Leaf,
    }
}

impl<'a> Schema<'a> {
    /// How a field merges.
    pub(super) fn field(self, name: &str) -> Schema<'a> {
        match self {
            Schema::Map(map) => map.field(name),
            _ => Schema::Deduced,
        }
    }

    pub(super) fn is_declared(self, name: &str) -> bool {
        matches!(self, Schema::Map(map) if map.is_declared(name))
    }
}

/// The path element of a list's item.
///
/// # Errors
/// The item has none of the keys, or is no scalar of a set.
pub(super) fn element(list: &dyn ListSchema, item: &Value) -> Result<Element, String> {
    let keys = list.keys();
    if keys.is_empty() {
        return match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
            scalar => Ok(Element::Value(Scalar(scalar.clone()))),
        };
    }
    let Value::Object(map) = item else {
        let what = if item.is_null() { "a null element" } else { "non-map elements" };
        return Err(format!("associative list with keys may not have {what}"));
    };
    let mut found = Vec::with_capacity(keys.len());
    for key in &keys {
        if let Some(value) = map.get(*key).cloned().or_else(|| list.key_default(key)) {
            found.push(((*key).to_owned(), Scalar(value)));
        }
    }
    if found.is_empty() {
        let keys: Vec<_> = keys.iter().map(|key| format!("{key:?}")).collect();
        let keys = keys.join(" ");
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{keys}] (and doesn't have default values for any key fields)"
        ));
    }
    found.sort();
    Ok(Element::Key(found))
}

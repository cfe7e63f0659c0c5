//! Walking and mending the object tree.

use serde_json::{Value, json};
use skiff_object::Object;
use skiff_object::meta::Meta;

/// The node at a path of field names, to be changed.
pub fn node_mut<'a>(object: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(object, |node, field| node.get_mut(*field))
}

/// The map at a path as a node, made where there is none.
pub fn made_mut<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Value {
    object.map_mut(path);
    node_mut(object, path).expect("it was made just now")
}

/// The items of the list at a path, to be changed; none where there is no list.
pub fn items_mut<'a>(object: &'a mut Value, path: &[&str]) -> impl Iterator<Item = &'a mut Value> {
    node_mut(object, path).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Whether a node says nothing: absent, null, or an empty text, list or map.
pub fn is_blank(node: Option<&Value>) -> bool {
    match node {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}

/// Sets the text at a path where there is none, or an empty one.
pub fn default_text(object: &mut Value, path: &[&str], text: &str) {
    if is_blank(object.at(path)) {
        object.set_at(path, text);
    }
}

/// Sets each of the fields of `object` that is absent.
pub fn default_fields<const N: usize>(object: &mut Value, defaults: [(&str, Value); N]) {
    for (field, value) in defaults {
        object.default_at(&[field], value);
    }
}

/// Copies the node at `path` from `old` to `new`, or removes it where `old` has none.
pub fn carry_over(new: &mut Object, old: &Object, path: &[&str]) {
    match old.at(path) {
        Some(value) => {
            let value = value.clone();
            new.set_at(path, value);
        }
        None => {
            new.remove_at(path);
        }
    }
}

/// The number of entries of the map or list at a path.
pub fn count(object: &Object, path: &[&str]) -> usize {
    match object.at(path) {
        Some(Value::Array(list)) => list.len(),
        Some(Value::Object(map)) => map.len(),
        _ => 0,
    }
}

/// An empty map, as a value.
pub fn empty() -> Value {
    json!({})
}

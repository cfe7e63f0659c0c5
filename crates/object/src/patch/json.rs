//! JSON patch (RFC 6902), with the leniences of the library that upstream uses: negative indexes count from the end,
//! and `replace` adds a key that a map lacks.

use serde::Deserialize;
use serde_json::Value;

use super::unprocessable;
use crate::{Object, Status};

/// The most operations that one patch may have, as upstream's.
const OPERATIONS_LIMIT: usize = 10_000;
/// The most bytes that `copy` operations may add to a document, so that a short patch cannot blow it up.
const COPIED_LIMIT_BYTES: usize = 3 * 1024 * 1024;

#[derive(Deserialize)]
struct Operation {
    op: Option<String>,
    path: Option<String>,
    from: Option<String>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
}

/// A null that is written is a value; one that is not is none.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// How deep a patch may nest a document: as deep as JSON is read.
const DEPTH_LIMIT: usize = 128;

/// An operation cannot be applied. Upstream tells no details of it.
struct Inapplicable;

/// Applies a JSON patch.
///
/// # Errors
/// 400 where it is no JSON patch, 413 where it has too many operations, 422 where an operation cannot be applied.
pub fn json_patch(object: Object, patch: &[u8]) -> Result<Object, Status> {
    let operations: Vec<Operation> =
        serde_json::from_slice(patch).map_err(|error| Status::bad_request(error.to_string()))?;
    if operations.len() > OPERATIONS_LIMIT {
        let why =
            format!("The allowed maximum operations in a JSON patch is {OPERATIONS_LIMIT}, got {}", operations.len());
        return Err(Status { message: format!("Request entity too large: {why}"), ..Status::too_large(0) });
    }
    let mut object = object;
    let mut copied_bytes = 0;
    for operation in operations {
        apply(&mut object, operation, &mut copied_bytes).map_err(|Inapplicable| unprocessable())?;
    }
    Ok(object)
}

fn apply(object: &mut Value, operation: Operation, copied_bytes: &mut usize) -> Result<(), Inapplicable> {
    let path = operation.path.ok_or(Inapplicable)?;
    match operation.op.as_deref() {
        Some("add") => add(object, &path, operation.value.ok_or(Inapplicable)?),
        Some("remove") => remove(object, &path).map(drop),
        Some("replace") => replace(object, &path, operation.value.ok_or(Inapplicable)?),
        Some("move") => {
            let value = remove(object, &operation.from.ok_or(Inapplicable)?)?;
            add(object, &path, value)
        }
        Some("copy") => {
            let value = get(object, &operation.from.ok_or(Inapplicable)?)?.cloned().unwrap_or(Value::Null);
            *copied_bytes += value.to_string().len();
            if *copied_bytes > COPIED_LIMIT_BYTES {
                return Err(Inapplicable);
            }
            add(object, &path, value)
        }
        Some("test") => {
            let wanted = operation.value.unwrap_or(Value::Null);
            let actual = if path.is_empty() { Some(&*object) } else { get(object, &path)? };
            if same(actual.unwrap_or(&Value::Null), &wanted) { Ok(()) } else { Err(Inapplicable) }
        }
        _ => Err(Inapplicable),
    }
}

/// Whether two values are the same; numbers are compared by value (`1` and `1.0`).
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left == right || left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| same(value, other)))
        }
        _ => left == right,
    }
}

/// The container that a path ends in, and its last key.
fn container<'a>(object: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), Inapplicable> {
    let path = path.strip_prefix('/').ok_or(Inapplicable)?;
    let mut keys = path.split('/').map(|key| key.replace("~1", "/").replace("~0", "~"));
    let last = keys.next_back().ok_or(Inapplicable)?;
    let mut node = object;
    for key in keys {
        node = match node {
            Value::Object(map) => map.get_mut(&key),
            Value::Array(items) => index(&key, items.len()).and_then(|index| items.get_mut(index)),
            _ => None,
        }
        .ok_or(Inapplicable)?;
    }
    match node {
        Value::Object(_) | Value::Array(_) => Ok((node, last)),
        _ => Err(Inapplicable),
    }
}

/// How many levels a value has.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// An index below `size`; `-1` is the last.
fn index(key: &str, size: usize) -> Option<usize> {
    let number: i64 = key.parse().ok()?;
    let index = if number < 0 { number + i64::try_from(size).ok()? } else { number };
    usize::try_from(index).ok().filter(|index| *index < size)
}

/// What stands at a path; `None` where its map lacks the key.
fn get<'a>(object: &'a mut Value, path: &str) -> Result<Option<&'a Value>, Inapplicable> {
    let (node, key) = container(object, path)?;
    match node {
        Value::Array(items) => index(&key, items.len()).map(|index| Some(&items[index])).ok_or(Inapplicable),
        node => Ok(node.get(&key)),
    }
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), Inapplicable> {
    // Operation by operation a short patch could nest a document deeper than anybody can read.
    if path.matches('/').count() + depth(&value) > DEPTH_LIMIT {
        return Err(Inapplicable);
    }
    let (node, key) = container(object, path)?;
    match node {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => {
            let index = index(&key, items.len() + 1).ok_or(Inapplicable)?;
            items.insert(index, value);
        }
        Value::Object(map) => {
            map.insert(key, value);
        }
        _ => return Err(Inapplicable),
    }
    Ok(())
}

fn remove(object: &mut Value, path: &str) -> Result<Value, Inapplicable> {
    let (node, key) = container(object, path)?;
    match node {
        Value::Array(items) => index(&key, items.len()).map(|index| items.remove(index)).ok_or(Inapplicable),
        Value::Object(map) => map.remove(&key).ok_or(Inapplicable),
        _ => Err(Inapplicable),
    }
}

fn replace(object: &mut Value, path: &str, value: Value) -> Result<(), Inapplicable> {
    if path.is_empty() {
        *object = value;
        return Ok(());
    }
    let (node, key) = container(object, path)?;
    match node {
        Value::Array(items) => {
            let index = index(&key, items.len()).ok_or(Inapplicable)?;
            items[index] = value;
        }
        Value::Object(map) => {
            map.insert(key, value);
        }
        _ => return Err(Inapplicable),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(object: Value, patch: Value, want: Result<Value, u16>) {
        let got = json_patch(object, patch.to_string().as_bytes()).map_err(|status| status.code);
        assert_eq!(got, want, "{patch}");
    }

    #[test]
    fn operations() {
        let object = json!({"a": {"b/c": 1}, "l": [1, 2, 3]});
        check(
            object.clone(),
            json!([
                {"op": "test", "path": "/a/b~1c", "value": 1.0},
                {"op": "add", "path": "/l/1", "value": 9},
                {"op": "add", "path": "/l/-", "value": 4},
                {"op": "remove", "path": "/l/-2"},
                {"op": "replace", "path": "/a/new", "value": null},
                {"op": "copy", "from": "/a", "path": "/copied"},
                {"op": "move", "from": "/a/b~1c", "path": "/moved"},
            ]),
            Ok(json!({"a": {"new": null}, "copied": {"b/c": 1, "new": null}, "l": [1, 9, 2, 4], "moved": 1})),
        );
        check(object.clone(), json!([{"op": "test", "path": "/missing"}]), Ok(object.clone()));
        let inapplicable = [
            json!([{"op": "remove", "path": "/spec/nope"}]),
            json!([{"op": "remove", "path": "/a/nope"}]),
            json!([{"op": "add", "path": "/l/9", "value": 1}]),
            json!([{"op": "add", "path": "/l/x", "value": 1}]),
            json!([{"op": "add", "path": "/a/x"}]),
            json!([{"op": "test", "path": "/l/0", "value": 2}]),
            json!([{"op": "turn", "path": "/a"}]),
            json!([{"op": "remove"}]),
        ];
        for patch in inapplicable {
            check(object.clone(), patch, Err(422));
        }
        check(object.clone(), json!({"op": "remove"}), Err(400));
        let many = vec![json!({"op": "test", "path": "/missing"}); OPERATIONS_LIMIT + 1];
        check(object, Value::Array(many), Err(413));
    }

    #[test]
    fn copies_cannot_blow_a_document_up() {
        let patch = vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 64];
        check(json!({"a": ["x"]}), Value::Array(patch), Err(422));
    }
}

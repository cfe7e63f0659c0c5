//! Strategic merge patch: a merge patch that knows which lists are merged, and by which key of their items.
//! Its directives: `$patch` (replace, delete), `$deleteFromPrimitiveList/FIELD`, `$setElementOrder/FIELD`, `$retainKeys`.
//! See <https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md>.

use serde_json::Value;

use super::unprocessable;
use crate::{Map, Object, Reason, Status};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

/// What a merge must know of an object's type.
pub trait MergeSchema {
    /// How the field of that name merges; `None` where there is no such field.
    fn field(&self, name: &str) -> Option<FieldMerge<'_>>;
}

/// How a field merges.
#[derive(Clone, Copy, Default)]
pub struct FieldMerge<'a> {
    /// The type of the field's value, or of the items of its list.
    pub inner: Option<&'a dyn MergeSchema>,
    /// Whether a list is merged, not replaced.
    pub merge: bool,
    /// Whether an object is replaced, not merged.
    pub replace: bool,
    /// The key that tells list items apart; none for lists of scalars.
    pub key: Option<&'a str>,
}

type Schema<'a> = Option<&'a dyn MergeSchema>;

/// Applies a strategic merge patch.
///
/// # Errors
/// 400 where a directive is malformed, 422 or 500 (as upstream) where items do not fit their list.
pub fn strategic_merge(object: Object, patch: Value, schema: &dyn MergeSchema) -> Result<Object, Status> {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => merge_maps(object, patch, Some(schema)).map(Value::Object),
        _ => Err(Status::bad_request("invalid JSON document")),
    }
}

fn malformed(what: &str) -> Status {
    Status::bad_request(format!("invalid patch format of {what}"))
}

fn unfit(why: String) -> Status {
    Status::failure(500, Reason::Unknown, why)
}

fn no_key(item: &Map, key: &str) -> Status {
    unfit(format!("map: {} does not contain declared merge key: {key}", go_map(item)))
}

/// How Go prints a map.
fn go_map(map: &Map) -> String {
    let entries: Vec<_> = map.iter().map(|(key, value)| format!("{key}:{}", go_text(value))).collect();
    format!("map[{}]", entries.join(" "))
}

fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(map) => go_map(map),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        other => other.to_string(),
    }
}

fn lookup<'a>(schema: Schema<'a>, name: &str) -> FieldMerge<'a> {
    schema.and_then(|schema| schema.field(name)).unwrap_or_default()
}

fn merge_maps(mut original: Map, mut patch: Map, schema: Schema<'_>) -> Result<Map, Status> {
    match patch.get(PATCH).map(|directive| directive.as_str().unwrap_or("")) {
        None => {}
        Some("replace") => {
            patch.remove(PATCH);
            return Ok(patch);
        }
        Some("delete") => return Ok(Map::new()),
        Some(_) => return Err(unprocessable()),
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, schema)?;
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(DELETE_FROM_LIST) {
            let name = name.strip_prefix('/').ok_or_else(|| malformed("primitive list"))?;
            delete_from_list(&mut original, name, value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let field = lookup(schema, &key);
                Some(Value::Object(if field.replace { new } else { merge_maps(old, new, field.inner)? }))
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                Some(Value::Array(merge_field_lists(old, new, lookup(schema, &key))?))
            }
            (_, new) => without_directives(without_nulls(new)),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// Nulls that delete nothing are dropped, also deep inside of what is added.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// What is left of an added value: parts that only say what to delete are no content.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

fn retain_keys(original: &mut Map, patch: &mut Map) -> Result<(), Status> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = directive else { return Err(malformed("retainKeys")) };
    let retained = |key: &str| keys.iter().any(|kept| kept.as_str() == Some(key));
    let unlisted = patch.iter().any(|(key, value)| {
        !value.is_null() && !key.starts_with(DELETE_FROM_LIST) && !key.starts_with(SET_ORDER) && !retained(key)
    });
    if unlisted {
        return Err(malformed("retainKeys"));
    }
    original.retain(|key, _| retained(key));
    Ok(())
}

fn delete_from_list(original: &mut Map, name: &str, deleted: Value) -> Result<(), Status> {
    let Value::Array(deleted) = deleted else { return Err(malformed("primitive list")) };
    if let Some(Value::Array(items)) = original.get_mut(name) {
        items.retain(|item| !deleted.contains(item));
    }
    Ok(())
}

/// Merges the lists for which the patch states an order, and takes them out of the patch.
fn merge_ordered_lists(original: &mut Map, patch: &mut Map, schema: Schema<'_>) -> Result<(), Status> {
    let directives: Vec<_> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let order = match patch.remove(&directive) {
            Some(Value::Array(order)) => order,
            _ => return Err(malformed("setElementOrder list")),
        };
        let name = directive.strip_prefix(SET_ORDER).and_then(|rest| rest.strip_prefix('/'));
        let name = name.ok_or_else(|| malformed("setElementOrder list"))?;
        let field = lookup(schema, name);
        let old = list_of(original.get(name).filter(|list| !list.is_null()))?;
        let new = list_of(patch.get(name))?;
        check_order(new.as_deref().unwrap_or_default(), &order, field.key)?;
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
            (Some(old), Some(new)) => merge_field_lists(old, new, field)?,
        };
        let merged = in_order(merged, &order, &server_order, field.key)?;
        original.insert(name.to_owned(), Value::Array(merged));
        patch.remove(name);
    }
    Ok(())
}

fn list_of(value: Option<&Value>) -> Result<Option<Vec<Value>>, Status> {
    match value {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items.clone())),
        Some(_) => Err(unfit("expected a list beside its order, but received something else".to_owned())),
    }
}

/// The items of the patch must stand in the order list, in the same order.
fn check_order(items: &[Value], order: &[Value], key: Option<&str>) -> Result<(), Status> {
    if order.is_empty() {
        return Ok(());
    }
    let mut places = order.iter();
    for item in items.iter().filter(|item| item.get(PATCH).is_none()) {
        if !places.any(|place| identity(place, key) == identity(item, key)) {
            let (items, order) = (go_text(&Value::from(items)), go_text(&Value::from(order)));
            return Err(unfit(format!(
                "The order in patch list:\n{items}\n doesn't match {SET_ORDER} list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

/// What tells an item apart: the value of its merge key, or the scalar itself.
fn identity<'a>(item: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    match key {
        Some(key) => item.get(key),
        None => Some(item),
    }
}

fn merge_field_lists(old: Vec<Value>, new: Vec<Value>, field: FieldMerge<'_>) -> Result<Vec<Value>, Status> {
    if !field.merge {
        return Ok(new);
    }
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    let maps = old.iter().chain(&new).filter(|item| item.is_object()).count();
    if old.iter().chain(&new).any(Value::is_array) {
        return Err(unprocessable());
    }
    if maps == 0 {
        return merge_scalars(old, new);
    }
    if maps < old.len() + new.len() {
        return Err(unfit("expected a map, but received a scalar".to_owned()));
    }
    match field.key {
        None => Err(unfit("cannot merge lists without merge key".to_owned())),
        Some(key) => merge_items(old, new, key, field.inner),
    }
}

fn merge_scalars(old: Vec<Value>, new: Vec<Value>) -> Result<Vec<Value>, Status> {
    let mut merged: Vec<Value> = Vec::with_capacity(old.len() + new.len());
    for item in old.iter().chain(&new) {
        if !merged.contains(item) {
            merged.push(item.clone());
        }
    }
    in_order(merged, &new, &old, None)
}

fn merge_items(old: Vec<Value>, new: Vec<Value>, key: &str, schema: Schema<'_>) -> Result<Vec<Value>, Status> {
    let mut merged = old;
    let mut added = Vec::new();
    let mut replace = false;
    for item in new {
        let Value::Object(map) = item else { continue };
        match map.get(PATCH).map(|directive| directive.as_str().unwrap_or("")) {
            None => added.push(map),
            Some("delete") => {
                let deleted = map.get(key).ok_or_else(|| no_key(&map, key))?;
                merged.retain(|item| item.get(key) != Some(deleted));
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(unfit("merging lists cannot yet be specified in the patch".to_owned())),
            Some(_) => return Err(unprocessable()),
        }
    }
    if replace {
        return Ok(added.into_iter().map(Value::Object).collect());
    }
    let server_order = merged.clone();
    let patch_order: Vec<_> = added.iter().cloned().map(Value::Object).collect();
    for item in added {
        let identity = item.get(key).ok_or_else(|| no_key(&item, key))?;
        match merged.iter_mut().find(|old| old.get(key) == Some(identity)) {
            Some(Value::Object(old)) => *old = merge_maps(std::mem::take(old), item, schema)?,
            _ => merged.push(Value::Object(item)),
        }
    }
    in_order(merged, &patch_order, &server_order, Some(key))
}

/// Brings merged items into order: those of the patch in the patch's order, and those that only the server has
/// woven between them, each before the first that followed it on the server.
fn in_order(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, Status> {
    if let Some(key) = key {
        let lacking =
            merged.iter().chain(patch_order).filter_map(Value::as_object).find(|item| item.get(key).is_none());
        if let Some(item) = lacking {
            return Err(no_key(item, key));
        }
    }
    let place =
        |order: &[Value], item: &Value| order.iter().position(|other| identity(other, key) == identity(item, key));
    let (mut ours, mut theirs): (Vec<_>, Vec<_>) =
        merged.into_iter().partition(|item| place(patch_order, item).is_some());
    ours.sort_by_key(|item| place(patch_order, item));
    theirs.sort_by_key(|item| place(server_order, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(ours.len() + theirs.len());
    let mut theirs = theirs.into_iter().peekable();
    for item in ours {
        while let Some(other) = theirs.peek() {
            match (place(server_order, other), place(server_order, &item)) {
                (Some(left), Some(right)) if left < right => out.extend(theirs.next()),
                _ => break,
            }
        }
        out.push(item);
    }
    out.extend(theirs);
    Ok(out)
}

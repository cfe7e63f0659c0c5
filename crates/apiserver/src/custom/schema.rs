//! Structural schemas: what they drop, what they fill in, and what they find wrong, with upstream's words.
//! See <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation>.

use std::collections::HashMap;
use std::sync::LazyLock;

use parking_lot::Mutex;
use regex::Regex;
use serde_json::Value;
use skiff_kinds::schema::definition;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, Object};

use super::formats;

/// How deep schemas and objects are followed.
const MAX_DEPTH: usize = 64;
/// Fields of every object (and of embedded ones) that the schema need not name.
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const OBJECT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

fn keeps_unknown(schema: &Value) -> bool {
    schema.bool_at(&["x-kubernetes-preserve-unknown-fields"])
}

/// The schema of a field, and whether it is one that every object has.
fn field<'a>(schema: &'a Value, name: &str, is_object: bool) -> (Option<&'a Value>, bool) {
    let declared = schema.at(&["properties", name]);
    if is_object && OBJECT_FIELDS.contains(&name) {
        return (None, true);
    }
    let further = schema.get("additionalProperties").filter(|further| further.is_object());
    (declared.or(further), false)
}

/// Drops what the schema does not name; gives the paths of what was dropped.
pub fn prune(schema: &Value, object: &mut Object) -> Vec<String> {
    let mut dropped = Vec::new();
    prune_node(schema, object, "", true, 0, &mut dropped);
    dropped
}

fn prune_node(schema: &Value, node: &mut Value, path: &str, is_object: bool, depth: usize, dropped: &mut Vec<String>) {
    if depth > MAX_DEPTH {
        return;
    }
    match node {
        Value::Object(map) => {
            let open = keeps_unknown(schema) || schema.get("additionalProperties") == Some(&Value::Bool(true));
            let child = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            map.retain(|name, value| match field(schema, name, is_object) {
                (_, true) => {
                    // The object's own metadata was decoded as such; that of an embedded one is a field like others.
                    if name == "metadata" && !path.is_empty() {
                        prune_metadata(value, &child(name), dropped);
                    }
                    true
                }
                (Some(schema), _) => {
                    let embedded = schema.bool_at(&["x-kubernetes-embedded-resource"]);
                    prune_node(schema, value, &child(name), embedded, depth + 1, dropped);
                    true
                }
                (None, _) if open => true,
                (None, _) => {
                    dropped.push(child(name));
                    false
                }
            });
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            let embedded = schema.bool_at(&["x-kubernetes-embedded-resource"]);
            for (index, item) in items.iter_mut().enumerate() {
                prune_node(schema, item, &format!("{path}[{index}]"), embedded, depth + 1, dropped);
            }
        }
        _ => {}
    }
}

/// Drops from an embedded object's metadata what metadata does not have.
fn prune_metadata(metadata: &mut Value, path: &str, dropped: &mut Vec<String>) {
    let (Some(map), Some(known)) = (metadata.as_object_mut(), definition(OBJECT_META)) else { return };
    map.retain(|name, _| {
        let is_known = known.fields.iter().any(|field| field.name == name);
        if !is_known {
            dropped.push(format!("{path}.{name}"));
        }
        is_known
    });
}

/// Fills in the schema's defaults, also inside of what is filled in; nulls that may not be null count as absent.
pub fn default(schema: &Value, node: &mut Value) {
    default_node(schema, node, 0);
}

fn default_node(schema: &Value, node: &mut Value, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match node {
        Value::Object(map) => {
            for (name, schema) in schema.map_at(&["properties"]).into_iter().flatten() {
                let unset = map.get(name).is_none_or(|value| value.is_null() && !schema.bool_at(&["nullable"]));
                if let (true, Some(default)) = (unset, schema.get("default")) {
                    map.insert(name.clone(), default.clone());
                }
                if let Some(value) = map.get_mut(name) {
                    default_node(schema, value, depth + 1);
                }
            }
            let declared = schema.map_at(&["properties"]);
            if let Some(schema) = schema.get("additionalProperties").filter(|further| further.is_object()) {
                for (name, value) in map.iter_mut() {
                    if declared.is_none_or(|declared| !declared.contains_key(name)) {
                        default_node(schema, value, depth + 1);
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| default_node(schema, item, depth + 1));
            }
        }
        _ => {}
    }
}

/// What is wrong with an object.
pub fn validate(schema: &Value, object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    for (name, schema) in schema.map_at(&["properties"]).into_iter().flatten() {
        if OBJECT_FIELDS.contains(&name.as_str()) {
            continue;
        }
        if let Some(value) = object.get(name) {
            check(schema, value, &FieldPath::new(name), 0, &mut errors);
        }
    }
    required(schema, object, &FieldPath::default(), &mut errors);
    errors
}

/// What is wrong with a default of the schema itself.
pub fn check_default(schema: &Value, default: &Value, path: &FieldPath, errors: &mut ErrorList) {
    check(schema, default, path, 0, errors);
}

fn required(schema: &Value, node: &Value, path: &FieldPath, errors: &mut ErrorList) {
    for name in schema.list_at(&["required"]).iter().filter_map(Value::as_str) {
        if node.get(name).is_none() {
            errors.push(FieldError::required(&path.child(name), ""));
        }
    }
}

/// The type of a value in a schema's words.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn has_type(schema: &Value, value: &Value) -> bool {
    let actual = type_of(value);
    if schema.bool_at(&["x-kubernetes-int-or-string"]) {
        return matches!(actual, "integer" | "string");
    }
    match schema.str_at(&["type"]) {
        "" => true,
        "number" => matches!(actual, "integer" | "number"),
        // A number without a fraction is an integer, however it is written.
        "integer" if actual == "number" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        wanted => wanted == actual,
    }
}

fn check(schema: &Value, value: &Value, path: &FieldPath, depth: usize, errors: &mut ErrorList) {
    if depth > MAX_DEPTH || (value.is_null() && schema.bool_at(&["nullable"])) {
        return;
    }
    if !has_type(schema, value) {
        let (wanted, actual) = (schema.str_at(&["type"]), type_of(value));
        let text = format!("{path} in body must be of type {wanted}: {actual:?}");
        errors.push(FieldError::type_invalid(path, actual, text));
        return;
    }
    let allowed = schema.list_at(&["enum"]);
    if !allowed.is_empty() && !allowed.contains(value) {
        let shown: Vec<String> =
            allowed.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(path, value.clone(), &shown));
    }
    match value {
        Value::Number(_) => number(schema, value, path, errors),
        Value::String(text) => string(schema, text, path, errors),
        Value::Array(items) => list(schema, items, path, depth, errors),
        Value::Object(_) => map(schema, value, path, depth, errors),
        _ => {}
    }
    if schema.bool_at(&["x-kubernetes-embedded-resource"]) && value.is_object() {
        for name in ["apiVersion", "kind"] {
            if value.str_at(&[name]).is_empty() {
                errors.push(FieldError::required(&path.child(name), "must not be empty"));
            }
        }
    }
    combined(schema, value, path, depth, errors);
}

fn combined(schema: &Value, value: &Value, path: &FieldPath, depth: usize, errors: &mut ErrorList) {
    let passes = |schema: &Value| {
        let mut found = ErrorList::new();
        check(schema, value, path, depth + 1, &mut found);
        found.is_empty()
    };
    let mut refuse =
        |words: &str| errors.push(FieldError::invalid(path, value.clone(), format!("{path} in body {words}")));
    if let Some(any) = schema.get("anyOf").and_then(Value::as_array)
        && !any.iter().any(passes)
    {
        refuse("must validate at least one schema (anyOf)");
    }
    if let Some(one) = schema.get("oneOf").and_then(Value::as_array)
        && one.iter().filter(|schema| passes(schema)).count() != 1
    {
        refuse("must validate one and only one schema (oneOf)");
    }
    if schema.get("not").is_some_and(passes) {
        refuse("must not validate the schema (not)");
    }
    for schema in schema.list_at(&["allOf"]) {
        check(schema, value, path, depth + 1, errors);
    }
}

fn number(schema: &Value, value: &Value, path: &FieldPath, errors: &mut ErrorList) {
    let Some(number) = value.as_f64() else { return };
    let limit = |key: &str| schema.get(key).and_then(Value::as_f64).map(|limit| (limit, &schema[key]));
    let mut refuse = |words: String| {
        errors.push(FieldError::invalid(path, value.clone(), format!("{path} in body should be {words}")))
    };
    if let Some((least, shown)) = limit("minimum") {
        match schema.bool_at(&["exclusiveMinimum"]) {
            true if number <= least => refuse(format!("greater than {shown}")),
            false if number < least => refuse(format!("greater than or equal to {shown}")),
            _ => {}
        }
    }
    if let Some((most, shown)) = limit("maximum") {
        match schema.bool_at(&["exclusiveMaximum"]) {
            true if number >= most => refuse(format!("less than {shown}")),
            false if number > most => refuse(format!("less than or equal to {shown}")),
            _ => {}
        }
    }
    if let Some((step, shown)) = limit("multipleOf")
        && step != 0.0
        && (number / step).fract() != 0.0
    {
        refuse(format!("a multiple of {shown}"));
    }
}

fn string(schema: &Value, text: &str, path: &FieldPath, errors: &mut ErrorList) {
    let length = text.chars().count() as i64;
    if let Some(least) = schema.int_at(&["minLength"]).filter(|least| length < *least) {
        errors.push(FieldError::invalid(path, text, format!("{path} in body should be at least {least} chars long")));
    }
    if let Some(most) = schema.int_at(&["maxLength"]).filter(|most| length > *most) {
        errors.push(FieldError::too_long(path, most.max(0) as usize));
    }
    let format = schema.str_at(&["format"]);
    if !format.is_empty() && !formats::is_of(format, text) {
        let words = format!("{path} in body must be of type {format}: {text:?}");
        errors.push(FieldError::type_invalid(path, text, words));
    }
    let pattern = schema.str_at(&["pattern"]);
    // A pattern that cannot be read here lets everything pass rather than nothing.
    if !pattern.is_empty() && compiled(pattern).is_some_and(|pattern| !pattern.is_match(text)) {
        errors.push(FieldError::invalid(path, text, format!("{path} in body should match '{pattern}'")));
    }
}

/// How many patterns are kept compiled: definitions share a few.
const PATTERN_LIMIT: usize = 2048;

/// A pattern, compiled once for all objects.
fn compiled(pattern: &str) -> Option<Regex> {
    static KNOWN: LazyLock<Mutex<HashMap<String, Option<Regex>>>> = LazyLock::new(Mutex::default);
    if let Some(known) = KNOWN.lock().get(pattern) {
        return known.clone();
    }
    let made = skiff_cel::re2::compile(pattern).ok();
    let mut known = KNOWN.lock();
    if known.len() >= PATTERN_LIMIT {
        known.clear();
    }
    known.insert(pattern.to_owned(), made.clone());
    made
}

fn list(schema: &Value, items: &[Value], path: &FieldPath, depth: usize, errors: &mut ErrorList) {
    let length = items.len() as i64;
    if let Some(least) = schema.int_at(&["minItems"]).filter(|least| length < *least) {
        errors.push(FieldError::invalid(
            path,
            items.to_vec(),
            format!("{path} in body should have at least {least} items"),
        ));
    }
    if let Some(most) = schema.int_at(&["maxItems"]).filter(|most| length > *most) {
        errors.push(FieldError::too_many(path, items.len(), most.max(0) as usize));
    }
    if schema.bool_at(&["uniqueItems"]) || schema.str_at(&["x-kubernetes-list-type"]) == "set" {
        for (index, item) in items.iter().enumerate().filter(|(index, item)| items[..*index].contains(item)) {
            errors.push(FieldError::duplicate(&path.index(index), item.clone()));
        }
    }
    let keys = schema.list_at(&["x-kubernetes-list-map-keys"]);
    if !keys.is_empty() {
        let key_of = |item: &Value| -> Vec<Value> {
            keys.iter().filter_map(Value::as_str).map(|key| item.get(key).cloned().unwrap_or_default()).collect()
        };
        let all: Vec<_> = items.iter().map(key_of).collect();
        for (index, key) in all.iter().enumerate().filter(|(index, key)| all[..*index].contains(key)) {
            let shown: serde_json::Map<String, Value> =
                keys.iter().filter_map(Value::as_str).map(str::to_owned).zip(key.clone()).collect();
            errors.push(FieldError::duplicate(&path.index(index), shown));
        }
    }
    if let Some(schema) = schema.get("items") {
        for (index, item) in items.iter().enumerate() {
            check(schema, item, &path.index(index), depth + 1, errors);
        }
    }
}

fn map(schema: &Value, value: &Value, path: &FieldPath, depth: usize, errors: &mut ErrorList) {
    let Some(map) = value.as_object() else { return };
    let length = map.len() as i64;
    if let Some(least) = schema.int_at(&["minProperties"]).filter(|least| length < *least) {
        errors.push(FieldError::invalid(
            path,
            value.clone(),
            format!("{path} in body should have at least {least} properties"),
        ));
    }
    if let Some(most) = schema.int_at(&["maxProperties"]).filter(|most| length > *most) {
        errors.push(FieldError::too_many(path, map.len(), most.max(0) as usize));
    }
    required(schema, value, path, errors);
    let declared = schema.map_at(&["properties"]);
    for (name, value) in map {
        let own = declared.and_then(|declared| declared.get(name));
        let child = if own.is_some() { path.child(name) } else { path.key(name) };
        let further = schema.get("additionalProperties").filter(|further| further.is_object());
        if let Some(schema) = own.or(further) {
            check(schema, value, &child, depth + 1, errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {
            "spec": {"type": "object", "required": ["n"], "properties": {
                "n": {"type": "integer", "minimum": 1},
                "max": {"type": "integer", "default": 5},
                "mode": {"type": "string", "enum": ["a", "b"]},
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}}}}}})
    }

    fn check(object: Value, expected: &[&str]) {
        let errors: Vec<_> = validate(&schema(), &object).iter().map(ToString::to_string).collect();
        assert_eq!(errors, expected, "{object}");
    }

    #[test]
    fn mistakes_are_told_as_upstream_tells_them() {
        check(json!({"spec": {"n": 2, "labels": {"a": "b"}}}), &[]);
        check(json!({"spec": {}}), &["spec.n: Required value"]);
        check(
            json!({"spec": {"n": "x"}}),
            &[r#"spec.n: Invalid value: "string": spec.n in body must be of type integer: "string""#],
        );
        check(
            json!({"spec": {"n": 0}}),
            &["spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1"],
        );
        check(
            json!({"spec": {"n": 1, "mode": "c"}}),
            &[r#"spec.mode: Unsupported value: "c": supported values: "a", "b""#],
        );
        check(
            json!({"spec": {"n": 1, "name": "ABCD"}}),
            &[
                "spec.name: Too long: may not be more than 3 bytes",
                r#"spec.name: Invalid value: "ABCD": spec.name in body should match '^[a-z]+$'"#,
            ],
        );
    }

    #[test]
    fn embedded_objects_are_objects() {
        let schema = json!({"type": "object", "properties": {"template": {"type": "object",
            "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}});
        let mut object =
            json!({"template": {"kind": "Pod", "metadata": {"name": "x", "nope": 1}, "spec": {"free": 1}}});
        assert_eq!(prune(&schema, &mut object), ["template.metadata.nope"]);
        let errors: Vec<_> = validate(&schema, &object).iter().map(ToString::to_string).collect();
        assert_eq!(errors, ["template.apiVersion: Required value: must not be empty"]);
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let mut object = json!({"kind": "W", "metadata": {"name": "w"},
            "spec": {"n": 1, "nope": 2, "free": {"x": 1}, "labels": {"a": "b"}}, "more": 1});
        let mut dropped = prune(&schema(), &mut object);
        dropped.sort();
        assert_eq!(dropped, ["more", "spec.nope"]);
        default(&schema(), &mut object);
        assert_eq!(object["spec"], json!({"n": 1, "max": 5, "free": {"x": 1}, "labels": {"a": "b"}}));
    }
}

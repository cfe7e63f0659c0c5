//! What may be wrong with the schema in a CustomResourceDefinition: it must be structural, and its extensions must fit
//! together. Expressions in it are checked where they can be compiled, in the API server.
//! See <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::rules::check::{At, Faults};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const SCALARS: [&str; 4] = ["boolean", "integer", "number", "string"];
/// Words of JSON Schema that definitions do not know.
const UNSUPPORTED: [&str; 6] = ["$ref", "additionalItems", "definitions", "dependencies", "id", "patternProperties"];
/// How deep a schema may nest.
const DEPTH_LIMIT: usize = 64;

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Checks a version's schema.
pub fn schema(faults: &mut Faults, at: &At) {
    part(faults, at, Level::Root, 0);
    completeness(faults, at, at, 0);
}

/// The entry of a map under a key.
fn entry<'a>(map: &At<'a>, key: &str) -> At<'a> {
    map.get(key).renamed(map.path().key(key))
}

fn is_true(at: &At, field: &str) -> bool {
    at.get(field).flag()
}

fn part(faults: &mut Faults, at: &At, level: Level, depth: usize) {
    if depth > DEPTH_LIMIT {
        faults.forbidden(at, "schema is too deep");
        return;
    }
    supported(faults, at);
    let (items, further) = (at.get("items"), at.get("additionalProperties"));
    if at.get("type").text() == "array" && !items.is_set() {
        faults.required(&items, "must be specified");
    }
    if items.value().is_array() {
        faults.forbidden(&items, "items must be a schema object and not an array");
    } else if items.is_set() {
        part(faults, &items, Level::Item, depth + 1);
    }
    for (_, property) in at.get("properties").entries() {
        part(faults, &property, Level::Field, depth + 1);
    }
    if further.is_set() {
        if level == Level::Root {
            faults.forbidden(&further, "must not be used at the root");
        }
        if !at.get("properties").is_blank() {
            faults.forbidden(&further, "additionalProperties and properties are mutual exclusive");
        }
        if further.value() == &Value::Bool(false) {
            faults.forbidden(&further, "additionalProperties cannot be set to false");
        }
        if further.value().is_object() {
            part(faults, &further, Level::Field, depth + 1);
        }
    }
    type_of(faults, at, level);
    own_fields(faults, at, level);
    extensions(faults, at);
    list_type(faults, at);
    let plain = is_int_or_string(&at.get("anyOf"));
    let wrapped = at.get("allOf").items().first().is_some_and(|first| is_int_or_string(&first.get("anyOf")));
    conditions(faults, at, plain, wrapped, depth + 1);
}

fn supported(faults: &mut Faults, at: &At) {
    for word in UNSUPPORTED {
        if at.get(word).is_set() {
            faults.forbidden(&at.get(word), format!("{word} is not supported"));
        }
    }
    if is_true(at, "uniqueItems") {
        let words = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        faults.forbidden(&at.get("uniqueItems"), words);
    }
    let kind = at.get("type");
    if kind.text() == "null" {
        faults.forbidden(&kind, "type cannot be set to null, use nullable as an alternative");
    } else if !kind.is_blank() && !TYPES.contains(&kind.text()) {
        faults.not_supported(&kind, &TYPES);
    }
}

fn type_of(faults: &mut Faults, at: &At, level: Level) {
    let kind = at.get("type");
    if is_true(at, "x-kubernetes-embedded-resource") && kind.text() != "object" {
        let words = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_blank() {
            faults.required(&kind, words)
        } else {
            faults.invalid(&kind, words)
        }
        return;
    }
    let is_open = is_true(at, "x-kubernetes-int-or-string") || is_true(at, "x-kubernetes-preserve-unknown-fields");
    if kind.is_blank() && !is_open {
        let words = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        faults.required(&kind, words);
    }
    if level == Level::Root && !kind.is_blank() && kind.text() != "object" {
        faults.invalid(&kind, "must be object at the root");
    }
}

/// The fields that every object has: what a schema may say of them.
fn own_fields(faults: &mut Faults, at: &At, level: Level) {
    let embedded = is_true(at, "x-kubernetes-embedded-resource");
    let (properties, further) = (at.get("properties"), at.get("additionalProperties"));
    if embedded && further.is_set() {
        faults.forbidden(&further, "must not be used if x-kubernetes-embedded-resource is set");
    }
    if level == Level::Root || embedded {
        for name in ["kind", "apiVersion"] {
            let property = entry(&properties, name);
            if property.is_set() && property.get("type").text() != "string" {
                faults.invalid(&property.get("type"), "must be string");
            }
        }
        let metadata = entry(&properties, "metadata");
        if metadata.is_set() && metadata.get("type").text() != "object" {
            faults.invalid(&metadata.get("type"), "must be object");
        }
        if level == Level::Root && metadata.is_set() && !names_only(&metadata) {
            let words =
                "must not specify anything other than name and generateName, but metadata is implicitly specified";
            faults.forbidden(&metadata, words);
        }
    }
    if embedded && !is_true(at, "x-kubernetes-preserve-unknown-fields") && properties.is_blank() {
        let words =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        faults.required(&properties, words);
    }
}

/// Whether a schema of metadata restricts the name and nothing else.
fn names_only(metadata: &At) -> bool {
    let fields = metadata.value().as_object();
    let known = |name: &str| matches!(name, "type" | "properties" | "default");
    fields.is_some_and(|fields| fields.keys().all(|name| known(name)))
        && metadata.get("properties").entries().iter().all(|(name, _)| matches!(*name, "name" | "generateName"))
}

fn extensions(faults: &mut Faults, at: &At) {
    let preserve = at.get("x-kubernetes-preserve-unknown-fields");
    if preserve.value() == &Value::Bool(false) {
        faults.invalid(&preserve, "must be true or undefined");
    }
    if is_true(at, "x-kubernetes-int-or-string") {
        for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
            if is_true(at, name) {
                faults.invalid(&at.get(name), "must be false if x-kubernetes-int-or-string is true");
            }
        }
    }
    let map = at.get("x-kubernetes-map-type");
    if map.is_set() {
        needs_type(faults, at, "object", "x-kubernetes-map-type");
        faults.choice(&map, &["atomic", "granular"]);
    }
}

fn needs_type(faults: &mut Faults, at: &At, wanted: &str, because: &str) {
    let kind = at.get("type");
    let words = format!("must be {wanted} if {because} is specified");
    if kind.is_blank() {
        faults.required(&kind, &words);
    } else if kind.text() != wanted {
        faults.invalid(&kind, words);
    }
}

fn list_type(faults: &mut Faults, at: &At) {
    let (list, keys) = (at.get("x-kubernetes-list-type"), at.get("x-kubernetes-list-map-keys"));
    if list.is_set() {
        needs_type(faults, at, "array", "x-kubernetes-list-type");
        faults.choice(&list, &["atomic", "map", "set"]);
    }
    if !keys.is_blank() && list.text() != "map" {
        let words = "must be map if x-kubernetes-list-map-keys is non-empty";
        if list.is_set() { faults.invalid(&list, words) } else { faults.required(&list, words) }
    }
    match list.text() {
        "map" => map_list(faults, at, &keys),
        "set" => set_items(faults, &at.get("items")),
        _ => {}
    }
}

fn set_items(faults: &mut Faults, items: &At) {
    if is_true(items, "nullable") {
        faults.forbidden(&items.get("nullable"), "cannot be nullable when x-kubernetes-list-type is set");
    }
    let (list, map) = (items.get("x-kubernetes-list-type"), items.get("x-kubernetes-map-type"));
    match items.get("type").text() {
        "array" if list.is_set() && list.text() != "atomic" => {
            faults.invalid(&list, "must be atomic as item of a list with x-kubernetes-list-type=set");
        }
        "object" if map.text() != "atomic" => {
            let words = "must be atomic as item of a list with x-kubernetes-list-type=set";
            if map.is_set() { faults.invalid(&map, words) } else { faults.required(&map, words) }
        }
        _ => {}
    }
}

fn map_list(faults: &mut Faults, at: &At, keys: &At) {
    let items = at.get("items");
    if keys.is_blank() {
        faults.required(keys, "must not be empty if x-kubernetes-list-type is map");
    }
    if !items.is_set() {
        faults.required(&items, "must have a schema if x-kubernetes-list-type is map");
        return;
    }
    if items.get("type").text() != "object" {
        faults.invalid(&items.get("type"), "must be object if parent array's x-kubernetes-list-type is map");
        return;
    }
    let required: BTreeSet<&str> = items.get("required").texts().into_iter().collect();
    let mut seen = BTreeSet::new();
    for key in keys.items() {
        let name = key.text();
        if !seen.insert(name) {
            faults.duplicate(&key);
        }
        let property = entry(&items.get("properties"), name);
        if !property.is_set() {
            faults.invalid(&key, "entries must all be names of item properties");
            continue;
        }
        if !SCALARS.contains(&property.get("type").text()) {
            let words = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            faults.invalid(&property.get("type"), words);
        }
        if is_true(&property, "nullable") {
            let words = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            faults.forbidden(&property.get("nullable"), words);
        }
        if !required.contains(name) && !property.get("default").is_set() {
            let words =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            faults.required(&property.get("default"), words);
        }
    }
}

/// The one use of `type` below `anyOf` that is allowed.
fn is_int_or_string(any: &At) -> bool {
    let kinds: Vec<Value> = any.items().iter().map(|item| item.value().clone()).collect();
    kinds == [serde_json::json!({"type": "integer"}), serde_json::json!({"type": "string"})]
}

/// What is allowed below `anyOf`, `allOf`, `oneOf` and `not`: checks of values, nothing that shapes them.
fn conditions(faults: &mut Faults, at: &At, skip_any: bool, skip_first_all: bool, depth: usize) {
    if depth > DEPTH_LIMIT {
        faults.forbidden(at, "schema is too deep");
        return;
    }
    if !skip_any {
        for item in at.get("anyOf").items() {
            condition(faults, &item, false, depth);
        }
    }
    for (index, item) in at.get("allOf").items().iter().enumerate() {
        condition(faults, item, skip_first_all && index == 0, depth);
    }
    for item in at.get("oneOf").items() {
        condition(faults, &item, false, depth);
    }
    let not = at.get("not");
    if not.is_set() {
        condition(faults, &not, false, depth);
    }
    let pattern = at.get("pattern");
    if !pattern.is_blank()
        && let Err(error) = regex::Regex::new(pattern.text())
    {
        // Patterns of the other dialect that this one does not know are rare; what neither knows is refused.
        if matches!(error, regex::Error::Syntax(_)) && !pattern.text().contains("\\Q") {
            let parsing = format!("error parsing regexp: invalid syntax: `{}`", pattern.text());
            faults.invalid(&pattern, format!("must be a valid regular expression, but isn't: {parsing}"));
        }
    }
}

fn condition(faults: &mut Faults, at: &At, skip_any: bool, depth: usize) {
    conditions(faults, at, skip_any, false, depth + 1);
    if depth > DEPTH_LIMIT {
        return;
    }
    if at.get("items").is_set() {
        condition(faults, &at.get("items"), false, depth + 1);
    }
    for (_, property) in at.get("properties").entries() {
        condition(faults, &property, false, depth + 1);
    }
    const EMPTY: [&str; 5] = ["type", "title", "description", "x-kubernetes-list-map-keys", "x-kubernetes-validations"];
    const UNDEFINED: [&str; 5] =
        ["additionalProperties", "default", "externalDocs", "x-kubernetes-list-type", "x-kubernetes-map-type"];
    const FALSE: [&str; 4] = [
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
    ];
    for field in EMPTY.into_iter().filter(|field| !at.get(field).is_blank()) {
        faults.forbidden(&at.get(field), "must be empty to be structural");
    }
    for field in UNDEFINED.into_iter().filter(|field| at.get(field).is_set()) {
        faults.forbidden(&at.get(field), "must be undefined to be structural");
    }
    for field in FALSE.into_iter().filter(|field| is_true(at, field)) {
        faults.forbidden(&at.get(field), "must be false to be structural");
    }
    let metadata = entry(&at.get("properties"), "metadata");
    if metadata.is_set() {
        faults.forbidden(&metadata, "must not be specified in a nested context");
    }
}

/// Whatever a condition names must also stand in the schema itself.
fn completeness(faults: &mut Faults, schema: &At, at: &At, depth: usize) {
    if depth > DEPTH_LIMIT {
        return;
    }
    let named = |list: &str| at.get(list).items();
    for condition in named("anyOf").into_iter().chain(named("allOf")).chain(named("oneOf")).chain([at.get("not")]) {
        if condition.is_set() {
            named_fields(faults, schema, &condition, depth + 1);
        }
    }
    if std::ptr::eq(schema.value(), at.value()) {
        for (_, property) in schema.get("properties").entries() {
            completeness(faults, &property, &property, depth + 1);
        }
        for inner in [schema.get("items"), schema.get("additionalProperties")] {
            if inner.value().is_object() {
                completeness(faults, &inner, &inner, depth + 1);
            }
        }
    }
}

fn named_fields(faults: &mut Faults, schema: &At, condition: &At, depth: usize) {
    if depth > DEPTH_LIMIT {
        return;
    }
    for (name, property) in condition.get("properties").entries() {
        let own = entry(&schema.get("properties"), name);
        if own.is_set() {
            named_fields(faults, &own, &property, depth + 1);
        } else {
            let words = format!("because it is defined in {}", property.path());
            faults.required(&own, &words);
        }
    }
    if condition.get("items").is_set() {
        let own = schema.get("items");
        if own.is_set() {
            named_fields(faults, &own, &condition.get("items"), depth + 1);
        } else {
            let words = format!("because it is defined in {}", condition.get("items").path());
            faults.required(&own, &words);
        }
    }
    completeness(faults, schema, condition, depth + 1);
}

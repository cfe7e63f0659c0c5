//! What the tests of kinds share: YAML in, text out.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fmt::Write;

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_kinds::by_kind;
use skiff_kinds::decode::{FieldValidation, decode_tree};
use skiff_kinds::def::{Context, ResourceDef};
use skiff_object::{GroupVersionKind, Object};

/// The time at which all tests run.
pub fn now() -> Timestamp {
    "2026-03-04T05:06:07Z".parse().expect("a valid time")
}

/// The object that a YAML text describes, and its kind.
pub fn object(yaml: &str) -> (&'static ResourceDef, Object) {
    let tree: Value = serde_saphyr::from_str(yaml).expect("valid YAML");
    let kind = GroupVersionKind::of(&tree).expect("apiVersion and kind");
    let def = by_kind(&kind).expect("a known kind");
    (def, decode_tree(def, tree, FieldValidation::Strict).expect("known and well-typed fields").object)
}

/// What the kind makes of a new object: with defaults, and prepared.
pub fn created(yaml: &str) -> (&'static ResourceDef, Object) {
    let (def, mut object) = object(yaml);
    (def.default)(&mut object);
    (def.prepare_create)(&Context { def, subresource: "", now: now() }, &mut object);
    (def, object)
}

/// An old object of which `yaml` is a full update.
pub fn updated(old: &str, new: &str, subresource: &str) -> (&'static ResourceDef, Object, Object) {
    let (def, old) = created(old);
    let (_, mut new) = object(new);
    (def.default)(&mut new);
    (def.prepare_update)(&Context { def, subresource, now: now() }, &mut new, &old);
    (def, new, old)
}

/// The object as YAML-like lines: a path and a value each.
pub fn lines(object: &Object) -> String {
    let mut text = String::new();
    walk(object, String::new(), &mut text);
    text
}

fn walk(node: &Value, path: String, text: &mut String) {
    match node {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                walk(value, if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, text);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (index, value) in list.iter().enumerate() {
                walk(value, format!("{path}[{index}]"), text);
            }
        }
        leaf => writeln!(text, "{path}: {leaf}").expect("a String takes all"),
    }
}

/// What is wrong with a new object, a line per fault.
pub fn faults(yaml: &str) -> String {
    let (def, object) = created(yaml);
    let errors = (def.validate)(&Context { def, subresource: "", now: now() }, &object);
    errors.iter().map(|error| format!("{error}\n")).collect()
}

/// What is wrong with an update, a line per fault.
pub fn update_faults(old: &str, new: &str) -> String {
    update_faults_of(old, new, "")
}

/// What is wrong with an update of a subresource, a line per fault.
pub fn update_faults_of(old: &str, new: &str, subresource: &str) -> String {
    let (def, new, old) = updated(old, new, subresource);
    let errors = (def.validate_update)(&Context { def, subresource, now: now() }, &new, &old);
    errors.iter().map(|error| format!("{error}\n")).collect()
}

/// The cells of the object's row, with bars between.
pub fn row(yaml: &str) -> String {
    let (def, object) = object(yaml);
    let cells = (def.row)(def, &object, now());
    let shown = cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned));
    shown.collect::<Vec<_>>().join(" | ")
}

/// Puts each part into `frame` at `@`, and lists what is wrong with the whole.
pub fn each(frame: &str, parts: &[&str], expected: expect_test::Expect) {
    let mut text = String::new();
    for part in parts {
        let faults = faults(&frame.replace('@', part));
        text.push_str(&format!("# {part}\n{}", if faults.is_empty() { "fine\n" } else { &faults }));
    }
    expected.assert_eq(&text);
}

/// Changes `frame` from the first part to the second, in the subresource of that name.
pub fn each_change(frame: &str, subresource: &str, changes: &[(&str, &str)], expected: expect_test::Expect) {
    let mut text = String::new();
    for (from, to) in changes {
        let with = |part: &str| frame.replace('@', part);
        let faults = update_faults_of(&with(from), &with(to), subresource);
        text.push_str(&format!("# {from} -> {to}\n{}", if faults.is_empty() { "fine\n" } else { &faults }));
    }
    expected.assert_eq(&text);
}

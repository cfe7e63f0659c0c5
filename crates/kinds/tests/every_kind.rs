//! What must hold for every built-in kind.

use serde_json::{Value, json};
use skiff_kinds::decode::{FieldValidation, decode_tree};
use skiff_kinds::def::{Context, ResourceDef};
use skiff_kinds::{bootstrap, builtin, by_kind, subresource_kinds};
use skiff_object::meta::Meta;
use skiff_object::{GroupVersionKind, Object};

mod common;

fn objects(def: &ResourceDef) -> Vec<Object> {
    let head = json!({"apiVersion": def.group_version().to_string(), "kind": def.kind});
    let with = |spec: Value, status: Value| {
        let mut object = head.clone();
        object.set_at(&["metadata"], json!({"name": "x", "namespace": "y", "uid": "z"}));
        object.set_at(&["spec"], spec);
        object.set_at(&["status"], status);
        object
    };
    vec![
        json!({}),
        head.clone(),
        with(json!({}), json!({})),
        with(json!({"template": {"spec": {"containers": [{"name": "a"}]}}}), json!({})),
    ]
}

/// Trees in which everything has a type that nobody expects.
fn junk(def: &ResourceDef) -> Vec<Object> {
    let names = [
        "metadata",
        "spec",
        "status",
        "data",
        "type",
        "containers",
        "template",
        "ports",
        "volumes",
        "rules",
        "subjects",
        "selector",
        "roleRef",
        "subsets",
        "endpoints",
        "webhooks",
        "conditions",
        "limits",
        "hard",
        "capacity",
        "metrics",
        "initContainers",
        "containerStatuses",
        "addresses",
        "requests",
        "resources",
        "names",
        "versions",
        "parameters",
    ];
    let values =
        [json!(null), json!(7), json!("text"), json!(true), json!([1, "a", {}, []]), json!({"a": 1, "b": {"c": []}})];
    let mut trees: Vec<Value> = values.to_vec();
    for value in &values {
        let flat: Value = names.iter().map(|name| ((*name).to_owned(), value.clone())).collect();
        let few: Value = names.iter().step_by(5).map(|name| ((*name).to_owned(), value.clone())).collect();
        let deep: Value = names.iter().map(|name| ((*name).to_owned(), few.clone())).collect();
        let listed: Value = names.iter().map(|name| ((*name).to_owned(), json!([few, value]))).collect();
        let mut nested = json!({"metadata": {"name": "x"}, "spec": deep, "status": listed});
        nested["spec"]["template"]["spec"] = listed.clone();
        trees.extend([flat, deep, listed, nested]);
    }
    for tree in &mut trees {
        if tree.is_object() {
            tree["kind"] = json!(def.kind);
        }
    }
    trees
}

fn all() -> impl Iterator<Item = &'static ResourceDef> {
    builtin().iter().chain(subresource_kinds()).copied()
}

#[test]
fn defaulting_twice_is_defaulting_once() {
    for def in all() {
        for mut object in objects(def) {
            (def.default)(&mut object);
            let once = object.clone();
            (def.default)(&mut object);
            assert_eq!(object, once, "{}", def.gvk());
        }
    }
}

#[test]
fn a_prepared_object_has_no_further_defaults() {
    for def in all() {
        for mut object in objects(def) {
            (def.default)(&mut object);
            (def.prepare_create)(&Context { def, subresource: "", now: common::now() }, &mut object);
            let prepared = object.clone();
            (def.default)(&mut object);
            assert_eq!(object, prepared, "{}", def.gvk());
        }
    }
}

#[test]
fn rows_have_as_many_cells_as_there_are_columns() {
    for def in all() {
        let columns = if def.columns.is_empty() { 2 } else { def.columns.len() };
        for object in objects(def).into_iter().chain(junk(def)) {
            assert_eq!((def.row)(def, &object, common::now()).len(), columns, "{}", def.gvk());
        }
    }
}

#[test]
fn no_rule_panics_on_junk() {
    for def in all() {
        let old = common_object(def);
        for object in objects(def).into_iter().chain(junk(def)) {
            for subresource in ["", "status", "finalize", "resize", "ephemeralcontainers", "approval"] {
                let context = Context { def, subresource, now: common::now() };
                let mut changed = object.clone();
                (def.prepare_update)(&context, &mut changed, &old);
                let mut changed = old.clone();
                (def.prepare_update)(&context, &mut changed, &object);
            }
            let context = Context { def, subresource: "", now: common::now() };
            let mut changed = object.clone();
            (def.default)(&mut changed);
            (def.prepare_create)(&context, &mut changed);
            let counted = [
                (def.validate)(&context, &object).len(),
                (def.validate)(&context, &changed).len(),
                (def.validate_update)(&context, &object, &old).len(),
                (def.validate_update)(&context, &old, &object).len(),
                (def.warnings)(&object).len(),
            ];
            assert!(counted.iter().all(|count| *count < 10_000), "{}", def.gvk());
            for read in def.selectable.iter().filter_map(|field| field.read.map(|(_, read)| read)) {
                assert!(read(&object).len() < 10_000, "{}", def.gvk());
            }
        }
    }
}

fn common_object(def: &ResourceDef) -> Object {
    let mut object = objects(def).pop().expect("there are several");
    (def.default)(&mut object);
    object
}

/// What these ask for is never changed.
const KEEP_THEIR_SPEC: &[&str] = &["CertificateSigningRequest"];

#[test]
fn a_write_of_the_object_keeps_the_status_and_the_other_way_round() {
    for def in builtin().iter().filter(|def| def.has_status() && !KEEP_THEIR_SPEC.contains(&def.kind.as_ref())) {
        let old = json!({"metadata": {"name": "x", "generation": 3}, "spec": {"a": 1}, "status": {"b": 1}});
        let mut new = json!({"metadata": {"name": "x"}, "spec": {"a": 2}, "status": {"b": 2}});
        let mut written = new.clone();
        (def.prepare_update)(&Context { def, subresource: "status", now: common::now() }, &mut written, &old);
        assert_eq!(
            (written.at(&["spec", "a"]), written.at(&["status", "b"])),
            (Some(&json!(1)), Some(&json!(2))),
            "{}",
            def.gvk()
        );
        if def.has_generation {
            assert_eq!(written.generation(), 3, "{}", def.gvk());
        }
        (def.prepare_update)(&Context { def, subresource: "", now: common::now() }, &mut new, &old);
        assert_eq!(
            (new.at(&["spec", "a"]), new.at(&["status", "b"])),
            (Some(&json!(2)), Some(&json!(1))),
            "{}",
            def.gvk()
        );
        if def.has_generation {
            assert_eq!(new.generation(), 4, "{}", def.gvk());
        }
    }
}

#[test]
fn what_a_cluster_starts_with_is_valid() {
    let objects = bootstrap::rbac_objects(&skiff_base::gates::Gates::default()).into_iter();
    for tree in objects.chain(bootstrap::priority_classes()).chain(bootstrap::flow_control_objects()) {
        let kind = GroupVersionKind::of(&tree).expect("apiVersion and kind");
        let def = by_kind(&kind).expect("a known kind");
        let mut object = decode_tree(def, tree, FieldValidation::Strict).expect("known and well-typed fields").object;
        let context = Context { def, subresource: "", now: common::now() };
        (def.default)(&mut object);
        (def.prepare_create)(&context, &mut object);
        let errors = (def.validate)(&context, &object);
        assert!(errors.is_empty(), "{kind} {}: {errors:?}", object.name());
    }
}

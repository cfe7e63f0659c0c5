//! `v1` Namespace: a scope for names.

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, list, selectable, special, text, texts};
use crate::def::{Context, Deletion, ResourceDef, Scope, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{prepare, table, tree};

/// `namespaces`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("namespaces"),
    singular: text("namespace"),
    kind: text("Namespace"),
    list_kind: text("NamespaceList"),
    short_names: texts!["ns"],
    scope: Scope::Cluster,
    verbs: texts!["create", "delete", "get", "list", "patch", "update", "watch"],
    schema: text("io.k8s.api.core.v1.Namespace"),
    subresources: list![special("finalize", ("", "v1", "Namespace"), texts!["update"]), Subresource::Status,],
    deletion: Deletion::Namespace,
    name_rule: names::dns_label,
    selectable: selectable!["status.phase"],
    columns: list![NAME, column("Status", "string", "Active, or Terminating while its content goes."), AGE],
    default: defaults,
    prepare_create,
    prepare_update,
    row,
    validate,
    validate_update,
    ..BASE
};

/// The label by which selectors find a Namespace by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Holds a Namespace until its content is gone.
const FINALIZER: &str = "kubernetes";

fn defaults(object: &mut Object) {
    let name = object.name().to_owned();
    if !name.is_empty() {
        object.set_at(&["metadata", "labels", NAME_LABEL], name);
    }
    tree::default_text(object, &["status", "phase"], "Active");
}

fn prepare_create(context: &Context, object: &mut Object) {
    prepare::create_with_status(context, object, json!({"phase": "Active"}));
    defaults(object);
    let finalizers = made_list(object);
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
}

fn made_list(object: &mut Object) -> &mut Vec<Value> {
    let node = object.map_mut(&["spec"]).entry("finalizers").or_insert(Value::Null);
    if !node.is_array() {
        *node = json!([]);
    }
    node.as_array_mut().expect("it was made a list just now")
}

/// Only `finalize` changes the finalizers, only `status` changes the status.
fn prepare_update(context: &Context, new: &mut Object, old: &Object) {
    if context.subresource == "finalize" {
        return tree::carry_over(new, old, &["status"]);
    }
    prepare::update(context, new, old);
    tree::carry_over(new, old, &["spec", "finalizers"]);
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), object.str_at(&["status", "phase"]), table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    for finalizer in At::top(object, "spec").get("finalizers").items() {
        let wrong = names::check_label_key(finalizer.text());
        if wrong.is_empty() && !finalizer.text().contains('/') && finalizer.text() != FINALIZER {
            faults.invalid(&finalizer, "name is neither a standard finalizer name nor is it fully qualified");
        }
        faults.all_invalid(&finalizer, wrong);
    }
    faults.into_list()
}

/// A Namespace is going exactly when it is being deleted.
fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let (phase, mut faults) = (At::top(new, "status").get("phase"), Faults::new());
    if context.subresource != "status" {
        return faults.into_list();
    }
    match (old.is_deleting(), phase.text()) {
        (false, "Active") | (true, "Terminating") => {}
        (false, _) => faults.invalid(&phase, "may only be 'Active' if `deletionTimestamp` is empty"),
        (true, _) => faults.invalid(&phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"),
    }
    faults.into_list()
}

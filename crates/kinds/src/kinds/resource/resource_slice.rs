//! `resource.k8s.io/v1` ResourceSlice: the devices that a driver offers.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, selectable, text};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{device_check, table};

/// `resourceslices`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("resource.k8s.io"),
    plural: text("resourceslices"),
    singular: text("resourceslice"),
    kind: text("ResourceSlice"),
    list_kind: text("ResourceSliceList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.resource.v1.ResourceSlice"),
    has_generation: true,
    selectable: selectable!["spec.nodeName", "spec.driver"],
    columns: list![
        NAME,
        column("Node", "string", "The node that has the devices."),
        column("Driver", "string", "The driver of the devices."),
        column("Pool", "string", "The pool that they belong to."),
        AGE,
    ],
    row,
    validate,
    validate_update,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let text = |path: &[&'static str]| object.str_at(path);
    cells![
        object.name(),
        text(&["spec", "nodeName"]),
        text(&["spec", "driver"]),
        text(&["spec", "pool", "name"]),
        table::age(object, now),
    ]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    device_check::slice(&mut faults, &At::top(object, "spec"));
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    let mut faults = Faults::new();
    for path in [&["pool", "name"][..], &["driver"], &["nodeName"]] {
        faults.immutable(&spec.walk(path), &was.walk(path));
    }
    faults.into_list()
}

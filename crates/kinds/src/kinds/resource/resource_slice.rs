//! `resource.k8s.io/v1` ResourceSlice: the devices that a driver offers.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, selectable, text};
use crate::def::{ResourceDef, Scope};
use crate::rules::table;
use crate::rules::table::{AGE, NAME, cells, column};

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

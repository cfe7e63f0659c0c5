//! `storage.k8s.io/v1` CSINode: the storage drivers on a node.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text};
use crate::def::{ResourceDef, Scope};
use crate::rules::table;
use crate::rules::table::{AGE, NAME, cells, column};

/// `csinodes`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("storage.k8s.io"),
    plural: text("csinodes"),
    singular: text("csinode"),
    kind: text("CSINode"),
    list_kind: text("CSINodeList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.storage.v1.CSINode"),
    unconditional_update: false,
    columns: list![NAME, column("Drivers", "integer", "The number of drivers on the node."), AGE],
    row,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), object.list_at(&["spec", "drivers"]).len(), table::age(object, now)]
}

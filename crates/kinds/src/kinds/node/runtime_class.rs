//! `node.k8s.io/v1` RuntimeClass: how a node runs a Pod's containers.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text};
use crate::def::{ResourceDef, Scope};
use crate::rules::table;
use crate::rules::table::{AGE, NAME, cells, column};

/// `runtimeclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("node.k8s.io"),
    plural: text("runtimeclasses"),
    singular: text("runtimeclass"),
    kind: text("RuntimeClass"),
    list_kind: text("RuntimeClassList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.node.v1.RuntimeClass"),
    unconditional_update: false,
    columns: list![NAME, column("Handler", "string", "The configuration of the node's runtime."), AGE],
    row: row,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), object.str_at(&["handler"]), table::age(object, now)]
}

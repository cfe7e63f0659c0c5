//! `v1` ConfigMap: settings that Pods consume.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text, texts};
use crate::def::ResourceDef;
use crate::rules::table;
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::tree::count;

/// `configmaps`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("configmaps"),
    singular: text("configmap"),
    kind: text("ConfigMap"),
    list_kind: text("ConfigMapList"),
    short_names: texts!["cm"],
    schema: text("io.k8s.api.core.v1.ConfigMap"),
    columns: list![NAME, column("Data", "string", "The number of entries."), AGE],
    row: row,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let entries = count(object, &["data"]) + count(object, &["binaryData"]);
    cells![object.name(), entries.to_string(), table::age(object, now)]
}

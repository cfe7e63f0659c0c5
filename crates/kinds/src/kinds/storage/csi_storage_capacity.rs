//! `storage.k8s.io/v1` CSIStorageCapacity: how much storage is left, by topology segment.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text};
use crate::def::ResourceDef;
use crate::rules::table;
use crate::rules::table::{NAME, cells, column};

/// `csistoragecapacities`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("storage.k8s.io"),
    plural: text("csistoragecapacities"),
    singular: text("csistoragecapacity"),
    kind: text("CSIStorageCapacity"),
    list_kind: text("CSIStorageCapacityList"),
    schema: text("io.k8s.api.storage.v1.CSIStorageCapacity"),
    columns: list![
        NAME,
        column("StorageClassName", "string", "The class."),
        column("Capacity", "string", "The free capacity."),
    ],
    row,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, _: Timestamp) -> Vec<Value> {
    let capacity = table::text_or(object, &["capacity"], table::UNSET);
    cells![object.name(), object.str_at(&["storageClassName"]), capacity]
}

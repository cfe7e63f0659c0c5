//! `storage.k8s.io/v1` CSIStorageCapacity: how much storage is left, by topology segment.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
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
    validate,
    validate_update,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, _: Timestamp) -> Vec<Value> {
    let capacity = table::text_or(object, &["capacity"], table::UNSET);
    cells![object.name(), object.str_at(&["storageClassName"]), capacity]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    faults.selector(&At::top(object, "nodeTopology"));
    let class = At::top(object, "storageClassName");
    for words in names::check_dns_subdomain(class.text()) {
        faults.invalid_as(&class, class.text(), words);
    }
    faults.non_negative_quantity(&At::top(object, "capacity"));
    faults.non_negative_quantity(&At::top(object, "maximumVolumeSize"));
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    for field in ["nodeTopology", "storageClassName"] {
        faults.immutable(&At::top(new, field), &At::top(old, field));
    }
    faults.into_list()
}

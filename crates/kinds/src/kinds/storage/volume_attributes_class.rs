//! `storage.k8s.io/v1` VolumeAttributesClass: changeable attributes of volumes.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{source_check, storage_rules, table};

/// `volumeattributesclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("storage.k8s.io"),
    plural: text("volumeattributesclasses"),
    singular: text("volumeattributesclass"),
    kind: text("VolumeAttributesClass"),
    list_kind: text("VolumeAttributesClassList"),
    short_names: texts!["vac"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.storage.v1.VolumeAttributesClass"),
    columns: list![NAME, column("DriverName", "string", "The driver that knows the attributes."), AGE],
    row,
    validate,
    validate_update,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), object.str_at(&["driverName"]), table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    source_check::driver_name(&mut faults, &At::top(object, "driverName"));
    storage_rules::parameters(&mut faults, &At::top(object, "parameters"), false);
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    for field in ["driverName", "parameters"] {
        if At::top(new, field).value() != At::top(old, field).value() {
            faults.forbidden(&At::top(new, field), format!("updates to {field} are forbidden."));
        }
    }
    faults.into_list()
}

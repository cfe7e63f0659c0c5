//! `storage.k8s.io/v1` VolumeAttributesClass: changeable attributes of volumes.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Scope};
use crate::rules::table;
use crate::rules::table::{AGE, NAME, cells, column};

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
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), object.str_at(&["driverName"]), table::age(object, now)]
}

//! `v1` ConfigMap: settings that Pods consume.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::tree::count;
use crate::rules::{config_check, table};

/// `configmaps`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("configmaps"),
    singular: text("configmap"),
    kind: text("ConfigMap"),
    list_kind: text("ConfigMapList"),
    short_names: texts!["cm"],
    schema: text("io.k8s.api.core.v1.ConfigMap"),
    columns: list![NAME, column("Data", "string", "The number of entries."), AGE],
    row,
    validate,
    validate_update,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let entries = count(object, &["data"]) + count(object, &["binaryData"]);
    cells![object.name(), entries.to_string(), table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let (texts, bytes) = (At::top(object, "data"), At::top(object, "binaryData"));
    config_check::keys(&mut faults, &texts);
    for (key, entry) in texts.entries() {
        if bytes.get(key).is_set() {
            faults.invalid_as(&entry, key, "duplicate of key present in binaryData");
        }
    }
    config_check::keys(&mut faults, &bytes);
    let size = config_check::text_bytes(object, "data") + config_check::encoded_bytes(object, "binaryData");
    if size > config_check::SIZE_LIMIT_BYTES {
        config_check::too_large(&mut faults, "[]");
    }
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    config_check::immutable(&mut faults, new, old, &["data", "binaryData"]);
    faults.into_list()
}

//! `storage.k8s.io/v1` CSINode: the storage drivers on a node.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldPath, Object, names};

use crate::base::{BASE, list, text};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::{At, Faults, IMMUTABLE};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{source_check, table};

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
    validate,
    validate_update,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![object.name(), object.list_at(&["spec", "drivers"]).len(), table::age(object, now)]
}

/// The longest name that a driver gives to a node.
const NODE_ID_LIMIT_BYTES: usize = 256;

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let mut seen = BTreeSet::new();
    for driver in At::top(object, "spec").get("drivers").items() {
        let (name, id) = (driver.get("name"), driver.get("nodeID"));
        source_check::driver_name(&mut faults, &name);
        if faults.needs(&id) && id.text().len() > NODE_ID_LIMIT_BYTES {
            faults.invalid(&id, format!("must be {NODE_ID_LIMIT_BYTES} characters or less"));
        }
        faults.non_negative(&driver.get("allocatable").get("count"));
        if !seen.insert(name.text()) {
            faults.duplicate(&name);
        }
        topology_keys(&mut faults, &driver.get("topologyKeys"));
    }
    faults.into_list()
}

fn topology_keys(faults: &mut Faults, keys: &At) {
    let mut seen = BTreeSet::new();
    for key in keys.texts() {
        if key.is_empty() {
            faults.required(keys, "");
        }
        if !seen.insert(key) {
            faults.duplicate_as(keys, key);
        }
        faults.all_invalid(keys, names::check_label_key(key));
    }
}

/// What a driver told of a node stays, but for how much it can attach there.
fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let settled = |driver: &At| {
        let mut driver = driver.value().clone();
        driver.remove_at(&["allocatable"]);
        driver
    };
    let now = At::top(new, "spec").get("drivers").items();
    for before in At::top(old, "spec").get("drivers").items() {
        let same = now.iter().find(|driver| driver.get("name").text() == before.get("name").text());
        if let Some(driver) = same.filter(|driver| settled(driver) != settled(&before)) {
            faults.invalid(&driver.renamed(FieldPath::new("CSINodeDriver")), IMMUTABLE);
        }
    }
    faults.into_list()
}

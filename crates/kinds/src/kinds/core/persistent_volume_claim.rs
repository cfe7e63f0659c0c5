//! `v1` PersistentVolumeClaim: a request for storage.

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column, wide};
use crate::rules::{prepare, storage_rules, table, tree};

/// `persistentvolumeclaims`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("persistentvolumeclaims"),
    singular: text("persistentvolumeclaim"),
    kind: text("PersistentVolumeClaim"),
    list_kind: text("PersistentVolumeClaimList"),
    short_names: texts!["pvc"],
    schema: text("io.k8s.api.core.v1.PersistentVolumeClaim"),
    subresources: list![Subresource::Status],
    columns: list![
        NAME,
        column("Status", "string", "Whether the claim is bound."),
        column("Volume", "string", "The volume that the claim is bound to."),
        column("Capacity", "string", "The size of the volume."),
        column("Access Modes", "string", "How the volume can be mounted."),
        column("StorageClass", "string", "The class."),
        column("VolumeAttributesClass", "string", "The class of changeable attributes."),
        AGE,
        wide("VolumeMode", "string", "A filesystem or a block device."),
    ],
    default: storage_rules::claim_defaults,
    prepare_create,
    row,
    validate,
    validate_update,
    warnings: storage_rules::warnings,
    ..BASE
};

fn prepare_create(context: &Context, object: &mut Object) {
    prepare::create_with_status(context, object, json!({"phase": "Pending"}));
    storage_rules::same_sources(tree::made_mut(object, &["spec"]));
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let bound = !object.str_at(&["spec", "volumeName"]).is_empty();
    let modes = if bound { object.list_at(&["status", "accessModes"]) } else { &[] };
    cells![
        object.name(),
        if object.is_deleting() { "Terminating" } else { object.str_at(&["status", "phase"]) },
        object.str_at(&["spec", "volumeName"]),
        if bound { object.str_at(&["status", "capacity", "storage"]) } else { "" },
        storage_rules::access_modes_text(modes),
        storage_rules::class_name(object),
        table::text_or(object, &["spec", "volumeAttributesClassName"], table::UNSET),
        table::age(object, now),
        table::text_or(object, &["spec", "volumeMode"], table::UNSET),
    ]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    storage_rules::check_claim(&mut faults, &At::top(object, "spec"));
    faults.into_list()
}

/// A claim is settled once it is made, but for its size, its binding and the class of its attributes.
fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    let mut faults = Faults::new();
    let settled = |object: &Object| {
        let mut spec = object.get("spec").cloned().unwrap_or(Value::Null);
        spec.remove_at(&["resources", "requests"]);
        spec.remove_at(&["volumeAttributesClassName"]);
        if old.str_at(&["spec", "volumeName"]).is_empty() {
            spec.remove_at(&["volumeName"]);
        }
        if old.at(&["spec", "storageClassName"]).is_none() && old.str_at(&["status", "phase"]) != "Bound" {
            spec.remove_at(&["storageClassName"]);
        }
        spec
    };
    if settled(new) != settled(old) {
        let words =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        faults.forbidden(&spec, words);
    }
    let (size, had) =
        (spec.walk(&["resources", "requests", "storage"]), was.walk(&["resources", "requests", "storage"]));
    let given = At::top(old, "status").walk(&["capacity", "storage"]);
    if let (Some(size_now), Some(before)) = (size.quantity(), had.quantity())
        && size_now < before
        && given.quantity().is_none_or(|given| size_now <= given)
    {
        faults
            .forbidden(&spec.walk(&["resources", "requests", "storage"]), "field can not be less than status.capacity");
    }
    faults.into_list()
}

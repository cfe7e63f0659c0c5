//! `v1` PersistentVolumeClaim: a request for storage.

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
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
    prepare_create: prepare_create,
    row: row,
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

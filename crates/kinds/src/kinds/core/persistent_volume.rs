//! `v1` PersistentVolume: a piece of storage.

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Scope, Subresource};
use crate::rules::table::{AGE, NAME, cells, column, wide};
use crate::rules::{container_defaults, prepare, storage_rules, table, tree};

/// `persistentvolumes`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("persistentvolumes"),
    singular: text("persistentvolume"),
    kind: text("PersistentVolume"),
    list_kind: text("PersistentVolumeList"),
    short_names: texts!["pv"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.core.v1.PersistentVolume"),
    subresources: list![Subresource::Status],
    columns: list![
        NAME,
        column("Capacity", "string", "The size."),
        column("Access Modes", "string", "How the volume can be mounted."),
        column("Reclaim Policy", "string", "What becomes of the volume when its claim goes."),
        column("Status", "string", "Whether the volume is free, bound or released."),
        column("Claim", "string", "The claim that the volume is bound to."),
        column("StorageClass", "string", "The class."),
        column("VolumeAttributesClass", "string", "The class of changeable attributes."),
        column("Reason", "string", "Why the volume is in its state."),
        AGE,
        wide("VolumeMode", "string", "A filesystem or a block device."),
    ],
    default: defaults,
    prepare_create: prepare_create,
    row: row,
    ..BASE
};

fn defaults(object: &mut Object) {
    tree::default_text(object, &["status", "phase"], "Pending");
    let spec = tree::made_mut(object, &["spec"]);
    tree::default_text(spec, &["persistentVolumeReclaimPolicy"], "Retain");
    tree::default_text(spec, &["volumeMode"], "Filesystem");
    let sources = spec.as_object_mut().into_iter().flatten().filter(|(_, source)| source.is_object());
    sources.for_each(|(kind, source)| container_defaults::storage_source(kind, source));
}

fn prepare_create(context: &Context, object: &mut Object) {
    prepare::create_with_status(context, object, json!({"phase": "Pending"}));
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let claim = object
        .at(&["spec", "claimRef"])
        .map(|claim| format!("{}/{}", claim.str_at(&["namespace"]), claim.str_at(&["name"])));
    cells![
        object.name(),
        object.str_at(&["spec", "capacity", "storage"]),
        storage_rules::access_modes_text(object.list_at(&["spec", "accessModes"])),
        object.str_at(&["spec", "persistentVolumeReclaimPolicy"]),
        if object.is_deleting() { "Terminating" } else { object.str_at(&["status", "phase"]) },
        claim.unwrap_or_default(),
        storage_rules::class_name(object),
        table::text_or(object, &["spec", "volumeAttributesClassName"], table::UNSET),
        object.str_at(&["status", "reason"]),
        table::age(object, now),
        table::text_or(object, &["spec", "volumeMode"], table::UNSET),
    ]
}

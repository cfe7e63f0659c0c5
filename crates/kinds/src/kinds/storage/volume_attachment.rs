//! `storage.k8s.io/v1` VolumeAttachment: the wish to attach a volume to a node.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::{ALL_METADATA, BASE, list, text};
use crate::def::{Context, ResourceDef, Scope, Subresource};
use crate::rules::check::{At, Faults, IMMUTABLE};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{source_check, table};

/// `volumeattachments`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("storage.k8s.io"),
    plural: text("volumeattachments"),
    singular: text("volumeattachment"),
    kind: text("VolumeAttachment"),
    list_kind: text("VolumeAttachmentList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.storage.v1.VolumeAttachment"),
    subresources: list![Subresource::Status],
    unconditional_update: false,
    columns: list![
        NAME,
        column("Attacher", "string", "What attaches the volume."),
        column("PV", "string", "The volume."),
        column("Node", "string", "The node."),
        column("Attached", "boolean", "Whether it is attached."),
        AGE,
    ],
    row,
    validate,
    validate_update,
    status_keeps: ALL_METADATA,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    cells![
        object.name(),
        object.str_at(&["spec", "attacher"]),
        object.str_at(&["spec", "source", "persistentVolumeName"]),
        object.str_at(&["spec", "nodeName"]),
        object.bool_at(&["status", "attached"]),
        table::age(object, now),
    ]
}

/// How much may be told of an attached volume, and of why one could not be attached.
const METADATA_LIMIT_BYTES: usize = 256 * 1024;
const MESSAGE_LIMIT_BYTES: usize = 1024;

fn validate(context: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    status(&mut faults, &At::top(object, "status"));
    if context.subresource == "status" {
        return faults.into_list();
    }
    let spec = At::top(object, "spec");
    source_check::driver_name(&mut faults, &spec.get("attacher"));
    let source = spec.get("source");
    let (named, inline) = (source.get("persistentVolumeName"), source.get("inlineVolumeSpec"));
    let words = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (named.is_set(), inline.is_set()) {
        (false, false) => faults.required(&source, words),
        (true, true) => faults.forbidden(&source, words),
        (true, false) if named.is_blank() => faults.required(&named, "must specify non empty persistentVolumeName"),
        (true, false) => faults.all_invalid(&named, names::check_dns_subdomain(named.text())),
        (false, true) => inline_volume(&mut faults, &inline),
    }
    let node = spec.get("nodeName");
    for words in names::check_dns_subdomain(node.text()) {
        faults.invalid_as(&node, node.text(), words);
    }
    faults.into_list()
}

/// A volume within the wish itself is a driver's, and nobody's claim.
fn inline_volume(faults: &mut Faults, volume: &At) {
    for field in ["claimRef", "capacity", "nodeAffinity", "storageClassName"] {
        faults.forbid(&volume.get(field), "may not be specified in the context of inline volumes");
    }
    let driver = volume.get("csi");
    if driver.is_set() {
        source_check::storage_source(faults, "csi", &driver, true);
    } else {
        faults.required(&driver, "has to be specified in the context of inline volumes");
    }
    if volume.get("accessModes").is_blank() {
        faults.required(&volume.get("accessModes"), "");
    }
}

fn status(faults: &mut Faults, status: &At) {
    let metadata = status.get("attachmentMetadata");
    let mut size_bytes = 0;
    for (key, value) in metadata.entries() {
        if key.is_empty() {
            faults.invalid_as(&metadata, key, "field can not be empty.");
        }
        size_bytes += key.len() + value.text().len();
    }
    if size_bytes > METADATA_LIMIT_BYTES {
        faults.too_long(&metadata, METADATA_LIMIT_BYTES);
    }
    for error in ["attachError", "detachError"] {
        faults.at_most_bytes(&status.get(error).get("message"), MESSAGE_LIMIT_BYTES);
    }
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    if spec.value() != was.value() {
        faults.invalid(&spec, IMMUTABLE);
    }
    faults.into_list()
}

//! `storage.k8s.io/v1` VolumeAttachment: the wish to attach a volume to a node.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, text};
use crate::def::{ResourceDef, Scope, Subresource};
use crate::rules::table;
use crate::rules::table::{AGE, NAME, cells, column};

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

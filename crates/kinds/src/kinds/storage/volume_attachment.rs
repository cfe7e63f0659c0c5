//! `storage.k8s.io/v1` VolumeAttachment: the wish to attach a volume to a node.

use crate::base::{BASE, list, text};
use crate::def::{ResourceDef, Scope, Subresource};

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
    ..BASE
};

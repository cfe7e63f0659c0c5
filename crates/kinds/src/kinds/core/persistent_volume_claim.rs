//! `v1` PersistentVolumeClaim: a request for storage.

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Subresource};

/// `persistentvolumeclaims`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("persistentvolumeclaims"),
    singular: text("persistentvolumeclaim"),
    kind: text("PersistentVolumeClaim"),
    list_kind: text("PersistentVolumeClaimList"),
    short_names: texts!["pvc"],
    schema: text("io.k8s.api.core.v1.PersistentVolumeClaim"),
    subresources: list![Subresource::Status],
    ..BASE
};

//! `storage.k8s.io/v1` StorageClass: how volumes are provisioned.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `storageclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("storage.k8s.io"),
    plural: text("storageclasses"),
    singular: text("storageclass"),
    kind: text("StorageClass"),
    list_kind: text("StorageClassList"),
    short_names: texts!["sc"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.storage.v1.StorageClass"),
    ..BASE
};

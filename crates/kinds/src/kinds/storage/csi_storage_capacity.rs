//! `storage.k8s.io/v1` CSIStorageCapacity: how much storage is left, by topology segment.

use crate::base::{BASE, text};
use crate::def::ResourceDef;

/// `csistoragecapacities`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("storage.k8s.io"),
    plural: text("csistoragecapacities"),
    singular: text("csistoragecapacity"),
    kind: text("CSIStorageCapacity"),
    list_kind: text("CSIStorageCapacityList"),
    schema: text("io.k8s.api.storage.v1.CSIStorageCapacity"),
    ..BASE
};

//! `storage.k8s.io/v1` CSIDriver: what a storage driver can do.

use crate::base::{BASE, text};
use crate::def::{ResourceDef, Scope};

/// `csidrivers`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("storage.k8s.io"),
    plural: text("csidrivers"),
    singular: text("csidriver"),
    kind: text("CSIDriver"),
    list_kind: text("CSIDriverList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.storage.v1.CSIDriver"),
    has_generation: true,
    unconditional_update: false,
    ..BASE
};

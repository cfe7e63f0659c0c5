//! `storage.k8s.io/v1` CSINode: the storage drivers on a node.

use crate::base::{BASE, text};
use crate::def::{ResourceDef, Scope};

/// `csinodes`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("storage.k8s.io"),
    plural: text("csinodes"),
    singular: text("csinode"),
    kind: text("CSINode"),
    list_kind: text("CSINodeList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.storage.v1.CSINode"),
    unconditional_update: false,
    ..BASE
};

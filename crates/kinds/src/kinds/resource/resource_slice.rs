//! `resource.k8s.io/v1` ResourceSlice: the devices that a driver offers.

use crate::base::{BASE, text};
use crate::def::{ResourceDef, Scope};

/// `resourceslices`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("resource.k8s.io"),
    plural: text("resourceslices"),
    singular: text("resourceslice"),
    kind: text("ResourceSlice"),
    list_kind: text("ResourceSliceList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.resource.v1.ResourceSlice"),
    has_generation: true,
    ..BASE
};

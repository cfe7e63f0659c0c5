//! `resource.k8s.io/v1` DeviceClass: a choice of devices.

use crate::base::{BASE, list, text};
use crate::def::{ResourceDef, Scope};
use crate::rules::table;
use crate::rules::table::{AGE, NAME};

/// `deviceclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("resource.k8s.io"),
    plural: text("deviceclasses"),
    singular: text("deviceclass"),
    kind: text("DeviceClass"),
    list_kind: text("DeviceClassList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.resource.v1.DeviceClass"),
    has_generation: true,
    columns: list![NAME, AGE],
    row: table::name_and_age,
    ..BASE
};

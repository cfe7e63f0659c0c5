//! `apps/v1` ControllerRevision: one recorded state of a workload's template.

use crate::base::{BASE, text};
use crate::def::ResourceDef;

/// `controllerrevisions`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apps"),
    plural: text("controllerrevisions"),
    singular: text("controllerrevision"),
    kind: text("ControllerRevision"),
    list_kind: text("ControllerRevisionList"),
    schema: text("io.k8s.api.apps.v1.ControllerRevision"),
    ..BASE
};

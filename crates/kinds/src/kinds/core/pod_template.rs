//! `v1` PodTemplate: a description of Pods to be.

use crate::base::{BASE, text};
use crate::def::ResourceDef;

/// `podtemplates`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("podtemplates"),
    singular: text("podtemplate"),
    kind: text("PodTemplate"),
    list_kind: text("PodTemplateList"),
    schema: text("io.k8s.api.core.v1.PodTemplate"),
    has_generation: true,
    ..BASE
};

//! `resource.k8s.io/v1` ResourceClaimTemplate: a description of claims to be, one for each Pod.

use crate::base::{BASE, text};
use crate::def::ResourceDef;

/// `resourceclaimtemplates`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("resource.k8s.io"),
    plural: text("resourceclaimtemplates"),
    singular: text("resourceclaimtemplate"),
    kind: text("ResourceClaimTemplate"),
    list_kind: text("ResourceClaimTemplateList"),
    schema: text("io.k8s.api.resource.v1.ResourceClaimTemplate"),
    ..BASE
};

//! `flowcontrol.apiserver.k8s.io/v1` FlowSchema: sorts requests into priority levels.

use crate::base::{BASE, list, text};
use crate::def::{ResourceDef, Scope, Subresource};

/// `flowschemas`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("flowcontrol.apiserver.k8s.io"),
    plural: text("flowschemas"),
    singular: text("flowschema"),
    kind: text("FlowSchema"),
    list_kind: text("FlowSchemaList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.flowcontrol.v1.FlowSchema"),
    subresources: list![Subresource::Status],
    has_generation: true,
    unconditional_update: false,
    ..BASE
};

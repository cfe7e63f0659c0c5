//! `node.k8s.io/v1` RuntimeClass: how a node runs a Pod's containers.

use crate::base::{BASE, text};
use crate::def::{ResourceDef, Scope};

/// `runtimeclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("node.k8s.io"),
    plural: text("runtimeclasses"),
    singular: text("runtimeclass"),
    kind: text("RuntimeClass"),
    list_kind: text("RuntimeClassList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.node.v1.RuntimeClass"),
    unconditional_update: false,
    ..BASE
};

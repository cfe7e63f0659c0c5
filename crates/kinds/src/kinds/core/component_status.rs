//! `v1` ComponentStatus: the health of control plane parts, computed when it is read.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `componentstatuses`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("componentstatuses"),
    singular: text("componentstatus"),
    kind: text("ComponentStatus"),
    list_kind: text("ComponentStatusList"),
    short_names: texts!["cs"],
    scope: Scope::Cluster,
    verbs: texts!["get", "list"],
    schema: text("io.k8s.api.core.v1.ComponentStatus"),
    stored: false,
    ..BASE
};

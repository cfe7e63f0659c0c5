//! `flowcontrol.apiserver.k8s.io/v1` PriorityLevelConfiguration: the share of the server that a level gets.

use crate::base::{BASE, list, text};
use crate::def::{ResourceDef, Scope, Subresource};

/// `prioritylevelconfigurations`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("flowcontrol.apiserver.k8s.io"),
    plural: text("prioritylevelconfigurations"),
    singular: text("prioritylevelconfiguration"),
    kind: text("PriorityLevelConfiguration"),
    list_kind: text("PriorityLevelConfigurationList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration"),
    subresources: list![Subresource::Status],
    has_generation: true,
    unconditional_update: false,
    ..BASE
};

//! `scheduling.k8s.io/v1` PriorityClass: a name for a scheduling priority.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `priorityclasses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("scheduling.k8s.io"),
    plural: text("priorityclasses"),
    singular: text("priorityclass"),
    kind: text("PriorityClass"),
    list_kind: text("PriorityClassList"),
    short_names: texts!["pc"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.scheduling.v1.PriorityClass"),
    has_generation: true,
    ..BASE
};

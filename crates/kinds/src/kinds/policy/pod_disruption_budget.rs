//! `policy/v1` PodDisruptionBudget: how many Pods of a set may be taken down at once.

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Subresource};

/// `poddisruptionbudgets`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("policy"),
    plural: text("poddisruptionbudgets"),
    singular: text("poddisruptionbudget"),
    kind: text("PodDisruptionBudget"),
    list_kind: text("PodDisruptionBudgetList"),
    short_names: texts!["pdb"],
    schema: text("io.k8s.api.policy.v1.PodDisruptionBudget"),
    subresources: list![Subresource::Status],
    has_generation: true,
    unconditional_update: false,
    ..BASE
};

//! `policy/v1` Eviction: asks to delete a Pod, respecting disruption budgets.

use crate::base::{BASE, text, texts};
use crate::def::ResourceDef;

/// `Eviction`, served below other resources only.
pub static DEF: ResourceDef = ResourceDef {
    group: text("policy"),
    kind: text("Eviction"),
    verbs: texts![],
    schema: text("io.k8s.api.policy.v1.Eviction"),
    stored: false,
    ..BASE
};

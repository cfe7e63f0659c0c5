//! `authentication.k8s.io/v1` SelfSubjectReview: tells callers who they are; never stored.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `selfsubjectreviews`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("authentication.k8s.io"),
    plural: text("selfsubjectreviews"),
    singular: text("selfsubjectreview"),
    kind: text("SelfSubjectReview"),
    scope: Scope::Cluster,
    verbs: texts!["create"],
    schema: text("io.k8s.api.authentication.v1.SelfSubjectReview"),
    stored: false,
    ..BASE
};

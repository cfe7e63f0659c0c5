//! `authorization.k8s.io/v1` SelfSubjectRulesReview: what the caller may do in a namespace; never stored.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `selfsubjectrulesreviews`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("authorization.k8s.io"),
    plural: text("selfsubjectrulesreviews"),
    singular: text("selfsubjectrulesreview"),
    kind: text("SelfSubjectRulesReview"),
    scope: Scope::Cluster,
    verbs: texts!["create"],
    schema: text("io.k8s.api.authorization.v1.SelfSubjectRulesReview"),
    stored: false,
    ..BASE
};

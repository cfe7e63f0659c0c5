//! `authorization.k8s.io/v1` SelfSubjectAccessReview: may the caller do this; never stored.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `selfsubjectaccessreviews`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("authorization.k8s.io"),
    plural: text("selfsubjectaccessreviews"),
    singular: text("selfsubjectaccessreview"),
    kind: text("SelfSubjectAccessReview"),
    scope: Scope::Cluster,
    verbs: texts!["create"],
    schema: text("io.k8s.api.authorization.v1.SelfSubjectAccessReview"),
    stored: false,
    ..BASE
};

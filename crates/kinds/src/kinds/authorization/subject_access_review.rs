//! `authorization.k8s.io/v1` SubjectAccessReview: may a user do this; never stored.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `subjectaccessreviews`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("authorization.k8s.io"),
    plural: text("subjectaccessreviews"),
    singular: text("subjectaccessreview"),
    kind: text("SubjectAccessReview"),
    scope: Scope::Cluster,
    verbs: texts!["create"],
    schema: text("io.k8s.api.authorization.v1.SubjectAccessReview"),
    stored: false,
    ..BASE
};

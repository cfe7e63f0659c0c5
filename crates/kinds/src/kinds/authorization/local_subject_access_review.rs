//! `authorization.k8s.io/v1` LocalSubjectAccessReview: may a user do this in one namespace; never stored.

use crate::base::{BASE, text, texts};
use crate::def::ResourceDef;

/// `localsubjectaccessreviews`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("authorization.k8s.io"),
    plural: text("localsubjectaccessreviews"),
    singular: text("localsubjectaccessreview"),
    kind: text("LocalSubjectAccessReview"),
    verbs: texts!["create"],
    schema: text("io.k8s.api.authorization.v1.LocalSubjectAccessReview"),
    stored: false,
    ..BASE
};
